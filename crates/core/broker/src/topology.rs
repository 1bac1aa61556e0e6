//! Who is whose parent: the shape of the tree of brokers.

use std::sync::Arc;

/// Why a tree cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The word before the colon is not known.
    #[error("unknown topology scheme '{0}'")]
    Scheme(String),
    /// What follows the colon is not a number.
    #[error("invalid topology '{0}': not a number after the colon")]
    Number(String),
    /// A tree has at least one broker.
    #[error("topology size must be at least 1")]
    Size,
    /// The root has a parent.
    #[error("rank 0 cannot have parent {0}")]
    RootParent(u32),
    /// A parent outside the tree.
    #[error("rank {rank} has unknown parent {parent}")]
    UnknownParent {
        /// The child.
        rank: u32,
        /// What it names.
        parent: u32,
    },
    /// A rank from which the root cannot be reached.
    #[error("rank {0} is its own ancestor")]
    Cycle(u32),
}

#[derive(Debug, PartialEq, Eq)]
struct Tables {
    /// Parent of each rank; the root names itself.
    parent: Vec<u32>,
    level: Vec<u32>,
    /// Brokers below each rank.
    descendants: Vec<u32>,
    /// Children of rank r, in rank order: `children[first[r]..first[r + 1]]`.
    children: Vec<u32>,
    first: Vec<u32>,
    maxlevel: u32,
}

/// The tree of brokers. Clones are cheap: all brokers of a simulation share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology(Arc<Tables>);

/// The smallest number of routers that keeps every fan-out at 1024, 0 for a flat tree.
fn mincrit_routers(size: u32) -> u32 {
    if size <= 1025 {
        return 0;
    }
    (2..size).find(|k| (size - 1 - k).div_ceil(*k) <= 1024).unwrap_or(0)
}

fn kary(rank: u32, k: u32) -> u32 {
    (rank - 1).checked_div(k).unwrap_or(0)
}

fn mincrit(rank: u32, k: u32) -> u32 {
    if rank <= k || k == 0 { 0 } else { (rank - k - 1) % k + 1 }
}

