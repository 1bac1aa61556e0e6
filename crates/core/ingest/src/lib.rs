//! `job-ingest`: where jobs enter. It takes the signed request apart, applies the site's defaults,
//! validates, gives the job its id, and hands it to the manager, which answers when the job is on
//! disk.
//!
//! Jobs that arrive while the manager is busy with others go to it together.
//!
//! Read first: [`IngestService`], then [`defaults`] (queues and policy). Must never: trust what is
//! not signed by the message's own credentials.

pub mod defaults;

use std::collections::BTreeMap;

use flux_api::body::AnyObject;
use flux_api::job::ingest::{Getinfo, Ingest, IngestInfo, Submit, SubmitRequest, SubmitResponse};
use flux_api::job::manager::{
    Getinfo as ManagerGetinfo, NewJob, Submit as ManagerSubmit, SubmitBatch,
};
use flux_api::job::{
    FLAG_DEBUG, FLAG_NOVALIDATE, FLAG_WAITABLE, URGENCY_DEFAULT, URGENCY_EXPEDITE,
};
use flux_api::{Answer, RpcError};
use flux_id::fluid::{Generator, JobId};
use flux_model::jobspec::Jobspec;
use flux_model::sign::{self, Mechanism};
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Level, Reply, Service, To};
use serde_json::{Map, Value, json};

use crate::defaults::Policy;

/// Jobs handed to the manager in one request.
const BATCH_MAX: usize = 512;

/// Submissions that may wait here; more are refused with EAGAIN.
const WAITING_MAX: usize = 65_536;

/// Largest rank that makes ids of its own; others ask upstream.
pub const MAX_GENERATOR: u32 = 16_367;

/// Job ids take a new timestamp this often, or after [`ID_WINDOW`] ids.
///
/// An id is also a path in the KVS, `job.TTTT.TTTT.TTgg.ggss`, whose directories are written anew
/// with every change of a job. A timestamp per millisecond would fill the third directory, with up
/// to 256 entries, and one per 256 the fourth; this keeps both small.
const ID_WINDOW_MS: u64 = 16;

/// Ids of one timestamp, as long as the clock has another.
const ID_WINDOW: u32 = 48;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Where the id generator begins.
    Start,
    /// Time to ask for it again.
    Retry,
    /// The manager's word on a batch.
    Batch(u64),
    /// The next millisecond, for more ids.
    Tick,
}

/// A validated job on its way.
#[derive(Debug)]
struct Entry {
    job: NewJob,
    answer: Answer<Submit>,
}

/// The `job-ingest` service.
#[derive(Debug)]
pub struct IngestService {
    generator: Option<Generator>,
    /// Clock of the newest timestamp in milliseconds, and ids made of it.
    window: (u64, u32),
    started_us: u64,
    policy: Policy,
    allow_root_jobs: bool,
    early: Vec<(SubmitRequest, Answer<Submit>)>,
    early_info: Vec<Answer<Getinfo>>,
    waiting: Vec<Entry>,
    batches: BTreeMap<u64, Vec<Entry>>,
    next: u64,
    stopped: bool,
    draining: bool,
    ticking: bool,
    requests: u64,
    errors: u64,
}

impl Default for IngestService {
    fn default() -> Self {
        Self::new(false)
    }
}

impl IngestService {
    /// A service that refuses jobs of root in an instance of somebody else, unless allowed.
    #[must_use]
    pub fn new(allow_root_jobs: bool) -> Self {
        Self {
            generator: None,
            window: (0, 0),
            started_us: 0,
            policy: Policy::default(),
            allow_root_jobs,
            early: Vec::new(),
            early_info: Vec::new(),
            waiting: Vec::new(),
            batches: BTreeMap::new(),
            next: 0,
            stopped: false,
            draining: false,
            ticking: false,
            requests: 0,
            errors: 0,
        }
    }

    fn ask_start(cx: &mut Cx<'_, Wait>) {
        if cx.rank() == 0 {
            cx.call::<ManagerGetinfo>(To::Rank(0), &AnyObject::default(), Wait::Start);
        } else {
            cx.call::<Getinfo>(To::Upstream, &AnyObject::default(), Wait::Start);
        }
    }

    fn elapsed_ms(&self, cx: &Cx<'_, Wait>) -> u64 {
        cx.now_us().saturating_sub(self.started_us) / 1000
    }

    fn started(&mut self, cx: &mut Cx<'_, Wait>, timestamp: u64) {
        // Zero is no job.
        match Generator::new(cx.rank(), timestamp.max(1)) {
            Ok(generator) => {
                self.generator = Some(generator);
                self.started_us = cx.now_us();
                cx.ready();
                for answer in std::mem::take(&mut self.early_info) {
                    self.getinfo(cx, answer);
                }
                for (request, answer) in std::mem::take(&mut self.early) {
                    self.submit(cx, request, answer);
                }
            }
            Err(error) => cx.fail(format!("job-ingest: {error}")),
        }
    }

