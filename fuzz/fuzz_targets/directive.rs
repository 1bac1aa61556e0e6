//! Directives of batch scripts (RFC 36).
#![no_main]

use flux_model::directive::Directives;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(directives) = Directives::parse(text) {
        let _ = directives.options().count();
    }
});