impl Topology {
    /// The URI that `auto` stands for, the default of a configured instance: `custom` where hosts
    /// have parents, else flat up to 1025 brokers, and with as few routers as it takes above.
    #[must_use]
    pub fn resolve<'a>(uri: &'a str, size: u32, custom: &[Option<u32>]) -> &'a str {
        match uri {
            "auto" if custom.iter().any(Option::is_some) || mincrit_routers(size) == 0 => "custom",
            "auto" => "mincrit",
            other => other,
        }
    }

    /// The tree for a `tbon.topo` URI: `kary:k`, `mincrit`, `mincrit:k`, `binomial`, `auto`, or
    /// `custom` with the parent of each rank from the configuration (a missing one is rank 0).
    ///
    /// # Errors
    /// When the URI is not one of these, or the custom parents are no tree.
    pub fn parse(uri: &str, size: u32, custom: &[Option<u32>]) -> Result<Self, TopologyError> {
        if size == 0 {
            return Err(TopologyError::Size);
        }
        let uri = Self::resolve(uri, size, custom);
        let (scheme, number) = match uri.split_once(':') {
            Some((scheme, number)) => (scheme, Some(number)),
            None => (uri, None),
        };
        let number = match number {
            Some(text) => {
                Some(text.parse::<u32>().map_err(|_| TopologyError::Number(uri.to_string()))?)
            }
            None => None,
        };
        let parent: Box<dyn Fn(u32) -> u32> = match (scheme, number) {
            ("kary", Some(k)) => Box::new(move |rank| kary(rank, k)),
            ("kary", None) => return Err(TopologyError::Number(uri.to_string())),
            ("mincrit", k) => {
                let k = k.unwrap_or_else(|| mincrit_routers(size));
                Box::new(move |rank| mincrit(rank, k))
            }
            // A binomial tree of order n under 0 puts each rank below itself without its lowest
            // bit.
            ("binomial", None) => Box::new(|rank| rank & (rank - 1)),
            ("custom", None) => return Self::custom(size, custom),
            _ => return Err(TopologyError::Scheme(scheme.to_string())),
        };
        let rest = (1..size).map(parent);
        Self::of(std::iter::once(0).chain(rest).collect())
    }

    /// The tree `kary:k`; 0 is flat.
    ///
    /// # Errors
    /// When `size` is 0.
    pub fn kary(k: u32, size: u32) -> Result<Self, TopologyError> {
        Self::of((0..size).map(|rank| if rank == 0 { 0 } else { kary(rank, k) }).collect())
    }

    /// The tree with these parents; a missing one is rank 0.
    ///
    /// # Errors
    /// When rank 0 has a parent, a parent is not below `size`, or there is a cycle.
    pub fn custom(size: u32, parents: &[Option<u32>]) -> Result<Self, TopologyError> {
        if let Some(Some(parent)) = parents.first() {
            return Err(TopologyError::RootParent(*parent));
        }
        let parent = |rank: u32| parents.get(rank as usize).copied().flatten().unwrap_or(0);
        Self::of((0..size).map(|rank| if rank == 0 { 0 } else { parent(rank) }).collect())
    }

    fn of(parent: Vec<u32>) -> Result<Self, TopologyError> {
        if parent.is_empty() {
            return Err(TopologyError::Size);
        }
        let size = parent.len();
        for (rank, up) in (0..).zip(&parent) {
            if *up as usize >= size {
                return Err(TopologyError::UnknownParent { rank, parent: *up });
            }
        }
        // Children by counting, then levels from the root down.
        let mut first = vec![0_u32; size + 1];
        for up in parent.iter().skip(1) {
            first[*up as usize + 1] += 1;
        }
        for at in 0..size {
            first[at + 1] += first[at];
        }
        let mut next = first.clone();
        let mut children = vec![0_u32; size - 1];
        for (rank, up) in (0_u32..).zip(&parent).skip(1) {
            let slot = &mut next[*up as usize];
            children[*slot as usize] = rank;
            *slot += 1;
        }
        let mut level = vec![u32::MAX; size];
        level[0] = 0;
        let mut order = vec![0_u32];
        let mut at = 0;
        while let Some(&rank) = order.get(at) {
            at += 1;
            let range = first[rank as usize] as usize..first[rank as usize + 1] as usize;
            for &child in &children[range] {
                level[child as usize] = level[rank as usize] + 1;
                order.push(child);
            }
        }
        if let Some(lost) = (0..).zip(&level).find(|(_, level)| **level == u32::MAX) {
            return Err(TopologyError::Cycle(lost.0));
        }
        let mut descendants = vec![0_u32; size];
        for &rank in order.iter().skip(1).rev() {
            descendants[parent[rank as usize] as usize] += descendants[rank as usize] + 1;
        }
        let maxlevel = level.iter().copied().max().unwrap_or(0);
        Ok(Self(Arc::new(Tables { parent, level, descendants, children, first, maxlevel })))
    }

    /// Number of brokers, at least 1.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.0.parent.len()).unwrap_or(u32::MAX)
    }

    /// The parent of a rank; nothing for rank 0 and ranks outside the tree.
    #[must_use]
    pub fn parent(&self, rank: u32) -> Option<u32> {
        if rank == 0 { None } else { self.0.parent.get(rank as usize).copied() }
    }

    /// The children of a rank, ascending.
    #[must_use]
    pub fn children(&self, rank: u32) -> &[u32] {
        let at = rank as usize;
        match (self.0.first.get(at), self.0.first.get(at + 1)) {
            (Some(from), Some(to)) => &self.0.children[*from as usize..*to as usize],
            _ => &[],
        }
    }

    /// Hops from rank 0 (`tbon.level`).
    #[must_use]
    pub fn level(&self, rank: u32) -> u32 {
        self.0.level.get(rank as usize).copied().unwrap_or(0)
    }

    /// The largest level (`tbon.maxlevel`).
    #[must_use]
    pub fn maxlevel(&self) -> u32 {
        self.0.maxlevel
    }

    /// Brokers below a rank (`tbon.descendants`).
    #[must_use]
    pub fn descendants(&self, rank: u32) -> u32 {
        self.0.descendants.get(rank as usize).copied().unwrap_or(0)
    }

    /// The child of `from` whose subtree holds `target`; nothing when `target` is not below
    /// `from`. Costs the difference of their levels.
    #[must_use]
    pub fn child_toward(&self, from: u32, target: u32) -> Option<u32> {
        let mut at = target;
        loop {
            let parent = self.parent(at)?;
            if parent == from {
                return Some(at);
            }
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests;
