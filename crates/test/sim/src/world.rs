//! One instance in one thread: a clock, a queue of what will happen, and everything that a host
//! does for its broker.
//!
//! The one order of events is their time, then the order in which they were planned. Whatever
//! else runs (a script, the checks) hears of it through [`Notice`]s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flux_api::driver::{ConfigFiles, Console, HostResources, Topo};
use flux_api::{Api, Empty, RpcError, Text, rpc};
use flux_broker::Node;
use flux_proto::{Errno, Message};
use flux_svc::Clock;
use flux_svc::engine::{Engine, Input, LinkId, Output};

use crate::archive::Archive;
use crate::brokers::{self, GC, Shape};
use crate::clients::{Caller, Client};
use crate::disk::Disk;
use crate::links::{Side, Wire};
use crate::processes::{Process, Step};
use crate::rng::Rng;
use crate::shells::{Act, Record, Shell};
use crate::trace::Trace;

/// Microseconds in a millisecond and in a second.
pub const MS: u64 = 1_000;
/// Microseconds in a second.
pub const SEC: u64 = 1_000_000;

/// Wall clock at the beginning.
const EPOCH: f64 = 1_700_000_000.0;

/// How fast things are, in microseconds.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Least and greatest delay of a message on a link.
    pub link: (u64, u64),
    /// Least and greatest time of a transaction on the disk.
    pub disk: (u64, u64),
    /// Least and greatest time from exec to a running process.
    pub spawn: (u64, u64),
    /// Percent of shells that ignore SIGTERM.
    pub stubborn: u64,
    /// Percent of shells that fail.
    pub failing: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { link: (50, 300), disk: (100, 2 * MS), spawn: (500, 5 * MS), stubborn: 0, failing: 0 }
    }
}

/// Something that happened and that a script may want to know.
#[derive(Debug)]
pub enum Notice {
    /// A response to a call of the script.
    Response {
        /// Whose call.
        caller: Caller,
        /// Which call.
        tag: u32,
        /// No more will follow.
        last: bool,
        /// The response.
        message: Message,
    },
    /// A connection of the script ended with its broker.
    Gone(Caller),
    /// A time that the script asked for.
    Alarm(u64),
    /// A broker process ended by itself.
    Exited(u32, i32),
    /// A broker process began.
    Started(u32),
    /// Somebody who listens heard an event of purged jobs.
    Event(Caller, Message),
}

/// What is planned.
#[derive(Debug)]
pub(crate) enum Due {
    Wake(u32),
    Input(u32, Input),
    ToClient(Caller, Message),
    Link(u64, Side, Bytes),
    LinkUp(u64, Side),
    LinkEnd(u64, Side, &'static str),
    DiskWritten,
    DiskCollects,
    ArchiveWritten,
    Process(u64, Step),
    Shell(u64, Act),
    Alarm(u64),
    Start(u32),
    Thaw(u32),
}

/// The place of a broker process.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) node: Option<Node>,
    /// Counts processes in this place.
    pub(crate) incarnation: u64,
    pub(crate) listening: bool,
    /// When a wake is planned.
    armed: Option<u64>,
    /// The rank cannot be reached until then.
    pub(crate) partitioned: u64,
    /// The process is stopped; what happened to it meanwhile.
    frozen: Option<Vec<(u64, Due)>>,
    /// Seconds by which the wall clock of the node is wrong.
    pub(crate) skew: f64,
}

/// The simulated instance.
#[derive(Debug)]
pub struct World {
    /// Monotonic time in microseconds.
    pub now: u64,
    /// What never changes.
    pub shape: Shape,
    /// How fast things are.
    pub pace: Pace,
    /// Brokers that were taken in by another than their configured parent.
    pub adoptions: u64,
    /// The store of rank 0.
    pub disk: Disk,
    /// Nothing that is being written is written before then.
    pub stalled: u64,
    /// The archive of rank 0.
    pub archive: Archive,
    /// What happened.
    pub trace: Trace,
    /// Laws that were broken.
    pub violations: Vec<String>,
    /// News for the script.
    pub notices: VecDeque<Notice>,
    /// Lines that brokers wrote to stderr, newest last.
    pub stderr: VecDeque<String>,
    pub(crate) rng: Rng,
    pub(crate) slots: Vec<Slot>,
    pub(crate) wires: BTreeMap<u64, Wire>,
    /// The wire of each end.
    pub(crate) ends: BTreeMap<(u32, LinkId), u64>,
    pub(crate) clients: BTreeMap<Caller, Client>,
    pub(crate) processes: BTreeMap<u64, Process>,
    /// Job shells by process, and what each node has on record of them.
    pub(crate) shells: BTreeMap<u64, Shell>,
    pub(crate) records: BTreeMap<(u32, u64), Record>,
    /// When the power of a node came back.
    pub(crate) booted: BTreeMap<u32, u64>,
    /// Shells that have ended after they had lost a broker.
    pub survivors: u64,
    /// Jobs whose shell was started, by rank.
    pub(crate) started: BTreeSet<(u64, u32)>,
    queue: BTreeMap<(u64, u64), (u64, Due)>,
    planned: u64,
    pub(crate) numbers: u64,
    incarnations: u64,
    /// Processes there have been at rank 0.
    pub(crate) leaders: u64,
}

