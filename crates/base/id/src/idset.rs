//! Sets of ids, RFC 22: `0-3,7`.
//!
//! A set is kept as runs of consecutive ids, so `0-4294967295` costs as much as `0`. Inserting and
//! removing is logarithmic in the number of runs; the operations on two sets are linear in their
//! runs. Only [`Idset::expand`] and collecting [`Idset::ids`] cost one step per id.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a string is no idset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdsetError {
    /// One bracket is missing, or one stands inside.
    #[error("invalid idset: unbalanced brackets")]
    Brackets,
    /// A part between commas is neither an id nor a range of ids.
    #[error("invalid idset: '{0}' is not an id or range")]
    Syntax(String),
    /// An id begins with a zero that it does not need.
    #[error("invalid idset: '{0}' has a leading zero")]
    LeadingZero(String),
    /// An id above 4294967295.
    #[error("invalid idset: '{0}' is out of range")]
    Range(String),
    /// A range whose end is below its start.
    #[error("invalid idset: '{0}' is a descending range")]
    Descending(String),
    /// An id that is not above those before it.
    #[error("invalid idset: '{0}' is not in ascending order")]
    Order(String),
    /// More ids than the caller is ready to take.
    #[error("idset has {len} ids, more than the limit of {limit}")]
    TooMany {
        /// How many the set has.
        len: u64,
        /// How many were allowed.
        limit: u64,
    },
}

/// A set of ids from 0 to 4294967295; a string in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Idset {
    /// First id of each run to its last; runs neither overlap nor touch.
    runs: BTreeMap<u32, u32>,
    len: u64,
}

/// The number of ids of a run.
fn span(lo: u32, hi: u32) -> u64 {
    u64::from(hi) - u64::from(lo) + 1
}

