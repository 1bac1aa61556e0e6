//! What a directory of the key-value store refers to: no bytes upset the walk of a collection.
#![no_main]

use flux_model::treeobj::{References, Treeobj};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert_eq!(References::of(data).is_ok(), Treeobj::decode(data).is_ok());
});
