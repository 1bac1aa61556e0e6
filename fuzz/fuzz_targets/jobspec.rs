//! Job specifications (RFC 14, RFC 25).
#![no_main]

use flux_model::jobspec::Jobspec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(jobspec) = Jobspec::parse(text) {
        let _ = (jobspec.request(), jobspec.ntasks(), jobspec.duration(), jobspec.name());
        let _ = jobspec.dependencies().count() + jobspec.environment().count();
        let again = Jobspec::from_value(jobspec.clone().into_value());
        assert_eq!(again.as_ref(), Ok(&jobspec));
    }
});
