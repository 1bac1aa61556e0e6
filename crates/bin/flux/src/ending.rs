//! How a job ended, in words.

use flux_model::{signal, wait_status};

/// What to say about a wait(2) status; nothing about success.
pub(crate) fn describe(status: i32) -> Option<String> {
    match (wait_status::signal(status), wait_status::code(status)) {
        (Some(signum), _) => Some(format!("job shell {}", signal::describe(signum))),
        (None, 0) => None,
        (None, code @ 1..=128) => Some(format!("task(s) exited with exit code {code}")),
        (None, code) => Some(format!("task(s) {}", signal::describe(code - 128))),
    }
}

/// A wait(2) status as a broker tells it; one that can be none counts as exit code 1.
pub(crate) fn status_of(told: i64) -> i32 {
    i32::try_from(told).unwrap_or(1 << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_codes_and_texts() {
        for (status, code, text) in [
            (0, 0, None),
            (7 << 8, 7, Some("task(s) exited with exit code 7")),
            (36608, 143, Some("task(s) Terminated")),
            (36352, 142, Some("task(s) Alarm clock")),
            (9, 137, Some("job shell Killed")),
            (128 << 8, 128, Some("task(s) exited with exit code 128")),
            (200 << 8, 200, Some("task(s) Unknown signal 72")),
        ] {
            assert_eq!(wait_status::exit_code(status), code);
            assert_eq!(describe(status).as_deref(), text);
        }
    }
}
