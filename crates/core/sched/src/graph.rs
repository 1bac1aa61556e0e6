//! Resources that are neither nodes, cores nor gpus: the graph that R may carry (RFC 20,
//! `scheduling.graph`, in JSON Graph Format), as `flux ion-R encode` or a site writes it.
//!
//! Nodes of the graph are known by their names, as everywhere else: ranks in it are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flux_id::Idset;
use flux_model::resource_set::{Children, ResourceSet, is_containment};
use serde_json::{Value, json};

/// Deepest containment that is followed.
const MAX_DEPTH: usize = 32;

/// What a vertex contains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tree {
    pub(crate) kind: String,
    /// How much of it this vertex stands for, e.g. 16 of the unit "GB".
    pub(crate) size: u64,
    pub(crate) unit: String,
    pub(crate) below: Vec<Tree>,
}

#[derive(Debug)]
struct Vertex {
    kind: String,
    /// Number among its like, as in the sets of cores of R.
    id: Option<u32>,
    parent: Option<usize>,
    below: Vec<usize>,
}

/// The graph of all resources.
#[derive(Debug, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
    /// As they were read, in the order of `vertices`.
    source: Vec<Value>,
    /// Vertex of each rank.
    nodes: BTreeMap<u32, usize>,
    /// What each rank contains; equal nodes share it.
    trees: BTreeMap<u32, Arc<Tree>>,
    /// How many vertices there are of each type.
    kinds: BTreeMap<String, u64>,
}

impl Graph {
    /// Reads the graph of a set, if it has one.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn of(set: &ResourceSet) -> Result<Option<Self>, String> {
        let Some(graph) = set.scheduling.as_ref().and_then(|value| value.get("graph")) else {
            return Ok(None);
        };
        let list = |key: &str| {
            let found = graph.get(key).and_then(Value::as_array);
            found.ok_or_else(|| format!("scheduling.graph.{key}: expected an array"))
        };
        let mut read = Self::default();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut hosts: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, value) in list("nodes")?.iter().enumerate() {
            let wrong = |what: &str| format!("scheduling.graph.nodes[{at}]: {what}");
            let name = name(value.get("id")).ok_or_else(|| wrong("it has no id"))?;
            let metadata = value.get("metadata").ok_or_else(|| wrong("it has no metadata"))?;
            let kind = metadata.get("type").and_then(Value::as_str);
            let kind = kind.ok_or_else(|| wrong("it has no type"))?.to_string();
            if kind == "node"
                && let Some(host) = metadata.get("name").and_then(Value::as_str)
            {
                hosts.insert(host, at);
            }
            let id = metadata.get("id").and_then(Value::as_u64);
            let id = id.and_then(|id| u32::try_from(id).ok());
            *read.kinds.entry(kind.clone()).or_default() += 1;
            read.vertices.push(Vertex { kind, id, parent: None, below: Vec::new() });
            if names.insert(name, at).is_some() {
                return Err(wrong("its id is there twice"));
            }
        }
        for (at, edge) in list("edges")?.iter().enumerate().filter(|(_, edge)| is_containment(edge))
        {
            let end = |key: &str| {
                let found = name(edge.get(key)).and_then(|name| names.get(&name).copied());
                found.ok_or_else(|| format!("scheduling.graph.edges[{at}].{key}: no such vertex"))
            };
            let (above, below) = (end("source")?, end("target")?);
            if above != below && read.vertices[below].parent.is_none() {
                read.vertices[below].parent = Some(above);
                read.vertices[above].below.push(below);
            }
        }
        let mut shared: BTreeSet<Arc<Tree>> = BTreeSet::new();
        let several = set.distinct_hosts().len() < set.nnodes();
        for (rank, host, _) in set.iter() {
            // Where several ranks have one name it does not say what each of them has.
            let Some(at) = hosts.get(host).copied().filter(|_| !several) else { continue };
            let tree = read.tree(list("nodes")?, at, 0);
            let tree = shared.get(&tree).cloned().unwrap_or_else(|| {
                let tree = Arc::new(tree);
                shared.insert(Arc::clone(&tree));
                tree
            });
            read.nodes.insert(rank, at);
            read.trees.insert(rank, tree);
        }
        read.source = list("nodes")?.clone();
        Ok(Some(read))
    }

    fn tree(&self, source: &[Value], at: usize, depth: usize) -> Tree {
        let metadata = source.get(at).and_then(|value| value.get("metadata"));
        let get = |key: &str| metadata.and_then(|metadata| metadata.get(key));
        let below = if depth < MAX_DEPTH { self.vertices[at].below.as_slice() } else { &[] };
        Tree {
            kind: self.vertices[at].kind.clone(),
            size: get("size").and_then(Value::as_u64).unwrap_or(1),
            unit: get("unit").and_then(Value::as_str).unwrap_or_default().to_string(),
            below: below.iter().map(|below| self.tree(source, *below, depth + 1)).collect(),
        }
    }

    /// How many resources of a type there are.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    /// Every rank of the graph with what it contains.
    pub(crate) fn trees(&self) -> impl Iterator<Item = (u32, &Arc<Tree>)> {
        self.trees.iter().map(|(rank, tree)| (*rank, tree))
    }

    /// The vertex of a type that contains a rank.
    pub(crate) fn above(&self, rank: u32, kind: &str) -> Option<usize> {
        let mut at = *self.nodes.get(&rank)?;
        for _ in 0..MAX_DEPTH {
            at = self.vertices[at].parent?;
            if self.vertices[at].kind == kind {
                return Some(at);
            }
        }
        None
    }

    /// The part of the graph that belongs to a job, as `scheduling` of its R: its nodes with what
    /// contains them, its cores and gpus, and everything else of a node that it has for itself.
    pub(crate) fn part(&self, parts: &[(u32, Arc<Children>, bool)]) -> Value {
        let mut kept = BTreeSet::new();
        for (rank, part, whole) in parts {
            let Some(at) = self.nodes.get(rank) else { continue };
            self.keep(*at, part, *whole, &mut kept, 0);
            let mut above = Some(*at);
            for _ in 0..MAX_DEPTH {
                let Some(at) = above else { break };
                kept.insert(at);
                above = self.vertices[at].parent;
            }
        }
        let id = |at: usize| self.source.get(at).and_then(|v| v.get("id")).cloned();
        let nodes: Vec<&Value> = kept.iter().filter_map(|at| self.source.get(*at)).collect();
        let edges: Vec<Value> = kept
            .iter()
            .filter_map(|at| {
                let above = self.vertices[*at].parent.filter(|above| kept.contains(above))?;
                Some(json!({
                    "source": id(above), "target": id(*at),
                    "metadata": { "name": { "containment": "contains" } },
                }))
            })
            .collect();
        json!({ "graph": { "nodes": nodes, "edges": edges } })
    }

    /// Whether something of a vertex is kept.
    fn keep(
        &self,
        at: usize,
        part: &Children,
        whole: bool,
        kept: &mut BTreeSet<usize>,
        depth: usize,
    ) -> bool {
        let vertex = &self.vertices[at];
        let among = |ids: &Idset| vertex.id.is_some_and(|id| ids.contains(id));
        let mut any = match vertex.kind.as_str() {
            "core" => among(&part.cores),
            "gpu" => among(&part.gpus),
            kind => whole || part.others.get(kind).is_some_and(among),
        };
        if depth < MAX_DEPTH {
            for below in &vertex.below {
                any |= self.keep(*below, part, whole, kept, depth + 1);
            }
        }
        if any {
            kept.insert(at);
        }
        any
    }
}

/// The id of a vertex, which some write as a number.
fn name(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
