//! Signals by number, name and in words, as Linux counts them on x86, arm and riscv.

/// Names without `SIG`, and texts as strsignal(3) has them in the C locale, of signals 1 to 31.
const SIGNALS: [(&str, &str); 31] = [
    ("HUP", "Hangup"),
    ("INT", "Interrupt"),
    ("QUIT", "Quit"),
    ("ILL", "Illegal instruction"),
    ("TRAP", "Trace/breakpoint trap"),
    ("ABRT", "Aborted"),
    ("BUS", "Bus error"),
    ("FPE", "Floating point exception"),
    ("KILL", "Killed"),
    ("USR1", "User defined signal 1"),
    ("SEGV", "Segmentation fault"),
    ("USR2", "User defined signal 2"),
    ("PIPE", "Broken pipe"),
    ("ALRM", "Alarm clock"),
    ("TERM", "Terminated"),
    ("STKFLT", "Stack fault"),
    ("CHLD", "Child exited"),
    ("CONT", "Continued"),
    ("STOP", "Stopped (signal)"),
    ("TSTP", "Stopped"),
    ("TTIN", "Stopped (tty input)"),
    ("TTOU", "Stopped (tty output)"),
    ("URG", "Urgent I/O condition"),
    ("XCPU", "CPU time limit exceeded"),
    ("XFSZ", "File size limit exceeded"),
    ("VTALRM", "Virtual timer expired"),
    ("PROF", "Profiling timer expired"),
    ("WINCH", "Window changed"),
    ("IO", "I/O possible"),
    ("PWR", "Power failure"),
    ("SYS", "Bad system call"),
];

/// The last real-time signal.
const LAST: i32 = 64;
/// The first real-time signal that the C library leaves to programs.
const REALTIME: i32 = 34;

/// The number of a signal given as a number from 1 to 64, `USR1` or `SIGUSR1`, in any case.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=LAST).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    (1..).zip(SIGNALS).find_map(|(number, (known, _))| (known == name).then_some(number))
}

/// What a signal means, as strsignal(3) says it in the C locale.
#[must_use]
pub fn describe(signum: i32) -> String {
    let known = usize::try_from(signum).ok().and_then(|n| SIGNALS.get(n.checked_sub(1)?));
    match known {
        Some((_, text)) => (*text).to_string(),
        None if (REALTIME..=LAST).contains(&signum) => {
            format!("Real-time signal {}", signum - REALTIME)
        }
        None => format!("Unknown signal {signum}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_their_prefix_in_any_case() {
        for (text, signum) in
            [("HUP", 1), ("SIGKILL", 9), ("sigusr1", 10), ("term", 15), ("SYS", 31), ("64", 64)]
        {
            assert_eq!(number(text), Some(signum), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-9", "NOPE", "SIGSIGKILL", "9.0"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn every_number_has_words() {
        for (signum, text) in [
            (1, "Hangup"),
            (9, "Killed"),
            (15, "Terminated"),
            (31, "Bad system call"),
            (32, "Unknown signal 32"),
            (34, "Real-time signal 0"),
            (64, "Real-time signal 30"),
            (72, "Unknown signal 72"),
            (0, "Unknown signal 0"),
            (i32::MIN, "Unknown signal -2147483648"),
        ] {
            assert_eq!(describe(signum), text);
        }
    }
}
