//! One run: boot, load and faults, recovery, judgement, shutdown.

mod faults;
mod judge;
mod load;

use std::collections::BTreeMap;

use flux_api::lifecycle::{ShutdownRequest, ShutdownStart, WaitRun};
use flux_proto::{Errno, Message};

use crate::clients::Caller;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::{Notice, SEC, World};

/// Longest boot, recovery and shutdown in virtual microseconds.
const BOOT_MAX: u64 = 300 * SEC;
const RECOVERY_MAX: u64 = 1800 * SEC;
const SHUTDOWN_MAX: u64 = 600 * SEC;

/// Events of one run, after which it is taken for endless.
const STEPS_MAX: u64 = 20_000_000;

/// What the script does when it rings, or has asked for.
#[derive(Debug, Clone, PartialEq)]
enum Task {
    /// A session's next action.
    Session(usize),
    /// The next fault.
    Fault,
    /// The disk works again.
    DiskHeals,
    /// Look whether everything has ended.
    Look,
}

/// What an answer is for.
#[derive(Debug, Clone, PartialEq)]
enum Purpose {
    Run,
    Submit(usize),
    Known(u64),
    Commit(String, u64),
    Lookup(String, u64),
    Watch,
    Ignored,
    Online,
    Active,
    Log(u64),
    Resources(u64),
    Key(String),
    Shutdown,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Boot,
    Load,
    Recovery,
    Judgement,
    Shutdown,
    Over,
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// Its number, equal for equal runs.
    pub hash: u64,
    /// Broken laws; empty is good.
    pub violations: Vec<String>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// Virtual seconds.
    pub seconds: f64,
    /// Events.
    pub steps: u64,
    /// Newest lines of the trace, when asked for, and of the brokers' stderr.
    pub lines: Vec<String>,
}

struct Run {
    scenario: Scenario,
    world: World,
    rng: Rng,
    phase: Phase,
    phase_began: u64,
    oracle: Oracle,
    tasks: BTreeMap<u64, Task>,
    purposes: BTreeMap<(Caller, u32), Purpose>,
    sessions: Vec<load::Session>,
    submitted: u32,
    auditor: Option<Caller>,
    auditing: usize,
    /// Looks in a row that found nothing going on.
    calm: u32,
    all_online: bool,
    logs: BTreeMap<u64, String>,
    exits: u32,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: Scenario, verbose: bool) -> Report {
    let mut world = World::new(scenario.shape(), scenario.pace.clone(), scenario.seed);
    world.trace.verbose = verbose;
    let rng = Rng::new(scenario.seed ^ 0x10ad);
    let mut run = Run {
        scenario,
        world,
        rng,
        phase: Phase::Boot,
        phase_began: SEC,
        oracle: Oracle::default(),
        tasks: BTreeMap::new(),
        purposes: BTreeMap::new(),
        sessions: Vec::new(),
        submitted: 0,
        auditor: None,
        auditing: 0,
        calm: 0,
        all_online: false,
        logs: BTreeMap::new(),
        exits: 0,
        counts: BTreeMap::new(),
    };
    run.go();
    run.report()
}

/// Runs what a seed picks.
#[must_use]
pub fn run_seed(seed: u64) -> Report {
    run(Scenario::of(seed), false)
}

impl Run {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn ring(&mut self, after: u64, task: Task) {
        let token = self.world.number();
        self.tasks.insert(token, task);
        self.world.alarm(self.world.now + after, token);
    }

    fn enter(&mut self, phase: Phase) {
        self.world.trace.line(self.world.now, || format!("PHASE {phase:?}"));
        self.phase = phase;
        self.phase_began = self.world.now;
    }

    fn go(&mut self) {
        for rank in 0..self.scenario.size {
            let after = self.rng.range(0, 2 * SEC);
            self.world.start_after(after, rank);
        }
        while self.phase != Phase::Over {
            if !self.world.step() {
                self.world.violation("nothing is left to happen");
                break;
            }
            while let Some(notice) = self.world.notices.pop_front() {
                self.notice(notice);
            }
            if !self.world.violations.is_empty() || self.is_late() {
                break;
            }
        }
    }

