//! One output stream of a task: bytes in, pieces out that may be recorded.

/// Longest line that is kept whole.
const LINE_MAX: usize = 1 << 20;

/// Cuts a stream into pieces: whole lines, or whatever came, but never within a character.
#[derive(Debug, Clone)]
pub struct Pieces {
    line_buffered: bool,
    held: Vec<u8>,
}

impl Pieces {
    /// A stream that has just begun.
    #[must_use]
    pub fn new(line_buffered: bool) -> Self {
        Self { line_buffered, held: Vec::new() }
    }

    /// Takes bytes and returns what is complete; empty when nothing is.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let end = if self.line_buffered {
            match self.held.iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if self.held.len() >= LINE_MAX => whole_characters(&self.held),
                None => 0,
            }
        } else {
            whole_characters(&self.held)
        };
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stream ended: what is left.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Length without a UTF-8 character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        let needed = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if bytes.len() - at < needed { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_kept_whole() {
        let mut pieces = Pieces::new(true);
        assert_eq!(pieces.feed(b"ab"), b"");
        assert_eq!(pieces.feed(b"c\nd\nxy"), b"abc\nd\n");
        assert_eq!(pieces.finish(), b"xy");
    }

    #[test]
    fn characters_are_kept_whole() {
        let mut pieces = Pieces::new(false);
        assert_eq!(pieces.feed(&"aß".as_bytes()[..2]), b"a");
        assert_eq!(pieces.feed(&"ß".as_bytes()[1..]), "ß".as_bytes());
        assert_eq!(pieces.feed(b"\xff"), b"\xff");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10),
            lines in any::<bool>(),
        ) {
            let mut pieces = Pieces::new(lines);
            let mut got = Vec::new();
            for chunk in &chunks {
                got.extend(pieces.feed(chunk));
            }
            got.extend(pieces.finish());
            prop_assert_eq!(got, chunks.concat());
        }
    }
}
