//! The archive of finished jobs: a table in memory, each change of which takes as long as a
//! transaction on the disk and fails when the disk does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flux_api::archive::{
    Archive as ArchiveApi, ArchiveBeyond, ArchiveComplete, ArchiveIds, ArchiveInfo, ArchivePut,
    ArchiveRemove, ArchivedJob, ArchivedJobs,
};
use flux_api::{Api, Call, Empty, RpcError, rpc};
use flux_proto::{Errno, Message};

use crate::rng::Rng;

#[derive(Debug)]
enum Change {
    Put(Call<ArchivePut>),
    Remove(Call<ArchiveRemove>),
    Complete(Call<ArchiveComplete>),
}

impl Change {
    fn answer(self, out: &mut Vec<Message>, result: Result<(), RpcError>) {
        let result = result.map(|()| Empty);
        match self {
            Self::Put(call) => call.answer.respond(out, result),
            Self::Remove(call) => call.answer.respond(out, result),
            Self::Complete(call) => call.answer.respond(out, result),
        }
    }

    fn forget(self) {
        match self {
            Self::Put(call) => call.answer.forget(),
            Self::Remove(call) => call.answer.forget(),
            Self::Complete(call) => call.answer.forget(),
        }
    }
}

/// The archive of rank 0.
#[derive(Debug, Default)]
pub struct Archive {
    jobs: BTreeMap<u64, ArchivedJob>,
    /// Those that were forgotten since the start: they stay away.
    removed: BTreeSet<u64>,
    complete: bool,
    waiting: VecDeque<Change>,
    writing: Option<(Change, Option<Errno>)>,
    /// Times that the file was lost.
    pub losses: u64,
}

impl Archive {
    /// Number of jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether a job is there.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.jobs.contains_key(&id)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes a request; what is answered at once goes to `out`. True when a transaction begins,
    /// which [`Archive::written`] ends.
    pub fn request(
        &mut self,
        message: Message,
        fails: Option<Errno>,
        out: &mut Vec<Message>,
    ) -> bool {
        let by_end = |jobs: &BTreeMap<u64, ArchivedJob>| -> Vec<ArchivedJob> {
            let mut jobs: Vec<ArchivedJob> = jobs.values().cloned().collect();
            jobs.sort_by(|a, b| {
                (a.t_inactive, a.id).partial_cmp(&(b.t_inactive, b.id)).unwrap_or(a.id.cmp(&b.id))
            });
            jobs
        };
        let take = |max: u64| usize::try_from(max).unwrap_or(usize::MAX);
        match ArchiveApi::decode(message) {
            Ok(ArchiveApi::ArchivePut(call)) => self.waiting.push_back(Change::Put(call)),
            Ok(ArchiveApi::ArchiveRemove(call)) => self.waiting.push_back(Change::Remove(call)),
            Ok(ArchiveApi::ArchiveComplete(call)) => self.waiting.push_back(Change::Complete(call)),
            Ok(ArchiveApi::ArchiveList(call)) => {
                let after = call.request.after.clone();
                let jobs = by_end(&self.jobs)
                    .into_iter()
                    .rev()
                    .filter(|job| {
                        let key = (job.t_inactive, job.id);
                        after.as_ref().is_none_or(|after| key < (after.t_inactive, after.id))
                    })
                    .take(take(call.request.max))
                    .collect();
                call.answer.ok(out, &ArchivedJobs { jobs });
            }
            Ok(ArchiveApi::ArchiveGet(call)) => {
                let ids = call.request.ids.iter();
                let jobs = ids.filter_map(|id| self.jobs.get(id).cloned()).collect();
                call.answer.ok(out, &ArchivedJobs { jobs });
            }
            Ok(ArchiveApi::ArchiveIds_(call)) => {
                let above = call.request.above.saturating_add(1);
                let ids = self.jobs.range(above..).map(|(id, _)| *id);
                let ids = ids.take(take(call.request.max)).collect();
                call.answer.ok(out, &ArchiveIds { ids });
            }
            Ok(ArchiveApi::ArchiveOfUser(call)) => {
                let mine = self.jobs.values().rev();
                let ids = mine
                    .filter(|job| job.userid == call.request.userid)
                    .map(|job| job.id)
                    .take(take(call.request.max))
                    .collect();
                call.answer.ok(out, &ArchiveIds { ids });
            }
            Ok(ArchiveApi::ArchiveBeyond_(call)) => {
                let limits = &call.request;
                let mut all = by_end(&self.jobs);
                all.retain(|job| !limits.except.contains(&job.id));
                let aged = limits
                    .ended_before
                    .map(|time| all.iter().filter(|job| job.t_inactive <= time).count());
                let excess = limits.keep.map(|keep| all.len().saturating_sub(take(keep)));
                let count = aged.max(excess).unwrap_or(all.len());
                let ids = all.iter().take(count.min(take(limits.max))).map(|job| job.id).collect();
                call.answer.ok(out, &ArchiveBeyond { count: count as u64, ids });
            }
            Ok(ArchiveApi::ArchiveInfo_(call)) => {
                let info = ArchiveInfo {
                    count: self.jobs.len() as u64,
                    max_id: self.jobs.keys().next_back().copied().unwrap_or(0),
                    complete: self.complete,
                    bytes: 0,
                };
                call.answer.ok(out, &info);
            }
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
        self.begin(fails)
    }

    fn begin(&mut self, fails: Option<Errno>) -> bool {
        if self.writing.is_some() {
            return false;
        }
        let Some(change) = self.waiting.pop_front() else { return false };
        self.writing = Some((change, fails));
        true
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(call) => {
                let jobs = call.request.jobs.iter().filter(|job| !self.removed.contains(&job.id));
                self.jobs.extend(jobs.map(|job| (job.id, job.clone())));
            }
            Change::Remove(call) => {
                call.request.ids.iter().for_each(|id| drop(self.jobs.remove(id)));
                self.removed.extend(&call.request.ids);
            }
            Change::Complete(_) => self.complete = true,
        }
    }

    /// The transaction is through, or has failed. True when the next one begins.
    pub fn written(&mut self, fails: Option<Errno>, out: &mut Vec<Message>) -> bool {
        if let Some((change, failure)) = self.writing.take() {
            if failure.is_none() {
                self.apply(&change);
            }
            change.answer(out, failure.map_or(Ok(()), |errno| Err(RpcError::bare(errno))));
        }
        self.begin(fails)
    }

    /// The process is gone: what was being written is there as a whole or not at all, what waited
    /// is lost; now and then the whole file is, since everything can be made anew from the store.
    pub fn crash(&mut self, rng: &mut Rng) {
        if let Some((change, failure)) = self.writing.take() {
            if failure.is_none() && rng.chance(50) {
                self.apply(&change);
            }
            change.forget();
        }
        self.waiting.drain(..).for_each(Change::forget);
        self.removed.clear();
        if rng.chance(10) {
            self.losses += 1;
            self.jobs.clear();
            self.complete = false;
        }
    }
}
