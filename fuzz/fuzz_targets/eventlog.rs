//! Event logs (RFC 18) and what they say of a job (RFC 21).
#![no_main]

use flux_model::eventlog::Eventlog;
use flux_model::job_event::JobStatus;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(log) = Eventlog::parse(text) {
        let again = Eventlog::parse(&log.encode()).expect("what was encoded parses");
        assert_eq!(again.events().len(), log.events().len());
        let _ = JobStatus::replay(log.events()).map(|status| status.result());
    }
});
