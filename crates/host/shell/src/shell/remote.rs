//! What comes from the broker: answers, events, requests to the shell's service; and losing it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_api::job::manager::{Kill, KillRequest};
use flux_api::kvs::{Lookup, LookupRequest, LookupResponse};
use flux_api::{Body, RpcError, rpc};
use flux_client::To;
use flux_id::fsd;
use flux_model::stdio::{Encoding, IoData, StdioEvent};
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message, Rolemask};
use serde_json::{Map, Value, json};

use super::setup::signal_name;
use super::{Shell, Waiting};
use crate::exit::Exit;
use crate::job;
use crate::log::Level;
use crate::pmi::Keys;
use crate::recorder::{Doubt, Log};

/// Shells that each shell passes input on to.
const INPUT_FANOUT: u32 = 16;

/// Time until something that failed on its way is tried again.
const SETTLE: Duration = Duration::from_millis(500);
/// So many failures in a row, and the leader is taken for lost.
const REPORTS_MAX: u32 = 1000;

/// Whether an error says that a broker on the way is away, which may pass.
fn may_pass(errno: Errno) -> bool {
    [Errno::EHOSTUNREACH, Errno::ETIMEDOUT, Errno::ECONNRESET, Errno::EAGAIN].contains(&errno)
}

fn number(body: &Map<String, Value>, key: &str) -> Option<u32> {
    body.get(key)?.as_u64().and_then(|number| u32::try_from(number).ok())
}

impl Shell {
    pub(super) fn on_answer(&mut self, what: Waiting, answer: Result<Message, RpcError>) {
        match (what, answer) {
            (Waiting::Commit, Ok(_)) => self.recorder.committed(),
            (Waiting::Commit, Err(error)) if may_pass(error.errno) => {
                // Whether it took effect is not known; it is asked for when things have settled.
                self.doubt_at = Some(Instant::now() + SETTLE);
            }
            (Waiting::Commit, Err(error)) => {
                // The namespace is gone or full: nothing can be recorded any more.
                self.recorder.committed();
                self.code = self.code.max(1);
                crate::complain(&crate::log::line(
                    Some(self.rank),
                    Level::Error,
                    "eventlog",
                    &format!("commit failed: {error}"),
                ));
            }
            (Waiting::Doubt(doubt), answer) => self.settle(&doubt, answer),
            (Waiting::Barrier, Ok(_)) => self.announce_start(),
            (Waiting::Barrier, Err(error)) => {
                if error.errno == Errno::EIO {
                    self.code = self.code.max(1);
                    self.kill_tasks(9);
                } else {
                    self.fatal(1, "", &format!("shell_barrier: {error}"));
                }
            }
            (Waiting::Raise(_) | Waiting::Kill | Waiting::Register | Waiting::Forward, Ok(_)) => {}
            (Waiting::Raise(_), Err(error)) => {
                // The exit code still ends the job as failed.
                self.code = self.code.max(1);
                self.log(Level::Error, "", &format!("raising an exception failed: {error}"));
            }
            (Waiting::Kill, Err(error)) => {
                self.log(Level::Warn, "signal", &format!("sending a signal failed: {error}"));
            }
            (Waiting::Register, Err(error)) => {
                self.log(Level::Warn, "", &format!("registering again failed: {error}"));
            }
            // All shells were there at the start: one that is not has ended, and needs no input.
            (Waiting::Forward, Err(error)) if error.errno == Errno::ENOSYS => {}
            (Waiting::Forward, Err(error)) => {
                self.log(Level::Warn, "input", &format!("passing input on failed: {error}"));
            }
            (Waiting::Report(seq), Ok(_)) => {
                self.outbox.failures = 0;
                self.reported(seq);
            }
            (Waiting::Report(_), Err(error)) => {
                self.outbox.failures += 1;
                if self.outbox.failures > REPORTS_MAX {
                    // The leader is gone for good: nobody will record this.
                    let text = format!("the leader does not answer: {error}");
                    crate::complain(&crate::log::line(Some(self.rank), Level::Error, "", &text));
                    self.outbox.messages.clear();
                    self.code = self.code.max(1);
                } else {
                    self.resend_at.get_or_insert(Instant::now() + SETTLE);
                }
            }
            (Waiting::Fence, Ok(message)) => match message.json::<Keys>() {
                Ok(keys) => {
                    let step = self.fence.answer(keys);
                    self.fence_step(Some(step));
                }
                Err(error) => self.fence_failed(&error.to_string()),
            },
            (Waiting::Fence, Err(error)) => self.fence_failed(&error.message()),
        }
    }

    /// The connection is lost: the tasks run on.
    pub(super) fn connection_lost(&mut self, lost: Vec<Waiting>) {
        self.log(Level::Warn, "", &format!("broker: {}", Errno::ECONNRESET.text()));
        for what in lost {
            match what {
                // Settled when there is a connection again.
                Waiting::Commit | Waiting::Doubt(_) | Waiting::Report(_) | Waiting::Register => {}
                Waiting::Barrier => self.announce_start(),
                Waiting::Raise(body) => self.unraised.push(body),
                Waiting::Fence => self.fence_failed("the connection to the broker was lost"),
                Waiting::Forward | Waiting::Kill => {}
            }
        }
    }

