//! The processes below this one, found in `/proc`, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Rounds of looking for processes that were started meanwhile.
const ROUNDS_MAX: usize = 10_000;

/// How long to wait for killed processes, and how long between looks.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Unit names of job shells begin so, where systemd starts the IMP.
const UNIT: &str = "imp-shell";

/// One line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    /// In clock ticks since boot: tells processes that had the same id apart.
    pub(crate) started: u64,
}

/// Parses a line; the name in parentheses may hold anything.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, started })
}

/// What `/proc` says of a process.
pub(crate) fn stat_of(pid: i32) -> Option<Stat> {
    // The name of a process need not be UTF-8.
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&line))
}

fn processes() -> BTreeMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_of(pid)?)))
        .collect()
}

/// Everything below a process.
pub(crate) fn below(root: i32, all: &BTreeMap<i32, Stat>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// Signals the process that had this id at this time, and no other.
fn signal(pid: i32, stat: Stat, signal: Signal) {
    let Some(id) = Pid::from_raw(pid) else { return };
    let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else { return };
    if stat_of(pid).is_some_and(|now| now.started == stat.started) {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(&handle, signal);
    }
}

/// Other processes of the control group of this one, if it is one of a job shell, without those of
/// the IMP.
fn others_of_group() -> BTreeSet<i32> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    if !path.rsplit('/').next().unwrap_or_default().starts_with(UNIT) {
        return BTreeSet::new();
    }
    let list = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/cgroup.procs"));
    let list = list.unwrap_or_default();
    let own = [nix::unistd::getpid(), nix::unistd::getppid()].map(nix::unistd::Pid::as_raw);
    list.lines().filter_map(|line| line.parse().ok()).filter(|pid| !own.contains(pid)).collect()
}

/// Kills everything below this process, and its control group if that is a job shell's.
///
/// All are stopped first, until no new ones are found: a process that keeps forking cannot get
/// away.
pub(crate) fn kill_all() {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut stopped: BTreeMap<i32, Stat> = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let all = processes();
        let mut targets = below(me, &all);
        targets.extend(others_of_group());
        let fresh: Vec<(i32, Stat)> = targets
            .into_iter()
            .filter_map(|pid| Some((pid, *all.get(&pid)?)))
            .filter(|(pid, stat)| stopped.get(pid) != Some(stat) && !is_dead(*pid))
            .collect();
        if fresh.is_empty() {
            break;
        }
        for (pid, stat) in fresh {
            signal(pid, stat, Signal::STOP);
            stopped.insert(pid, stat);
        }
    }
    for (pid, stat) in stopped {
        // The parent may have changed by now, the process not.
        signal(pid, stat, Signal::KILL);
    }
}

/// Whether a process has ended and only waits to be reaped.
fn is_dead(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with(['Z', 'X']))
}

/// Kills everything below this process and waits until it has ended, but not for ever: a process
/// may hang in the kernel.
pub(crate) fn end_all() {
    let deadline = Instant::now() + PATIENCE;
    while has_children() || !others_of_group().is_empty() {
        kill_all();
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Takes children that have ended; whether there are others.
fn has_children() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_do_not_confuse() {
        let line = "7 (a) 1 (b) S 3 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse_stat(line), Some(Stat { parent: 3, started: 12345 }));
        assert_eq!(parse_stat("7 (x"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn everything_below_is_found_and_nothing_else() {
        let stat = |parent| Stat { parent, started: 1 };
        let all =
            BTreeMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(1)), (5, stat(3))]);
        assert_eq!(below(2, &all), BTreeSet::from([3, 5]));
        // A cycle, which cannot be, ends all the same.
        let odd = BTreeMap::from([(1, stat(2)), (2, stat(1))]);
        assert_eq!(below(1, &odd), BTreeSet::from([1, 2]));
    }

    #[test]
    fn this_process_is_below_its_parent() {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let parent = stat_of(me).unwrap().parent;
        assert!(below(parent, &processes()).contains(&me));
    }
}
