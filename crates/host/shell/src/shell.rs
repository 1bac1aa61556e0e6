//! The running shell: one thread, one loop over broker, tasks, signals and timers.

mod answers;
mod late;
mod launch;
mod local;
mod pty;
mod remote;
mod report;
mod setup;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use flux_pmi::{LineBuffer, Server};
use flux_proto::Message;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::exit::Policy;
use crate::job::Job;
use crate::jobdir::JobDir;
use crate::layout::Layout;
use crate::leftovers;
use crate::link::Link;
use crate::log::Level;
use crate::mustache::Tags;
use crate::options::Options;
use crate::outbox::{Letter, Outbox, Taken};
use crate::output::{Files, Meter, Stream};
use crate::patience::Patience;
use crate::pmi::Fence;
use crate::poller::{Poller, Source};
use crate::recorder::{Doubt, Recorder};
use crate::rlimit::Limits;
use crate::stream::Pieces;
use crate::task::Process;

/// Time that first events wait for others: a task that ends within it needs one commit only.
const HOLD: Duration = Duration::from_millis(10);

/// Why the shell could not start.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: i32,
    /// What to say; `None` when others have said it.
    pub text: Option<String>,
}

/// What an answer is for.
#[derive(Debug, Clone)]
enum Waiting {
    /// A commit of the recorder.
    Commit,
    /// An empty commit after one whose answer was lost.
    Fenced,
    /// What is stored after that.
    Doubt(Doubt),
    /// The second barrier.
    Barrier,
    /// An exception; the shell stays until it is raised.
    Raise(Value),
    /// A letter to another shell: its shell rank, and the letter's number.
    Letter(u32, u64),
    /// Keys sent to the parent of the fence: which exchange.
    Fence(u64),
    /// How many tasks of another shell run.
    Running(u32),
    /// A signal to the whole job.
    Kill,
    /// Registration after a reconnect: which of the messages of [`crate::job::registration`].
    Register(usize),
}

/// When to try again what failed on its way.
#[derive(Debug, Default)]
struct Again {
    /// A commit.
    commit: Option<Instant>,
    /// Keys of a fence.
    fence: Option<Instant>,
    /// The broker of the fence's parent has known no shell since then.
    fence_unknown: Option<Instant>,
    /// The second barrier.
    barrier: Option<Instant>,
    /// Exceptions.
    raise: Option<Instant>,
    /// Registration, by message.
    register: [Option<Instant>; 2],
}

impl Again {
    fn next(&self) -> Option<Instant> {
        let others = [self.commit, self.fence, self.barrier, self.raise];
        others.into_iter().chain(self.register).flatten().min()
    }
}

/// Takes a time that has come.
fn due(at: &mut Option<Instant>, now: Instant) -> bool {
    at.take_if(|at| *at <= now).is_some()
}

/// Input on its way to a task.
#[derive(Debug, Default)]
struct Feed {
    queue: VecDeque<u8>,
    eof: bool,
    watched: bool,
}

/// A task of this shell.
#[derive(Debug)]
struct Task {
    rank: u32,
    index: u32,
    process: Process,
    status: Option<i32>,
    out: Option<Pieces>,
    err: Option<Pieces>,
    /// Lines of PMI requests; `None` when it is closed.
    pmi: Option<LineBuffer>,
    feed: Feed,
    reported: bool,
    terminal: Option<pty::Terminal>,
    /// It was killed with SIGKILL, which it cannot have passed on: until then its streams are
    /// waited for, which what it has started may hold for long.
    orphaned: Option<Instant>,
}

impl Task {
    fn is_done(&self) -> bool {
        self.status.is_some()
            && self.out.is_none()
            && self.err.is_none()
            && self.process.terminal.is_none()
    }
}

