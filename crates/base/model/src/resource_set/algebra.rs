//! Set operations.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::Idset;

use super::run::{Children, Run, Runs};
use super::{MAX_RANKS, ResourceSet, ResourceSetError};

impl ResourceSet {
    /// Everything that is in either set. Properties are joined; times, slots and scheduler data
    /// are those of `self`, scheduler data of `other` if `self` has none.
    ///
    /// # Errors
    /// A rank that is on different hosts, and more than [`MAX_RANKS`] ranks.
    pub fn union(&self, other: &Self) -> Result<Self, ResourceSetError> {
        self.check_hosts(other)?;
        let runs = self.runs.sweep(&other.runs, |a, b| match (a, b) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) || a == b => Some(Arc::clone(a)),
            (Some(a), Some(b)) => Some(Arc::new(a.combine(b, Idset::union))),
            (one, None) | (None, one) => one.cloned(),
        });
        if runs.ranks() > MAX_RANKS {
            return Err(ResourceSetError::TooManyRanks(runs.ranks() as u64));
        }
        let mut result = self.with_runs(runs, other);
        for (name, ranks) in &other.properties {
            let joined = match result.properties.get(name) {
                Some(own) => own.union(ranks),
                None => ranks.clone(),
            };
            result.properties.insert(name.clone(), joined);
        }
        if result.scheduling.is_none() {
            result.scheduling.clone_from(&other.scheduling);
        }
        Ok(result)
    }

    /// As [`ResourceSet::union`], for sets that share no core and no gpu.
    ///
    /// # Errors
    /// Additionally any resource that is in both.
    pub fn append(&self, other: &Self) -> Result<Self, ResourceSetError> {
        let common = self.intersect(other);
        if !common.is_empty() {
            return Err(ResourceSetError::Overlap(common.summary()));
        }
        self.union(other)
    }

    /// What is in `self` and not in `other`; ranks left with nothing disappear.
    pub fn diff(&self, other: &Self) -> Self {
        let runs = self.runs.sweep(&other.runs, |a, b| match (a?, b) {
            (a, None) => Some(Arc::clone(a)),
            (a, Some(b)) if Arc::ptr_eq(a, b) => None,
            (a, Some(b)) => Some(Arc::new(a.combine(b, Idset::difference))),
        });
        self.restricted(runs)
    }

    /// What is in both sets, with hosts, properties and the rest of `self`.
    pub fn intersect(&self, other: &Self) -> Self {
        let runs = self.runs.sweep(&other.runs, |a, b| match (a?, b?) {
            (a, b) if Arc::ptr_eq(a, b) || a == b => Some(Arc::clone(a)),
            (a, b) => Some(Arc::new(a.combine(b, Idset::intersection))),
        });
        self.restricted(runs)
    }

    /// True if every core and gpu of `other` is in `self`.
    pub fn contains(&self, other: &Self) -> bool {
        other.diff(self).is_empty()
    }

    /// True if no core and no gpu is in both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        let common = Cell::new(false);
        self.runs.sweep(&other.runs, |a, b| {
            if !a?.combine(b?, Idset::intersection).is_empty() {
                common.set(true);
            }
            None
        });
        !common.get()
    }

    /// The part on the given ranks, with properties, times and scheduler data.
    pub fn copy_ranks(&self, ranks: &Idset) -> Self {
        let runs = self.runs.sweep(&mask(ranks), |a, b| b.and(a).cloned());
        self.restricted(runs)
    }

    /// The part on other than the given ranks.
    pub fn without_ranks(&self, ranks: &Idset) -> Self {
        let runs =
            self.runs.sweep(&mask(ranks), |a, b| if b.is_some() { None } else { a.cloned() });
        self.restricted(runs)
    }

    /// The same set without scheduler data.
    pub fn without_scheduling(&self) -> Self {
        Self { scheduling: None, ..self.clone() }
    }

    /// A set with other runs, whose ranks are all ranks of `self`.
    pub(super) fn restricted(&self, runs: Runs) -> Self {
        self.with_runs(runs, &Self::default())
    }

    /// A set with other runs, whose ranks are ranks of `self` or else of `other`; properties of
    /// `self` are cut to them.
    fn with_runs(&self, runs: Runs, other: &Self) -> Self {
        let mut hosts = Vec::with_capacity(runs.ranks());
        let mut own = self.runs.iter().peekable();
        let mut others = other.runs.iter().peekable();
        for rank in runs.iter().flat_map(|run| run.first..=run.last) {
            let host = seek(&mut own, rank)
                .map(|at| &self.hosts[at])
                .or_else(|| seek(&mut others, rank).map(|at| &other.hosts[at]));
            hosts.extend(host.cloned());
        }
        let mut result = Self {
            runs,
            hosts,
            properties: BTreeMap::new(),
            starttime: self.starttime,
            expiration: self.expiration,
            nslots: self.nslots,
            scheduling: self.scheduling.clone(),
        };
        let whole = result.nnodes() >= self.nnodes() && other.is_empty();
        if whole {
            result.properties.clone_from(&self.properties);
        } else if !self.properties.is_empty() {
            let ranks = result.ranks();
            for (name, set) in &self.properties {
                let cut = set.intersection(&ranks);
                if !cut.is_empty() {
                    result.properties.insert(name.clone(), cut);
                }
            }
        }
        result
    }

    /// Refuses a rank that both sets have, on different hosts.
    fn check_hosts(&self, other: &Self) -> Result<(), ResourceSetError> {
        let mut own = self.runs.iter().peekable();
        for (rank, theirs, _) in other.iter() {
            if let Some(at) = seek(&mut own, rank)
                && *self.hosts[at] != *theirs
            {
                return Err(ResourceSetError::HostConflict {
                    rank,
                    ours: self.hosts[at].to_string(),
                    theirs: theirs.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Index of the host of `rank`; ranks must be asked for in ascending order.
fn seek<'a>(
    runs: &mut std::iter::Peekable<impl Iterator<Item = &'a Run>>,
    rank: u32,
) -> Option<usize> {
    while runs.next_if(|run| run.last < rank).is_some() {}
    let run = runs.peek().filter(|run| run.first <= rank)?;
    Some(run.offset + (rank - run.first) as usize)
}

/// Runs that stand for ranks only.
fn mask(ranks: &Idset) -> Runs {
    let children = Arc::new(Children { cores: ranks.clone(), ..Children::default() });
    let mut runs = Runs::default();
    for range in ranks.ranges() {
        runs.push(*range.start(), *range.end(), Arc::clone(&children));
    }
    runs
}
