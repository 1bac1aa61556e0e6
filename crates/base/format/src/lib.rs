//! The output format language of the Flux commands (`-o FORMAT`).
//!
//! A format is a template of `{field!conversion:spec}` replacement fields in the manner of
//! Python's `str.format`, with additions that make tables out of it: columns that vanish when
//! they would be empty (`?:`), widen to their content (`+:`), or do both (`?+:`); the
//! conversions `!D !d !F !H !P`; the spec suffixes `h` (a dash for nothing) and `+` (a mark for
//! what was cut); and a `sort:` prefix.
//!
//! The crate is pure: fields come from a [`Row`], headings from a [`Headings`], and the local
//! time from a [`TimeZone`].
//!
//! ```
//! use flux_format::{Field, Format, RenderOptions, Utc};
//! let format = Format::parse("{name:<6} {count:>5}").expect("a valid format");
//! let headings = |f: &str| match f { "name" => Some("NAME"), "count" => Some("COUNT"), _ => None };
//! let row = |f: &str| match f {
//!     "name" => Some(Field::from("disk")),
//!     "count" => Some(Field::Int(3)),
//!     _ => None,
//! };
//! let lines = format.render(&headings, &[row], &Utc, RenderOptions::default()).expect("known fields");
//! assert_eq!(lines, ["NAME   COUNT", "disk       3"]);
//! ```

mod error;
mod field;
mod named;
mod number;
mod parse;
mod render;
mod spec;
mod time;

pub use error::FormatError;
pub use field::{Field, Headings, Row, format_fsd, format_hms, format_percent};
pub use named::{FormatChoice, NamedFormat, NamedFormats};
pub use parse::{Column, Conversion, Format, Piece, SortKey};
pub use render::{Layout, RenderOptions, sort_rows};
pub use spec::{Align, Spec};
pub use time::{LocalTime, TimeZone, Utc, strftime};

#[cfg(test)]
mod tests;
