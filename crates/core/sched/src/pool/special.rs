//! Resources beyond nodes, cores and gpus: who has them, and what a job gets of them.

use std::sync::Arc;

use flux_id::Idset;
use flux_model::constraint::node::NodeConstraint;
use flux_model::jobspec::Vertex;
use flux_model::resource_set::Children;
use serde_json::Value;

use super::Pool;
use crate::demand::{Demand, DemandError};
use crate::eligible::Eligible;
use crate::graph::Graph;
use crate::special;

impl Pool {
    /// The pool with a graph of its resources.
    #[must_use]
    pub fn with_graph(self, graph: Option<Arc<Graph>>) -> Self {
        Self { graph, ..self }
    }

    /// The graph of the resources.
    #[must_use]
    pub fn graph(&self) -> Option<Arc<Graph>> {
        self.graph.clone()
    }

    /// As [`Pool::eligible`], for a request of other types than nodes, slots, cores and gpus.
    ///
    /// # Errors
    /// There is nothing of the kind.
    pub fn eligible_special(
        &mut self,
        constraint: Option<(String, NodeConstraint)>,
        resources: &[Vertex],
    ) -> Result<Arc<Eligible>, DemandError> {
        let graph = self.graph();
        let base = self.eligible(constraint);
        let nodes = &self.nodes;
        let may = |rank: u32| nodes.get(&rank).is_some_and(|node| base.contains(rank, node.class));
        Ok(Arc::new(special::eligible(resources, graph.as_deref(), may)?))
    }

    /// The first nodes of a group that fit now, at most `count`.
    pub(super) fn first(&self, demand: &Demand, ranks: &Idset, count: u64) -> Vec<u32> {
        let fits = ranks.ids().filter(|rank| {
            let node = self.nodes.get(rank).filter(|node| node.up);
            node.is_some_and(|node| demand.fit(node.free(), self.classes[node.class].all) > 0)
        });
        fits.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
    }

    /// The part of the graph that a job gets, for those who schedule within it.
    pub(super) fn scheduling(&self, parts: &[(u32, Arc<Children>)]) -> Option<Value> {
        let graph = self.graph.as_ref()?;
        let parts: Vec<(u32, Arc<Children>, bool)> = parts
            .iter()
            .filter_map(|(rank, part)| {
                let whole = *self.nodes.get(rank)?.all == **part;
                Some((*rank, Arc::clone(part), whole))
            })
            .collect();
        Some(graph.part(&parts))
    }
}
