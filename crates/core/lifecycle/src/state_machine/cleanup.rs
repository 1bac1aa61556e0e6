//! What rank 0 does to end the work of an instance, before commands that were pushed.
//!
//! The steps are those that flux-core's cleanup commands take, without starting a process for
//! each: stop the queues (not remembered), see to it that no rank which leaves is taken for gone for
//! good, cancel what runs, wait until nothing runs. Jobs that are to outlive the stop are held instead: brokers that
//! leave are no loss of nodes to them.
//!
//! | the leader is told to stop by | jobs | other brokers |
//! |---|---|---|
//! | a signal | as `exec.on-shutdown` says | end with the jobs, or wait for its return |
//! | `flux shutdown` | are canceled | end |
//! | `flux shutdown --keep-jobs` | run on | end |
//! | `flux shutdown --alone` | run on | wait for its return |

use flux_api::RpcError;
use flux_api::body::AnyObject;
use flux_api::job::exec::Hold;
use flux_api::job::manager::{Idle, QueueStart, QueueStart_, RaiseAll, RaiseAllRequest};
use flux_api::resource::AcquireMute;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, Value};

use super::runat::Group;
use super::state::State;
use super::{StateMachineService, Wait};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupStep {
    /// No more jobs are started, even if somebody starts a queue.
    StopQueues,
    /// Ranks that leave are not gone for good.
    Mute,
    /// Running jobs stay as they are.
    Hold,
    /// Running jobs are canceled.
    Cancel,
    /// Nothing runs any more.
    Idle,
}

/// Bit of state RUN.
const RUN: u32 = 16;

impl StateMachineService {
    /// Whether a signal to this broker is meant for it alone.
    pub(super) fn stops_alone(&self, cx: &mut Cx<'_, Wait>) -> bool {
        if cx.rank() > 0 || self.state < State::Run {
            return true;
        }
        if self.leave_jobs && !self.settings.can_return {
            let text =
                "exec.on-shutdown: no job can be left, the state of this instance ends with it";
            cx.log(Level::Err, text);
        }
        self.leave_jobs && self.settings.can_return
    }

    pub(super) fn begin_cleanup(&mut self, cx: &mut Cx<'_, Wait>) {
        if cx.rank() > 0 {
            return self.run_group(cx, Group::Cleanup);
        }
        if self.leaving {
            // The instance is there again when its leader is.
            return self.cleanup_step(cx, CleanupStep::Hold);
        }
        if self.hurried {
            self.arm(cx, self.settings.cleanup_timeout, Wait::GiveUp(State::Cleanup));
        }
        self.cleanup_step(cx, CleanupStep::StopQueues);
    }

    /// Work does not end in time, or somebody does not want to wait for that: it is left as it is.
    pub(super) fn cut_cleanup(&mut self, cx: &mut Cx<'_, Wait>) {
        match self.cleanup {
            None => self.abort_group(cx, Group::Cleanup),
            // They are done at once.
            Some(CleanupStep::Hold) => {}
            Some(_) => {
                cx.log(
                    Level::Err,
                    "cleanup is given up: jobs that have not ended are left running",
                );
                self.code = if self.code == 0 { 1 } else { self.code };
                self.abort_group(cx, Group::Cleanup);
                self.cleanup_step(cx, CleanupStep::Hold);
            }
        }
    }

    fn cleanup_step(&mut self, cx: &mut Cx<'_, Wait>, step: CleanupStep) {
        let here = To::Rank(0);
        let wait = Wait::Cleanup(step);
        self.cleanup = Some(step);
        match step {
            CleanupStep::StopQueues => {
                let request = QueueStart {
                    name: None,
                    start: false,
                    reason: Some("the instance is shutting down".to_string()),
                    all: true,
                    nocheckpoint: true,
                    ending: true,
                };
                cx.call::<QueueStart_>(here, &request, wait);
            }
            CleanupStep::Mute => {
                cx.call::<AcquireMute>(here, &flux_api::Empty, wait);
            }
            CleanupStep::Hold => {
                cx.call::<Hold>(here, &flux_api::Empty, wait);
            }
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
        if self.cleanup != Some(step) {
            return;
        }
        if let Some(error) = reply.error()
            && error.errno != Errno::ENOSYS
        {
            cx.log(Level::Err, format!("cleanup: {step:?}: {error}"));
        }
        match step {
            CleanupStep::StopQueues => self.cleanup_step(cx, CleanupStep::Mute),
            CleanupStep::Mute if self.keep_jobs || self.settings.keep_jobs => {
                self.cleanup_step(cx, CleanupStep::Hold);
            }
            CleanupStep::Mute => self.cleanup_step(cx, CleanupStep::Cancel),
            CleanupStep::Cancel => self.cleanup_step(cx, CleanupStep::Idle),
            CleanupStep::Idle | CleanupStep::Hold => {
                self.cleanup = None;
                self.run_group(cx, Group::Cleanup);
            }
        }
    }
}

/// `exec.on-shutdown`.
pub(super) fn leaves_jobs(config: &Map<String, Value>) -> Result<bool, RpcError> {
    let value = config.get("exec").and_then(|table| table.get("on-shutdown"));
    match value.map(Value::as_str) {
        None | Some(Some("kill")) => Ok(false),
        Some(Some("leave")) => Ok(true),
        Some(_) => {
            let text = "exec.on-shutdown: must be \"kill\" or \"leave\"";
            Err(RpcError::new(Errno::EINVAL, text))
        }
    }
}
