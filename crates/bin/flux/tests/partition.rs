//! Nodes with networks of their own, which are cut: nothing is said, messages just do not arrive.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nodes::{Nodes, PATIENCE};

/// Set in the process that has a network of its own.
const INSIDE: &str = "FLUX_TEST_NETWORK";

const QUICK: &str = "tcp_user_timeout = \"3s\"\n[heartbeat]\nperiod = \"500ms\"\ntimeout = \"4s\"";

/// A command that must succeed.
#[track_caller]
fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// The networks of a few nodes: the leader's, joined with each other one by a cable.
struct Network {
    homes: Vec<Child>,
}

impl Network {
    /// Of so many nodes; the address of the leader is 10.77.0.1, of the others 10.77.RANK.2.
    fn new(size: usize) -> Self {
        sh("ip link set lo up; ip addr add 10.77.0.1/32 dev lo
            echo 1 >/proc/sys/net/ipv4/ip_forward");
        let mut homes = Vec::new();
        for rank in 1..size {
            let home = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
            let pid = home.id();
            homes.push(home);
            // It has moved out when its network is another one.
            let begin = Instant::now();
            let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
            while network(&pid.to_string()) == network("self") {
                assert!(begin.elapsed() < PATIENCE);
                std::thread::yield_now();
            }
            sh(&format!(
                "ip link add cable{rank} type veth peer name cable netns {pid}
                 ip addr add 10.77.{rank}.1/30 dev cable{rank}; ip link set cable{rank} up
                 nsenter -n -t {pid} sh -ec 'ip link set lo up
                     ip addr add 10.77.{rank}.2/30 dev cable; ip link set cable up
                     ip route add default via 10.77.{rank}.1'"
            ));
        }
        Self { homes }
    }

    /// Starts brokers in them, and waits for all.
    fn start(&self, tbon: &str) -> Nodes {
        let mut endpoints = vec![Some("tcp://10.77.0.1:8050".to_string())];
        let mut wrappers = vec![Vec::new()];
        for (at, home) in self.homes.iter().enumerate() {
            endpoints.push(Some(format!("tcp://10.77.{}.2:8050", at + 1)));
            let pid = home.id().to_string();
            wrappers.push(["nsenter", "-n", "-t", &pid].map(str::to_string).to_vec());
        }
        Nodes::start_at(endpoints, wrappers, tbon)
    }

    fn cable(&self, rank: usize, state: &str) {
        sh(&format!("ip link set cable{rank} {state}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for home in &mut self.homes {
            home.kill().ok();
            home.wait().ok();
        }
    }
}

/// Runs the test of this name in a process that has a network of its own, or, where this is that
/// process, says so.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let tools = "command -v ip && command -v nsenter && unshare -rn ip link set lo up";
    if !Command::new("sh").args(["-c", tools]).output().unwrap().status.success() {
        eprintln!("skipped: there are no network namespaces here");
        return false;
    }
    let status = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    false
}

fn lines(nodes: &Nodes, name: &str) -> Vec<String> {
    let text = fs::read_to_string(nodes.path(name)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    lines
}

/// A job of a task on each node, that waits for the file `gate`.
fn job(nodes: &Nodes) -> String {
    let path = |name: &str| nodes.path(name).display().to_string();
    let (begun, gate, ended) = (path("begun"), path("gate"), path("ended"));
    let script = format!(
        "echo $$ >>{begun}; while ! test -e {gate}; do sleep 0.05; done; echo $$ >>{ended}"
    );
    let all = nodes.brokers.len().to_string();
    let words = ["submit", "-N", &all, "-n", &all, "sh", "-c", &script];
    let id = nodes.text(0, &words).trim().to_string();
    nodes.wait("start", |nodes| lines(nodes, "begun").len() == nodes.brokers.len());
    id
}

fn ends(nodes: &mut Nodes, id: &str) {
    fs::write(nodes.path("gate"), "").unwrap();
    nodes.text(0, &["job", "wait-event", "-qt60", id, "clean"]);
    assert_eq!(nodes.text(0, &["jobs", "-no", "{result}", id]).trim(), "COMPLETED");
    assert_eq!(lines(nodes, "begun"), lines(nodes, "ended"));
    assert_eq!(lines(nodes, "begun").len(), nodes.brokers.len());
    for child in nodes.brokers.iter_mut().flatten() {
        assert!(child.try_wait().unwrap().is_none(), "a broker has ended");
    }
}

/// A request of a client at this rank ends with an error, in time.
fn refused(nodes: &Nodes, rank: usize) {
    let begin = Instant::now();
    let output = nodes.run(rank, &["submit", "true"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
}

#[test]
fn a_router_that_is_cut_off_is_seen_and_comes_back_with_its_subtree_when_the_network_heals() {
    if !inside(
        "a_router_that_is_cut_off_is_seen_and_comes_back_with_its_subtree_when_the_network_heals",
    ) {
        return;
    }
    let network = Network::new(4);
    let mut nodes = network.start(QUICK);
    let id = job(&nodes);
    // Under way when it happens, in both directions.
    let mut down = nodes.command(0, &["exec", "-r", "3", "sleep", "600"]).spawn().unwrap();
    let mut up = nodes.command(3, &["exec", "-r", "2", "sleep", "600"]).spawn().unwrap();
    nodes.wait("processes", |nodes| {
        nodes.run(0, &["exec", "-r", "2,3", "pgrep", "-x", "sleep"]).status.success()
    });
    network.cable(1, "down");
    let seen = nodes.wait("loss", |nodes| nodes.nodes("offline") == "n[1,3]");
    eprintln!("seen after {:.1} s with tcp_user_timeout = 3s", seen.as_secs_f64());
    assert_eq!(down.wait().unwrap().code(), Some(68));
    assert_eq!(up.wait().unwrap().code(), Some(68));
    refused(&nodes, 1);
    refused(&nodes, 3);
    // The others work on.
    nodes.text(2, &["run", "-N2", "-n2", "true"]);
    network.cable(1, "up");
    let back = nodes.wait_for_all();
    eprintln!("back after {:.1} s", back.as_secs_f64());
    nodes.use_all();
    ends(&mut nodes, &id);
}

#[test]
fn a_leader_that_is_cut_off_from_all_keeps_its_jobs_and_gets_everybody_back() {
    if !inside("a_leader_that_is_cut_off_from_all_keeps_its_jobs_and_gets_everybody_back") {
        return;
    }
    let network = Network::new(4);
    let mut nodes = network.start(QUICK);
    let id = job(&nodes);
    for _ in 0..2 {
        for rank in [1, 2] {
            network.cable(rank, "down");
        }
        for rank in 1..4 {
            refused(&nodes, rank);
        }
        nodes.wait("loss", |nodes| nodes.nodes("offline") == "n[1-3]");
        nodes.text(0, &["run", "-n1", "true"]);
        for rank in [1, 2] {
            network.cable(rank, "up");
        }
        nodes.wait_for_all();
        nodes.use_all();
    }
    ends(&mut nodes, &id);
}
