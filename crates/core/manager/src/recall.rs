//! Finished jobs that are no longer in memory: a request that means one waits until the archive
//! has told of it.

use std::collections::BTreeMap;

use flux_api::archive::{
    ArchiveGet, ArchiveIds, ArchiveOfUser, ArchiveUserRequest, ArchivedJob, CHUNK_MAX,
};
use flux_api::job::manager::{Archived, History, HistoryResponse, Manager};
use flux_api::{Call, RpcError};
use flux_id::JobId;
use flux_model::job_event::JobResult;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Value;

use crate::inactive::Record;
use crate::inquiry::{history_need, slice};
use crate::service::{JobManager, Wait, refuse};

/// Requests that may wait for the archive; more are refused.
const WAITING_MAX: usize = 4096;
/// Jobs of a user that `history.get` looks at.
const HISTORY_MAX: u64 = 1 << 20;

/// Requests that wait for the archive.
#[derive(Debug, Default)]
pub struct Recall {
    calls: BTreeMap<u64, Manager>,
    histories: BTreeMap<u64, Call<History>>,
    next: u64,
    /// Jobs that the archive told of, for the request that is being handled.
    pub(crate) found: BTreeMap<u64, Record>,
}

impl From<&ArchivedJob> for Record {
    fn from(job: &ArchivedJob) -> Self {
        Self {
            userid: job.userid,
            t_inactive: job.t_inactive,
            ran: job.t_run.is_some(),
            started: job.started,
            success: job.result == JobResult::Completed.bit() && !job.fatal,
            exception: job.fatal,
        }
    }
}

/// Jobs that the dependencies of a jobspec name.
fn targets_of(jobspec: &Value) -> impl Iterator<Item = u64> + '_ {
    let list = crate::submit::system(jobspec, "dependencies").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|entry| {
        let scheme = entry.get("scheme")?.as_str()?;
        let value = entry.get("value")?.as_str()?;
        (scheme.starts_with("after")).then(|| value.parse::<JobId>().ok())?.map(|id| id.0)
    })
}

/// Jobs that a request means, as far as finished ones matter to it.
fn meant(call: &Manager) -> Vec<u64> {
    match call {
        Manager::Submit(call) => {
            call.request.jobs.iter().flat_map(|job| targets_of(&job.jobspec)).collect()
        }
        Manager::Urgency(call) => vec![call.request.id],
        Manager::Raise(call) => vec![call.request.id],
        Manager::Kill(call) => vec![call.request.id],
        Manager::Update(call) => vec![call.request.id],
        Manager::Memo(call) => vec![call.request.id],
        Manager::PurgeId_(call) => vec![call.request.id],
        Manager::PostJobEvent_(call) => vec![call.request.id],
        _ => Vec::new(),
    }
}

impl JobManager {
    /// A finished job, from memory or as the archive just told.
    pub(crate) fn finished(&self, id: u64) -> Option<&Record> {
        self.inactive.get(id).or_else(|| self.recall.found.get(&id))
    }

    /// Whether only the archive can know of this job.
    pub(crate) fn is_elsewhere(&self, id: u64) -> bool {
        self.archive
            && id != 0
            && id <= self.max_jobid
            && !self.jobs.contains_key(&id)
            && self.inactive.get(id).is_none()
    }

    /// Handles a request, at once or when users and archive have told of whom and what it means.
    pub(crate) fn route(&mut self, cx: &mut Cx<'_, Wait>, call: Manager) {
        let Some(call) = self.with_names(cx, call) else { return };
        let mut ids = if self.archive { meant(&call) } else { Vec::new() };
        ids.retain(|id| self.is_elsewhere(*id));
        if ids.is_empty() {
            return self.call(cx, call);
        }
        ids.sort_unstable();
        ids.dedup();
        if self.recall.calls.len() >= WAITING_MAX {
            let text = "too many requests for finished jobs: try again";
            return refuse(cx, call, RpcError::new(Errno::EAGAIN, text));
        }
        if ids.len() as u64 > CHUNK_MAX {
            let text = format!("more than {CHUNK_MAX} finished jobs are meant");
            return refuse(cx, call, RpcError::new(Errno::EINVAL, text));
        }
        let ticket = self.recall.next;
        self.recall.next += 1;
        self.recall.calls.insert(ticket, call);
        cx.call::<ArchiveGet>(To::Any, &ArchiveIds { ids }, Wait::Recall(ticket));
    }

