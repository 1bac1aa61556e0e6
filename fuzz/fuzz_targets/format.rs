//! Output formats of the commands.
#![no_main]

use flux_format::{Field, Format, RenderOptions, Utc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(format) = Format::parse(text) else { return };
    let headings = |_: &str| Some("NAME");
    let words = |_: &str| Some(Field::from("näme"));
    let numbers = |_: &str| Some(Field::Int(-3));
    let none = |_: &str| None;
    let _ = format.render(&headings, &[words], &Utc, RenderOptions::default());
    let _ = format.render(&headings, &[numbers], &Utc, RenderOptions::default());
    let _ = format.render(&none, &[words], &Utc, RenderOptions::default());
});
