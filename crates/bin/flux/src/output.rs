//! The only place that writes to standard output and standard error.
//!
//! A reader that has gone away (`flux ... | head`) is no error: what it does not read is dropped.

use std::io::Write;

use crate::failure::Failure;

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// Writes text as it is to standard output.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nothing can be said to a reader that left.
    }
}

/// Writes a line to standard error.
pub(crate) fn error_line(text: &str) {
    if writeln!(std::io::stderr().lock(), "{text}").is_err() {
        // Without standard error there is nowhere to complain.
    }
}

/// Writes a failure to standard error, as its style demands.
pub(crate) fn report(failure: &Failure) {
    for text in failure.lines() {
        error_line(&text);
    }
}
