//! The `launch` driver: job shells that outlive brokers, with a record on each node.
//!
//! A shell asks for its job, meets the other shells, waits as long as the jobspec says, reports and
//! exits. When its broker is lost it runs on, connects again, and repeats what was not answered.

use flux_api::broker::SubscribeRequest;
use flux_api::job::exec::{ShellBarrier, ShellBarrier_};
use flux_api::job::info::{CURRENT, InfoLookup, JSON_DECODE, Lookup};
use flux_api::kvs::{APPEND, Commit, CommitRequest, Operation};
use flux_api::launch::{Attach_, Launch, LaunchEvent, LaunchList, LaunchRecord, LaunchStart};
use flux_api::{Answer, Api, Empty, Rpc, RpcError, rpc};
use flux_id::Idset;
use flux_model::eventlog::Event;
use flux_model::resource_set::ResourceSet;
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use serde_json::Value;

use crate::brokers::{IMP, OWNER, SHELL};
use crate::clients::Caller;
use crate::world::{Due, MS, SEC, World};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGTERM: i32 = 15;

/// Between attempts of a shell.
const RETRY: u64 = 300 * MS;
/// What was written for so long survives a power cut.
const SYNCED: u64 = SEC;

/// What a shell does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// It begins to run.
    Begin,
    /// It has waited long enough.
    Done,
    /// It connects again, or asks again.
    Retry,
    /// It ends with this wait status.
    Exit(i32),
}

/// Where a shell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asking,
    Barrier,
    Running,
    Reporting,
}

/// One shell process.
#[derive(Debug)]
pub(crate) struct Shell {
    job: u64,
    userid: u32,
    rank: u32,
    caller: Option<Caller>,
    stage: Stage,
    tag: u32,
    leader: bool,
    seconds: f64,
    /// Cores of this node that it uses, once it knows.
    cores: Idset,
    stubborn: bool,
    failing: bool,
    /// It has lost a broker.
    survivor: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Starting,
    Running,
    Exited(i32),
    Lost,
}

/// What is on record of a shell on its node.
#[derive(Debug)]
pub(crate) struct Record {
    pid: u64,
    state: State,
    written: u64,
    followers: Vec<Answer<Attach_>>,
}

