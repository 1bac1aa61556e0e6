//! Brokers that are suspended, and do not answer though their connections are up: seen, shown,
//! kept from jobs, and as before when they go on. (A leaf: `rejoin`.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::time::Instant;

use nix::sys::signal::Signal;
use nodes::{Nodes, PATIENCE};

const QUICK: &str = "torpid_min = \"1s\"\ntorpid_max = \"3s\"
[heartbeat]\nperiod = \"500ms\"\ntimeout = \"4s\"";

const FREE: [&str; 7] = ["resource", "list", "-n", "-s", "free", "-o", "{nodelist}"];

/// Submits a job of one task on each node, which add lines to `begun` and, after `gate`, `ended`.
fn job(nodes: &Nodes, count: usize) -> String {
    let path = |name: &str| nodes.path(name).display().to_string();
    let (begun, gate, ended) = (path("begun"), path("gate"), path("ended"));
    let script = format!(
        "echo $$ >>{begun}; while ! test -e {gate}; do sleep 0.05; done; echo $$ >>{ended}"
    );
    let all = count.to_string();
    let words = ["submit", "-N", &all, "-n", &all, "sh", "-c", &script];
    let id = nodes.text(count - 1, &words).trim().to_string();
    nodes.wait("start", |nodes| lines(nodes, "begun").len() == count);
    id
}

fn lines(nodes: &Nodes, name: &str) -> Vec<String> {
    let text = fs::read_to_string(nodes.path(name)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    lines
}

/// The job ends well, and each of its tasks ran once.
fn ends(nodes: &Nodes, id: &str) {
    fs::write(nodes.path("gate"), "").unwrap();
    nodes.text(0, &["job", "wait-event", "-qt60", id, "clean"]);
    assert_eq!(nodes.text(0, &["jobs", "-no", "{result}", id]).trim(), "COMPLETED");
    assert_eq!(lines(nodes, "begun"), lines(nodes, "ended"));
    assert_eq!(lines(nodes, "begun").len(), nodes.brokers.len());
}

fn nobody_has_ended(nodes: &mut Nodes, pids: &[i32]) {
    for child in nodes.brokers.iter_mut().flatten() {
        assert!(child.try_wait().unwrap().is_none(), "a broker has ended");
    }
    let now: Vec<i32> = (0..nodes.brokers.len()).map(|rank| nodes.pid(rank)).collect();
    assert_eq!(pids, now);
}

#[test]
fn a_stopped_router_is_torpid_its_subtree_gets_no_jobs_and_all_recover() {
    let mut nodes = Nodes::start(7, true, QUICK);
    let pids: Vec<i32> = (0..7).map(|rank| nodes.pid(rank)).collect();
    let id = job(&nodes, 7);
    nodes.signal(1, Signal::SIGSTOP);
    nodes.wait("torpid nodes", |nodes| nodes.nodes("torpid") == "n[1,3-4]");
    // Nobody reaches what is below it.
    nodes.wait("fewer nodes", |nodes| nodes.text(0, &FREE).trim() == "n[0,2,5-6]");
    nodes.text(0, &["run", "-N4", "-n4", "true"]);
    let begin = Instant::now();
    let output = nodes.run(3, &["submit", "true"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(begin.elapsed() < PATIENCE / 2);
    nodes.signal(1, Signal::SIGCONT);
    nodes.wait("lively node", |nodes| nodes.nodes("torpid").is_empty());
    nodes.wait_for_all();
    nodes.use_all();
    ends(&nodes, &id);
    nobody_has_ended(&mut nodes, &pids);
}

#[test]
fn a_stopped_leader_is_told_to_clients_everywhere_and_all_recover() {
    let mut nodes = Nodes::start(3, true, QUICK);
    let pids: Vec<i32> = (0..3).map(|rank| nodes.pid(rank)).collect();
    let id = job(&nodes, 3);
    nodes.signal(0, Signal::SIGSTOP);
    // Whoever asks, then or later, hears of it.
    for _ in 0..2 {
        for rank in [1, 2] {
            let begin = Instant::now();
            let output = nodes.run(rank, &["submit", "true"]);
            assert!(!output.status.success(), "{output:?}");
            assert!(begin.elapsed() < PATIENCE / 2);
        }
    }
    nodes.signal(0, Signal::SIGCONT);
    nodes.wait_for_all();
    nodes.use_all();
    ends(&nodes, &id);
    nobody_has_ended(&mut nodes, &pids);
}
