//! The job shell: started by the execution service on every node of a job, it starts the tasks,
//! feeds and records their streams, serves PMI to them and reports how they end.
//!
//! Parts that decide ([`layout`], [`options`], [`mustache`], [`environment`], [`recorder`],
//! [`exit`], [`pmi`]) are plain values; [`shell`] joins them to processes and to the broker.

pub mod affinity;
pub mod environment;
pub mod exit;
pub mod files;
pub mod hardware;
pub mod job;
pub mod jobdir;
pub mod layout;
pub mod leftovers;
pub mod link;
pub mod log;
pub mod mustache;
pub mod options;
pub mod outbox;
pub mod output;
pub mod patience;
pub mod pmi;
pub mod poller;
pub mod recorder;
pub mod rlimit;
pub mod shell;
pub mod spool;
pub mod stream;
pub mod task;

use std::io::Write;

use flux_id::JobId;

const USAGE: &str = "Usage: flux-shell [OPTIONS] JOBID\n\
    The job shell; started by the execution service, not by people.\n  \
    -h, --help        Show this text\n      \
    --reconnect   Accepted; the shell always reconnects to its broker\n";

/// A line to stderr, which the execution service records. Nothing can be done when it fails.
fn complain(text: &str) {
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Descriptors that a shell may have, if it is allowed so many.
const DESCRIPTORS: u64 = 65_536;

/// Runs the shell with the arguments after the program's name; returns its exit code.
///
/// The process must have no other threads: signals are taken in this one.
#[must_use]
pub fn main(args: &[String]) -> i32 {
    let mut ids = Vec::new();
    for arg in args {
        match arg.as_str() {
            "-h" | "--help" => {
                drop(std::io::stdout().write_all(USAGE.as_bytes()));
                return 0;
            }
            "--reconnect" => {}
            other if other.starts_with('-') => {
                complain(&format!("flux-shell: unknown option '{other}'\n{USAGE}"));
                return 1;
            }
            other => ids.push(other),
        }
    }
    let [id] = ids.as_slice() else {
        complain(USAGE);
        return 1;
    };
    let Ok(id) = id.parse::<u64>() else {
        complain("flux-shell: FATAL: error parsing jobid: garbage follows number\n");
        return 1;
    };
    // Several for each task, of which there may be many.
    flux_proc::descriptors::raise(DESCRIPTORS);
    match shell::Shell::start(JobId(id)) {
        Ok(mut shell) => shell.run(),
        Err(failure) => {
            if let Some(text) = failure.text {
                complain(&log::line(None, log::Level::Fatal, "", &text));
            }
            failure.code
        }
    }
}