/// The shell.
#[derive(Debug)]
pub struct Shell {
    job: Job,
    options: Options,
    layout: Layout,
    rank: u32,
    uid: u32,
    link: Link<Waiting>,
    poller: Poller,
    signals: SignalFd,
    limits: Limits,
    tags: Tags,
    env: Environment,
    affinity: crate::affinity::Plan,
    files: Files,
    meters: [Meter; 2],
    recorder: Recorder,
    /// It was said that the namespace is full.
    quota_told: bool,
    last_commit: Option<Instant>,
    policy: Policy,
    /// When the tasks of this shell were started.
    began: Instant,
    /// When all shells had started theirs.
    all_started: Option<Instant>,
    /// Shells that were asked whether their tasks run, since then.
    asked: BTreeMap<u32, Instant>,
    /// When to look at them again.
    look_at: Option<Instant>,
    tasks: Vec<Task>,
    pmi: Option<Server>,
    pmi_aborted: bool,
    fence: Fence,
    /// Requests of the shells below, answered when the exchange is done.
    fence_waiting: BTreeMap<u32, Message>,
    /// Letters to other shells, by shell rank.
    outboxes: BTreeMap<u32, Outbox>,
    /// Exceptions that could not be raised yet.
    unraised: Vec<Value>,
    /// Shells whose tasks are not all done; on the leader only.
    others: BTreeSet<u32>,
    /// Signals that were heard, by their number, the newest last.
    heard: VecDeque<u64>,
    /// Events of this shell arrive.
    subscribed: bool,
    /// The leader is lost: nobody takes letters any more.
    orphaned: bool,
    /// Letters of other shells that were taken.
    taken: Taken,
    /// Last piece of input that was taken of each client that counts them.
    input_taken: BTreeMap<String, u64>,
    input_bytes: u64,
    input_closed: bool,
    paused: bool,
    code: i32,
    ended: bool,
    warning: Option<Instant>,
    again: Again,
    patience: Patience,
    /// Sum of the summaries has been said.
    summed: bool,
    dir: Option<JobDir>,
}

impl Shell {
    fn is_leader(&self) -> bool {
        self.rank == 0
    }

    fn size(&self) -> u32 {
        self.tags.nnodes
    }

    fn local_done(&self) -> bool {
        self.tasks.iter().all(Task::is_done)
    }

    /// Runs until all tasks have ended and everything is recorded; returns the exit code.
    pub fn run(&mut self) -> i32 {
        self.begin();
        while !self.finished() {
            let now = Instant::now();
            let wait = self.deadline().map(|at| at.saturating_duration_since(now));
            if let Err(lost) = self.link.wait(self.poller.as_fd(), wait) {
                self.connection_lost(lost, Instant::now());
            }
            match self.poller.ready(Some(Duration::ZERO)) {
                Ok(ready) => ready.into_iter().for_each(|source| self.on_ready(source)),
                Err(error) => {
                    self.fatal(1, "", &format!("cannot wait for tasks: {error}"));
                    break;
                }
            }
            for (what, answer) in self.link.answers() {
                self.on_answer(what, answer);
            }
            while let Some(event) = self.link.event() {
                self.on_event(&event);
            }
            while let Some(request) = self.link.request() {
                self.on_request(request);
            }
            self.on_time(Instant::now());
        }
        // First what may write there.
        leftovers::end();
        if let Some(dir) = self.dir.take() {
            dir.leave();
        }
        self.code
    }

    /// Everything is done, recorded and said.
    fn finished(&mut self) -> bool {
        if !self.local_done() {
            return false;
        }
        if !self.ended {
            self.ended = true;
            if !self.is_leader() {
                let mut body = Map::new();
                body.insert("shell_rank".to_string(), self.rank.into());
                self.report(Letter::TasksComplete, body);
            }
        }
        let now = Instant::now();
        if self.patience.is_over(now) {
            return self.give_up();
        }
        if !self.is_leader() {
            self.send_letters(now);
            return self.outboxes.get(&0).is_none_or(Outbox::is_empty)
                && self.unraised.is_empty()
                && !self.link.is_waiting();
        }
        if !self.others.is_empty() {
            return false;
        }
        if !self.summed {
            self.summed = true;
            for stream in [Stream::Out, Stream::Err] {
                if let Some(text) = self.meters[stream as usize].summary(stream) {
                    self.log(Level::Warn, "output", &text);
                }
            }
        }
        self.recorder.hurry(now, Duration::ZERO);
        self.commit(now);
        self.recorder.is_idle() && self.unraised.is_empty() && !self.link.is_waiting()
    }

