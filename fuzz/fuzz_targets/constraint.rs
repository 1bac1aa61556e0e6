//! Constraint objects (RFC 31).
#![no_main]

use flux_model::constraint::Constraint;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let leaf = |name: &str, values: &[Value]| Ok((name != "x").then_some(values.len()));
    if let Ok(constraint) = Constraint::decode(&value, leaf) {
        let _ = constraint.matches(|number| number % 2 == 0);
    }
});
