//! Runs of ranks with equal children, and the sweep that combines two lists of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::Idset;

/// What each rank of a run controls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Children {
    /// Logical core ids.
    pub cores: Idset,
    /// Logical gpu ids.
    pub gpus: Idset,
    /// Ids of everything else that is counted, by type; no empty sets.
    pub others: BTreeMap<String, Idset>,
}

impl Children {
    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.cores.is_empty() && self.gpus.is_empty() && self.others.is_empty()
    }

    /// Combines what is of the same type.
    pub(super) fn combine(&self, other: &Self, f: impl Fn(&Idset, &Idset) -> Idset) -> Self {
        let none = Idset::new();
        let of = |all: &Self, kind: &str| all.others.get(kind).unwrap_or(&none).clone();
        let others = self.others.keys().chain(other.others.keys()).map(|kind| {
            let ids = f(&of(self, kind), &of(other, kind));
            (kind.clone(), ids)
        });
        Self {
            cores: f(&self.cores, &other.cores),
            gpus: f(&self.gpus, &other.gpus),
            others: others.filter(|(_, ids)| !ids.is_empty()).collect(),
        }
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, Idset::difference)
    }

    /// Everything that is in either.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        self.combine(other, Idset::union)
    }

    /// True if all of it is in `other`.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let has = |(kind, ids): (&String, &Idset)| {
            other.others.get(kind).is_some_and(|have| ids.is_subset(have))
        };
        self.cores.is_subset(&other.cores)
            && self.gpus.is_subset(&other.gpus)
            && self.others.iter().all(has)
    }

    /// Each type with its ids: cores and gpus, then the others; none without ids.
    pub fn types(&self) -> impl Iterator<Item = (&str, &Idset)> {
        [("core", &self.cores), ("gpu", &self.gpus)]
            .into_iter()
            .chain(self.others.iter().map(|(kind, ids)| (kind.as_str(), ids)))
            .filter(|(_, ids)| !ids.is_empty())
    }
}

impl std::fmt::Display for Children {
    /// Writes the form of resource summaries: `core[0-3],gpu0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (name, ids) in self.types() {
            write!(f, "{separator}{name}{}", Bracketed(ids))?;
            separator = ",";
        }
        Ok(())
    }
}

/// Writes an idset, in brackets if it has more than one member.
pub(super) struct Bracketed<'a>(pub(super) &'a Idset);

impl std::fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.first() == self.0.last() { self.0.fmt(f) } else { write!(f, "[{}]", self.0) }
    }
}

/// Consecutive ranks that control the same.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Lowest rank.
    pub(super) first: u32,
    /// Highest rank, included.
    pub(super) last: u32,
    /// Number of ranks in earlier runs of the list: where its hosts begin.
    pub(super) offset: usize,
    /// What each rank controls; never empty.
    pub(super) children: Arc<Children>,
}

impl Run {
    /// Number of ranks.
    pub(super) fn len(&self) -> usize {
        (self.last - self.first) as usize + 1
    }
}

/// A list of runs: ascending, disjoint, and no two neighbours that could be one.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// Number of ranks.
    pub(super) fn ranks(&self) -> usize {
        self.0.last().map_or(0, |run| run.offset + run.len())
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Run> {
        self.0.iter()
    }

    /// The run that holds `rank`.
    pub(super) fn find(&self, rank: u32) -> Option<&Run> {
        let at = self.0.partition_point(|run| run.last < rank);
        self.0.get(at).filter(|run| run.first <= rank)
    }

    /// Appends ranks above all others; empty children are left out.
    pub(super) fn push(&mut self, first: u32, last: u32, children: Arc<Children>) {
        if children.is_empty() {
            return;
        }
        if let Some(end) = self.0.last_mut()
            && end.last.checked_add(1) == Some(first)
            && (Arc::ptr_eq(&end.children, &children) || end.children == children)
        {
            end.last = last;
            return;
        }
        let offset = self.ranks();
        self.0.push(Run { first, last, offset, children });
    }

    /// Combines two lists rank by rank; `f` is asked once for each stretch of ranks on which
    /// neither list changes, and returns what they control then.
    pub(super) fn sweep(
        &self,
        other: &Self,
        mut f: impl FnMut(Option<&Arc<Children>>, Option<&Arc<Children>>) -> Option<Arc<Children>>,
    ) -> Self {
        let mut result = Self::default();
        let (mut a, mut b) = (Cursor::new(&self.0), Cursor::new(&other.0));
        while let Some(first) = a.next_rank().into_iter().chain(b.next_rank()).min() {
            let (left, left_end) = a.at(first);
            let (right, right_end) = b.at(first);
            let last = left_end.min(right_end);
            if let Some(children) = f(left, right) {
                result.push(first, last, children);
            }
            if last == u32::MAX {
                break;
            }
            a.skip(last + 1);
            b.skip(last + 1);
        }
        result
    }
}

/// A position in a list of runs.
struct Cursor<'a> {
    runs: &'a [Run],
    /// Lowest rank not yet consumed.
    from: u32,
}

impl<'a> Cursor<'a> {
    fn new(runs: &'a [Run]) -> Self {
        Self { runs, from: 0 }
    }

    /// The next rank of the list.
    fn next_rank(&self) -> Option<u32> {
        self.runs.first().map(|run| run.first.max(self.from))
    }

    /// What the list has at `rank`, which is not beyond its next rank, and the last rank up to
    /// which that holds.
    fn at(&self, rank: u32) -> (Option<&'a Arc<Children>>, u32) {
        match self.runs.first() {
            None => (None, u32::MAX),
            Some(run) if run.first <= rank => (Some(&run.children), run.last),
            Some(run) => (None, run.first - 1),
        }
    }

    /// Consumes all ranks below `rank`.
    fn skip(&mut self, rank: u32) {
        self.from = rank;
        while let [run, rest @ ..] = self.runs
            && run.last < rank
        {
            self.runs = rest;
        }
    }
}
