//! Reading a format string into pieces.

use crate::{error::FormatError, field::Headings, spec::Spec};

/// Longest format string accepted, in bytes.
const MAX_FORMAT: usize = 16 * 1024;

/// What is done to a value before the spec applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// `!s`, `!r`, `!a`: the value as text.
    Text,
    /// `!D`: ISO 8601 local time; nothing when unset.
    IsoTime,
    /// `!d`: a time printed by strftime.
    Strftime,
    /// `!F`: seconds as a Flux Standard Duration (RFC 23).
    Fsd,
    /// `!H`: seconds as `h:mm:ss`.
    Hms,
    /// `!P`: a fraction as a percentage of at most five characters.
    Percent,
}

/// One replacement field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name of the field, such as `annotations.sched.reason_pending`.
    pub field: String,
    /// Conversion, if any.
    pub conversion: Option<Conversion>,
    /// The strftime format of `!d`; empty means ISO 8601.
    pub strftime: String,
    /// The format spec.
    pub spec: Spec,
    /// `?:`: dropped when every value is empty.
    pub droppable: bool,
    /// `+:`: widened to the longest value.
    pub widens: bool,
}

/// A field and the literal text that stands before it (or literal text alone, at the end).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text printed before the field; it goes when the column is dropped.
    pub literal: String,
    /// The field; `None` only for text after the last field.
    pub column: Option<Column>,
}

/// One key of a `sort:` prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// Field to sort by.
    pub field: String,
    /// Largest first (`-KEY`).
    pub descending: bool,
}

/// A parsed output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub(crate) pieces: Vec<Piece>,
    sort: Vec<SortKey>,
}

impl Format {
    /// Parses a format string.
    ///
    /// # Errors
    /// Unbalanced braces, unknown conversions, unreadable specs, or an oversized string.
    /// Field names are not judged here, see [`Format::check`].
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        if text.len() > MAX_FORMAT {
            return Err(FormatError::TooLong(MAX_FORMAT));
        }
        let (sort, body) = split_sort(text);
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = body;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = rest.as_bytes()[at];
            let after = &rest[at + 1..];
            if after.as_bytes().first() == Some(&brace) {
                literal.push(char::from(brace));
                rest = &after[1..];
                continue;
            }
            if brace == b'}' {
                return Err(FormatError::StrayClose);
            }
            if after.is_empty() {
                return Err(FormatError::StrayOpen);
            }
            let end = after.find('}').ok_or(FormatError::Unclosed)?;
            let inner = &after[..end];
            if inner.contains('{') {
                return Err(FormatError::Nested(inner.to_owned()));
            }
            let position = body.len() - rest.len() + at;
            let (droppable, widens) = take_prefix(&mut literal);
            let column = column(inner, position, droppable, widens)?;
            pieces.push(Piece { literal: std::mem::take(&mut literal), column: Some(column) });
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece { literal, column: None });
        }
        Ok(Format { pieces, sort })
    }

    /// The columns in order.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.pieces.iter().filter_map(|p| p.column.as_ref())
    }

    /// Names of the fields in order; a field used twice is named twice.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.columns().map(|c| c.field.as_str())
    }

    /// The sort order given inside the format; empty when none was.
    pub fn sort_keys(&self) -> &[SortKey] {
        &self.sort
    }

    /// Refuses a format that uses a field the command does not have.
    ///
    /// # Errors
    /// [`FormatError::UnknownField`] naming the first such field or sort key.
    pub fn check(&self, headings: &dyn Headings) -> Result<(), FormatError> {
        let sorted = self.sort.iter().map(|k| k.field.as_str());
        match self.fields().chain(sorted).find(|f| headings.heading(f).is_none()) {
            Some(field) => Err(FormatError::UnknownField(field.to_owned())),
            None => Ok(()),
        }
    }

    /// The format without some fields. As with a dropped column, the text before such a field
    /// goes too; `flux resource status` drops its colour fields so when there is no colour.
    #[must_use]
    pub fn without(mut self, fields: &[&str]) -> Format {
        self.pieces.retain(|p| p.column.as_ref().is_none_or(|c| !fields.contains(&&*c.field)));
        self
    }
}

fn split_sort(text: &str) -> (Vec<SortKey>, &str) {
    let Some(rest) = text.strip_prefix("sort:") else {
        return (Vec::new(), text);
    };
    let (keys, body) = rest.split_once(' ').unwrap_or((rest, ""));
    (parse_sort(keys), body)
}

/// Reads `KEY[,-KEY2]`, the value of `--sort` and of a `sort:` prefix.
pub(crate) fn parse_sort(keys: &str) -> Vec<SortKey> {
    keys.split(',')
        .map(str::trim)
        .filter(|k| !k.is_empty() && *k != "-")
        .map(|k| match k.strip_prefix('-') {
            Some(field) => SortKey { field: field.to_owned(), descending: true },
            None => SortKey { field: k.to_owned(), descending: false },
        })
        .collect()
}

impl SortKey {
    /// Reads a list of sort keys as `--sort=KEY[,-KEY2]` takes it.
    pub fn parse_list(keys: &str) -> Vec<SortKey> {
        parse_sort(keys)
    }
}

fn take_prefix(literal: &mut String) -> (bool, bool) {
    for (prefix, found) in
        [("?+:", (true, true)), ("+?:", (true, true)), ("?:", (true, false)), ("+:", (false, true))]
    {
        if literal.ends_with(prefix) {
            literal.truncate(literal.len() - prefix.len());
            return found;
        }
    }
    (false, false)
}

fn column(
    inner: &str,
    position: usize,
    droppable: bool,
    widens: bool,
) -> Result<Column, FormatError> {
    let name_end = inner.find(['!', ':']).unwrap_or(inner.len());
    let (field, mut rest) = inner.split_at(name_end);
    if field.is_empty() {
        return Err(FormatError::NoName(position));
    }
    let mut conversion = None;
    if let Some(after) = rest.strip_prefix('!') {
        let end = after.find(':').unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        conversion = Some(match name {
            "s" | "r" | "a" => Conversion::Text,
            "D" => Conversion::IsoTime,
            "d" => Conversion::Strftime,
            "F" => Conversion::Fsd,
            "H" => Conversion::Hms,
            "P" => Conversion::Percent,
            other => return Err(FormatError::UnknownConversion(other.to_owned())),
        });
        rest = tail;
    }
    let whole = rest.strip_prefix(':').unwrap_or("");
    let (strftime, spec) = if conversion == Some(Conversion::Strftime) {
        whole.rsplit_once("::").unwrap_or((whole, ""))
    } else {
        ("", whole)
    };
    let spec = Spec::parse(spec)
        .ok_or_else(|| FormatError::Spec { field: field.to_owned(), spec: whole.to_owned() })?;
    Ok(Column {
        field: field.to_owned(),
        conversion,
        strftime: strftime.to_owned(),
        spec,
        droppable,
        widens,
    })
}
