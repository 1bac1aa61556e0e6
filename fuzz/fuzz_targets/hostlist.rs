//! Lists of hosts (RFC 29).
#![no_main]

use flux_id::Hostlist;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(list) = text.parse::<Hostlist>()
        && list.len() <= 4096
    {
        let again: Hostlist = list.to_string().parse().expect("what was printed parses");
        assert!(again.iter().eq(list.iter()), "{list} became {again}");
        let index = list.index();
        assert!(list.iter().all(|host| index.contains(&host)));
    }
});
