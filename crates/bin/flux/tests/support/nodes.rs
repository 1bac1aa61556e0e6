//! Brokers of a configured instance, each started, killed and stopped by itself.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a loaded machine may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flux"))
}

/// A port below those that the system gives to whoever asks for any.
pub(crate) fn free_port() -> u16 {
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
pub(crate) struct Nodes {
    dir: tempfile::TempDir,
    /// Words before the command of each broker, if any.
    wrappers: Vec<Vec<String>>,
    /// Everything of the configuration but the hosts.
    pub(crate) head: String,
    tcp: bool,
    /// An entry of the configuration for each host.
    pub(crate) hosts: Vec<String>,
    pub(crate) brokers: Vec<Option<Child>>,
}

impl Nodes {
    /// Starts `size` brokers below each other in a tree of two; `tbon` goes into that table.
    pub(crate) fn start(size: usize, tcp: bool, tbon: &str) -> Self {
        let endpoints = (0..size).map(|_| tcp.then(|| format!("tcp://127.0.0.1:{}", free_port())));
        Self::start_at(endpoints.collect(), vec![Vec::new(); size], tbon)
    }

    /// The same at these endpoints (default: sockets in the directory of the instance), each
    /// broker by the words of a wrapper.
    pub(crate) fn start_at(
        endpoints: Vec<Option<String>>,
        wrappers: Vec<Vec<String>>,
        tbon: &str,
    ) -> Self {
        let size = endpoints.len();
        // Short, since it is the beginning of paths of sockets.
        let dir = tempfile::Builder::new().prefix("fx").tempdir_in("/tmp").unwrap();
        let path = dir.path().display().to_string();
        let keygen = Command::new(program()).args(["keygen", &format!("{path}/key")]).output();
        assert!(keygen.unwrap().status.success());
        let ipv6 = endpoints.iter().flatten().any(|endpoint| endpoint.contains("//["));
        let head = format!(
            "[tbon]\ntopo = \"kary:2\"\n{tbon}\n[bootstrap]\ncurve_cert = \"{path}/key\"\n\
             enable_ipv6 = {ipv6}\n"
        );
        let tcp = endpoints.iter().any(Option::is_some);
        let mut nodes = Self { dir, wrappers, head, tcp, hosts: Vec::new(), brokers: Vec::new() };
        for (rank, endpoint) in endpoints.into_iter().enumerate() {
            nodes.name_at(&format!("n{rank}"), endpoint);
        }
        nodes.write_config();
        for rank in 0..size {
            nodes.boot(rank);
        }
        nodes.wait_for_all();
        nodes
    }

    /// Appends a host to the list, with a place for its broker.
    pub(crate) fn name(&mut self, host: &str) {
        let endpoint = self.tcp.then(|| format!("tcp://127.0.0.1:{}", free_port()));
        self.name_at(host, endpoint);
    }

    fn name_at(&mut self, host: &str, endpoint: Option<String>) {
        let rank = self.brokers.len();
        let socket = || format!("ipc://{}/tree{rank}", self.dir.path().display());
        let endpoint = endpoint.unwrap_or_else(socket);
        self.hosts.push(format!(
            "[[bootstrap.hosts]]\nhost = \"{host}\"\nbind = \"{endpoint}\"\n\
             connect = \"{endpoint}\"\n"
        ));
        self.brokers.push(None);
        if self.wrappers.len() < self.brokers.len() {
            self.wrappers.push(Vec::new());
        }
    }

    /// Writes the configuration of all.
    pub(crate) fn write_config(&self) {
        let text = format!("{}{}", self.head, self.hosts.concat());
        fs::write(self.path("flux.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the broker of a rank.
    pub(crate) fn boot(&mut self, rank: usize) {
        let rundir = self.path(&format!("run{rank}"));
        fs::create_dir_all(&rundir).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log{rank}")))
            .unwrap();
        let mut words = self.wrappers[rank].iter().map(String::as_str);
        let mut command = Command::new(words.next().unwrap_or(program().to_str().unwrap()));
        if !self.wrappers[rank].is_empty() {
            command.args(words).arg(program());
        }
        // A file of its own, if there is one; the leader's counts once it has joined.
        let own = self.path(&format!("flux{rank}.toml"));
        command.args(["broker", "-c"]);
        command.arg(if own.exists() { own } else { self.path("flux.toml") });
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
        let statedir = self.path(&format!("state{rank}"));
        fs::create_dir_all(&statedir).unwrap();
        command.args(["-S", &format!("statedir={}", statedir.display())]);
        command.env_remove("FLUX_URI").stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.brokers[rank] = Some(child);
    }

    pub(crate) fn uri(&self, rank: usize) -> String {
        format!("local://{}/local", self.path(&format!("run{rank}")).display())
    }

    pub(crate) fn pid(&self, rank: usize) -> i32 {
        i32::try_from(self.brokers[rank].as_ref().unwrap().id()).unwrap()
    }

    pub(crate) fn signal(&self, rank: usize, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid(rank));
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, rank: usize) {
        let mut child = self.brokers[rank].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the broker to end by itself; its exit code.
    pub(crate) fn ended(&mut self, rank: usize) -> i32 {
        let status = self.brokers[rank].take().unwrap().wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    pub(crate) fn command(&self, rank: usize, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).env("FLUX_URI", self.uri(rank)).env("FLUX_F58_FORCE_ASCII", "1");
        command
    }

    pub(crate) fn run(&self, rank: usize, words: &[&str]) -> Output {
        self.command(rank, words).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn text(&self, rank: usize, words: &[&str]) -> String {
        let output = self.run(rank, words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn logs(&self) -> String {
        let log = |rank| {
            let text = fs::read_to_string(self.path(&format!("log{rank}"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(12).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- rank {rank}\n{}\n", lines.join("\n"))
        };
        (0..self.brokers.len()).map(log).collect()
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < PATIENCE, "no {what}\n{}", self.logs());
            sleep(Duration::from_millis(30));
        }
        begin.elapsed()
    }

    /// Nodes in a state of `flux resource status`, as the leader sees them.
    pub(crate) fn nodes(&self, state: &str) -> String {
        let words = ["resource", "status", "-n", "-s", state, "-o", "{nodelist}"];
        let output = self.run(0, &words);
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    /// Waits until all nodes are there for the scheduler, and the tree is whole.
    #[track_caller]
    pub(crate) fn wait_for_all(&self) -> Duration {
        let all = match self.brokers.len() {
            1 => "n0".to_string(),
            size => format!("n[0-{}]", size - 1),
        };
        self.wait("whole instance", |nodes| {
            nodes.nodes("online") == all
                && nodes.run(0, &["overlay", "status", "--summary", "--wait=full"]).status.success()
        })
    }

    /// Everything works, on every rank, once those that gave up a silent parent have joined again.
    #[track_caller]
    pub(crate) fn use_all(&self) {
        self.wait("answer of every rank", |nodes| {
            nodes.run(0, &["exec", "-r", "all", "true"]).status.success()
        });
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
        // Jobs outlive their brokers, and are no concern of other tests.
        let uri = format!("FLUX_URI=local://{}/", self.dir.path().display());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid
                && variables.any(|variable| variable.starts_with(uri.as_bytes()))
            {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
        }
    }
}
