//! Resources of types other than core and gpu: few jobs want them, so their nodes are looked at one
//! by one.

use flux_id::Idset;
use flux_model::resource_set::Children;

use super::{Node, Pool, small};
use crate::demand::{Demand, DemandError, Types, Unit};
use crate::eligible::Eligible;

/// How many there are of each type.
pub(crate) fn counts(part: &Children) -> Types {
    part.others.iter().map(|(kind, ids)| (kind.clone(), small(ids.len()))).collect()
}

impl Node {
    /// What no job has, by type.
    pub(super) fn types(&self) -> Types {
        counts(&self.left)
    }

    /// Whether all of a job's resources are left. Those of types that the node no longer has, by a
    /// change of the inventory, do not count.
    pub(super) fn has_left(&self, part: &Children) -> bool {
        let has = |(kind, ids): (&String, &Idset)| {
            let left = self.left.others.get(kind);
            !self.all.others.contains_key(kind) || left.is_some_and(|left| ids.is_subset(left))
        };
        part.cores.is_subset(&self.left.cores)
            && part.gpus.is_subset(&self.left.gpus)
            && part.others.iter().all(has)
    }

    /// Takes resources from what is left.
    pub(super) fn lose(&mut self, part: &Children) {
        self.left.cores.remove_all(&part.cores);
        self.left.gpus.remove_all(&part.gpus);
        for (kind, ids) in &part.others {
            if let Some(left) = self.left.others.get_mut(kind) {
                left.remove_all(ids);
                if left.is_empty() {
                    self.left.others.remove(kind);
                }
            }
        }
    }
}

impl Pool {
    /// Whether nodes have some of a type beside cores and gpus that is counted.
    #[must_use]
    pub fn counts(&self, kind: &str) -> bool {
        self.typed.contains_key(kind)
    }

    /// What no job has on a node, by type, up or down.
    pub(crate) fn types_on(&self, rank: u32) -> Types {
        self.nodes.get(&rank).map(Node::types).unwrap_or_default()
    }

    /// Nodes that have some of every type of a demand.
    pub(super) fn with_types(&self, demand: &Demand) -> Idset {
        let mut sets = demand.types.keys().map(|kind| self.typed.get(kind));
        let Some(Some(first)) = sets.next() else { return Idset::new() };
        sets.try_fold(first.clone(), |all, set| Some(all.intersection(set?))).unwrap_or_default()
    }

    /// Whether there are enough of each type of a demand when every node is up and free.
    ///
    /// # Errors
    /// Says of which there are not, and how many there are.
    pub(super) fn feasible_types(
        &self,
        demand: &Demand,
        eligible: &Eligible,
    ) -> Result<(), DemandError> {
        if demand.types.is_empty() {
            return Ok(());
        }
        let nodes: Vec<&Node> = self
            .with_types(demand)
            .ids()
            .filter_map(|rank| {
                let node = self.nodes.get(&rank)?;
                (!node.barred && eligible.contains(rank, node.class)).then_some(node)
            })
            .collect();
        let have =
            |node: &Node, kind: &str| node.all.others.get(kind).map_or(0, flux_id::Idset::len);
        let mut units = 0_u64;
        for node in &nodes {
            let all = self.classes[node.class].all;
            let by_types = demand.fit_types(&counts(&node.all));
            let most = if demand.unit == Unit::Slot { u64::MAX } else { 1 };
            units = units.saturating_add(demand.fit(all, all).min(by_types).min(most));
        }
        if units >= demand.min {
            return Ok(());
        }
        // The type of which there is least for this, to name one.
        let worst = demand.types.iter().map(|(kind, each)| {
            let total = nodes.iter().map(|node| have(node, kind)).sum::<u64>();
            let known = self.typed.get(kind).is_some_and(|ranks| !ranks.is_empty());
            (if known { total / u64::from(*each).max(1) + 1 } else { 0 }, kind, *each, total)
        });
        match worst.min() {
            Some((_, kind, each, total)) => Err(demand.denial_of(kind, each, units, total)),
            None => Ok(()),
        }
    }
}
