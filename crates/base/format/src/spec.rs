//! The part of a field after the colon: fill, alignment, sign, width, precision, type.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Where the padding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// `<`: text left, padding right.
    Left,
    /// `>`: text right, padding left.
    Right,
    /// `^`: padding on both sides.
    Center,
    /// `=`: padding between the sign and the digits.
    Sign,
}

/// Widest column and finest precision accepted; a larger number is a mistake, not a table.
pub(crate) const MAX_WIDTH: usize = 65_536;

/// A parsed format spec with the two suffixes of Flux.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spec {
    /// Padding character; blank when absent.
    pub fill: Option<char>,
    /// Alignment; numbers go right and everything else left when absent.
    pub align: Option<Align>,
    /// `+`, `-` or blank: which sign a number gets.
    pub sign: Option<char>,
    /// `#`: prefix of the base.
    pub alternate: bool,
    /// Digit group separator, `,` or `_`.
    pub group: Option<char>,
    /// Least number of display columns.
    pub width: usize,
    /// Most display columns of text, or digits of a number.
    pub precision: Option<usize>,
    /// Presentation type, such as `s`, `d`, `f`.
    pub kind: Option<char>,
    /// Suffix `h`: nothing is shown as `-`.
    pub dash: bool,
    /// Suffix `+`: a cut value ends with `+`.
    pub mark: bool,
}

impl Spec {
    /// Reads a spec; `None` when it does not follow the grammar or a number is out of range.
    pub fn parse(text: &str) -> Option<Spec> {
        let mut spec = Spec::default();
        let mut body = text;
        loop {
            if !spec.dash
                && let Some(rest) = body.strip_suffix('h')
            {
                (spec.dash, body) = (true, rest);
            } else if !spec.mark
                && let Some(rest) = body.strip_suffix('+')
            {
                (spec.mark, body) = (true, rest);
            } else {
                break;
            }
        }
        let mut chars = body.chars().peekable();
        let mut ahead = body.chars();
        let (first, second) = (ahead.next(), ahead.next());
        if let Some(align) = second.and_then(align_of) {
            spec.fill = first;
            spec.align = Some(align);
            chars.nth(1);
        } else if let Some(align) = first.and_then(align_of) {
            spec.align = Some(align);
            chars.next();
        }
        spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
        spec.alternate = chars.next_if_eq(&'#').is_some();
        if chars.next_if_eq(&'0').is_some() && spec.align.is_none() {
            spec.fill = Some('0');
            spec.align = Some(Align::Sign);
        }
        spec.width = number(&mut chars)?.unwrap_or(0);
        spec.group = chars.next_if(|c| matches!(c, ',' | '_'));
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars)??);
        }
        spec.kind = chars.next();
        let known = spec.kind.is_none_or(|k| "bcdeEfFgGnosxX%".contains(k));
        (known && chars.next().is_none()).then_some(spec)
    }

    /// The same spec for a heading: text, so that a number's precision does not cut it.
    pub(crate) fn for_heading(&self) -> Spec {
        let text = matches!(self.kind, None | Some('s'));
        Spec {
            kind: None,
            sign: None,
            group: None,
            alternate: false,
            dash: false,
            mark: false,
            precision: self.precision.filter(|_| text),
            align: self.align.map(|a| if a == Align::Sign { Align::Right } else { a }),
            fill: self.fill.filter(|f| *f != '0'),
            ..self.clone()
        }
    }

    /// Cuts text to the precision and pads it to the width. `default` is the alignment of a
    /// value that asks for none.
    pub(crate) fn text(&self, value: &str, default: Align) -> String {
        let limit = self.precision.unwrap_or(usize::MAX);
        let width = value.width();
        if width <= limit {
            return self.pad(value, width, default);
        }
        let mark = self.mark && limit > 0;
        let (kept, mut used) = cut(value, limit - usize::from(mark));
        let mut out = kept.to_owned();
        if mark {
            out.push('+');
            used += 1;
        }
        self.pad(&out, used, default)
    }

    /// Pads finished text that is `width` columns wide.
    pub(crate) fn pad(&self, value: &str, width: usize, default: Align) -> String {
        let missing = self.width.saturating_sub(width);
        if missing == 0 {
            return value.to_owned();
        }
        let fill = self.fill.unwrap_or(' ');
        let before = match self.align.unwrap_or(default) {
            Align::Left => 0,
            Align::Right | Align::Sign => missing,
            Align::Center => missing / 2,
        };
        let mut out = String::with_capacity(value.len() + missing);
        out.extend(std::iter::repeat_n(fill, before));
        out.push_str(value);
        out.extend(std::iter::repeat_n(fill, missing - before));
        out
    }
}

fn align_of(c: char) -> Option<Align> {
    Some(match c {
        '<' => Align::Left,
        '>' => Align::Right,
        '^' => Align::Center,
        '=' => Align::Sign,
        _ => return None,
    })
}

/// `None`: out of range. `Some(None)`: no digits here.
fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Option<usize>> {
    let mut value = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let next = value.unwrap_or(0usize) * 10 + digit as usize;
        if next > MAX_WIDTH {
            return None;
        }
        value = Some(next);
    }
    Some(value)
}

/// The longest beginning of `value` that is at most `limit` columns wide, and its width.
fn cut(value: &str, limit: usize) -> (&str, usize) {
    let mut used = 0;
    for (at, c) in value.char_indices() {
        let w = c.width().unwrap_or(0);
        if used + w > limit {
            return (&value[..at], used);
        }
        used += w;
    }
    (value, used)
}
