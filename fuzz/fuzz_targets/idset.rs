//! Sets of ids (RFC 22).
#![no_main]

use flux_id::Idset;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(set) = text.parse::<Idset>() {
        assert_eq!(set.to_string().parse::<Idset>().as_ref(), Ok(&set));
    }
});
