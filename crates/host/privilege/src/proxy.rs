//! The IMP stays while what it has started runs: the owner of the instance may signal the IMP but
//! not a process of another user, so signals are passed on. SIGUSR1 stands for SIGKILL, which
//! cannot be passed on.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{set_child_subreaper, set_parent_process_death_signal};

use crate::descendants;
use crate::error::ImpError;
use crate::start::{Fork, Program, fork};
use crate::{Outcome, hygiene};

/// Signals that say something about this process and are not for the other.
const OWN: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGUSR1,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGPIPE,
];

/// What becomes of processes that outlive the one that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They are killed: nothing of a job outlives its shell.
    Kill,
    /// They stay: a prolog may start a service.
    Keep,
}

/// Starts a program in a child and passes on signals until it has ended. `ready` is what the child
/// does first: it becomes another user.
///
/// # Errors
/// No child could be made.
pub(crate) fn run(
    program: &Program,
    leftovers: Leftovers,
    ready: impl FnOnce() -> Result<(), ImpError>,
) -> Result<Outcome, ImpError> {
    // From here on signals wait until they are asked for.
    let all = SigSet::all();
    all.thread_set_mask().map_err(|error| ImpError::prepare("signal mask", error))?;
    // Processes whose parent has ended become children of this one, and can be found.
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| ImpError::prepare("subreaper", error))?;
    let me = getpid();
    let child = match fork()? {
        Fork::Child => program.replace(|| {
            ready()?;
            tied_to(me)?;
            hygiene::reset_signals()
        }),
        Fork::Parent(child) => child,
    };
    let mut status = None;
    while status.is_none() {
        match all.wait() {
            Ok(Signal::SIGCHLD) => status = reap(child),
            Ok(Signal::SIGUSR1) => descendants::kill_all(),
            Ok(signal) if OWN.contains(&signal) => {}
            // A child that has just ended is reaped next.
            Ok(signal) => {
                let _ = nix::sys::signal::kill(child, signal);
            }
            // A real-time signal has no name here; it is not passed on.
            Err(_) => {}
        }
    }
    if leftovers == Leftovers::Kill {
        descendants::end_all();
    }
    Ok(match status {
        Some(WaitStatus::Signaled(_, signal, _)) => Outcome::Signal(signal as i32),
        Some(WaitStatus::Exited(_, code)) => Outcome::Code(u8::try_from(code & 0xff).unwrap_or(1)),
        _ => Outcome::Code(1),
    })
}

/// Takes all ended children; gives how the one ended, if it did.
fn reap(child: Pid) -> Option<WaitStatus> {
    let mut found = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return found,
            Ok(status) if status.pid() == Some(child) => {
                if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                    found = Some(status);
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // No children at all: it cannot be waited for any more.
            Err(_) => return found.or(Some(WaitStatus::Exited(child, 1))),
        }
    }
}

/// Lets this process die with its parent, should that be killed.
fn tied_to(parent: Pid) -> Result<(), ImpError> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| ImpError::start("parent death signal", error))?;
    if getppid() != parent {
        return Err(ImpError::start("parent", "is gone"));
    }
    Ok(())
}
