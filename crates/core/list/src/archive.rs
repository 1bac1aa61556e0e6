//! Finished jobs on disk: each goes to the archive soon after its end, and comes back from there
//! after a restart, so that the journal need not tell of it again.
//!
//! The archive first, then the word to the manager: whatever a crash cuts off is done again.

use std::collections::BTreeSet;

use flux_api::archive::{
    ArchiveCursor, ArchiveIds, ArchiveList, ArchiveListRequest, ArchivePut, ArchiveRemove,
    ArchivedJob, ArchivedJobs,
};
use flux_api::job::manager::{Archived, ArchivedIds};
use flux_model::job_event::{JobResult, JobState};
use flux_svc::{Cx, Level, Reply, To};

use crate::finished::json_text;
use crate::view::{ExceptionView, JobView, Json};
use crate::{ListService, Wait};

/// How long finished jobs gather before they are put, in microseconds.
pub const GATHER_US: u64 = 200_000;
/// How long to wait after a put that failed, in microseconds.
pub const RETRY_US: u64 = 1_000_000;
/// Jobs in one put.
const PUT_MAX: usize = 1000;
/// Jobs read at once; small, so that others are served in between.
const READ_MAX: u64 = 256;

/// What is on its way to the archive, and from there.
#[derive(Debug, Default)]
pub(crate) struct Archiver {
    /// The instance has an archive.
    kept: bool,
    /// Jobs to put.
    outbox: BTreeSet<u64>,
    /// Jobs of the put that is in flight, and those of them that were purged meanwhile.
    flying: Option<(Vec<u64>, Vec<u64>)>,
    armed: bool,
    failing: bool,
    /// The archive is being read; which time.
    loading: Option<u64>,
    loads: u64,
}

impl Archiver {
    pub(crate) fn new() -> Self {
        Self { kept: true, ..Self::default() }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether finished jobs are still being read.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// All jobs will be told or read anew.
    pub(crate) fn reset(&mut self) {
        self.outbox.clear();
        self.loads += 1;
        self.loading = self.kept.then_some(self.loads);
    }

    /// A job was purged.
    pub(crate) fn purged(&mut self, id: u64) {
        self.outbox.remove(&id);
        if let Some((ids, gone)) = &mut self.flying
            && ids.contains(&id)
        {
            gone.push(id);
        }
    }

    /// Jobs that are not in the archive, for `stats-get`.
    pub(crate) fn waiting(&self) -> usize {
        self.outbox.len() + self.flying.as_ref().map_or(0, |(ids, _)| ids.len())
    }
}

/// What the archive keeps of a job.
fn to_archive(job: &JobView<'_>) -> ArchivedJob {
    let text = |text: Option<&str>| text.map(str::to_string);
    ArchivedJob {
        id: job.id,
        userid: job.userid,
        urgency: job.urgency,
        priority: job.priority,
        t_submit: job.t_submit,
        t_depend: job.t_depend,
        t_priority: job.t_priority,
        t_sched: job.t_sched,
        t_run: job.t_run,
        t_cleanup: job.t_cleanup,
        t_inactive: job.t_inactive.unwrap_or(job.t_submit),
        result: job.result.unwrap_or(JobResult::Failed).bit(),
        waitstatus: job.waitstatus,
        started: job.started,
        fatal: job.fatal,
        name: text(job.name),
        cwd: text(job.cwd),
        queue: text(job.queue),
        project: text(job.project),
        bank: text(job.bank),
        ntasks: job.ntasks,
        ncores: job.ncores,
        nnodes: job.nnodes,
        duration: job.duration,
        expiration: job.expiration,
        ranks: text(job.ranks),
        nodelist: text(job.nodelist),
        exception_type: text(job.exception.map(|e| e.kind)),
        exception_severity: job.exception.map(|e| e.severity),
        exception_note: text(job.exception.map(|e| e.note)),
        annotations: json_text(job.annotations),
        dependencies: json_text(job.dependencies),
    }
}

/// A job of the archive as it is listed.
fn from_archive(job: &ArchivedJob) -> JobView<'_> {
    JobView {
        id: job.id,
        userid: job.userid,
        urgency: job.urgency,
        priority: job.priority,
        t_submit: job.t_submit,
        t_depend: job.t_depend,
        t_priority: job.t_priority,
        t_sched: job.t_sched,
        t_run: job.t_run,
        t_cleanup: job.t_cleanup,
        t_inactive: Some(job.t_inactive),
        state: JobState::Inactive,
        name: job.name.as_deref(),
        cwd: job.cwd.as_deref(),
        queue: job.queue.as_deref(),
        project: job.project.as_deref(),
        bank: job.bank.as_deref(),
        ntasks: job.ntasks,
        ncores: job.ncores,
        duration: job.duration,
        nnodes: job.nnodes,
        ranks: job.ranks.as_deref(),
        nodelist: job.nodelist.as_deref(),
        result: JobResult::from_bit(job.result),
        exception: job.exception_type.as_deref().map(|kind| ExceptionView {
            kind,
            severity: job.exception_severity.unwrap_or(0),
            note: job.exception_note.as_deref().unwrap_or_default(),
        }),
        expiration: job.expiration,
        annotations: job.annotations.as_deref().map(Json::Text),
        waitstatus: job.waitstatus,
        dependencies: job.dependencies.as_deref().map(Json::Text),
        started: job.started,
        fatal: job.fatal,
    }
}

