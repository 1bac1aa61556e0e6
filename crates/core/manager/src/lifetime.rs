//! The end of the instance itself: no job may be promised more time than is left, and jobs that
//! last as long as the instance follow it when it moves.

use flux_api::kvs::{PRIMARY, WAITCREATE, WATCH, WatchLookup, WatchRequest};
use flux_id::fsd;
use flux_model::job_event::JobState;
use flux_model::treeobj::Treeobj;
use flux_svc::{Cx, Reply, To};
use serde_json::Value;

use crate::job::Job;
use crate::service::{JobManager, Wait};
use crate::submit::system;

/// Key of the instance's own resources, which say when they expire.
const KEY: &str = "resource.R";

/// `execution.expiration` of R, 0 when there is none.
fn expiration_of(r: &str) -> f64 {
    let r: Value = serde_json::from_str(r).unwrap_or(Value::Null);
    let expiration = r.get("execution").and_then(|execution| execution.get("expiration")?.as_f64());
    expiration.unwrap_or(0.0)
}

/// Whether a running job ends with the instance: it has an end but asked for none.
fn follows_instance(job: &Job) -> bool {
    let asked: Value = serde_json::from_str(&job.jobspec).unwrap_or(Value::Null);
    job.state() == JobState::Run
        && system(&asked, "duration").and_then(Value::as_f64).unwrap_or(0.0) <= 0.0
        && job.r.as_deref().is_some_and(|r| expiration_of(r) > 0.0)
}

impl JobManager {
    /// Asks to be told when the instance ends.
    pub(crate) fn watch_lifetime(&self, cx: &mut Cx<'_, Wait>) {
        let request = WatchRequest {
            namespace: PRIMARY.to_string(),
            key: KEY.to_string(),
            flags: WATCH | WAITCREATE,
        };
        cx.stream::<WatchLookup>(To::Any, &request, Wait::Lifetime);
    }

    /// The instance's resources are there, or have changed.
    pub(crate) fn lifetime_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let Ok(response) = reply.decode::<WatchLookup>() else { return };
        let Ok(Treeobj::Val(data)) = Treeobj::from_value(&response.val) else { return };
        let expiration = expiration_of(&String::from_utf8_lossy(&data));
        let before = self.instance_end.replace(expiration);
        if before.is_none_or(|before| before == expiration) {
            return;
        }
        let followers: Vec<u64> =
            self.jobs.values().filter(|job| follows_instance(job)).map(|job| job.id).collect();
        for id in followers {
            self.expire_at(cx, id, expiration);
        }
    }

    /// Checks a duration in seconds (0: as long as there is time) against what is left.
    ///
    /// # Errors
    /// The duration is longer.
    pub(crate) fn check_lifetime(&self, wall: f64, duration: f64) -> Result<(), String> {
        let end = self.instance_end.unwrap_or(0.0);
        let left = (end - wall).max(0.0);
        if end <= 0.0 || duration <= left {
            return Ok(());
        }
        let (asked, left) = (fsd::format_short(duration), fsd::format_short(left));
        Err(format!("job duration ({asked}) exceeds remaining instance lifetime ({left})"))
    }
}
