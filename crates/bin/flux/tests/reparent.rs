//! A router that is lost for good: its subtree goes to the grandparent (`tbon.reparent`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;

use nodes::Nodes;

fn parent(nodes: &Nodes, rank: &str) -> String {
    nodes.text(0, &["overlay", "parentof", rank]).trim().to_string()
}

#[test]
fn the_subtree_of_a_lost_router_runs_on_below_the_leader() {
    let mut nodes = Nodes::start(7, false, "reparent = true\nreparent-timeout = \"1s\"");
    let there = nodes.path("there");
    let flag = nodes.path("flag");
    let script = format!(
        "echo $FLUX_JOB_ID >> {}; while ! test -e {}; do sleep 0.1; done; echo done",
        there.display(),
        flag.display()
    );
    let below = ["-N", "2", "-n", "2", "--requires=hosts:n[3-4]"];
    let mut words = vec!["submit"];
    words.extend(below);
    words.extend(["sh", "-c", &script]);
    let job = nodes.text(0, &words).trim().to_string();
    let lines = || fs::read_to_string(&there).unwrap_or_default().lines().count();
    nodes.wait("tasks", |_| lines() == 2);
    nodes.kill(1);
    nodes.wait("loss", |nodes| !nodes.nodes("offline").is_empty());
    nodes.wait("subtree", |nodes| nodes.nodes("online") == "n[0,2-6]");
    let tree = nodes.text(0, &["overlay", "status", "--no-pretty"]);
    for line in ["0 n0: degraded", "1 n1: lost", "3 n3: full", "4 n4: full"] {
        assert!(tree.contains(line), "{tree}");
    }
    assert_eq!([parent(&nodes, "3"), parent(&nodes, "4"), parent(&nodes, "5")], ["0", "0", "2"]);
    // It is as good as any: for commands there, and for jobs.
    nodes.text(4, &["kvs", "put", "x=1"]);
    assert_eq!(nodes.text(3, &["kvs", "get", "x"]).trim(), "1");
    let run = ["run", "-N", "2", "-n", "2", "--requires=hosts:n[3-4]", "echo", "on"];
    for rank in [0, 3, 6] {
        assert_eq!(nodes.text(rank, &run).lines().count(), 2);
    }
    let state = nodes.text(0, &["jobs", "-no", "{state}", &job]);
    assert_eq!(state.trim(), "RUN");
    // The router is back, and its former children stay where they are.
    nodes.boot(1);
    nodes.wait("whole instance", |nodes| nodes.nodes("online") == "n[0-6]");
    assert_eq!(parent(&nodes, "3"), "0");
    nodes.use_all();
    // One by one they are sent home.
    for rank in ["3", "4"] {
        nodes.text(0, &["overlay", "home", rank]);
        nodes.wait("return", |nodes| parent(nodes, rank) == "1");
    }
    nodes.wait_for_all();
    nodes.use_all();
    fs::write(&flag, "").unwrap();
    let output = nodes.text(5, &["job", "attach", &job]);
    assert_eq!(output.lines().filter(|line| *line == "done").count(), 2, "{output}");
    assert_eq!(lines(), 2, "no task has run twice");
}

#[test]
fn a_test_instance_survives_the_loss_of_a_router_too() {
    for more in ["tbon.torpid_min=5s", "tbon.prefertcp=1"] {
        let script = "kill -9 $(flux exec -r 1 flux getattr broker.pid); \
            until flux exec -r 3-4 flux overlay parentof 3 2>/dev/null | grep -q 0; do sleep 0.1; done; \
            flux run -N 2 -n 2 --requires=ranks:3-4 echo on; flux overlay parentof 4";
        let bin = nodes::program().parent().unwrap().display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
        let output = std::process::Command::new(nodes::program())
            .args(["start", "-s", "7", "-S", "tbon.topo=kary:2", "-S", "tbon.reparent=1"])
            .args(["-S", "tbon.reparent-timeout=1s", "-S", more, "sh", "-c", script])
            .env("PATH", path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.lines().collect::<Vec<_>>(), ["on", "on", "0"], "{output:?}");
    }
}