impl Idset {
    /// The empty set.
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new(), len: 0 }
    }

    /// The ids of `range`; empty when the range is.
    pub fn from_range(range: RangeInclusive<u32>) -> Self {
        let mut set = Self::new();
        set.insert_range(range);
        set
    }

    /// The first `count` ids from 0.
    pub fn first_n(count: u32) -> Self {
        count.checked_sub(1).map_or_else(Self::new, |last| Self::from_range(0..=last))
    }

    /// Builds a set from runs in ascending order that may touch but not overlap.
    fn from_runs(sorted: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (lo, hi) in sorted {
            match merged.last_mut() {
                Some(last) if last.1 >= lo || last.1 + 1 == lo => last.1 = last.1.max(hi),
                _ => merged.push((lo, hi)),
            }
        }
        let len = merged.iter().map(|&(lo, hi)| span(lo, hi)).sum();
        Self { runs: merged.into_iter().collect(), len }
    }

    /// How many ids there are; up to 4294967296.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `id` is a member.
    pub fn contains(&self, id: u32) -> bool {
        self.runs.range(..=id).next_back().is_some_and(|(_, &hi)| id <= hi)
    }

    /// The least id.
    pub fn first(&self) -> Option<u32> {
        self.runs.first_key_value().map(|(&lo, _)| lo)
    }

    /// The greatest id.
    pub fn last(&self) -> Option<u32> {
        self.runs.last_key_value().map(|(_, &hi)| hi)
    }

    /// The least id above `id`.
    pub fn next(&self, id: u32) -> Option<u32> {
        let after = id.checked_add(1)?;
        if self.contains(after) {
            return Some(after);
        }
        self.runs.range(after..).next().map(|(&lo, _)| lo)
    }

    /// The greatest id below `id`.
    pub fn prev(&self, id: u32) -> Option<u32> {
        let before = id.checked_sub(1)?;
        self.runs.range(..=before).next_back().map(|(_, &hi)| hi.min(before))
    }

    /// Adds `id`; true when it was not there.
    pub fn insert(&mut self, id: u32) -> bool {
        let before = self.len;
        self.insert_range(id..=id);
        self.len != before
    }

    /// Adds every id of `range`.
    pub fn insert_range(&mut self, range: RangeInclusive<u32>) {
        let (mut lo, mut hi) = range.into_inner();
        if lo > hi {
            return;
        }
        if let Some((&start, &end)) = self.runs.range(..=lo).next_back() {
            if end >= hi {
                return;
            }
            if u64::from(end) + 1 >= u64::from(lo) {
                lo = start;
            }
        }
        // Fold in every run that the new one overlaps or touches.
        while let Some((&start, &end)) = self.runs.range(lo..).next() {
            if u64::from(start) > u64::from(hi) + 1 {
                break;
            }
            self.runs.remove(&start);
            self.len -= span(start, end);
            hi = hi.max(end);
        }
        self.runs.insert(lo, hi);
        self.len += span(lo, hi);
    }

    /// Takes `id` out; true when it was there.
    pub fn remove(&mut self, id: u32) -> bool {
        let before = self.len;
        self.remove_range(id..=id);
        self.len != before
    }

    /// Takes every id of `range` out.
    pub fn remove_range(&mut self, range: RangeInclusive<u32>) {
        let (lo, hi) = range.into_inner();
        if lo > hi {
            return;
        }
        // From the back: each run found here is cut or gone, so it is not found again.
        while let Some((&start, &end)) = self.runs.range(..=hi).next_back() {
            if end < lo {
                return;
            }
            self.runs.remove(&start);
            self.len -= span(start, end);
            if end > hi {
                self.runs.insert(hi + 1, end);
                self.len += span(hi + 1, end);
            }
            if start < lo {
                self.runs.insert(start, lo - 1);
                self.len += span(start, lo - 1);
                return;
            }
        }
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Takes the least id out and gives it.
    pub fn pop_first(&mut self) -> Option<u32> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// The runs of consecutive ids in ascending order; no two touch.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u32>> + Clone + '_ {
        self.runs.iter().map(|(&lo, &hi)| lo..=hi)
    }

    /// How many runs there are: what operations cost.
    pub fn range_count(&self) -> usize {
        self.runs.len()
    }

    /// The ids in ascending order, lazily; see [`Idset::len`] before collecting.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = u32> + Clone + '_ {
        self.ranges().flatten()
    }

    /// The ids as a list, refused when there are more than `limit`.
    pub fn expand(&self, limit: u64) -> Result<Vec<u32>, IdsetError> {
        if self.len > limit {
            return Err(IdsetError::TooMany { len: self.len, limit });
        }
        Ok(self.ids().collect())
    }

    /// The `n` least ids, or all when there are fewer.
    pub fn take(&self, n: u64) -> Self {
        let mut left = n;
        let mut out = Vec::new();
        for (&lo, &hi) in &self.runs {
            if left == 0 {
                break;
            }
            let count = span(lo, hi).min(left);
            // `count - 1` is at most `hi - lo`, which fits.
            out.push((lo, lo + u32::try_from(count - 1).unwrap_or(hi - lo)));
            left -= count;
        }
        Self::from_runs(out)
    }

    /// The ids of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.pairs().peekable(), other.pairs().peekable());
        Self::from_runs(std::iter::from_fn(move || match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.0 <= y.0 => a.next(),
            (_, Some(_)) => b.next(),
            (_, None) => a.next(),
        }))
    }

    /// The ids of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::from_runs(self.common(other))
    }

    /// The ids of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut cuts = other.pairs().peekable();
        let mut out = Vec::new();
        for (lo, hi) in self.pairs() {
            let mut from = Some(lo);
            while let Some(start) = from {
                // A cut that ends before this id can touch nothing any more.
                while cuts.next_if(|cut| cut.1 < start).is_some() {}
                match cuts.peek() {
                    Some(&(cut_lo, cut_hi)) if cut_lo <= hi => {
                        if cut_lo > start {
                            out.push((start, cut_lo - 1));
                        }
                        from = cut_hi.checked_add(1).filter(|&next| next <= hi);
                    }
                    _ => {
                        out.push((start, hi));
                        from = None;
                    }
                }
            }
        }
        Self::from_runs(out)
    }

    /// Adds the ids of `other`: cheap when `other` has few runs.
    pub fn insert_all(&mut self, other: &Self) {
        if other.runs.len() > self.runs.len() / 4 {
            *self = self.union(other);
        } else {
            for range in other.ranges() {
                self.insert_range(range);
            }
        }
    }

    /// Takes the ids of `other` out: cheap when `other` has few runs.
    pub fn remove_all(&mut self, other: &Self) {
        if other.runs.len() > self.runs.len() / 4 {
            *self = self.difference(other);
        } else {
            for range in other.ranges() {
                self.remove_range(range);
            }
        }
    }

    /// Whether every id is also in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        if self.len > other.len {
            return false;
        }
        let mut outer = other.pairs().peekable();
        self.pairs().all(|(lo, hi)| {
            while outer.next_if(|run| run.1 < lo).is_some() {}
            outer.peek().is_some_and(|run| run.0 <= lo && hi <= run.1)
        })
    }

    /// Whether the sets share an id.
    pub fn intersects(&self, other: &Self) -> bool {
        self.common(other).next().is_some()
    }

    /// The text in square brackets, `[0-3,7]`: how it stands in a hostlist or beside a word.
    pub fn to_bracketed(&self) -> String {
        format!("[{self}]")
    }

    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(&lo, &hi)| (lo, hi))
    }

    /// The runs that are in both sets, in ascending order.
    fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let (mut a, mut b) = (self.pairs().peekable(), other.pairs().peekable());
        std::iter::from_fn(move || {
            loop {
                let (x, y) = (*a.peek()?, *b.peek()?);
                if x.1 <= y.1 {
                    a.next();
                } else {
                    b.next();
                }
                let (lo, hi) = (x.0.max(y.0), x.1.min(y.1));
                if lo <= hi {
                    return Some((lo, hi));
                }
            }
        })
    }
}

