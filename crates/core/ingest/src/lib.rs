//! `job-ingest`: where jobs enter. It takes the signed request apart, applies the site's defaults,
//! validates, gives the job its id, and hands it to the manager, which answers when the job is on
//! disk.
//!
//! Jobs that arrive while the manager is busy with others go to it together.
//!
//! Read first: [`IngestService`], then [`defaults`] (queues and policy). Must never: trust what is
//! not signed by the message's own credentials.

pub mod defaults;
pub mod ids;
mod settings;
mod versions;

use std::collections::BTreeMap;

use flux_api::body::AnyObject;
use flux_api::job::ingest::{
    Getinfo, Ids, IdsRequest, IdsResponse, Ingest, IngestInfo, Submit, SubmitRequest,
    SubmitResponse,
};
use flux_api::job::manager::{
    Getinfo as ManagerGetinfo, NewJob, Submit as ManagerSubmit, SubmitBatch,
};
use flux_api::job::{
    FLAG_DEBUG, FLAG_NOVALIDATE, FLAG_WAITABLE, URGENCY_DEFAULT, URGENCY_EXPEDITE,
};
use flux_api::{Answer, Call, RpcError};
use flux_id::size;
use flux_model::jobspec::Jobspec;
use flux_model::sign::{self, Mechanism};
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Level, Reply, Service, To};
use serde_json::{Map, Value, json};

use crate::defaults::Policy;
use crate::ids::IdSource;
use crate::versions::Versions;

/// Jobs handed to the manager in one request.
const BATCH_MAX: usize = 512;

/// What a request hears that comes too late.
const STOPPING: &str = "job-ingest is shutting down";

/// Submissions that may wait here; more are refused with EAGAIN.
const WAITING_MAX: usize = 65_536;

/// Bytes of a request, unless `ingest.buffer-size` says something else.
const REQUEST_MAX: u64 = 10 << 20;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Where the id generator begins.
    Start,
    /// Time to ask for it again.
    Retry,
    /// The manager's word on a batch.
    Batch(u64),
    /// Ids of rank 0 for a batch.
    Ids(u64),
    /// The next millisecond, for more ids.
    Tick,
}

/// A validated job on its way.
#[derive(Debug)]
struct Entry {
    /// Its id, once it has one.
    id: u64,
    /// The job, until the manager has it.
    job: Option<NewJob>,
    answer: Answer<Submit>,
}

/// The `job-ingest` service.
#[derive(Debug)]
pub struct IngestService {
    /// The source of ids, on rank 0; elsewhere only where it stood at the start.
    ids: Option<IdSource>,
    started_us: u64,
    policy: Policy,
    allow_root_jobs: bool,
    /// Longest request, in bytes.
    request_max: u64,
    versions: Versions,
    batch_max: usize,
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
            ids: None,
            started_us: 0,
            policy: Policy::default(),
            allow_root_jobs,
            request_max: REQUEST_MAX,
            versions: Versions::default(),
            batch_max: BATCH_MAX,
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

    fn started(&mut self, cx: &mut Cx<'_, Wait>, ids: IdSource) {
        self.ids = Some(ids);
        self.started_us = cx.now_us();
        cx.ready();
        for answer in std::mem::take(&mut self.early_info) {
            self.getinfo(cx, answer);
        }
        for (request, answer) in std::mem::take(&mut self.early) {
            self.submit(cx, request, answer);
        }
    }

    fn getinfo(&mut self, cx: &mut Cx<'_, Wait>, answer: Answer<Getinfo>) {
        match &self.ids {
            Some(ids) => {
                let timestamp = ids.timestamp(self.elapsed_ms(cx));
                answer.ok(cx, &IngestInfo { timestamp });
            }
            None => self.early_info.push(answer),
        }
    }

