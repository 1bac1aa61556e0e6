//! Free nodes of one kind, ordered by how much is free on them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use flux_id::Idset;

use crate::demand::Demand;

/// Free cores and gpus: most first.
type Key = (Reverse<u32>, Reverse<u32>);

/// Nodes that are up and have something free, in buckets of equally free nodes. There are no more
/// buckets than combinations of free cores and gpus, however many nodes there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(BTreeMap<Key, Idset>);

fn key(free: (u32, u32)) -> Key {
    (Reverse(free.0), Reverse(free.1))
}

impl Index {
    pub(crate) fn insert(&mut self, rank: u32, free: (u32, u32)) {
        if free != (0, 0) {
            self.0.entry(key(free)).or_default().insert(rank);
        }
    }

    pub(crate) fn remove(&mut self, rank: u32, free: (u32, u32)) {
        let key = key(free);
        if let Some(bucket) = self.0.get_mut(&key) {
            bucket.remove(rank);
            if bucket.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// Buckets with at least so many cores and gpus free, most free first.
    pub(crate) fn buckets(
        &self,
        cores: u32,
        gpus: u32,
    ) -> impl Iterator<Item = ((u32, u32), &Idset)> {
        self.0
            .range(..=(Reverse(cores), Reverse(0)))
            .map(|(key, ranks)| ((key.0.0, key.1.0), ranks))
            .filter(move |(free, _)| free.1 >= gpus)
    }

    /// Units of a demand that fit now.
    pub(crate) fn capacity(&self, demand: &Demand, all: (u32, u32)) -> u64 {
        self.buckets(demand.cores, demand.gpus)
            .map(|(free, ranks)| demand.fit(free, all).saturating_mul(ranks.len()))
            .fold(0, u64::saturating_add)
    }
}
