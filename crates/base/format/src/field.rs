//! Values of fields and how each conversion prints them.

use std::{borrow::Cow, cmp::Ordering};

use crate::{
    number,
    parse::{Column, Conversion},
    spec::{Align, Spec},
    time::{TimeZone, strftime},
};

/// The value of one field of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// Nothing: an unset time, a queue of a job that has none.
    Empty,
    /// Text.
    Str(Cow<'a, str>),
    /// A number.
    Int(i64),
    /// A number beyond the range of [`Field::Int`], such as a decimal job id.
    Uint(u64),
    /// A number with a fraction.
    Float(f64),
    /// Seconds since the epoch; 0 means unset.
    Time(f64),
    /// Seconds.
    Duration(f64),
    /// `True` or `False`.
    Bool(bool),
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Self {
        Field::Str(Cow::Borrowed(text))
    }
}

impl From<String> for Field<'_> {
    fn from(text: String) -> Self {
        Field::Str(Cow::Owned(text))
    }
}

/// Something that has fields: a job, a set of nodes, a queue.
pub trait Row {
    /// The value of a field; `None` when there is no such field, which prints as empty.
    fn field(&self, name: &str) -> Option<Field<'_>>;
}

impl<F: Fn(&str) -> Option<Field<'static>>> Row for F {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        self(name)
    }
}

/// The headings of a command's fields.
pub trait Headings {
    /// The heading of a field; `None` when the command has no such field.
    fn heading(&self, field: &str) -> Option<&str>;
}

impl<F: Fn(&str) -> Option<&'static str>> Headings for F {
    fn heading(&self, field: &str) -> Option<&str> {
        self(field)
    }
}

impl Field<'_> {
    /// The value as seconds or as a plain number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Field::Int(i) => Some(*i as f64),
            Field::Uint(u) => Some(*u as f64),
            Field::Float(f) | Field::Time(f) | Field::Duration(f) => Some(*f),
            Field::Str(s) => s.trim().parse().ok(),
            Field::Empty | Field::Bool(_) => None,
        }
    }

    /// Order for sorting: nothing first, numbers by size, then text.
    pub fn compare(&self, other: &Field<'_>) -> Ordering {
        let class = |f: &Field<'_>| match f {
            Field::Empty => 0,
            Field::Str(_) => 2,
            _ => 1,
        };
        match (self, other) {
            (Field::Str(a), Field::Str(b)) => a.cmp(b),
            (Field::Bool(a), Field::Bool(b)) => a.cmp(b),
            (Field::Int(a), Field::Int(b)) => a.cmp(b),
            (Field::Uint(a), Field::Uint(b)) => a.cmp(b),
            _ => match (class(self), class(other)) {
                (1, 1) => {
                    let value = |f: &Field<'_>| f.number().unwrap_or(0.0);
                    value(self).total_cmp(&value(other))
                }
                (a, b) => a.cmp(&b),
            },
        }
    }

    /// The value as text, without any spec: integers in decimal, floats as Python writes them.
    pub fn plain(&self) -> Cow<'_, str> {
        match self {
            Field::Empty => Cow::Borrowed(""),
            Field::Str(s) => Cow::Borrowed(s),
            Field::Int(i) => Cow::Owned(i.to_string()),
            Field::Uint(u) => Cow::Owned(u.to_string()),
            Field::Float(f) | Field::Time(f) | Field::Duration(f) => Cow::Owned(number::repr(*f)),
            Field::Bool(true) => Cow::Borrowed("True"),
            Field::Bool(false) => Cow::Borrowed("False"),
        }
    }
}

/// Texts that stand for nothing: the `h` suffix shows them as `-`, and `?:` drops a column that
/// holds nothing else.
fn is_nothing(text: &str) -> bool {
    matches!(text.trim(), "" | "0s" | "0.0" | "0:00:00" | "1970-01-01T00:00:00")
}

/// Applies the conversion; the result is what the spec then formats.
fn convert<'a>(column: &Column, value: Field<'a>, zone: &dyn TimeZone) -> Field<'a> {
    let Some(conversion) = column.conversion else {
        return value;
    };
    let seconds = value.number();
    let text = match (conversion, seconds) {
        (Conversion::Text, _) => value.plain().into_owned(),
        (_, None) => return value,
        (Conversion::IsoTime, Some(t)) => time_text(t, "", zone),
        (Conversion::Strftime, Some(t)) => time_text(t, &column.strftime, zone),
        (Conversion::Fsd, Some(s)) => format_fsd(s),
        (Conversion::Hms, Some(s)) => format_hms(s),
        (Conversion::Percent, Some(s)) => format_percent(s),
    };
    Field::from(text)
}

fn time_text(seconds: f64, format: &str, zone: &dyn TimeZone) -> String {
    if seconds == 0.0 {
        return String::new();
    }
    let format = if format.is_empty() { "%FT%T" } else { format };
    zone.local(seconds).map(|local| strftime(format, &local, seconds)).unwrap_or_default()
}

/// One cell: converted, formatted by `spec`, padded.
pub(crate) fn cell(column: &Column, spec: &Spec, value: Field<'_>, zone: &dyn TimeZone) -> String {
    let value = convert(column, value, zone);
    if spec.dash && is_nothing(&value.plain()) {
        return spec.text("-", Align::Left);
    }
    match value {
        Field::Empty => spec.text("", Align::Left),
        Field::Str(text) => spec.text(&text, Align::Left),
        Field::Bool(_) => spec.text(&value.plain(), Align::Left),
        Field::Int(i) => number::int(spec, i.into()),
        Field::Uint(u) => number::int(spec, u.into()),
        Field::Float(f) | Field::Time(f) | Field::Duration(f) => number::float(spec, f),
    }
}

/// Whether a cell would show nothing, for `?:`. A plain integer 0 counts as something.
pub(crate) fn is_empty(column: &Column, value: Field<'_>, zone: &dyn TimeZone) -> bool {
    is_nothing(&convert(column, value, zone).plain())
}

/// Seconds as the commands show a duration: `0.032s`, `41.86s`, `1.5m`, `2h`, `3d`, `inf`.
/// Below a millisecond it is `0s`; below ten seconds there are three decimals, then four
/// significant digits.
pub fn format_fsd(seconds: f64) -> String {
    let general = |v: f64, unit: &str| format!("{}{unit}", number::general(v, 4, false));
    if seconds.is_infinite() && seconds > 0.0 {
        "inf".into()
    } else if seconds.is_nan() || seconds < 1e-3 {
        "0s".into()
    } else if seconds < 10.0 {
        format!("{seconds:.3}s")
    } else if seconds < 60.0 {
        general(seconds, "s")
    } else if seconds < 3600.0 {
        general(seconds / 60.0, "m")
    } else if seconds < 86400.0 {
        general(seconds / 3600.0, "h")
    } else {
        general(seconds / 86400.0, "d")
    }
}

/// Seconds as `h:mm:ss`, with `N days, ` before it from one day on. Negative is zero.
pub fn format_hms(seconds: f64) -> String {
    // A float to integer cast saturates, and NaN becomes 0.
    let whole = seconds.round() as u64;
    let (days, rest) = (whole / 86400, whole % 86400);
    let time = format!("{}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time}"),
        n => format!("{n} days, {time}"),
    }
}

/// A fraction as a percentage of at most five characters: `0%`, `4.25%`, `40.3%`, `100%`.
pub fn format_percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    let text = format!("{}%", number::general(percent, 3, false));
    if text.len() <= 5 || percent >= 1.0 { text } else { format!("{percent:.2}%") }
}
