//! Signed requests (RFC 15, RFC 39).
#![no_main]

use flux_model::sign::{unwrap, wrap_none};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(unwrapped) = unwrap(text)
    {
        let _ = unwrapped.verify_none(1000);
    }
    let wrapped = wrap_none(data, 1000);
    let unwrapped = unwrap(&wrapped).expect("what was wrapped unwraps");
    assert!(unwrapped.verify_none(1000).is_ok() && unwrapped.verify_none(1001).is_err());
});
