//! Ctrl-C in each command that waits.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const SIGINT: i32 = 2;

/// An instance that ends with this.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    uri: String,
}

impl Running {
    fn start() -> Self {
        let mut command = instance::flux();
        command.args(["start", "sh", "-c", "echo $FLUX_URI; read line; flux cancel --all -q"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut uri = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut uri).unwrap();
        Self { child, stdin, uri: uri.trim().to_string() }
    }

    fn flux(&self, words: &[&str]) -> Command {
        let mut command = instance::flux();
        command.args(words).env("FLUX_URI", &self.uri);
        command
    }

    fn out(&self, words: &[&str]) -> String {
        instance::stdout(&self.flux(words).output().unwrap()).trim().to_string()
    }

    fn begin(&self, words: &[&str]) -> Child {
        self.flux(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn state(&self, id: &str) -> String {
        self.out(&["jobs", "-no", "{state}", id])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits until a process handles the signal itself.
fn listens(child: &Child) {
    until("the signal is caught", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        // By a handler, or by a thread that waits for it.
        ["SigCgt:", "SigBlk:"].iter().any(|name| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (SIGINT - 1)) != 0
        })
    });
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_string()
}

#[test]
fn who_is_attached_is_warned_and_then_cancels() {
    let instance = Running::start();
    let id = instance.out(&["submit", "sleep", "inf"]);
    for words in
        [&["run", "sleep", "inf"][..], &["alloc", "-n1", "sleep", "inf"], &["job", "attach", &id]]
    {
        let mut child = instance.begin(words);
        listens(&child);
        let attached = if words[0] == "job" { id.clone() } else { instance.out(&["job", "last"]) };
        interrupt(&child);
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("one more ctrl-C within 2s to cancel"), "{words:?}: {line}");
        assert_ne!(instance.state(&attached), "INACTIVE", "{words:?}");
        until("it ends", || {
            interrupt(&child);
            std::thread::sleep(Duration::from_millis(100));
            child.try_wait().unwrap().is_some()
        });
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("interrupted by ctrl-C"), "{words:?}: {rest}");
        assert!(!child.wait().unwrap().success(), "{words:?}");
        until("the job is gone", || instance.state(&attached) == "INACTIVE");
    }
}

#[test]
fn who_waits_for_jobs_waits_no_more_and_the_jobs_go_on() {
    let instance = Running::start();
    for words in [
        &["submit", "--wait", "sleep", "inf"][..],
        &["submit", "--watch", "sleep", "inf"],
        &["submit", "--cc=1-2", "--wait", "sleep", "inf"],
        &["bulksubmit", "--wait", "sleep", "{}", ":::", "1000", "2000"],
        &["bulksubmit", "--watch", "sleep", "{}", ":::", "1000", "2000"],
    ] {
        let mut child = instance.begin(words);
        let id = first_line(&mut child);
        interrupt(&child);
        assert_eq!(child.wait().unwrap().signal(), Some(SIGINT), "{words:?}");
        assert_ne!(instance.state(&id), "INACTIVE", "{words:?}");
        instance.out(&["cancel", "--all", "--quiet"]);
    }
}

#[test]
fn what_follows_or_waits_ends_at_once() {
    let instance = Running::start();
    let id = instance.out(&["submit", "sleep", "inf"]);
    for words in [
        &["watch", "--active"][..],
        &["job", "wait-event", &id, "finish"],
        &["job", "eventlog", "--follow", &id],
        &["job", "status", &id],
        &["queue", "drain"],
        &["queue", "idle"],
        &["kvs", "get", "--watch", "--waitcreate", "x.y"],
        &["kvs", "eventlog", "get", "--watch", "--waitcreate", "x.z"],
        &["dmesg", "--follow"],
        &["event", "sub"],
        &["ping", "kvs"],
        &["resource", "eventlog", "--follow"],
        &["overlay", "status", "--wait=lost"],
    ] {
        let mut child = instance.begin(words);
        interrupt(&child);
        assert_eq!(child.wait().unwrap().signal(), Some(SIGINT), "{words:?}");
    }
    assert_eq!(instance.state(&id), "RUN");
}
