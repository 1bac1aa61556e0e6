//! One run: boot, load and faults, recovery, judgement, shutdown.

mod admin;
mod copyist;
mod faults;
mod janitor;
mod judge;
mod load;
mod onlookers;
mod order;
mod returns;
mod trouble;

pub(crate) use janitor::PURGED;

use std::collections::{BTreeMap, BTreeSet};

use flux_api::job::manager::{Journal, JournalRequest};
use flux_api::lifecycle::{ShutdownRequest, ShutdownStart, WaitRun};
use flux_proto::{Errno, Message};
use serde_json::Value;

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
    /// Shut down in the middle.
    Stop,
    /// Look whether an onlooker has to come again.
    Onlookers,
    /// Something from outside.
    Trouble,
    /// The administrator's next action.
    Admin,
    /// The next purge.
    Janitor,
    /// The next copy.
    Copyist,
    /// All nodes must be back after the start of this leader, if there were no more faults.
    Returned(u64, u64),
}

/// What an answer is for.
#[derive(Debug, Clone, PartialEq)]
enum Purpose {
    Run,
    Submit(order::Demand),
    Known(u64),
    Commit(String, u64),
    Lookup(String, u64),
    Watch,
    /// A watch for the whole run.
    Onlook(usize),
    Ignored,
    Online,
    Active,
    Log(u64),
    Resources(u64),
    /// What `job-list` says of all jobs.
    Listed,
    /// Events as they happen.
    Journal,
    /// The job has ended, says `job-list`.
    Ended(u64),
    Key(String),
    Shutdown,
    /// Something that this user may not do.
    Forbidden(&'static str),
    /// The configuration was read again after so many changes.
    Reload(u64),
    /// The configuration of a rank.
    Configuration(u32),
    Admin(admin::Asked),
    /// One job shall be purged, or only counted.
    PurgeOne(u64, bool),
    /// Somebody who must not know a job any more.
    Gone(u64, &'static str),
    /// An object that shall be copied later.
    Original,
    /// Such an object is put.
    Copy,
    /// What is down after the return of a leader.
    Returned(returns::Question, u64, u64),
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Boot,
    Load,
    Stopping,
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
    /// For what came later than most of this.
    elsewhere: Rng,
    phase: Phase,
    phase_began: u64,
    oracle: Oracle,
    tasks: BTreeMap<u64, Task>,
    purposes: BTreeMap<(Caller, u32), Purpose>,
    sessions: Vec<load::Session>,
    onlookers: Vec<onlookers::Onlooker>,
    changes: trouble::Changes,
    admin: admin::Admin,
    janitor: janitor::Janitor,
    copyist: copyist::Copyist,
    order: order::Order,
    returns: returns::Returns,
    submitted: u32,
    /// Jobs of guests.
    guests: BTreeSet<u64>,
    auditor: Option<Caller>,
    /// Who began the last look at settings when all faults were over.
    review: Option<Caller>,
    auditing: usize,
    /// Looks in a row that found nothing going on.
    calm: u32,
    all_online: bool,
    logs: BTreeMap<u64, String>,
    /// Events of each job from the journal of the present leader.
    journal: BTreeMap<u64, Vec<Value>>,
    /// The present leader was told to stop, or to shut the instance down: it stops its queues
    /// before it ends.
    leaving: bool,
    /// The instance will be shut down and started again.
    again: bool,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: Scenario, verbose: bool) -> Report {
    let mut run = Run::new(scenario, verbose);
    run.go();
    run.report()
}

/// Runs what a seed picks.
#[must_use]
pub fn run_seed(seed: u64) -> Report {
    run(Scenario::of(seed), false)
}

impl Run {
    fn new(scenario: Scenario, verbose: bool) -> Self {
        let mut world = World::new(scenario.shape(), scenario.pace.clone(), scenario.seed);
        world.trace.verbose = verbose;
        let rng = Rng::new(scenario.seed ^ 0x10ad);
        let elsewhere = Rng::new(scenario.seed ^ 0xe15e_43e4);
        let again = scenario.faults.restart;
        let janitor = janitor::Janitor::new(scenario.seed);
        let copyist = copyist::Copyist::new(scenario.seed);
        Self {
            scenario,
            world,
            rng,
            elsewhere,
            phase: Phase::Boot,
            phase_began: SEC,
            oracle: Oracle::default(),
            tasks: BTreeMap::new(),
            purposes: BTreeMap::new(),
            sessions: Vec::new(),
            changes: trouble::Changes::default(),
            admin: admin::Admin::default(),
            janitor,
            copyist,
            order: order::Order::default(),
            returns: returns::Returns::default(),
            onlookers: Vec::new(),
            submitted: 0,
            guests: BTreeSet::new(),
            auditor: None,
            review: None,
            auditing: 0,
            calm: 0,
            all_online: false,
            logs: BTreeMap::new(),
            journal: BTreeMap::new(),
            leaving: false,
            again,
            counts: BTreeMap::new(),
        }
    }

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
        self.start_all();
        if self.scenario.faults.early {
            self.ring(SEC / 2, Task::Fault);
        }
        while self.phase != Phase::Over && self.turn() {}
    }

    /// The next thing happens; `false`: the run ends with a broken law.
    fn turn(&mut self) -> bool {
        if !self.world.step() {
            self.world.violation("nothing is left to happen");
            return false;
        }
        while let Some(notice) = self.world.notices.pop_front() {
            self.notice(notice);
        }
        self.world.violations.is_empty() && !self.is_late()
    }

    /// Whether the phase should have ended; that is a broken law.
    fn is_late(&mut self) -> bool {
        let limit = match self.phase {
            Phase::Boot => BOOT_MAX,
            Phase::Load => u64::MAX,
            Phase::Stopping => RECOVERY_MAX,
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
                if self.phase == Phase::Shutdown {
                    // Whoever starts late is stopped by the service manager.
                    self.world.kill(rank);
                    self.stopped();
                } else if rank == 0 {
                    self.leaving = false;
                    self.order_leader_back();
                    self.leader_back();
                    self.attend();
                }
            }
            Notice::Gone(caller) => {
                let stopping = self.phase == Phase::Stopping
                    && self
                        .purposes
                        .iter()
                        .any(|((who, _), what)| *who == caller && *what == Purpose::Shutdown);
                if stopping {
                    self.ring(SEC, Task::Stop);
                }
                self.forget(caller);
                self.onlooker_gone(caller);
                self.admin_gone(caller);
                if self.auditor == Some(caller) {
                    self.auditor = None;
                }
            }
            Notice::Exited(rank, code) => self.exited(rank, code),
            Notice::Event(caller, message) => self.purge_told(caller, &message),
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
            Task::Stop => self.stop(),
            Task::Onlookers => self.onlook(),
            Task::Trouble => self.trouble(),
            Task::Admin => self.administrate(),
            Task::Janitor => self.tidy(),
            Task::Copyist => self.copy(),
            Task::Returned(leader, faults) => self.returned(leader, faults),
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
        self.journal.clear();
        let Some(caller) = self.auditor else { return };
        let tag = self.world.call::<WaitRun>(caller, Some(0), &Default::default());
        self.purposes.insert((caller, tag), Purpose::Run);
    }

    fn exited(&mut self, rank: u32, code: i32) {
        if rank == 0 {
            self.order_leader_gone();
        }
        self.disturbed(6 * SEC);
        if self.phase == Phase::Stopping && rank == 0 && code == 0 {
            // It was faster than its own answer.
            self.enter(Phase::Shutdown);
        }
        if self.phase == Phase::Shutdown {
            if rank == 0 && code != 0 {
                self.world.violation(format!("the leader exits with {code}"));
            }
            if rank == 0 {
                // The service manager stops those that never came in.
                for rank in 1..self.scenario.size {
                    self.world.signal(rank, 15);
                }
            }
            return self.stopped();
        }
        // The service manager starts it again.
        self.count("broker exits");
        if self.phase == Phase::Boot && !self.scenario.faults.early {
            self.world.violation(format!("rank {rank} exits with {code} while booting"));
        }
        let after = self.rng.range(SEC, 6 * SEC);
        self.world.start_after(after, rank);
    }

    /// Whether all brokers have ended; then the run is over, or the instance starts again.
    fn stopped(&mut self) {
        if (0..self.scenario.size).any(|rank| self.world.is_alive(rank)) {
            return;
        }
        if !std::mem::take(&mut self.again) {
            return self.enter(Phase::Over);
        }
        self.count("restarts");
        self.world.heal();
        self.enter(Phase::Boot);
        self.start_all();
    }

    fn start_all(&mut self) {
        for rank in 0..self.scenario.size {
            let after = self.rng.range(0, 2 * SEC);
            self.world.start_after(after, rank);
        }
    }

    fn answered(&mut self, caller: Caller, purpose: Purpose, message: &Message) {
        match purpose {
            Purpose::Run => {
                if message.errnum() == Errno::OK {
                    let request =
                        JournalRequest { allow: None, deny: None, full: true, unarchived: false };
                    let tag = self.world.stream::<Journal>(caller, Some(0), &request);
                    self.purposes.insert((caller, tag), Purpose::Journal);
                }
                if self.phase != Phase::Boot {
                    return;
                }
                if message.errnum() != Errno::OK && self.scenario.faults.early {
                    // The leader goes down again; the next one is asked.
                    return;
                }
                if message.errnum() != Errno::OK {
                    let text = format!("boot: {}", message.errnum().text());
                    return self.world.violation(text);
                }
                self.enter(Phase::Load);
                self.begin_load();
                self.begin_onlookers();
                self.begin_faults();
                self.begin_trouble();
                self.begin_admin();
                self.begin_janitor();
                self.begin_copyist();
            }
            Purpose::Shutdown => {
                let ok = message.errnum() == Errno::OK;
                if self.phase == Phase::Stopping {
                    if ok {
                        self.enter(Phase::Shutdown);
                    } else {
                        self.ring(SEC, Task::Stop);
                    }
                } else if !ok {
                    self.world.violation(format!("shutdown: {}", message.errnum().text()));
                }
            }
            Purpose::Onlook(at) => self.onlooker_hears(at, message),
            Purpose::Journal => self.journal_says(message),
            Purpose::Listed => self.listed(message),
            Purpose::Online => self.online(message),
            Purpose::Active => self.active(caller, message),
            Purpose::Reload(made) => self.reloaded(made, message),
            Purpose::Configuration(rank) if message.errnum() == Errno::OK => {
                self.configured(rank, message);
            }
            Purpose::Configuration(_) => {}
            Purpose::Admin(asked) => self.admin_hears(asked, message),
            Purpose::PurgeOne(id, force) => self.purged_one(caller, id, force, message),
            Purpose::Gone(id, whom) => self.gone(id, whom, message),
            Purpose::Original => self.original(message),
            Purpose::Copy => self.copied(message),
            Purpose::Returned(question, leader, faults) => {
                self.returned_says(caller, (question, leader, faults), message);
            }
            Purpose::Log(_) | Purpose::Resources(_) | Purpose::Key(_) => {
                self.judge(caller, purpose, message);
            }
            _ => self.load_answered(caller, purpose, message),
        }
    }

    /// Shuts the instance down though there is work.
    fn stop(&mut self) {
        if self.phase == Phase::Load {
            self.world.heal();
            self.enter(Phase::Stopping);
        }
        if self.phase != Phase::Stopping {
            return;
        }
        let Some(caller) = self.auditor else { return self.ring(SEC, Task::Stop) };
        self.shut_down(caller);
    }

    fn shut_down(&mut self, caller: Caller) {
        let request = ShutdownRequest { loglevel: None, keep_jobs: false, alone: false };
        let tag = self.world.call::<ShutdownStart>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), Purpose::Shutdown);
        self.leaving = true;
    }

    fn begin_shutdown(&mut self) {
        let lost = self.world.unanswered(self.world.now.saturating_sub(300 * SEC));
        for text in lost {
            self.world.violation(format!("never answered: {text}"));
        }
        for (pid, rank, id) in self.world.running_shells() {
            let text =
                format!("every job has ended, but shell {pid} of job {id} runs on rank {rank}");
            self.world.violation(text);
        }
        self.enter(Phase::Shutdown);
        if let Some(caller) = self.auditor {
            self.shut_down(caller);
        }
    }

    fn report(self) -> Report {
        let Self { world, mut counts, oracle, .. } = self;
        counts.insert("jobs acknowledged", oracle.jobs.len() as u64);
        counts.insert("disk transactions", world.disk.syncs);
        counts.insert("shells that outlived a broker", world.survivors);
        counts.insert("collections", world.disk.passes);
        counts.insert("young collections", world.disk.young);
        counts.insert("taken in by a grandparent", world.adoptions);
        counts.insert("blobs collected", world.disk.collected);
        counts.insert("jobs archived", world.archive.len() as u64);
        counts.insert("archives lost", world.archive.losses);
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
