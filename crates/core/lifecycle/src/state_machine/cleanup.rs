//! What rank 0 does to end the work of an instance, before commands that were pushed.
//!
//! The steps are those that flux-core's cleanup commands take, without starting a process for
//! each: stop the queues (not remembered), mute the scheduler's view of resources, cancel what
//! runs, wait until nothing runs.

use flux_api::body::AnyObject;
use flux_api::job::manager::{Idle, QueueStart, QueueStart_, RaiseAll, RaiseAllRequest};
use flux_api::resource::AcquireMute;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use super::runat::Group;
use super::{StateMachineService, Wait};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupStep {
    /// No more jobs are started.
    StopQueues,
    /// The scheduler hears no more of ranks that leave.
    Mute,
    /// Running jobs are canceled.
    Cancel,
    /// Nothing runs any more.
    Idle,
}

/// Bit of state RUN.
const RUN: u32 = 16;

impl StateMachineService {
    pub(super) fn begin_cleanup(&mut self, cx: &mut Cx<'_, Wait>) {
        if cx.rank() > 0 || self.leaving {
            // The instance goes on, or is there again when its leader is.
            return self.run_group(cx, Group::Cleanup);
        }
        self.cleanup_step(cx, CleanupStep::StopQueues);
    }

    fn cleanup_step(&mut self, cx: &mut Cx<'_, Wait>, step: CleanupStep) {
        let here = To::Rank(0);
        let wait = Wait::Cleanup(step);
        match step {
            CleanupStep::StopQueues => {
                let request = QueueStart {
                    name: None,
                    start: false,
                    reason: Some("the instance is shutting down".to_string()),
                    all: true,
                    nocheckpoint: true,
                };
                cx.call::<QueueStart_>(here, &request, wait);
            }
            CleanupStep::Mute => {
                cx.call::<AcquireMute>(here, &flux_api::Empty, wait);
            }
            CleanupStep::Cancel if self.settings.keep_jobs => self.run_group(cx, Group::Cleanup),
            CleanupStep::Cancel => {
                let request = RaiseAllRequest {
                    dry_run: false,
                    userid: -1,
                    states: RUN,
                    severity: 0,
                    kind: "cancel".to_string(),
                    note: Some("the instance is shutting down".to_string()),
                };
                cx.call::<RaiseAll>(here, &request, wait);
            }
            CleanupStep::Idle => {
                cx.call::<Idle>(here, &AnyObject::default(), wait);
            }
        }
    }

    pub(super) fn cleanup_reply(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        step: CleanupStep,
        reply: &Reply,
    ) {
        if let Some(error) = reply.error()
            && error.errno != Errno::ENOSYS
        {
            cx.log(Level::Err, format!("cleanup: {step:?}: {error}"));
        }
        match step {
            CleanupStep::StopQueues => self.cleanup_step(cx, CleanupStep::Mute),
            CleanupStep::Mute => self.cleanup_step(cx, CleanupStep::Cancel),
            CleanupStep::Cancel => self.cleanup_step(cx, CleanupStep::Idle),
            CleanupStep::Idle => self.run_group(cx, Group::Cleanup),
        }
    }
}
