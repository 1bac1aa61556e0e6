//! `state-machine`, `shutdown`, `runat`: from joining the tree to leaving it.
//!
//! | state | on entry | left by |
//! |---|---|---|
//! | join | a follower asks its parent in | parent-ready, parent-none, parent-fail |
//! | config-sync | asks the `config` service | sync-success, sync-fail |
//! | init | starts the modules, then rc1 | rc1-success, rc1-fail, parent-fail |
//! | quorum | joins `broker.online` | quorum-full, quorum-fail |
//! | run | rank 0 runs the initial program | rc2-success, rc2-fail, shutdown, parent-fail |
//! | cleanup | ends work at rank 0, then pushed commands | cleanup-success, cleanup-fail |
//! | shutdown | waits for children to leave | children-complete |
//! | finalize | rc3, then the modules settle | rc3-success, rc3-fail |
//! | goodbye | takes leave of the parent | goodbye |
//! | exit | ends the process | |

mod cleanup;
mod rejoin;
mod runat;
mod startlog;
pub mod state;

use std::collections::{BTreeSet, VecDeque};

use flux_api::body::AnyObject;
use flux_api::broker::{Exit, ExitRequest, StartModules, StopModules};
use flux_api::driver::Notify;
use flux_api::lifecycle::{
    ConfigGet, Dmesg, Dmesg_, GroupGet, GroupName, Join as JoinGroup, Monitor, MonitorRequest,
    ShutdownLine, ShutdownRequest, ShutdownStart, StateMachine, StateNow, StateNumber, WaitRun,
};
use flux_api::overlay::{Join, Leave, Monitor as MonitorChildren, Spurn, SpurnRequest};
use flux_api::{Answer, Empty, RpcError, Text};
use flux_id::{Idset, fsd};
use flux_model::roster::Roster;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service, TimerId, To};
use serde_json::{Map, Value};

use crate::log::Line;
use crate::state_machine::cleanup::CleanupStep;
use crate::state_machine::runat::{Group, Runat};
use crate::state_machine::startlog::{Startlog, StartlogStep};
use crate::state_machine::state::{State, parent_event};

/// Seconds that the initial program has to end when the instance is shut down.
const PROGRAM_PATIENCE: f64 = 10.0;

/// How a broker shall live.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Commands of rc1, run after the modules are up.
    pub rc1: Vec<Vec<String>>,
    /// The initial program, rank 0; none: run until told to stop.
    pub program: Option<Vec<String>>,
    /// Whether the program stays in the broker's process group.
    pub program_in_group: bool,
    /// Commands of rc3, run before the modules settle.
    pub rc3: Vec<Vec<String>>,
    /// Brokers that must be online before RUN, 1..=size.
    pub quorum: u32,
    /// Seconds between warnings while the quorum is not reached; `None`: never.
    pub quorum_warn: Option<f64>,
    /// Seconds between warnings while children do not leave; `None`: never.
    pub shutdown_warn: Option<f64>,
    /// Seconds after which rank 0 goes on without them; `None`: never.
    pub shutdown_timeout: Option<f64>,
    /// Exit code that keeps the service manager from starting again.
    pub exit_norestart: Option<i32>,
    /// Do not cancel running jobs at the end.
    pub keep_jobs: bool,
    /// A leader that is started later finds the jobs that this one leaves.
    pub can_return: bool,
    /// Seconds that the end of work may take after a signal; `None`: for ever.
    pub cleanup_timeout: Option<f64>,
    /// Come up even when modules or rc1 fail, to mend what is wrong.
    pub recovery: bool,
    /// Shell for commands given as text.
    pub shell: String,
    /// Host name of each rank, for log lines.
    pub hosts: Vec<String>,
    /// Version that the log of starts tells (rank 0); `None`: there is no such log.
    pub startlog: Option<String>,
}

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The parent to accept this broker.
    Join,
    /// States of the parent.
    Parent,
    /// A lost parent to be back.
    Rejoin,
    /// The leader's configuration.
    Sync,
    /// Every module to be up.
    Modules,
    /// This rank in `broker.online`.
    JoinGroup,
    /// Members of `broker.online`.
    Online,
    /// Children that come and go.
    Children,
    /// A command of a group.
    Command(Group),
    /// Word that a command was signalled.
    Kill,
    /// A step of the builtin cleanup.
    Cleanup(CleanupStep),
    /// A step of the log of starts.
    Startlog(StartlogStep),
    /// New children are turned away.
    Spurn,
    /// Every module to settle.
    Settle,
    /// The parent to hear the goodbye.
    Leave,
    /// Log lines for the one who asked for the shutdown.
    Lines,
    /// Time for a warning.
    Warn(State),
    /// Time to give up on a state.
    GiveUp(State),
    /// The first input has been dealt with.
    Begin,
}

