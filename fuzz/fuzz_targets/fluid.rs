//! Job ids in all their forms (RFC 19).
#![no_main]

use flux_id::{JobId, JobIdForm};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<JobId>() {
        for (name, form) in JobIdForm::ALL {
            assert_eq!(id.format(form).parse::<JobId>(), Ok(id), "{name}");
        }
    }
});
