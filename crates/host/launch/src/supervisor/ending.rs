//! Signals, the end of shells, and what they leave behind.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::process::{Signal, WaitOptions, wait};

use super::Supervisor;
use super::shell::Stage;
use crate::journal::End;
use crate::proc;

/// Processes that SIGKILL does not end within this time are given up and counted.
const GIVE_UP: Duration = Duration::from_secs(10);

const KILL: i32 = Signal::KILL.as_raw();
const TERM: i32 = Signal::TERM.as_raw();

/// Sends a signal to a process, or to the group of `-target`; an errno or 0.
fn send(target: i32, signum: i32) -> u32 {
    flux_proc::kill(target.abs(), target < 0, signum).err().map_or(0, |errno| errno.0)
}

/// Whether a process is there, and the same one.
fn is_there(pid: i32, born: u64) -> bool {
    pid > 1 && proc::born(pid).is_some_and(|now| born == 0 || now == born)
}

impl Supervisor {
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Sends a signal to a shell; an errno or 0.
    pub(super) fn signal(&mut self, id: u64, signum: i32, all: bool) -> u32 {
        let Some(record) = self.records.get(&id) else { return Errno::ENOENT as u32 };
        if !self.pids.contains_key(&record.pid) {
            return Errno::ESRCH as u32;
        }
        if all {
            self.kill_all(id, signum);
            return 0;
        }
        let (pid, signaller) = (record.pid, record.signaller.clone());
        match send(-pid, signum) {
            error if error == Errno::EPERM as u32 => self.ask_signaller(&signaller, pid, signum),
            result => result,
        }
    }

    /// Sends a signal to everything that comes from a shell.
    pub(super) fn kill_all(&mut self, id: u64, signum: i32) {
        let Some(record) = self.records.get(&id) else { return };
        let (pid, signaller) = (record.pid, record.signaller.clone());
        if !self.pids.contains_key(&pid) {
            return;
        }
        let mut targets = proc::descendants(&[pid]);
        targets.extend(
            self.orphans().0.into_iter().filter(|(_, job)| *job == Some(id)).map(|(pid, _)| pid),
        );
        if send(-pid, signum) == Errno::EPERM as u32 {
            self.ask_signaller(&signaller, pid, signum);
        }
        for target in targets {
            if send(target, signum) == Errno::EPERM as u32 {
                self.ask_signaller(&signaller, target, signum);
            }
        }
    }

    /// Has a privileged program send a signal to another user's process; an errno or 0.
    fn ask_signaller(&mut self, signaller: &[String], pid: i32, signum: i32) -> u32 {
        let Some((program, words)) = signaller.split_first() else { return Errno::EPERM as u32 };
        let mut command = std::process::Command::new(program);
        command.args(words).arg(signum.to_string()).arg(pid.to_string());
        command.env_clear().envs(&self.env).current_dir("/");
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        match command.spawn() {
            // Reaped with the other children.
            Ok(child) => {
                self.helpers.extend(i32::try_from(child.id()));
                0
            }
            Err(error) => error.raw_os_error().map_or(Errno::EPERM as u32, i32::unsigned_abs),
        }
    }

    /// SIGTERM. While there is a broker jobs are its affair; without one it comes from a system that
    /// goes down, and waits for every process.
    fn told_to_end(&mut self) {
        if self.link.is_some() || self.going_down.is_some() {
            return;
        }
        self.going_down = Some(Instant::now());
        for id in self.pids.values().copied().collect::<Vec<u64>>() {
            self.kill_all(id, TERM);
        }
    }

