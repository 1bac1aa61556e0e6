//! The execution protocol (RFC 32): starting jobs, and what becomes of them.

use flux_api::job::exec::StartResponse;
use flux_api::job::manager::ExecHello_;
use flux_api::{Body, Call, Empty, RpcError};
use flux_id::JobId;
use flux_model::job_event::{FLAG_DEBUG, JobState, JobStatus};
use flux_proto::{Message, RouteId};
use flux_svc::{Cx, Level, To};
use serde_json::{Value, json};

use crate::job::StartState;
use crate::service::{JobManager, Wait};

/// The execution service.
#[derive(Debug, Default)]
pub struct Execution {
    service: Option<String>,
    client: Option<RouteId>,
}

impl Execution {
    /// The topic of start requests.
    pub(crate) fn topic(&self) -> Option<String> {
        self.service.as_ref().map(|service| format!("{service}.start"))
    }

    /// Name of the service, while it is there.
    pub(crate) fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }
}

/// How far a job was when it may have been started before.
fn resume(status: &JobStatus) -> Value {
    let ended = match (&status.fatal_exception, status.finish_status) {
        (Some(exception), _) => Some(exception.timestamp),
        (None, Some(_)) => status.t_cleanup,
        (None, None) => None,
    };
    let since = status.t_run.unwrap_or(status.t_submit);
    match ended {
        Some(ended) => json!({"started": status.started, "since": since, "ended": ended}),
        None => json!({"started": status.started, "since": since}),
    }
}

impl JobManager {
    /// Starts a job in RUN, as soon as all that it needs is there.
    pub(crate) fn want_start(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.alloc_durable && self.prolog_first(cx, id) {
            return;
        }
        let Some(job) = self.jobs.get(&id) else { return };
        let reattach = match job.start {
            StartState::Idle if job.status.prologs.is_empty() => job.status.started,
            StartState::Lost => true,
            _ => return,
        };
        if job.alloc_durable {
            self.send_start(cx, id, reattach);
        }
    }

    /// Whether execution must still give the job's resources free. Asks a new execution service
    /// to find shells that its predecessor left.
    pub(crate) fn needs_execution(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        if job.start == StartState::Idle && job.replayed && !job.status.released {
            // It ends before this start of the leader could ask for what its predecessor started.
            job.start = StartState::Lost;
        }
        if job.start == StartState::Lost && self.exec.service.is_some() {
            let fatal = job.status.fatal_exception.clone();
            self.send_start(cx, id, true);
            if let Some(exception) = fatal {
                self.publish_exception(cx, id, &exception);
            }
            return true;
        }
        job.in_execution()
    }

    fn send_start(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reattach: bool) {
        let Some(topic) = self.exec.topic() else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(r) = &job.r else { return };
        let resume = match (reattach || job.replayed).then(|| resume(&job.status)) {
            Some(resume) => format!(",\"resume\":{resume}"),
            None => String::new(),
        };
        let text = format!(
            "{{\"id\":{id},\"userid\":{},\"jobspec\":{},\"reattach\":{reattach},\"R\":{r}{resume}}}",
            job.status.userid, job.jobspec
        );
        job.start = StartState::Sent;
        let debug = job.has_flag(FLAG_DEBUG);
        let mut message = Message::request(topic).with_json_text(&text);
        message.set_streaming();
        cx.send_request(To::Any, message);
        self.send_held_signals(cx, id);
        if debug {
            let name = if reattach { "debug.exec-reattach-start" } else { "debug.start-request" };
            self.post(cx, id, name, Value::Null);
        }
    }

    /// The execution service introduces itself; it replaces any other (RFC 32).
    pub(crate) fn exec_hello(&mut self, cx: &mut Cx<'_, Wait>, call: Call<ExecHello_>) {
        self.exec_lost(cx, "replaced");
        self.exec.service = Some(call.request.service);
        self.exec.client = call.answer.client().cloned();
        call.answer.ok(cx, &Empty);
        let waiting: Vec<u64> = self
            .jobs
            .values()
            .filter(|job| matches!(job.state(), JobState::Run | JobState::Cleanup))
            .map(|job| job.id)
            .collect();
        self.touched.extend(waiting);
    }

