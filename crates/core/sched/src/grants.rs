//! From a decision to the answer. R is stored by whoever is answered, in the commit that carries the
//! job's `alloc` event: neither is there without the other, and a job costs one commit less.

use flux_api::sched::{ALLOC_DENY, ALLOC_SUCCESS, AllocResponse};
use flux_id::JobId;
use flux_model::resource_set::ResourceSet;
use flux_svc::{Cx, Level};
use serde_json::{Map, Value, json};

use crate::queue::{Holding, Waiting};
use crate::service::{SchedService, Wait};

impl SchedService {
    /// Takes resources for a job if it fits, and says so; `passed` is the job it was allowed to pass.
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
                succeed(cx, id, job, &r, passed);
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
}

fn succeed(cx: &mut Cx<'_, Wait>, id: u64, job: Waiting, r: &ResourceSet, passed: Option<u64>) {
    let summary = r.summary();
    cx.log(Level::Debug, format!("alloc: {}: {summary}", JobId(id).f58()));
    let mut sched = Map::new();
    sched.insert("resource_summary".to_string(), summary.into());
    if let Some(head) = passed {
        sched.insert("backfill".to_string(), JobId(head).f58().into());
    }
    // What was said while it waited is no longer so.
    if let Some(Value::Object(said)) = &job.said {
        for key in said.keys() {
            sched.insert(key.clone(), Value::Null);
        }
    }
    let annotations = Some(json!({ "sched": sched }));
    let r = Some(r.to_value());
    let body = AllocResponse { annotations, r, store: true, ..response(id, ALLOC_SUCCESS, None) };
    job.answer.give(cx, body);
}

/// A response without annotations and R.
pub(crate) fn response(id: u64, kind: u32, note: Option<String>) -> AllocResponse {
    AllocResponse { id, kind, note, annotations: None, r: None, store: false }
}
