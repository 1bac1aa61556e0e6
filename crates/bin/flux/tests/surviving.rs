//! Jobs and those who follow them, while brokers are killed and started again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use nodes::Nodes;

/// `flux job attach` with its streams in files.
struct Attached {
    child: Child,
    out: std::path::PathBuf,
    err: std::path::PathBuf,
}

impl Attached {
    fn start(nodes: &Nodes, rank: usize, words: &[&str]) -> Self {
        let (out, err) = (nodes.path("attached.out"), nodes.path("attached.err"));
        let mut command = nodes.command(rank, words);
        command.stdin(Stdio::piped());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        Self { child: command.spawn().unwrap(), out, err }
    }

    fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    fn end(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(255)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A script that writes lines until the file `go` is there, and then one more.
fn counting(nodes: &Nodes) -> String {
    let go = nodes.path("go");
    format!(
        "i=0; while ! test -e {}; do i=$((i+1)); echo line $i; sleep 0.02; done; echo last $i",
        go.display()
    )
}

/// Whether these are the lines of [`counting`], each once.
fn are_whole(text: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let Some((last, lines)) = lines.split_last() else { return false };
    *last == format!("last {}", lines.len())
        && lines.iter().zip(1..).all(|(line, n)| *line == format!("line {n}"))
}

#[test]
fn whoever_follows_a_job_at_a_broker_that_is_killed_goes_on_when_it_is_back() {
    let mut nodes = Nodes::start(3, false, "");
    let script = counting(&nodes);
    let id = nodes.text(0, &["submit", "--requires=rank:1", "sh", "-c", &script]);
    let id = id.trim();
    let mut attached = Attached::start(&nodes, 2, &["job", "attach", id]);
    nodes.wait("output", |_| attached.out().contains("line 5"));
    nodes.kill(2);
    // It says so, and goes on.
    nodes.wait("word", |_| attached.err().contains("the instance cannot be reached"));
    nodes.boot(2);
    nodes.wait("word", |_| attached.err().contains("the instance is back"));
    fs::write(nodes.path("go"), "").unwrap();
    assert_eq!(attached.end(), 0, "{}", attached.err());
    assert!(are_whole(&attached.out()), "{}", attached.out());
}

#[test]
fn what_is_typed_while_a_broker_is_away_reaches_the_job_once() {
    let mut nodes = Nodes::start(3, false, "");
    let mut attached =
        Attached::start(&nodes, 2, &["run", "--requires=rank:1", "--unbuffered", "cat"]);
    let mut stdin = attached.child.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    nodes.wait("output", |_| attached.out() == "one\n");
    nodes.kill(2);
    stdin.write_all(b"two\n").unwrap();
    nodes.boot(2);
    nodes.wait("output", |_| attached.out() == "one\ntwo\n");
    stdin.write_all(b"three\n").unwrap();
    drop(stdin);
    assert_eq!(attached.end(), 0, "{}", attached.err());
    assert_eq!(attached.out(), "one\ntwo\nthree\n");
}

#[test]
fn many_jobs_are_followed_over_the_loss_of_a_broker() {
    let mut nodes = Nodes::start(3, false, "");
    let script = counting(&nodes);
    let words =
        ["submit", "--quiet", "--watch", "--cc=1-2", "--requires=rank:1", "sh", "-c", &script];
    let mut attached = Attached::start(&nodes, 2, &words);
    nodes.wait("output", |_| attached.out().matches("line 5\n").count() == 2);
    nodes.kill(2);
    nodes.boot(2);
    nodes.wait_for_all();
    fs::write(nodes.path("go"), "").unwrap();
    assert_eq!(attached.end(), 0, "{}", attached.err());
    let text = attached.out();
    assert_eq!(text.matches("last ").count(), 2);
    let expected: usize = text
        .lines()
        .filter_map(|line| line.strip_prefix("last "))
        .map(|n| n.parse::<usize>().unwrap() + 1)
        .sum();
    assert_eq!(text.lines().count(), expected);
}

#[test]
fn events_of_a_job_are_waited_for_over_the_loss_of_brokers() {
    let mut nodes = Nodes::start(3, false, "");
    let script = counting(&nodes);
    let id = nodes.text(0, &["submit", "--requires=rank:1", "sh", "-c", &script]);
    let id = id.trim();
    let spawn = |name: &str, words: &[&str]| {
        let out = fs::File::create(nodes.path(name)).unwrap();
        nodes.command(2, words).stdin(Stdio::null()).stdout(out).spawn().unwrap()
    };
    let mut children = [
        spawn("waited", &["job", "wait-event", "--verbose", id, "clean"]),
        spawn("followed", &["job", "eventlog", "--follow", id]),
        spawn("exec", &["job", "eventlog", "--follow", "--path=exec", id]),
        spawn("done", &["job", "wait-event", "--path=exec", "--quiet", id, "done"]),
    ];
    let read = |nodes: &Nodes, name: &str| fs::read_to_string(nodes.path(name)).unwrap();
    for name in ["waited", "followed", "exec"] {
        nodes.wait("start", |nodes| read(nodes, name).contains("start"));
    }
    let late = ["job", "wait-event", "--timeout=1s", id, "clean"];
    let early = nodes.command(2, &late).stderr(Stdio::piped()).spawn().unwrap();
    nodes.kill(2);
    // A time limit holds while the broker is away.
    let early = early.wait_with_output().unwrap();
    assert!(!early.status.success(), "{early:?}");
    nodes.boot(2);
    nodes.wait_for_all();
    nodes.kill(0);
    nodes.boot(0);
    nodes.wait_for_all();
    fs::write(nodes.path("go"), "").unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let whole = nodes.text(0, &["job", "eventlog", id]);
    assert_eq!([read(&nodes, "waited"), read(&nodes, "followed")], [whole.clone(), whole]);
    assert_eq!(read(&nodes, "exec"), nodes.text(0, &["job", "eventlog", "--path=exec", id]));
}

#[test]
fn an_instance_that_has_ended_is_not_waited_for() {
    let mut nodes = Nodes::start(2, false, "");
    let mut attached = Attached::start(&nodes, 0, &["run", "sleep", "600"]);
    nodes.wait("job", |nodes| nodes.text(0, &["jobs", "-no", "{state}"]).trim() == "RUN");
    nodes.kill(0);
    fs::remove_dir_all(nodes.path("run0")).unwrap();
    assert_eq!(attached.end(), 1);
    assert!(attached.err().contains("the instance has ended"), "{}", attached.err());
}

/// Process ids of the shells of a job at a rank.
fn shells(nodes: &Nodes, rank: usize) -> Vec<i32> {
    let uri = format!("FLUX_URI={}", nodes.uri(rank));
    let found = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let read = |name: &str| {
            String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default())
                .into_owned()
        };
        let mut words = read("cmdline");
        words.truncate(words.trim_end_matches('\0').len());
        let is_shell = words.split('\0').nth(1) == Some("shell");
        let here = read("environ").split('\0').any(|variable| variable == uri);
        (is_shell && here).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    });
    found.collect()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn whoever_follows_a_job_at_the_leader_that_is_killed_loses_no_line() {
    let mut nodes = Nodes::start(2, false, "");
    let script = counting(&nodes);
    for rank in [0, 1] {
        let requires = format!("--requires=rank:{rank}");
        let mut attached = Attached::start(&nodes, 0, &["run", &requires, "sh", "-c", &script]);
        nodes.wait("output", |_| attached.out().contains("line 5"));
        for round in 1..3 {
            nodes.kill(0);
            nodes.boot(0);
            let line = format!("line {}\n", round * 40);
            nodes.wait("output", |_| attached.out().contains(&line));
        }
        fs::write(nodes.path("go"), "").unwrap();
        assert_eq!(attached.end(), 0, "{}", attached.err());
        assert!(are_whole(&attached.out()), "{}", attached.out());
        fs::remove_file(nodes.path("go")).unwrap();
    }
}

