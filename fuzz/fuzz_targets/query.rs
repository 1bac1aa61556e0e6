//! Queries for constraints (RFC 35).
#![no_main]

use flux_model::constraint::query::{Syntax, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let syntax = Syntax {
        default: Some("properties"),
        aliases: &[("host", "hostlist"), ("rank", "ranks")],
        lists: &["properties"],
    };
    let _ = (parse(text, &syntax), parse(text, &Syntax::default()));
});
