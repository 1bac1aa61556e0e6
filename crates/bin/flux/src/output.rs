//! The only place that writes to standard output and standard error.
//!
//! A reader that has gone away (`flux ... | head`) is no error: what it does not read is dropped.

use std::io::{self, Write};

use serde_json::{Value, ser::Formatter};

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

/// Writes bytes as they are to standard output.
pub(crate) fn bytes(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text).and_then(|()| out.flush()).is_err() {
        // Nothing can be said to a reader that left.
    }
}

/// Writes bytes as they are to standard error.
pub(crate) fn error_bytes(text: &[u8]) {
    if std::io::stderr().lock().write_all(text).is_err() {
        // Without standard error there is nowhere to complain.
    }
}

/// Writes a line to standard error.
pub(crate) fn error_line(text: &str) {
    // In one piece, so that lines of several processes do not mix.
    if std::io::stderr().lock().write_all(format!("{text}\n").as_bytes()).is_err() {
        // Without standard error there is nowhere to complain.
    }
}

/// JSON with a blank after each comma and colon, as the script commands print it.
pub(crate) fn spaced_json(value: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Spaced);
    serde::Serialize::serialize(value, &mut serializer).expect("a value fits into memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// Writes a failure to standard error, as its style demands.
pub(crate) fn report(failure: &Failure) {
    for text in failure.lines() {
        error_line(&text);
    }
}
