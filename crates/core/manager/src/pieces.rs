//! A signed request in pieces that other requests have, too.
//!
//! Most of a request is the environment of who submits, which is the same in all that he submits.
//! The store keeps equal pieces once; so a request is cut where its own text says, and the same
//! stretch is cut in the same places wherever it begins.

/// Least and greatest length of a piece in bytes.
const LEAST: usize = 256;
const MOST: usize = 1_024;

/// A piece ends where these bits of the hash are 0: once in 256 bytes after the least, since only
/// every fourth place is tried.
const ENDS: u64 = 0x3f << 40;

/// A number for each byte.
const fn gear(byte: u8) -> u64 {
    let mut z = (byte as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = gear(at as u8);
        at += 1;
    }
    table
};

/// The pieces of a text; one at least. The request is base64 behind a dot: there each piece is the
/// text of whole bytes.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let begin = text.find('.').map_or(0, |dot| dot + 1);
    let (mut start, mut hash) = (0, 0_u64);
    for (at, byte) in text.bytes().enumerate() {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(byte)]);
        let length = at + 1 - start;
        if at >= begin
            && (at + 1 - begin).is_multiple_of(4)
            && (length >= LEAST && hash & ENDS == 0 || length >= MOST)
            && let Some(piece) = text.get(start..=at)
        {
            pieces.push(piece);
            start = at + 1;
        }
    }
    // A short rest is no piece of its own.
    let rest = text.get(start..).unwrap_or_default();
    match pieces.pop() {
        Some(last) if rest.len() < LEAST / 4 => {
            pieces.push(text.get(start - last.len()..).unwrap_or(last));
        }
        Some(last) => pieces.extend([last, rest]),
        None => pieces.push(rest),
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_that_differ_a_little_share_most_pieces() {
        let environment: String =
            (0..400).map(|n| format!("VARIABLE_{n}=value{}", gear(n as u8))).collect();
        let mut seen = BTreeSet::new();
        let mut fresh = 0;
        for n in 0..100 {
            let text = format!("header.command {n} {environment} FLUX_JOB_CC={n} and the end");
            for piece in pieces(&text) {
                if seen.insert(piece.to_string()) && n > 0 {
                    fresh += piece.len();
                }
            }
        }
        assert!(environment.len() > 10_000);
        assert!(fresh / 99 < 3_000, "{}", fresh / 99);
    }

    proptest! {
        #[test]
        fn together_they_are_the_text(text in "[a-zA-Z0-9+/=.é]{0,6000}") {
            let pieces = pieces(&text);
            prop_assert_eq!(pieces.concat(), text.as_str());
            prop_assert!(pieces.len() == 1 || pieces.iter().all(|piece| piece.len() >= LEAST / 4));
        }
    }
}
