//! The queue RPCs, and what a restart remembers of queues.

use flux_api::job::manager::{QueueEnable_, QueueStart_, QueueStatus_};
use flux_api::{Call, Empty, RpcError};
use flux_model::job_event::JobState;
use flux_model::treeobj::Treeobj;
use flux_svc::Cx;
use serde_json::json;

use crate::commits::After;
use crate::service::{JobManager, Wait};

/// Key of what a restart must know beside the jobs.
pub const CHECKPOINT: &str = "checkpoint.job-manager";

impl JobManager {
    /// Writes the checkpoint with the next commit.
    pub(crate) fn checkpoint(&mut self) {
        let value = json!({
            "version": 1,
            "max_jobid": self.max_jobid,
            "queue": self.queues.save(),
        });
        let text = value.to_string();
        self.commits.put(CHECKPOINT.to_string(), Treeobj::val(text.into_bytes()));
    }

    /// `job-manager.queue-status`.
    pub(crate) fn queue_status(&self, cx: &mut Cx<'_, Wait>, call: Call<QueueStatus_>) {
        let result = self.queues.status(call.request.name.as_deref(), self.alloc.is_ready());
        call.answer.respond(cx, result);
    }

    /// `job-manager.queue-enable`.
    pub(crate) fn queue_enable(&mut self, cx: &mut Cx<'_, Wait>, call: Call<QueueEnable_>) {
        let request = call.request;
        let result = self.commits.check().and_then(|()| {
            let name = request.name.as_deref();
            self.queues.enable(name, request.all, request.enable, request.reason)
        });
        match result {
            Ok(()) => {
                self.checkpoint();
                self.commits.after(After::QueueEnable(call.answer));
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    /// `job-manager.queue-start`.
    pub(crate) fn queue_start(&mut self, cx: &mut Cx<'_, Wait>, call: Call<QueueStart_>) {
        let request = call.request;
        let name = request.name.as_deref();
        let sticky = !request.nocheckpoint;
        let check = if sticky { self.commits.check() } else { Ok(()) };
        let result: Result<(), RpcError> = check.and_then(|()| {
            self.queues.start(name, request.all, request.start, request.reason.clone(), sticky)
        });
        match result {
            Ok(()) => {
                if request.ending {
                    self.queues.end(request.reason.as_deref().unwrap_or("the instance ends"));
                }
                self.queue_changed(name);
                if sticky {
                    self.checkpoint();
                    self.commits.after(After::QueueStart(call.answer));
                } else {
                    // Nothing to remember, so a full disk does not keep an instance from its end.
                    call.answer.ok(cx, &Empty);
                }
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    /// Jobs of this queue, or of all, may be eligible now, or no longer.
    pub(crate) fn queue_changed(&mut self, name: Option<&str>) {
        let affected: Vec<u64> = self
            .jobs
            .values()
            .filter(|job| job.state() == JobState::Sched)
            .filter(|job| self.queues.covers(name, job.queue.as_deref()))
            .map(|job| job.id)
            .collect();
        self.touched.extend(affected);
    }
}
