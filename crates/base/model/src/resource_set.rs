//! Concrete resources, "R": which cores and gpus of which ranks (RFC 20, version 1).
//!
//! Beside `core` and `gpu`, `children` may have other types (`types.rs`), which RFC 20 neither
//! defines nor forbids: what is counted at a node, be it burst buffers, licences or GiB of memory.
//!
//! In memory a [`ResourceSet`] is a list of runs of consecutive ranks with equal children, which
//! share them, and one host name for each rank. All operations are near-linear in runs and ranks.

mod algebra;
mod assemble;
mod config;
mod error;
mod exclude;
mod graph;
mod json;
mod nodes;
mod properties;
mod queues;
mod run;
mod types;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::{Hostlist, Idset};
use serde_json::Value;

pub use config::ResourceConfigError;
pub use error::ResourceSetError;
pub use graph::is_containment;
pub use queues::{QueueHosts, queue_hosts, queue_property};
pub use run::Children;
pub use types::MAX_TYPES;
pub use verify::{VerifyMode, VerifyRules};

use run::{Bracketed, Runs};

/// Most ranks a set may have: as many as a host list.
pub const MAX_RANKS: usize = flux_id::hostlist::MAX_HOSTS;

/// A set of resources with the hosts they are on.
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    runs: Runs,
    /// Host of each rank, in rank order; as many as ranks.
    hosts: Vec<Arc<str>>,
    /// Ranks that have a property; no empty sets, no ranks that are not in the set.
    properties: BTreeMap<String, Idset>,
    /// Seconds since 1970 from which it is valid; 0 if unset.
    pub starttime: f64,
    /// Seconds since 1970 at which it ends; 0 if unset.
    pub expiration: f64,
    /// Number of slots of an allocation.
    pub nslots: Option<u64>,
    /// Data of the scheduler that made it, opaque.
    pub scheduling: Option<Value>,
}

impl ResourceSet {
    /// The set without resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a set in which every rank of `ranks` has the same cores and gpus; `hosts` names one
    /// host for each rank, in rank order.
    ///
    /// # Errors
    /// Numbers of ranks and hosts that differ, more than [`MAX_RANKS`] ranks, and ranks without
    /// cores and gpus.
    pub fn encode(
        ranks: &Idset,
        cores: &Idset,
        gpus: &Idset,
        hosts: &Hostlist,
    ) -> Result<Self, ResourceSetError> {
        let count = size(ranks)?;
        if count != hosts.len() {
            return Err(ResourceSetError::HostCount { ranks: count, hosts: hosts.len() });
        }
        let children = Children { cores: cores.clone(), gpus: gpus.clone(), ..Children::default() };
        let children = Arc::new(children);
        if children.is_empty() && count > 0 {
            return Err(ResourceSetError::NoChildren(ranks.to_string()));
        }
        let mut set = Self::new();
        for range in ranks.ranges() {
            set.runs.push(*range.start(), *range.end(), Arc::clone(&children));
        }
        set.hosts = hosts.iter().map(|host| Arc::from(host.as_str())).collect();
        Ok(set)
    }

    /// True if it has no resources.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Number of ranks.
    pub fn nnodes(&self) -> usize {
        self.hosts.len()
    }

    /// Number of cores of all ranks.
    pub fn ncores(&self) -> u64 {
        self.runs.iter().map(|run| run.len() as u64 * run.children.cores.len()).sum()
    }

    /// Number of gpus of all ranks.
    pub fn ngpus(&self) -> u64 {
        self.runs.iter().map(|run| run.len() as u64 * run.children.gpus.len()).sum()
    }

    /// The ranks.
    pub fn ranks(&self) -> Idset {
        self.runs.iter().map(|run| run.first..=run.last).collect()
    }

    /// Cores and gpus of a rank; `None` if it is not in the set.
    pub fn children(&self, rank: u32) -> Option<&Children> {
        self.runs.find(rank).map(|run| run.children.as_ref())
    }

    /// Every rank with its host, cores and gpus, in rank order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, &Children)> {
        self.runs
            .iter()
            .flat_map(|run| (run.first..=run.last).map(|rank| (rank, run.children.as_ref())))
            .zip(&self.hosts)
            .map(|((rank, children), host)| (rank, host.as_ref(), children))
    }

    /// Groups of ranks that have the same children, by lowest rank.
    pub fn groups(&self) -> Vec<(Idset, &Children)> {
        let mut groups: Vec<(Idset, &Children)> = Vec::new();
        let mut known: BTreeMap<Vec<(&str, String)>, usize> = BTreeMap::new();
        for run in self.runs.iter() {
            let children = run.children.as_ref();
            let key = children.types().map(|(kind, ids)| (kind, ids.to_string())).collect();
            let at = *known.entry(key).or_insert_with(|| {
                groups.push((Idset::new(), children));
                groups.len() - 1
            });
            groups[at].0.insert_range(run.first..=run.last);
        }
        groups
    }

    /// True if both have the same ranks with the same hosts, cores and gpus; properties, times and
    /// scheduler data do not count.
    pub fn same_resources(&self, other: &Self) -> bool {
        self.hosts == other.hosts
            && self.runs.iter().len() == other.runs.iter().len()
            && self
                .runs
                .iter()
                .zip(other.runs.iter())
                .all(|(a, b)| (a.first, a.last) == (b.first, b.last) && a.children == b.children)
    }

    /// Sets the validity in seconds since 1970; 0 for unset.
    ///
    /// # Errors
    /// Numbers that are negative or not finite, and an end that is not after the start.
    pub fn set_times(&mut self, starttime: f64, expiration: f64) -> Result<(), ResourceSetError> {
        let valid = |time: f64| time.is_finite() && time >= 0.0;
        if !valid(starttime) || !valid(expiration) {
            return Err(ResourceSetError::Time);
        }
        if starttime > 0.0 && expiration > 0.0 && expiration <= starttime {
            return Err(ResourceSetError::Expiration { starttime, expiration });
        }
        self.starttime = starttime;
        self.expiration = expiration;
        Ok(())
    }

    /// The compact form of logs and annotations, e.g. `rank[0-1]/core0` or
    /// `rank0/core[0-3],gpu0`; groups are separated by blanks.
    pub fn summary(&self) -> String {
        let groups = self.groups();
        let texts: Vec<String> = groups
            .iter()
            .map(|(ranks, children)| format!("rank{}/{children}", Bracketed(ranks)))
            .collect();
        texts.join(" ")
    }
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.same_resources(other)
            && self.properties == other.properties
            && self.starttime == other.starttime
            && self.expiration == other.expiration
            && self.nslots == other.nslots
            && self.scheduling == other.scheduling
    }
}

/// Number of ranks in an idset, if it is acceptable.
fn size(ranks: &Idset) -> Result<usize, ResourceSetError> {
    usize::try_from(ranks.len())
        .ok()
        .filter(|count| *count <= MAX_RANKS)
        .ok_or_else(|| ResourceSetError::TooManyRanks(ranks.len()))
}
