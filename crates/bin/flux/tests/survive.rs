//! Running jobs survive the death of any broker: real brokers, killed and started again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nodes::{Nodes, PATIENCE, program};

/// Whether a process runs.
fn runs(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => !text.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// The supervisor of the job shells of a rank.
fn supervisor(nodes: &Nodes, rank: usize) -> i32 {
    let place = nodes.path(&format!("state{rank}/jobs/{rank}"));
    let wanted = format!("supervise\0{}\0", place.display());
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let found = String::from_utf8_lossy(&line).ends_with(&wanted);
        found.then(|| entry.file_name().to_str()?.parse().ok())?
    });
    found.unwrap()
}

/// A job that says when it starts, waits for a file, and says when it ends.
struct Job {
    name: String,
    id: String,
}

impl Job {
    /// Submits it; each of its tasks adds a line to a file at its start, with its process id.
    fn submit(nodes: &Nodes, rank: usize, name: &str, options: &[&str]) -> Self {
        let path = |word: &str| nodes.path(&format!("{name}.{word}")).display().to_string();
        let script = format!(
            "echo $$ >>{}; echo begun; while ! test -e {}; do sleep 0.05; done; echo ended; exit 3",
            path("started"),
            path("gate")
        );
        let words: Vec<&str> =
            [&["submit"], options, &["sh", "-c", &script]].into_iter().flatten().copied().collect();
        let id = nodes.text(rank, &words).trim().to_string();
        Self { name: name.to_string(), id }
    }

    /// Process ids of the tasks that were ever started.
    fn pids(&self, nodes: &Nodes) -> Vec<i32> {
        let path = nodes.path(&format!("{}.started", self.name));
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn wait_started(&self, nodes: &Nodes, count: usize) -> Vec<i32> {
        nodes.wait("start", |nodes| self.pids(nodes).len() == count);
        self.pids(nodes)
    }

    fn open_gate(&self, nodes: &Nodes) {
        fs::write(nodes.path(&format!("{}.gate", self.name)), "").unwrap();
    }

    fn wait_end(&self, nodes: &Nodes) {
        nodes.text(0, &["job", "wait-event", "-q", "-t", "60", &self.id, "clean"]);
    }

    /// Names of the events of the job.
    fn events(&self, nodes: &Nodes) -> Vec<String> {
        let log = nodes.text(0, &["job", "eventlog", "-f", "json", &self.id]);
        let name = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["name"].as_str().unwrap().to_string()
        };
        log.lines().map(name).collect()
    }

    fn event(&self, nodes: &Nodes, name: &str) -> serde_json::Value {
        let log = nodes.text(0, &["job", "eventlog", "-f", "json", &self.id]);
        log.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|event| event["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {log}"))
    }

    /// It has run once, to its end, and all that it has written is there.
    #[track_caller]
    fn check(&self, nodes: &Nodes, pids: &[i32]) {
        self.wait_end(nodes);
        assert_eq!(self.pids(nodes), pids, "no task was started twice");
        assert!(pids.iter().all(|pid| !runs(*pid)));
        let output = nodes.run(0, &["job", "attach", &self.id]);
        let text = String::from_utf8(output.stdout).unwrap();
        let count = |word| text.lines().filter(|line| *line == word).count();
        assert_eq!((count("begun"), count("ended")), (pids.len(), pids.len()), "{text}");
        assert_eq!(self.event(nodes, "finish")["context"]["status"], 3 << 8);
        let events = self.events(nodes);
        for name in ["start", "finish", "release", "free", "clean"] {
            assert_eq!(events.iter().filter(|event| *event == name).count(), 1, "{events:?}");
        }
        assert!(!events.contains(&"exception".to_string()), "{events:?}");
        let log = nodes.text(0, &["job", "eventlog", "-p", "exec", &self.id]);
        for name in ["init", "starting", "complete", "done", "shell.start"] {
            let found = log.lines().filter(|line| line.split(' ').nth(1) == Some(name));
            assert_eq!(found.count(), 1, "{name} in {log}");
        }
    }
}

#[test]
fn a_job_runs_on_when_its_only_broker_is_killed_and_started_again() {
    let mut nodes = Nodes::start(1, false, "");
    let job = Job::submit(&nodes, 0, "one", &[]);
    let pids = job.wait_started(&nodes, 1);
    for _ in 0..2 {
        nodes.kill(0);
        assert!(runs(pids[0]));
        nodes.boot(0);
        nodes.wait_for_all();
        let state = nodes.text(0, &["jobs", "-no", "{state}", &job.id]);
        assert_eq!(state.trim(), "RUN");
        assert!(runs(pids[0]));
    }
    job.open_gate(&nodes);
    job.check(&nodes, &pids);
}

#[test]
fn a_job_that_ends_while_no_broker_is_there_has_its_result_all_the_same() {
    let mut nodes = Nodes::start(1, false, "");
    let job = Job::submit(&nodes, 0, "one", &[]);
    let pids = job.wait_started(&nodes, 1);
    nodes.kill(0);
    job.open_gate(&nodes);
    nodes.wait("end of the task", |_| !runs(pids[0]));
    nodes.boot(0);
    nodes.wait_for_all();
    job.check(&nodes, &pids);
}

