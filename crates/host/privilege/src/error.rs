//! Why the IMP did nothing.

use std::path::PathBuf;

use flux_sign::VerifyError;
use flux_sign::config::SignConfigError;
use flux_sign::trust::TrustError;

use crate::config::ConfigError;
use crate::input::InputError;

/// A refusal or a failure; whatever it is, nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ImpError {
    /// The words on the command line make no command.
    #[error("{0}")]
    Usage(&'static str),
    /// The process could not be made safe.
    #[error("cannot prepare: {what}: {text}")]
    Prepare {
        /// Which step.
        what: &'static str,
        /// What the system says.
        text: String,
    },
    /// A file is not root's alone.
    #[error("{0}")]
    Trust(#[from] TrustError),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// There is no configuration to verify signatures by.
    #[error("{0}")]
    SignConfig(#[from] SignConfigError),
    /// The caller is not in the list.
    #[error("{command}: user {user} is not in {key}")]
    NotAllowed {
        /// The command.
        command: String,
        /// Name or number of the caller.
        user: String,
        /// Where users are listed.
        key: String,
    },
    /// Not installed with the rights it needs.
    #[error(
        "{0}: no privileges: install flux-imp with owner root and mode 4755, on a file system without nosuid"
    )]
    Unprivileged(&'static str),
    /// The shell is none of the allowed ones.
    #[error("exec: shell '{0}' is not in exec.allowed-shells")]
    Shell(String),
    /// The program cannot be executed.
    #[error("{path}: {text}", path = path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        text: &'static str,
    },
    /// The argument is no job id.
    #[error("exec: '{0}' is not a job id")]
    JobId(String),
    /// The input is malformed.
    #[error("exec: {0}")]
    Input(#[from] InputError),
    /// The signature does not count.
    #[error("exec: J: {0}")]
    Signature(#[from] VerifyError),
    /// Nobody runs jobs as root.
    #[error("exec: J is signed by root: jobs do not run as root")]
    Root,
    /// There is no such user on this node.
    #[error("userid {0} is not a user of this node")]
    Unknown(u32),
    /// Without privileges one may only be oneself.
    #[error(
        "exec: J is signed by userid {signer}, and without privileges only userid {caller} can run"
    )]
    Other {
        /// Who has signed.
        signer: u32,
        /// Who calls.
        caller: u32,
    },
    /// Options that would have to be enforced and cannot be.
    #[error(
        "exec: device containment (DeviceAllow, DevicePolicy) is not supported by this release"
    )]
    Containment,
    /// No such entry in `[run]`.
    #[error("run: '{0}' is not configured: add [run.{0}] with path and allowed-users")]
    NoRun(String),
    /// A variable that the program would get has no proper value.
    #[error("run: {0} has an invalid value")]
    Variable(String),
    /// A program of root could be stopped halfway.
    #[error("run: the limit of {0} is lower than a program of root needs, and cannot be raised")]
    Limit(&'static str),
    /// `kill` of what is not the caller's to kill.
    #[error("kill: process {0} does not belong to a job that was started for this user")]
    NotMine(i32),
    /// No such process or signal.
    #[error("kill: {0}")]
    Kill(String),
    /// A step of starting the process failed.
    #[error("{what}: {text}")]
    Start {
        /// Which step.
        what: &'static str,
        /// What the system says.
        text: String,
    },
}

impl ImpError {
    /// A failed system call of getting ready.
    pub(crate) fn prepare(what: &'static str, error: impl std::fmt::Display) -> Self {
        ImpError::Prepare { what, text: error.to_string() }
    }

    /// A failed system call of starting.
    pub(crate) fn start(what: &'static str, error: impl std::fmt::Display) -> Self {
        ImpError::Start { what, text: error.to_string() }
    }
}