#[test]
fn a_job_on_four_nodes_loses_nothing_whoever_is_killed() {
    let mut nodes = Nodes::start(4, false, "");
    let script = counting(&nodes);
    // A leaf, the leader, all of them.
    for killed in [vec![3], vec![0], vec![0, 1, 2, 3]] {
        let words = ["submit", "-N4", "sh", "-c", &script];
        let id = nodes.text(0, &words).trim().to_string();
        let mut attached = Attached::start(&nodes, 0, &["job", "attach", "--label-io", &id]);
        nodes
            .wait("output", |_| (0..4).all(|r| attached.out().contains(&format!("{r}: line 5\n"))));
        for rank in &killed {
            nodes.kill(*rank);
        }
        for rank in &killed {
            nodes.boot(*rank);
        }
        nodes.wait_for_all();
        fs::write(nodes.path("go"), "").unwrap();
        assert_eq!(attached.end(), 0, "{killed:?}: {}\n{}", attached.err(), nodes.logs());
        let text = attached.out();
        for rank in 0..4 {
            let prefix = format!("{rank}: ");
            let own: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
            assert!(are_whole(&own.join("\n")), "{killed:?} {rank}: {text}");
        }
        fs::remove_file(nodes.path("go")).unwrap();
    }
}

#[test]
fn a_stopped_shell_whose_broker_is_killed_meanwhile_goes_on() {
    let mut nodes = Nodes::start(2, false, "");
    let script = counting(&nodes);
    let mut attached =
        Attached::start(&nodes, 0, &["run", "--requires=rank:1", "sh", "-c", &script]);
    nodes.wait("output", |_| attached.out().contains("line 5"));
    let shell = shells(&nodes, 1);
    assert_eq!(shell.len(), 1);
    signal(shell[0], nix::sys::signal::Signal::SIGSTOP);
    nodes.kill(1);
    nodes.boot(1);
    nodes.wait_for_all();
    signal(shell[0], nix::sys::signal::Signal::SIGCONT);
    fs::write(nodes.path("go"), "").unwrap();
    assert_eq!(attached.end(), 0, "{}", attached.err());
    assert!(are_whole(&attached.out()), "{}", attached.out());
}

#[test]
fn a_killed_shell_ends_its_job_and_leaves_no_task() {
    let nodes = Nodes::start(2, false, "");
    let pid = nodes.path("pid");
    let script = format!("echo $$ >{}; sleep 600", pid.display());
    let mut attached =
        Attached::start(&nodes, 0, &["run", "--requires=rank:1", "sh", "-c", &script]);
    let task = || fs::read_to_string(&pid).ok()?.trim().parse::<i32>().ok();
    nodes.wait("task", |_| task().is_some());
    signal(shells(&nodes, 1)[0], nix::sys::signal::Signal::SIGKILL);
    assert_eq!(attached.end(), 137, "{}", attached.err());
    nodes.wait("end of the task", |_| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", task().unwrap()));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
    });
    assert_eq!(nodes.text(0, &["run", "-N2", "echo", "on"]), "on\non\n");
}
