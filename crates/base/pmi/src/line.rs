//! Lines of `key=value` tuples, and cutting a byte stream into lines.

use std::fmt::{self, Write as _};

/// Longest line in bytes without its newline. A `put` of the longest key and value needs less
/// than a third of it; arguments of a spawn may be longer than values.
pub const MAX_LINE: usize = 4096;

/// Most tuples in a line.
const MAX_PAIRS: usize = 64;

/// Why bytes are not a line of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Longer than [`MAX_LINE`].
    #[error("pmi line exceeds {MAX_LINE} bytes")]
    TooLong,
    /// Not UTF-8, or with a NUL.
    #[error("pmi line is not text")]
    NotText,
    /// A word that belongs to no key.
    #[error("pmi line does not consist of key=value pairs")]
    NoPair,
    /// More than 64 tuples.
    #[error("pmi line has too many key=value pairs")]
    TooManyPairs,
}

/// A parsed line.
///
/// `value`, `msg` and the message of an abort are texts with blanks: they take the rest of the
/// line, but `msg` ends at a key that servers put after it. Words without `=` belong to the key
/// before them. Tuples come in any order; of several with the same key the first counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

/// Keys whose value is the rest of the line.
const REST_KEYS: [&str; 3] = ["value", "error_msg", "message"];
/// What ends the text of `msg`.
const AFTER_MSG: [&str; 5] = ["value", "port", "rc", "cmd", "exitcode"];

fn blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

impl<'a> Line<'a> {
    /// Parses a line, with or without its newline. An empty line has no pairs.
    ///
    /// # Errors
    /// When the line is too long, has a NUL, has too many pairs, or begins with a word that is no
    /// pair.
    pub fn parse(text: &'a str) -> Result<Line<'a>, LineError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.len() > MAX_LINE {
            return Err(LineError::TooLong);
        }
        if text.contains(['\0', '\n']) {
            return Err(LineError::NotText);
        }
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        // Where the value of the pair being read begins, and how far it is known to go.
        let mut open: Option<(&str, usize, usize)> = None;
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let skipped = rest.len() - rest.trim_start_matches(blank).len();
            if skipped > 0 {
                at += skipped;
                continue;
            }
            let word = rest.split(blank).next().unwrap_or(rest);
            let pair = word.split_once('=').filter(|(key, _)| !key.is_empty());
            let in_msg = open.is_some_and(|(key, ..)| key == "msg");
            match pair {
                Some((key, _)) if !in_msg || AFTER_MSG.contains(&key) => {
                    if let Some((key, from, to)) = open.take() {
                        pairs.push((key, &text[from..to]));
                    }
                    if pairs.len() == MAX_PAIRS {
                        return Err(LineError::TooManyPairs);
                    }
                    let from = at + key.len() + 1;
                    if REST_KEYS.contains(&key) {
                        pairs.push((key, &text[from..]));
                        return Ok(Line { pairs });
                    }
                    open = Some((key, from, at + word.len()));
                }
                _ => match &mut open {
                    Some((_, _, to)) => *to = at + word.len(),
                    None => return Err(LineError::NoPair),
                },
            }
            at += word.len();
        }
        pairs.extend(open.map(|(key, from, to)| (key, &text[from..to])));
        Ok(Line { pairs })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    /// The value of a key as an unsigned number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u32> {
        self.get(key)?.parse().ok()
    }

    /// The `rc` key; 0 when it is missing, −1 when it is no number.
    #[must_use]
    pub fn rc(&self) -> i32 {
        self.get("rc").map_or(0, |text| text.parse().unwrap_or(-1))
    }

    /// The `cmd` key; empty when it is missing.
    #[must_use]
    pub fn cmd(&self) -> &'a str {
        self.get("cmd").unwrap_or_default()
    }
}

/// Text that is safe inside a line: characters that would end it become blanks.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            f.write_char(if c.is_control() && c != '\t' { ' ' } else { c })?;
        }
        Ok(())
    }
}

/// Collects bytes until they make a line. Holds at most one line beyond what it is given.
#[derive(Debug, Clone, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl LineBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> LineBuffer {
        LineBuffer::default()
    }

    /// Appends received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next complete line, without its newline; nothing when more bytes are needed.
    ///
    /// # Errors
    /// When the line exceeds [`MAX_LINE`] or is not UTF-8. The stream is of no use afterwards.
    pub fn next_line(&mut self) -> Result<Option<String>, LineError> {
        let pending = &self.bytes[self.taken..];
        let Some(len) = pending.iter().take(MAX_LINE + 1).position(|b| *b == b'\n') else {
            return if pending.len() > MAX_LINE { Err(LineError::TooLong) } else { Ok(None) };
        };
        let line = std::str::from_utf8(&pending[..len]).map_err(|_| LineError::NotText)?.to_owned();
        self.taken += len + 1;
        Ok(Some(line))
    }
}
