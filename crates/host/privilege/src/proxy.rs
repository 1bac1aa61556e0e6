//! The IMP stays while what it has started runs: the owner of the instance may signal the IMP but
//! not a process of another user, so signals are passed on. SIGUSR1 stands for SIGKILL, which
//! cannot be passed on.
//!
//! It is two processes. The one that was called has the caller as real user, so that it can be
//! signalled, and killed. The *guard* below it belongs to root alone: everything that is started
//! comes from it, and when the first process is killed it ends all of it.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{set_child_subreaper, set_parent_process_death_signal};

use crate::descendants;
use crate::error::ImpError;
use crate::start::{Fork, Program, fork, leave};
use crate::{Outcome, Session, detach, hygiene, identity};

/// Signals that say something about this process and are not for the other.
const OWN: [Signal; 8] = [
    Signal::SIGCHLD,
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
    session: &Session,
    program: &Program,
    leftovers: Leftovers,
    ready: impl FnOnce() -> Result<(), ImpError>,
) -> Result<Outcome, ImpError> {
    // From here on signals wait until they are asked for.
    let all = SigSet::all();
    all.thread_set_mask().map_err(|error| ImpError::prepare("signal mask", error))?;
    adopt()?;
    let me = getpid();
    let guard = match fork()? {
        Fork::Child => guard(session, me, program, leftovers, ready),
        Fork::Parent(guard) => guard,
    };
    let status = pass_on(&all, guard, |_| false);
    if leftovers == Leftovers::Kill {
        // Nothing is there, unless the guard was killed.
        descendants::end_all();
    }
    Ok(outcome(status))
}

/// Processes whose parent has ended become children of this one, and can be found.
fn adopt() -> Result<(), ImpError> {
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| ImpError::prepare("subreaper", error))
}

/// The process that belongs to root alone. It ends as the program has ended.
fn guard(
    session: &Session,
    parent: Pid,
    program: &Program,
    leftovers: Leftovers,
    ready: impl FnOnce() -> Result<(), ImpError>,
) -> ! {
    let begin = || {
        if session.caller.is_privileged() {
            identity::become_root()?;
        }
        adopt()?;
        // Should it be killed, everything is.
        tied_to(parent, rustix::process::Signal::USR1)?;
        let me = getpid();
        match fork()? {
            Fork::Child => program.replace(|| {
                if session.caller.is_privileged() {
                    detach::from_caller()?;
                }
                ready()?;
                tied_to(me, rustix::process::Signal::KILL)?;
                hygiene::reset_signals()
            }),
            Fork::Parent(child) => Ok(child),
        }
    };
    let child = match begin() {
        Ok(child) => child,
        Err(error) => {
            crate::tell(&error);
            leave(1)
        }
    };
    let status = pass_on(&SigSet::all(), child, |signal| {
        let kill = signal == Signal::SIGUSR1;
        if kill {
            descendants::kill_all();
        }
        kill
    });
    if leftovers == Leftovers::Kill {
        descendants::end_all();
    }
    match outcome(status) {
        Outcome::Code(code) => leave(code.into()),
        Outcome::Signal(signum) => {
            hygiene::die_of(signum);
            leave(128 + signum)
        }
    }
}

/// Passes on signals to a child, except those that `taken` has dealt with, until it has ended.
fn pass_on(all: &SigSet, child: Pid, taken: impl Fn(Signal) -> bool) -> WaitStatus {
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(child) {
                    return status;
                }
            }
            Ok(signal) if OWN.contains(&signal) || taken(signal) => {}
            // A child that has just ended is reaped next.
            Ok(signal) => {
                let _ = nix::sys::signal::kill(child, signal);
            }
            // A real-time signal has no name here; it is not passed on.
            Err(_) => {}
        }
    }
}

fn outcome(status: WaitStatus) -> Outcome {
    match status {
        WaitStatus::Signaled(_, signal, _) => Outcome::Signal(signal as i32),
        WaitStatus::Exited(_, code) => Outcome::Code(u8::try_from(code & 0xff).unwrap_or(1)),
        _ => Outcome::Code(1),
    }
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

/// Lets this process get a signal when its parent ends.
fn tied_to(parent: Pid, signal: rustix::process::Signal) -> Result<(), ImpError> {
    set_parent_process_death_signal(Some(signal))
        .map_err(|error| ImpError::start("parent death signal", error))?;
    if getppid() != parent {
        return Err(ImpError::start("parent", "is gone"));
    }
    Ok(())
}
