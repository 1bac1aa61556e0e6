//! `flux ion-R`: adds the graph of resources to R, for schedulers that want one (RFC 20,
//! `scheduling`; RFC 4; JSON Graph Format).

use std::io::Read;

use clap::Command;
use flux_model::resource_set::ResourceSet;
use serde_json::{Value, json};

use super::program::Program;
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::script("flux-ion-R");
/// Most bytes of an R.
const MAX_INPUT: u64 = 1 << 30;

/// The options of `flux ion-R`.
pub(crate) fn command() -> Command {
    Command::new("ion-R")
        .about("Add the graph of resources to R")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("encode").about("Read R, and write it with the key `scheduling` added"),
        )
}

/// Runs `flux ion-R encode`.
pub(crate) fn run(_: &Invocation) -> Result<i32, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
    read.map_err(|error| PROGRAM.fail(format!("stdin: {error}")))?;
    let set = ResourceSet::parse(&text).map_err(|error| PROGRAM.fail(format!("R: {error}")))?;
    // What is not understood here stays as it is.
    let mut r: Value =
        serde_json::from_str(&text).map_err(|error| PROGRAM.fail(format!("R: {error}")))?;
    if let Some(object) = r.as_object_mut() {
        object.insert("scheduling".to_owned(), json!({ "graph": graph(&set) }));
    }
    output::line(&output::spaced_json(&r));
    Ok(0)
}

/// A cluster that contains nodes, which contain cores and gpus.
fn graph(set: &ResourceSet) -> Value {
    let mut graph = Graph::default();
    let top = graph.add("cluster", 0, "cluster0", -1, None, &[]);
    for (rank, host, own) in set.iter() {
        let properties: Vec<&str> = set.properties_of(rank).collect();
        let basename = host.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = host[basename.len()..].parse().unwrap_or(-1);
        let place = Place { basename, number };
        let node = graph.vertex("node", &place, host, i64::from(rank), Some(top), &properties);
        for (kind, ids) in own.types() {
            // A pool, not things one by one.
            if kind == "memory" {
                let at = graph.add(kind, 0, "memory0", i64::from(rank), Some(node), &[]);
                let metadata = &mut graph.nodes[at]["metadata"];
                metadata["size"] = ids.len().into();
                metadata["unit"] = "GB".into();
                continue;
            }
            for id in ids.ids() {
                let name = format!("{kind}{id}");
                graph.add(kind, i64::from(id), &name, i64::from(rank), Some(node), &[]);
            }
        }
    }
    json!({ "nodes": graph.nodes, "edges": graph.edges })
}

struct Place<'a> {
    basename: &'a str,
    number: i64,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Value>,
    edges: Vec<Value>,
    paths: Vec<String>,
}

impl Graph {
    fn add(
        &mut self,
        kind: &str,
        id: i64,
        name: &str,
        rank: i64,
        parent: Option<usize>,
        properties: &[&str],
    ) -> usize {
        let place = Place { basename: kind, number: id };
        self.vertex(kind, &place, name, rank, parent, properties)
    }

    /// A vertex and the edge to it; its number.
    fn vertex(
        &mut self,
        kind: &str,
        place: &Place<'_>,
        name: &str,
        rank: i64,
        parent: Option<usize>,
        properties: &[&str],
    ) -> usize {
        let number = self.nodes.len();
        let above = parent.and_then(|parent| self.paths.get(parent)).cloned().unwrap_or_default();
        let path = format!("{above}/{name}");
        let mut metadata = json!({
            "type": kind, "basename": place.basename, "name": name, "id": place.number,
            "uniq_id": number, "rank": rank, "exclusive": false, "unit": "", "size": 1,
            "paths": { "containment": path },
        });
        if !properties.is_empty() {
            let all: serde_json::Map<String, Value> =
                properties.iter().map(|name| ((*name).to_owned(), "".into())).collect();
            metadata["properties"] = Value::Object(all);
        }
        self.paths.push(path);
        self.nodes.push(json!({ "id": number.to_string(), "metadata": metadata }));
        if let Some(parent) = parent {
            self.edges.push(json!({
                "source": parent.to_string(), "target": number.to_string(),
                "metadata": { "name": { "containment": "contains" } },
            }));
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_one_pool_of_a_node_and_is_read_back_as_it_was() {
        let r = json!({"version": 1, "execution": {
            "R_lite": [{"rank": "0", "children": {"core": "0", "memory": "0-63", "ssd": "1"}}],
            "nodelist": ["a"], "starttime": 0.0, "expiration": 0.0}});
        let set = ResourceSet::from_value(&r).unwrap();
        let graph = graph(&set);
        assert_eq!(graph["nodes"].as_array().unwrap().len(), 5);
        let mut bare = ResourceSet::from_value(&json!({"version": 1, "execution": {
            "R_lite": [{"rank": "0", "children": {"core": "0"}}], "nodelist": ["a"]},
            "scheduling": {"graph": graph}}))
        .unwrap();
        bare.add_graph_types();
        assert_eq!(bare.summary(), set.summary());
    }

    #[test]
    fn a_graph_has_a_vertex_for_each_resource_and_an_edge_to_it() {
        let r = json!({"version": 1, "execution": {
            "R_lite": [{"rank": "0-1", "children": {"core": "0-1", "gpu": "0"}}],
            "nodelist": ["fluke[3,108]"], "starttime": 0.0, "expiration": 0.0,
            "properties": {"big": "1"}}});
        let graph = graph(&ResourceSet::from_value(&r).unwrap());
        assert_eq!(graph["nodes"].as_array().unwrap().len(), 9);
        assert_eq!(graph["edges"].as_array().unwrap().len(), 8);
        let node = &graph["nodes"][5]["metadata"];
        assert_eq!(
            (&node["name"], &node["id"], &node["rank"]),
            (&json!("fluke108"), &json!(108), &json!(1))
        );
        assert_eq!(node["properties"], json!({"big": ""}));
        let gpu = &graph["nodes"][8]["metadata"];
        assert_eq!(gpu["paths"]["containment"], "/cluster0/fluke108/gpu0");
        assert_eq!(graph["edges"][7]["source"], "5");
    }
}
