//! Ranks and hosts: look-up, selection, renumbering.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flux_id::{Hostlist, Idset};

use super::run::{Children, Runs};
use super::{ResourceSet, ResourceSetError};

impl ResourceSet {
    /// Host of a rank.
    pub fn host(&self, rank: u32) -> Option<&str> {
        let run = self.runs.find(rank)?;
        self.hosts.get(run.offset + (rank - run.first) as usize).map(AsRef::as_ref)
    }

    /// Hosts of all ranks, in rank order.
    pub fn nodelist(&self) -> Hostlist {
        list(self.hosts.iter().map(AsRef::as_ref))
    }

    /// Hosts of the given ranks, in rank order; ranks not in the set are left out.
    pub fn hosts_of(&self, ranks: &Idset) -> Hostlist {
        let within = ranks.intersection(&self.ranks());
        list(within.ids().filter_map(|rank| self.host(rank)))
    }

    /// All ranks on the given hosts; a host with several brokers has several ranks.
    ///
    /// # Errors
    /// Hosts that are not in the set.
    pub fn ranks_of(&self, hosts: &Hostlist) -> Result<Idset, ResourceSetError> {
        let names: Vec<String> = hosts.iter().collect();
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut found = BTreeSet::new();
        let mut ranks = Idset::new();
        for (rank, host, _) in self.iter() {
            if wanted.contains(host) {
                found.insert(host);
                ranks.insert(rank);
            }
        }
        if found.len() == wanted.len() {
            return Ok(ranks);
        }
        let missing = list(wanted.difference(&found).copied());
        Err(ResourceSetError::NoSuchHosts(missing.to_string()))
    }

    /// The part on the given hosts; hosts that are not in the set are ignored.
    pub fn copy_hosts(&self, hosts: &Hostlist) -> Self {
        let names: BTreeSet<String> = hosts.iter().collect();
        let mut ranks = Idset::new();
        for (rank, host, _) in self.iter() {
            if names.contains(host) {
                ranks.insert(rank);
            }
        }
        self.copy_ranks(&ranks)
    }

    /// Renumbers the ranks from 0, in the order they have.
    pub fn remap(&self) -> Self {
        let numbers: Vec<u32> = (0u32..).take(self.nnodes()).collect();
        self.renumbered(&numbers)
    }

    /// Gives each rank the number its host has in `hosts`. A host that occurs several times is
    /// used up from the front, in rank order.
    ///
    /// # Errors
    /// A host of the set that `hosts` lacks, or has too few times.
    pub fn rerank(&self, hosts: &Hostlist) -> Result<Self, ResourceSetError> {
        let mut places: BTreeMap<String, VecDeque<u32>> = BTreeMap::new();
        for (rank, host) in (0u32..).zip(hosts.iter()) {
            places.entry(host).or_default().push_back(rank);
        }
        let numbers: Result<Vec<u32>, _> = self
            .hosts
            .iter()
            .map(|host| {
                places
                    .get_mut(host.as_ref())
                    .and_then(VecDeque::pop_front)
                    .ok_or_else(|| ResourceSetError::UnknownHost(host.to_string()))
            })
            .collect();
        Ok(self.renumbered(&numbers?))
    }

    /// Replaces rank by rank; `numbers` has a distinct new number for each, in rank order.
    fn renumbered(&self, numbers: &[u32]) -> Self {
        let mut order: Vec<(u32, u32, &Arc<str>, &Arc<Children>)> = self
            .runs
            .iter()
            .flat_map(|run| (run.first..=run.last).map(|rank| (rank, &run.children)))
            .zip(numbers)
            .zip(&self.hosts)
            .map(|(((old, children), new), host)| (*new, old, host, children))
            .collect();
        order.sort_unstable_by_key(|(new, ..)| *new);
        let mut result = Self {
            runs: Runs::default(),
            hosts: Vec::with_capacity(order.len()),
            properties: BTreeMap::new(),
            ..self.clone()
        };
        for (new, old, host, children) in order {
            result.runs.push(new, new, Arc::clone(children));
            result.hosts.push(Arc::clone(host));
            for (name, ranks) in &self.properties {
                if ranks.contains(old) {
                    result.properties.entry(name.clone()).or_default().insert(new);
                }
            }
        }
        result
    }
}

/// A list of names that stem from host lists, no more of them than there are ranks.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Hostlist {
    Hostlist::from_hosts(names).expect("valid host names within the limit of a host list")
}
