//! How a job ended, in words and as an exit status.

/// Texts of the signals 1 to 31, as strsignal(3) has them in the C locale.
const SIGNALS: [&str; 31] = [
    "Hangup",
    "Interrupt",
    "Quit",
    "Illegal instruction",
    "Trace/breakpoint trap",
    "Aborted",
    "Bus error",
    "Floating point exception",
    "Killed",
    "User defined signal 1",
    "Segmentation fault",
    "User defined signal 2",
    "Broken pipe",
    "Alarm clock",
    "Terminated",
    "Stack fault",
    "Child exited",
    "Continued",
    "Stopped (signal)",
    "Stopped",
    "Stopped (tty input)",
    "Stopped (tty output)",
    "Urgent I/O condition",
    "CPU time limit exceeded",
    "File size limit exceeded",
    "Virtual timer expired",
    "Profiling timer expired",
    "Window changed",
    "I/O possible",
    "Power failure",
    "Bad system call",
];

/// What a signal means.
pub(crate) fn strsignal(signum: i64) -> String {
    let known = usize::try_from(signum - 1).ok().and_then(|at| SIGNALS.get(at));
    known.map_or_else(|| format!("Unknown signal {signum}"), |text| (*text).to_owned())
}

/// The exit status for a wait(2) status: the exit code, or 128 and the signal.
pub(crate) fn exit_code(status: i64) -> i32 {
    let signal = status & 0x7f;
    let code = if signal == 0 { status >> 8 & 0xff } else { 128 + signal };
    i32::try_from(code).unwrap_or(1)
}

/// What to say about a wait(2) status; nothing about success.
pub(crate) fn describe(status: i64) -> Option<String> {
    let signal = status & 0x7f;
    if signal != 0 {
        return Some(format!("job shell {}", strsignal(signal)));
    }
    match status >> 8 & 0xff {
        0 => None,
        code @ 1..=128 => Some(format!("task(s) exited with exit code {code}")),
        code => Some(format!("task(s) {}", strsignal(code - 128))),
    }
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
            assert_eq!(exit_code(status), code);
            assert_eq!(describe(status).as_deref(), text);
        }
    }
}
