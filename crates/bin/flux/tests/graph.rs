//! Resources beyond nodes, cores and gpus: in the graph of R, of an instance and of one in a job.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::fs;
use std::path::Path;

use instance::{flux, stderr, stdout};
use serde_json::{Value, json};

/// R of this host with one core: plain, and through `flux ion-R encode`.
fn encoded(directory: &Path) -> (Value, Value) {
    let plain = stdout(&flux().args(["R", "encode", "--cores=0"]).output().unwrap());
    fs::write(directory.join("plain"), &plain).unwrap();
    let mut filter = flux();
    filter.args(["ion-R", "encode"]).stdin(fs::File::open(directory.join("plain")).unwrap());
    let with_graph = stdout(&filter.output().unwrap());
    (serde_json::from_str(&plain).unwrap(), serde_json::from_str(&with_graph).unwrap())
}

/// What a site adds to it by hand.
fn add_ssd(r: &mut Value) {
    let graph = &mut r["scheduling"]["graph"];
    let nodes = graph["nodes"].as_array_mut().unwrap();
    let node = nodes.iter().find(|node| node["metadata"]["type"] == "node").unwrap();
    let (above, number) = (node["id"].clone(), nodes.len().to_string());
    nodes.push(json!({"id": number, "metadata": {"type": "ssd", "name": "ssd0", "id": 0}}));
    graph["edges"].as_array_mut().unwrap().push(json!({"source": above, "target": number}));
}

/// Runs a script in an instance of one broker with these resources.
fn run(directory: &Path, r: &Value, script: &str) -> String {
    fs::write(directory.join("R"), r.to_string()).unwrap();
    let config = directory.join("x.toml");
    let text = format!(
        "[resource]\npath = '{}'\nnoverify = true\n[ingest.validator]\n\
         args = ['--require-version=any']\n",
        directory.join("R").display()
    );
    fs::write(&config, text).unwrap();
    let mut start = flux();
    start.arg("start").arg("-c").arg(&config).args(["sh", "-c", script]).env("CONF", &config);
    let output = start.output().unwrap();
    format!("{}{}", stdout(&output), stderr(&output))
}

#[test]
fn the_filter_adds_the_graph_and_changes_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (plain, mut with_graph) = encoded(directory.path());
    let scheduling = with_graph.as_object_mut().unwrap().remove("scheduling").unwrap();
    assert_eq!(with_graph, plain);
    assert_eq!(scheduling["graph"]["nodes"].as_array().unwrap().len(), 3);
}

#[test]
fn a_type_of_the_graph_is_scheduled_also_within_a_job_and_any_other_is_unsatisfiable() {
    let directory = tempfile::tempdir().unwrap();
    let (plain, mut r) = encoded(directory.path());
    add_ssd(&mut r);
    let script = "run() { flux run --resources-shape=\"slot/[core;$1]\" echo found $1; }
        run ssd; run ssd=2; run fpga
        flux alloc -N1 --conf=ingest.validator.args='[\"--require-version=any\"]' \
            flux run --resources-shape='slot/[core;ssd]' echo found within
        true";
    let told = run(directory.path(), &r, script);
    for line in [
        "found ssd",
        "unsatisfiable request: need 1 slot(s) with 2 'ssd' each, only 0 available (total 'ssd': 1)",
        "unsatisfiable request: there is no resource of type 'fpga'",
        "found within",
    ] {
        assert!(told.contains(line), "no {line:?} in\n{told}");
    }
    let told =
        run(directory.path(), &plain, "flux run --resources-shape='slot/[core;ssd]' true; true");
    assert!(told.contains("there is no resource of type 'ssd'"), "{told}");
}
