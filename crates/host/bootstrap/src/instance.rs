//! A test instance: several brokers on one host, as `flux start -s N` makes them.
//!
//! The launcher is itself an engine on a host: the local socket `start` serves `start.*`, the
//! brokers and their PMI connections are a driver, and the exit timeout is its deadline.

mod processes;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

use flux_host::{HostError, HostOptions};
use flux_model::taskmap::Taskmap;

use processes::Processes;
use supervisor::Supervisor;

/// Which exit code counts, and what starts the exit timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExitMode {
    /// The largest exit code; the timeout runs while some but not all brokers have exited.
    #[default]
    Any,
    /// The exit code of rank 0; the timeout runs once that has exited.
    Leader,
}

/// Which brokers are started at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartMode {
    /// All.
    #[default]
    All,
    /// Rank 0; the others by `start.run`.
    Leader,
}

/// What a test instance is.
#[derive(Debug, Clone)]
pub struct TestInstance {
    /// Command line of each rank: program and arguments. Their number is the size.
    pub commands: Vec<Vec<String>>,
    /// Variables added to the environment of every broker.
    pub env: Vec<(String, String)>,
    /// The directory of the instance; the socket `start` is made there.
    pub rundir: PathBuf,
    /// Which exit code counts.
    pub exit_mode: ExitMode,
    /// Time between the first exit and the end of patience; none waits for ever.
    pub exit_timeout: Option<Duration>,
    /// Which brokers are started at once.
    pub start_mode: StartMode,
    /// Value of `PMI_process_mapping`, see [`TestInstance::on_one_node`]; none hides it.
    pub mapping: Option<String>,
}

impl TestInstance {
    /// A test instance with the defaults of `flux start`: all started, on one node, 20 s.
    #[must_use]
    pub fn new(commands: Vec<Vec<String>>, rundir: PathBuf) -> Self {
        let mapping = Self::on_one_node(commands.len());
        Self {
            commands,
            env: Vec::new(),
            rundir,
            exit_mode: ExitMode::default(),
            exit_timeout: Some(Duration::from_secs(20)),
            start_mode: StartMode::default(),
            mapping,
        }
    }

    /// The mapping of `--test-pmi-clique=single`.
    #[must_use]
    pub fn on_one_node(size: usize) -> Option<String> {
        Taskmap::from_nodes((0..size).map(|_| 0)).ok()?.to_pmi().ok()
    }

    /// The mapping of `--test-pmi-clique=per-broker`.
    #[must_use]
    pub fn on_separate_nodes(size: usize) -> Option<String> {
        let size = u32::try_from(size).ok()?;
        Taskmap::from_nodes(0..size).ok()?.to_pmi().ok()
    }

    /// URI of the socket that serves `start.*`.
    #[must_use]
    pub fn start_uri(&self) -> String {
        format!("local://{}", self.rundir.join("start").display())
    }
}

/// Why a test instance cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// There is no broker, or too many, or one without a program.
    #[error("a test instance needs 1 to {max} brokers, each with a program")]
    Size {
        /// The largest number.
        max: usize,
    },
    /// The launcher itself cannot run.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Most brokers of a test instance.
const SIZE_MAX: usize = 1 << 16;

/// Starts the brokers and waits for their end; the exit code.
///
/// # Errors
/// [`InstanceError`]; a broker that cannot be started counts as one that exited with 127.
pub fn test_instance(instance: TestInstance) -> Result<i32, InstanceError> {
    let size = instance.commands.len();
    if size == 0 || size > SIZE_MAX || instance.commands.iter().any(Vec::is_empty) {
        return Err(InstanceError::Size { max: SIZE_MAX });
    }
    let options = HostOptions::new(instance.rundir.join("start"));
    let supervisor = Supervisor::new(&instance);
    let processes = Processes::new(instance);
    Ok(flux_host::run(Box::new(supervisor), options, vec![Box::new(processes)])?)
}
