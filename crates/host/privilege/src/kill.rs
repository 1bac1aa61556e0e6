//! `flux-imp kill SIGNAL PID`: a signal to one process of a job.
//!
//! The process must run below an IMP that the same caller has started. It is held by a descriptor
//! while that is looked up, so that another process with its id cannot get the signal.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal as Named;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

use crate::config::{Config, ConfigError};
use crate::descendants::stat_of;
use crate::error::ImpError;
use crate::exec::may_call;
use crate::{Session, audit};

/// Generations that are looked through.
const DEPTH_MAX: usize = 4096;

fn number(text: &str) -> Option<Signal> {
    let number = match text.parse::<i32>() {
        Ok(number) => number,
        Err(_) => {
            let name = text.to_ascii_uppercase();
            let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
            name.parse::<Named>().ok()? as i32
        }
    };
    Signal::from_named_raw(number)
}

pub(crate) fn kill(session: &Session, signal: &str, pid: &str) -> Result<(), ImpError> {
    let caller = &session.caller;
    let config = Config::load(caller, &session.inherited)?;
    may_call(session, &config.exec.ok_or(ConfigError::NoExec)?, "kill")?;
    let signal =
        number(signal).ok_or_else(|| ImpError::Kill(format!("'{signal}' is not a signal")))?;
    let bad = || ImpError::Kill(format!("'{pid}' is not a process id"));
    let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(bad)?;
    let raw = pid.as_raw_nonzero().get();
    if raw <= 1 {
        return Err(ImpError::NotMine(raw));
    }
    let failed = |error: rustix::io::Errno| ImpError::Kill(format!("process {raw}: {error}"));
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    // Programs of root are no jobs: those end through the IMP that has started them.
    let mine = is_below_imp_of(raw, caller.uid) && real_uid(raw) != Some(0);
    // It lives still, so what was looked up was about it.
    test_kill_process(pid).map_err(failed)?;
    if !mine {
        return Err(ImpError::NotMine(raw));
    }
    audit::signalled(caller, raw, signal.as_raw());
    pidfd_send_signal(&handle, signal).map_err(failed)
}

/// Whether an ancestor is this program, started by that user.
fn is_below_imp_of(pid: i32, uid: u32) -> bool {
    let Ok(own) = std::fs::metadata("/proc/self/exe") else { return false };
    let mut passed = Vec::new();
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        let Some(stat) = stat_of(at) else { return false };
        passed.push((at, stat));
        at = stat.parent;
        if at <= 1 {
            return false;
        }
        let same = std::fs::metadata(format!("/proc/{at}/exe"))
            .is_ok_and(|exe| (exe.dev(), exe.ino()) == (own.dev(), own.ino()));
        if same && real_uid(at) == Some(uid) {
            // A parent that had ended meanwhile, and whose id is another process's now, would not
            // be the parent any more.
            return passed.iter().all(|(pid, stat)| stat_of(*pid) == Some(*stat));
        }
    }
    false
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(number("15"), Some(Signal::TERM));
        assert_eq!(number("term"), Some(Signal::TERM));
        assert_eq!(number("SIGKILL"), Some(Signal::KILL));
        for bad in ["", "0", "-9", "99", "FOO", "SIGFOO"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn processes_that_no_imp_has_started_are_nobodys_to_kill() {
        let own = std::process::id().cast_signed();
        assert!(!is_below_imp_of(own, rustix::process::getuid().as_raw()));
        assert_eq!(real_uid(own), Some(rustix::process::getuid().as_raw()));
    }
}
