//! The scheduler protocol (RFC 27): the queue of jobs that want resources, and the requests that
//! are at the scheduler.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use flux_api::job::manager::{
    AllocQuery, SchedHello_, SchedHelloJob, SchedReady_, SchedReadyResponse,
};
use flux_api::sched::{
    ALLOC_ANNOTATE, ALLOC_CANCEL, ALLOC_DENY, ALLOC_SUCCESS, AllocCancel, AllocResponse, Cancel,
    Prioritize, Prioritize_,
};
use flux_api::{Body, Call, RpcError};
use flux_id::JobId;
use flux_model::eventlog::Context;
use flux_model::job_event::{JobState, merge_annotations};
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message, RouteId};
use flux_svc::{Cx, Level, To};
use serde_json::{Value, json};

use crate::commits::After;
use crate::job::{AllocState, Job};
use crate::service::{JobManager, Wait};

/// What is known of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Peer {
    /// It has not said hello, or has gone.
    #[default]
    Offline,
    /// It was told which resources are taken.
    Hello(Option<RouteId>),
    /// It takes requests; so many at once.
    Ready(Option<RouteId>, Option<usize>),
}

/// Requests for resources.
#[derive(Debug, Default)]
pub struct Alloc {
    peer: Peer,
    /// Jobs to ask for: highest priority first, then the oldest id.
    queue: BTreeSet<(Reverse<u32>, u64)>,
    /// Jobs asked for: the one to take back first comes first.
    pending: BTreeSet<(u32, Reverse<u64>)>,
    /// Requests withdrawn and not answered yet.
    canceling: usize,
    /// What was freed between hello and ready, as ready-made requests.
    frees: Vec<Message>,
    /// A scheduler that is told once R of every job is durable.
    greeting: Option<Call<SchedHello_>>,
}

impl Alloc {
    /// Takes a job out of the queue.
    pub(crate) fn dequeue(&mut self, id: u64, priority: u32) {
        self.queue.remove(&(Reverse(priority), id));
    }

    /// Whether the scheduler takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.peer, Peer::Ready(..))
    }

    /// Requests at the scheduler.
    pub(crate) fn outstanding(&self) -> usize {
        self.pending.len() + self.canceling
    }

    /// Ids in the order in which they will be asked for.
    pub(crate) fn queued(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().map(|(_, id)| *id)
    }

    /// Ids of requests at the scheduler, highest priority first.
    pub(crate) fn asked(&self) -> impl Iterator<Item = u64> {
        self.pending.iter().rev().map(|(_, id)| id.0)
    }
}

/// JSON text of a body that carries a document which is text already.
fn alloc_request(job: &Job) -> Message {
    let text = format!(
        "{{\"id\":{},\"priority\":{},\"userid\":{},\"t_submit\":{},\"jobspec\":{}}}",
        job.id,
        job.priority(),
        job.status.userid,
        Value::from(job.status.t_submit),
        job.jobspec
    );
    Message::request("sched.alloc").with_json_text(&text)
}

impl JobManager {
    /// Whether a job in SCHED may be asked for.
    fn eligible(&self, job: &Job) -> bool {
        job.state() == JobState::Sched
            && job.entered
            && job.priority() != 0
            && self.queues.runs(job.queue.as_deref())
    }

    /// Brings the request of a job in SCHED in line with its priority and queue.
    pub(crate) fn want_alloc(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if !self.eligible(job) || job.status.alloc_bypass {
            return self.withdraw_alloc(cx, id);
        }
        let priority = job.priority();
        match job.alloc {
            AllocState::Idle => self.enqueue(id, priority),
            AllocState::Queued(old) if old != priority => {
                self.alloc.dequeue(id, old);
                self.enqueue(id, priority);
            }
            AllocState::Pending(old) if old != priority => {
                self.alloc.pending.remove(&(old, Reverse(id)));
                self.alloc.pending.insert((priority, Reverse(id)));
                self.set_alloc(id, AllocState::Pending(priority));
                let jobs = vec![(id, u64::from(priority))];
                cx.notify::<Prioritize_>(To::Any, &Prioritize { jobs });
            }
            AllocState::Queued(_) | AllocState::Pending(_) | AllocState::Canceling => {}
        }
    }

