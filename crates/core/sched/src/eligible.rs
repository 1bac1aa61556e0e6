//! Which nodes a constraint allows, worked out once for each distinct constraint.

use flux_id::Idset;
use flux_model::constraint::Constraint;
use flux_model::constraint::node::{NodeConstraint, NodeOperator, NodeView};

/// Nodes that a job may use.
#[derive(Debug, Clone, PartialEq)]
pub enum Eligible {
    /// Every node of these classes.
    Classes(Vec<usize>),
    /// These ranks.
    Ranks(Idset),
    /// So many ranks of one group, of as many groups as it takes.
    Groups {
        /// Ranks that go together; none is empty.
        groups: Vec<Idset>,
        /// Nodes of each group that is used.
        each: u64,
    },
}

impl Eligible {
    /// Whether there is no such node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Classes(classes) => classes.is_empty(),
            Self::Ranks(ranks) => ranks.is_empty(),
            Self::Groups { groups, .. } => groups.is_empty(),
        }
    }

    /// Whether it has a rank that is a node of this class.
    pub(crate) fn contains(&self, rank: u32, class: usize) -> bool {
        match self {
            Self::Classes(classes) => classes.binary_search(&class).is_ok(),
            Self::Ranks(ranks) => ranks.contains(rank),
            Self::Groups { groups, .. } => groups.iter().any(|ranks| ranks.contains(rank)),
        }
    }
}

/// A node as constraints see it.
pub(crate) struct View<'a> {
    pub(crate) rank: u32,
    pub(crate) host: &'a str,
    pub(crate) has: &'a dyn Fn(&str) -> bool,
}

impl NodeView for View<'_> {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn hostname(&self) -> &str {
        self.host
    }

    fn has_property(&self, name: &str) -> bool {
        (self.has)(name)
    }
}

/// Whether a constraint looks at nothing but properties, so that it holds for a whole class or
/// for none of it.
pub(crate) fn only_properties(constraint: &NodeConstraint) -> bool {
    let mut only = true;
    let tree: &Constraint<NodeOperator> = constraint.tree();
    tree.for_each_leaf(&mut |leaf| only &= matches!(leaf, NodeOperator::Properties { .. }));
    only
}