    /// The archive told of the jobs that a request means.
    pub(crate) fn recalled(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(call) = self.recall.calls.remove(&ticket) else { return };
        match reply.decode::<ArchiveGet>() {
            Ok(found) => {
                self.recall.found =
                    found.jobs.iter().map(|job| (job.id, Record::from(job))).collect();
                self.call(cx, call);
                self.recall.found.clear();
            }
            Err(error) => {
                let text = format!("cannot look for finished jobs: {error}");
                refuse(cx, call, RpcError::new(error.errno, text));
            }
        }
    }

    /// `job-manager.history.get`.
    pub(crate) fn history_get(&mut self, cx: &mut Cx<'_, Wait>, call: Call<History>) {
        if !self.archive {
            return self.tell_history(cx, call, &[]);
        }
        if self.recall.histories.len() >= WAITING_MAX {
            return call.answer.err(cx, Errno::EAGAIN);
        }
        let userid = call.answer.cred().userid;
        let max = history_need(&call.request.slice).unwrap_or(HISTORY_MAX).min(HISTORY_MAX);
        let ticket = self.recall.next;
        self.recall.next += 1;
        self.recall.histories.insert(ticket, call);
        let request = ArchiveUserRequest { userid, max };
        cx.call::<ArchiveOfUser>(To::Any, &request, Wait::History(ticket));
    }

    /// The archive told of a user's jobs.
    pub(crate) fn history_read(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(call) = self.recall.histories.remove(&ticket) else { return };
        match reply.decode::<ArchiveOfUser>() {
            Ok(old) => self.tell_history(cx, call, &old.ids),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn tell_history(&self, cx: &mut Cx<'_, Wait>, call: Call<History>, old: &[u64]) {
        let userid = call.answer.cred().userid;
        let mut all: Vec<u64> = self.history.of(userid).chain(old.iter().copied()).collect();
        if !old.is_empty() {
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.dedup();
        }
        let Some(picked) = slice(&call.request.slice, all.len()) else {
            let text = format!("could not parse python-style slice '{}'", call.request.slice);
            return call.answer.err(cx, RpcError::new(Errno::EINVAL, text));
        };
        let jobs = picked.into_iter().filter_map(|at| all.get(at).copied()).collect();
        call.answer.ok(cx, &HistoryResponse { jobs });
    }

    /// `job-manager.archived`: these jobs need not be remembered here.
    pub(crate) fn archived(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Archived>) {
        if self.archive {
            for id in &call.request.ids {
                if let Some(job) = self.jobs.get_mut(id) {
                    // Its last event is not stored yet.
                    job.archived = true;
                } else {
                    self.let_go(*id);
                }
            }
            self.migration_done(cx);
        }
        call.answer.forget();
    }

    /// A finished job is in the archive.
    pub(crate) fn let_go(&mut self, id: u64) {
        if self.inactive.remove(id).is_none() {
            return;
        }
        self.history.remove(id);
        self.archived += 1;
        if !self.waiting.is_done(id) {
            self.commits.index.remove(id);
        }
    }

    /// Once a scan has brought every finished job into the archive, no other is needed.
    pub(crate) fn migration_done(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.migrating && self.inactive.is_empty() && !self.commits.index.is_pending() {
            self.migrating = false;
            cx.call::<flux_api::archive::ArchiveComplete>(
                To::Any,
                &flux_api::body::AnyObject::default(),
                Wait::Complete,
            );
        }
    }

    /// The archive has taken that note, or not: then the next restart scans again.
    pub(crate) fn completed(cx: &mut Cx<'_, Wait>, reply: &Reply) {
        if let Some(error) = reply.error() {
            cx.log(Level::Err, format!("archive of jobs: {error}"));
        }
    }

    /// The service goes down.
    pub(crate) fn recall_end(&mut self, cx: &mut Cx<'_, Wait>) {
        let gone = || RpcError::new(Errno::ENOSYS, "job-manager is unloading");
        for call in std::mem::take(&mut self.recall.calls).into_values() {
            refuse(cx, call, gone());
        }
        for call in std::mem::take(&mut self.recall.histories).into_values() {
            call.answer.err(cx, gone());
        }
    }
}