/// The `state-machine` service.
#[derive(Debug)]
pub struct StateMachineService {
    settings: Settings,
    state: State,
    since_us: u64,
    config: Map<String, Value>,
    parent: Option<State>,
    online: Idset,
    quorum_late: bool,
    children: BTreeSet<u32>,
    runat: Runat,
    code: i32,
    hurried: bool,
    /// A lost parent is waited for.
    rejoining: bool,
    /// The configuration is to be asked for again.
    sync_again: bool,
    /// This broker stops by itself, and those below it need not.
    leaving: bool,
    /// `exec.on-shutdown` says that jobs outlive a stop.
    leave_jobs: bool,
    /// Running jobs stay for the next start.
    keep_jobs: bool,
    /// The step of the builtin cleanup that is on its way.
    cleanup: Option<CleanupStep>,
    monitors: Vec<(Option<i32>, Answer<Monitor>)>,
    waiters: Vec<Answer<WaitRun>>,
    shutdown: Option<(i32, Answer<ShutdownStart>)>,
    goodbye_pending: bool,
    startlog: Startlog,
    timers: Vec<TimerId>,
    events: VecDeque<(String, bool)>,
    posting: bool,
}

impl StateMachineService {
    /// A broker at the beginning of its life.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let runat = Runat::new(&settings);
        Self {
            settings,
            state: State::LoadBuiltins,
            since_us: 0,
            config: Map::new(),
            parent: None,
            online: Idset::new(),
            quorum_late: false,
            children: BTreeSet::new(),
            runat,
            code: 0,
            hurried: false,
            rejoining: false,
            sync_again: false,
            leaving: false,
            leave_jobs: false,
            keep_jobs: false,
            cleanup: None,
            monitors: Vec::new(),
            waiters: Vec::new(),
            shutdown: None,
            goodbye_pending: false,
            startlog: Startlog::default(),
            timers: Vec::new(),
            events: VecDeque::new(),
            posting: false,
        }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Feeds an event; transitions that follow from it run before this returns.
    fn post(&mut self, cx: &mut Cx<'_, Wait>, event: &str, error: bool) {
        self.events.push_back((event.to_string(), error));
        if self.posting {
            return;
        }
        self.posting = true;
        while let Some((event, error)) = self.events.pop_front() {
            if error && self.code == 0 {
                self.code = 1;
            }
            self.transition(cx, &event);
        }
        self.posting = false;
    }

    fn transition(&mut self, cx: &mut Cx<'_, Wait>, event: &str) {
        let Some(next) = self.state.after(event) else {
            return cx.log(Level::Debug, format!("{event}: ignored in {}", self.state.name()));
        };
        if event == "panic" && self.code == 0 {
            self.code = self.settings.exit_norestart.unwrap_or(1);
        }
        if next == self.state {
            return;
        }
        let spent = cx.now_us().saturating_sub(self.since_us) as f64 / 1e6;
        let (old, new) = (self.state.name(), next.name());
        cx.log(Level::Info, format!("{event}: {old}->{new} {}", fsd::format(spent)));
        self.state = next;
        self.since_us = cx.now_us();
        for timer in self.timers.drain(..) {
            cx.cancel_timer(timer);
        }
        self.tell(cx);
        self.enter(cx);
    }

    /// Tells those who follow or wait for states.
    fn tell(&mut self, cx: &mut Cx<'_, Wait>) {
        let number = self.state as i32;
        let mut kept = Vec::new();
        // Children that are let go do not hear why.
        let silent = self.leaving && self.state > State::Run;
        for (last, answer) in self.monitors.drain(..) {
            if silent {
                kept.push((last, answer));
                continue;
            }
            answer.item(cx, &StateNumber { state: number });
            if last.is_some_and(|last| number >= last) {
                answer.end(cx);
            } else {
                kept.push((last, answer));
            }
        }
        self.monitors = kept;
        if self.state >= State::Run {
            for waiter in self.waiters.drain(..) {
                if self.state == State::Run {
                    waiter.ok(cx, &Empty);
                } else {
                    waiter.err(cx, past_run());
                }
            }
        }
    }

