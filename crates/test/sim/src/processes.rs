//! The `rexec` driver: processes that only pretend. A job shell asks for its job, meets the other
//! shells, waits as long as the jobspec says, and exits.

use flux_api::broker::SubscribeRequest;
use flux_api::job::exec::{ShellBarrier, ShellBarrier_};
use flux_api::job::info::{CURRENT, InfoLookup, JSON_DECODE, Lookup};
use flux_api::kvs::{APPEND, Commit, CommitRequest, Operation};
use flux_api::rexec::{Exec, ExecResponse, Process as Entry, ProcessList, Rexec, WaitResponse};
use flux_api::{Answer, Api, Empty, RpcError, rpc};
use flux_model::eventlog::Event;
use flux_model::resource_set::ResourceSet;
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use serde_json::Value;

use crate::clients::{Caller, User};
use crate::world::{Due, MS, World};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What a process does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// It begins to run.
    Begin,
    /// It has waited long enough.
    Done,
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

#[derive(Debug)]
struct Shell {
    job: u64,
    caller: Option<Caller>,
    stage: Stage,
    tag: u32,
    leader: bool,
    seconds: f64,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    rank: u32,
    line: String,
    answer: Option<Answer<Exec>>,
    shell: Option<Shell>,
    stubborn: bool,
    failing: bool,
}

fn response(kind: &str) -> ExecResponse {
    ExecResponse {
        kind: kind.to_string(),
        pid: None,
        io: None,
        status: None,
        channels: None,
        cmd: None,
    }
}

