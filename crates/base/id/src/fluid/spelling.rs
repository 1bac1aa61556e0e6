//! The alphabets of job ids: base58, words, emoji, and strict readers of numbers.

use std::sync::LazyLock;

use super::JobIdError;

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Words that stand for digits; the list goes on with seven that only short data uses.
const WORD_BASE: u64 = 1626;

/// Six words: three for each half of the number, the low half first.
const WORDS_PER_ID: usize = 6;

/// The emoji of RFC 19 in their order: its 576 digits.
static EMOJI: LazyLock<Vec<char>> =
    LazyLock::new(|| include_str!("emoji.txt").chars().filter(|c| *c != '\n').collect());

pub(super) fn base58(id: u64) -> String {
    digits(id, 58).into_iter().map(|digit| char::from(BASE58[digit])).collect()
}

pub(super) fn parse_base58(s: &str) -> Result<u64, JobIdError> {
    if s.is_empty() {
        return Err(JobIdError::F58);
    }
    number(58, s.bytes().map(|b| BASE58.iter().position(|&d| d == b).ok_or(JobIdError::F58)))
}

pub(super) fn emoji(id: u64) -> String {
    digits(id, EMOJI.len()).into_iter().map(|digit| EMOJI[digit]).collect()
}

pub(super) fn parse_emoji(s: &str) -> Result<u64, JobIdError> {
    number(
        EMOJI.len(),
        s.chars().map(|c| EMOJI.iter().position(|&d| d == c).ok_or(JobIdError::Emoji)),
    )
}

pub(super) fn words(id: u64) -> String {
    let mut text = String::with_capacity(48);
    for (half, part) in [id & 0xffff_ffff, id >> 32].into_iter().enumerate() {
        for (place, digit) in [part, part / WORD_BASE, part / (WORD_BASE * WORD_BASE)]
            .into_iter()
            .map(|rest| rest % WORD_BASE)
            .enumerate()
        {
            match (half, place) {
                (0, 0) => {}
                (_, 0) => text.push_str("--"),
                _ => text.push('-'),
            }
            // The remainder is below the length of the list, whose words are ASCII.
            let word = mnemonic::MN_WORDS[usize::try_from(digit).unwrap_or(0)];
            text.extend(word.iter().map(|&b| char::from(b)));
        }
    }
    text
}

pub(super) fn parse_words(s: &str) -> Result<u64, JobIdError> {
    let mut digits = [0u64; WORDS_PER_ID];
    let mut count = 0;
    for word in s.split('-').filter(|word| !word.is_empty()) {
        let place = digits.get_mut(count).ok_or(JobIdError::Words)?;
        let digit = mnemonic::MN_WORDS
            .iter()
            .zip(0..WORD_BASE)
            .find(|(known, _)| known.eq_ignore_ascii_case(word.as_bytes()))
            .ok_or(JobIdError::Words)?;
        *place = digit.1;
        count += 1;
    }
    if count != WORDS_PER_ID {
        return Err(JobIdError::Words);
    }
    let half = |d: &[u64]| {
        u32::try_from(d[0] + WORD_BASE * (d[1] + WORD_BASE * d[2])).map_err(|_| JobIdError::Range)
    };
    Ok(u64::from(half(&digits[..3])?) | (u64::from(half(&digits[3..])?) << 32))
}

pub(super) fn parse_dothex(s: &str) -> Result<u64, JobIdError> {
    let mut groups = s.split('.');
    let mut id = 0;
    for _ in 0..4 {
        let group = groups.next().filter(|group| group.len() == 4).ok_or(JobIdError::DotHex)?;
        id = id << 16 | parse_hex(group).map_err(|_| JobIdError::DotHex)?;
    }
    if groups.next().is_some() { Err(JobIdError::DotHex) } else { Ok(id) }
}

pub(super) fn parse_hex(s: &str) -> Result<u64, JobIdError> {
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(JobIdError::Hex);
    }
    u64::from_str_radix(s, 16).map_err(|_| JobIdError::Range)
}

pub(super) fn parse_decimal(s: &str) -> Result<u64, JobIdError> {
    if !s.bytes().all(|b| b.is_ascii_digit()) {
        return Err(JobIdError::Decimal);
    }
    s.parse().map_err(|_| JobIdError::Range)
}

/// The digits of a number, the most significant first; at least one.
fn digits(mut id: u64, base: usize) -> Vec<usize> {
    let base = base as u64;
    let mut digits = Vec::with_capacity(11);
    loop {
        // Below the base, so it fits.
        digits.push((id % base) as usize);
        id /= base;
        if id == 0 {
            digits.reverse();
            return digits;
        }
    }
}

/// The number of digits given most significant first.
fn number(
    base: usize,
    mut digits: impl Iterator<Item = Result<usize, JobIdError>>,
) -> Result<u64, JobIdError> {
    digits.try_fold(0u64, |id, digit| {
        id.checked_mul(base as u64)
            .and_then(|id| id.checked_add(digit.ok()? as u64))
            .ok_or(digit.err().unwrap_or(JobIdError::Range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_their_size() {
        assert_eq!(EMOJI.len(), 576);
        assert!(EMOJI.iter().all(|c| c.to_string().as_bytes().starts_with(&[0xf0, 0x9f])));
        assert_eq!(mnemonic::MN_WORDS.len(), 1633);
    }
}
