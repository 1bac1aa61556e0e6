//! One host, and hosts with one prefix and consecutive numbers.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Digits at the end of a name that make its number; more of them belong to the prefix. Numbers
/// of 18 digits fit in 64 bits with room for one more.
const MAX_DIGITS: usize = 18;

/// Digits of a number without leading zeros.
fn natural(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// One host: prefix, number, and digits of the number with its leading zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) prefix: &'a str,
    pub(super) number: Option<(u64, usize)>,
    /// The shared form of the prefix, when the host comes from a run.
    shared: Option<&'a Arc<str>>,
}

impl<'a> Host<'a> {
    pub(super) fn split(name: &'a str) -> Self {
        let digits = name.bytes().rev().take(MAX_DIGITS).take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        // No digits, no number.
        let number = number.parse().ok().map(|number| (number, digits));
        Self { prefix, number, shared: None }
    }
}

impl Ord for Host<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let prefix = if std::ptr::eq(self.prefix, other.prefix) {
            Ordering::Equal
        } else {
            self.prefix.cmp(other.prefix)
        };
        prefix.then_with(|| self.number.cmp(&other.number))
    }
}

impl PartialOrd for Host<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Host<'_> {}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix)?;
        match self.number {
            Some((number, digits)) => write!(f, "{number:0digits$}"),
            None => Ok(()),
        }
    }
}

/// Consecutive numbers: `lo` to `hi`, each with at least `width` digits. The width is 1 unless
/// `lo` has leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) lo: u64,
    pub(super) hi: u64,
    pub(super) width: usize,
}

impl Span {
    fn new(lo: u64, hi: u64, width: usize) -> Self {
        Self { lo, hi, width: if natural(lo) < width { width } else { 1 } }
    }

    /// Whether this span prints alike with at least `width` digits.
    fn prints_with(&self, width: usize) -> bool {
        self.width == width || (self.width == 1 && natural(self.lo) >= width)
    }
}

/// Hosts with one prefix and consecutive numbers, or one host without a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) prefix: Arc<str>,
    pub(super) span: Option<Span>,
}

impl Run {
    /// The run of one host; it shares its prefix with `near` when that has the same.
    pub(super) fn one(host: &Host<'_>, near: Option<&Self>) -> Self {
        let prefix = match (host.shared, near) {
            (_, Some(near)) if *near.prefix == *host.prefix => Arc::clone(&near.prefix),
            (Some(shared), _) => Arc::clone(shared),
            _ => Arc::from(host.prefix),
        };
        let span = host.number.map(|(number, digits)| Span::new(number, number, digits));
        Self { prefix, span }
    }

    /// A run of the numbers `lo` to `hi` with at least `width` digits. None when a name would have
    /// more digits than a number holds, or when the prefix ends with a digit, which would be part
    /// of the number.
    pub(super) fn numbered(prefix: &Arc<str>, lo: u64, hi: u64, width: usize) -> Option<Self> {
        let fits = width <= MAX_DIGITS && natural(hi) <= MAX_DIGITS && lo <= hi;
        let whole = !prefix.ends_with(|c: char| c.is_ascii_digit());
        (fits && whole)
            .then(|| Self { prefix: Arc::clone(prefix), span: Some(Span::new(lo, hi, width)) })
    }

    /// How many hosts, at least one.
    pub(super) fn len(&self) -> usize {
        self.span.map_or(1, |span| {
            usize::try_from(span.hi - span.lo).map_or(usize::MAX, |n| n.saturating_add(1))
        })
    }

    /// Host number `offset`, which is below the length.
    pub(super) fn host(&self, offset: usize) -> Host<'_> {
        let number = self.span.map(|span| {
            let number = span.lo + offset as u64;
            (number, natural(number).max(span.width))
        });
        Host { prefix: &self.prefix, number, shared: Some(&self.prefix) }
    }

    /// Where in this run a host is.
    pub(super) fn position(&self, host: &Host<'_>) -> Option<usize> {
        let offset = match (self.span, host.number) {
            (None, None) => 0,
            (Some(span), Some((number, digits)))
                if span.lo <= number
                    && number <= span.hi
                    && digits == natural(number).max(span.width) =>
            {
                usize::try_from(number - span.lo).ok()?
            }
            _ => return None,
        };
        (*self.prefix == *host.prefix).then_some(offset)
    }

    /// The hosts from offset `from` up to but not including `to`.
    pub(super) fn slice(&self, from: usize, to: usize) -> Option<Self> {
        if from >= to {
            return None;
        }
        let span = self
            .span
            .map(|span| Span::new(span.lo + from as u64, span.lo + (to - 1) as u64, span.width));
        Some(Self { prefix: Arc::clone(&self.prefix), span })
    }

    /// Takes `next` on at the end if it goes on where this run ends.
    pub(super) fn extend(&mut self, next: &Self) -> bool {
        let (Some(span), Some(more)) = (&mut self.span, &next.span) else { return false };
        let follows = span.hi + 1 == more.lo && more.prints_with(span.width);
        if follows && *self.prefix == *next.prefix {
            span.hi = more.hi;
            return true;
        }
        false
    }

    /// Whether this run can stand in the brackets that `first` opens.
    pub(super) fn shares_brackets(&self, first: &Self) -> bool {
        match (self.span, first.span) {
            (Some(span), Some(opening)) => {
                span.prints_with(opening.width) && self.prefix == first.prefix
            }
            _ => false,
        }
    }

    /// `3` or `6-103`.
    pub(super) fn write_ids(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Span { lo, hi, width }) = self.span else { return Ok(()) };
        write!(f, "{lo:0width$}")?;
        if hi > lo { write!(f, "-{hi:0width$}") } else { Ok(()) }
    }
}
