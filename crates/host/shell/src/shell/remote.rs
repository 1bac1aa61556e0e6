//! What comes from the broker: events and requests to the shell's service.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_api::job::manager::{Kill, KillRequest};
use flux_api::rpc;
use flux_client::To;
use flux_id::fsd;
use flux_model::stdio::{Encoding, IoData, StdioEvent};
use flux_proto::{Errno, Message, Rolemask};
use serde_json::{Map, Value, json};

use super::setup::signal_name;
use super::{Shell, Waiting};
use crate::exit::Exit;
use crate::log::Level;
use crate::outbox::{Letter, Turn};
use crate::pmi::Below;
use crate::recorder::Log;

/// Shells that each shell passes input on to.
const INPUT_FANOUT: u32 = 16;
/// Most signals that are known to have been heard.
const SIGNALS_MAX: usize = 256;
/// Most clients whose input is counted.
const CLIENTS_MAX: usize = 256;

fn number(body: &Map<String, Value>, key: &str) -> Option<u32> {
    body.get(key)?.as_u64().and_then(|number| u32::try_from(number).ok())
}

impl Shell {
    pub(super) fn on_event(&mut self, event: &Message) {
        // Every guest can publish events; only those of the instance are orders.
        if !event.cred.is_owner() {
            return;
        }
        let prefix = format!("shell-{}.", self.job.id.dec());
        if event.topic().strip_prefix(&prefix) == Some("kill")
            && let Ok(body) = event.json::<Value>()
        {
            self.signalled(&body);
        }
    }

    /// A signal to all tasks. One with a number counts once.
    fn signalled(&mut self, body: &Value) {
        let Some(signum) = body["signum"].as_i64().and_then(|n| i32::try_from(n).ok()) else {
            return;
        };
        if let Some(n) = body["n"].as_u64() {
            if self.heard.contains(&n) {
                return;
            }
            if self.heard.len() >= SIGNALS_MAX {
                self.heard.pop_front();
            }
            self.heard.push_back(n);
        }
        self.log(Level::Debug, "kill", &format!("signal {signum} to all tasks"));
        self.kill_tasks(signum);
    }

    /// Signals that this shell may have missed. Accepted when it will hear the next.
    fn on_signals_missed(&mut self, request: &Message, body: &Map<String, Value>) {
        for signal in body.get("signals").and_then(Value::as_array).into_iter().flatten() {
            self.signalled(signal);
        }
        match self.subscribed {
            true => self.accept(request),
            false => self.refuse(request, Errno::EAGAIN, Some("not subscribed yet")),
        }
    }

    pub(super) fn refuse(&self, request: &Message, errno: Errno, text: Option<&str>) {
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
            "exception" if !self.is_leader() => {
                self.leader_lost(&body);
                self.accept(&request);
            }
            // The user has `flux job kill`, which all shells hear.
            "kill" if cred.is_owner() => self.on_signals_missed(&request, &body),
            "stdin" if self.is_leader() => self.on_stdin(&request, &body),
            "pmi-exchange" => self.on_keys(request, &body),
            "write" | "doom" | "tasks-complete" | "exception" if self.is_leader() => {
                if self.is_my_turn(&request, &body) {
                    self.accept(&request);
                    self.on_report(&method, &body);
                }
            }
            "input" => {
                if self.is_my_turn(&request, &body) {
                    if let Ok(piece) = IoData::decode(&body, Encoding::Utf8) {
                        self.distribute(&piece);
                    }
                    self.accept(&request);
                }
            }
            "write-getcredit" if self.is_leader() => {
                let credits = body.get("credits").cloned().unwrap_or_else(|| 0.into());
                self.link
                    .post(Message::response_to(&request).with_json(&json!({ "credits": credits })));
            }
            "running" => self.tell_running(&request),
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

    /// Whether a letter of another shell is to be taken now; if not, it is answered. Letters count
    /// once and in order: after a loss they are sent again.
    fn is_my_turn(&mut self, request: &Message, body: &Map<String, Value>) -> bool {
        let seq = body.get("seq").and_then(Value::as_u64);
        let (Some(shell), Some(seq)) = (number(body, "from"), seq) else { return true };
        if self.recorder.is_full() {
            self.refuse(request, Errno::EAGAIN, Some("too much output waits to be recorded"));
            return false;
        }
        match self.taken.judge(shell, seq) {
            Turn::Take => return true,
            Turn::Known => self.accept(request),
            Turn::Early => self.refuse(request, Errno::EAGAIN, Some("out of order")),
        }
        false
    }

    /// PMI keys of a shell below.
    fn on_keys(&mut self, request: Message, body: &Map<String, Value>) {
        let from = number(body, "from");
        let round = body.get("round").and_then(Value::as_u64);
        let keys = body.get("keys").cloned().and_then(|keys| serde_json::from_value(keys).ok());
        let (Some(from), Some(round), Some(keys)) = (from, round, keys) else {
            return self.refuse(&request, Errno::EPROTO, None);
        };
        match self.fence.child(from, round, keys) {
            Below::Wait(step) => {
                if let Some(before) = self.fence_waiting.insert(from, request) {
                    self.refuse(&before, Errno::EAGAIN, Some("asked again"));
                }
                self.fence_step(step);
            }
            Below::Known(keys) => self.link.post(Message::response_to(&request).with_json(&keys)),
            Below::Refused => self.refuse(&request, Errno::EPROTO, Some("out of turn")),
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

    /// The execution service has lost the leader: nobody takes letters any more.
    fn leader_lost(&mut self, body: &Map<String, Value>) {
        let kind = body.get("type").and_then(Value::as_str);
        if kind == Some("lost-shell") && number(body, "shell_rank") == Some(0) && !self.orphaned {
            let text = body.get("message").and_then(Value::as_str).unwrap_or("the leader is lost");
            crate::complain(&crate::log::line(Some(self.rank), Level::Error, "", text));
            self.orphaned = true;
            self.outboxes.remove(&0);
            self.code = self.code.max(1);
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
        // A client that lost the answer sends a piece again.
        let client = body.get("client").and_then(Value::as_str);
        if let (Some(client), Some(seq)) = (client, body.get("seq").and_then(Value::as_u64)) {
            let taken = self.input_taken.get(client).copied().unwrap_or(0);
            if seq <= taken {
                return self.accept(request);
            }
            if seq > taken + 1 {
                return self.refuse(request, Errno::EAGAIN, Some("out of order"));
            }
            if self.input_taken.len() >= CLIENTS_MAX {
                self.input_taken.pop_first();
            }
            self.input_taken.insert(client.to_string(), seq);
        }
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
            self.write_letter(child, Letter::Input, piece.encode(Encoding::Utf8));
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