/// Process ids are small and positive.
fn pid_of(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Record {
    /// Tells a follower how things are; true when that was the end.
    fn tell(&self, answer: &Answer<Attach_>, out: &mut Vec<Message>) -> bool {
        if self.state == State::Starting {
            return false;
        }
        answer
            .item(out, &LaunchEvent { pid: Some(pid_of(self.pid)), ..LaunchEvent::new("started") });
        self.tell_end(answer, out)
    }

    fn tell_end(&self, answer: &Answer<Attach_>, out: &mut Vec<Message>) -> bool {
        match &self.state {
            State::Starting | State::Running => return false,
            State::Exited(status) => {
                answer.item(
                    out,
                    &LaunchEvent { status: Some(*status), ..LaunchEvent::new("finished") },
                );
            }
            State::Lost => {
                let note = Some("the node was restarted".to_string());
                answer.item(out, &LaunchEvent { note, ..LaunchEvent::new("lost") });
            }
        }
        true
    }
}

impl World {
    pub(crate) fn launch(&mut self, rank: u32, message: Message, out: &mut Vec<Message>) {
        if message.method() == "disconnect" {
            return self.launch_client_gone(rank, &message);
        }
        match Launch::decode(message) {
            Ok(Launch::Start_(call)) => self.launch_start(rank, &call.request, call.answer, out),
            Ok(Launch::Attach_(call)) => {
                if !self.launch_follow(rank, call.request.id, call.answer.head(), out) {
                    return call.answer.err(out, Errno::ENOENT);
                }
                call.answer.forget();
            }
            Ok(Launch::Kill_(call)) => {
                let record = self.records.get(&(rank, call.request.id));
                match record.map(|record| (record.state.clone(), record.pid)) {
                    None => call.answer.err(out, Errno::ENOENT),
                    Some((State::Exited(_) | State::Lost, _)) => {
                        call.answer.err(out, Errno::ESRCH);
                    }
                    Some((_, pid)) => {
                        self.signal_shell(pid, call.request.signum);
                        call.answer.ok(out, &Empty);
                    }
                }
            }
            Ok(Launch::List_(call)) => {
                let jobs = self.records_of(rank).map(|(id, record)| LaunchRecord {
                    id,
                    pid: pid_of(record.pid),
                    state: match record.state {
                        State::Starting | State::Running => "running",
                        State::Exited(_) => "exited",
                        State::Lost => "lost",
                    }
                    .to_string(),
                    status: None,
                });
                let list = LaunchList { rank, jobs: jobs.collect() };
                call.answer.ok(out, &list);
            }
            Ok(Launch::Forget_(call)) => {
                for id in &call.request.ids {
                    let ended =
                        |record: &Record| matches!(record.state, State::Exited(_) | State::Lost);
                    if self.records.get(&(rank, *id)).is_some_and(ended) {
                        self.records.remove(&(rank, *id));
                    }
                }
                call.answer.ok(out, &Empty);
            }
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
    }

    fn records_of(&self, rank: u32) -> impl Iterator<Item = (u64, &Record)> {
        self.records.range((rank, 0)..=(rank, u64::MAX)).map(|((_, id), record)| (*id, record))
    }

    /// Follows a shell that is on record; false when there is none.
    fn launch_follow(
        &mut self,
        rank: u32,
        id: u64,
        head: &Message,
        out: &mut Vec<Message>,
    ) -> bool {
        let Some(record) = self.records.get_mut(&(rank, id)) else { return false };
        let answer = Answer::<Attach_>::new(head.clone());
        if record.tell(&answer, out) {
            answer.end(out);
        } else {
            record.followers.push(answer);
        }
        true
    }

    fn launch_start<R: Rpc<Response = LaunchEvent>>(
        &mut self,
        rank: u32,
        request: &LaunchStart,
        answer: Answer<R>,
        out: &mut Vec<Message>,
    ) {
        let id = request.id;
        if self.launch_follow(rank, id, answer.head(), out) {
            return answer.forget();
        }
        let words: Vec<&str> = request.cmdline.iter().map(String::as_str).collect();
        let number = id.to_string();
        let expected = match request.userid {
            OWNER => words == ["flux", "shell", &number] || words == [SHELL, &number],
            _ => words == [IMP, "exec", SHELL, &number],
        };
        if !expected {
            let error = RpcError::new(Errno::EINVAL, "not the shell of the job");
            return answer.err(out, error);
        }
        let booted = self.booted.get(&rank).copied();
        // As the clock of the node shows it now.
        let booted = booted.map(|at| self.clock(rank).wall - (self.now - at) as f64 / 1e6);
        let up = self.booted.get(&rank).map(|at| (self.now - at) as f64 / 1e6);
        let later = |since: f64| booted.is_some_and(|booted| booted > since);
        let younger = |age: f64| up.is_some_and(|up| up < age);
        if request.since.is_some_and(later) || request.age.is_some_and(younger) {
            let note = Some("the node was restarted".to_string());
            answer.item(out, &LaunchEvent { note, ..LaunchEvent::new("lost") });
            return answer.end(out);
        }
        if !self.started.insert((id, rank)) {
            self.violation(format!("the shell of job {id} is started on rank {rank} again"));
        }
        let pid = self.number();
        let shell = Shell {
            job: id,
            userid: request.userid,
            rank,
            caller: None,
            stage: Stage::Asking,
            tag: 0,
            leader: false,
            seconds: 0.0,
            cores: Idset::new(),
            stubborn: self.rng.chance(self.pace.stubborn),
            failing: self.rng.chance(self.pace.failing),
            survivor: false,
        };
        self.shells.insert(pid, shell);
        let written = self.now;
        let record = Record { pid, state: State::Starting, written, followers: Vec::new() };
        self.records.insert((rank, id), record);
        let followed = self.launch_follow(rank, id, answer.head(), out);
        debug_assert!(followed, "it was put on record just now");
        answer.forget();
        let (low, high) = self.pace.spawn;
        let at = self.now + self.rng.range(low, high);
        self.plan(at, 0, Due::Shell(pid, Act::Begin));
    }

    pub(crate) fn shell_acts(&mut self, pid: u64, act: Act) {
        if !self.shells.contains_key(&pid) {
            return;
        }
        match act {
            Act::Begin => self.shell_begins(pid),
            Act::Done => self.shell_done(pid),
            Act::Retry => self.shell_retries(pid),
            Act::Exit(status) => self.shell_exits(pid, status),
        }
    }

    fn shell_begins(&mut self, pid: u64) {
        let Some(shell) = self.shells.get(&pid) else { return };
        let (rank, id) = (shell.rank, shell.job);
        let mut out = Vec::new();
        if let Some(record) = self.records.get_mut(&(rank, id)) {
            record.state = State::Running;
            for answer in &record.followers {
                record.tell(answer, &mut out);
            }
        }
        self.driver_says(rank, "launch", out);
        self.shell_retries(pid);
    }

    /// Connects if need be, and asks for what it waits for.
    fn shell_retries(&mut self, pid: u64) {
        let Some(shell) = self.shells.get(&pid) else { return };
        let (rank, id, stage, userid) = (shell.rank, shell.job, shell.stage, shell.userid);
        let caller = match shell.caller {
            Some(caller) => caller,
            None => {
                let Some(caller) = self.connect_shell(rank, pid, userid) else {
                    return self.plan(self.now + RETRY, 0, Due::Shell(pid, Act::Retry));
                };
                let topic = format!("shell-{id}.kill");
                let request = SubscribeRequest { topic };
                self.call::<flux_api::broker::Subscribe>(caller, None, &request);
                if let Some(shell) = self.shells.get_mut(&pid) {
                    shell.caller = Some(caller);
                }
                caller
            }
        };
        let tag = match stage {
            Stage::Asking => {
                let keys = vec!["jobspec".to_string(), "R".to_string()];
                let request = InfoLookup { id, keys, flags: JSON_DECODE | CURRENT };
                self.call::<Lookup>(caller, None, &request)
            }
            Stage::Barrier => {
                let request = ShellBarrier { id, rank, passed: Some(0) };
                self.call::<ShellBarrier_>(caller, None, &request)
            }
            Stage::Running => return,
            Stage::Reporting => self.shell_commits(pid, "shell.task-exit"),
        };
        self.at_stage(pid, stage, tag);
    }

    pub(crate) fn shell_response(&mut self, pid: u64, tag: u32, message: &Message) {
        let Some(shell) = self.shells.get_mut(&pid).filter(|shell| shell.tag == tag) else {
            return;
        };
        let (stage, rank, id) = (shell.stage, shell.rank, shell.job);
        if let Some(error) = RpcError::of(message) {
            self.trace.line(self.now, || format!("shell {pid}: {stage:?}: {error}"));
            let fatal = match stage {
                Stage::Asking => matches!(error.errno, Errno::ENOENT | Errno::EPERM),
                Stage::Barrier => matches!(error.errno, Errno::EIO | Errno::ENOENT),
                Stage::Reporting => error.errno == Errno::ENOTSUP,
                Stage::Running => return,
            };
            if fatal {
                return self.shell_exits(pid, 1 << 8);
            }
            return self.plan(self.now + RETRY, 0, Due::Shell(pid, Act::Retry));
        }
        match stage {
            Stage::Asking => {
                let body: Value = message.json().unwrap_or_default();
                let command = body.pointer("/jobspec/tasks/0/command").cloned();
                let words: Vec<String> = command
                    .and_then(|words| serde_json::from_value(words).ok())
                    .unwrap_or_default();
                let r = body.get("R").map(ResourceSet::from_value);
                let (Some(Ok(r)), [word, seconds]) = (r, words.as_slice()) else {
                    self.violation(format!("shell {pid} was told no job: {body}"));
                    return self.shell_exits(pid, 1 << 8);
                };
                shell.seconds = seconds.parse().unwrap_or(0.0);
                shell.leader = r.ranks().first() == Some(rank);
                if word != "sleep" || !r.ranks().contains(rank) {
                    let text = format!("shell {pid} on rank {rank} was told a wrong job: {body}");
                    self.violation(text);
                }
                self.takes_cores(pid, &r);
                if r.nnodes() > 1 {
                    self.at_stage(pid, Stage::Barrier, 0);
                    self.shell_retries(pid);
                } else {
                    self.shell_runs(pid);
                }
            }
            Stage::Barrier => self.shell_runs(pid),
            Stage::Running => {}
            Stage::Reporting => {
                let status = if shell.failing { 1 << 8 } else { 0 };
                self.trace.line(self.now, || format!("shell {pid} of job {id} has reported"));
                self.shell_exits(pid, status);
            }
        }
    }

    /// No two processes use a core at once.
    fn takes_cores(&mut self, pid: u64, r: &ResourceSet) {
        let Some(rank) = self.shells.get(&pid).map(|shell| shell.rank) else { return };
        let mut cores = Idset::new();
        for (_, _, children) in r.iter().filter(|(at, ..)| *at == rank) {
            for core in children.cores.ids() {
                cores.insert(core);
            }
        }
        let other = self.shells.iter().find(|(other, shell)| {
            **other != pid
                && shell.rank == rank
                && cores.ids().any(|core| shell.cores.contains(core))
        });
        if let Some((other, shell)) = other {
            let text = format!(
                "shells {pid} and {other} (job {}) use the same cores of rank {rank}",
                shell.job
            );
            self.violation(text);
        }
        if let Some(shell) = self.shells.get_mut(&pid) {
            shell.cores = cores;
        }
    }

    fn at_stage(&mut self, pid: u64, stage: Stage, tag: u32) {
        if let Some(shell) = self.shells.get_mut(&pid) {
            shell.stage = stage;
            shell.tag = tag;
        }
    }

    fn shell_runs(&mut self, pid: u64) {
        let Some(shell) = self.shells.get(&pid) else { return };
        let at = self.now + (shell.seconds * 1e6) as u64;
        let leader = shell.leader;
        self.at_stage(pid, Stage::Running, 0);
        if leader {
            self.shell_commits(pid, "shell.start");
        }
        self.plan(at, 0, Due::Shell(pid, Act::Done));
    }

    /// Adds an event to the log of the job's execution.
    fn shell_commits(&mut self, pid: u64, event: &str) -> u32 {
        let Some(shell) = self.shells.get(&pid) else { return 0 };
        let wall = self.clock(shell.rank).wall;
        let Some(caller) = shell.caller else { return 0 };
        let text = Event::new(wall, event).encode();
        let request = CommitRequest {
            namespace: format!("job-{}", shell.job),
            flags: 0,
            ops: vec![Operation {
                key: "exec.eventlog".to_string(),
                flags: APPEND,
                dirent: Treeobj::val(text.into_bytes()).into(),
            }],
        };
        self.call::<Commit>(caller, None, &request)
    }

    fn shell_done(&mut self, pid: u64) {
        let Some(shell) = self.shells.get(&pid) else { return };
        if shell.leader {
            let waits = shell.caller.is_none();
            self.at_stage(pid, Stage::Reporting, 0);
            if !waits {
                self.shell_retries(pid);
            }
        } else {
            let status = if shell.failing { 1 << 8 } else { 0 };
            self.shell_exits(pid, status);
        }
    }

    fn shell_exits(&mut self, pid: u64, status: i32) {
        self.trace.line(self.now, || format!("shell {pid} exits with {status}"));
        let Some(shell) = self.shells.remove(&pid) else { return };
        if shell.survivor {
            self.survivors += 1;
        }
        let (rank, id) = (shell.rank, shell.job);
        let now = self.now;
        let mut out = Vec::new();
        if let Some(record) = self.records.get_mut(&(rank, id)) {
            let began = record.state == State::Starting;
            record.state = State::Exited(status);
            record.written = now;
            for answer in std::mem::take(&mut record.followers) {
                if began {
                    record.tell(&answer, &mut out);
                } else {
                    record.tell_end(&answer, &mut out);
                }
                answer.end(&mut out);
            }
        }
        self.driver_says(rank, "launch", out);
        if let Some(caller) = shell.caller {
            self.hang_up_client(caller);
        }
    }

    fn signal_shell(&mut self, pid: u64, signum: i32) {
        let Some(shell) = self.shells.get(&pid) else { return };
        let ends = match signum {
            SIGKILL => true,
            // What the IMP is sent for the signal that it could not pass on.
            SIGUSR1 => shell.userid != OWNER,
            SIGTERM | SIGHUP => !shell.stubborn,
            _ => false,
        };
        if ends {
            self.plan(self.now + 100, 0, Due::Shell(pid, Act::Exit(signum)));
        }
    }

    /// An event that a shell has asked for: a signal to its tasks.
    pub(crate) fn shell_event(&mut self, pid: u64, event: &Message) {
        let body: Value = event.json().unwrap_or_default();
        let signum = body.get("signum").and_then(Value::as_i64).unwrap_or(0);
        if signum == i64::from(SIGKILL) {
            self.plan(self.now + MS, 0, Due::Shell(pid, Act::Exit((128 + SIGKILL) << 8)));
        }
    }

    /// The shell's broker is gone: it looks for the next one.
    pub(crate) fn shell_orphaned(&mut self, pid: u64) {
        if let Some(shell) = self.shells.get_mut(&pid) {
            shell.caller = None;
            shell.survivor = true;
            shell.tag = 0;
        }
        self.plan(self.now + RETRY, 0, Due::Shell(pid, Act::Retry));
    }

    fn launch_client_gone(&mut self, rank: u32, message: &Message) {
        for ((_, _), record) in self.records.range_mut((rank, 0)..=(rank, u64::MAX)) {
            for answer in std::mem::take(&mut record.followers) {
                if answer.same_sender(message) {
                    answer.forget();
                } else {
                    record.followers.push(answer);
                }
            }
        }
    }

    /// A broker process is gone: nobody follows its shells any more. They run on.
    pub(crate) fn followers_end(&mut self, rank: u32) {
        for (_, record) in self.records.range_mut((rank, 0)..=(rank, u64::MAX)) {
            record.followers.drain(..).for_each(Answer::forget);
        }
    }

    /// The power of a node fails: its broker and its shells are gone, and of its records what was
    /// not synced.
    pub fn cut_power(&mut self, rank: u32) {
        self.kill(rank);
        self.trace.line(self.now, || format!("rank {rank}: power cut"));
        self.booted.insert(rank, self.now);
        let pids: Vec<u64> = self
            .shells
            .iter()
            .filter(|(_, shell)| shell.rank == rank)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in pids {
            self.shells.remove(&pid);
        }
        let now = self.now;
        let mut gone = Vec::new();
        for ((_, id), record) in self.records.range_mut((rank, 0)..=(rank, u64::MAX)) {
            if now - record.written < SYNCED && self.rng.chance(50) {
                gone.push(*id);
            } else if !matches!(record.state, State::Exited(_)) {
                record.state = State::Lost;
            }
        }
        for id in gone {
            self.records.remove(&(rank, id));
        }
    }

    /// Shells that run: process, rank and job.
    #[must_use]
    pub fn running_shells(&self) -> Vec<(u64, u32, u64)> {
        self.shells.iter().map(|(pid, shell)| (*pid, shell.rank, shell.job)).collect()
    }
}