    /// There is a connection again: registers, learns what was stored, sends the rest.
    pub(super) fn connected_again(&mut self) {
        for message in job::registration(self.job.id, &self.job.service) {
            drop(self.link.ask(Waiting::Register, To::Any, message));
        }
        self.ask_doubt();
        self.resend();
        for body in std::mem::take(&mut self.unraised) {
            self.send_raise(body);
        }
        self.log(Level::Notice, "", "broker: reconnected");
    }

    /// Asks what is stored after a commit whose answer was lost.
    pub(super) fn ask_doubt(&mut self) {
        self.doubt_at = None;
        if let Some(doubt) = self.recorder.doubt() {
            let request = LookupRequest {
                key: doubt.key.to_string(),
                flags: 0,
                namespace: Some(format!("job-{}", self.job.id.dec())),
                rootdir: None,
                rootseq: None,
            };
            let message = rpc::request::<Lookup>(&request);
            drop(self.link.ask(Waiting::Doubt(doubt), To::Any, message));
        }
    }

    /// Sends everything again that the leader has not answered.
    pub(super) fn resend(&mut self) {
        self.resend_at = None;
        let unanswered: Vec<u64> = self.outbox.messages.keys().copied().collect();
        for seq in unanswered {
            self.send_report(seq);
        }
    }

    fn settle(&mut self, doubt: &Doubt, answer: Result<Message, RpcError>) {
        let content = match answer {
            Ok(message) => {
                let object = LookupResponse::take(&message).ok();
                match object.and_then(|object| Treeobj::from_value(&object.val).ok()) {
                    Some(Treeobj::Val(data)) => data,
                    _ => Vec::new(),
                }
            }
            Err(error) if error.errno == Errno::ENOENT => Vec::new(),
            Err(error) if may_pass(error.errno) => {
                self.doubt_at = Some(Instant::now() + SETTLE);
                return;
            }
            Err(error) => return self.on_answer(Waiting::Commit, Err(error)),
        };
        if let Some(request) = self.recorder.settle(doubt, &content) {
            self.send_commit(&request);
        }
    }

    pub(super) fn on_event(&mut self, event: &Message) {
        let prefix = format!("shell-{}.", self.job.id.dec());
        if event.topic().strip_prefix(&prefix) == Some("kill")
            && let Ok(body) = event.json::<Value>()
            && let Some(signum) = body["signum"].as_i64().and_then(|n| i32::try_from(n).ok())
        {
            self.log(Level::Debug, "kill", &format!("signal {signum} to all tasks"));
            self.kill_tasks(signum);
        }
    }

    fn refuse(&self, request: &Message, errno: Errno, text: Option<&str>) {
        if !request.no_response() {
            self.link.post(Message::error_to(request, errno, text));
        }
    }

    pub(super) fn accept(&self, request: &Message) {
        if !request.no_response() {
            self.link.post(Message::response_to(request));
        }
    }

    pub(super) fn on_request(&mut self, request: Message) {
        let cred = request.cred;
        if cred.userid != self.uid && !cred.rolemask.contains(Rolemask::OWNER) {
            let text = "only the owner of the job or of the instance may call its shell";
            return self.refuse(&request, Errno::EPERM, Some(text));
        }
        let method = request.method().to_string();
        if let Some(session) = method.strip_prefix("terminus.") {
            return self.on_terminal_request(session, &request);
        }
        if method == "disconnect" {
            return self.terminal_client_gone(&request);
        }
        let Ok(body) = request.json::<Map<String, Value>>() else {
            return self.refuse(&request, Errno::EPROTO, None);
        };
        match method.as_str() {
            "stdin" if self.is_leader() => self.on_stdin(&request, &body),
            "input" => {
                if let Ok(piece) = IoData::decode(&body, Encoding::Utf8) {
                    self.distribute(&piece);
                }
                self.accept(&request);
            }
            "pmi-exchange" => match request.json::<Keys>() {
                Ok(keys) => {
                    self.fence_waiting.push(request);
                    let step = self.fence.child(keys);
                    self.fence_step(step);
                }
                Err(_) => self.refuse(&request, Errno::EPROTO, None),
            },
            "write" | "doom" | "tasks-complete" | "exception" if self.is_leader() => {
                // Messages of a shell count once and in order: after a loss they are sent again.
                let seq = body.get("seq").and_then(Value::as_u64);
                if let (Some(shell), Some(seq)) = (number(&body, "from"), seq) {
                    let taken = self.taken.entry(shell).or_insert(0);
                    if seq > *taken + 1 {
                        return self.refuse(&request, Errno::EAGAIN, Some("out of order"));
                    }
                    if seq <= *taken {
                        return self.accept(&request);
                    }
                    *taken = seq;
                }
                self.accept(&request);
                self.on_report(&method, &body);
            }
            "write-getcredit" if self.is_leader() => {
                let credits = body.get("credits").cloned().unwrap_or_else(|| 0.into());
                self.link
                    .post(Message::response_to(&request).with_json(&json!({ "credits": credits })));
            }
            "proctable" => {
                let tasks: Vec<Value> = self
                    .tasks
                    .iter()
                    .map(|task| {
                        json!({"rank": task.rank, "pid": task.process.pid.as_raw_nonzero().get()})
                    })
                    .collect();
                let body = json!({"host": self.tags.host, "tasks": tasks});
                self.link.post(Message::response_to(&request).with_json(&body));
            }
            _ => {
                let text = format!("Unknown service method '{}'", request.topic());
                self.refuse(&request, Errno::ENOSYS, Some(&text));
            }
        }
    }

