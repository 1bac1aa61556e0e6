//! Splits the text of a directive into words.

use super::DirectiveError;

/// Splits `text` (what follows the sentinel on line `number`) into words; takes further lines from
/// `lines` when a triple quoted literal spans them.
pub(super) fn split<'a>(
    number: usize,
    text: &'a str,
    sentinel: &str,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<Vec<String>, DirectiveError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if let Some((quote, body)) = triple(rest) {
            let target = word.get_or_insert_default();
            if let Some((literal, tail)) = body.split_once(quote) {
                target.push_str(literal);
                rest = tail;
            } else if body.trim().is_empty() {
                // Nothing may follow the closing quote, so the directive ends with it.
                target.push_str(&spanning(number, quote, sentinel, lines)?);
                rest = "";
            } else {
                return Err(DirectiveError::OpeningNotLast { line: number, quote });
            }
            continue;
        }
        rest = match c {
            _ if c.is_whitespace() => {
                words.extend(word.take());
                after
            }
            '#' if word.is_none() => "",
            '\'' => {
                let Some((literal, tail)) = after.split_once('\'') else {
                    return Err(DirectiveError::Unclosed { line: number, quote: "'" });
                };
                word.get_or_insert_default().push_str(literal);
                tail
            }
            '"' => double_quoted(number, after, word.get_or_insert_default())?,
            '\\' => {
                let Some(escaped) = after.chars().next() else {
                    return Err(DirectiveError::Backslash { line: number });
                };
                word.get_or_insert_default().push(escaped);
                &after[escaped.len_utf8()..]
            }
            _ => {
                word.get_or_insert_default().push(c);
                after
            }
        };
    }
    words.extend(word);
    Ok(words)
}

/// The triple quote `text` starts with, and what follows it.
fn triple(text: &str) -> Option<(&'static str, &str)> {
    ["\"\"\"", "'''"].into_iter().find_map(|quote| Some((quote, text.strip_prefix(quote)?)))
}

/// Appends a double quoted part to `word`; returns what follows the closing quote.
fn double_quoted<'a>(
    number: usize,
    text: &'a str,
    word: &mut String,
) -> Result<&'a str, DirectiveError> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(&text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, next @ ('$' | '`' | '"' | '\\'))) => word.push(next),
                Some((_, next)) => word.extend(['\\', next]),
                None => break,
            },
            _ => word.push(c),
        }
    }
    Err(DirectiveError::Unclosed { line: number, quote: "\"" })
}

/// Reads the lines of a literal up to its closing quote and strips their common indentation.
fn spanning<'a>(
    number: usize,
    quote: &'static str,
    sentinel: &str,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<String, DirectiveError> {
    let mut body = Vec::new();
    for (line, text) in lines {
        let Some(text) = text.strip_prefix(sentinel) else {
            return Err(DirectiveError::NoSentinel { line, quote, sentinel: sentinel.to_owned() });
        };
        let Some((last, tail)) = text.split_once(quote) else {
            body.push(text);
            continue;
        };
        if !tail.trim().is_empty() {
            return Err(DirectiveError::ClosingNotLast { line, quote });
        }
        body.push(last);
        return Ok(dedent(&body));
    }
    Err(DirectiveError::Unclosed { line: number, quote })
}

/// Joins lines after removing the white space all non-blank ones start with; blank ones become
/// empty.
fn dedent(lines: &[&str]) -> String {
    let mut common: Option<&str> = None;
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let indent = &line[..line.len() - line.trim_start().len()];
        common = Some(common.map_or(indent, |old| {
            let same = old.char_indices().zip(indent.chars()).find(|((_, a), b)| a != b);
            match same {
                Some(((at, _), _)) => &old[..at],
                None if old.len() < indent.len() => old,
                None => indent,
            }
        }));
    }
    let cut = common.map_or(0, str::len);
    let stripped: Vec<&str> =
        lines.iter().map(|line| if line.trim().is_empty() { "" } else { &line[cut..] }).collect();
    stripped.join("\n")
}
