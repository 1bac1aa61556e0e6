//! One job that is being executed.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::Answer;
use flux_api::job::exec::{Resume, ShellBarrier_, Start};
use flux_id::{Idset, JobId};
use flux_model::resource_set::ResourceSet;
use flux_model::wait_status;
use flux_svc::{Tag, TimerId};
use serde_json::Value;

use crate::signals::Signal;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What was done for it before a restart is being looked up.
    Recalling,
    /// The namespace is being made.
    Naming,
    /// Shells are being launched.
    Starting,
    /// Every shell has a process.
    Running,
    /// Every shell has exited; the last events are being posted.
    Ending,
    /// The namespace is being grafted.
    Grafting,
}

/// Where a shell is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// Not asked for now: its node is not ready, or away.
    Wanted,
    /// Asked for.
    Asked,
    /// Running with this process id.
    Running(i32),
    /// Ended with this wait status.
    Exited(i32),
}

/// A shell.
#[derive(Debug, Clone, PartialEq)]
pub struct Shell {
    /// Where it is.
    pub stage: Stage,
    /// It may have been asked for before, of which no answer came.
    pub asked: bool,
    /// It has been launched for certain: a node that does not know it has lost it.
    pub launched: bool,
    /// Whether it was launched has been settled, one way or the other.
    pub settled: bool,
    /// Bytes of its stdout and stderr that are in the eventlog.
    pub known: [u64; 2],
    /// It hears signals for certain.
    pub listens: bool,
    /// It is being told of signals.
    pub telling: bool,
    /// When it was found, first or again, in monotonic microseconds.
    pub found: u64,
    /// When its node was lost, in monotonic microseconds.
    pub away: Option<u64>,
    /// Its stream.
    pub tag: Option<Tag>,
}

impl Shell {
    /// A shell that nobody has asked for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Wanted,
            asked: false,
            launched: false,
            settled: false,
            known: [0; 2],
            listens: false,
            telling: false,
            found: 0,
            away: None,
            tag: None,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        matches!(self.stage, Stage::Exited(_))
    }
}

impl Default for Shell {
    fn default() -> Self {
        Self::new()
    }
}

/// The ending of a job by an exception or a signal from outside.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// When it began, in microseconds of the service's clock.
    pub began_us: u64,
    /// Wait status that the exception asks for.
    pub wait_status: Option<i32>,
    /// Kill signals sent to the tasks.
    pub kills: u32,
    /// Signals sent to the shells directly.
    pub shell_kills: u32,
    /// Seconds until the next signal to the shells.
    pub interval: f64,
    /// It is of before a restart, and how long ago is yet to be told by a node.
    pub undated: bool,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its user.
    pub userid: u32,
    /// Its user is not the instance owner: a privileged launcher starts its shells.
    pub guest: bool,
    /// Its resources.
    pub r: ResourceSet,
    /// Its jobspec.
    pub jobspec: Value,
    /// The manager's request.
    pub answer: Answer<Start>,
    /// How far it is.
    pub step: Step,
    /// Shells by broker rank.
    pub shells: BTreeMap<u32, Shell>,
    /// Shells that have no process yet.
    pub launching: usize,
    /// Shells that have not exited.
    pub active: usize,
    /// Shells that wait at the barrier.
    pub barrier: BTreeMap<u32, Answer<ShellBarrier_>>,
    /// Barriers that every shell has passed.
    pub barriers: u32,
    /// Shells that are lost, and why.
    pub gone: BTreeMap<u32, String>,
    /// Signals to its tasks, the newest last.
    pub signals: Vec<Signal>,
    /// Highest wait status so far.
    pub status: i32,
    /// Broker ranks whose shell the job cannot lose; `None`: any.
    pub critical: Option<BTreeSet<u32>>,
    /// Set when the job shall end early.
    pub ending: Option<Ending>,
    /// Time limit.
    pub expiration: Option<TimerId>,
    /// Kill escalation.
    pub killer: Option<TimerId>,
    /// Wait for shells that outlive the leader.
    pub straggler: Option<TimerId>,
    /// An error that will be raised has been reported.
    pub reported: bool,
    /// How far it was before a restart.
    pub resume: Option<Resume>,
    /// The request said `reattach`: the answer is `reattached` in place of `start`.
    pub reattach: bool,
    /// Wall clock of the first attempt to launch its shells, as far as is known.
    pub began: f64,
    /// The same in monotonic microseconds, if this broker made it.
    pub began_us: Option<u64>,
    /// Signals that are not on record yet, and the tickets of their answers.
    pub early: Vec<(u64, Signal)>,
    /// Of its time limit so many seconds were used at a monotonic time in microseconds, since when
    /// they are counted by that.
    pub used: Option<(f64, u64)>,
    /// How long its shells had been there when its end began, in seconds, as it is on record.
    pub ended_after: Option<f64>,
}

