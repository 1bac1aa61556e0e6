//! Sends jobs to an instance: signed, and many at once over one connection.

use std::collections::{BTreeMap, VecDeque};

use flux_api::{
    RpcError,
    job::ingest::{Submit, SubmitRequest},
};
use flux_client::{Client, Pending, To};

use super::{Job, signing::Signing};
use crate::session;

/// Requests in flight at most. An instance gathers requests for its disk, so that many at once cost
/// little more than one; the bound keeps memory small when a million jobs are submitted.
const IN_FLIGHT: usize = 1024;

/// A way into an instance for jobs. Ids come back in the order the jobs went in.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    client: &'a Client,
    signing: Signing,
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
    /// The broker cannot be asked for its owner, or the user is a guest and the site has not
    /// configured how guests sign.
    pub(crate) fn new(client: &'a Client) -> Result<Self, RpcError> {
        let signing = Signing::of_user(session::uid(), session::owner(client)?)?;
        Ok(Self { client, signing, waiting: VecDeque::new(), first: 0, tags: BTreeMap::new() })
    }

    /// Puts a job on its way.
    ///
    /// # Errors
    /// It cannot be signed.
    pub(crate) fn push(&mut self, job: &Job) -> Result<(), RpcError> {
        let j = self.signing.sign(job.text().as_bytes())?;
        self.push_signed(j, job.urgency.into(), job.flags);
        Ok(())
    }

    /// Puts a request on its way that is signed already.
    pub(crate) fn push_signed(&mut self, j: String, urgency: i64, flags: u32) {
        let request = SubmitRequest { j, urgency, flags };
        let pending = self.client.send::<Submit>(To::Any, &request);
        self.tags.insert(pending.matchtag(), self.first + self.waiting.len() as u64);
        self.waiting.push_back((pending, None));
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
    pub(crate) fn submit(mut self, job: &Job) -> Result<u64, RpcError> {
        let j = self.signing.sign(job.text().as_bytes())?;
        let request = SubmitRequest { j, urgency: job.urgency.into(), flags: job.flags };
        self.client.call::<Submit>(To::Any, &request).map(|answer| answer.id)
    }
}
