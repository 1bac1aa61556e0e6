//! What a test instance decides: who is started, killed and waited for, and when it is over.

use std::collections::VecDeque;
use std::io::IsTerminal;

use flux_api::RpcError;
use flux_id::Idset;
use flux_proto::{Cred, Errno, Message, MsgType, Rolemask};
use flux_svc::Clock;
use flux_svc::cx::Level;
use flux_svc::engine::{Admission, ClientId, Engine, Input, Output};
use nix::libc;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ExitMode, StartMode, TestInstance};

/// The driver that has the processes.
pub(super) const PROCESSES: &str = "processes";

/// A broker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not started so far.
    Idle,
    /// Asked for, or running with its process id.
    Running(Option<i32>),
    /// Exited with a code; 128 + n after signal n.
    Exited(i32, Option<i32>),
}

/// The engine of a test instance.
pub(super) struct Supervisor {
    brokers: Vec<State>,
    exit_mode: ExitMode,
    start_mode: StartMode,
    timeout_us: Option<u64>,
    deadline: Option<u64>,
    /// The rest has been killed.
    timed_out: bool,
    /// `start.wait` requests that are not answered yet.
    waiting: Vec<(ClientId, u32, Message)>,
    owner: u32,
    /// Signals of the keyboard reach the brokers by themselves.
    terminal: bool,
    out: VecDeque<Output>,
}

#[derive(Deserialize)]
struct RankRequest {
    rank: u32,
    #[serde(default)]
    signum: i32,
}

impl Supervisor {
    pub(super) fn new(instance: &TestInstance) -> Self {
        let timeout = instance.exit_timeout.map(|time| time.as_micros());
        Self {
            brokers: vec![State::Idle; instance.commands.len()],
            exit_mode: instance.exit_mode,
            start_mode: instance.start_mode,
            timeout_us: timeout.and_then(|time| u64::try_from(time).ok()),
            deadline: None,
            timed_out: false,
            waiting: Vec::new(),
            owner: nix::unistd::getuid().as_raw(),
            terminal: std::io::stdin().is_terminal(),
            out: VecDeque::new(),
        }
    }

    fn say(&mut self, text: String) {
        self.out.push_back(Output::Stderr(Level::Info, text));
    }

    fn drive(&mut self, topic: &str, body: &Value) {
        let request = Message::request(topic).with_no_response().with_json(body);
        self.out.push_back(Output::Driver(PROCESSES, request));
    }

    fn run(&mut self, rank: usize) {
        self.brokers[rank] = State::Running(None);
        self.drive("processes.run", &json!({ "rank": rank }));
    }

    fn kill(&mut self, rank: usize, signum: i32) {
        self.drive("processes.kill", &json!({ "rank": rank, "signum": signum }));
    }

    fn running(&self) -> Vec<usize> {
        let running = |rank: &usize| matches!(self.brokers[*rank], State::Running(_));
        (0..self.brokers.len()).filter(running).collect()
    }

    fn reply(
        &mut self,
        client: ClientId,
        request: &Message,
        result: Result<Option<Value>, RpcError>,
    ) {
        if request.no_response() {
            return;
        }
        let response = match result {
            Ok(None) => Message::response_to(request),
            Ok(Some(body)) => Message::response_to(request).with_json(&body),
            Err(error) => flux_api::rpc::refusal(request, &error),
        };
        self.out.push_back(Output::Client(client, response));
    }

    fn request(&mut self, client: ClientId, request: Message) {
        let result = match request.topic() {
            "start.status" => Ok(Some(self.status())),
            "start.kill" | "start.wait" | "start.run" => match self.rank_request(&request) {
                Err(error) => Err(error),
                Ok((rank, signum)) => match (request.topic(), self.brokers[rank]) {
                    ("start.run", State::Running(_)) => Err(Errno::EEXIST.into()),
                    ("start.run", _) => {
                        self.deadline = None;
                        self.run(rank);
                        Ok(None)
                    }
                    ("start.kill", State::Running(Some(_))) => {
                        self.kill(rank, signum);
                        Ok(None)
                    }
                    ("start.kill", _) => Err(Errno::ENOENT.into()),
                    (_, State::Exited(rc, _)) => Ok(Some(json!({ "exit_rc": rc }))),
                    (_, State::Idle) => Err(Errno::ENOENT.into()),
                    (_, State::Running(_)) => {
                        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
                        self.waiting.push((client, rank, request));
                        return;
                    }
                },
            },
            "disconnect" => return,
            topic => Err(RpcError::new(Errno::ENOSYS, format!("Unknown service method '{topic}'"))),
        };
        self.reply(client, &request, result);
    }

    fn rank_request(&self, request: &Message) -> Result<(usize, i32), RpcError> {
        let body: RankRequest =
            request.json().map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?;
        let rank = body.rank as usize;
        if rank >= self.brokers.len() {
            let text = format!("rank {rank} is not below {}", self.brokers.len());
            return Err(RpcError::new(Errno::ENOENT, text));
        }
        Ok((rank, body.signum))
    }

    fn status(&self) -> Value {
        let pid = |state: &State| match state {
            State::Running(Some(pid)) => *pid,
            _ => -1,
        };
        let procs: Vec<Value> =
            self.brokers.iter().map(|state| json!({ "pid": pid(state) })).collect();
        json!({ "procs": procs })
    }

