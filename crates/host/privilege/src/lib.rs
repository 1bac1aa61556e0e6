//! The Independent Minister of Privilege (RFC 15): the one program of Flux with the rights of root.
//!
//! An instance runs as an ordinary user, its owner. To start a job of somebody else it runs
//! `flux-imp exec`, which has the set-user-id bit, and gives it the request `J` that the guest has
//! signed. The IMP believes nothing of what the owner says: it verifies the signature itself, and
//! then does one thing, starting the configured job shell as the user who has signed.
//!
//! | Command | Does | For |
//! |---|---|---|
//! | `exec SHELL JOBID` | starts a job shell as the user who signed the J on stdin | `exec.allowed-users` |
//! | `run NAME` | starts a configured program as root: prolog, epilog, housekeeping | `run.NAME.allowed-users` |
//! | `kill SIGNAL PID` | signals a process below an IMP of the caller | `exec.allowed-users` |
//! | `version`, `whoami` | tell | all |
//!
//! The order of things matters and is the same for all: [`hygiene`] first, before anything is read;
//! then the configuration, which must be root's ([`flux_sign::trust`]); then who calls; only then
//! input, decoded in a process that has given up its rights ([`separate`]); then the signature; then
//! the new process ([`start`]), while this one stays to pass on signals ([`proxy`]).
//!
//! One thread, no async runtime. `unsafe` is in [`hygiene`], `detach` and [`start`] only, where
//! system calls demand it.

pub mod config;
pub mod environment;
pub mod exec;
pub mod hygiene;
pub mod identity;
pub mod input;
pub mod proxy;
pub mod separate;
pub mod start;

mod audit;
mod descendants;
mod detach;
mod error;
mod kill;
mod limits;
mod run;

use std::ffi::OsString;
use std::io::Write;

use crate::environment::Environment;
pub use crate::error::ImpError;
use crate::identity::Caller;
use crate::limits::Limits;

/// Version of the release: that of the workspace, unless it is built for a test of updates.
const RELEASE: &str = match option_env!("FERROFLUX_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Session {
    /// Who runs the program, and with what rights.
    pub(crate) caller: Caller,
    /// The environment it came with; the process itself has none any more.
    pub(crate) inherited: Environment,
    /// Its limits; those of this process are lifted.
    pub(crate) limits: Limits,
}

/// How the command ended.
pub(crate) enum Outcome {
    /// With an exit code.
    Code(u8),
    /// The started process died of this signal.
    Signal(i32),
}

fn say(text: &str) {
    // With nowhere to write there is nobody to tell.
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn usage() -> ImpError {
    ImpError::Usage(
        "usage: flux-imp exec SHELL JOBID | run NAME | kill SIGNAL PID | version | whoami",
    )
}

fn dispatch(session: &Session, words: &[String]) -> Result<Outcome, ImpError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exec", shell, id] => exec::exec(session, shell, id),
        ["run", name] => run::run(session, name),
        ["kill", signal, pid] => kill::kill(session, signal, pid).map(|()| Outcome::Code(0)),
        ["version"] => {
            say(&format!("flux-imp v{RELEASE}"));
            Ok(Outcome::Code(0))
        }
        ["whoami"] => {
            say(&format!("flux-imp: {}", session.caller));
            Ok(Outcome::Code(0))
        }
        _ => Err(usage()),
    }
}

/// Runs the program; gives its exit code. When the started process has died of a signal this one
/// does too.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let words: Result<Vec<String>, _> = args.skip(1).map(OsString::into_string).collect();
    let session = match hygiene::clean() {
        Ok(session) => session,
        Err(error) => return refused(&error),
    };
    let Ok(words) = words else { return refused(&usage()) };
    match dispatch(&session, &words) {
        Ok(Outcome::Code(code)) => code,
        Ok(Outcome::Signal(signum)) => {
            hygiene::die_of(signum);
            u8::try_from(128 + signum).unwrap_or(1)
        }
        Err(error) => {
            if !matches!(error, ImpError::Usage(_)) {
                audit::refusal(&session.caller, &words, &error);
            }
            refused(&error)
        }
    }
}

fn refused(error: &ImpError) -> u8 {
    tell(error);
    1
}

/// One line for who calls.
pub(crate) fn tell(error: &ImpError) {
    drop(writeln!(std::io::stderr(), "flux-imp: {error}"));
}