impl FromIterator<u32> for Idset {
    /// Linear for ascending ids, n log n for any order.
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        Self::from_runs(ids.into_iter().map(|id| (id, id)))
    }
}

impl FromIterator<RangeInclusive<u32>> for Idset {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u32>>>(ranges: I) -> Self {
        let mut runs: Vec<(u32, u32)> = ranges
            .into_iter()
            .map(RangeInclusive::into_inner)
            .filter(|(lo, hi)| lo <= hi)
            .collect();
        runs.sort_unstable();
        Self::from_runs(runs)
    }
}

impl Extend<u32> for Idset {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        self.insert_all(&ids.into_iter().collect());
    }
}

impl FromStr for Idset {
    type Err = IdsetError;

    /// Strict as RFC 22: ascending, unique, no leading zeros, no blanks; brackets around are
    /// allowed, and nothing (`""`, `[]`) is the empty set.
    fn from_str(s: &str) -> Result<Self, IdsetError> {
        let body = match (s.strip_prefix('['), s.strip_suffix(']')) {
            (None, None) => s,
            (Some(rest), Some(_)) => rest.strip_suffix(']').ok_or(IdsetError::Brackets)?,
            _ => return Err(IdsetError::Brackets),
        };
        if body.contains(['[', ']']) {
            return Err(IdsetError::Brackets);
        }
        if body.is_empty() {
            return Ok(Self::new());
        }
        let mut runs = Vec::new();
        let mut above: Option<u32> = None;
        for part in body.split(',') {
            let (lo, hi) = match part.split_once('-') {
                Some((lo, hi)) => (id(lo, part)?, id(hi, part)?),
                None => {
                    let one = id(part, part)?;
                    (one, one)
                }
            };
            if lo > hi {
                return Err(IdsetError::Descending(excerpt(part)));
            }
            if above.is_some_and(|above| lo <= above) {
                return Err(IdsetError::Order(excerpt(part)));
            }
            above = Some(hi);
            runs.push((lo, hi));
        }
        Ok(Self::from_runs(runs))
    }
}

/// One id of the part of an idset it stands in.
fn id(digits: &str, part: &str) -> Result<u32, IdsetError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(IdsetError::Syntax(excerpt(part)));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(IdsetError::LeadingZero(excerpt(part)));
    }
    digits.parse().map_err(|_| IdsetError::Range(excerpt(part)))
}

/// Enough of a part to find it; the input may be long.
fn excerpt(part: &str) -> String {
    part.chars().take(32).collect()
}

impl fmt::Display for Idset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (lo, hi)) in self.pairs().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if lo == hi { write!(f, "{lo}")? } else { write!(f, "{lo}-{hi}")? }
        }
        Ok(())
    }
}

impl Serialize for Idset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Idset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
