//! Notes on jobs, and events that the owner adds by hand.

use flux_api::job::manager::{Memo, PostJobEvent_};
use flux_api::{Call, Empty, RpcError};
use flux_proto::Errno;
use flux_svc::Cx;
use serde_json::Value;

use crate::commits::After;
use crate::exception::may_touch;
use crate::service::{JobManager, Wait};

impl JobManager {
    /// `job-manager.memo`.
    pub(crate) fn memo(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Memo>) {
        match self.try_memo(cx, &call) {
            Ok(()) if call.request.volatile => call.answer.ok(cx, &Empty),
            Ok(()) => self.commits.after(After::Memo(call.answer)),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn try_memo(&mut self, cx: &mut Cx<'_, Wait>, call: &Call<Memo>) -> Result<(), RpcError> {
        let request = &call.request;
        let userid = self.owner_of(request.id)?;
        if !may_touch(call.answer.cred(), userid) {
            let text = "guests can only add a memo to their own jobs";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if self.is_inactive(request.id) {
            return Err(RpcError::new(Errno::ENOENT, "job is inactive"));
        }
        self.has_room(request.id, call.answer.cred())?;
        let data = Value::Object(request.memo.clone());
        if request.volatile {
            self.post_volatile(cx, request.id, "memo", data);
        } else {
            self.commits.check()?;
            self.post(cx, request.id, "memo", data);
        }
        Ok(())
    }

    /// `job-manager.post-event.post`.
    pub(crate) fn post_event(&mut self, cx: &mut Cx<'_, Wait>, call: Call<PostJobEvent_>) {
        match self.try_post_event(cx, &call) {
            Ok(()) => self.commits.after(After::Post(call.answer)),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn try_post_event(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        call: &Call<PostJobEvent_>,
    ) -> Result<(), RpcError> {
        let request = &call.request;
        self.owner_of(request.id)?;
        let data = match &request.context {
            None => Value::Null,
            Some(Value::Object(context)) => Value::Object(context.clone()),
            Some(_) => {
                let text = "event context must be an object";
                return Err(RpcError::new(Errno::EINVAL, text));
            }
        };
        let event = flux_model::eventlog::Event {
            context: crate::life::context(data),
            ..flux_model::eventlog::Event::new(cx.wall(), request.name.as_str())
        };
        let Some(job) = self.jobs.get(&request.id).filter(|_| !self.is_inactive(request.id)) else {
            return Err(RpcError::new(Errno::EINVAL, "job is inactive"));
        };
        if request.name.is_empty() {
            return Err(RpcError::new(Errno::EINVAL, "event name is empty"));
        }
        // Events that drive the state are this service's alone.
        const OWN: &[&str] = &[
            "alloc",
            "clean",
            "depend",
            "finish",
            "flux-restart",
            "free",
            "priority",
            "release",
            "start",
            "exception",
            "jobspec-update",
            "resource-update",
            "urgency",
        ];
        if OWN.contains(&request.name.as_str()) {
            let text = format!("event {} cannot be posted by hand", request.name);
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        flux_model::job_event::check::legal(&job.status, &event)
            .map_err(|error| RpcError::new(Errno::EINVAL, error.to_string()))?;
        self.commits.check()?;
        self.record(cx, request.id, &event, true);
        Ok(())
    }
}