impl Job {
    /// Seconds since the first attempt to launch its shells.
    #[must_use]
    pub fn age(&self, now_us: u64, wall: f64) -> f64 {
        match self.began_us {
            Some(began) => now_us.saturating_sub(began) as f64 / 1e6,
            // A clock that was set back tells nothing: longer ago than any node has been up.
            None if wall < self.began => 1e12,
            None => wall - self.began,
        }
    }

    /// A shell that was found again has run for so many seconds, as its node says. The oldest one
    /// tells how much of the time of the job is used, whatever has become of clocks.
    pub fn has_run(&mut self, age: f64, now_us: u64) {
        let used = self.delay() + age;
        if self.used(now_us).is_none_or(|known| known < used) {
            self.used = Some((used, now_us));
        }
    }

    /// Seconds of its time limit that are used, as far as is known.
    #[must_use]
    pub fn used(&self, now_us: u64) -> Option<f64> {
        self.used.map(|(used, at)| used + now_us.saturating_sub(at) as f64 / 1e6)
    }

    /// Seconds between its allocation and the first attempt to launch its shells.
    fn delay(&self) -> f64 {
        match self.r.starttime {
            start if start > 0.0 => (self.began - start).max(0.0),
            _ => 0.0,
        }
    }

    /// Seconds since the first attempt to launch its shells, by clocks that nobody sets, as far as
    /// is known.
    #[must_use]
    pub fn ran(&self, now_us: u64) -> Option<f64> {
        match self.began_us {
            Some(began) => Some(now_us.saturating_sub(began) as f64 / 1e6),
            None => self.used(now_us).map(|used| (used - self.delay()).max(0.0)),
        }
    }

    /// Seconds since the end began that is on record since before a restart; 0 if none is.
    #[must_use]
    pub fn ended_ago(&self, now_us: u64, wall: f64) -> f64 {
        let Some(ended) = self.resume.as_ref().and_then(|resume| resume.ended) else { return 0.0 };
        match self.ran(now_us) {
            Some(ran) => {
                let after = self.ended_after.unwrap_or(ended - self.began);
                (ran - after).clamp(0.0, ran)
            }
            None => (wall - ended).max(0.0),
        }
    }

    /// Name of the guest namespace.
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("job-{}", self.id.dec())
    }

    /// Whether no process is run for it.
    #[must_use]
    pub fn is_mock(&self) -> bool {
        self.jobspec.pointer("/attributes/system/exec/test").is_some()
    }

    /// Ranks of shells that have not exited.
    #[must_use]
    pub fn active_ranks(&self) -> Idset {
        self.shells.iter().filter(|(_, shell)| !shell.has_exited()).map(|(rank, _)| *rank).collect()
    }

    /// The rank of the leader shell: the first of R.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        self.shells.first_key_value().map(|(rank, _)| *rank)
    }

    /// `HOST (rank N)`, or `HOSTS (rank[s] IDS)` for several.
    #[must_use]
    pub fn place(&self, ranks: &Idset) -> String {
        let hosts: Vec<&str> = ranks.ids().filter_map(|rank| self.r.host(rank)).collect();
        let word = if ranks.len() > 1 { "ranks" } else { "rank" };
        let hosts = flux_id::Hostlist::from_hosts(hosts).map(|list| list.to_string());
        format!("{} ({word} {ranks})", hosts.unwrap_or_else(|_| "unknown".to_string()))
    }

    /// Whether shells that were never launched shall stay so.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.is_some() || self.resume.as_ref().is_some_and(|resume| resume.ended.is_some())
    }

    /// Whether losing this shell ends the job.
    #[must_use]
    pub fn is_critical(&self, rank: u32) -> bool {
        self.critical.as_ref().is_none_or(|critical| critical.contains(&rank))
    }

    /// The wait status that the manager is told: the highest of the shells, or what the
    /// exception asks for, and never 0 after an exception.
    #[must_use]
    pub fn finish_status(&self) -> i32 {
        match &self.ending {
            None => self.status,
            Some(Ending { wait_status: Some(status), .. }) => match wait_status::signal(*status) {
                None => *status,
                Some(_) => wait_status::exit_code(*status) << 8,
            },
            Some(_) => self.status.max(1 << 8),
        }
    }
}
