//! File archives (RFC 37).
#![no_main]

use flux_model::archive::{decode_archive, encode_archive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(value) = serde_json::from_str(text) else { return };
    if let Ok(files) = decode_archive(&value) {
        assert!(decode_archive(&encode_archive(&files)).is_ok());
    }
});