    /// What the driver tells of a process.
    fn told(&mut self, clock: Clock, message: &Message) {
        #[derive(Deserialize)]
        struct Told {
            rank: usize,
            #[serde(default)]
            pid: i32,
            code: Option<i32>,
            signal: Option<i32>,
            text: Option<String>,
        }
        let Ok(told) = message.json::<Told>() else {
            return;
        };
        if let Some(text) = told.text {
            self.say(format!("flux-start: {} (pid {}) {text}", told.rank, told.pid));
        }
        match message.topic() {
            "processes.started" => self.brokers[told.rank] = State::Running(Some(told.pid)),
            "processes.exited" => self.exited(clock, told.rank, told.pid, told.code, told.signal),
            "processes.abort" => {
                for rank in self.running() {
                    self.kill(rank, libc::SIGKILL);
                }
            }
            _ => {}
        }
    }

    fn exited(
        &mut self,
        clock: Clock,
        rank: usize,
        pid: i32,
        code: Option<i32>,
        signal: Option<i32>,
    ) {
        let rc = code.unwrap_or_else(|| 128 + signal.unwrap_or_default());
        self.brokers[rank] = State::Exited(rc, signal);
        match signal {
            Some(number) => {
                let text = signal_text(number);
                self.say(format!("flux-start: {rank} (pid {pid}) {text}"));
            }
            None if rc != 0 => {
                self.say(format!("flux-start: {rank} (pid {pid}) exited with rc={rc}"));
            }
            None => {}
        }
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, waited, _)| *waited as usize == rank);
        self.waiting = waiting;
        for (client, _, request) in done {
            self.reply(client, &request, Ok(Some(json!({ "exit_rc": rc }))));
        }
        if self.running().is_empty() {
            return self.finish();
        }
        let counts = self.exit_mode == ExitMode::Any || rank == 0;
        if counts && self.deadline.is_none() && !self.timed_out {
            self.deadline = self.timeout_us.map(|time| clock.mono_us.saturating_add(time));
        }
    }

    fn finish(&mut self) {
        let code = |state: &State| match state {
            State::Exited(rc, _) => *rc,
            _ => 0,
        };
        let rc = match self.exit_mode {
            ExitMode::Leader => code(&self.brokers[0]),
            ExitMode::Any => self.brokers.iter().map(code).max().unwrap_or(0),
        };
        self.out.push_back(Output::Exit(rc));
    }

    fn tick(&mut self, clock: Clock) {
        if self.deadline.take_if(|at| *at <= clock.mono_us).is_none() {
            return;
        }
        self.timed_out = true;
        let mut killed = Idset::default();
        for rank in self.running() {
            killed.insert(u32::try_from(rank).unwrap_or(u32::MAX));
            self.kill(rank, libc::SIGKILL);
        }
        self.say(format!("flux-start: Exit timeout: killed rank {killed}"));
    }

    /// The leader shuts the instance down; without it everybody is told.
    fn signal(&mut self, number: i32) {
        if self.terminal && matches!(number, libc::SIGINT | libc::SIGQUIT) {
            return;
        }
        match self.brokers[0] {
            State::Running(_) => self.kill(0, number),
            _ => {
                for rank in self.running() {
                    self.kill(rank, number);
                }
            }
        }
    }
}

/// The system's words for a signal.
fn signal_text(number: i32) -> String {
    let text = match Signal::try_from(number) {
        Ok(Signal::SIGHUP) => "Hangup",
        Ok(Signal::SIGINT) => "Interrupt",
        Ok(Signal::SIGQUIT) => "Quit",
        Ok(Signal::SIGILL) => "Illegal instruction",
        Ok(Signal::SIGTRAP) => "Trace/breakpoint trap",
        Ok(Signal::SIGABRT) => "Aborted",
        Ok(Signal::SIGBUS) => "Bus error",
        Ok(Signal::SIGFPE) => "Floating point exception",
        Ok(Signal::SIGKILL) => "Killed",
        Ok(Signal::SIGUSR1) => "User defined signal 1",
        Ok(Signal::SIGSEGV) => "Segmentation fault",
        Ok(Signal::SIGUSR2) => "User defined signal 2",
        Ok(Signal::SIGPIPE) => "Broken pipe",
        Ok(Signal::SIGALRM) => "Alarm clock",
        Ok(Signal::SIGTERM) => "Terminated",
        _ => return format!("Signal {number}"),
    };
    text.to_string()
}

impl Engine for Supervisor {
    fn start(&mut self, _: Clock) {
        self.out.push_back(Output::Listen);
        let count = match self.start_mode {
            StartMode::All => self.brokers.len(),
            StartMode::Leader => 1,
        };
        for rank in 0..count {
            self.run(rank);
        }
    }

    fn input(&mut self, clock: Clock, input: Input) {
        match input {
            Input::Client(client, message) if message.kind == MsgType::Request => {
                self.request(client, message);
            }
            Input::ClientLeft(client) => self.waiting.retain(|(waiter, ..)| *waiter != client),
            Input::Driver(_, message) => self.told(clock, &message),
            Input::Signal(number) => self.signal(number),
            Input::Tick => self.tick(clock),
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.deadline
    }

    fn admit(&self, userid: u32) -> Admission {
        if userid == self.owner {
            Ok(Cred::new(userid, Rolemask::OWNER | Rolemask::LOCAL))
        } else {
            Err(Errno::EPERM)
        }
    }
}
