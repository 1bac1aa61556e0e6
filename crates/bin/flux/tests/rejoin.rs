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

/// Two jobs, one on each of the last two nodes, that run until they are told to end; and one that is
/// held. Their ids, and the processes of the two.
fn some_jobs(nodes: &Nodes) -> ([String; 2], String, [String; 2]) {
    let script = |n: usize| {
        let path = nodes.path(&format!("pid{n}")).display().to_string();
        let go = nodes.path("go").display().to_string();
        format!("echo $$ >>{path}; while [ ! -e {go} ]; do sleep 0.1; done")
    };
    let ids = [1, 2].map(|n| {
        let host = format!("--requires=host:n{n}");
        nodes.text(1, &["submit", &host, "sh", "-c", &script(n)]).trim().to_string()
    });
    let held = nodes.text(1, &["submit", "--urgency=hold", "true"]).trim().to_string();
    let pid = |n: usize| fs::read_to_string(nodes.path(&format!("pid{n}"))).unwrap_or_default();
    nodes.wait("processes", |_| [1, 2].iter().all(|n| pid(*n).ends_with('\n')));
    (ids, held, [pid(1), pid(2)])
}

/// The two go on as the processes that they were, and end well.
fn they_go_on(nodes: &Nodes, ids: &[String; 2], held: &str, pids: &[String; 2]) {
    let state = nodes.text(2, &["jobs", "-no", "{state} {urgency}", held]);
    assert_eq!(state.trim(), "SCHED 0");
    for id in ids {
        assert_eq!(nodes.text(2, &["jobs", "-no", "{state}", id]).trim(), "RUN");
    }
    fs::write(nodes.path("go"), "").unwrap();
    for (n, id) in ids.iter().enumerate() {
        nodes.text(2, &["job", "wait-event", "-t", "60", id, "clean"]);
        assert_eq!(nodes.text(2, &["jobs", "-no", "{status}", id]).trim(), "COMPLETED");
        let now = fs::read_to_string(nodes.path(&format!("pid{}", n + 1))).unwrap();
        assert_eq!(now, pids[n], "it ran twice");
    }
    nodes.text(2, &["cancel", held]);
    nodes.use_all();
}

fn is_alive(pid: &str) -> bool {
    PathBuf::from(format!("/proc/{}", pid.trim())).exists()
}

#[test]
fn a_leader_that_is_stopped_ends_jobs_and_followers_and_the_queue_stays() {
    let mut nodes = Nodes::start(3, false, "");
    let (ids, held, pids) = some_jobs(&nodes);
    nodes.signal(0, nix::sys::signal::Signal::SIGTERM);
    for rank in 0..3 {
        assert_eq!(nodes.ended(rank), 0, "rank {rank}\n{}", nodes.logs());
    }
    assert!(!pids.iter().any(|pid| is_alive(pid)), "processes of jobs are left");
    for rank in 0..3 {
        nodes.boot(rank);
    }
    nodes.wait_for_all();
    for id in &ids {
        assert_eq!(nodes.text(2, &["jobs", "-no", "{status}", id]).trim(), "CANCELED");
        let log = nodes.text(2, &["job", "eventlog", id]);
        assert!(log.contains("the instance is shutting down"), "{log}");
    }
    let state = nodes.text(2, &["jobs", "-no", "{state} {urgency}", &held]);
    assert_eq!(state.trim(), "SCHED 0");
    nodes.text(2, &["cancel", &held]);
    nodes.use_all();
}

#[test]
fn a_shutdown_that_keeps_jobs_ends_every_broker_and_the_next_start_goes_on_with_them() {
    let mut nodes = Nodes::start(3, false, "[exec]\nlost-node-grace = \"0s\"");
    let (ids, held, pids) = some_jobs(&nodes);
    nodes.text(1, &["shutdown", "--keep-jobs"]);
    for rank in 0..3 {
        assert_eq!(nodes.ended(rank), 0, "rank {rank}\n{}", nodes.logs());
    }
    assert!(pids.iter().all(|pid| is_alive(pid)), "a job has ended");
    for rank in 0..3 {
        nodes.boot(rank);
    }
    nodes.wait_for_all();
    they_go_on(&nodes, &ids, &held, &pids);
}

#[test]
fn a_leader_that_is_shut_down_alone_is_waited_for() {
    let mut nodes = Nodes::start(3, false, "");
    let (ids, held, pids) = some_jobs(&nodes);
    let brokers = [nodes.pid(1), nodes.pid(2)];
    nodes.text(0, &["shutdown", "--alone"]);
    assert_eq!(nodes.ended(0), 0, "{}", nodes.logs());
    nodes.boot(0);
    nodes.wait_for_all();
    assert_eq!(brokers, [nodes.pid(1), nodes.pid(2)]);
    they_go_on(&nodes, &ids, &held, &pids);
}

#[test]
fn a_leader_that_leaves_jobs_when_it_is_stopped_finds_its_instance_as_it_was() {
    let mut nodes = Nodes::start(3, false, "[exec]\non-shutdown = \"leave\"");
    let (ids, waiting, processes) = some_jobs(&nodes);
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
    they_go_on(&nodes, &ids, &waiting, &processes);
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
