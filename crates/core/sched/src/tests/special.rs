//! Resources beyond nodes, cores and gpus.

use flux_model::resource_set::ResourceSet;
use serde_json::{Value, json};

use super::{jobspec, nodes, r, slots};
use crate::demand::{self, Demand, DemandError};
use crate::graph::Graph;
use crate::{Placement, Pool};

/// Six nodes of two cores: two racks of three. Nodes 1, 2 and 4 have an ssd, node 4 has two, and
/// 64 GB of memory. Ids of vertices are in no order, and ranks in the graph are wrong.
fn with_graph() -> Value {
    let mut set = r(6, 2, 0);
    let mut vertices = Vec::new();
    let mut edges = Vec::new();
    let mut add = |kind: &str, name: String, id: u64, above: Option<u64>, size: u64| {
        let number = 1000 - vertices.len() as u64;
        vertices.push(json!({"id": number.to_string(), "metadata": {
            "type": kind, "name": name, "id": id, "rank": 99, "size": size,
            "unit": if size > 1 { "GB" } else { "" }}}));
        if let Some(above) = above {
            edges.push(json!({"source": above.to_string(), "target": number.to_string(),
                "metadata": {"name": {"containment": "contains"}}}));
            edges.push(json!({"source": number.to_string(), "target": above.to_string(),
                "metadata": {"name": {"containment": "in"}}}));
        }
        number
    };
    let cluster = add("cluster", "c0".into(), 0, None, 1);
    for rack in 0..2 {
        let above = add("rack", format!("rack{rack}"), rack, Some(cluster), 1);
        for at in rack * 3..rack * 3 + 3 {
            let node = add("node", format!("n{at}"), at, Some(above), 1);
            let socket = add("socket", "socket0".into(), 0, Some(node), 1);
            for core in 0..2 {
                add("core", format!("core{core}"), core, Some(socket), 1);
            }
            let ssds = [0, 1, 1, 0, 2, 0][at as usize];
            for ssd in 0..ssds {
                add("ssd", format!("ssd{ssd}"), ssd, Some(node), 1);
            }
            if at == 4 {
                add("memory", "memory0".into(), 0, Some(node), 64);
            }
        }
    }
    set["scheduling"] = json!({"graph": {"nodes": vertices, "edges": edges}});
    set
}

fn pool(set: &Value) -> Pool {
    let set = ResourceSet::from_value(set).unwrap();
    let graph = Graph::of(&set).unwrap().map(std::sync::Arc::new);
    let ranks = set.ranks();
    let mut pool = Pool::new(set).with_graph(graph);
    pool.mark(&ranks, true);
    pool
}

/// As the service does it.
fn place(pool: &mut Pool, jobspec: &Value) -> Result<Option<Placement>, DemandError> {
    let demand = Demand::of(jobspec)?;
    assert!(demand.special);
    let constraint = demand::constraint(jobspec)?;
    let eligible = pool.eligible_special(constraint, &demand::resources(jobspec)?)?;
    pool.feasible(&demand, &eligible)?;
    Ok(pool.place(&demand, &eligible))
}

fn got(pool: &mut Pool, jobspec: &Value) -> String {
    match place(pool, jobspec) {
        Ok(Some(placement)) => pool.allocation(&placement).unwrap().summary(),
        Ok(None) => "waits".to_string(),
        Err(error) => error.to_string(),
    }
}

fn slot(with: Value) -> Value {
    json!({"type": "slot", "count": 1, "label": "task", "with": with})
}

fn ssd(count: u64) -> Value {
    jobspec(slot(json!([{"type": "core", "count": 1}, {"type": "ssd", "count": count}])), 0.0)
}

fn racks(racks: u64, nodes: u64) -> Value {
    let inner = json!([slot(json!([{"type": "core", "count": 1}]))]);
    let node = json!({"type": "node", "count": nodes, "with": inner});
    jobspec(json!({"type": "rack", "count": racks, "with": [node]}), 0.0)
}

#[test]
fn without_a_graph_other_types_are_denied_and_with_one_they_are_found() {
    let mut plain = pool(&r(6, 2, 0));
    assert_eq!(
        got(&mut plain, &ssd(1)),
        "unsatisfiable request: there is no resource of type 'ssd'"
    );
    let mut pool = pool(&with_graph());
    assert_eq!(got(&mut pool, &ssd(2)), "rank4/core[0-1]");
    // Whole nodes: one that is used is none.
    assert_eq!(got(&mut pool, &ssd(1)), "rank1/core[0-1]");
    assert_eq!(got(&mut pool, &ssd(1)), "rank2/core[0-1]");
    assert_eq!(got(&mut pool, &ssd(1)), "waits");
    assert_eq!(
        got(&mut pool, &ssd(3)),
        "unsatisfiable request: no node has what is asked for of type ssd"
    );
    let fpga =
        jobspec(slot(json!([{"type": "core", "count": 1}, {"type": "fpga", "count": 1}])), 0.0);
    assert_eq!(got(&mut pool, &fpga), "unsatisfiable request: there is no resource of type 'fpga'");
}