    fn submit(&mut self, cx: &mut Cx<'_, Wait>, request: SubmitRequest, answer: Answer<Submit>) {
        if self.stopped {
            return answer.err(cx, RpcError::new(Errno::ENOSYS, STOPPING));
        }
        if self.waiting.len() >= WAITING_MAX {
            let text = "job-ingest: too many submissions are waiting, try again";
            return answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        if self.ids.is_none() {
            self.early.push((request, answer));
            return;
        }
        self.requests += 1;
        match self.check(cx, request, answer.cred()) {
            Ok(job) => {
                self.waiting.push(Entry { id: 0, job: Some(job), answer });
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
        let bytes = request.j.len() as u64;
        if bytes > self.request_max {
            let max = size::format(self.request_max);
            let text = format!(
                "the job request has {bytes} bytes, and {max} are allowed (ingest.buffer-size)"
            );
            return Err(RpcError::new(Errno::EMSGSIZE, text));
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
                .and_then(|parsed| self.versions.check(parsed))
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
        let count = self.waiting.len().min(self.batch_max);
        if cx.rank() > 0 {
            // All ids come from one place, so that they rise in the order of submission.
            self.next += 1;
            let batch = self.waiting.drain(..count).collect();
            self.batches.insert(self.next, batch);
            let request = IdsRequest { count: count as u64 };
            cx.call::<Ids>(To::Rank(0), &request, Wait::Ids(self.next));
            return;
        }
        let ids = self.make_ids(cx, count);
        if ids.is_empty() {
            return self.tick(cx);
        }
        self.next += 1;
        let batch = self.waiting.drain(..ids.len()).collect();
        self.batches.insert(self.next, batch);
        self.hand_over(cx, self.next, &ids);
    }

    /// Waits for the next millisecond.
    fn tick(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.ticking {
            self.ticking = true;
            cx.timer(1000, Wait::Tick);
        }
    }

    /// At most so many ids, on rank 0.
    fn make_ids(&mut self, cx: &Cx<'_, Wait>, count: usize) -> Vec<u64> {
        let elapsed = self.elapsed_ms(cx);
        let Some(ids) = &mut self.ids else { return Vec::new() };
        (0..count).map_while(|_| ids.next(elapsed)).collect()
    }

    /// Rank 0 is asked for ids by a follower.
    fn give_ids(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Ids>) {
        let count = usize::try_from(call.request.count).unwrap_or(BATCH_MAX).min(BATCH_MAX);
        if cx.rank() > 0 || self.stopped || self.ids.is_none() {
            let text = "job-ingest of rank 0 makes no job ids now: try again";
            return call.answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        let ids = self.make_ids(cx, count);
        call.answer.ok(cx, &IdsResponse { ids });
    }

    /// Rank 0 gave ids for a batch.
    fn ids_given(&mut self, cx: &mut Cx<'_, Wait>, batch: u64, reply: &Reply) {
        let result = reply.decode::<Ids>();
        let ids = match result {
            Ok(response) => response.ids,
            Err(error) => {
                for entry in self.batches.remove(&batch).unwrap_or_default() {
                    self.errors += 1;
                    entry.answer.err(cx, error.clone());
                }
                self.flush(cx);
                return self.drained_if_idle(cx);
            }
        };
        if let Some(entries) = self.batches.get_mut(&batch)
            && entries.len() > ids.len()
        {
            // The others wait for more.
            let mut rest = entries.split_off(ids.len());
            rest.append(&mut self.waiting);
            self.waiting = rest;
        }
        if ids.is_empty() {
            self.batches.remove(&batch);
            if self.draining {
                for entry in std::mem::take(&mut self.waiting) {
                    entry.answer.err(cx, RpcError::new(Errno::ENOSYS, STOPPING));
                }
                return self.drained_if_idle(cx);
            }
            return self.tick(cx);
        }
        self.hand_over(cx, batch, &ids);
    }

    /// Gives a batch with its ids to the manager.
    fn hand_over(&mut self, cx: &mut Cx<'_, Wait>, batch: u64, ids: &[u64]) {
        let Some(entries) = self.batches.get_mut(&batch) else { return };
        let jobs = entries.iter_mut().zip(ids).filter_map(|(entry, id)| {
            entry.id = *id;
            entry.job.take().map(|job| NewJob { id: *id, ..job })
        });
        let jobs = jobs.collect();
        cx.hand::<ManagerSubmit>(To::Rank(0), SubmitBatch { jobs }, Wait::Batch(batch));
    }

    fn batch_done(&mut self, cx: &mut Cx<'_, Wait>, batch: u64, reply: &Reply) {
        let entries = self.batches.remove(&batch).unwrap_or_default();
        match reply.decode::<ManagerSubmit>() {
            Ok(response) => {
                let refused: BTreeMap<u64, String> = response.errors.into_iter().collect();
                let errnums: BTreeMap<u64, u32> = response.errnums.into_iter().collect();
                for entry in entries {
                    match refused.get(&entry.id) {
                        None => entry.answer.ok(cx, &SubmitResponse { id: entry.id }),
                        Some(text) => {
                            self.errors += 1;
                            let errno = errnums.get(&entry.id).map(|number| Errno(*number));
                            let errno = errno.unwrap_or(Errno::EINVAL);
                            entry.answer.err(cx, RpcError::new(errno, text.clone()));
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
            Ingest::Ids(call) => self.give_ids(cx, call),
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
                    let newest = (info.max_jobid != 0).then_some(info.max_jobid >> 24);
                    self.started(cx, IdSource::above(newest));
                }
                Err(error) => {
                    cx.log(Level::Debug, format!("job-manager.getinfo: {error}"));
                    cx.timer(10_000, Wait::Retry);
                }
            },
            Wait::Start => match reply.decode::<Getinfo>() {
                Ok(info) => self.started(cx, IdSource::new(info.timestamp)),
                Err(error) => {
                    cx.log(Level::Debug, format!("job-ingest.getinfo: {error}"));
                    cx.timer(10_000, Wait::Retry);
                }
            },
            Wait::Ids(batch) => self.ids_given(cx, batch, &reply),
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
            Wait::Start | Wait::Ids(_) | Wait::Batch(_) => {}
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
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let given = config.get("ingest").and_then(|ingest| ingest.get("buffer-size"));
        let request_max = match given {
            None => REQUEST_MAX,
            Some(value) => value
                .as_str()
                .map_or_else(|| value.as_u64(), size::parse)
                .ok_or_else(|| invalid(format!("ingest.buffer-size: {value} is no size")))?,
        };
        let versions = Versions::from_config(config)?;
        settings::refuse(config).map_err(invalid)?;
        let batch_max = settings::batch(config).map_err(invalid)?;
        self.policy = Policy::from_config(config).map_err(invalid)?;
        (self.request_max, self.batch_max) = (request_max, batch_max);
        self.versions = versions;
        Ok(())
    }

    /// What the manager was not given is refused; what it was given is answered as it says.
    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.stopped = true;
        self.draining = true;
        let error = RpcError::new(Errno::ENOSYS, STOPPING);
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
