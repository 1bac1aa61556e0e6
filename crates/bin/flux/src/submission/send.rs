//! Sends jobs to an instance: signed, and many at once over one connection.

use std::collections::{BTreeMap, VecDeque};

use flux_api::{
    RpcError,
    job::ingest::{Submit, SubmitRequest},
};
use flux_client::{Client, Pending, To};
use flux_model::sign::wrap_none;
use flux_proto::Errno;

use super::Job;
use crate::session;

/// Requests in flight at most. An instance gathers requests for its disk, so that many at once cost
/// little more than one; the bound keeps memory small when a million jobs are submitted.
const IN_FLIGHT: usize = 1024;

/// A way into an instance for jobs. Ids come back in the order the jobs went in.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    client: &'a Client,
    uid: u32,
    /// Jobs on their way, oldest first, with the answer once it is there.
    waiting: VecDeque<(Pending<Submit>, Option<Result<u64, RpcError>>)>,
    /// Number of the first of them.
    first: u64,
    /// Job number by matchtag.
    tags: BTreeMap<u32, u64>,
}

impl<'a> Sender<'a> {
    /// Prepares to sign for the current user.
    ///
    /// # Errors
    /// The broker cannot be asked for its owner, or the user is a guest, for whom jobs would have to
    /// be signed with MUNGE.
    pub(crate) fn new(client: &'a Client) -> Result<Self, RpcError> {
        let uid = session::uid();
        let owner = session::owner(client)?;
        if uid != owner {
            let text = format!(
                "user {uid} is a guest of this instance (owner {owner}), and signing with MUNGE is not available yet"
            );
            return Err(RpcError::new(Errno::EPERM, text));
        }
        Ok(Self { client, uid, waiting: VecDeque::new(), first: 0, tags: BTreeMap::new() })
    }

    /// Puts a job on its way.
    pub(crate) fn push(&mut self, job: &Job) {
        let j = self.sign(job.text().as_bytes());
        self.push_signed(j, job.urgency.into(), job.flags);
    }

    /// Puts a request on its way that is signed already.
    pub(crate) fn push_signed(&mut self, j: String, urgency: i64, flags: u32) {
        let request = SubmitRequest { j, urgency, flags };
        let pending = self.client.send::<Submit>(To::Any, &request);
        self.tags.insert(pending.matchtag(), self.first + self.waiting.len() as u64);
        self.waiting.push_back((pending, None));
    }

    /// Signs a jobspec for the current user.
    pub(crate) fn sign(&self, jobspec: &[u8]) -> String {
        wrap_none(jobspec, self.uid)
    }

    /// Whether another job should wait for an answer first.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= IN_FLIGHT
    }

    /// Whether every job was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the answer with this matchtag; false when it belongs to somebody else.
    pub(crate) fn take(&mut self, tag: u32) -> bool {
        let Some(number) = self.tags.remove(&tag) else { return false };
        let at = usize::try_from(number - self.first).ok();
        if let Some((pending, answer)) = at.and_then(|at| self.waiting.get_mut(at)) {
            *answer = pending.try_take().map(|answer| answer.map(|answer| answer.id));
        }
        true
    }

    /// The answer for the oldest job, if it was taken.
    pub(crate) fn next(&mut self) -> Option<Result<u64, RpcError>> {
        let answer = self.waiting.front_mut()?.1.take()?;
        self.waiting.pop_front();
        self.first += 1;
        Some(answer)
    }

    /// Submits one job and waits for its id.
    ///
    /// # Errors
    /// The instance refuses the job.
    pub(crate) fn submit(self, job: &Job) -> Result<u64, RpcError> {
        let j = self.sign(job.text().as_bytes());
        let request = SubmitRequest { j, urgency: job.urgency.into(), flags: job.flags };
        self.client.call::<Submit>(To::Any, &request).map(|answer| answer.id)
    }
}
