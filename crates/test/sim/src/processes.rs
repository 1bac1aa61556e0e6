//! The `rexec` driver: processes that only pretend, and end with their broker.

use flux_api::rexec::{Exec, ExecResponse, Process as Entry, ProcessList, Rexec, WaitResponse};
use flux_api::{Answer, Api, Empty, rpc};
use flux_proto::{Errno, Message};

use crate::world::{Due, MS, World};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What a process does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// It begins to run.
    Begin,
    /// It ends with this wait status.
    Exit(i32),
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    rank: u32,
    line: String,
    answer: Option<Answer<Exec>>,
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
        if words.first() != Some(&"/bin/sh") {
            return answer.err(out, Errno::ENOENT);
        }
        let answer = if answer.is_streaming() {
            Some(answer)
        } else {
            answer.ok(out, &response("started"));
            None
        };
        let pid = self.number();
        let process = Process { rank, line: words.join(" "), answer };
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
        self.plan(self.now + 50 * MS, 0, Due::Process(pid, Step::Exit(0)));
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
    }

    fn signal_process(&mut self, pid: u64, signum: i32) {
        let ends =
            self.processes.contains_key(&pid) && matches!(signum, SIGKILL | SIGTERM | SIGHUP);
        if ends {
            self.plan(self.now + 100, 0, Due::Process(pid, Step::Exit(signum)));
        }
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