    fn on_report(&mut self, method: &str, body: &Map<String, Value>) {
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
        match method {
            "write" => {
                if let Some(context) = body.get("context").and_then(Value::as_object) {
                    self.written(text("name"), context);
                }
            }
            "doom" => {
                let mut context = body.clone();
                for key in ["host", "seq", "from"] {
                    context.remove(key);
                }
                let status = body.get("wait_status").and_then(Value::as_i64);
                let exit = Exit {
                    rank: number(body, "rank").unwrap_or_default(),
                    host: text("host").to_string(),
                    wait_status: status.and_then(|s| i32::try_from(s).ok()).unwrap_or(256),
                    shell: false,
                };
                self.ended_task(Value::Object(context), exit);
            }
            "tasks-complete" => {
                if let Some(shell) = number(body, "shell_rank") {
                    self.others.remove(&shell);
                }
            }
            "exception" => {
                let Some(shell) = number(body, "shell_rank") else { return };
                if text("type") == "lost-shell" && self.others.remove(&shell) {
                    let message = text("message").to_string();
                    self.log(Level::Error, "exception", &message);
                    let host = self.layout.nodes.get(shell as usize);
                    let host = host.map_or_else(String::new, |node| node.host.clone());
                    let exit = Exit { rank: shell, host, wait_status: 1 << 8, shell: true };
                    let (_, verdict) = self.policy.exited(exit, Instant::now());
                    if let Some(verdict) = verdict {
                        self.raise(&verdict.note, Some(verdict.wait_status));
                    }
                }
            }
            _ => {}
        }
    }

    fn on_stdin(&mut self, request: &Message, body: &Map<String, Value>) {
        if self.options.stdin_path.is_some() || self.input_closed {
            return self.refuse(request, Errno::EPIPE, None);
        }
        let piece = match IoData::decode(body, Encoding::Utf8) {
            Ok(piece) if piece.ranks().is_ok() => piece,
            Ok(_) => return self.refuse(request, Errno::EPROTO, Some("invalid rank")),
            Err(error) => {
                return self.refuse(request, Errno::EPROTO, Some(&error.to_string()));
            }
        };
        self.input_bytes += piece.data.as_ref().map_or(0, |data| data.len() as u64);
        if self.input_bytes > self.options.input_limit {
            self.refuse(request, Errno::ENOSPC, Some("input limit exceeded"));
            let limit = crate::output::size(self.options.input_limit);
            return self.fatal(1, "input", &format!("stdin exceeds limit of {limit}"));
        }
        let mut data = piece.clone();
        if data.data.is_some() {
            data.eof = false;
            self.stdio(Log::Input, &StdioEvent::Data(data));
        }
        if piece.eof {
            let end = IoData::end("stdin", &piece.rank);
            self.stdio(Log::Input, &StdioEvent::Data(end));
            self.input_closed = piece.rank == "all";
        }
        self.distribute(&piece);
        self.accept(request);
    }

    /// Gives input to the own tasks and passes it on to the shells below.
    fn distribute(&mut self, piece: &IoData) {
        let Ok(ranks) = piece.ranks() else { return };
        self.give(ranks.as_ref(), piece.data.as_deref().unwrap_or_default(), piece.eof);
        let first = self.rank.saturating_mul(INPUT_FANOUT).saturating_add(1);
        for child in (first..self.size()).take(INPUT_FANOUT as usize) {
            let body = piece.encode(Encoding::Utf8);
            let message = Message::request(format!("{}.input", self.job.service)).with_json(&body);
            let to = To::Rank(self.layout.nodes[child as usize].broker_rank);
            if self.link.ask(Waiting::Forward, to, message).is_err() {
                self.log(Level::Warn, "input", "no connection to the broker, input is lost");
            }
        }
    }

    /// Sends the signal of option `signal`.
    pub(super) fn warn_of_end(&mut self) {
        let Some(warning) = self.options.signal else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let left = fsd::format(((self.job.r.expiration - now).max(0.0) * 10.0).round() / 10.0);
        let name = signal_name(warning.signum);
        self.log(
            Level::Notice,
            "signal",
            &format!("job will expire in {left}, sending {name} to job"),
        );
        let request = KillRequest { id: self.job.id.0, signum: warning.signum };
        if self.link.ask(Waiting::Kill, To::Any, rpc::request::<Kill>(&request)).is_err() {
            // No broker: try again soon.
            self.warning = Some(Instant::now() + Duration::from_secs(1));
        }
    }
}