impl ListService {
    /// A job is over.
    pub(crate) fn ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if self.archiver.kept {
            self.archiver.outbox.insert(id);
            self.put_soon(cx);
        }
    }

    fn put_soon(&mut self, cx: &mut Cx<'_, Wait>) {
        let archiver = &mut self.archiver;
        if archiver.flying.is_some() || archiver.outbox.is_empty() {
            return;
        }
        if archiver.outbox.len() >= PUT_MAX && !archiver.failing {
            self.put(cx);
        } else if !archiver.armed {
            archiver.armed = true;
            cx.timer(if archiver.failing { RETRY_US } else { GATHER_US }, Wait::Put);
        }
    }

    /// The time to gather is over.
    pub(crate) fn put_now(&mut self, cx: &mut Cx<'_, Wait>) {
        self.archiver.armed = false;
        if self.archiver.flying.is_none() {
            self.put(cx);
        }
    }

    fn put(&mut self, cx: &mut Cx<'_, Wait>) {
        let mut ids = Vec::new();
        let mut jobs = Vec::new();
        while jobs.len() < PUT_MAX {
            let Some(id) = self.archiver.outbox.pop_first() else { break };
            if let Some(job) = self.store.finished.get(id) {
                jobs.push(to_archive(&job));
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            self.archiver.flying = Some((ids, Vec::new()));
            cx.call::<ArchivePut>(To::Any, &ArchivedJobs { jobs }, Wait::Archived);
        }
    }

    /// Jobs are in the archive, or are not.
    pub(crate) fn put_settled(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let Some((mut ids, gone)) = self.archiver.flying.take() else { return };
        ids.retain(|id| !gone.contains(id));
        match reply.error() {
            None => {
                if std::mem::take(&mut self.archiver.failing) {
                    cx.log(Level::Notice, "finished jobs can be archived again");
                }
                if !ids.is_empty() {
                    cx.notify::<Archived>(To::Rank(cx.rank()), &ArchivedIds { ids });
                }
                if !gone.is_empty() {
                    cx.call::<ArchiveRemove>(To::Any, &ArchiveIds { ids: gone }, Wait::Unarchived);
                }
            }
            Some(error) => {
                if !std::mem::replace(&mut self.archiver.failing, true) {
                    let text = format!("cannot archive finished jobs: {error}; tried again later");
                    cx.log(Level::Err, text);
                }
                self.archiver.outbox.extend(ids);
            }
        }
        if !self.draining {
            self.put_soon(cx);
        }
    }

    /// Begins to read finished jobs.
    pub(crate) fn load(&mut self, cx: &mut Cx<'_, Wait>, after: Option<ArchiveCursor>) {
        if let Some(load) = self.archiver.loading {
            let request = ArchiveListRequest { after, max: READ_MAX };
            cx.call::<ArchiveList>(To::Any, &request, Wait::Load(load));
        }
    }

    /// Finished jobs from the archive.
    pub(crate) fn loaded(&mut self, cx: &mut Cx<'_, Wait>, load: u64, reply: &Reply) {
        if self.archiver.loading != Some(load) || self.draining {
            return;
        }
        let jobs = match reply.decode::<ArchiveList>() {
            Ok(found) => found.jobs,
            Err(error) => {
                cx.log(Level::Err, format!("finished jobs cannot be read: {error}"));
                Vec::new()
            }
        };
        for job in &jobs {
            // What the journal tells is newer; what was purged stays so.
            if !self.follow.was_purged(job.id) && self.store.load(&from_archive(job)) {
                self.wake(cx, job.id);
            }
        }
        match jobs.last() {
            Some(last) => {
                let after = ArchiveCursor { t_inactive: last.t_inactive, id: last.id };
                self.load(cx, Some(after));
            }
            None => {
                self.archiver.loading = None;
                self.settled(cx);
            }
        }
    }
}
