//! Forgetting finished jobs: on request, and by the configured limits.

use flux_api::job::manager::{CountResponse, Purge, PurgeId_};
use flux_api::{Call, RpcError};
use flux_id::JobId;
use flux_proto::Errno;
use flux_svc::Cx;
use serde_json::{Map, Value, json};

use crate::commits::After;
use crate::service::{JobManager, Wait};

/// Event that names purged jobs.
pub const EVENT: &str = "job-purge-inactive";
/// How often the limits are checked, in microseconds.
pub const PERIOD_US: u64 = 2_000_000;
/// Jobs purged at once by the limits.
pub const BATCH: usize = 100;

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

impl JobManager {
    /// Finished jobs beyond the limits, oldest first, at most `max`.
    fn eligible_for_purge(
        &self,
        wall: f64,
        age: Option<f64>,
        number: Option<usize>,
        max: usize,
    ) -> Vec<u64> {
        let total = self.inactive.len();
        self.inactive
            .oldest()
            .enumerate()
            .take_while(|(index, (_, t_inactive))| {
                // Without any limit every finished job may go.
                (age.is_none() && number.is_none())
                    || age.is_some_and(|age| wall - t_inactive >= age)
                    || number.is_some_and(|number| total - index > number)
            })
            .take(max)
            .map(|(_, (id, _))| id)
            .collect()
    }

    /// Takes jobs out of memory and, with the next commit, out of the KVS.
    fn purge_jobs(&mut self, ids: Vec<u64>) {
        for id in &ids {
            self.inactive.remove(*id);
            self.history.remove(*id);
            self.commits.put(JobId(*id).kvs(), Value::Null);
            if *id == self.max_jobid {
                // The directory no longer says it.
                self.checkpoint();
            }
        }
        if !ids.is_empty() {
            self.commits.after(After::Purged(ids));
        }
    }

    /// The purge is durable.
    pub(crate) fn announce_purge(&mut self, cx: &mut Cx<'_, Wait>, ids: &[u64]) {
        let mut body = Map::new();
        body.insert("jobs".into(), json!(ids));
        cx.publish(EVENT, &body, false);
    }

    /// `job-manager.purge`.
    pub(crate) fn purge(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Purge>) {
        let request = &call.request;
        let checked = if request.age_limit < 0.0 && request.age_limit != -1.0 {
            Err(invalid("if set, age limit must be >= 0"))
        } else if request.num_limit < -1 {
            Err(invalid("if set, num limit must be >= 0"))
        } else if !(1..=100).contains(&request.batch) {
            Err(invalid("batch must be >= 1 and <= 100"))
        } else if request.force {
            self.commits.check()
        } else {
            Ok(())
        };
        if let Err(error) = checked {
            return call.answer.err(cx, error);
        }
        let age = (request.age_limit >= 0.0).then_some(request.age_limit);
        let number = usize::try_from(request.num_limit).ok();
        let max = if request.force {
            usize::try_from(request.batch).unwrap_or(BATCH)
        } else {
            usize::MAX
        };
        let ids = self.eligible_for_purge(cx.wall(), age, number, max);
        let count = ids.len() as u64;
        if !request.force || ids.is_empty() {
            return call.answer.ok(cx, &CountResponse { count, errors: 0 });
        }
        self.purge_jobs(ids);
        self.commits.after(After::Purge(call.answer, count));
    }

    /// `job-manager.purge-id`.
    pub(crate) fn purge_id(&mut self, cx: &mut Cx<'_, Wait>, call: Call<PurgeId_>) {
        let id = call.request.id;
        if self.inactive.get(id).is_none() {
            let error = if self.jobs.contains_key(&id) {
                invalid("cannot purge active job")
            } else {
                RpcError::new(Errno::ENOENT, "id not found")
            };
            return call.answer.err(cx, error);
        }
        if call.request.force == 0 {
            return call.answer.ok(cx, &CountResponse { count: 1, errors: 0 });
        }
        if let Err(error) = self.commits.check() {
            return call.answer.err(cx, error);
        }
        self.purge_jobs(vec![id]);
        self.commits.after(After::PurgeId(call.answer));
    }

    /// Applies the configured limits, then waits for the next time.
    pub(crate) fn purge_by_limits(&mut self, cx: &mut Cx<'_, Wait>) {
        let (age, number) = (self.settings.inactive_age_limit, self.settings.inactive_num_limit);
        if age.is_none() && number.is_none() {
            self.purge_armed = false;
            return;
        }
        if self.commits.failure.is_none() {
            let ids = self.eligible_for_purge(cx.wall(), age, number, BATCH);
            self.purge_jobs(ids);
        }
        self.purge_armed = true;
        cx.timer(PERIOD_US, Wait::Purge);
    }
}
