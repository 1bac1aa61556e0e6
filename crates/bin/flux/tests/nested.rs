//! Instances that are jobs of another instance, whose brokers are killed; and the other way round.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nodes::{Nodes, program};

/// Whether a process runs.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// An instance on two nodes, as a job: it says who its brokers are, runs a job on both nodes which
/// waits, and ends as that does.
struct Nested {
    id: String,
    /// Process ids of its brokers, and of the tasks of its job.
    brokers: Vec<String>,
    tasks: Vec<String>,
    /// The script, where it runs beside the instance.
    script: Option<Child>,
}

impl Drop for Nested {
    fn drop(&mut self) {
        if let Some(script) = &mut self.script {
            script.kill().ok();
            script.wait().ok();
        }
    }
}

fn lines(nodes: &Nodes, name: &str) -> Vec<String> {
    let text = fs::read_to_string(nodes.path(name)).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

/// A command that finds `flux`, as those that it starts do.
fn command(nodes: &Nodes, rank: usize, words: &[&str]) -> Command {
    let bin = program().parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = nodes.command(rank, words);
    command.env("PATH", path).current_dir(nodes.path(""));
    command
}

#[track_caller]
fn text(nodes: &Nodes, rank: usize, words: &[&str]) -> String {
    let output = command(nodes, rank, words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}\n{}", nodes.logs());
    String::from_utf8(output.stdout).unwrap()
}

impl Nested {
    fn start(nodes: &Nodes, kind: &[&str]) -> Self {
        let path = |name: &str| nodes.path(name).display().to_string();
        let script = format!(
            "#!/bin/sh\nfor r in 0 1; do flux exec -r $r flux getattr broker.pid; done >{brokers}\n\
             flux run -N2 -n2 sh -c 'echo $$ >>{tasks}; echo begun; \
             while ! test -e {go}; do sleep 0.05; done; echo ended'\n",
            brokers = path("brokers"),
            tasks = path("tasks"),
            go = path("go"),
        );
        fs::write(nodes.path("script"), script).unwrap();
        let script = path("script");
        let words = [kind, &["-N2", "--requires=ranks:1-2"]].concat();
        let mut script_of = None;
        let id = match kind[0] {
            "batch" => text(nodes, 0, &[&words[..], &["--output=out", &script]].concat()),
            _ => {
                let id = text(nodes, 0, &[&words[..], &["--bg"]].concat());
                let inside = ["proxy", id.trim(), "sh", &script];
                script_of = Some(command(nodes, 0, &inside).stdout(Stdio::null()).spawn().unwrap());
                id
            }
        };
        nodes.wait("nested job", |nodes| lines(nodes, "tasks").len() == 2);
        let (brokers, tasks) = (lines(nodes, "brokers"), lines(nodes, "tasks"));
        assert_eq!(brokers.len(), 2);
        Self { id: id.trim().to_string(), brokers, tasks, script: script_of }
    }

    fn runs(&self) -> bool {
        self.brokers.iter().chain(&self.tasks).all(|pid| runs(pid))
    }

    /// It can be spoken to from outside, and works.
    fn is_used(&self, nodes: &Nodes) {
        for rank in [0, 2] {
            let words = ["proxy", &self.id, "flux", "getattr", "size"];
            assert_eq!(text(nodes, rank, &words).trim(), "2");
            let words = ["proxy", &self.id, "flux", "jobs", "-no", "{state}"];
            assert_eq!(text(nodes, rank, &words).trim(), "RUN");
            let words = ["proxy", &self.id, "flux", "exec", "-r", "all", "echo", "on"];
            assert_eq!(text(nodes, rank, &words).lines().count(), 2);
        }
    }
}

#[test]
fn a_nested_instance_runs_on_when_brokers_of_the_outer_one_are_killed() {
    let mut nodes = Nodes::start(3, false, "");
    let nested = Nested::start(&nodes, &["batch"]);
    // The leader, the node of its rank 0, that of its rank 1, then all at once.
    for ranks in [&[0][..], &[1], &[2], &[0, 1, 2]] {
        for rank in ranks {
            nodes.kill(*rank);
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(nested.runs(), "{ranks:?}");
        for rank in ranks {
            nodes.boot(*rank);
        }
        nodes.wait_for_all();
        assert!(nested.runs(), "{ranks:?}");
        let state = nodes.text(0, &["jobs", "-no", "{state}", &nested.id]);
        assert_eq!(state.trim(), "RUN");
        nested.is_used(&nodes);
    }
    fs::write(nodes.path("go"), "").unwrap();
    nodes.text(0, &["job", "wait-event", "-qt60", &nested.id, "clean"]);
    let result = nodes.text(0, &["jobs", "-no", "{result}", &nested.id]);
    assert_eq!(result.trim(), "COMPLETED", "{}", nodes.text(0, &["job", "eventlog", &nested.id]));
    assert_eq!(lines(&nodes, "tasks"), nested.tasks, "it ran twice");
    assert!(!nested.brokers.iter().chain(&nested.tasks).any(|pid| runs(pid)));
    nodes.use_all();
}

#[test]
fn a_nested_instance_whose_leader_is_killed_ends_with_a_reason_and_leaves_nothing() {
    for kind in [&["batch"][..], &["alloc"]] {
        let nodes = Nodes::start(3, false, "");
        let nested = Nested::start(&nodes, kind);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(nested.brokers[0].parse().unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        nodes.text(0, &["job", "wait-event", "-qt60", &nested.id, "clean"]);
        let result = nodes.text(0, &["jobs", "-no", "{result}", &nested.id]);
        let log = nodes.text(0, &["job", "eventlog", "-p", "exec", &nested.id]);
        assert_eq!(result.trim(), "FAILED", "{kind:?} {log}");
        assert!(log.contains("shell.task-exit") && log.contains("signaled=9"), "{kind:?} {log}");
        // What it had started is ended, on both nodes.
        nodes.wait("end of all", |_| {
            !nested.brokers.iter().chain(&nested.tasks).any(|pid| runs(pid))
        });
        nodes.use_all();
    }
}

#[test]
fn a_nested_instance_that_loses_another_broker_ends_as_its_script_does() {
    let nodes = Nodes::start(3, false, "");
    let nested = Nested::start(&nodes, &["batch"]);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(nested.brokers[1].parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    nodes.text(0, &["job", "wait-event", "-qt90", &nested.id, "clean"]);
    let result = nodes.text(0, &["jobs", "-no", "{result}", &nested.id]);
    assert_eq!(result.trim(), "FAILED");
    nodes.wait("end of all", |_| !nested.brokers.iter().chain(&nested.tasks).any(|pid| runs(pid)));
    nodes.use_all();
}