    fn enter(&mut self, cx: &mut Cx<'_, Wait>) {
        let here = To::Rank(cx.rank());
        match self.state {
            State::LoadBuiltins => {}
            State::Join => {
                if cx.rank() == 0 {
                    return self.post(cx, "parent-none", false);
                }
                // The parent may be away for long, which is no failure of this node.
                self.ready(cx);
                self.status(cx, "Joining Flux instance via its parent");
                cx.call::<Join>(here, &Empty, Wait::Join);
            }
            State::ConfigSync => {
                self.status(cx, "Fetching configuration update from parent");
                cx.call::<ConfigGet>(here, &AnyObject::default(), Wait::Sync);
            }
            State::Init => {
                let config = AnyObject(self.config.clone());
                cx.call::<StartModules>(here, &config, Wait::Modules);
            }
            State::Quorum => {
                self.status(cx, "Waiting for instance quorum");
                let name = "broker.online".to_string();
                cx.call::<JoinGroup>(here, &GroupName { name: name.clone() }, Wait::JoinGroup);
                if cx.rank() == 0 {
                    cx.stream::<GroupGet>(here, &GroupName { name }, Wait::Online);
                    self.arm(cx, self.settings.quorum_warn, Wait::Warn(State::Quorum));
                } else {
                    self.parent_moved(cx);
                }
            }
            State::Run => {
                self.running(cx);
                if cx.rank() == 0 && self.settings.program.is_some() {
                    self.run_group(cx, Group::Program);
                } else {
                    self.post(cx, "rc2-none", false);
                }
                if cx.rank() > 0 {
                    self.parent_moved(cx);
                }
            }
            State::Cleanup => self.begin_cleanup(cx),
            State::Shutdown => {
                self.status(cx, "Waiting for overlay peers to shutdown");
                cx.call::<Spurn>(here, &SpurnRequest { release: self.leaving }, Wait::Spurn);
                if self.children.is_empty() {
                    return self.post(cx, "children-none", false);
                }
                self.arm(cx, self.settings.shutdown_warn, Wait::Warn(State::Shutdown));
                if cx.rank() == 0 {
                    self.arm(cx, self.settings.shutdown_timeout, Wait::GiveUp(State::Shutdown));
                }
            }
            State::Finalize => self.startlog_end(cx),
            State::Goodbye => {
                self.arm(cx, Some(60.0), Wait::GiveUp(State::Goodbye));
                if let Some((_, answer)) = self.shutdown.take() {
                    // The one who asked sees the end, and lets go by closing its connection.
                    answer.end(cx);
                }
                self.goodbye_pending = true;
                cx.call::<Leave>(here, &Empty, Wait::Leave);
            }
            State::UnloadBuiltins => self.post(cx, "builtins-done", false),
            State::Exit => {
                self.status(cx, "Exiting");
                cx.notify::<Exit>(here, &ExitRequest { code: self.code });
            }
        }
    }

    fn arm(&mut self, cx: &mut Cx<'_, Wait>, seconds: Option<f64>, wait: Wait) {
        if let Some(seconds) = seconds {
            let timer = cx.timer((seconds * 1e6) as u64, wait);
            self.timers.push(timer);
        }
    }

    fn running(&self, cx: &mut Cx<'_, Wait>) {
        let role = if cx.rank() == 0 { "leader" } else { "member" };
        self.status(cx, &format!("Running as {role} of {} node Flux instance", cx.size()));
    }

    /// Tells the service manager that this broker serves: on rank 0, that every command works.
    fn ready(&self, cx: &mut Cx<'_, Wait>) {
        cx.notify::<Notify>(To::Rank(cx.rank()), &Text("READY=1".to_string()));
    }

    fn status(&self, cx: &mut Cx<'_, Wait>, text: &str) {
        let here = To::Rank(cx.rank());
        cx.notify::<Notify>(here, &Text(format!("STATUS={text}")));
    }

    fn parent_moved(&mut self, cx: &mut Cx<'_, Wait>) {
        self.resume_sync(cx);
        if let Some(parent) = self.parent
            && let Some(event) = parent_event(self.state, Some(parent))
        {
            self.abort_init(cx);
            self.post(cx, event, event.ends_with("-fail"));
        }
    }