    /// A client went away: perhaps the execution service.
    pub(crate) fn exec_disconnect(&mut self, cx: &mut Cx<'_, Wait>, client: Option<&RouteId>) {
        if self.exec.service.is_some() && self.exec.client.as_ref() == client {
            cx.log(Level::Info, "execution service disconnected");
            self.exec_lost(cx, "disconnected");
        }
    }

    fn exec_lost(&mut self, cx: &mut Cx<'_, Wait>, note: &str) {
        if self.exec.service.take().is_none() {
            return;
        }
        self.exec.client = None;
        let mut lost = Vec::new();
        for job in self.jobs.values_mut() {
            if job.start == StartState::Sent {
                job.start = StartState::Lost;
                if job.has_flag(FLAG_DEBUG) {
                    lost.push(job.id);
                }
            }
        }
        for id in lost {
            self.post(cx, id, "debug.start-lost", json!({ "note": note }));
        }
    }

    /// A response to a start request, matched by job id.
    pub(crate) fn start_response(&mut self, cx: &mut Cx<'_, Wait>, mut message: Message) {
        if let Some(error) = RpcError::of(&message) {
            cx.log(Level::Err, format!("execution service is lost: {error}"));
            return self.exec_lost(cx, "error response");
        }
        let response = match StartResponse::receive(&mut message) {
            Ok(response) => response,
            Err(error) => {
                cx.log(Level::Err, format!("{} response: {error}", message.topic()));
                return self.exec_lost(cx, "bad response");
            }
        };
        let (id, data) = (response.id, response.data);
        let Some(job) = self.jobs.get(&id).filter(|job| job.start == StartState::Sent) else {
            let text = format!("{} response for {}: not started", message.topic(), JobId(id).f58());
            return cx.log(Level::Err, text);
        };
        let ended = job.status.finish_status.is_some();
        match response.kind.as_str() {
            "start" | "reattached" => {
                let (started, debug) = (job.status.started, job.has_flag(FLAG_DEBUG));
                if response.kind == "reattached" && debug {
                    self.post(cx, id, "debug.exec-reattach-finish", Value::Null);
                }
                if !started && !ended {
                    self.post(cx, id, "start", Value::Null);
                    self.dependency_started(cx, id);
                }
            }
            "exception" => self.exec_exception(cx, id, &data),
            "finish" => {
                let status = data.get("status").and_then(Value::as_i64).unwrap_or(1 << 8);
                if !ended {
                    self.post(cx, id, "finish", json!({ "status": status }));
                }
            }
            "release" => self.released(cx, id, &data),
            other => {
                let text = format!("{} response: unknown type '{other}'", message.topic());
                cx.log(Level::Err, text);
            }
        }
    }

    fn exec_exception(&mut self, cx: &mut Cx<'_, Wait>, id: u64, data: &Value) {
        let severity = data.get("severity").and_then(Value::as_u64).filter(|n| *n <= 7);
        let severity = severity.and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
        let kind = data.get("type").and_then(Value::as_str).unwrap_or("exec");
        let note = data.get("note").and_then(Value::as_str).unwrap_or_default();
        let owner = cx.owner();
        self.raise(cx, id, severity, kind, note, Some(owner));
    }

    fn released(&mut self, cx: &mut Cx<'_, Wait>, id: u64, data: &Value) {
        let last = data.get("final").and_then(Value::as_bool).unwrap_or(false);
        let ranks = data.get("ranks").and_then(Value::as_str).unwrap_or("all").to_string();
        if self.jobs.get(&id).is_some_and(|job| job.state() == JobState::Run) {
            if !last {
                // Ranks that are done early stay with the job until its end.
                return;
            }
            let text = "execution released the job without finishing it";
            self.raise(cx, id, 0, "exec", text, None);
        }
        if last && let Some(job) = self.jobs.get_mut(&id) {
            job.start = StartState::Done;
        }
        self.post(cx, id, "release", json!({ "ranks": ranks, "final": last }));
    }
}