    fn getinfo(&mut self, cx: &mut Cx<'_, Wait>, answer: Answer<Getinfo>) {
        match &self.generator {
            Some(generator) => {
                let timestamp = generator.timestamp(self.elapsed_ms(cx));
                answer.ok(cx, &IngestInfo { timestamp });
            }
            None => self.early_info.push(answer),
        }
    }

    fn submit(&mut self, cx: &mut Cx<'_, Wait>, request: SubmitRequest, answer: Answer<Submit>) {
        if self.stopped {
            return answer.err(cx, RpcError::new(Errno::ENOSYS, "job-ingest is shutting down"));
        }
        if self.waiting.len() >= WAITING_MAX {
            let text = "job-ingest: too many submissions are waiting, try again";
            return answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        if self.generator.is_none() {
            self.early.push((request, answer));
            return;
        }
        self.requests += 1;
        match self.check(cx, request, answer.cred()) {
            Ok(job) => {
                self.waiting.push(Entry { job, answer });
                self.flush(cx);
            }
            Err(error) => {
                self.errors += 1;
                answer.err(cx, error);
            }
        }
    }

    /// Everything that can be said against a request without asking anybody.
    fn check(
        &self,
        cx: &Cx<'_, Wait>,
        request: SubmitRequest,
        cred: Cred,
    ) -> Result<NewJob, RpcError> {
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let owner = cred.rolemask.contains(Rolemask::OWNER);
        if request.flags & !(FLAG_DEBUG | FLAG_WAITABLE | FLAG_NOVALIDATE) != 0 {
            return Err(RpcError::new(Errno::EPROTO, "invalid job flags"));
        }
        if request.flags & FLAG_NOVALIDATE != 0 && !owner {
            let text = "only the instance owner can submit with FLUX_JOB_NOVALIDATE";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        let urgency = u32::try_from(request.urgency)
            .ok()
            .filter(|urgency| *urgency <= URGENCY_EXPEDITE)
            .ok_or_else(|| invalid(format!("urgency range is [0:{URGENCY_EXPEDITE}]")))?;
        if urgency > URGENCY_DEFAULT && !owner {
            let text =
                format!("only the instance owner can submit with urgency >{URGENCY_DEFAULT}");
            return Err(invalid(text));
        }
        if request.flags & FLAG_WAITABLE != 0 && !owner {
            let text = "only the instance owner can submit with FLUX_JOB_WAITABLE";
            return Err(invalid(text.to_string()));
        }
        let unwrapped = sign::unwrap(&request.j)
            .map_err(|error| invalid(format!("could not unwrap jobspec: {error}")))?;
        if unwrapped.userid != cred.userid {
            let text = format!("signer={} != requestor={}", unwrapped.userid, cred.userid);
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if unwrapped.mechanism == Mechanism::None && !owner {
            let text = "only instance owner can use sign-type=none";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        let mut jobspec: Value = serde_json::from_slice(&unwrapped.payload)
            .map_err(|error| invalid(format!("jobspec: invalid JSON: {error}")))?;
        if cred.userid == 0 && cx.owner() != 0 && !self.allow_root_jobs {
            return Err(invalid("submission of jobs as user root not supported".to_string()));
        }
        self.policy.apply(&mut jobspec).map_err(|text| RpcError::new(Errno(1), text))?;
        let jobspec = if request.flags & FLAG_NOVALIDATE == 0 {
            let parsed = Jobspec::from_value(jobspec)
                .and_then(|parsed| parsed.require_version(1).map(|()| parsed))
                .map_err(|error| RpcError::new(Errno(1), error.to_string()))?;
            parsed.into_value()
        } else {
            jobspec
        };
        Ok(NewJob {
            id: 0,
            userid: cred.userid,
            urgency,
            t_submit: cx.wall(),
            flags: request.flags,
            jobspec: without_environment(jobspec),
            j: request.j,
        })
    }

    /// Hands waiting jobs to the manager. One batch is with it at a time from this rank: what
    /// comes meanwhile goes together.
    fn flush(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.batches.is_empty() || self.waiting.is_empty() {
            return;
        }
        let elapsed = self.elapsed_ms(cx);
        let Some(generator) = &mut self.generator else { return };
        let mut batch = Vec::new();
        let mut ids = 0;
        for entry in self.waiting.iter_mut().take(BATCH_MAX) {
            let (since, count) = &mut self.window;
            // Jobs that come at once share what has gone by of a window.
            let soon = elapsed.saturating_sub(ID_WINDOW_MS);
            if *since + ID_WINDOW_MS <= soon || (*count >= ID_WINDOW && *since < elapsed) {
                (*since, *count) = (soon.max(*since + 1), 0);
            }
            *count += 1;
            match generator.next(*since).or_else(|_| generator.next(elapsed)) {
                Ok(JobId(id)) => entry.job.id = id,
                Err(_) => break,
            }
            ids += 1;
        }
        if ids < self.waiting.len() && !self.ticking && ids == 0 {
            self.ticking = true;
            cx.timer(1000, Wait::Tick);
        }
        batch.extend(self.waiting.drain(..ids));
        if batch.is_empty() {
            return;
        }
        self.next += 1;
        let jobs = batch.iter().map(|entry| entry.job.clone()).collect();
        cx.call::<ManagerSubmit>(To::Rank(0), &SubmitBatch { jobs }, Wait::Batch(self.next));
        self.batches.insert(self.next, batch);
    }

    fn batch_done(&mut self, cx: &mut Cx<'_, Wait>, batch: u64, reply: &Reply) {
        let entries = self.batches.remove(&batch).unwrap_or_default();
        match reply.decode::<ManagerSubmit>() {
            Ok(response) => {
                let refused: BTreeMap<u64, String> = response.errors.into_iter().collect();
                for entry in entries {
                    match refused.get(&entry.job.id) {
                        None => entry.answer.ok(cx, &SubmitResponse { id: entry.job.id }),
                        Some(text) => {
                            self.errors += 1;
                            entry.answer.err(cx, RpcError::new(Errno::EINVAL, text.clone()));
                        }
                    }
                }
            }
            Err(error) => {
                for entry in entries {
                    self.errors += 1;
                    entry.answer.err(cx, error.clone());
                }
            }
        }
        self.flush(cx);
        self.drained_if_idle(cx);
    }

    /// Says drained once the manager has answered for every job.
    fn drained_if_idle(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.draining && self.batches.is_empty() && self.waiting.is_empty() {
            self.draining = false;
            cx.drained();
        }
    }
}

/// The jobspec as others may see it: the environment stays in the signed request only.
fn without_environment(mut jobspec: Value) -> Value {
    if let Some(system) = jobspec.pointer_mut("/attributes/system").and_then(Value::as_object_mut) {
        system.shift_remove("environment");
    }
    jobspec
}

impl Service for IngestService {
    type Api = Ingest;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        Self::ask_start(cx);
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Ingest) {
        match call {
            Ingest::Submit(call) => self.submit(cx, call.request, call.answer),
            Ingest::Getinfo(call) => self.getinfo(cx, call.answer),
            Ingest::Shutdown(call) => {
                self.stopped = true;
                call.answer.forget();
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Start if cx.rank() == 0 => match reply.decode::<ManagerGetinfo>() {
                Ok(info) => {
                    // The first id is above every id that was ever given.
                    let start = if info.max_jobid == 0 { 0 } else { (info.max_jobid >> 24) + 1 };
                    self.started(cx, start);
                }
                Err(error) => {
                    cx.log(Level::Debug, format!("job-manager.getinfo: {error}"));
                    cx.timer(10_000, Wait::Retry);
                }
            },
            Wait::Start => match reply.decode::<Getinfo>() {
                Ok(info) => self.started(cx, info.timestamp),
                Err(error) => {
                    cx.log(Level::Debug, format!("job-ingest.getinfo: {error}"));
                    cx.timer(10_000, Wait::Retry);
                }
            },
            Wait::Batch(batch) => self.batch_done(cx, batch, &reply),
            Wait::Retry | Wait::Tick => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Retry => Self::ask_start(cx),
            Wait::Tick => {
                self.ticking = false;
                self.flush(cx);
            }
            Wait::Start | Wait::Batch(_) => {}
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        // A job whose submitter is gone before it got an id has no one to know of it.
        let mut kept = Vec::new();
        for entry in self.waiting.drain(..) {
            if entry.answer.same_sender(message) {
                entry.answer.forget();
            } else {
                kept.push(entry);
            }
        }
        self.waiting = kept;
    }

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.policy =
            Policy::from_config(config).map_err(|text| RpcError::new(Errno::EINVAL, text))?;
        Ok(())
    }

    /// What the manager was not given is refused; what it was given is answered as it says.
    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.stopped = true;
        self.draining = true;
        let error = RpcError::new(Errno::ENOSYS, "job-ingest is shutting down");
        for answer in std::mem::take(&mut self.early_info) {
            answer.err(cx, error.clone());
        }
        for (_, answer) in std::mem::take(&mut self.early) {
            answer.err(cx, error.clone());
        }
        for entry in std::mem::take(&mut self.waiting) {
            entry.answer.err(cx, error.clone());
        }
        self.drained_if_idle(cx);
    }

    fn stats(&self) -> Option<Value> {
        let waiting: usize =
            self.batches.values().map(Vec::len).sum::<usize>() + self.waiting.len();
        let worker = json!({
            "running": 0, "requests": self.requests, "errors": self.errors, "trash": 0,
            "backlog": waiting, "pids": [0, 0, 0, 0],
        });
        Some(json!({ "pipeline": { "frobnicator": worker, "validator": worker } }))
    }
}

#[cfg(test)]
mod tests;
