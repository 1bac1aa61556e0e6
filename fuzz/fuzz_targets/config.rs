//! Configuration files.
#![no_main]

use flux_host::config::parse_toml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = parse_toml(std::path::Path::new("fuzz.toml"), text);
});
