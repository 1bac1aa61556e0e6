//! Signals to the tasks of jobs.
//!
//! A signal is an event to the shells. Execution remembers it for those that cannot hear it; who
//! asked for it has the answer when execution has said so.

use std::collections::BTreeMap;

use flux_api::job::exec::Signalled;
use flux_api::job::manager::{CountResponse, Kill, KillAll, KillRequest};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_model::job_event::JobState;
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Reply, To};
use serde_json::{Map, Value};

use crate::exception::{may_touch, wanted_user};
use crate::job::{Job, StartState};
use crate::service::{JobManager, Wait};

/// Greatest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

fn check(signum: i32) -> Result<(), RpcError> {
    if (1..=SIGNAL_MAX).contains(&signum) {
        return Ok(());
    }
    Err(RpcError::new(Errno::EINVAL, "Invalid signal number"))
}

/// Who is answered when a signal is sure to arrive.
#[derive(Debug)]
enum Asked {
    One(Answer<Kill>),
    All(Answer<KillAll>, CountResponse),
}

/// Signals that execution has not yet taken.
#[derive(Debug, Default)]
pub struct Signals {
    next: u64,
    /// By ticket: who asked, and how many jobs execution has not answered for.
    asked: BTreeMap<u64, (Asked, u64)>,
    /// By job: signals for shells that a former start of the leader may have left, and which
    /// execution has not been asked to find yet; with their tickets.
    held: BTreeMap<u64, Vec<(u64, Signalled)>>,
}

/// Most signals that are held for one job.
const HELD: usize = 64;

impl JobManager {
    /// `job-manager.kill`.
    pub(crate) fn kill(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Kill>) {
        match self.try_kill(&call) {
            Ok(()) => {
                let KillRequest { id, signum, .. } = call.request;
                self.signal(cx, &[id], signum, Asked::One(call.answer));
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn try_kill(&self, call: &Call<Kill>) -> Result<(), RpcError> {
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
        let Some(job) = self.jobs.get(&id).filter(|job| states.contains(&job.state())) else {
            return Err(invalid("job is not running"));
        };
        if job.start == StartState::Idle && !job.replayed {
            return Err(invalid("job is not running yet"));
        }
        if self.signals.held.get(&id).is_some_and(|held| held.len() >= HELD) {
            return Err(RpcError::new(Errno::EAGAIN, "too many signals wait for this job"));
        }
        Ok(())
    }

    /// `job-manager.killall`.
    pub(crate) fn kill_all(&mut self, cx: &mut Cx<'_, Wait>, call: Call<KillAll>) {
        match self.to_kill(&call) {
            Ok(jobs) => {
                let answer = CountResponse { count: jobs.len() as u64, errors: 0 };
                let jobs = if call.request.dry_run { Vec::new() } else { jobs };
                self.signal(cx, &jobs, call.request.signum, Asked::All(call.answer, answer));
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    /// The jobs that a `killall` means.
    fn to_kill(&self, call: &Call<KillAll>) -> Result<Vec<u64>, RpcError> {
        let request = &call.request;
        check(request.signum)?;
        let user = wanted_user(request.userid)?;
        let cred = call.answer.cred();
        if !cred.rolemask.contains(Rolemask::OWNER) && user != Some(cred.userid) {
            return Err(RpcError::new(Errno::EPERM, "guests can only kill their own jobs"));
        }
        let meant = |job: &&Job| {
            matches!(job.state(), JobState::Run | JobState::Cleanup)
                && user.is_none_or(|user| user == job.status.userid)
        };
        Ok(self.jobs.values().filter(meant).map(|job| job.id).collect())
    }

    /// Publishes a signal for each of these jobs, and hands it to execution.
    fn signal(&mut self, cx: &mut Cx<'_, Wait>, jobs: &[u64], signum: i32, asked: Asked) {
        let ticket = self.signals.next;
        self.signals.next += 1;
        for id in jobs {
            let mut body = Map::new();
            body.insert("signum".into(), Value::from(signum));
            // Shells that may have missed it are told again, and take each number once. JSON
            // numbers are exact up to 53 bits.
            let n = cx.random() >> 11;
            body.insert("n".into(), Value::from(n));
            // Which jobs there are and what becomes of them is their users' affair.
            let userid = self.jobs.get(id).map_or(cx.own_cred().userid, |job| job.status.userid);
            let cred = Cred { userid, ..cx.own_cred() };
            cx.publish_as(cred, &format!("shell-{id}.kill"), &body, true);
            let signal = Signalled { id: *id, n, signum };
            if self.jobs.get(id).is_some_and(Job::is_to_be_found) {
                self.signals.held.entry(*id).or_default().push((ticket, signal));
            } else {
                self.send_signal(cx, ticket, &signal);
            }
        }
        self.signals.asked.insert(ticket, (asked, jobs.len() as u64));
        self.signal_taken(cx, ticket);
    }

    fn send_signal(&self, cx: &mut Cx<'_, Wait>, ticket: u64, signal: &Signalled) {
        let service = self.exec.service().unwrap_or("job-exec");
        let message = Message::request(format!("{service}.signal")).with_json(signal);
        cx.request(To::Any, message, Wait::Signal(ticket));
    }

    /// Execution was asked to find the shells of a job: now it can be told what they may have missed.
    pub(crate) fn send_held_signals(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        for (ticket, signal) in self.signals.held.remove(&id).unwrap_or_default() {
            self.send_signal(cx, ticket, &signal);
        }
    }

    /// A job is over without that.
    pub(crate) fn drop_held_signals(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        for (ticket, _) in self.signals.held.remove(&id).unwrap_or_default() {
            self.signal_done(cx, ticket, Some(RpcError::new(Errno::EINVAL, "job is inactive")));
        }
    }

    /// Execution has taken a signal, or could not.
    pub(crate) fn signal_reply(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        self.signal_done(cx, ticket, reply.error().cloned());
    }

    fn signal_done(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, error: Option<RpcError>) {
        let Some((asked, left)) = self.signals.asked.get_mut(&ticket) else { return };
        *left -= 1;
        // Without this service there is nobody who could remember it: shells that listen have it.
        if let Some(error) = error.filter(|error| error.errno != Errno::ENOSYS) {
            match asked {
                Asked::All(_, answer) => answer.errors += 1,
                Asked::One(_) => {
                    if let Some((Asked::One(answer), _)) = self.signals.asked.remove(&ticket) {
                        answer.err(cx, error);
                    }
                    return;
                }
            }
        }
        self.signal_taken(cx, ticket);
    }

    fn signal_taken(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        if self.signals.asked.get(&ticket).is_none_or(|(_, left)| *left > 0) {
            return;
        }
        match self.signals.asked.remove(&ticket) {
            Some((Asked::One(answer), _)) => answer.ok(cx, &Empty),
            Some((Asked::All(answer, count), _)) => answer.ok(cx, &count),
            None => {}
        }
    }
}
