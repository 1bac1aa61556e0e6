//! Resource sets (RFC 20).
#![no_main]

use flux_model::resource_set::ResourceSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(set) = ResourceSet::parse(text)
        && set.nnodes() <= 4096
    {
        let again = ResourceSet::from_value(&set.to_value()).expect("what was written is valid");
        assert!(again.same_resources(&set));
        assert!(set.diff(&set).is_empty() && set.contains(&again));
        let _ = set.summary();
    }
});
