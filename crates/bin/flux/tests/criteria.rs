//! The exit criteria of durable state, by name: a leader is killed and started again, and running
//! jobs keep their processes, pending ones run in their order, and all settings are as before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::process::Stdio;

use nodes::Nodes;

const CONFIG: &str = "
[queues.batch]
[queues.debug]
[policy.jobspec.defaults.system]
queue = \"batch\"";

/// Whether a process runs.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Lines that jobs have added to a file.
fn lines(nodes: &Nodes, name: &str) -> Vec<String> {
    let text = fs::read_to_string(nodes.path(name)).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

/// Submits a job that adds its process id to the file `NAME`, and ends when `gate` is there.
fn waiting(nodes: &Nodes, rank: usize, name: &str, options: &[&str]) -> String {
    let script = format!(
        "echo $$ >>{}; echo begun; while ! test -e {}; do sleep 0.05; done; echo ended",
        nodes.path(name).display(),
        nodes.path("gate").display()
    );
    submit(nodes, rank, options, &script)
}

/// Submits a job that adds its name to the file `order`.
fn noting(nodes: &Nodes, rank: usize, name: &str, options: &[&str]) -> String {
    let script =
        format!("test $FLUX_TASK_RANK != 0 || echo {name} >>{}", nodes.path("order").display());
    submit(nodes, rank, options, &script)
}

fn submit(nodes: &Nodes, rank: usize, options: &[&str], script: &str) -> String {
    let words: Vec<&str> =
        [&["submit"], options, &["sh", "-c", script]].into_iter().flatten().copied().collect();
    nodes.text(rank, &words).trim().to_string()
}

/// All that is to be after a restart as it was before.
fn state(nodes: &Nodes, rank: usize) -> String {
    let jobs =
        "{id} {state} {urgency} {priority} {queue} {ranks} {dependencies} {t_submit} {t_run}";
    let drains = ["resource", "drain", "-no", "{ranks} {timestamp} {reason}"];
    [
        nodes.text(rank, &["jobs", "-ano", jobs]),
        nodes.text(rank, &drains),
        nodes.text(rank, &["queue", "status"]),
        nodes.text(rank, &["config", "get", "queues"]),
        nodes.text(rank, &["kvs", "get", "acknowledged"]),
    ]
    .concat()
}

fn the_leader_is_killed_and_started(size: usize) {
    let mut nodes = Nodes::start(size, true, CONFIG);
    let last = size - 1;
    let (all, most) = (size.to_string(), last.max(1).to_string());
    nodes.text(0, &["queue", "start", "--quiet", "--all"]);
    let done = submit(&nodes, last, &[], "true");
    nodes.text(0, &["job", "wait-event", "-qt60", &done, "clean"]);
    nodes.text(last, &["kvs", "put", "acknowledged=yes"]);
    let debug = noting(&nodes, 0, "debug", &["-n1", "-qdebug"]);
    nodes.text(0, &["job", "wait-event", "-qt60", &debug, "clean"]);
    // Two that run, which is all that two cores can do: on all nodes, and on the last one.
    let wide = waiting(&nodes, last, "wide", &["-N", &all, "-n", &all, "-t1h"]);
    nodes.wait("start", |nodes| lines(nodes, "wide").len() == size);
    let on_last = format!("--requires=ranks:{last}");
    let narrow = waiting(&nodes, 0, "narrow", &["-n1", &on_last]);
    nodes.wait("start", |nodes| lines(nodes, "narrow").len() == 1);
    // Some that wait for whole nodes; they will run one after the other.
    let whole = ["-N", &most, "-n", &most, "--exclusive"];
    let whole = |more: &[&'static str]| [&whole[..], more].concat();
    let first = noting(&nodes, last, "first", &whole(&[]));
    noting(&nodes, 0, "after", &["-n1", &format!("--dependency=afterok:{first}")]);
    noting(&nodes, 0, "second", &whole(&[]));
    noting(&nodes, last, "urgent", &whole(&["--urgency=20"]));
    let raised = noting(&nodes, 0, "raised", &whole(&[]));
    nodes.text(last, &["job", "urgency", &raised, "25"]);
    let held = noting(&nodes, last, "held", &whole(&["--urgency=hold"]));
    nodes.text(last, &["queue", "stop", "--quiet", "-m", "for now", "debug"]);
    let stopped = noting(&nodes, last, "stopped", &["-n1", "-qdebug"]);
    nodes.text(0, &["queue", "disable", "--quiet", "-m", "closed", "debug"]);
    nodes.text(last, &["resource", "drain", "0", "broken", "fan"]);
    let attached = nodes
        .command(last, &["job", "attach", &wide])
        .stdin(Stdio::null())
        .stdout(fs::File::create(nodes.path("attached")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    nodes.wait("output", |nodes| lines(nodes, "attached").len() == size);

    let before = state(&nodes, last);
    let (wide_pids, narrow_pids) = (lines(&nodes, "wide"), lines(&nodes, "narrow"));
    let alive = || wide_pids.iter().chain(&narrow_pids).all(|pid| runs(pid));
    let followers: Vec<i32> = (1..size).map(|rank| nodes.pid(rank)).collect();
    for _ in 0..2 {
        nodes.kill(0);
        assert!(alive());
        nodes.boot(0);
        nodes.wait_for_all();
        assert_eq!(state(&nodes, last), before);
        assert_eq!(lines(&nodes, "order"), ["debug"]);
    }
    assert_eq!(followers, (1..size).map(|rank| nodes.pid(rank)).collect::<Vec<i32>>());
    assert!(nodes.brokers.iter_mut().flatten().all(|child| child.try_wait().unwrap().is_none()));
    assert!(alive());

    // What ran ends well, where it ran.
    fs::write(nodes.path("gate"), "").unwrap();
    for (name, id, pids) in [("wide", &wide, &wide_pids), ("narrow", &narrow, &narrow_pids)] {
        nodes.text(0, &["job", "wait-event", "-qt60", id, "clean"]);
        assert_eq!(nodes.text(0, &["jobs", "-no", "{result}", id]).trim(), "COMPLETED");
        assert_eq!(&lines(&nodes, name), pids, "{name} ran twice");
        let exceptions = nodes.text(0, &["job", "eventlog", id]);
        assert!(!exceptions.contains("exception"), "{exceptions}");
    }
    let output = attached.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let words = lines(&nodes, "attached");
    let count = |word: &str| words.iter().filter(|line| *line == word).count();
    assert_eq!((words.len(), count("begun"), count("ended")), (2 * size, size, size), "{words:?}");

    // What waited runs, in its order; what was held or stopped waits on.
    if size == 1 {
        assert_eq!(lines(&nodes, "order"), ["debug"], "the only node is drained");
        nodes.text(0, &["resource", "undrain", "0"]);
    }
    nodes.wait("pending jobs", |nodes| lines(nodes, "order").len() == 6);
    let order = lines(&nodes, "order");
    let whole: Vec<&String> = order.iter().filter(|name| *name != "after").collect();
    assert_eq!(whole, ["debug", "raised", "urgent", "first", "second"], "{order:?}");
    for id in [&held, &stopped] {
        assert_eq!(nodes.text(0, &["jobs", "-no", "{state}", id]).trim(), "SCHED");
    }
    // And new ids are later ones.
    let new = submit(&nodes, last, &[], "true");
    let number = |id: &str| id.parse::<flux_id::JobId>().unwrap().0;
    assert!(number(&new) > number(&stopped));
    nodes.text(0, &["queue", "start", "--quiet", "debug"]);
    nodes.text(0, &["job", "urgency", &held, "default"]);
    nodes.text(0, &["queue", "drain", "--timeout=60s"]);
    let results = nodes.text(0, &["jobs", "-ano", "{result}"]);
    assert_eq!(results.lines().filter(|result| *result == "COMPLETED").count(), 12, "{results}");
}

#[test]
fn a_killed_leader_of_four_configured_brokers_finds_everything_as_it_was() {
    the_leader_is_killed_and_started(4);
}

#[test]
fn a_killed_instance_of_one_broker_finds_everything_as_it_was() {
    the_leader_is_killed_and_started(1);
}
