//! Output of a process on its way into messages.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flux_api::rexec::Io;
use flux_model::subprocess::WAIT_OUTPUT_MAX;

/// An `io` object with data: text where it is UTF-8 without NUL, else base64.
pub(crate) fn data(stream: &str, rank: &str, bytes: &[u8]) -> Io {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let (data, encoding) = match text {
        Some(text) => (text.to_owned(), None),
        None => (BASE64.encode(bytes), Some("base64".to_owned())),
    };
    Io { stream: stream.to_owned(), rank: rank.to_owned(), data: Some(data), encoding, eof: None }
}

/// An `io` object that ends a stream.
pub(crate) fn end(stream: &str, rank: &str) -> Io {
    let (stream, rank) = (stream.to_owned(), rank.to_owned());
    Io { stream, rank, data: None, encoding: None, eof: Some(true) }
}

/// How many bytes at the end begin a character whose rest has not come yet (0 to 3).
pub(crate) fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.len() - bytes.len().min(3);
    for at in (tail..bytes.len()).rev() {
        let Some(&byte) = bytes.get(at) else { return 0 };
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        return match std::str::from_utf8(rest) {
            Err(error) if error.error_len().is_none() => rest.len(),
            _ => 0,
        };
    }
    0
}

/// The newest output of a process without a client, within [`WAIT_OUTPUT_MAX`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    pieces: VecDeque<(String, Vec<u8>)>,
    size: usize,
}

impl Retained {
    pub(crate) fn push(&mut self, stream: &str, bytes: &[u8]) {
        let bytes = last_chars(bytes, WAIT_OUTPUT_MAX);
        match self.pieces.back_mut() {
            Some((last, piece)) if last == stream => piece.extend_from_slice(bytes),
            _ => self.pieces.push_back((stream.to_owned(), bytes.to_vec())),
        }
        self.size += bytes.len();
        while self.size > WAIT_OUTPUT_MAX {
            let Some((_, first)) = self.pieces.front_mut() else { return };
            let keep = last_chars(first, first.len().saturating_sub(self.size - WAIT_OUTPUT_MAX));
            let gone = first.len() - keep.len();
            self.size -= gone;
            if gone == first.len() {
                self.pieces.pop_front();
            } else {
                first.drain(..gone);
            }
        }
    }

    /// Takes what is there, oldest first.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (String, Vec<u8>)> + use<> {
        self.size = 0;
        std::mem::take(&mut self.pieces).into_iter()
    }
}

/// The last bytes, at most `max`, that do not begin within a character.
fn last_chars(bytes: &[u8], max: usize) -> &[u8] {
    if bytes.len() <= max {
        return bytes;
    }
    let cut = bytes.len() - max;
    let inner = bytes[cut..].iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    &bytes[cut + inner..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_cut() {
        assert_eq!(unfinished("a€".as_bytes()), 0);
        assert_eq!(unfinished(&"a€".as_bytes()[..3]), 2);
        assert_eq!(unfinished(&"😀".as_bytes()[..3]), 3);
        assert_eq!(unfinished(b"a\xff"), 0);
        assert_eq!(unfinished(b"\x80\x80\x80\x80"), 0);
        assert_eq!(unfinished(b""), 0);
    }

    #[test]
    fn binary_output_is_base64() {
        assert_eq!(data("stdout", "0", b"a\0").encoding.as_deref(), Some("base64"));
        assert_eq!(data("stdout", "0", b"\xff").data.as_deref(), Some("/w=="));
        assert_eq!(data("stdout", "0", "é".as_bytes()).data.as_deref(), Some("é"));
    }

    #[test]
    fn the_newest_output_is_kept() {
        let mut retained = Retained::default();
        retained.push("stdout", b"old");
        retained.push("stderr", &[b'x'; WAIT_OUTPUT_MAX - 1]);
        retained.push("stdout", b"new");
        let pieces: Vec<_> = retained.take().collect();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].1.len(), WAIT_OUTPUT_MAX - 3);
        assert_eq!(pieces[1], ("stdout".to_owned(), b"new".to_vec()));
        retained.push("stdout", "é".repeat(WAIT_OUTPUT_MAX).as_bytes());
        retained.push("stdout", b"x");
        let pieces: Vec<_> = retained.take().collect();
        assert_eq!(pieces[0].1.len(), WAIT_OUTPUT_MAX - 1);
        assert!(std::str::from_utf8(&pieces[0].1).is_ok());
    }
}
