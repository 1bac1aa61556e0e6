//! From a decision to the answer: R of all jobs decided while one commit is on its way goes into
//! the next, and the answers follow when it is durable.

use std::collections::VecDeque;

use flux_api::RpcError;
use flux_api::kvs::{Commit, CommitRequest, Operation, PRIMARY};
use flux_api::sched::{ALLOC_DENY, ALLOC_SUCCESS, AllocResponse};
use flux_id::JobId;
use flux_model::treeobj::Treeobj;
use flux_svc::{Cx, Level, To};
use serde_json::{Map, Value, json};

use crate::queue::{Holding, Waiting};
use crate::service::{SchedService, Wait};

/// Most jobs of one commit.
const MAX_COMMIT: usize = 1024;
/// How long to wait after a failed commit, in microseconds.
const RETRY_US: u64 = 1_000_000;

/// A job that has resources and does not know yet.
#[derive(Debug)]
pub(crate) struct Grant {
    id: u64,
    job: Waiting,
    r: Value,
    summary: String,
    /// The job it was allowed to pass.
    passed: Option<u64>,
}

/// Decisions to be stored next, and those being stored.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    next: VecDeque<Grant>,
    flight: Vec<Grant>,
    in_flight: bool,
    /// The last commit failed; nothing is decided until the timer.
    pub(crate) backoff: bool,
}

impl Grants {
    pub(crate) fn is_idle(&self) -> bool {
        !self.in_flight && self.next.is_empty()
    }

    /// Takes every job out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        let (next, flight) = (std::mem::take(&mut self.next), std::mem::take(&mut self.flight));
        next.into_iter().chain(flight).map(|grant| grant.job)
    }
}

impl SchedService {
    /// Takes resources for a job if it fits.
    pub(crate) fn grant(&mut self, cx: &mut Cx<'_, Wait>, id: u64, passed: Option<u64>) -> bool {
        let Some(job) = self.queue.get(id) else { return false };
        let Some(placement) = self.pool.place(&job.demand, &job.eligible) else { return false };
        let (now, duration) = (cx.wall(), job.duration);
        let end = self.end_of(now, duration);
        let expiration = if end.is_finite() { end } else { 0.0 };
        let r = self.pool.allocation(&placement).and_then(|mut r| {
            // An instance that is over its own end gives no end.
            let expiration = if expiration > now { expiration } else { 0.0 };
            r.set_times(now, expiration)?;
            Ok(r)
        });
        let Some(job) = self.queue.remove(id) else { return false };
        self.status = None;
        match r {
            Ok(r) => {
                self.running.insert(id, Holding { parts: placement.parts, end });
                let (summary, r) = (r.summary(), r.to_value());
                self.grants.next.push_back(Grant { id, job, r, summary, passed });
                true
            }
            Err(error) => {
                for (rank, part) in &placement.parts {
                    self.pool.give_back(*rank, part);
                }
                let note = format!("cannot build R: {error}");
                cx.log(Level::Err, format!("{}: {note}", JobId(id).f58()));
                job.answer.ok(cx, &response(id, ALLOC_DENY, Some(note)));
                false
            }
        }
    }

    /// Stores what was decided, unless a commit is on its way.
    pub(crate) fn send_grants(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.grants.in_flight || self.grants.next.is_empty() {
            return;
        }
        let count = self.grants.next.len().min(MAX_COMMIT);
        self.grants.flight = self.grants.next.drain(..count).collect();
        self.grants.in_flight = true;
        let ops = self.grants.flight.iter().map(|grant| Operation {
            key: format!("{}.R", JobId(grant.id).kvs()),
            flags: 0,
            dirent: Treeobj::val(grant.r.to_string()).into(),
        });
        let request =
            CommitRequest { namespace: PRIMARY.to_string(), flags: 0, ops: ops.collect() };
        cx.hand::<Commit>(To::Any, request, Wait::Commit);
    }

    /// A commit came back.
    pub(crate) fn committed(&mut self, cx: &mut Cx<'_, Wait>, result: Result<(), RpcError>) {
        self.grants.in_flight = false;
        let flight = std::mem::take(&mut self.grants.flight);
        match result {
            Ok(()) => {
                for grant in flight {
                    succeed(cx, grant);
                }
                self.send_grants(cx);
            }
            Err(error) => {
                let text = format!("cannot store R of {} jobs: {error}; they wait", flight.len());
                cx.log(Level::Err, text);
                let next = std::mem::take(&mut self.grants.next);
                for grant in flight.into_iter().chain(next) {
                    self.take_back(grant);
                }
                self.outlook.settled = false;
                self.grants.backoff = true;
                cx.timer(RETRY_US, Wait::Retry);
            }
        }
    }

    fn take_back(&mut self, grant: Grant) {
        self.release(grant.id);
        self.queue.insert(grant.id, grant.job);
    }

    /// Undoes a decision that is not being stored yet: the request is withdrawn.
    pub(crate) fn revoke(&mut self, id: u64) -> Option<Waiting> {
        if !self.running.contains(id) {
            return None;
        }
        let at = self.grants.next.iter().position(|grant| grant.id == id)?;
        let grant = self.grants.next.remove(at)?;
        self.release(id);
        Some(grant.job)
    }

    /// Nobody waits for what was decided any more.
    pub(crate) fn abandon_grants(&mut self) {
        let flight = std::mem::take(&mut self.grants.flight);
        let next = std::mem::take(&mut self.grants.next);
        for grant in flight.into_iter().chain(next) {
            grant.job.answer.forget();
        }
    }
}

fn succeed(cx: &mut Cx<'_, Wait>, grant: Grant) {
    cx.log(Level::Debug, format!("alloc: {}: {}", JobId(grant.id).f58(), grant.summary));
    let mut sched = Map::new();
    sched.insert("resource_summary".to_string(), grant.summary.into());
    if let Some(head) = grant.passed {
        sched.insert("backfill".to_string(), JobId(head).f58().into());
    }
    // What was said while it waited is no longer so.
    if let Some(Value::Object(said)) = &grant.job.said {
        for key in said.keys() {
            sched.insert(key.clone(), Value::Null);
        }
    }
    let annotations = Some(json!({ "sched": sched }));
    let mut r = grant.r;
    if let Some(r) = r.as_object_mut() {
        // For those who schedule within the job only; they read it in the KVS.
        r.remove("scheduling");
    }
    let body = AllocResponse { annotations, r: Some(r), ..response(grant.id, ALLOC_SUCCESS, None) };
    grant.job.answer.give(cx, body);
}

/// A response without annotations and R.
pub(crate) fn response(id: u64, kind: u32, note: Option<String>) -> AllocResponse {
    AllocResponse { id, kind, note, annotations: None, r: None }
}
