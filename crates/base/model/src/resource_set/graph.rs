//! Types of resources in the graph that rides along with R (RFC 20, `scheduling`; RFC 40).
//!
//! Of the graph, what is counted at a node is taken: every vertex below one that is neither core
//! nor gpu. Nodes of the graph are known by their names; what is not below a node (racks,
//! switches) cannot be counted at one.

use std::collections::BTreeMap;

use flux_id::Idset;
use serde_json::Value;

use super::ResourceSet;
use super::types::check_type;
use crate::jobspec::units;

/// Most units one vertex may have: larger pools are cut to it.
const MAX_SIZE: u64 = 1 << 24;
/// Deepest containment that is followed.
const MAX_DEPTH: usize = 32;

impl ResourceSet {
    /// Takes over what the graph in `scheduling` counts at nodes, unless R itself has such a type
    /// at that node.
    pub fn add_graph_types(&mut self) {
        let Some(graph) = self.scheduling.as_ref().and_then(|value| value.get("graph")) else {
            return;
        };
        let list = |key: &str| graph.get(key).and_then(Value::as_array).into_iter().flatten();
        let mut places: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        for (rank, host, _) in self.iter() {
            // A host with several brokers is not told apart by name.
            places.entry(host).and_modify(|place| *place = None).or_insert(Some(rank));
        }
        let mut above: BTreeMap<String, String> = BTreeMap::new();
        for edge in list("edges").filter(|edge| is_containment(edge)) {
            if let (Some(source), Some(target)) = (id(edge, "source"), id(edge, "target")) {
                above.entry(target).or_insert(source);
            }
        }
        let mut nodes: BTreeMap<String, u32> = BTreeMap::new();
        for vertex in list("nodes") {
            let data = &vertex["metadata"];
            let host = data["name"].as_str().filter(|_| data["type"] == "node");
            if let (Some(id), Some(Some(rank))) =
                (id(vertex, "id"), host.and_then(|h| places.get(h)))
            {
                nodes.insert(id, *rank);
            }
        }
        let place = |vertex: &Value| {
            let mut at = above.get(&id(vertex, "id")?)?;
            for _ in 0..MAX_DEPTH {
                if let Some(rank) = nodes.get(at) {
                    return Some(*rank);
                }
                at = above.get(at)?;
            }
            None
        };
        let mut found: BTreeMap<(u32, &str), Pool> = BTreeMap::new();
        for vertex in list("nodes") {
            let Some(data) = vertex.get("metadata") else { continue };
            let text = |key: &str| data.get(key).and_then(Value::as_str);
            let Some(kind) = text("type").filter(|kind| check_type(kind).is_ok()) else { continue };
            let Some(rank) = place(vertex) else { continue };
            if self.children(rank).is_none_or(|own| own.others.contains_key(kind)) {
                continue;
            }
            let size = data.get("size").and_then(Value::as_u64).unwrap_or(1);
            let size = units(kind, size, text("unit")).unwrap_or(size).min(MAX_SIZE);
            let id = data.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            found.entry((rank, kind)).or_default().add(size, id);
        }
        // The same at many nodes is put in once.
        let mut alike: BTreeMap<(String, String), (Idset, Idset)> = BTreeMap::new();
        for ((rank, kind), pool) in found {
            let key = (kind.to_owned(), pool.0.to_string());
            alike.entry(key).or_insert_with(|| (pool.0, Idset::new())).1.insert(rank);
        }
        for ((kind, _), (ids, ranks)) in alike {
            // More types than a node may have stay with the graph.
            self.set_type(&kind, &ids, &ranks).ok();
        }
    }
}

/// The id of a vertex, which some write as a number.
fn id(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether an edge of the JSON Graph Format leads from what contains to what is contained; some
/// graphs have other edges, and each edge back.
pub fn is_containment(edge: &Value) -> bool {
    let Some(metadata) = edge.get("metadata") else { return true };
    let subsystem = metadata.get("subsystem").and_then(Value::as_str);
    match metadata.get("name") {
        Some(Value::Object(names)) => {
            names.get("containment").and_then(Value::as_str) == Some("contains")
        }
        Some(Value::String(name)) => name == "contains",
        _ => subsystem.is_none_or(|subsystem| subsystem == "containment"),
    }
}

/// The ids of a type at a node.
#[derive(Default)]
struct Pool(Idset);

impl Pool {
    /// One vertex keeps its id where it can; a pool of many has the next free ones.
    fn add(&mut self, size: u64, id: Option<u32>) {
        match id.filter(|id| size == 1 && !self.0.contains(*id)) {
            Some(id) => drop(self.0.insert(id)),
            None if size > 0 => {
                let first = self.0.last().map_or(0, |last| last.saturating_add(1));
                let count = u32::try_from(size).unwrap_or(u32::MAX);
                self.0.insert_range(first..=first.saturating_add(count - 1));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Vertices by path, with their size, unit, and the edges between them.
    fn graph(vertices: &[(&str, &str, u64, &str)]) -> Value {
        let mut nodes = vec![json!({"id": "x"}), json!(7)];
        let mut edges = vec![json!({"source": "/c0", "target": "/c0"})];
        for (kind, path, size, unit) in vertices {
            let (above, name) = path.rsplit_once('/').unwrap();
            let id: u64 = name.trim_start_matches(|c: char| c.is_alphabetic()).parse().unwrap();
            nodes.push(json!({"id": path, "metadata": {
                "type": kind, "name": name, "id": id, "size": size, "unit": unit}}));
            edges.push(json!({"source": above, "target": path,
                "metadata": {"name": {"containment": "contains"}}}));
            edges.push(json!({"source": path, "target": above,
                "metadata": {"name": {"containment": "in"}}}));
        }
        json!({"graph": {"nodes": nodes, "edges": edges}})
    }

    #[test]
    fn what_the_graph_counts_at_nodes_is_in_the_set() {
        let mut set = ResourceSet::from_value(&json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-2", "children": {"core": "0-3"}},
                   {"rank": "2", "children": {"core": "0-3", "ssd": "7"}}],
        "nodelist": ["n[0-2]"]},
        "scheduling": graph(&[
            ("cluster", "/c0", 1, ""),
            ("rack", "/c0/rack0", 1, ""),
            ("node", "/c0/rack0/n0", 1, ""),
            ("node", "/c0/rack0/n1", 1, ""),
            ("node", "/c0/rack0/n2", 1, ""),
            ("socket", "/c0/rack0/n0/socket0", 1, ""),
            ("core", "/c0/rack0/n0/socket0/core0", 1, ""),
            ("socket", "/c0/rack0/n0/socket1", 1, ""),
            ("memory", "/c0/rack0/n0/socket0/memory0", 64, "GB"),
            ("memory", "/c0/rack0/n0/socket1/memory1", 65536, "MB"),
            ("ssd", "/c0/rack0/n1/ssd3", 1, ""),
            ("ssd", "/c0/rack0/n2/ssd0", 1, ""),
        ])}))
        .unwrap();
        set.add_graph_types();
        assert_eq!(
            set.summary(),
            "rank0/core[0-3],memory[0-127],socket[0-1] rank1/core[0-3],ssd3 rank2/core[0-3],ssd7"
        );
        let again = set.summary();
        set.add_graph_types();
        assert_eq!(set.summary(), again);
    }
}
