//! Signals to the tasks of jobs.

use flux_api::job::manager::{CountResponse, Kill, KillAll};
use flux_api::{Call, Empty, RpcError};
use flux_model::job_event::JobState;
use flux_proto::{Errno, Rolemask};
use flux_svc::Cx;
use serde_json::{Map, Value};

use crate::exception::{may_touch, wanted_user};
use crate::service::{JobManager, Wait};

/// Greatest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

fn check(signum: i32) -> Result<(), RpcError> {
    if (1..=SIGNAL_MAX).contains(&signum) {
        return Ok(());
    }
    Err(RpcError::new(Errno::EINVAL, "Invalid signal number"))
}

fn publish(cx: &mut Cx<'_, Wait>, id: u64, signum: i32) {
    let mut body = Map::new();
    body.insert("signum".into(), Value::from(signum));
    // Shells that may have missed it are told again, and take each number once. JSON numbers are
    // exact up to 53 bits.
    body.insert("n".into(), Value::from(cx.random() >> 11));
    cx.publish(&format!("shell-{id}.kill"), &body, false);
}

impl JobManager {
    /// `job-manager.kill`.
    pub(crate) fn kill(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Kill>) {
        let result = self.try_kill(cx, &call).map(|()| Empty);
        call.answer.respond(cx, result);
    }

    fn try_kill(&self, cx: &mut Cx<'_, Wait>, call: &Call<Kill>) -> Result<(), RpcError> {
        let invalid = |text: &str| RpcError::new(Errno::EINVAL, text);
        check(call.request.signum)?;
        let id = call.request.id;
        let userid = self.owner_of(id).map_err(|_| invalid("unknown job id"))?;
        if !may_touch(call.answer.cred(), userid) {
            let text = "guests may only send signals to their own jobs";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if self.is_inactive(id) {
            return Err(invalid("job is inactive"));
        }
        // In CLEANUP tasks may still run: execution kills them through this very request.
        let states = [JobState::Run, JobState::Cleanup];
        if self.jobs.get(&id).is_none_or(|job| !states.contains(&job.state())) {
            return Err(invalid("job is not running"));
        }
        publish(cx, id, call.request.signum);
        Ok(())
    }

    /// `job-manager.killall`.
    pub(crate) fn kill_all(&mut self, cx: &mut Cx<'_, Wait>, call: Call<KillAll>) {
        let result = self.try_kill_all(cx, &call).map(|count| CountResponse { count, errors: 0 });
        call.answer.respond(cx, result);
    }

    fn try_kill_all(&self, cx: &mut Cx<'_, Wait>, call: &Call<KillAll>) -> Result<u64, RpcError> {
        let request = &call.request;
        check(request.signum)?;
        let user = wanted_user(request.userid)?;
        let cred = call.answer.cred();
        if !cred.rolemask.contains(Rolemask::OWNER) && user != Some(cred.userid) {
            return Err(RpcError::new(Errno::EPERM, "guests can only kill their own jobs"));
        }
        let mut count = 0;
        for job in self.jobs.values() {
            if matches!(job.state(), JobState::Run | JobState::Cleanup)
                && user.is_none_or(|user| user == job.status.userid)
            {
                count += 1;
                if !request.dry_run {
                    publish(cx, job.id, request.signum);
                }
            }
        }
        Ok(count)
    }
}
