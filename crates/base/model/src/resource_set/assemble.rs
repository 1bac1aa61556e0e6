//! Makes sets from single ranks, from parts of another set, and from many sets.

use std::collections::BTreeSet;
use std::sync::Arc;

use flux_id::{Hostlist, Idset};

use super::run::{Children, Runs};
use super::{MAX_RANKS, ResourceSet, ResourceSetError};

impl ResourceSet {
    /// Makes a set of single ranks with their hosts, in any order. Ranks that share one `Arc` are
    /// put together fastest.
    ///
    /// # Errors
    /// A rank that is given twice or has nothing, a name that is no host name, more than
    /// [`MAX_RANKS`] ranks.
    pub fn from_nodes<H: Into<Arc<str>>>(
        nodes: impl IntoIterator<Item = (u32, H, Arc<Children>)>,
    ) -> Result<Self, ResourceSetError> {
        let mut nodes: Vec<(u32, Arc<str>, Arc<Children>)> =
            nodes.into_iter().map(|(rank, host, children)| (rank, host.into(), children)).collect();
        if nodes.len() > MAX_RANKS {
            return Err(ResourceSetError::TooManyRanks(nodes.len() as u64));
        }
        nodes.sort_unstable_by_key(|(rank, ..)| *rank);
        Hostlist::from_hosts(nodes.iter().map(|(_, host, _)| host.as_ref()))
            .map_err(|e| ResourceSetError::at("execution.nodelist", e.to_string()))?;
        let mut set = Self::new();
        set.runs = ascending(nodes.iter().map(|(rank, _, children)| (*rank, children)))?;
        set.hosts = nodes.into_iter().map(|(_, host, _)| host).collect();
        Ok(set)
    }

    /// The part of the set that is named rank by rank, in any order: what a scheduler allocates.
    /// Hosts, properties, times and scheduler data are those of the set.
    ///
    /// # Errors
    /// A rank that is given twice or with nothing, and resources that are not in the set.
    pub fn pick(
        &self,
        parts: impl IntoIterator<Item = (u32, Arc<Children>)>,
    ) -> Result<Self, ResourceSetError> {
        let mut parts: Vec<(u32, Arc<Children>)> = parts.into_iter().collect();
        parts.sort_unstable_by_key(|(rank, _)| *rank);
        for (rank, part) in &parts {
            let inside = self.children(*rank).is_some_and(|have| part.is_within(have));
            if !inside {
                return Err(ResourceSetError::NotInSet(format!("rank{rank}/{part}")));
            }
        }
        let runs = ascending(parts.iter().map(|(rank, part)| (*rank, part)))?;
        Ok(self.restricted(runs))
    }

    /// Joins many sets in n log n; otherwise as [`ResourceSet::union`] one after the other.
    ///
    /// # Errors
    /// As for [`ResourceSet::union`].
    pub fn union_all(sets: impl IntoIterator<Item = Self>) -> Result<Self, ResourceSetError> {
        let mut sets: Vec<Self> = sets.into_iter().collect();
        while sets.len() > 1 {
            sets = sets
                .chunks(2)
                .map(|pair| match pair {
                    [a, b] => a.union(b),
                    rest => Ok(rest.first().cloned().unwrap_or_default()),
                })
                .collect::<Result<_, _>>()?;
        }
        Ok(sets.pop().unwrap_or_default())
    }

    /// All hosts of the set, each once, in the order of host names.
    pub fn distinct_hosts(&self) -> BTreeSet<&str> {
        self.hosts.iter().map(AsRef::as_ref).collect()
    }
}

/// Runs of ranks in ascending order.
fn ascending<'a>(
    ranks: impl Iterator<Item = (u32, &'a Arc<Children>)>,
) -> Result<Runs, ResourceSetError> {
    let mut runs = Runs::default();
    let mut previous: Option<u32> = None;
    for (rank, children) in ranks {
        if previous == Some(rank) {
            return Err(ResourceSetError::Twice(rank));
        }
        if children.is_empty() {
            return Err(ResourceSetError::NoChildren(Idset::from_range(rank..=rank).to_string()));
        }
        runs.push(rank, rank, Arc::clone(children));
        previous = Some(rank);
    }
    Ok(runs)
}