#[test]
fn amounts_units_and_what_contains_what_are_looked_at() {
    let mut pool = pool(&with_graph());
    let memory = |count: u64, unit: &str| {
        let memory = json!({"type": "memory", "count": count, "unit": unit});
        jobspec(slot(json!([{"type": "core", "count": 1}, memory])), 0.0)
    };
    let none = "unsatisfiable request: no node has what is asked for of type memory";
    assert_eq!(got(&mut pool, &memory(65, "GB")), none);
    assert_eq!(got(&mut pool, &memory(64, "MB")), none);
    assert_eq!(got(&mut pool, &memory(64, "GB")), "rank4/core[0-1]");
    let sockets = |sockets: u64, cores: u64| {
        let slot = slot(json!([{"type": "core", "count": cores}]));
        let socket = json!({"type": "socket", "count": sockets, "with": [slot]});
        jobspec(json!({"type": "node", "count": 1, "with": [socket]}), 0.0)
    };
    assert_eq!(got(&mut pool, &sockets(1, 2)), "rank0/core[0-1]");
    let none = "unsatisfiable request: no node has what is asked for of type socket";
    assert_eq!(got(&mut pool, &sockets(1, 3)), none);
    assert_eq!(got(&mut pool, &sockets(2, 1)), none);
}

#[test]
fn nodes_of_a_rack_come_from_one_rack() {
    let mut pool = pool(&with_graph());
    let one = Demand::of(&slots(1, 1, 0.0)).unwrap();
    let everything = pool.eligible(None);
    let taken = pool.place(&one, &everything).unwrap();
    assert_eq!(taken.parts[0].0, 0);
    // Rank 0 is in use, so three of one rack are those of the second.
    assert_eq!(got(&mut pool, &racks(1, 3)), "rank[3-5]/core[0-1]");
    assert_eq!(got(&mut pool, &racks(1, 3)), "waits");
    assert_eq!(got(&mut pool, &racks(2, 1)), "waits");
    assert_eq!(got(&mut pool, &racks(1, 2)), "rank[1-2]/core[0-1]");
    assert_eq!(
        got(&mut pool, &racks(1, 4)),
        "unsatisfiable request: need 1 of type 'rack' with 4 node(s) each, only 0 eligible"
    );
    assert_eq!(
        got(&mut pool, &racks(3, 1)),
        "unsatisfiable request: need 3 of type 'rack' with 1 node(s) each, only 2 eligible"
    );
    // There is one cluster, and all nodes are in it.
    let node =
        json!({"type": "node", "count": 7, "with": [slot(json!([{"type": "core", "count": 1}]))]});
    let seven = jobspec(json!({"type": "cluster", "count": 1, "with": [node]}), 0.0);
    assert_eq!(
        got(&mut pool, &seven),
        "unsatisfiable request: need 7 exclusive node(s), only 6 eligible"
    );
}

#[test]
fn a_job_has_its_part_of_the_graph_and_can_schedule_with_it() {
    let mut outer = pool(&with_graph());
    let one = Demand::of(&slots(1, 1, 0.0)).unwrap();
    let everything = outer.eligible(None);
    let part = |pool: &Pool, placement: &Placement| {
        let r = pool.allocation(placement).unwrap().to_value();
        let nodes = r["scheduling"]["graph"]["nodes"].as_array().unwrap().clone();
        let names: Vec<String> =
            nodes.iter().map(|n| n["metadata"]["name"].as_str().unwrap().to_string()).collect();
        (r, names.join(" "))
    };
    let taken = outer.place(&one, &everything).unwrap();
    assert_eq!(part(&outer, &taken).1, "c0 rack0 n0 socket0 core0");
    let placement = place(&mut outer, &ssd(2)).unwrap().unwrap();
    let (r, names) = part(&outer, &placement);
    assert_eq!(names, "c0 rack1 n4 socket0 core0 core1 ssd0 ssd1 memory0");
    // The same, one level below: its rank 4 is whatever rank the job gives it.
    let mut inner = pool(&r);
    assert_eq!(got(&mut inner, &ssd(1)), "rank4/core[0-1]");
    assert_eq!(
        part(&outer, &placement).0["scheduling"]["graph"]["edges"].as_array().unwrap().len(),
        8
    );
}

#[test]
fn a_graph_that_makes_no_sense_is_refused_with_its_place() {
    let wrong = |graph: Value| {
        let mut set = r(1, 1, 0);
        set["scheduling"] = json!({ "graph": graph });
        Graph::of(&ResourceSet::from_value(&set).unwrap()).unwrap_err()
    };
    let node = json!({"id": 1, "metadata": {"type": "node", "name": "n0"}});
    for (graph, text) in [
        (json!({}), "scheduling.graph.nodes: expected an array"),
        (json!({"nodes": [{}], "edges": []}), "scheduling.graph.nodes[0]: it has no id"),
        (
            json!({"nodes": [node, node], "edges": []}),
            "scheduling.graph.nodes[1]: its id is there twice",
        ),
        (
            json!({"nodes": [node], "edges": [{"source": "1", "target": "2"}]}),
            "scheduling.graph.edges[0].target: no such vertex",
        ),
    ] {
        assert_eq!(wrong(graph), text);
    }
    // Circles are no containment, and end.
    let mut set = r(1, 1, 0);
    let other = json!({"id": 2, "metadata": {"type": "rack"}});
    set["scheduling"] = json!({"graph": {"nodes": [node, other], "edges": [
        {"source": "1", "target": "2"}, {"source": "2", "target": "1"}]}});
    let graph = Graph::of(&ResourceSet::from_value(&set).unwrap()).unwrap().unwrap();
    assert_eq!(graph.above(0, "none"), None);
    assert!(!Demand::of(&nodes(json!(1), 1, 1, false, 0.0)).unwrap().special);
}