/// Blobs on the way from a root to a value, which are asked for one after the other.
const STEPS: u64 = 10;

/// Whether somebody may need longer for one lookup than blobs are kept for.
fn is_far(shape: &Shape, pace: &Pace) -> bool {
    let height = |rank| std::iter::successors(Some(rank), |at| shape.topology.parent(*at)).count();
    let hops = (0..shape.size()).map(height).max().unwrap_or(1) as u64 - 1;
    2 * hops * STEPS * pace.link.1 > GC.grace_us
}

impl World {
    /// An instance whose brokers have not been started yet.
    #[must_use]
    pub fn new(shape: Shape, pace: Pace, seed: u64) -> Self {
        let slots = (0..shape.size()).map(|_| Slot::default()).collect();
        let mut disk = Disk::default();
        disk.late_readers = is_far(&shape, &pace);
        Self {
            adoptions: 0,
            now: SEC,
            shape,
            pace,
            disk,
            stalled: 0,
            archive: Archive::default(),
            trace: Trace::default(),
            violations: Vec::new(),
            notices: VecDeque::new(),
            stderr: VecDeque::new(),
            rng: Rng::new(seed),
            slots,
            wires: BTreeMap::new(),
            ends: BTreeMap::new(),
            clients: BTreeMap::new(),
            processes: BTreeMap::new(),
            shells: BTreeMap::new(),
            records: BTreeMap::new(),
            booted: BTreeMap::new(),
            survivors: 0,
            started: BTreeSet::new(),
            queue: BTreeMap::new(),
            planned: 0,
            numbers: 0,
            incarnations: 0,
            leaders: 0,
        }
    }

    /// The time that every clock would show.
    #[must_use]
    pub fn true_wall(&self) -> f64 {
        EPOCH + self.now as f64 / 1e6
    }

    /// The clocks of a node.
    #[must_use]
    pub fn clock(&self, rank: u32) -> Clock {
        let skew = self.slot(rank).map_or(0.0, |slot| slot.skew);
        Clock { mono_us: self.now, wall: self.true_wall() + skew }
    }

    /// Sets the wall clock of a node: so many seconds before or after the true time.
    pub fn set_clock(&mut self, rank: u32, skew: f64) {
        self.trace.line(self.now, || format!("rank {rank}: the clock is set to {skew:+.3}"));
        if let Some(slot) = self.slots.get_mut(rank as usize) {
            slot.skew = skew;
        }
    }