/// Process ids are small and positive.
fn pid_of(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl World {
    pub(crate) fn rexec(&mut self, rank: u32, message: Message, out: &mut Vec<Message>) {
        if message.method() == "disconnect" {
            return self.exec_client_gone(rank, &message);
        }
        match Rexec::decode(message) {
            Ok(Rexec::Exec(call)) => self.exec(rank, &call.request.cmd.cmdline, call.answer, out),
            Ok(Rexec::Write(call)) => call.answer.forget(),
            Ok(Rexec::Kill(call)) => {
                let pid = u64::try_from(call.request.pid).unwrap_or(0);
                let there = self.processes.get(&pid).is_some_and(|process| process.rank == rank);
                if there {
                    self.signal_process(pid, call.request.signum);
                    call.answer.ok(out, &Empty);
                } else {
                    call.answer.err(out, Errno::ESRCH);
                }
            }
            Ok(Rexec::List(call)) => {
                let procs = self.processes.iter().filter(|(_, process)| process.rank == rank).map(
                    |(pid, process)| Entry {
                        pid: pid_of(*pid),
                        cmd: process.line.clone(),
                        label: String::new(),
                        state: "R".to_string(),
                    },
                );
                let list = ProcessList { rank, procs: procs.collect() };
                call.answer.ok(out, &list);
            }
            Ok(Rexec::Wait(call)) => {
                call.answer.ok(out, &WaitResponse { status: 0, output: None });
            }
            Ok(Rexec::Attach(call)) => call.answer.err(out, Errno::ENOENT),
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
    }

    fn exec(
        &mut self,
        rank: u32,
        cmdline: &[String],
        answer: Answer<Exec>,
        out: &mut Vec<Message>,
    ) {
        let words: Vec<&str> = cmdline.iter().map(String::as_str).collect();
        let job = match words.as_slice() {
            ["flux", "shell", id] => match id.parse() {
                Ok(id) => Some(id),
                Err(_) => return answer.err(out, RpcError::new(Errno::EINVAL, "not a job id")),
            },
            ["/bin/sh", ..] => None,
            _ => return answer.err(out, Errno::ENOENT),
        };
        if let Some(id) = job
            && !self.started.insert((id, rank))
        {
            self.violation(format!("the shell of job {id} is started on rank {rank} again"));
        }
        let shell = job.map(|job| Shell {
            job,
            caller: None,
            stage: Stage::Asking,
            tag: 0,
            leader: false,
            seconds: 0.0,
        });
        let answer = if answer.is_streaming() {
            Some(answer)
        } else {
            answer.ok(out, &response("started"));
            None
        };
        let pid = self.number();
        let process = Process {
            rank,
            line: words.join(" "),
            answer,
            shell,
            stubborn: self.rng.chance(self.pace.stubborn),
            failing: self.rng.chance(self.pace.failing),
        };
        self.processes.insert(pid, process);
        let (low, high) = self.pace.spawn;
        let at = self.now + self.rng.range(low, high);
        self.plan(at, 0, Due::Process(pid, Step::Begin));
    }

    pub(crate) fn process_step(&mut self, pid: u64, step: Step) {
        if !self.processes.contains_key(&pid) {
            return;
        }
        match step {
            Step::Begin => self.process_begins(pid),
            Step::Done => self.process_done(pid),
            Step::Exit(status) => self.process_exits(pid, status),
        }
    }

    fn tell(&mut self, pid: u64, item: &ExecResponse) {
        let mut out = Vec::new();
        if let Some(process) = self.processes.get(&pid) {
            if let Some(answer) = &process.answer {
                answer.item(&mut out, item);
            }
            self.driver_says(process.rank, "rexec", out);
        }
    }

    fn process_begins(&mut self, pid: u64) {
        self.tell(pid, &ExecResponse { pid: Some(pid_of(pid)), ..response("started") });
        let Some(process) = self.processes.get(&pid) else { return };
        let rank = process.rank;
        let Some(shell) = &process.shell else {
            return self.plan(self.now + 50 * MS, 0, Due::Process(pid, Step::Exit(0)));
        };
        let id = shell.job;
        let Some(caller) = self.connect_as(rank, User::Shell(pid)) else {
            return self.process_exits(pid, 1 << 8);
        };
        let topic = format!("shell-{id}.kill");
        self.call::<flux_api::broker::Subscribe>(caller, None, &SubscribeRequest { topic });
        let keys = vec!["jobspec".to_string(), "R".to_string()];
        let request = InfoLookup { id, keys, flags: JSON_DECODE | CURRENT };
        let tag = self.call::<Lookup>(caller, None, &request);
        if let Some(shell) = self.processes.get_mut(&pid).and_then(|at| at.shell.as_mut()) {
            shell.caller = Some(caller);
            shell.tag = tag;
        }
    }

    pub(crate) fn shell_response(&mut self, pid: u64, tag: u32, message: &Message) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let rank = process.rank;
        let Some(shell) = process.shell.as_mut().filter(|shell| shell.tag == tag) else { return };
        if let Some(error) = RpcError::of(message) {
            let stage = shell.stage;
            self.trace.line(self.now, || format!("shell {pid}: {stage:?}: {error}"));
            return self.process_exits(pid, 1 << 8);
        }
        match shell.stage {
            Stage::Asking => {
                let body: Value = message.json().unwrap_or_default();
                let command = body.pointer("/jobspec/tasks/0/command").cloned();
                let words: Vec<String> = command
                    .and_then(|words| serde_json::from_value(words).ok())
                    .unwrap_or_default();
                let r = body.get("R").map(ResourceSet::from_value);
                let (Some(Ok(r)), [word, seconds]) = (r, words.as_slice()) else {
                    self.violation(format!("shell {pid} was told no job: {body}"));
                    return self.process_exits(pid, 1 << 8);
                };
                shell.seconds = seconds.parse().unwrap_or(0.0);
                shell.leader = r.ranks().first() == Some(rank);
                let (id, caller) = (shell.job, shell.caller);
                if word != "sleep" || !r.ranks().contains(rank) {
                    self.violation(format!(
                        "shell {pid} on rank {rank} was told a wrong job: {body}"
                    ));
                }
                if r.nnodes() > 1
                    && let Some(caller) = caller
                {
                    let tag = self.call::<ShellBarrier_>(
                        caller,
                        None,
                        &ShellBarrier { id, rank, passed: None },
                    );
                    self.at_stage(pid, Stage::Barrier, tag);
                } else {
                    self.shell_runs(pid);
                }
            }
            Stage::Barrier => self.shell_runs(pid),
            Stage::Running => {}
            Stage::Reporting => {
                let status = if process.failing { 1 << 8 } else { 0 };
                self.process_exits(pid, status);
            }
        }
    }

    fn at_stage(&mut self, pid: u64, stage: Stage, tag: u32) {
        if let Some(shell) = self.processes.get_mut(&pid).and_then(|at| at.shell.as_mut()) {
            shell.stage = stage;
            shell.tag = tag;
        }
    }

    fn shell_runs(&mut self, pid: u64) {
        let Some(shell) = self.processes.get(&pid).and_then(|at| at.shell.as_ref()) else { return };
        let at = self.now + (shell.seconds * 1e6) as u64;
        let leader = shell.leader;
        self.at_stage(pid, Stage::Running, 0);
        if leader {
            let tag = self.shell_commits(pid, "shell.start");
            self.at_stage(pid, Stage::Running, tag);
        }
        self.plan(at, 0, Due::Process(pid, Step::Done));
    }

    /// Adds an event to the log of the job's execution.
    fn shell_commits(&mut self, pid: u64, event: &str) -> u32 {
        let wall = self.clock().wall;
        let Some(shell) = self.processes.get(&pid).and_then(|at| at.shell.as_ref()) else {
            return 0;
        };
        let Some(caller) = shell.caller else { return 0 };
        let text = Event::new(wall, event).encode();
        let request = CommitRequest {
            namespace: format!("job-{}", shell.job),
            flags: 0,
            ops: vec![Operation {
                key: "exec.eventlog".to_string(),
                flags: APPEND,
                dirent: Treeobj::val(text.into_bytes()).to_value(),
            }],
        };
        self.call::<Commit>(caller, None, &request)
    }

    fn process_done(&mut self, pid: u64) {
        let Some(process) = self.processes.get(&pid) else { return };
        let leader = process.shell.as_ref().is_some_and(|shell| shell.leader);
        let status = if process.failing { 1 << 8 } else { 0 };
        if leader {
            let tag = self.shell_commits(pid, "shell.task-exit");
            self.at_stage(pid, Stage::Reporting, tag);
        } else {
            self.process_exits(pid, status);
        }
    }

    fn process_exits(&mut self, pid: u64, status: i32) {
        self.trace.line(self.now, || format!("process {pid} exits with {status}"));
        self.tell(pid, &ExecResponse { status: Some(status), ..response("finished") });
        let Some(mut process) = self.processes.remove(&pid) else { return };
        if let Some(answer) = process.answer.take() {
            let mut out = Vec::new();
            answer.end(&mut out);
            self.driver_says(process.rank, "rexec", out);
        }
        if let Some(caller) = process.shell.and_then(|shell| shell.caller) {
            self.hang_up_client(caller);
        }
    }

    fn signal_process(&mut self, pid: u64, signum: i32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let ends = match signum {
            SIGKILL => true,
            SIGTERM | SIGHUP => !process.stubborn,
            _ => false,
        };
        if ends {
            self.plan(self.now + 100, 0, Due::Process(pid, Step::Exit(signum)));
        }
    }

    /// An event that a shell has asked for: a signal to its tasks.
    pub(crate) fn shell_event(&mut self, pid: u64, event: &Message) {
        let body: Value = event.json().unwrap_or_default();
        let signum = body.get("signum").and_then(Value::as_i64).unwrap_or(0);
        if signum == i64::from(SIGKILL) {
            self.plan(self.now + MS, 0, Due::Process(pid, Step::Exit((128 + SIGKILL) << 8)));
        }
    }

    /// The shell's broker is gone.
    pub(crate) fn shell_orphaned(&mut self, pid: u64) {
        self.plan(self.now, 0, Due::Process(pid, Step::Exit(1 << 8)));
    }

    /// Who asked for processes is gone: they are killed.
    fn exec_client_gone(&mut self, rank: u32, message: &Message) {
        let of_client = |process: &Process| {
            process.rank == rank
                && process.answer.as_ref().is_some_and(|answer| answer.same_sender(message))
        };
        let pids: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| of_client(process))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in pids {
            if let Some(answer) = self.processes.get_mut(&pid).and_then(|at| at.answer.take()) {
                answer.forget();
            }
            self.signal_process(pid, SIGKILL);
        }
    }

    /// A node is gone, and with it its processes.
    pub(crate) fn processes_end(&mut self, rank: u32) {
        let pids: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.rank == rank)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in pids {
            if let Some(process) = self.processes.remove(&pid)
                && let Some(answer) = process.answer
            {
                answer.forget();
            }
        }
    }
}
