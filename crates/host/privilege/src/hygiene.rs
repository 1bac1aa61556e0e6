//! What is done before anything else: the process is freed of all that the caller has left in it.
#![expect(unsafe_code, reason = "dispositions, the environment and close_range have no safe form")]

use std::os::fd::IntoRawFd;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::stat::{Mode, umask};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::Session;
use crate::environment::Environment;
use crate::error::ImpError;
use crate::identity::Caller;
use crate::limits::Limits;

/// Highest signal number.
const SIGNAL_MAX: libc::c_int = 64;

/// Takes the environment away, closes descriptors, resets signals, forbids core dumps and tracing.
///
/// # Errors
/// A step failed: then nothing may go on.
pub(crate) fn clean() -> Result<Session, ImpError> {
    let inherited = Environment::of_process();
    // SAFETY: there is one thread, and nothing holds a pointer into the environment.
    unsafe { libc::clearenv() };
    let caller = Caller::of_process();
    standard_descriptors()?;
    close_others()?;
    reset_signals()?;
    umask(Mode::from_bits_truncate(0o022));
    nix::unistd::chdir("/").map_err(|error| ImpError::prepare("chdir", error))?;
    let limits = Limits::of_process()?;
    if caller.is_privileged() {
        no_traces()?;
        limits.lift()?;
    }
    Ok(Session { caller, inherited, limits })
}

/// No tracing, of this process and those forked from it.
fn no_traces() -> Result<(), ImpError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| ImpError::prepare("dumpable", error))
}

/// Opens what the caller has closed of 0, 1, 2: a file opened later must not get these numbers.
fn standard_descriptors() -> Result<(), ImpError> {
    loop {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| ImpError::prepare("/dev/null", error))?;
        let number = file.into_raw_fd();
        if number > 2 {
            // It is closed with the others.
            return Ok(());
        }
    }
}

fn close_others() -> Result<(), ImpError> {
    // SAFETY: nothing of this program holds a descriptor yet.
    match unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, 0u32) } {
        0 => Ok(()),
        _ => Err(ImpError::prepare("close_range", std::io::Error::last_os_error())),
    }
}

/// Default dispositions, nothing blocked: ignored signals would be inherited by what is started.
pub(crate) fn reset_signals() -> Result<(), ImpError> {
    for number in 1..=SIGNAL_MAX {
        let Ok(signal) = Signal::try_from(number) else {
            // Real-time signals; the C library keeps two for itself and refuses them.
            // SAFETY: the default disposition runs no code of this program.
            unsafe { libc::signal(number, libc::SIG_DFL) };
            continue;
        };
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no code of this program.
        unsafe { sigaction(signal, &default) }
            .map_err(|error| ImpError::prepare("signals", error))?;
    }
    SigSet::empty().thread_set_mask().map_err(|error| ImpError::prepare("signal mask", error))
}

/// Ends this process by a signal, so that its parent sees what the started process died of.
pub(crate) fn die_of(signum: i32) {
    // Should a step fail, or the signal not be deadly, the exit code tells it.
    if reset_signals().is_ok()
        && let Ok(signal) = Signal::try_from(signum)
        && !matches!(signal, Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)
    {
        let _ = raise(signal);
    }
}