    /// Ends what runs in INIT, which is left without waiting for it.
    fn abort_init(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.state == State::Init {
            self.abort_group(cx, Group::Rc1);
        }
    }

    fn online_changed(&mut self, cx: &mut Cx<'_, Wait>, members: Idset) {
        let gone = self.online.difference(&members);
        if matches!(self.state, State::Run | State::Cleanup) && !gone.is_empty() {
            let hosts = self.hosts(&gone);
            cx.log(Level::Err, format!("dead to Flux: {hosts} (rank {gone})"));
        }
        self.online = members;
        if self.state == State::Quorum && self.online.len() >= u64::from(self.settings.quorum) {
            let hosts = self.hosts(&self.online);
            cx.log(Level::Info, format!("online: {hosts} (ranks {})", self.online));
            if self.quorum_late {
                cx.log(Level::Err, "quorum reached");
            }
            self.post(cx, "quorum-full", false);
        }
    }

    /// Host names of ranks, as a hostlist.
    fn hosts(&self, ranks: &Idset) -> String {
        let names: Vec<&str> = ranks
            .ids()
            .filter_map(|rank| self.settings.hosts.get(rank as usize).map(String::as_str))
            .collect();
        names.join(",")
    }

    fn warn(&mut self, cx: &mut Cx<'_, Wait>, state: State) {
        match state {
            State::Quorum => {
                self.quorum_late = true;
                let all: Idset = (0..cx.size()).collect();
                let missing = all.difference(&self.online);
                let hosts = self.hosts(&missing);
                cx.log(Level::Err, format!("quorum delayed: waiting for {hosts} (rank {missing})"));
                self.arm(cx, self.settings.quorum_warn, Wait::Warn(State::Quorum));
            }
            _ => {
                let left: Idset = self.children.iter().copied().collect();
                let (count, hosts) = (left.len(), self.hosts(&left));
                let text =
                    format!("shutdown delayed: waiting for {count} peers: {hosts} (rank {left})");
                cx.log(Level::Err, text);
                self.arm(cx, self.settings.shutdown_warn, Wait::Warn(State::Shutdown));
            }
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_, Wait>, state: State) {
        match state {
            State::Shutdown => {
                cx.log(Level::Err, "shutdown timeout");
                self.post(cx, "children-complete", false);
            }
            State::Run => {
                cx.log(Level::Err, "shutdown: the initial program does not end after SIGHUP");
                self.post(cx, "shutdown", false);
            }
            State::Cleanup => self.cut_cleanup(cx),
            State::Init => self.startlog_give_up(cx, Group::Rc1),
            State::Finalize => self.startlog_give_up(cx, Group::Rc3),
            _ => self.post(cx, "goodbye", false),
        }
    }

    fn signal(&mut self, cx: &mut Cx<'_, Wait>, signum: i32) {
        self.hurried = true;
        match self.state {
            State::Init => self.abort_group(cx, Group::Rc1),
            State::Join => self.post(cx, "parent-fail", true),
            State::ConfigSync => self.post(cx, "sync-fail", true),
            State::Quorum => self.post(cx, "quorum-fail", true),
            State::Run if cx.rank() == 0 && self.settings.program.is_some() => {
                self.abort_group(cx, Group::Program);
            }
            State::Run => self.post(cx, "shutdown", false),
            State::Cleanup => self.cut_cleanup(cx),
            State::Finalize => self.abort_group(cx, Group::Rc3),
            state => {
                cx.log(Level::Info, format!("ignored signal {signum} in {}", state.name()));
            }
        }
    }

    fn start_shutdown(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        request: &ShutdownRequest,
        answer: Answer<ShutdownStart>,
    ) {
        let refusal = if cx.rank() > 0 && !request.alone {
            Some("shutdown may only be initiated on rank 0".to_string())
        } else if self.shutdown.is_some() || self.state > State::Run {
            Some("shutdown is already in progress".to_string())
        } else if self.state != State::Run {
            Some(format!("shutdown cannot be initiated in state {}", self.state.name()))
        } else if request.alone && self.settings.program.is_some() {
            Some("an instance with an initial program cannot do without its leader".to_string())
        } else if cx.rank() == 0
            && (request.keep_jobs || request.alone)
            && !self.settings.can_return
        {
            Some("no job can be kept: the state of this instance ends with it".to_string())
        } else {
            None
        };
        if let Some(text) = refusal {
            return answer.err(cx, RpcError::new(Errno::EINVAL, text));
        }
        if request.alone {
            self.leaving = true;
        } else if let Some(code) = self.settings.exit_norestart
            && self.code == 0
        {
            self.code = code;
        }
        self.keep_jobs |= request.keep_jobs;
        if answer.is_streaming() {
            let follow = Dmesg { follow: true, nobacklog: true };
            cx.call::<Dmesg_>(To::Rank(cx.rank()), &follow, Wait::Lines);
            self.shutdown = Some((request.loglevel.unwrap_or(3), answer));
        } else {
            answer.ok(cx, &ShutdownLine { log: String::new() });
        }
        if self.settings.program.is_some() {
            // Its end moves the instance on, so that its status is known when the broker exits. A
            // program that does not care about SIGHUP is not waited for.
            self.abort_group(cx, Group::Program);
            self.arm(cx, Some(PROGRAM_PATIENCE), Wait::GiveUp(State::Run));
        } else {
            self.post(cx, "shutdown", false);
        }
    }

    fn log_line(&mut self, cx: &mut Cx<'_, Wait>, text: &str) {
        if let Some((level, answer)) = &self.shutdown
            && let Some(line) = Line::parse(text)
            && line.severity <= *level
        {
            answer.item(cx, &ShutdownLine { log: format!("{}\n", line.short()) });
        }
    }

    fn child_changed(&mut self, cx: &mut Cx<'_, Wait>, rank: u32, status: &str) {
        if matches!(status, "lost" | "offline") {
            self.children.remove(&rank);
            if self.state == State::Shutdown && self.children.is_empty() {
                self.post(cx, "children-complete", false);
            }
        } else {
            self.children.insert(rank);
        }
    }
}

fn past_run() -> RpcError {
    RpcError::new(Errno::ENOENT, "broker has surpassed RUN state")
}

impl Service for StateMachineService {
    type Api = StateMachine;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        self.since_us = cx.now_us();
        cx.log(Level::Info, format!("start: none->{} 0s", self.state.name()));
        let rank = cx.rank();
        cx.call::<MonitorChildren>(To::Rank(rank), &Empty, Wait::Children);
        // The other builtin modules start in this same step.
        cx.timer(0, Wait::Begin);
        cx.ready();
    }

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.leave_jobs = cleanup::leaves_jobs(config)?;
        // Names for log lines; who refuses a list of hosts is the broker.
        if let Ok(Some(roster)) = Roster::of(config)
            && roster.names.len() >= self.settings.hosts.len()
        {
            self.settings.hosts = roster.names;
        }
        Ok(())
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: StateMachine) {
        match call {
            StateMachine::StateGet(call) => {
                let duration = cx.now_us().saturating_sub(self.since_us) as f64 / 1e6;
                let state = self.state.name().to_string();
                call.answer.ok(cx, &StateNow { state, duration });
            }
            StateMachine::Monitor(call) => {
                let state = StateNumber { state: self.state as i32 };
                let MonitorRequest { last } = call.request;
                if !call.answer.is_streaming() {
                    return call.answer.ok(cx, &state);
                }
                if last.is_some_and(|last| state.state > last) {
                    return call.answer.end(cx);
                }
                call.answer.item(cx, &state);
                if last == Some(state.state) {
                    call.answer.end(cx);
                } else {
                    self.monitors.push((last, call.answer));
                }
            }
            StateMachine::WaitRun(call) => match self.state {
                State::Run => call.answer.ok(cx, &Empty),
                state if state > State::Run => call.answer.err(cx, past_run()),
                _ => self.waiters.push(call.answer),
            },
            StateMachine::Post(call) => {
                if call.answer.head().no_response() {
                    self.post(cx, &call.request.event, call.request.error);
                    call.answer.forget();
                } else {
                    call.answer.err(cx, Errno::EPROTO);
                }
            }
            StateMachine::Signal(call) => {
                call.answer.forget();
                // An initial program is what an instance is there for, and ends it.
                let free = cx.rank() > 0 || self.settings.program.is_none();
                if call.request.alone && free && self.state <= State::Run {
                    self.leaving |= self.stops_alone(cx);
                }
                self.signal(cx, call.request.signum);
            }
            StateMachine::SdNotify_(call) => {
                if let Some(text) = &call.request.status {
                    self.status(cx, text);
                }
                call.answer.forget();
            }
            StateMachine::ShutdownStart(call) => {
                self.start_shutdown(cx, &call.request, call.answer);
            }
            StateMachine::RunatPush_(call) => {
                let result = self.runat.push(&call.request, &self.settings.shell).map(|()| Empty);
                call.answer.respond(cx, result);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Join => match reply.error() {
                None => self.follow_parent(cx),
                Some(error) => {
                    cx.log(Level::Err, format!("overlay.join: {error}"));
                    self.post(cx, "parent-fail", true);
                }
            },
            Wait::Rejoin => self.rejoined(cx, &reply),
            Wait::Parent => match reply.decode::<Monitor>() {
                Ok(number) => {
                    self.parent = State::from_number(number.state);
                    self.parent_moved(cx);
                }
                Err(_) if reply.is_end() => {}
                Err(_) => self.parent_lost(cx),
            },
            Wait::Sync => match reply.decode::<ConfigGet>() {
                Ok(config) => {
                    self.config = config;
                    self.post(cx, "sync-success", false);
                }
                Err(error) => self.sync_failed(cx, &error),
            },
            Wait::Modules => match reply.error() {
                None => {
                    if cx.rank() == 0 {
                        self.ready(cx);
                    }
                    self.startlog_begin(cx);
                }
                Some(error) => {
                    cx.log(Level::Err, format!("modules: {error}"));
                    if self.settings.recovery {
                        self.ready(cx);
                        return self.post(cx, "rc1-ignorefail", false);
                    }
                    self.code = self.settings.exit_norestart.unwrap_or(1);
                    self.post(cx, "rc1-fail", true);
                }
            },
            Wait::Online => {
                if let Ok(members) = reply.decode::<GroupGet>()
                    && let Ok(members) = members.members.parse::<Idset>()
                {
                    self.online_changed(cx, members);
                }
            }
            Wait::Children => {
                if let Ok(change) = reply.decode::<MonitorChildren>() {
                    self.child_changed(cx, change.rank, &change.status);
                }
            }
            Wait::Command(group) => self.command_reply(cx, group, &reply),
            Wait::Cleanup(step) => self.cleanup_reply(cx, step, &reply),
            Wait::Startlog(step) => self.startlog_reply(cx, step, &reply),
            Wait::Settle => {
                if let Some(error) = reply.error() {
                    cx.log(Level::Err, format!("stopping modules: {error}"));
                }
                let event = if self.runat.failed(Group::Rc3) { "rc3-fail" } else { "rc3-success" };
                self.post(cx, event, false);
            }
            Wait::Leave => {
                if std::mem::take(&mut self.goodbye_pending) {
                    self.post(cx, "goodbye", false);
                }
            }
            Wait::Lines => {
                if let Ok(line) = reply.decode::<Dmesg_>() {
                    self.log_line(cx, &line.0);
                }
            }
            Wait::JoinGroup
            | Wait::Kill
            | Wait::Spurn
            | Wait::Warn(_)
            | Wait::GiveUp(_)
            | Wait::Begin => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Begin => self.post(cx, "builtins-success", false),
            Wait::Warn(state) if state == self.state => self.warn(cx, state),
            Wait::GiveUp(state) if state == self.state => self.give_up(cx, state),
            _ => {}
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        let mut kept = Vec::new();
        for (last, answer) in self.monitors.drain(..) {
            if answer.same_sender(message) {
                answer.forget();
            } else {
                kept.push((last, answer));
            }
        }
        self.monitors = kept;
        let mut kept = Vec::new();
        for answer in self.waiters.drain(..) {
            if answer.same_sender(message) {
                answer.forget();
            } else {
                kept.push(answer);
            }
        }
        self.waiters = kept;
        if let Some((_, answer)) = self.shutdown.take_if(|(_, answer)| answer.same_sender(message))
        {
            answer.forget();
        }
    }
}

impl StateMachineService {
    fn settle(&mut self, cx: &mut Cx<'_, Wait>) {
        let here = To::Rank(cx.rank());
        cx.call::<StopModules>(here, &Empty, Wait::Settle);
    }
}

#[cfg(test)]
mod tests;
