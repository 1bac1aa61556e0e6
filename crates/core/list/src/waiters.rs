//! `list-id` requests that wait for a job, or for a state of it.

use std::collections::BTreeMap;

use flux_api::Answer;
use flux_api::job::list::ListId_;
use flux_model::job_event::JobState;
use flux_proto::Message;

use crate::attrs::Attr;

/// Requests that may wait at once.
pub(crate) const WAITERS_MAX: usize = 65_536;

/// One request.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// What is owed.
    pub(crate) answer: Answer<ListId_>,
    /// What is wanted.
    pub(crate) attrs: Vec<Attr>,
    /// Not before this state.
    pub(crate) state: Option<JobState>,
}

/// All requests, by job.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    by_job: BTreeMap<u64, Vec<Waiter>>,
    len: usize,
}

impl Waiters {
    /// Requests that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Jobs that are waited for.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = u64> {
        self.by_job.keys().copied()
    }

    /// One more; the caller has looked at [`WAITERS_MAX`].
    pub(crate) fn add(&mut self, id: u64, waiter: Waiter) {
        self.by_job.entry(id).or_default().push(waiter);
        self.len += 1;
    }

    /// Takes those of a job out.
    pub(crate) fn take(&mut self, id: u64) -> Vec<Waiter> {
        let taken = self.by_job.remove(&id).unwrap_or_default();
        self.len -= taken.len();
        taken
    }

    /// Takes all out.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waiter> {
        self.len = 0;
        std::mem::take(&mut self.by_job).into_values().flatten()
    }

    /// A client is gone.
    pub(crate) fn disconnect(&mut self, message: &Message) {
        self.by_job.retain(|_, waiters| {
            waiters.retain_mut(|waiter| {
                let gone = waiter.answer.same_sender(message);
                if gone {
                    waiter.answer.disown();
                }
                !gone
            });
            !waiters.is_empty()
        });
        self.len = self.by_job.values().map(Vec::len).sum();
    }
}
