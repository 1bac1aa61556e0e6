//! Tree objects of the key-value store (RFC 11).
#![no_main]

use flux_model::treeobj::Treeobj;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(object) = Treeobj::decode(data) {
        let bytes = object.encode();
        assert_eq!(Treeobj::decode(&bytes).map(|again| again.encode()).ok(), Some(bytes));
    }
});
