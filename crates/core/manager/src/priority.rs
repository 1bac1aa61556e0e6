//! Urgency and priority (RFC 30).

use flux_api::job::manager::Urgency;
use flux_api::job::{PRIORITY_MAX, URGENCY_DEFAULT, URGENCY_EXPEDITE, URGENCY_HOLD};
use flux_api::{Call, RpcError};
use flux_model::job_event::JobState;
use flux_proto::{Errno, Rolemask};
use flux_svc::Cx;
use serde_json::json;

use crate::commits::After;
use crate::job::Job;
use crate::service::{JobManager, Wait};

/// The priority of a job: its urgency, but 0 when held and the greatest when expedited.
#[must_use]
pub fn of(job: &Job) -> u32 {
    match u32::from(job.status.urgency) {
        URGENCY_HOLD => 0,
        URGENCY_EXPEDITE => u32::try_from(PRIORITY_MAX).unwrap_or(u32::MAX),
        urgency => urgency,
    }
}

impl JobManager {
    /// `job-manager.urgency`.
    pub(crate) fn urgency(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Urgency>) {
        match self.change_urgency(cx, &call) {
            Ok(old) => self.commits.after(After::Urgency(call.answer, old)),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn change_urgency(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        call: &Call<Urgency>,
    ) -> Result<u32, RpcError> {
        let invalid = |text: &str| Err(RpcError::new(Errno::EINVAL, text));
        let denied = |text: &str| Err(RpcError::new(Errno::EPERM, text));
        let (id, cred) = (call.request.id, call.answer.cred());
        let Some(urgency) =
            u32::try_from(call.request.urgency).ok().filter(|n| *n <= URGENCY_EXPEDITE)
        else {
            return invalid("urgency value is out of range");
        };
        let Some(job) = self.jobs.get(&id).filter(|job| job.state() != JobState::Inactive) else {
            let inactive = self.is_inactive(id);
            return invalid(if inactive { "job is inactive" } else { "unknown job" });
        };
        let old = u32::from(job.status.urgency);
        if !cred.rolemask.contains(Rolemask::OWNER) {
            if cred.userid != job.status.userid {
                return denied("guests can only reprioritize their own jobs");
            }
            if urgency > old.max(URGENCY_DEFAULT) {
                return denied("guests can only adjust urgency <= default");
            }
        }
        if !matches!(job.state(), JobState::Depend | JobState::Priority | JobState::Sched) {
            return invalid("urgency cannot be changed once resources are allocated");
        }
        self.commits.check()?;
        self.has_room(id, cred)?;
        if urgency != old {
            self.post(cx, id, "urgency", json!({ "urgency": urgency, "userid": cred.userid }));
        }
        Ok(old)
    }
}
