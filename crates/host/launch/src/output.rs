//! What a shell says on its own stdout or stderr: the beginning of it is kept.

use flux_api::launch::OUTPUT_MAX;

/// Says that more was written.
const CUT: &str = "\n[the shell wrote more than is kept]\n";

/// One stream, as text.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// What is kept.
    pub(crate) text: String,
    /// The beginning of a character whose rest has not come.
    held: Vec<u8>,
    cut: bool,
}

impl Stream {
    /// Takes bytes; true when text was added.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        if self.cut {
            return false;
        }
        let before = self.text.len();
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        let rest = self.held.split_off(whole);
        let bytes = std::mem::replace(&mut self.held, rest);
        self.add(&bytes);
        self.text.len() > before
    }

    /// The stream has ended.
    pub(crate) fn end(&mut self) -> bool {
        let before = self.text.len();
        let bytes = std::mem::take(&mut self.held);
        if !self.cut {
            self.add(&bytes);
        }
        self.text.len() > before
    }

    fn add(&mut self, bytes: &[u8]) {
        self.text.push_str(&String::from_utf8_lossy(bytes));
        if self.text.len() > OUTPUT_MAX {
            let mut end = OUTPUT_MAX;
            while !self.text.is_char_boundary(end) {
                end -= 1;
            }
            self.text.truncate(end);
            self.text.push_str(CUT);
            self.cut = true;
        }
    }

    /// Text from a position on; nothing when that is beyond the end or within a character.
    pub(crate) fn after(&self, offset: u64) -> &str {
        usize::try_from(offset).ok().and_then(|at| self.text.get(at..)).unwrap_or_default()
    }

    /// Bytes of text.
    pub(crate) fn offset(&self) -> u64 {
        self.text.len() as u64
    }
}

/// How many bytes at the end begin a character whose rest has not come yet (0 to 3).
fn unfinished(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        let Some(rest) = bytes.get(at..) else { return 0 };
        if rest.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
            continue;
        }
        return match std::str::from_utf8(rest) {
            Err(error) if error.error_len().is_none() => rest.len(),
            _ => 0,
        };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole_and_the_beginning_is_kept() {
        let mut stream = Stream::default();
        for byte in "a€b".bytes() {
            stream.push(&[byte]);
        }
        assert_eq!(stream.text, "a€b");
        assert_eq!((stream.after(1), stream.after(2), stream.after(99)), ("€b", "", ""));
        assert!(!stream.push(&[0xe2]));
        assert!(stream.end());
        assert_eq!(stream.text, "a€b\u{fffd}");
        stream.push("é".repeat(OUTPUT_MAX).as_bytes());
        let length = stream.offset();
        assert!(stream.text.ends_with(CUT) && !stream.push(b"more"));
        assert_eq!(stream.offset(), length);
    }
}
