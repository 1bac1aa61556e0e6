//! Looking up positions of many hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::run::{Host, Run};

/// First positions of the hosts of a list, by name.
#[derive(Debug, Clone, Default)]
pub struct HostIndex {
    prefixes: BTreeMap<Arc<str>, Numbers>,
}

#[derive(Debug, Clone, Default)]
struct Numbers {
    /// Position of the host that is the prefix alone.
    bare: Option<usize>,
    /// By digits and first number: last number, and position of the first. They do not overlap.
    spans: BTreeMap<(usize, u64), (u64, usize)>,
}

impl HostIndex {
    /// Position of the first host of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.position(&Host::split(name))
    }

    /// Whether the list has a host of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(super) fn position(&self, host: &Host<'_>) -> Option<usize> {
        let numbers = self.prefixes.get(host.prefix)?;
        let Some((number, digits)) = host.number else { return numbers.bare };
        let (&(_, lo), &(hi, at)) =
            numbers.spans.range((digits, 0)..=(digits, number)).next_back()?;
        if number > hi { None } else { Some(at + usize::try_from(number - lo).ok()?) }
    }

    /// Adds a run whose first host has position `start`. Positions known already stay.
    pub(super) fn insert(&mut self, run: &Run, start: usize) {
        if !self.prefixes.contains_key(&run.prefix) {
            self.prefixes.insert(Arc::clone(&run.prefix), Numbers::default());
        }
        let Some(numbers) = self.prefixes.get_mut(&run.prefix) else { return };
        let Some(span) = run.span else {
            numbers.bare.get_or_insert(start);
            return;
        };
        // Names with as many digits are looked up together: cut at 9|10, 99|100 and so on.
        let mut lo = span.lo;
        loop {
            let digits = (lo.checked_ilog10().unwrap_or(0) as usize + 1).max(span.width);
            let last = 10u64.pow(u32::try_from(digits).unwrap_or(18)) - 1;
            let hi = span.hi.min(last);
            let at = start + usize::try_from(lo - span.lo).unwrap_or(0);
            numbers.insert(digits, lo, hi, at);
            if hi == span.hi {
                return;
            }
            lo = hi + 1;
        }
    }
}

impl Numbers {
    /// Adds those of the numbers `lo` to `hi` that are not there.
    fn insert(&mut self, digits: usize, lo: u64, hi: u64, at: usize) {
        let mut from = lo;
        if let Some((_, &(end, _))) = self.spans.range((digits, 0)..=(digits, lo)).next_back()
            && end >= lo
        {
            from = end + 1;
        }
        let mut gaps = Vec::new();
        for (&(_, start), &(end, _)) in self.spans.range((digits, lo)..=(digits, hi)) {
            if start > from {
                gaps.push((from, start - 1));
            }
            from = from.max(end + 1);
        }
        if from <= hi {
            gaps.push((from, hi));
        }
        for (start, end) in gaps {
            let at = at + usize::try_from(start - lo).unwrap_or(0);
            self.spans.insert((digits, start), (end, at));
        }
    }
}
