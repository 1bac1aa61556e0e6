//! Task maps (RFC 34).
#![no_main]

use flux_model::taskmap::Taskmap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for map in
        [text.parse::<Taskmap>().ok(), Taskmap::from_pmi(text).ok(), Taskmap::from_raw(text).ok()]
            .into_iter()
            .flatten()
    {
        let again = Taskmap::from_value(&map.to_value()).expect("what was written is valid");
        assert_eq!((again.ntasks(), again.nnodes()), (map.ntasks(), map.nnodes()));
        let _ = (map.node_of(0), map.tasks_of(0), map.to_pmi());
    }
});
