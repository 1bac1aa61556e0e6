//! Those who wait: for one job (`wait`), for no active job (`drain`), for no running job (`idle`).

use std::collections::{BTreeMap, BTreeSet};

use flux_api::job::manager::{Drain, Idle, IdleResponse, Wait as WaitRpc, WaitResponse};
use flux_api::job::{FLAG_WAITABLE, JOBID_ANY};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_model::job_event::{JobState, JobStatus};
use flux_model::{signal, wait_status};
use flux_proto::{Errno, Message};
use flux_svc::Cx;

use crate::job::Job;
use crate::service::{JobManager, Wait};

/// Requests that wait, and the results of waitable jobs that nobody has fetched.
#[derive(Debug, Default)]
pub struct Waiters {
    /// Results of waitable jobs, until they are fetched.
    done: BTreeMap<u64, (bool, String)>,
    /// Waitable jobs that are active.
    active: BTreeSet<u64>,
    /// Waiters for one job.
    one: BTreeMap<u64, Answer<WaitRpc>>,
    /// Waiters for any job, oldest first.
    any: Vec<Answer<WaitRpc>>,
    drain: Vec<Answer<Drain>>,
    idle: Vec<Answer<Idle>>,
}

impl Waiters {
    /// An active job that can be waited for.
    pub(crate) fn expect(&mut self, id: u64) {
        self.active.insert(id);
    }

    /// Whether the result of this job was not fetched yet.
    pub(crate) fn is_done(&self, id: u64) -> bool {
        self.done.contains_key(&id)
    }

    /// A waitable job that had ended before a restart, and was not waited for.
    pub(crate) fn restore(&mut self, id: u64, status: &JobStatus) {
        self.done.insert(id, result(status));
    }

    /// A job is gone from the active ones.
    pub(crate) fn forget_job(&mut self, id: u64) {
        self.active.remove(&id);
    }
}

/// How a job ended: success, or why not.
fn result(status: &JobStatus) -> (bool, String) {
    if let Some(exception) = &status.fatal_exception {
        let text = format!("Fatal exception type={} {}", exception.kind, exception.note);
        return (false, text);
    }
    let status = status.finish_status.unwrap_or(1 << 8);
    match (wait_status::signal(status), wait_status::code(status)) {
        (Some(signum), _) => (false, format!("job shell {}", signal::describe(signum))),
        (None, 0) => (true, String::new()),
        (None, code @ 129..) => (false, format!("task(s) {}", signal::describe(code - 128))),
        (None, code) => (false, format!("task(s) exited with exit code {code}")),
    }
}

impl JobManager {
    /// `job-manager.wait`.
    pub(crate) fn wait(&mut self, cx: &mut Cx<'_, Wait>, call: Call<WaitRpc>) {
        let id = call.request.id;
        let refuse = |text: &str| RpcError::new(Errno::ECHILD, text);
        if id == JOBID_ANY {
            if let Some((id, (success, errstr))) = self.waiting.done.pop_first() {
                self.fetched(id);
                return call.answer.ok(cx, &WaitResponse { id, success, errstr });
            }
            let taken = self.waiting.any.len() + self.waiting.one.len();
            if self.waiting.active.len() <= taken {
                return call.answer.err(cx, refuse("there are no more waitable jobs"));
            }
            return self.waiting.any.push(call.answer);
        }
        if let Some((success, errstr)) = self.waiting.done.remove(&id) {
            self.fetched(id);
            return call.answer.ok(cx, &WaitResponse { id, success, errstr });
        }
        if self.waiting.one.contains_key(&id) {
            return call.answer.err(cx, refuse("job id already has a waiter"));
        }
        let Some(job) = self.jobs.get(&id) else {
            let text = "invalid job id, or job may be inactive and not waitable";
            return call.answer.err(cx, refuse(text));
        };
        if !job.has_flag(FLAG_WAITABLE) {
            let text = "job was not submitted with FLUX_JOB_WAITABLE";
            return call.answer.err(cx, refuse(text));
        }
        self.waiting.one.insert(id, call.answer);
    }

    /// The result of a job was fetched: a restart need not know it any more.
    fn fetched(&mut self, id: u64) {
        if self.is_elsewhere(id) {
            self.commits.index.remove(id);
        }
    }

    /// A job's end is durable.
    pub(crate) fn waited(&mut self, cx: &mut Cx<'_, Wait>, job: &Job) {
        if !job.has_flag(FLAG_WAITABLE) {
            return;
        }
        let (success, errstr) = result(&job.status);
        let response = WaitResponse { id: job.id, success, errstr };
        if let Some(answer) = self.waiting.one.remove(&job.id) {
            answer.ok(cx, &response);
        } else if !self.waiting.any.is_empty() {
            self.waiting.any.remove(0).ok(cx, &response);
        } else {
            self.waiting.done.insert(job.id, (response.success, response.errstr));
        }
    }

    /// `job-manager.drain`.
    pub(crate) fn drain(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Drain>) {
        self.waiting.drain.push(call.answer);
        self.drain_waiters(cx);
    }

    /// Answers `drain` once no job is active, durably.
    pub(crate) fn drain_waiters(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.jobs.is_empty() {
            for answer in self.waiting.drain.drain(..) {
                answer.ok(cx, &Empty);
            }
        }
    }

    /// `job-manager.idle`; answered at the end of the input, if it holds.
    pub(crate) fn idle(&mut self, call: Call<Idle>) {
        self.waiting.idle.push(call.answer);
    }

    /// Answers `idle` once no job runs and none is about to, durably.
    pub(crate) fn answer_idle(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.waiting.idle.is_empty() || self.running > 0 || self.alloc.outstanding() > 0 {
            return;
        }
        // A job that has just ended counts until its end is durable.
        let ending = self.jobs.values().any(|job| job.state() == JobState::Inactive);
        if ending || !self.commits.is_idle() {
            return;
        }
        let pending = self.jobs.len() as u64;
        for answer in self.waiting.idle.drain(..) {
            answer.ok(cx, &IdleResponse { pending });
        }
    }

    /// A client went away.
    pub(crate) fn waiters_disconnect(&mut self, message: &Message) {
        let waiting = &mut self.waiting;
        let gone: Vec<u64> = waiting
            .one
            .iter()
            .filter(|(_, answer)| answer.same_sender(message))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(answer) = waiting.one.remove(&id) {
                answer.forget();
            }
        }
        waiting.any.extract_if(.., |a| a.same_sender(message)).for_each(Answer::forget);
        waiting.drain.extract_if(.., |a| a.same_sender(message)).for_each(Answer::forget);
        waiting.idle.extract_if(.., |a| a.same_sender(message)).for_each(Answer::forget);
    }

    /// The service goes down.
    pub(crate) fn waiters_end(&mut self, cx: &mut Cx<'_, Wait>) {
        let gone = || RpcError::new(Errno::ENOSYS, "job-manager is unloading");
        let waiting = std::mem::take(&mut self.waiting);
        waiting.one.into_values().chain(waiting.any).for_each(|a| a.err(cx, gone()));
        waiting.drain.into_iter().for_each(|a| a.err(cx, gone()));
        waiting.idle.into_iter().for_each(|a| a.err(cx, gone()));
    }
}
