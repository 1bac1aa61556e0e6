//! The part of ZPL (ZeroMQ RFC 4) that certificate files use: sections with quoted entries.

/// Why a line is not ZPL; the line counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct ZplError {
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

/// One entry: section, name and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) section: String,
    pub(crate) name: String,
    pub(crate) value: String,
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"$-_@.&+/".contains(&b))
}

/// The value after the equals sign: quoted either way, or bare up to a comment.
fn value(text: &str) -> Option<&str> {
    let text = text.trim();
    let Some(quote) = text.chars().next().filter(|c| *c == '"' || *c == '\'') else {
        return Some(text.split('#').next().unwrap_or_default().trim_end());
    };
    let (value, rest) = text[1..].split_once(quote)?;
    let rest = rest.trim();
    (rest.is_empty() || rest.starts_with('#')).then_some(value)
}

/// The entries of `text` in order.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, ZplError> {
    let mut entries = Vec::new();
    let mut section: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let error = |what| ZplError { line: index + 1, what };
        let body = line.trim_start_matches(' ');
        let indent = line.len() - body.len();
        let body = body.trim_end();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        match indent {
            0 => {
                let name = body.split('#').next().unwrap_or_default().trim_end();
                if !is_name(name) {
                    return Err(error("expected the name of a section"));
                }
                section = Some(name.to_owned());
            }
            4 => {
                let section = section.clone().ok_or(error("entry outside of a section"))?;
                let (name, rest) = body.split_once('=').ok_or(error("expected name = value"))?;
                let name = name.trim_end();
                if !is_name(name) {
                    return Err(error("entry has an invalid name"));
                }
                let value = value(rest).ok_or(error("value is not quoted properly"))?;
                entries.push(Entry { section, name: name.to_owned(), value: value.to_owned() });
            }
            _ => return Err(error("entries are indented by 4 spaces")),
        }
    }
    Ok(entries)
}

/// Whether `name` and `value` can be written as an entry.
pub(crate) fn is_entry(name: &str, value: &str) -> bool {
    is_name(name)
        && !value.chars().any(char::is_control)
        && !(value.contains('"') && value.contains('\''))
}

/// Writes an entry that [`is_entry`] accepts.
pub(crate) fn write_entry(out: &mut String, name: &str, value: &str) {
    let quote = if value.contains('"') { '\'' } else { '"' };
    out.push_str("    ");
    out.push_str(name);
    out.push_str(" = ");
    out.push(quote);
    out.push_str(value);
    out.push(quote);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(section: &str, name: &str, value: &str) -> Entry {
        Entry { section: section.into(), name: name.into(), value: value.into() }
    }

    #[test]
    fn sections_comments_and_quotes_are_understood() {
        let text = "# c\n\nmetadata # x\n    a.b = \"v # '1'\"  # c\n    c='\"'\n    d = bare # c\ncurve\n    k = \"\"\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                entry("metadata", "a.b", "v # '1'"),
                entry("metadata", "c", "\""),
                entry("metadata", "d", "bare"),
                entry("curve", "k", ""),
            ]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for text in ["    a = \"b\"", "a\n   b = \"c\"", "a\n    b", "a\n    b = \"c", "é"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, text.lines().count(), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*|[ a\"'=#\n]*") {
            drop(parse(&text));
        }

        #[test]
        fn what_is_written_is_read(value in "[ -~é]{0,40}") {
            prop_assume!(is_entry("name", &value));
            let mut text = "metadata\n".to_owned();
            write_entry(&mut text, "name", &value);
            prop_assert_eq!(parse(&text).unwrap(), [entry("metadata", "name", &value)]);
        }
    }
}