    /// Whether the phase should have ended; that is a broken law.
    fn is_late(&mut self) -> bool {
        let limit = match self.phase {
            Phase::Boot => BOOT_MAX,
            Phase::Load => u64::MAX,
            Phase::Recovery | Phase::Judgement => RECOVERY_MAX,
            Phase::Shutdown | Phase::Over => SHUTDOWN_MAX,
        };
        let endless = self.world.trace.steps > STEPS_MAX;
        let late = self.world.now - self.phase_began > limit || endless;
        if late {
            let waiting = self.world.unanswered(u64::MAX);
            let waiting: Vec<&String> = waiting.iter().take(10).collect();
            let text = format!("{:?} does not end; unanswered: {waiting:?}", self.phase);
            self.world.violation(text);
        }
        late
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Alarm(token) => {
                if let Some(task) = self.tasks.remove(&token) {
                    self.task(task);
                }
            }
            Notice::Started(rank) => {
                if rank == 0 {
                    self.attend();
                }
            }
            Notice::Gone(caller) => {
                self.forget(caller);
                if self.auditor == Some(caller) {
                    self.auditor = None;
                }
            }
            Notice::Exited(rank, code) => self.exited(rank, code),
            Notice::Response { caller, tag, last, message } => {
                let purpose = if last {
                    self.purposes.remove(&(caller, tag))
                } else {
                    self.purposes.get(&(caller, tag)).cloned()
                };
                if let Some(purpose) = purpose {
                    self.answered(caller, purpose, &message);
                }
            }
        }
    }

    fn task(&mut self, task: Task) {
        match task {
            Task::Session(at) => self.session(at),
            Task::Fault => self.fault(),
            Task::DiskHeals => self.world.disk.fails = None,
            Task::Look => self.look(),
        }
    }

    fn forget(&mut self, caller: Caller) {
        self.purposes.retain(|(who, _), _| *who != caller);
        for session in &mut self.sessions {
            if session.caller == Some(caller) {
                session.caller = None;
            }
        }
    }

    /// The leader runs: somebody watches it.
    fn attend(&mut self) {
        self.auditor = self.world.connect(0);
        if let Some(caller) = self.auditor
            && self.phase == Phase::Boot
        {
            let tag = self.world.call::<WaitRun>(caller, Some(0), &Default::default());
            self.purposes.insert((caller, tag), Purpose::Run);
        }
    }

    fn exited(&mut self, rank: u32, code: i32) {
        if self.phase == Phase::Shutdown {
            self.exits += 1;
            if rank == 0 && code != 0 {
                self.world.violation(format!("the leader exits with {code}"));
            }
            let alive = (0..self.scenario.size).any(|rank| self.world.is_alive(rank));
            if !alive {
                self.enter(Phase::Over);
            }
            return;
        }
        // The service manager starts it again.
        self.count("broker exits");
        if self.phase == Phase::Boot {
            self.world.violation(format!("rank {rank} exits with {code} while booting"));
        }
        let after = self.rng.range(SEC, 6 * SEC);
        self.world.start_after(after, rank);
    }

    fn answered(&mut self, caller: Caller, purpose: Purpose, message: &Message) {
        match purpose {
            Purpose::Run => {
                if message.errnum() != Errno::OK {
                    let text = format!("boot: {}", message.errnum().text());
                    return self.world.violation(text);
                }
                self.enter(Phase::Load);
                self.begin_load();
                self.begin_faults();
            }
            Purpose::Shutdown => {
                if message.errnum() != Errno::OK {
                    self.world.violation(format!("shutdown: {}", message.errnum().text()));
                }
            }
            Purpose::Online => self.online(message),
            Purpose::Active => self.active(message),
            Purpose::Log(_) | Purpose::Resources(_) | Purpose::Key(_) => {
                self.judge(caller, purpose, message);
            }
            _ => self.load_answered(caller, purpose, message),
        }
    }

    fn begin_shutdown(&mut self) {
        let lost = self.world.unanswered(self.world.now.saturating_sub(300 * SEC));
        for text in lost {
            self.world.violation(format!("never answered: {text}"));
        }
        self.enter(Phase::Shutdown);
        if let Some(caller) = self.auditor {
            let request = ShutdownRequest { loglevel: None };
            let tag = self.world.call::<ShutdownStart>(caller, Some(0), &request);
            self.purposes.insert((caller, tag), Purpose::Shutdown);
        }
    }

    fn report(self) -> Report {
        let Self { world, mut counts, oracle, .. } = self;
        counts.insert("jobs acknowledged", oracle.jobs.len() as u64);
        counts.insert("disk transactions", world.disk.syncs);
        for (result, count) in oracle.results {
            let name = match result.as_str() {
                "Completed" => "jobs completed",
                "Canceled" => "jobs canceled",
                "Failed" => "jobs failed",
                "Timeout" => "jobs timed out",
                _ => "jobs otherwise",
            };
            *counts.entry(name).or_default() += count;
        }
        let lines = world.trace.lines().map(str::to_string);
        let lines = lines.chain(world.stderr.iter().map(|line| format!("stderr {line}"))).collect();
        let (hash, steps) = (world.trace.hash(), world.trace.steps);
        let (violations, seconds) = (world.violations.clone(), world.now as f64 / 1e6);
        // Brokers that are cut off in the middle owe answers.
        drop(world);
        drop(flux_api::rpc::leaked_answers());
        Report { hash, violations, counts, seconds, steps, lines }
    }
}