    fn set_alloc(&mut self, id: u64, state: AllocState) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.alloc = state;
        }
    }

    fn enqueue(&mut self, id: u64, priority: u32) {
        self.alloc.queue.insert((Reverse(priority), id));
        self.set_alloc(id, AllocState::Queued(priority));
    }

    /// Takes a job out of the queue, or asks the scheduler for its request back.
    pub(crate) fn withdraw_alloc(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        match job.alloc {
            AllocState::Idle | AllocState::Canceling => {}
            AllocState::Queued(priority) => {
                self.alloc.dequeue(id, priority);
                self.set_alloc(id, AllocState::Idle);
            }
            AllocState::Pending(priority) => {
                self.alloc.pending.remove(&(priority, Reverse(id)));
                self.alloc.canceling += 1;
                self.set_alloc(id, AllocState::Canceling);
                cx.notify::<Cancel>(To::Any, &AllocCancel { id });
            }
        }
    }

    /// Sends as many requests as the scheduler takes.
    pub(crate) fn send_allocs(&mut self, cx: &mut Cx<'_, Wait>) {
        let Peer::Ready(_, limit) = self.alloc.peer else { return };
        while let Some(&(Reverse(priority), id)) = self.alloc.queue.first() {
            if limit.is_some_and(|limit| self.alloc.outstanding() >= limit) {
                // The least of those at the scheduler makes room for a better one.
                let lowest = self.alloc.pending.first().copied();
                if let Some((low, Reverse(victim))) = lowest
                    && low < priority
                    && self.alloc.canceling == 0
                {
                    self.withdraw_alloc(cx, victim);
                }
                return;
            }
            self.alloc.queue.pop_first();
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.alloc = AllocState::Pending(priority);
            let debug = job.has_flag(flux_model::job_event::FLAG_DEBUG);
            let message = alloc_request(job);
            self.alloc.pending.insert((priority, Reverse(id)));
            cx.send_request(To::Any, message);
            if debug {
                self.post(cx, id, "debug.alloc-request", Value::Null);
            }
        }
    }

    /// Gives the resources of a job back.
    pub(crate) fn free(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(r) = job.r.clone().filter(|_| !job.status.alloc_bypass) else { return };
        if !self.begin_housekeeping(cx, id, &r) {
            self.send_free(cx, id, &r, true);
        }
    }

    /// Gives back part of an allocation, or with `last` what is left of it.
    pub(crate) fn send_free(&mut self, cx: &mut Cx<'_, Wait>, id: u64, r: &str, last: bool) {
        let text = format!("{{\"id\":{id},\"R\":{r},\"final\":{last}}}");
        let mut message = Message::request("sched.free").with_json_text(&text);
        message.set_no_response();
        match self.alloc.peer {
            // A scheduler that comes later learns what is taken from its hello.
            Peer::Offline => {}
            Peer::Hello(_) => self.alloc.frees.push(message),
            Peer::Ready(..) => cx.send_request(To::Any, message),
        }
    }

    /// The scheduler asks which jobs hold resources. It will look for R of each, so that it is told
    /// when that is there.
    pub(crate) fn sched_hello(&mut self, cx: &mut Cx<'_, Wait>, call: Call<SchedHello_>) {
        self.sched_lost(cx);
        if !self.jobs.values().any(|job| job.r_pending) {
            return self.greet(cx, call);
        }
        if let Some(older) = self.alloc.greeting.replace(call) {
            older.answer.err(cx, RpcError::new(Errno::ECANCELED, "another scheduler says hello"));
        }
        self.commits.after(After::Greeting);
    }

    /// Everything that was recorded before a scheduler said hello is durable.
    pub(crate) fn greet_waiting(&mut self, cx: &mut Cx<'_, Wait>) {
        if let Some(call) = self.alloc.greeting.take() {
            self.greet(cx, call);
        }
    }

    /// The scheduler need not wait for an answer.
    pub(crate) fn refuse_greeting(&mut self, cx: &mut Cx<'_, Wait>, error: &RpcError) {
        if let Some(call) = self.alloc.greeting.take() {
            call.answer.err(cx, error.clone());
        }
    }

    fn greet(&mut self, cx: &mut Cx<'_, Wait>, call: Call<SchedHello_>) {
        for job in self.jobs.values() {
            if job.status.has_resources && !job.status.alloc_bypass {
                let item = SchedHelloJob {
                    id: job.id,
                    priority: u64::from(job.priority()),
                    userid: job.status.userid,
                    t_submit: job.status.t_submit,
                    free: None,
                };
                call.answer.item(cx, &item);
            }
        }
        for (id, priority, userid, t_submit, free) in self.housekeeping_held() {
            let free = (!free.is_empty()).then(|| free.to_string());
            let item = SchedHelloJob { id, priority: u64::from(priority), userid, t_submit, free };
            call.answer.item(cx, &item);
        }
        self.alloc.peer = Peer::Hello(call.answer.client().cloned());
        call.answer.end(cx);
    }

    /// The scheduler takes requests.
    pub(crate) fn sched_ready(&mut self, cx: &mut Cx<'_, Wait>, call: Call<SchedReady_>) {
        let client = call.answer.client().cloned();
        let limit = match (call.request.mode.as_str(), call.request.limit) {
            ("unlimited", _) => None,
            ("limited", Some(limit)) if limit > 0 => Some(limit as usize),
            ("limited", _) => {
                let text = "sched-ready: limited mode needs a limit greater than 0";
                return call.answer.err(cx, RpcError::new(Errno::EPROTO, text));
            }
            (mode, _) => {
                let text = format!("sched-ready: unknown mode '{mode}'");
                return call.answer.err(cx, RpcError::new(Errno::EPROTO, text));
            }
        };
        if self.alloc.peer != Peer::Hello(client.clone()) {
            let text = "sched-ready: the scheduler has not said hello";
            return call.answer.err(cx, RpcError::new(Errno::EPROTO, text));
        }
        self.alloc.peer = Peer::Ready(client, limit);
        let count = self.alloc.queue.len() as u64;
        call.answer.ok(cx, &SchedReadyResponse { count });
        for message in std::mem::take(&mut self.alloc.frees) {
            cx.send_request(To::Any, message);
        }
    }

    /// A client went away: perhaps the scheduler.
    pub(crate) fn sched_disconnect(&mut self, cx: &mut Cx<'_, Wait>, client: Option<&RouteId>) {
        if let Some(call) = self.alloc.greeting.take_if(|call| call.answer.client() == client) {
            call.answer.forget();
        }
        let (Peer::Hello(known) | Peer::Ready(known, _)) = &self.alloc.peer else { return };
        if known.as_ref() == client {
            cx.log(Level::Info, "scheduler disconnected");
            self.sched_lost(cx);
        }
    }

    /// Requests at the scheduler are lost: they go back into the queue.
    fn sched_lost(&mut self, cx: &mut Cx<'_, Wait>) {
        self.alloc.peer = Peer::Offline;
        self.alloc.frees.clear();
        self.alloc.pending.clear();
        if self.alloc.canceling > 0 || self.jobs.values().any(|job| job.alloc != AllocState::Idle) {
            self.alloc.canceling = 0;
            let asked: Vec<u64> = self
                .jobs
                .values()
                .filter(|job| matches!(job.alloc, AllocState::Pending(_) | AllocState::Canceling))
                .map(|job| job.id)
                .collect();
            for id in asked {
                self.set_alloc(id, AllocState::Idle);
                self.clear_annotations(cx, id);
                self.touch(id);
            }
        }
    }

    /// What the scheduler said of a request that failed no longer holds.
    fn clear_annotations(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.status.annotations.contains_key("sched") {
            let mut annotations = job.status.annotations.clone();
            annotations.shift_remove("sched");
            self.annotate(cx, id, annotations);
        }
    }

    pub(crate) fn annotate(&mut self, cx: &mut Cx<'_, Wait>, id: u64, annotations: Context) {
        let value = if annotations.is_empty() { Value::Null } else { Value::Object(annotations) };
        self.post_volatile(cx, id, "annotations", json!({ "annotations": value }));
    }

    /// A response to `sched.alloc`, matched by job id.
    pub(crate) fn alloc_response(&mut self, cx: &mut Cx<'_, Wait>, mut message: Message) {
        if let Some(error) = RpcError::of(&message) {
            if self.alloc.peer != Peer::Offline {
                cx.log(Level::Err, format!("scheduler is lost: {error}"));
                self.sched_lost(cx);
            }
            return;
        }
        let response = match AllocResponse::receive(&mut message) {
            Ok(response) => response,
            Err(error) => {
                cx.log(Level::Err, format!("sched.alloc response: {error}"));
                return self.sched_lost(cx);
            }
        };
        match response.kind {
            ALLOC_SUCCESS => self.allocated(cx, response),
            ALLOC_ANNOTATE => self.annotated(cx, &response),
            ALLOC_DENY => {
                if self.request_ended(cx, response.id) {
                    let note = response.note.unwrap_or_default();
                    self.raise(cx, response.id, 0, "alloc", &note, None);
                }
            }
            ALLOC_CANCEL => drop(self.request_ended(cx, response.id)),
            other => {
                cx.log(Level::Err, format!("sched.alloc response: unknown type {other}"));
            }
        }
    }

    /// Retires a job's request; false when there was none.
    fn retire_request(&mut self, id: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        match job.alloc {
            AllocState::Pending(priority) => {
                self.alloc.pending.remove(&(priority, Reverse(id)));
            }
            AllocState::Canceling => self.alloc.canceling -= 1,
            AllocState::Idle | AllocState::Queued(_) => return false,
        }
        job.alloc = AllocState::Idle;
        self.touch(id);
        true
    }

    /// A request ended without resources.
    fn request_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        let had = self.retire_request(id);
        if had {
            self.clear_annotations(cx, id);
        }
        had
    }

    fn annotated(&mut self, cx: &mut Cx<'_, Wait>, response: &AllocResponse) {
        let Some(job) = self.jobs.get(&response.id) else { return };
        if !matches!(job.alloc, AllocState::Pending(_)) {
            return;
        }
        if let Some(Value::Object(patch)) = &response.annotations {
            let mut annotations = job.status.annotations.clone();
            merge_annotations(&mut annotations, patch);
            self.annotate(cx, response.id, annotations);
        }
    }

    fn allocated(&mut self, cx: &mut Cx<'_, Wait>, response: AllocResponse) {
        let id = response.id;
        if !self.retire_request(id) {
            let text = format!("sched.alloc response for {}: no such request", JobId(id).f58());
            return cx.log(Level::Err, text);
        }
        let Some(Value::Object(mut r)) = response.r else {
            let text = "scheduler allocated resources without saying which";
            return self.raise(cx, id, 0, "alloc", text, None);
        };
        let whole = Value::Object(r.clone()).to_string();
        let r = match r.shift_remove("scheduling") {
            // For those who schedule within the job only; they read it in the KVS.
            Some(_) => Value::Object(r).to_string(),
            None => whole.clone(),
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.state() != JobState::Sched
            || job.priority() == 0
            || !self.queues.runs(job.queue.as_deref())
        {
            // Not wanted any more: the job was canceled or held, or its queue stopped.
            self.send_free(cx, id, &r, true);
            return self.clear_annotations(cx, id);
        }
        let mut annotations = job.status.annotations.clone();
        if let Some(Value::Object(patch)) = &response.annotations {
            merge_annotations(&mut annotations, patch);
        }
        job.r = Some(r.into());
        // The event's annotations are merged into the status, so what was deleted goes first.
        job.status.annotations.clear();
        let data = if annotations.is_empty() {
            Value::Null
        } else {
            json!({ "annotations": annotations })
        };
        if response.store {
            job.r_pending = true;
            self.commits.put(format!("{}.R", JobId(id).kvs()), Treeobj::val(whole));
        }
        self.post(cx, id, "alloc", data);
        self.commits.after(After::Allocated(id));
    }

    /// How much waits for the scheduler.
    pub(crate) fn alloc_query(&self) -> AllocQuery {
        AllocQuery {
            queue_length: self.alloc.queue.len() as u64,
            alloc_pending: self.alloc.outstanding() as u64,
            running: self.running,
        }
    }
}
