//! `content-backing`: the store as a service, on a thread of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flux_api::content::{BackingCommit, BlobBatch};
use flux_api::{Call, Empty, Rpc, RpcError};
use flux_host::driver::{Driver, DriverHandle};
use flux_model::blobref::HashAlg;
use flux_proto::{Errno, Message};

use crate::error::StoreError;
use crate::log::{BlobLog, Durability};
use crate::serve::Server;

/// Bytes that may be accepted and not yet written ([`Durability::Process`]).
const ACCEPTED_MAX: usize = 32 << 20;

/// The driver: hands requests to the store's thread.
#[derive(Debug)]
pub struct StoreDriver {
    requests: Sender<Work>,
    instance: String,
    durability: Durability,
    ahead: Arc<Ahead>,
}

/// What the thread is given.
#[derive(Debug)]
pub(crate) enum Work {
    /// A request, answered by the thread.
    Request(Message, DriverHandle),
    /// There are commits that were answered when they were accepted.
    Accepted,
}

/// How far the answers are ahead of the file.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pub(crate) bytes: AtomicUsize,
    /// What was accepted and not yet taken by the thread, which is told of the first only.
    accepted: Mutex<Vec<BlobBatch>>,
    /// Writing fails: nothing is accepted before it is written.
    pub(crate) failing: AtomicBool,
}

impl Ahead {
    /// Adds a commit; true when it is the first.
    pub(crate) fn accept(&self, batch: BlobBatch) -> bool {
        self.bytes.fetch_add(size(&batch), Ordering::Relaxed);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.push(batch);
        accepted.len() == 1
    }

    /// Takes what was accepted.
    pub(crate) fn take(&self) -> Vec<BlobBatch> {
        std::mem::take(&mut *self.accepted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes of a commit.
pub(crate) fn size(batch: &BlobBatch) -> usize {
    batch.blobs.iter().map(|blob| blob.len()).sum()
}

impl StoreDriver {
    /// Opens `content.sqlite` in the state directory.
    ///
    /// # Errors
    /// When the file can't be opened or is damaged, or no thread can be started.
    pub fn open(
        statedir: &Path,
        hash: HashAlg,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let path = statedir.join("content.sqlite");
        let log = BlobLog::open(&path, hash, durability)?;
        let instance = log.instance()?;
        let (requests, queue) = channel();
        let ahead = Arc::new(Ahead::default());
        let behind = Arc::clone(&ahead);
        thread::Builder::new()
            .name("store".to_string())
            .spawn(move || Server::new(log, behind).run(&queue))
            .map_err(|error| StoreError::Damaged { path, text: error.to_string() })?;
        Ok(Self { requests, instance, durability, ahead })
    }

    /// The identity of the instance whose state this is.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Answers a commit that need not outlive this process before it is written; gives back what
    /// must wait for that.
    fn accept(&self, message: Message, back: &DriverHandle) -> Result<Option<Work>, Message> {
        let ready = self.durability == Durability::Process
            && message.topic() == BackingCommit::TOPIC
            && !self.ahead.failing.load(Ordering::Acquire)
            && self.ahead.bytes.load(Ordering::Relaxed) < ACCEPTED_MAX;
        if !ready {
            return Err(message);
        }
        let Call { request, answer } = Call::<BackingCommit>::decode(message).map_err(|e| e.0)?;
        answer.ok(&mut back.clone(), &Empty);
        Ok(self.ahead.accept(request).then_some(Work::Accepted))
    }
}

impl Driver for StoreDriver {
    fn name(&self) -> &'static str {
        "content-backing"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        let work = match self.accept(message, back) {
            Ok(None) => return,
            Ok(Some(work)) => work,
            Err(message) => Work::Request(message, back.clone()),
        };
        if let Err(failed) = self.requests.send(work)
            && let Work::Request(message, back) = failed.0
        {
            back.refuse(&message, &RpcError::new(Errno::EIO, "the store's thread has ended"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use flux_api::content::{BackingCheckpointGet, BackingLoad, Checkpoint};
    use flux_api::{Raw, rpc};

    use super::*;

    #[test]
    fn a_commit_is_answered_and_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut driver =
            StoreDriver::open(directory.path(), HashAlg::Sha1, Durability::Process).unwrap();
        let (handle, mut take) = DriverHandle::detached("content-backing");
        let checkpoint: Checkpoint = serde_json::from_str(
            r#"{"version":1,"rootref":"sha1-0","sequence":1,"timestamp":1.0}"#,
        )
        .unwrap();
        let batch = BlobBatch { blobs: vec![b"x".to_vec().into()], checkpoint: Some(checkpoint) };
        driver.deliver(rpc::request::<BackingCommit>(&batch), &handle);
        let digest = HashAlg::Sha1.hash(b"x");
        let wanted = Raw(digest.digest().to_vec().into());
        driver.deliver(rpc::request::<BackingLoad>(&wanted), &handle);
        driver.deliver(rpc::request::<BackingCheckpointGet>(&Default::default()), &handle);
        let mut responses = Vec::new();
        let limit = Instant::now() + Duration::from_secs(20);
        while responses.len() < 3 && Instant::now() < limit {
            responses.extend(take());
            thread::yield_now();
        }
        assert_eq!(responses.len(), 3);
        // Reads may be answered before the batch that holds the write.
        assert!(responses.iter().any(
            |response| response.topic() == "content-backing.commit" && response.errnum().0 == 0
        ));
    }

    #[test]
    fn what_was_accepted_can_be_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut driver =
            StoreDriver::open(directory.path(), HashAlg::Sha1, Durability::Process).unwrap();
        let (handle, mut take) = DriverHandle::detached("content-backing");
        for n in 0..100u8 {
            let batch = BlobBatch { blobs: vec![vec![n; 300].into()], checkpoint: None };
            driver.deliver(rpc::request::<BackingCommit>(&batch), &handle);
            let digest = HashAlg::Sha1.hash(&[n; 300]);
            let wanted = Raw(digest.digest().to_vec().into());
            driver.deliver(rpc::request::<BackingLoad>(&wanted), &handle);
        }
        let mut responses = Vec::new();
        let limit = Instant::now() + Duration::from_secs(20);
        while responses.len() < 200 && Instant::now() < limit {
            responses.extend(take());
            thread::yield_now();
        }
        assert_eq!(responses.len(), 200);
        assert!(responses.iter().all(|response| response.errnum().0 == 0));
    }
}
