//! Durations (RFC 23).
#![no_main]

use flux_id::Fsd;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(fsd) = text.parse::<Fsd>() {
        let printed = fsd.to_string();
        assert!(printed.parse::<Fsd>().is_ok(), "{text} became {printed}");
    }
});