    /// Collects children that have ended.
    pub(super) fn children_changed(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo == TERM.unsigned_abs() {
                self.told_to_end();
            }
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            self.helpers.remove(&pid);
            let Some(id) = self.pids.remove(&pid) else { continue };
            if let Some(shell) = self.shells.get_mut(&id) {
                shell.stage = Stage::Leaving(status.as_raw(), Instant::now());
                self.leaving.insert(id);
            }
        }
        if self.is_leaving() {
            self.look_at_leaving();
        }
    }

    /// Processes that have lost their parent, and whose they are; and whether that is all of them. It
    /// may not be when one has just ended: what that has left behind came here after it was looked.
    fn orphans(&self) -> (Vec<(i32, Option<u64>)>, bool) {
        let children = proc::children().unwrap_or_default();
        let strange: Vec<i32> = children
            .into_iter()
            .filter(|pid| !self.pids.contains_key(pid) && !self.helpers.contains(pid))
            .collect();
        let owner = |pid: i32| {
            let group = proc::group(pid);
            let leader = self.shells.iter().find(|(_, shell)| Some(shell.pid) == group);
            let uri = self.env.get("FLUX_URI").map(String::as_str);
            leader.map(|(id, _)| *id).or_else(|| proc::job_of(pid, uri))
        };
        // What has ended already is collected soon.
        let alive = |pid: &i32| proc::born(*pid).is_some();
        let (alive, ended): (Vec<i32>, Vec<i32>) = strange.into_iter().partition(alive);
        (alive.into_iter().map(|pid| (pid, owner(pid))).collect(), ended.is_empty())
    }

    /// Kills what ended shells have left behind; ends those that left nothing.
    pub(super) fn look_at_leaving(&mut self) {
        let (orphans, complete) = self.orphans();
        let runs = |job: &Option<u64>| match job {
            Some(id) => {
                self.shells.get(id).is_some_and(|shell| matches!(shell.stage, Stage::Running))
            }
            None => !self.pids.is_empty(),
        };
        let strays: Vec<(i32, Option<u64>)> =
            orphans.into_iter().filter(|(_, job)| !runs(job)).collect();
        let leaving: Vec<(u64, i32, Instant)> = self
            .leaving
            .iter()
            .filter_map(|id| match self.shells.get(id)?.stage {
                Stage::Leaving(status, since) => Some((*id, status, since)),
                _ => None,
            })
            .collect();
        self.end(&strays);
        for (id, status, since) in leaving {
            let left = strays.iter().filter(|(_, job)| job.is_none_or(|job| job == id)).count();
            if (left == 0 && complete) || since.elapsed() > GIVE_UP {
                self.finished(id, status, u32::try_from(left).unwrap_or(u32::MAX));
            }
        }
    }

    /// Kills orphans of jobs that have ended.
    pub(super) fn kill_strays(&mut self) {
        let strays: Vec<(i32, Option<u64>)> = self
            .orphans()
            .0
            .into_iter()
            .filter(|(_, job)| {
                job.is_some_and(|id| {
                    self.shells.get(&id).is_none_or(|shell| matches!(shell.stage, Stage::Ended))
                })
            })
            .collect();
        self.end(&strays);
    }

    fn end(&mut self, strays: &[(i32, Option<u64>)]) {
        for (pid, job) in strays {
            let mut targets = proc::descendants(&[*pid]);
            targets.push(*pid);
            let record = job.and_then(|id| self.records.get(&id));
            let signaller = record.map(|record| record.signaller.clone()).unwrap_or_default();
            for target in targets {
                if send(target, KILL) == Errno::EPERM as u32 {
                    self.ask_signaller(&signaller, target, KILL);
                }
            }
        }
    }

    /// Ends the shells of a supervisor that was killed: they have no parent who could tell how
    /// they end. Also those whose record is lost: nobody knows of them, and their cores are free.
    pub(super) fn end_inherited(&mut self) {
        let open: Vec<(u64, i32, u64, Vec<String>)> = self
            .records
            .iter()
            .filter(|(_, record)| record.end.is_none())
            .map(|(id, record)| (*id, record.pid, record.born, record.signaller.clone()))
            .collect();
        let began = Instant::now();
        loop {
            let mut targets: Vec<(i32, usize)> = Vec::new();
            for (at, (id, pid, born, _)) in open.iter().enumerate() {
                let mut roots = proc::of_job(*id, self.env.get("FLUX_URI").map(String::as_str));
                if is_there(*pid, *born) {
                    roots.push(*pid);
                }
                let more = proc::descendants(&roots);
                targets.extend(roots.into_iter().chain(more).map(|pid| (pid, at)));
            }
            let unknown = proc::shells_of(self.env.get("FLUX_URI").map(String::as_str));
            let more = proc::descendants(&unknown);
            // No entry of the list: without a record there is no program for signals.
            targets.extend(unknown.into_iter().chain(more).map(|pid| (pid, usize::MAX)));
            if targets.is_empty() || began.elapsed() > GIVE_UP {
                break;
            }
            for (pid, at) in targets {
                if send(pid, KILL) == Errno::EPERM as u32
                    && let Some((_, _, _, signaller)) = open.get(at)
                {
                    self.ask_signaller(signaller, pid, KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for (id, ..) in open {
            let note = "the supervisor of the job shells was killed".to_string();
            if let Some(record) = self.records.get_mut(&id) {
                record.end = Some(End::Lost(note));
                self.ended.insert(id);
            }
            self.write_end(id);
        }
    }
}
