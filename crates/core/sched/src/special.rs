//! Requests for resources that are neither nodes, slots, cores nor gpus.
//!
//! They are looked up in the graph that R carries. Who asks for such a resource gets whole nodes,
//! so that nothing has to be counted beyond the nodes themselves: whatever else is on a node is the
//! job's. Types above nodes (a rack) say which nodes go together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flux_id::Idset;
use flux_model::jobspec::Vertex;

use crate::demand::DemandError;
use crate::eligible::Eligible;
use crate::graph::{Graph, Tree};

/// Whether a request asks for other types than nodes, slots, cores and gpus.
#[must_use]
pub fn is_special(resources: &[Vertex]) -> bool {
    resources.iter().any(|vertex| !is_plain(&vertex.kind) || is_special(&vertex.with))
}

fn is_plain(kind: &str) -> bool {
    matches!(kind, "node" | "slot" | "core" | "gpu")
}

/// What is asked for, apart from numbers of nodes.
struct Special<'a> {
    /// The type above nodes that counts, how many of it, and how many nodes of each.
    group: Option<(&'a str, u64, u64)>,
    /// What each node is to contain.
    inside: &'a [Vertex],
}

/// The nodes among `base` that have what is asked for.
///
/// # Errors
/// There are none, or the request is of a form that is not supported.
pub(crate) fn eligible(
    resources: &[Vertex],
    graph: Option<&Graph>,
    base: impl Fn(u32) -> bool,
) -> Result<Eligible, DemandError> {
    let unknown = |kind: &str| {
        let text = format!("there is no resource of type '{kind}'");
        Err(DemandError::Unsatisfiable(text))
    };
    let mut kinds = BTreeSet::new();
    collect(resources, &mut kinds);
    let Some(graph) = graph else { return unknown(kinds.first().copied().unwrap_or_default()) };
    if let Some(kind) = kinds.iter().find(|kind| graph.count(kind) == 0) {
        return unknown(kind);
    }
    let special = Special::of(resources, graph)?;
    // Nodes are alike: each kind of them is looked at once.
    let mut known: BTreeMap<*const Tree, bool> = BTreeMap::new();
    let mut ranks = Idset::new();
    for (rank, tree) in graph.trees().filter(|(rank, _)| base(*rank)) {
        let has =
            known.entry(Arc::as_ptr(tree)).or_insert_with(|| has(&tree.below, special.inside, 1));
        if *has {
            ranks.insert(rank);
        }
    }
    if ranks.is_empty() {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        let text = format!("no node has what is asked for of type {}", kinds.join(", "));
        return Err(DemandError::Unsatisfiable(text));
    }
    let Some((kind, count, each)) = special.group else { return Ok(Eligible::Ranks(ranks)) };
    let mut groups: BTreeMap<usize, Idset> = BTreeMap::new();
    for rank in ranks.ids() {
        if let Some(above) = graph.above(rank, kind) {
            groups.entry(above).or_default().insert(rank);
        }
    }
    let groups: Vec<Idset> = groups.into_values().filter(|ranks| ranks.len() >= each).collect();
    if (groups.len() as u64) < count {
        let text = format!(
            "need {count} of type '{kind}' with {each} node(s) each, only {} eligible",
            groups.len()
        );
        return Err(DemandError::Unsatisfiable(text));
    }
    Ok(Eligible::Groups { groups, each })
}

fn collect<'a>(resources: &'a [Vertex], kinds: &mut BTreeSet<&'a str>) {
    for vertex in resources {
        if !is_plain(&vertex.kind) {
            kinds.insert(&vertex.kind);
        }
        collect(&vertex.with, kinds);
    }
}

impl<'a> Special<'a> {
    fn of(resources: &'a [Vertex], graph: &Graph) -> Result<Self, DemandError> {
        let mut list = resources;
        let mut group: Option<(&str, u64, u64)> = None;
        // Of each vertex above in all.
        let mut before = 1_u64;
        loop {
            let [only] = list else {
                let text = "types other than node, slot, core and gpu: one resource at each level \
                            down to the node is supported";
                return Err(DemandError::Unsatisfiable(text.to_string()));
            };
            let count = only.count.min().max(1);
            before = before.saturating_mul(count);
            if let Some((_, _, each)) = &mut group {
                *each = each.saturating_mul(count);
            }
            let holds_nodes = only.contains_kind("node");
            match only.kind.as_str() {
                "node" => return Ok(Self { group, inside: &only.with }),
                "slot" if !holds_nodes => return Ok(Self { group, inside: &only.with }),
                "slot" => {}
                // There is but one: all nodes are in it.
                kind if !is_plain(kind) && graph.count(kind) == 1 && before == 1 => {}
                kind if !is_plain(kind) && group.is_none() => group = Some((kind, before, 1)),
                kind => {
                    let text = format!("'{kind}' above nodes is not supported here");
                    return Err(DemandError::Unsatisfiable(text));
                }
            }
            list = &only.with;
        }
    }
}

/// Whether `have` contains `times` as much as is wanted.
fn has(have: &[Tree], wanted: &[Vertex], times: u64) -> bool {
    wanted.iter().all(|vertex| {
        let need = times.saturating_mul(vertex.count.min());
        if vertex.is_slot() { has(have, &vertex.with, need) } else { amount(have, vertex) >= need }
    })
}

/// How much there is of what a vertex asks for, nearest first.
fn amount(have: &[Tree], wanted: &Vertex) -> u64 {
    let each = have.iter().map(|tree| {
        if tree.kind != wanted.kind {
            return amount(&tree.below, wanted);
        }
        let unit = wanted.unit.as_deref().unwrap_or_default();
        let fits = (unit.is_empty() || unit == tree.unit) && has(&tree.below, &wanted.with, 1);
        if fits { tree.size } else { 0 }
    });
    each.fold(0, u64::saturating_add)
}
