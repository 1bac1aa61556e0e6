//! From a format and rows to lines.

use unicode_width::UnicodeWidthStr;

use crate::{
    error::FormatError,
    field::{Field, Headings, Row, cell, is_empty},
    parse::{Column, Format, SortKey},
    spec::{Align, Spec},
    time::TimeZone,
};

/// How lines are produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderOptions {
    /// Print the line of headings first.
    pub header: bool,
    /// Remove blanks at the ends of lines. Most commands do; `flux resource list` does not.
    pub trim: bool,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions { header: true, trim: true }
    }
}

/// A format fitted to a set of rows: empty columns gone, widening ones widened.
pub struct Layout<'a> {
    parts: Vec<(&'a str, Option<(&'a Column, Spec)>)>,
    headings: &'a dyn Headings,
    zone: &'a dyn TimeZone,
    trim: bool,
}

impl Format {
    /// Fits the format to `rows`. With no rows no column is dropped.
    ///
    /// # Errors
    /// [`FormatError::UnknownField`], see [`Format::check`].
    pub fn layout<'a, R: Row>(
        &'a self,
        headings: &'a dyn Headings,
        rows: &[R],
        zone: &'a dyn TimeZone,
        trim: bool,
    ) -> Result<Layout<'a>, FormatError> {
        self.check(headings)?;
        let mut parts = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let Some(column) = &piece.column else {
                parts.push((piece.literal.as_str(), None));
                continue;
            };
            if column.droppable
                && rows.iter().all(|row| is_empty(column, value_of(row, column), zone))
            {
                continue;
            }
            let mut spec = column.spec.clone();
            if column.widens {
                let bare = Spec { width: 0, precision: text_precision(&spec), ..spec.clone() };
                let longest =
                    rows.iter().map(|r| cell(column, &bare, value_of(r, column), zone).width());
                spec.width = longest.max().unwrap_or(0).max(spec.width);
                if matches!(spec.kind, None | Some('s')) {
                    spec.precision = spec.precision.map(|p| p.max(spec.width));
                }
            }
            parts.push((piece.literal.as_str(), Some((column, spec))));
        }
        Ok(Layout { parts, headings, zone, trim })
    }

    /// All lines at once: headings (unless switched off), then a line for each row.
    ///
    /// # Errors
    /// As [`Format::layout`].
    pub fn render<R: Row>(
        &self,
        headings: &dyn Headings,
        rows: &[R],
        zone: &dyn TimeZone,
        options: RenderOptions,
    ) -> Result<Vec<String>, FormatError> {
        let layout = self.layout(headings, rows, zone, options.trim)?;
        let header = options.header.then(|| layout.header());
        Ok(header.into_iter().chain(rows.iter().map(|r| layout.line(r))).collect())
    }
}

fn value_of<'r, R: Row>(row: &'r R, column: &Column) -> Field<'r> {
    row.field(&column.field).unwrap_or(Field::Empty)
}

/// A widening column is never cut, so that its longest value decides.
fn text_precision(spec: &Spec) -> Option<usize> {
    spec.precision.filter(|_| !matches!(spec.kind, None | Some('s')))
}

impl Layout<'_> {
    /// The line of headings.
    pub fn header(&self) -> String {
        self.assemble(|column, spec| {
            let heading = self.headings.heading(&column.field).unwrap_or("");
            spec.for_heading().text(heading, Align::Left)
        })
    }

    /// The line of one row.
    pub fn line<R: Row>(&self, row: &R) -> String {
        self.assemble(|column, spec| cell(column, spec, value_of(row, column), self.zone))
    }

    fn assemble(&self, mut text: impl FnMut(&Column, &Spec) -> String) -> String {
        let mut line = String::new();
        for (literal, part) in &self.parts {
            line.push_str(literal);
            if let Some((column, spec)) = part {
                line.push_str(&text(column, spec));
            }
        }
        if self.trim {
            line.truncate(line.trim_end_matches(' ').len());
        }
        line
    }
}

/// Sorts rows by keys, the first one weighing most; equal rows keep their order.
pub fn sort_rows<R: Row>(rows: &mut [R], keys: &[SortKey]) {
    rows.sort_by(|a, b| {
        for key in keys {
            let left = a.field(&key.field).unwrap_or(Field::Empty);
            let right = b.field(&key.field).unwrap_or(Field::Empty);
            let order = left.compare(&right);
            let order = if key.descending { order.reverse() } else { order };
            if order.is_ne() {
                return order;
            }
        }
        std::cmp::Ordering::Equal
    });
}
