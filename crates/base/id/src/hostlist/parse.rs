//! Reading the text of RFC 29.

use std::sync::Arc;

use super::run::Run;
use super::{Hostlist, HostlistError, MAX_HOSTS, MAX_NAME};

/// Whether a byte may stand in a host name.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'[' | b']' | b',')
}

/// Enough of a text to find it; the input may be long.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

pub(super) fn parse(s: &str) -> Result<Hostlist, HostlistError> {
    let mut list = Hostlist::new();
    let mut budget = MAX_TEXT;
    let mut rest = s;
    while !rest.is_empty() {
        let (expression, after) = split_expression(rest);
        rest = after;
        // An empty expression is an empty list.
        if !expression.is_empty() {
            parse_expression(expression, &mut list, &mut budget)?;
        }
    }
    Ok(list)
}

/// The text before the first comma outside brackets, and the text behind that comma.
fn split_expression(s: &str) -> (&str, &str) {
    let mut inside = false;
    for (at, byte) in s.bytes().enumerate() {
        match byte {
            b'[' => inside = true,
            b']' => inside = false,
            b',' if !inside => return (&s[..at], &s[at + 1..]),
            _ => {}
        }
    }
    (s, "")
}

fn parse_expression(s: &str, list: &mut Hostlist, budget: &mut usize) -> Result<(), HostlistError> {
    let brackets = || HostlistError::Brackets(excerpt(s));
    let name = |part: &str| match part {
        part if part.bytes().all(is_name_byte) => Ok(()),
        part if part.contains(['[', ']']) => Err(brackets()),
        _ => Err(HostlistError::Name(excerpt(s))),
    };
    let Some((prefix, tail)) = s.split_once('[') else {
        name(s)?;
        check_length(s)?;
        return list.push_name(s);
    };
    let (ids, suffix) = tail.split_once(']').ok_or_else(brackets)?;
    name(prefix)?;
    name(suffix)?;
    check_length(prefix)?;
    check_length(suffix)?;
    let prefix: Arc<str> = match &list.runs.last() {
        Some(last) if *last.prefix == *prefix => Arc::clone(&last.prefix),
        _ => Arc::from(prefix),
    };
    let mut padding = None;
    for part in ids.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bad = || HostlistError::Ids(excerpt(part));
        let (lo, hi) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
        if lo > hi {
            return Err(bad());
        }
        let own = if first.len() > 1 && first.starts_with('0') { first.len() } else { 1 };
        // The leading zeros of the first id hold for all; without any, each has its own.
        let padding = *padding.get_or_insert(own);
        let width = if padding > 1 { padding } else { own };
        let run = suffix.is_empty().then(|| Run::numbered(&prefix, lo, hi, width)).flatten();
        if let Some(run) = run {
            list.push_run(run)?;
            continue;
        }
        if hi - lo >= (MAX_HOSTS - list.len()) as u64 {
            return Err(HostlistError::TooMany);
        }
        // The number is not all of the trailing digits: each name is split, and perhaps kept, by
        // itself, so the bytes count. The last name is the longest.
        let longest = format!("{prefix}{hi:0width$}{suffix}");
        check_length(&longest)?;
        let bytes = ((hi - lo + 1) as usize).saturating_mul(longest.len());
        *budget = budget.checked_sub(bytes).ok_or(HostlistError::TooMany)?;
        for id in lo..=hi {
            list.push_name(&format!("{prefix}{id:0width$}{suffix}"))?;
        }
    }
    Ok(())
}

/// Bytes of the names that the ranges of one text may make when each name is kept by itself, as
/// those with a suffix are.
const MAX_TEXT: usize = 32 << 20;

/// Refuses a name that is too long.
pub(super) fn check_length(name: &str) -> Result<(), HostlistError> {
    if name.len() > MAX_NAME { Err(HostlistError::Name(excerpt(name))) } else { Ok(()) }
}

/// An id in brackets: digits that fit in 64 bits.
fn number(digits: &str) -> Option<u64> {
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // Far more digits than a host has are refused, as they would be padded to.
    (good && digits.len() <= 64).then(|| digits.parse().ok()).flatten()
}
