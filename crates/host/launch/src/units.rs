//! Shells as systemd units: the second keeper.
//!
//! Each shell is the main process of a transient service of its own, so that systemd is its parent,
//! and its cgroup holds everything that comes from it. The manager is one that runs with the rights
//! of the broker's user: that of `flux-jobs.service`, else the user's own. It is spoken to by its
//! own socket; nothing has to be allowed anywhere, and whoever can start units there can do no more
//! than that user could.
//!
//! A unit stays, with the status of its shell, until it is forgotten: that is the record. A file
//! beside it says that it was there, for a successor of a manager that is gone (after a power cut,
//! say). The end of a shell is told when its cgroup is empty; what the shell leaves behind is killed
//! by its cgroup, whoever owns it.

mod limits;
mod manager;
mod records;
mod socket;
mod task;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_topo::Topology;
use tokio::sync::mpsc::unbounded_channel;

use crate::keeper::{Channel, Keeper, Local};
use records::Records;
use task::Task;

/// How long the end of an instance waits for its shells to be gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a manager that was there may be away: it is started again, or starts itself anew.
const RETURN: Duration = Duration::from_secs(5);

/// systemd, as keeper of shells.
#[derive(Clone)]
pub struct Units {
    rank: u32,
    directory: PathBuf,
    sockets: Vec<PathBuf>,
    topology: Rc<dyn Topology>,
}

impl fmt::Debug for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Units").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Units {
    /// For the shells of a broker: its rank, the directory of its shells, and the hardware that the
    /// cores of R are found on.
    #[must_use]
    pub fn new(rank: u32, directory: PathBuf, topology: Rc<dyn Topology>) -> Self {
        Self { rank, directory, sockets: manager::sockets(), topology }
    }

    /// Names are those of the job and the rank where the manager serves one instance; elsewhere
    /// they begin with the instance.
    fn prefix(&self, socket: &Path) -> String {
        if manager::is_system(socket) {
            return format!("shell-{}", self.rank);
        }
        // FNV-1a: the same for every version of this program.
        let path = fs::canonicalize(&self.directory).unwrap_or_else(|_| self.directory.clone());
        let bytes = path.as_os_str().as_encoded_bytes();
        let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        format!("flux-{hash:08x}-shell-{}", self.rank)
    }
}

impl Keeper for Units {
    fn may_know(&self) -> bool {
        // Units may run whose records are lost.
        Records::below(&self.directory).are_there() || manager::system_is_there()
    }

    fn connect(&self) -> Local<'_, io::Result<Channel>> {
        Box::pin(async {
            let (orders, to_do) = unbounded_channel();
            let (told, events) = unbounded_channel();
            let alive = Rc::new(RefCell::new(Alive::default()));
            let mut task = Task::new(self.clone(), told, Rc::clone(&alive));
            let known = Records::below(&self.directory).are_there();
            let reached = task.reach(if known { RETURN } else { Duration::ZERO }).await;
            // What is on record is gone with its manager: that can be told without it.
            reached.or_else(|error| if known { Ok(()) } else { Err(error) })?;
            drop(tokio::task::spawn_local(task.run(to_do)));
            let directory = self.directory.clone();
            let farewell = move || {
                let alive = alive.take();
                part(&alive);
                let records = Records::below(&directory);
                alive.units.keys().for_each(|id| records.remove(*id));
            };
            Ok(Channel { orders, events, farewell: Box::new(farewell) })
        })
    }
}

/// What the end of the instance needs to know.
#[derive(Debug, Default)]
struct Alive {
    /// Runtime directory of the manager.
    runtime: Option<PathBuf>,
    /// Names of units, and their cgroups while they run.
    units: BTreeMap<u64, (String, Option<PathBuf>)>,
}

/// Ends units for good, without the loop.
fn part(alive: &Alive) {
    let running = || alive.units.values().filter_map(|(_, cgroup)| cgroup.as_deref());
    running().for_each(kill);
    let began = Instant::now();
    while began.elapsed() < FAREWELL && running().any(is_populated) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let names = alive.units.values().map(|(name, _)| name);
    if let Some(runtime) = &alive.runtime
        && !alive.units.is_empty()
    {
        for word in ["stop", "reset-failed"] {
            let mut command = std::process::Command::new("systemctl");
            command.args(["--user", "--quiet", word]).args(names.clone());
            command.env("XDG_RUNTIME_DIR", runtime).stderr(std::process::Stdio::null());
            // Where they stay they do no harm.
            drop(command.status());
        }
    }
}

/// Kills everything in a cgroup, whoever it belongs to.
fn kill(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // A kernel before 5.14: what may be killed from here.
    for pid in pids(cgroup) {
        let _ = flux_proc::kill(pid, false, rustix::process::Signal::KILL.as_raw());
    }
}

/// Whether there are processes in a cgroup, or below it.
fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// The processes of a cgroup itself.
fn pids(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
