//! Cores and gpus of nodes in use that are kept from jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_model::resource_set::{Children, ResourceSet};

use super::{Node, Pool, small};

impl Node {
    /// Cores and gpus that may be given away now.
    pub(super) fn free(&self) -> (u32, u32) {
        let Some(held) = &self.held else {
            return (small(self.left.cores.len()), small(self.left.gpus.len()));
        };
        (
            small(self.left.cores.difference(&held.cores).len()),
            small(self.left.gpus.difference(&held.gpus).len()),
        )
    }

    /// So many cores and gpus of those that are free, lowest first.
    pub(super) fn choose(&self, cores: u64, gpus: u64) -> Children {
        match &self.held {
            None => Children {
                cores: self.left.cores.take(cores),
                gpus: self.left.gpus.take(gpus),
                ..Children::default()
            },
            Some(held) => Children {
                cores: self.left.cores.difference(&held.cores).take(cores),
                gpus: self.left.gpus.difference(&held.gpus).take(gpus),
                ..Children::default()
            },
        }
    }
}

impl Pool {
    /// Says which cores and gpus are kept from jobs, by rank; all others are not. Jobs that have
    /// some of them keep them. For what can ever be met they count, as nodes that are down do.
    pub fn hold(&mut self, held: BTreeMap<u32, Children>) {
        let before: Vec<u32> = self.held.keys().copied().collect();
        self.held = held
            .into_iter()
            .filter(|(_, part)| !part.is_empty())
            .map(|(rank, part)| (rank, Arc::new(part)))
            .collect();
        let after: Vec<u32> = self.held.keys().copied().collect();
        for rank in before.into_iter().chain(after) {
            let part = self.held.get(&rank).cloned();
            self.change(rank, |node| node.held = part);
        }
    }

    /// What is kept from jobs.
    #[must_use]
    pub fn held(&self) -> BTreeMap<u32, Children> {
        self.held.iter().map(|(rank, part)| (*rank, (**part).clone())).collect()
    }

    /// How much of what a job has on a rank others may have after it.
    #[must_use]
    pub fn returns(&self, rank: u32, part: &Children) -> (u32, u32) {
        match self.nodes.get(&rank).and_then(|node| node.held.as_ref()) {
            None => (small(part.cores.len()), small(part.gpus.len())),
            Some(held) => (
                small(part.cores.difference(&held.cores).len()),
                small(part.gpus.difference(&held.gpus).len()),
            ),
        }
    }

    /// Everything on nodes that are down, and what is kept from jobs on those that are up.
    #[must_use]
    pub fn down(&self) -> ResourceSet {
        let down = self.set.without_ranks(&self.up);
        if self.held.is_empty() {
            return down;
        }
        let parts = self.held.iter().filter_map(|(rank, held)| {
            let node = self.nodes.get(rank).filter(|node| node.up)?;
            let part = Children {
                cores: held.cores.intersection(&node.all.cores),
                gpus: held.gpus.intersection(&node.all.gpus),
                ..Children::default()
            };
            (!part.is_empty()).then(|| (*rank, Arc::new(part)))
        });
        self.set.pick(parts).and_then(|parts| down.union(&parts)).unwrap_or(down)
    }
}
