//! The running shell: one thread, one loop over broker, tasks, signals and timers.

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
use nix::sys::signalfd::SignalFd;
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::exit::Policy;
use crate::job::Job;
use crate::layout::Layout;
use crate::link::Link;
use crate::log::Level;
use crate::mustache::Tags;
use crate::options::Options;
use crate::output::{Files, Meter, Stream};
use crate::pmi::Fence;
use crate::poller::{Poller, Source};
use crate::recorder::{Doubt, Recorder};
use crate::rlimit::Limits;
use crate::stream::Pieces;
use crate::task::Process;

/// Time that first events wait for others: a task that ends within it needs one commit only.
const HOLD: Duration = Duration::from_millis(4);

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
    /// What is stored after a commit whose answer was lost.
    Doubt(Doubt),
    /// The second barrier.
    Barrier,
    /// An exception; the shell stays until it is raised.
    Raise(Value),
    /// A message to the leader.
    Report(u64),
    /// Keys sent to the parent of the fence.
    Fence,
    /// Input passed on to another shell.
    Forward,
    /// A signal to the whole job.
    Kill,
    /// Registration after a reconnect.
    Register,
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
}

impl Task {
    fn is_done(&self) -> bool {
        self.status.is_some()
            && self.out.is_none()
            && self.err.is_none()
            && self.process.terminal.is_none()
    }
}

/// Messages to the leader, sent again until they are answered.
#[derive(Debug, Default)]
struct Outbox {
    next: u64,
    messages: BTreeMap<u64, (&'static str, Map<String, Value>)>,
    bytes: usize,
    /// Errors since the last answer.
    failures: u32,
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
    last_commit: Option<Instant>,
    policy: Policy,
    tasks: Vec<Task>,
    pmi: Option<Server>,
    pmi_aborted: bool,
    fence: Fence,
    fence_waiting: Vec<Message>,
    outbox: Outbox,
    /// Exceptions that could not be raised while the broker was away.
    unraised: Vec<Value>,
    /// Shells whose tasks are not all done; on the leader only.
    others: BTreeSet<u32>,
    /// Last message number of each shell that was taken.
    taken: BTreeMap<u32, u64>,
    input_bytes: u64,
    input_closed: bool,
    paused: bool,
    code: i32,
    ended: bool,
    warning: Option<Instant>,
    /// When to ask what is stored after a commit failed on its way.
    doubt_at: Option<Instant>,
    /// When to send again what the leader has not taken.
    resend_at: Option<Instant>,
    /// Sum of the summaries has been said.
    summed: bool,
    keep_dir: Option<std::path::PathBuf>,
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
                self.connection_lost(lost);
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
        if let Some(dir) = self.keep_dir.take() {
            // Files that cannot be removed are left to the system's own cleaning.
            drop(std::fs::remove_dir_all(dir));
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
                self.report("tasks-complete", body);
            }
        }
        if !self.is_leader() {
            return self.outbox.messages.is_empty()
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
        let now = Instant::now();
        self.recorder.hurry(now, Duration::ZERO);
        self.commit(now);
        self.recorder.is_idle() && self.unraised.is_empty() && !self.link.is_waiting()
    }

    fn deadline(&self) -> Option<Instant> {
        let policy =
            if self.ended && self.others.is_empty() { None } else { self.policy.deadline() };
        [
            self.recorder.due().filter(|_| self.link.is_up()),
            policy,
            self.link.retry_at(),
            self.warning,
            self.doubt_at.filter(|_| self.link.is_up()),
            self.resend_at.filter(|_| self.link.is_up()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_time(&mut self, now: Instant) {
        if self.link.retry_at().is_some_and(|at| at <= now) && self.link.reconnect(now) {
            self.connected_again();
        }
        if let Some(verdict) = self.policy.expired(now) {
            self.raise(&verdict.note, Some(verdict.wait_status));
        }
        if self.warning.is_some_and(|at| at <= now) {
            self.warning = None;
            self.warn_of_end();
        }
        if self.link.is_up() {
            if self.doubt_at.is_some_and(|at| at <= now) {
                self.ask_doubt();
            }
            if self.resend_at.is_some_and(|at| at <= now) {
                self.resend();
            }
        }
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
            self.kill_tasks(signum);
        }
    }

    fn kill_tasks(&self, signum: i32) {
        for task in self.tasks.iter().filter(|task| task.status.is_none()) {
            task.process.kill(signum);
        }
    }

    /// Takes no more output from tasks while too much of it waits to be recorded.
    fn throttle(&mut self) {
        let full = self.recorder.is_full() || self.outbox.bytes > (32 << 20);
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
