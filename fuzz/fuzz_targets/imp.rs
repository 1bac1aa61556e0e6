//! What the privileged launcher reads: its input, its configuration, patterns of variables.
#![no_main]

use flux_privilege::config::Config;
use flux_privilege::environment::matches;
use flux_privilege::input::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(input) = Input::decode(data) {
        let mut wire = Vec::new();
        input.send(&mut wire).expect("memory can be written");
        assert_eq!(Input::receive(wire.as_slice()).expect("what was sent arrives"), input);
    }
    drop(Input::receive(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut config = Config::default();
    if config.add(text).is_ok() {
        assert!(config.run.values().all(|run| run.path.is_absolute()));
    }
    if let Ok(table) = text.parse::<toml::Table>() {
        drop(flux_sign::SignConfig::from_table(&table));
    }
    if let Some((pattern, name)) = text.split_once('\n') {
        let _ = matches(pattern, name);
    }
});