    /// Notes a broken law.
    pub fn violation(&mut self, text: impl Into<String>) {
        let text = format!("at {:.6}: {}", self.now as f64 / 1e6, text.into());
        self.trace.line(self.now, || format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Plans something for this incarnation of `rank`, or for whatever is then.
    pub(crate) fn plan(&mut self, at: u64, incarnation: u64, due: Due) {
        self.planned += 1;
        self.queue.insert((at.max(self.now), self.planned), (incarnation, due));
    }

    fn plan_input(&mut self, at: u64, rank: u32, input: Input) {
        let incarnation = self.incarnation(rank);
        self.plan(at, incarnation, Due::Input(rank, input));
    }

    /// Rings the script at this time.
    pub fn alarm(&mut self, at: u64, token: u64) {
        self.plan(at, 0, Due::Alarm(token));
    }

    pub(crate) fn slot(&self, rank: u32) -> Option<&Slot> {
        self.slots.get(rank as usize)
    }

    pub(crate) fn incarnation(&self, rank: u32) -> u64 {
        self.slot(rank).map_or(0, |slot| slot.incarnation)
    }

    /// Whether a broker process runs in this place.
    #[must_use]
    pub fn is_alive(&self, rank: u32) -> bool {
        self.slot(rank).is_some_and(|slot| slot.node.is_some())
    }

    /// Starts the broker of a rank after some time.
    pub fn start_after(&mut self, us: u64, rank: u32) {
        self.plan(self.now + us, 0, Due::Start(rank));
    }

    /// Joins every rank that was cut off.
    pub fn heal(&mut self) {
        self.disk.fails = None;
        self.stalled = 0;
        for rank in 0..self.shape.size() {
            self.plan(self.now, 0, Due::Thaw(rank));
        }
        for slot in &mut self.slots {
            slot.partitioned = 0;
            slot.skew = 0.0;
        }
    }

    /// Stops the broker process of a rank for some time; its processes run on.
    pub fn freeze(&mut self, rank: u32, us: u64) {
        let Some(slot) = self.slots.get_mut(rank as usize) else { return };
        if slot.node.is_some() && slot.frozen.is_none() {
            slot.frozen = Some(Vec::new());
            self.disk.late_readers = true;
            self.trace.line(self.now, || format!("rank {rank}: stopped"));
            self.plan(self.now + us, 0, Due::Thaw(rank));
        }
    }

    fn thaw(&mut self, rank: u32) {
        let Some(slot) = self.slots.get_mut(rank as usize) else { return };
        for (incarnation, due) in slot.frozen.take().into_iter().flatten() {
            self.happen(incarnation, due);
        }
    }

    /// The broker process that something happens to.
    fn concerns(&self, due: &Due) -> Option<u32> {
        match due {
            Due::Wake(rank) | Due::Input(rank, _) => Some(*rank),
            Due::Link(wire, side, _) | Due::LinkUp(wire, side) | Due::LinkEnd(wire, side, _) => {
                self.rank_at(*wire, *side)
            }
            Due::DiskWritten | Due::DiskCollects | Due::ArchiveWritten => Some(0),
            Due::ToClient(..)
            | Due::Process(..)
            | Due::Shell(..)
            | Due::Alarm(_)
            | Due::Start(_)
            | Due::Thaw(_) => None,
        }
    }

    fn start(&mut self, rank: u32) {
        if self.is_alive(rank) {
            return;
        }
        self.incarnations += 1;
        let incarnation = self.incarnations;
        if rank == 0 {
            self.leaders += 1;
        }
        let uuid = format!("{rank:08x}-0000-4000-8000-{incarnation:012x}");
        let seed = self.rng.draw();
        let mut node = brokers::broker(&self.shape, rank, &uuid, seed);
        self.trace.number(incarnation);
        self.trace.line(self.now, || format!("rank {rank}: started"));
        node.start(self.clock(rank));
        if let Some(slot) = self.slots.get_mut(rank as usize) {
            slot.node = Some(node);
            slot.incarnation = incarnation;
            slot.listening = false;
            slot.armed = None;
        }
        self.notices.push_back(Notice::Started(rank));
        self.collect(rank);
    }

    /// Sends a signal to the broker process of a rank.
    pub fn signal(&mut self, rank: u32, signum: i32) {
        self.plan_input(self.now, rank, Input::Signal(signum));
    }

    /// Ends the broker process of a rank without warning; job shells run on.
    pub fn kill(&mut self, rank: u32) {
        self.trace.line(self.now, || format!("rank {rank}: killed"));
        self.end_of(rank, "reset by peer");
    }

    /// Everything that ends with a broker process.
    fn end_of(&mut self, rank: u32, reason: &'static str) {
        self.check_leaks(rank);
        let Some(slot) = self.slots.get_mut(rank as usize) else { return };
        let Some(node) = slot.node.take() else { return };
        slot.listening = false;
        slot.incarnation = 0;
        slot.frozen = None;
        drop(node);
        self.processes_end(rank);
        self.followers_end(rank);
        if rank == 0 {
            let mut rng = self.rng.fork();
            self.disk.crash(&mut rng);
            self.archive.crash(&mut rng);
        }
        self.links_end(rank, reason);
        self.clients_end(rank);
        // A process that ends owes nothing any more.
        drop(rpc::leaked_answers());
    }

    fn check_leaks(&mut self, rank: u32) {
        let leaked = rpc::leaked_answers();
        if !leaked.is_empty() {
            self.violation(format!("rank {rank} forgot to answer {leaked:?}"));
        }
    }

    /// Gives an input to a broker and carries out what it wants.
    pub(crate) fn input(&mut self, rank: u32, input: Input) {
        let clock = self.clock(rank);
        if let Some(node) = self.slots.get_mut(rank as usize).and_then(|slot| slot.node.as_mut()) {
            node.input(clock, input);
            self.collect(rank);
        }
    }

    fn collect(&mut self, rank: u32) {
        while let Some(output) = self
            .slots
            .get_mut(rank as usize)
            .and_then(|slot| slot.node.as_mut())
            .and_then(Engine::poll)
        {
            self.output(rank, output);
        }
        self.check_leaks(rank);
        let now = self.now;
        let Some(slot) = self.slots.get_mut(rank as usize) else { return };
        let incarnation = slot.incarnation;
        let next = slot.node.as_ref().and_then(Engine::next_deadline).map(|at| at.max(now));
        if let Some(at) = next
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            self.plan(at, incarnation, Due::Wake(rank));
        }
    }

    fn output(&mut self, rank: u32, output: Output) {
        match output {
            Output::Client(id, message) => self.send_to_client(Caller { rank, id }, message),
            Output::CloseClient(id) => self.client_closed(Caller { rank, id }),
            Output::Driver(name, message) => self.drive(rank, name, message),
            Output::Link(link, message) => self.send_on_link(rank, link, &message),
            Output::CloseLink(link) => self.close_link(rank, link),
            Output::Adopt | Output::Trust(_) => {}
            Output::ConnectParent(parent) => self.connect_parent(rank, parent),
            Output::Listen => self.listen(rank, true),
            Output::StopListening => self.listen(rank, false),
            Output::Stderr(_, line) => self.stderr_line(rank, &line),
            Output::Notify(_) => {}
            Output::Exit(code) => {
                self.trace.line(self.now, || format!("rank {rank}: exits with {code}"));
                self.trace.number(u64::from(code.unsigned_abs()));
                self.end_of(rank, "connection closed");
                self.notices.push_back(Notice::Exited(rank, code));
            }
        }
    }

    fn listen(&mut self, rank: u32, on: bool) {
        if let Some(slot) = self.slots.get_mut(rank as usize) {
            slot.listening = on;
        }
    }

    fn stderr_line(&mut self, rank: u32, line: &str) {
        self.trace.line(self.now, || format!("rank {rank}: {line}"));
        if self.stderr.len() == 200 {
            self.stderr.pop_front();
        }
        self.stderr.push_back(format!("{:.6} rank {rank}: {line}", self.now as f64 / 1e6));
    }

    /// A request for a driver.
    fn drive(&mut self, rank: u32, name: &'static str, message: Message) {
        let mut out = Vec::new();
        match name {
            "content-backing" => {
                if self.disk.request(message, &mut out) {
                    self.plan_disk();
                }
                self.plan_collection();
            }
            "archive" => {
                if self.archive.request(message, self.disk.fails, &mut out) {
                    self.plan_archive();
                }
            }
            "console" => self.console(rank, message, &mut out),
            "topo" => self.topo(rank, message, &mut out),
            "rexec" => self.rexec(rank, message, &mut out),
            "launch" => self.launch(rank, message, &mut out),
            _ => out.push(rpc::refusal(&message, &RpcError::bare(Errno::ENOSYS))),
        }
        self.driver_says(rank, name, out);
    }

    pub(crate) fn driver_says(&mut self, rank: u32, name: &'static str, out: Vec<Message>) {
        for message in out {
            self.plan_input(self.now + 10, rank, Input::Driver(name, message));
        }
    }

    fn plan_archive(&mut self) {
        let at = self.disk_time();
        let incarnation = self.incarnation(0);
        self.plan(at, incarnation, Due::ArchiveWritten);
    }

    fn plan_disk(&mut self) {
        let at = self.disk_time();
        let incarnation = self.incarnation(0);
        self.plan(at, incarnation, Due::DiskWritten);
    }

    /// When a transaction that begins now is through.
    fn disk_time(&mut self) -> u64 {
        let (low, high) = self.pace.disk;
        self.stalled.max(self.now) + self.rng.range(low, high)
    }

    /// A step of a collection, if one goes on.
    fn plan_collection(&mut self) {
        if !self.disk.has_step() {
            return;
        }
        let at = self.now + self.rng.range(50, 5 * MS);
        let incarnation = self.incarnation(0);
        self.plan(at, incarnation, Due::DiskCollects);
    }

    fn console(&mut self, rank: u32, message: Message, out: &mut Vec<Message>) {
        match Console::decode(message) {
            Ok(Console::Write(call)) => {
                self.stderr_line(rank, &call.request.0);
                call.answer.ok(out, &Empty);
            }
            Ok(Console::Notify(call)) => call.answer.ok(out, &Empty),
            Ok(Console::ReadConfig(call)) => {
                call.answer.ok(
                    out,
                    &ConfigFiles {
                        config: self.shape.config.clone(),
                        warnings: Vec::new(),
                        places: BTreeMap::new(),
                    },
                );
            }
            Ok(Console::Rusage(call)) => call.answer.ok(out, &Default::default()),
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
    }

    fn topo(&mut self, rank: u32, message: Message, out: &mut Vec<Message>) {
        let cores = self.shape.cores;
        let found = HostResources {
            hostname: format!("node{rank}"),
            cores: if cores == 1 { "0".to_string() } else { format!("0-{}", cores - 1) },
            gpus: String::new(),
        };
        match Topo::decode(message) {
            Ok(Topo::Get(call)) => call.answer.ok(out, &found),
            Ok(Topo::Read(call)) => call.answer.err(out, Errno::ENOENT),
            Ok(Topo::Xml(call)) => call.answer.ok(out, &Text("<topology/>".to_string())),
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
    }

    /// Lets the next thing happen. False when nothing is planned.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), (incarnation, due))) = self.queue.pop_first() else { return false };
        self.now = at;
        self.trace.steps += 1;
        self.trace.number(at);
        if let Some(rank) = self.concerns(&due)
            && let Some(held) =
                self.slots.get_mut(rank as usize).and_then(|slot| slot.frozen.as_mut())
        {
            held.push((incarnation, due));
        } else {
            self.happen(incarnation, due);
        }
        true
    }

    fn happen(&mut self, incarnation: u64, due: Due) {
        let at = self.now;
        let dead = |world: &Self, rank: u32| world.incarnation(rank) != incarnation;
        match due {
            Due::Wake(rank) if dead(self, rank) => {}
            Due::Wake(rank) => {
                if let Some(slot) = self.slots.get_mut(rank as usize)
                    && slot.armed.is_some_and(|armed| armed <= at)
                {
                    slot.armed = None;
                    self.trace.number(u64::from(rank));
                    self.input(rank, Input::Tick);
                }
            }
            Due::Input(rank, _) if dead(self, rank) => {}
            Due::Input(rank, input) => {
                self.note(rank, &input);
                self.input(rank, input);
            }
            Due::ToClient(caller, message) => self.client_hears(caller, message),
            Due::Link(wire, side, bytes) => self.link_arrives(wire, side, bytes),
            Due::LinkUp(wire, side) => self.link_is_up(wire, side),
            Due::LinkEnd(wire, side, reason) => self.link_ends(wire, side, reason),
            Due::DiskWritten if dead(self, 0) => {}
            Due::DiskWritten => {
                let mut out = Vec::new();
                if self.disk.written(&mut out) {
                    self.plan_disk();
                }
                self.driver_says(0, "content-backing", out);
            }
            Due::DiskCollects if dead(self, 0) => {}
            Due::DiskCollects => {
                let mut out = Vec::new();
                self.disk.collect_step(&mut out);
                for text in std::mem::take(&mut self.disk.violations) {
                    self.violation(text);
                }
                self.plan_collection();
                self.driver_says(0, "content-backing", out);
            }
            Due::ArchiveWritten if dead(self, 0) => {}
            Due::ArchiveWritten => {
                let mut out = Vec::new();
                if self.archive.written(self.disk.fails, &mut out) {
                    self.plan_archive();
                }
                self.driver_says(0, "archive", out);
            }
            Due::Process(pid, step) => self.process_step(pid, step),
            Due::Shell(pid, act) => self.shell_acts(pid, act),
            Due::Alarm(token) => self.notices.push_back(Notice::Alarm(token)),
            Due::Start(rank) => self.start(rank),
            Due::Thaw(rank) => self.thaw(rank),
        }
    }

    fn note(&mut self, rank: u32, input: &Input) {
        self.trace.number(u64::from(rank));
        match input {
            Input::Client(_, message) | Input::Driver(_, message) | Input::Link(_, message) => {
                self.trace.message(message);
                self.trace.line(self.now, || {
                    let kind = message.kind.name();
                    format!("rank {rank}: {kind} {} errnum {}", message.topic(), message.aux1)
                });
            }
            other => self.trace.line(self.now, || format!("rank {rank}: {other:?}")),
        }
    }
}
