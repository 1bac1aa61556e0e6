//! Brokers of a configured instance that are killed, stopped and started again, each by itself,
//! while the others run on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use nodes::{Nodes, PATIENCE};

/// A watch of a key at a rank, whose output is in a file.
struct Watch {
    child: Child,
    out: PathBuf,
}

impl Watch {
    fn start(nodes: &Nodes, rank: usize, key: &str) -> Self {
        let out = nodes.path(&format!("watch{rank}"));
        let file = fs::File::create(&out).unwrap();
        let mut command = nodes.command(rank, &["kvs", "get", "--watch", "--waitcreate", key]);
        Self { child: command.stdout(file).stderr(Stdio::inherit()).spawn().unwrap(), out }
    }

    fn seen(&self) -> String {
        fs::read_to_string(&self.out).unwrap().lines().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_killed_leader_that_is_started_again_gets_its_followers_back_as_they_are() {
    let mut nodes = Nodes::start(7, false, "");
    nodes.use_all();
    let pids: Vec<i32> = (1..7).map(|rank| nodes.pid(rank)).collect();
    nodes.text(3, &["kvs", "put", "x=1"]);
    let watch = Watch::start(&nodes, 6, "x");
    nodes.wait("first value", |_| watch.seen() == "1");
    for round in 2..4 {
        nodes.kill(0);
        // A clear error at once, wherever one asks.
        for rank in [1, 6] {
            let words = ["kvs", "put", "y=1"];
            nodes.wait("error", |nodes| !nodes.run(rank, &words).status.success());
            let begin = Instant::now();
            let output = nodes.run(rank, &["submit", "true"]);
            assert!(!output.status.success());
            assert!(begin.elapsed() < PATIENCE / 2);
        }
        nodes.boot(0);
        nodes.wait_for_all();
        nodes.text(3, &["kvs", "put", &format!("x={round}")]);
        let seen = (1..=round).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        nodes.wait("next value", |_| watch.seen() == seen);
        nodes.use_all();
    }
    let now: Vec<i32> = (1..7).map(|rank| nodes.pid(rank)).collect();
    assert_eq!(pids, now);
    for child in nodes.brokers.iter_mut().flatten() {
        assert!(child.try_wait().unwrap().is_none(), "a follower has ended");
    }
}

#[test]
fn a_killed_router_or_leaf_comes_back_and_its_subtree_with_it() {
    let mut nodes = Nodes::start(7, false, "");
    nodes.text(0, &["kvs", "put", "x=1"]);
    let watch = Watch::start(&nodes, 6, "x");
    nodes.wait("first value", |_| watch.seen() == "1");
    nodes.kill(2);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n[2,5-6]");
    let errors = nodes.text(0, &["overlay", "errors"]);
    assert!(errors.contains("n2: lost connection"), "{errors}");
    // Seen by nobody below.
    nodes.text(0, &["kvs", "put", "x=2"]);
    nodes.text(0, &["kvs", "put", "x=3"]);
    let lost = nodes.run(0, &["exec", "-r", "6", "true"]);
    assert_eq!(lost.status.code(), Some(68));
    nodes.boot(2);
    nodes.wait_for_all();
    nodes.wait("last value", |_| watch.seen() == "1 3");
    nodes.use_all();
    nodes.kill(5);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n5");
    nodes.boot(5);
    nodes.wait_for_all();
    nodes.use_all();
}

#[test]
fn a_router_that_is_stopped_alone_leaves_its_subtree_running() {
    let mut nodes = Nodes::start(7, false, "");
    nodes.signal(1, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(nodes.ended(1), 0);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n[1,3-4]");
    nodes.boot(1);
    nodes.wait_for_all();
    nodes.use_all();
    // The end of the whole instance is another thing: all go.
    nodes.text(0, &["shutdown"]);
    for rank in 0..7 {
        assert_eq!(nodes.ended(rank), 0, "rank {rank}\n{}", nodes.logs());
    }
}

#[test]
fn a_leader_that_is_stopped_and_started_finds_its_instance_as_it_was() {
    let mut nodes = Nodes::start(3, false, "");
    let held = nodes.text(1, &["submit", "--urgency=hold", "true"]);
    let pids = [nodes.pid(1), nodes.pid(2)];
    nodes.signal(0, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(nodes.ended(0), 0, "{}", nodes.logs());
    nodes.boot(0);
    nodes.wait_for_all();
    assert_eq!(pids, [nodes.pid(1), nodes.pid(2)]);
    let state = nodes.text(2, &["jobs", "-no", "{state} {urgency}", held.trim()]);
    assert_eq!(state.trim(), "SCHED 0");
    nodes.text(2, &["cancel", held.trim()]);
    nodes.use_all();
    for child in nodes.brokers.iter_mut().flatten() {
        assert!(child.try_wait().unwrap().is_none(), "a follower has ended");
    }
    // Nothing owes an answer for long.
    nodes.text(0, &["module", "health", "-r", "all", "--older", "30s"]);
}

#[test]
fn a_disconnected_broker_fails_its_requests_and_ends_to_be_started_again() {
    let mut nodes = Nodes::start(3, true, "");
    let mut held = nodes.command(0, &["exec", "-r", "2", "sleep", "600"]).spawn().unwrap();
    nodes.wait("process", |nodes| nodes.text(0, &["exec", "-r", "2", "true"]).is_empty());
    nodes.text(0, &["overlay", "disconnect", "2"]);
    assert_eq!(held.wait().unwrap().code(), Some(68));
    assert_eq!(nodes.ended(2), 1);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n2");
    nodes.boot(2);
    nodes.wait_for_all();
    nodes.use_all();
}

#[test]
fn a_stopped_leaf_is_torpid_gets_no_jobs_and_recovers() {
    let nodes = Nodes::start(3, true, "torpid_min = \"1s\"\ntorpid_max = \"3s\"");
    nodes.signal(2, nix::sys::signal::Signal::SIGSTOP);
    nodes.wait("torpid node", |nodes| nodes.nodes("torpid") == "n2");
    let free = ["resource", "list", "-n", "-s", "free", "-o", "{nodelist}"];
    nodes.wait("fewer nodes", |nodes| nodes.text(0, &free).trim() == "n[0-1]");
    nodes.text(0, &["run", "-N", "2", "true"]);
    nodes.signal(2, nix::sys::signal::Signal::SIGCONT);
    nodes.wait("lively node", |nodes| nodes.nodes("torpid").is_empty());
    nodes.wait_for_all();
    nodes.use_all();
}