#[test]
fn a_job_that_was_found_again_can_be_canceled() {
    let mut nodes = Nodes::start(1, false, "");
    let job = Job::submit(&nodes, 0, "one", &[]);
    let pids = job.wait_started(&nodes, 1);
    nodes.kill(0);
    nodes.boot(0);
    nodes.wait_for_all();
    nodes.text(0, &["cancel", &job.id]);
    job.wait_end(&nodes);
    assert!(!runs(pids[0]));
    assert_eq!(job.pids(&nodes), pids);
    let events = job.events(&nodes);
    assert_eq!(events.iter().filter(|name| *name == "exception").count(), 1, "{events:?}");
    assert_eq!(job.event(&nodes, "exception")["context"]["type"], "cancel");
}

#[test]
fn a_job_whose_shell_is_lost_ends_with_one_exception_and_leaves_nothing() {
    let mut nodes = Nodes::start(1, false, "");
    let job = Job::submit(&nodes, 0, "one", &[]);
    let pids = job.wait_started(&nodes, 1);
    nodes.kill(0);
    kill(supervisor(&nodes, 0));
    nodes.boot(0);
    nodes.wait_for_all();
    job.wait_end(&nodes);
    assert!(!runs(pids[0]));
    let events = job.events(&nodes);
    assert_eq!(events.iter().filter(|name| *name == "exception").count(), 1, "{events:?}");
    let exception = job.event(&nodes, "exception");
    let note = exception["context"]["note"].as_str().unwrap();
    assert!(note.starts_with("the job shell on n0 (rank 0) is lost"), "{note}");
    nodes.text(0, &["run", "true"]);
}

#[test]
fn a_shell_whose_record_is_gone_is_one_exception_and_leaves_nothing() {
    let mut nodes = Nodes::start(2, false, "");
    let job = Job::submit(&nodes, 0, "one", &["--requires=rank:1"]);
    let pids = job.wait_started(&nodes, 1);
    nodes.kill(1);
    kill(supervisor(&nodes, 1));
    fs::remove_dir_all(nodes.path("state1/jobs")).unwrap();
    assert!(runs(pids[0]));
    nodes.boot(1);
    job.wait_end(&nodes);
    assert!(!runs(pids[0]), "its cores are free");
    let events = job.events(&nodes);
    assert_eq!(events.iter().filter(|name| *name == "exception").count(), 1, "{events:?}");
    let exception = job.event(&nodes, "exception");
    let note = exception["context"]["note"].as_str().unwrap();
    assert_eq!(note, "the job shell on n1 (rank 1) is lost: it is not on record there");
    nodes.text(0, &["run", "--requires=rank:1", "true"]);
}

#[test]
fn a_killed_leader_of_four_finds_running_jobs_running_and_pending_ones_run() {
    let mut nodes = Nodes::start(4, false, "");
    let wide = Job::submit(&nodes, 1, "wide", &["-N4", "-n4"]);
    let wide_pids = wide.wait_started(&nodes, 4);
    let narrow = Job::submit(&nodes, 3, "narrow", &["-n1", "--requires=ranks:3"]);
    let narrow_pids = narrow.wait_started(&nodes, 1);
    // The whole instance for itself: it waits.
    let pending = Job::submit(&nodes, 2, "pending", &["-N4", "-n4", "--exclusive"]);
    nodes.kill(0);
    assert!(wide_pids.iter().chain(&narrow_pids).all(|pid| runs(*pid)));
    nodes.boot(0);
    nodes.wait_for_all();
    assert!(wide_pids.iter().chain(&narrow_pids).all(|pid| runs(*pid)));
    assert!(pending.pids(&nodes).is_empty());
    wide.open_gate(&nodes);
    narrow.open_gate(&nodes);
    wide.check(&nodes, &wide_pids);
    narrow.check(&nodes, &narrow_pids);
    let pids = pending.wait_started(&nodes, 4);
    pending.open_gate(&nodes);
    pending.check(&nodes, &pids);
}

#[test]
fn a_killed_follower_that_returns_finds_its_shells() {
    let mut nodes = Nodes::start(3, false, "");
    let job = Job::submit(&nodes, 0, "wide", &["-N3", "-n3"]);
    let pids = job.wait_started(&nodes, 3);
    nodes.kill(1);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n1");
    assert!(pids.iter().all(|pid| runs(*pid)));
    nodes.boot(1);
    nodes.wait_for_all();
    assert!(pids.iter().all(|pid| runs(*pid)));
    job.open_gate(&nodes);
    job.check(&nodes, &pids);
}

/// An instance that cannot come back.
fn temporary(script: &str) -> std::process::Output {
    let directory = program().parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    Command::new(program())
        .args(["start", "sh", "-c", script])
        .env("PATH", path)
        .env_remove("FLUX_URI")
        .output()
        .unwrap()
}

#[test]
fn nothing_is_left_of_an_instance_that_cannot_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for end in ["exit 0", "kill -9 $(flux getattr broker.pid)"] {
        let file = dir.path().join("pid");
        fs::remove_file(&file).ok();
        let script = format!(
            "flux submit sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000' >/dev/null
             until test -e {0}; do sleep 0.05; done; {end}",
            file.display()
        );
        let began = Instant::now();
        temporary(&script);
        let pid: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        if end == "exit 0" {
            assert!(!runs(pid), "it was to end with the instance");
        }
        while runs(pid) {
            assert!(began.elapsed() < PATIENCE, "process {pid} is left after {end}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
