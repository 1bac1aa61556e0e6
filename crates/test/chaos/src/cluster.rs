//! The brokers: a tree from configuration, each a process that can be killed and started again.

use std::fmt;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flux_api::body::AnyObject;
use flux_api::resource::SchedStatus_;
use flux_client::{Client, To};
use flux_model::resource_set::ResourceSet;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::plan::Tree;
use crate::{Failure, Plan};

/// Cores of each node.
pub const CORES: u32 = 4;

/// What a broker is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Rank 0.
    Leader,
    /// Has children.
    Router,
    /// Has none.
    Leaf,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Router => "router",
            Role::Leaf => "leaf",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "leader" => Ok(Role::Leader),
            "router" => Ok(Role::Router),
            "leaf" => Ok(Role::Leaf),
            other => Err(format!("'{other}' is no role: leader, router, leaf")),
        }
    }
}

/// The brokers and their directory.
#[derive(Debug)]
pub struct Cluster {
    dir: Option<TempDir>,
    path: PathBuf,
    flux: PathBuf,
    tree: Tree,
    brokers: Vec<Mutex<Option<Child>>>,
    restarts: AtomicU32,
    orderly: AtomicU32,
    ending: AtomicBool,
}

fn configuration(plan: &Plan, dir: &Path) -> Result<String, Failure> {
    // Held until all are known, so that no port is given twice.
    let mut ports = Vec::new();
    for _ in 0..plan.brokers {
        ports.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let settings: String = plan.settings.iter().map(|line| format!("{line}\n")).collect();
    let mut text =
        format!("{settings}[bootstrap]\ncurve_cert = \"{}/cert\"\nhosts = [\n", dir.display());
    for (rank, listener) in (0..plan.brokers).zip(&ports) {
        let port = listener.local_addr()?.port();
        let uri = format!("tcp://127.0.0.1:{port}");
        text.push_str(&format!("  {{ host = \"n{rank}\", bind = \"{uri}\", connect = \"{uri}\""));
        if rank > 0 {
            text.push_str(&format!(", parent = \"n{}\"", plan.tree.parent(rank)));
        }
        text.push_str(" },\n");
    }
    text.push_str(&format!(
        "]\n[resource]\nnoverify = true\n[[resource.config]]\nhosts = \"n[0-{}]\"\ncores = \"0-{}\"\n",
        plan.brokers - 1,
        CORES - 1
    ));
    Ok(text)
}

impl Cluster {
    /// Starts all brokers and waits until every node can be scheduled.
    ///
    /// # Errors
    /// When a program cannot be started, or the instance is not there within a minute.
    pub fn start(plan: &Plan) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("chaos-").tempdir()?;
        let path = dir.path().to_path_buf();
        fs::create_dir(path.join("conf"))?;
        fs::create_dir(path.join("jobs"))?;
        let keygen = Command::new(&plan.flux).arg("keygen").arg(path.join("cert")).status()?;
        if !keygen.success() {
            return Err(format!("flux keygen: {keygen}").into());
        }
        fs::write(path.join("conf/instance.toml"), configuration(plan, &path)?)?;
        let cluster = Self {
            dir: Some(dir),
            path,
            flux: plan.flux.clone(),
            tree: plan.tree,
            brokers: (0..plan.brokers).map(|_| Mutex::new(None)).collect(),
            restarts: AtomicU32::new(0),
            orderly: AtomicU32::new(0),
            ending: AtomicBool::new(false),
        };
        for rank in 0..plan.brokers {
            cluster.launch(rank)?;
        }
        let until = Instant::now() + Duration::from_secs(60);
        while cluster.nodes_up() != Some(plan.brokers) {
            if Instant::now() > until {
                let log = fs::read_to_string(cluster.path.join("log-0")).unwrap_or_default();
                return Err(format!("the instance is not ready after a minute:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(cluster)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program.
    #[must_use]
    pub fn flux(&self) -> &Path {
        &self.flux
    }

    /// Number of brokers.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.brokers.len()).unwrap_or(u32::MAX)
    }

    /// The place of a rank in the tree.
    #[must_use]
    pub fn role(&self, rank: u32) -> Role {
        match rank {
            0 => Role::Leader,
            rank if self.tree.has_children(rank, self.size()) => Role::Router,
            _ => Role::Leaf,
        }
    }

    /// The rank above one that is not the leader.
    #[must_use]
    pub fn parent(&self, rank: u32) -> u32 {
        self.tree.parent(rank)
    }

    /// Where a broker listens.
    #[must_use]
    pub fn uri(&self, rank: u32) -> String {
        format!("local://{}/run{rank}/local-{rank}", self.path.display())
    }

    /// Nodes that can be scheduled, if the leader can be asked.
    #[must_use]
    pub fn nodes_up(&self) -> Option<u32> {
        let client = Client::open_once(&self.uri(0), Duration::from_secs(1)).ok()?;
        let status = client
            .send::<SchedStatus_>(To::Any, &AnyObject::default())
            .wait_within(Duration::from_secs(2))
            .ok()?;
        let count = |r: &serde_json::Value| {
            let set = ResourceSet::from_value(r).ok()?;
            u32::try_from(set.ranks().len()).ok()
        };
        // A set without any rank is no R.
        Some(count(&status.all)? - count(&status.down).unwrap_or(0))
    }

    fn launch(&self, rank: u32) -> Result<(), Failure> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path.join(format!("log-{rank}")))?;
        let sub = |name: &str| self.path.join(format!("{name}{rank}")).display().to_string();
        fs::create_dir_all(sub("run"))?;
        fs::create_dir_all(sub("state"))?;
        let child = Command::new(&self.flux)
            .arg("broker")
            .arg("-c")
            .arg(self.path.join("conf"))
            .arg(format!("-Shostname=n{rank}"))
            .arg(format!("-Srundir={}", sub("run")))
            .arg(format!("-Sstatedir={}", sub("state")))
            // No initial program: it runs until it is told to end.
            .arg("-Sbroker.rc2_none=1")
            .env_remove("FLUX_URI")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *lock(&self.brokers[rank as usize]) = Some(child);
        Ok(())
    }

    /// What a task has written into its file.
    #[must_use]
    pub fn file(&self, token: &str, task: u32) -> String {
        let path = self.path.join("jobs").join(format!("{token}.{task}"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Kills a broker with SIGKILL, as a power cut of its process would.
    pub fn kill(&self, rank: u32) {
        if let Some(mut child) = lock(&self.brokers[rank as usize]).take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts a broker that was killed.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart(&self, rank: u32) -> Result<(), Failure> {
        self.launch(rank)
    }

    /// Starts brokers again that have ended by themselves, as a service manager would.
    pub fn tend(&self) {
        for (rank, broker) in (0u32..).zip(&self.brokers) {
            let ended = match &mut *lock(broker) {
                Some(child) => child.try_wait().unwrap_or_default(),
                None => None,
            };
            if let Some(status) = ended
                && !self.ending.load(Ordering::Relaxed)
            {
                let count = if status.success() { &self.orderly } else { &self.restarts };
                count.fetch_add(1, Ordering::Relaxed);
                drop(self.launch(rank));
            }
        }
    }

    /// Sends a signal to a broker.
    pub fn signal(&self, rank: u32, signal: Signal) {
        if let Some(child) = &*lock(&self.brokers[rank as usize])
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// How often brokers have ended in order, since they were shut down.
    #[must_use]
    pub fn shutdowns(&self) -> u32 {
        self.orderly.load(Ordering::Relaxed)
    }

    /// How often brokers have ended with an error, to be started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Waits until so many nodes can be scheduled again.
    pub fn settle(&self, nodes: u32) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.nodes_up().is_none_or(|up| up < nodes) && Instant::now() < until {
            self.tend();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the instance; says what is left of it.
    pub fn stop(mut self, plan: &Plan) -> Vec<String> {
        let mut broken = Vec::new();
        self.ending.store(true, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(60);
        // A leader that is stopped lets the others wait for it: each is told.
        for rank in 0..self.size() {
            self.signal(rank, Signal::TERM);
        }
        for (rank, broker) in self.brokers.iter().enumerate() {
            let Some(mut child) = lock(broker).take() else { continue };
            loop {
                match child.try_wait() {
                    Ok(None) if Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Ok(None) => {
                        broken.push(format!("the broker of rank {rank} does not end"));
                        drop(child.kill());
                        drop(child.wait());
                        break;
                    }
                    _ => break,
                }
            }
        }
        // Supervisors end when they have neither shells nor a broker.
        let mut left = self.processes();
        while !left.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            left = self.processes();
        }
        for (pid, words) in left {
            broken.push(format!("process {pid} is left after the end: {words}"));
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if plan.keep
            && let Some(dir) = self.dir.take()
        {
            drop(dir.keep());
        }
        broken
    }

    /// Processes that name the directory of this instance in their command line or environment.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.path.display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            if u32::try_from(pid) == Ok(std::process::id()) {
                continue;
            }
            let read = |name: &str| {
                let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let words = read("cmdline");
            if !words.is_empty() && (words.contains(&mark) || read("environ").contains(&mark)) {
                found.push((pid, words.trim().to_string()));
            }
        }
        found
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A thread that panicked is a violation of its own.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
