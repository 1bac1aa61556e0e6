//! Brokers of a configured instance that are killed, stopped and started again, each by itself,
//! while the others run on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a loaded machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flux"))
}

/// A port below those that the system gives to whoever asks for any.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(37).wrapping_add(step)) % 12_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An instance whose brokers are started one by one, as a service manager does.
struct Nodes {
    dir: tempfile::TempDir,
    brokers: Vec<Option<Child>>,
}

impl Nodes {
    /// Starts `size` brokers below each other in a tree of two; `tbon` goes into that table.
    fn start(size: usize, tcp: bool, tbon: &str) -> Self {
        // Short, since it is the beginning of paths of sockets.
        let dir = tempfile::Builder::new().prefix("fx").tempdir_in("/tmp").unwrap();
        let path = dir.path().display().to_string();
        let keygen = Command::new(program()).args(["keygen", &format!("{path}/key")]).output();
        assert!(keygen.unwrap().status.success());
        let mut hosts = String::new();
        for rank in 0..size {
            let endpoint = if tcp {
                format!("tcp://127.0.0.1:{}", free_port())
            } else {
                format!("ipc://{path}/tree{rank}")
            };
            hosts += &format!(
                "[[bootstrap.hosts]]\nhost = \"n{rank}\"\nbind = \"{endpoint}\"\n\
                 connect = \"{endpoint}\"\n"
            );
        }
        let config = format!(
            "[tbon]\ntopo = \"kary:2\"\n{tbon}\n[bootstrap]\ncurve_cert = \"{path}/key\"\n{hosts}"
        );
        fs::write(dir.path().join("flux.toml"), config).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let mut nodes = Self { dir, brokers: (0..size).map(|_| None).collect() };
        for rank in 0..size {
            nodes.boot(rank);
        }
        nodes.wait_for_all();
        nodes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the broker of a rank.
    fn boot(&mut self, rank: usize) {
        let rundir = self.path(&format!("run{rank}"));
        fs::create_dir_all(&rundir).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log{rank}")))
            .unwrap();
        let mut command = Command::new(program());
        command.args(["broker", "-c"]).arg(self.path("flux.toml"));
        for setting in [
            format!("hostname=n{rank}"),
            format!("rundir={}", rundir.display()),
            format!("local-uri={}", self.uri(rank)),
            "broker.rc2_none=1".to_string(),
            "log-stderr-level=6".to_string(),
            "log-stderr-mode=local".to_string(),
        ] {
            command.args(["-S", &setting]);
        }
        if rank == 0 {
            command.args(["-S", &format!("statedir={}", self.path("state").display())]);
        }
        command.env_remove("FLUX_URI").stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.brokers[rank] = Some(child);
    }

    fn uri(&self, rank: usize) -> String {
        format!("local://{}/local", self.path(&format!("run{rank}")).display())
    }

    fn pid(&self, rank: usize) -> i32 {
        i32::try_from(self.brokers[rank].as_ref().unwrap().id()).unwrap()
    }

    fn signal(&self, rank: usize, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid(rank));
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// kill -9.
    fn kill(&mut self, rank: usize) {
        let mut child = self.brokers[rank].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the broker to end by itself; its exit code.
    fn ended(&mut self, rank: usize) -> i32 {
        let status = self.brokers[rank].take().unwrap().wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    fn command(&self, rank: usize, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).env("FLUX_URI", self.uri(rank)).env("FLUX_F58_FORCE_ASCII", "1");
        command
    }

    fn run(&self, rank: usize, words: &[&str]) -> Output {
        self.command(rank, words).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    fn text(&self, rank: usize, words: &[&str]) -> String {
        let output = self.run(rank, words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    fn logs(&self) -> String {
        let log = |rank| {
            let text = fs::read_to_string(self.path(&format!("log{rank}"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(12).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- rank {rank}\n{}\n", lines.join("\n"))
        };
        (0..self.brokers.len()).map(log).collect()
    }

    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < PATIENCE, "no {what}\n{}", self.logs());
            sleep(Duration::from_millis(30));
        }
        begin.elapsed()
    }

    /// Nodes in a state of `flux resource status`, as the leader sees them.
    fn nodes(&self, state: &str) -> String {
        let words = ["resource", "status", "-n", "-s", state, "-o", "{nodelist}"];
        let output = self.run(0, &words);
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    /// Waits until all nodes are there for the scheduler, and the tree is whole.
    #[track_caller]
    fn wait_for_all(&self) -> Duration {
        let all = format!("n[0-{}]", self.brokers.len() - 1);
        self.wait("whole instance", |nodes| {
            nodes.nodes("online") == all
                && nodes.run(0, &["overlay", "status", "--summary", "--wait=full"]).status.success()
        })
    }

    /// Everything works, on every rank.
    #[track_caller]
    fn use_all(&self) {
        self.text(0, &["exec", "-r", "all", "true"]);
        let last = self.brokers.len() - 1;
        let count = self.brokers.len().to_string();
        let names = self.text(last, &["run", "-N", &count, "-n", &count, "sh", "-c", "echo on"]);
        assert_eq!(names.lines().count(), self.brokers.len());
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.brokers.iter_mut().flatten() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

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