    /// The broker did not come back in time: what is not recorded goes with the shell. The exit
    /// status stays on record with the launcher.
    fn give_up(&mut self) -> bool {
        let text = format!(
            "the broker did not come back within {}, output may be lost",
            flux_id::fsd::format(self.patience.limit().as_secs_f64())
        );
        crate::complain(&crate::log::line(Some(self.rank), Level::Error, "", &text));
        self.code = self.code.max(1);
        true
    }

    fn deadline(&self) -> Option<Instant> {
        let up = self.link.is_up();
        [
            self.recorder.due().filter(|_| up),
            self.again.next().filter(|_| up),
            self.outboxes.values().filter_map(Outbox::due).min().filter(|_| up),
            self.late_at(),
            self.link.retry_at(),
            self.patience.due(),
            self.warning,
            self.tasks.iter().filter_map(|task| task.orphaned).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_time(&mut self, now: Instant) {
        if self.link.retry_at().is_some_and(|at| at <= now) {
            self.connect_again(now);
        }
        if !self.local_done()
            && let Some(signum) = self.patience.act(now)
        {
            self.log(Level::Error, "", &format!("no broker, sending signal {signum} to all tasks"));
            self.kill_tasks(signum);
        }
        self.end_late_tasks(now);
        self.leave_orphans(now);
        if due(&mut self.warning, now) {
            self.warn_of_end();
        }
        if self.link.is_up() {
            self.try_again(now);
            self.send_letters(now);
        }
        let stalled = !self.link.is_up() || self.again.commit.is_some();
        self.recorder.set_stalled(stalled, now);
        self.commit(now);
        self.throttle();
    }

    fn commit(&mut self, now: Instant) {
        if self.link.is_up()
            && let Some(request) = self.recorder.take(now)
        {
            self.last_commit = Some(now);
            self.send_commit(&request);
        }
    }

    fn on_ready(&mut self, source: Source) {
        match source {
            Source::Signals => self.on_signals(),
            Source::Exit(i) => self.on_exit(i),
            Source::Stdout(i) => self.on_output(i, Stream::Out),
            Source::Stderr(i) => self.on_output(i, Stream::Err),
            Source::Stdin(i) => self.feed(i),
            Source::Pmi(i) => self.on_pmi(i),
            Source::Terminal(i) => self.on_terminal(i),
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signum = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signum == Signal::SIGCHLD as i32 {
                // Tasks are waited for by themselves.
                let open = self.tasks.iter().filter(|task| task.status.is_none());
                leftovers::collect(&open.map(|task| task.process.pid).collect::<Vec<_>>());
            } else {
                self.kill_tasks(signum);
            }
        }
    }

    fn kill_tasks(&self, signum: i32) {
        // Also where only children of a task are left, which hold its streams.
        for task in self.tasks.iter().filter(|task| !task.is_done()) {
            task.process.kill(signum);
        }
    }

    /// Takes no more output from tasks while too much of it waits to be recorded.
    fn throttle(&mut self) {
        let full = self.recorder.is_full() || self.outboxes.get(&0).is_some_and(Outbox::is_full);
        if full == self.paused {
            return;
        }
        self.paused = full;
        for (i, task) in self.tasks.iter().enumerate() {
            let streams = [
                (&task.process.stdout, Source::Stdout(i)),
                (&task.process.stderr, Source::Stderr(i)),
            ];
            for (fd, source) in streams {
                let Some(fd) = fd else { continue };
                if full {
                    self.poller.remove(fd);
                } else {
                    // It was watched before, so it can be again.
                    drop(self.poller.add(fd, source));
                }
            }
        }
    }
}
