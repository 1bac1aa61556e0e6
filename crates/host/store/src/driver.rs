//! `content-backing`: the store as a service, on a thread of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use flux_api::content::{
    Backing, BackingCheckpointGet, BackingCheckpointPut, BackingCommit, BackingLoad, BackingMark,
    BackingStore, BackingValidate, BlobBatch, CheckpointList, MarkResponse,
};
use flux_api::{Answer, Api, Call, Empty, Raw, Rpc, RpcError};
use flux_host::driver::{Driver, DriverHandle};
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Errno, Message};

use crate::log::{BlobLog, Durability, StoreError, Write};

/// Requests that share one transaction.
const BATCH_MAX: usize = 512;

/// Hashes in one `mark` request.
const MARK_MAX: usize = 16_384;

/// Bytes that may be accepted and not yet written ([`Durability::Process`]).
const ACCEPTED_MAX: usize = 32 << 20;

/// Time between attempts to write what was accepted, while the disk is full.
const RETRY: Duration = Duration::from_millis(200);

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
enum Work {
    /// A request, answered by the thread.
    Request(Message, DriverHandle),
    /// A commit that was answered when it was accepted.
    Accepted(BlobBatch),
}

/// How far the answers are ahead of the file.
#[derive(Debug, Default)]
struct Ahead {
    bytes: AtomicUsize,
    /// Writing fails: nothing is accepted before it is written.
    failing: AtomicBool,
}

fn size(batch: &BlobBatch) -> usize {
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
            .spawn(move || serve(log, &queue, &behind))
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
    fn accept(&self, message: Message, back: &DriverHandle) -> Result<BlobBatch, Message> {
        let ready = self.durability == Durability::Process
            && message.topic() == BackingCommit::TOPIC
            && !self.ahead.failing.load(Ordering::Acquire)
            && self.ahead.bytes.load(Ordering::Relaxed) < ACCEPTED_MAX;
        if !ready {
            return Err(message);
        }
        let Call { request, answer } = Call::<BackingCommit>::decode(message).map_err(|e| e.0)?;
        self.ahead.bytes.fetch_add(size(&request), Ordering::Relaxed);
        answer.ok(&mut back.clone(), &Empty);
        Ok(request)
    }
}

impl Driver for StoreDriver {
    fn name(&self) -> &'static str {
        "content-backing"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        let work = match self.accept(message, back) {
            Ok(batch) => Work::Accepted(batch),
            Err(message) => Work::Request(message, back.clone()),
        };
        if let Err(failed) = self.requests.send(work)
            && let Work::Request(message, back) = failed.0
        {
            back.refuse(&message, &RpcError::new(Errno::EIO, "the store's thread has ended"));
        }
    }
}

fn wire(error: &StoreError) -> RpcError {
    RpcError::new(error.errno(), error.to_string())
}

/// A request that writes, and how to answer it when the batch is on disk.
enum Pending {
    Store(Call<BackingStore>),
    Commit(Call<BackingCommit>),
    Checkpoint(Call<BackingCheckpointPut>),
}

impl Pending {
    fn writes(&self) -> Vec<Write<'_>> {
        match self {
            Self::Store(call) => vec![Write::Blob(&call.request.0)],
            Self::Commit(call) => {
                let blobs = call.request.blobs.iter().map(|blob| Write::Blob(blob));
                blobs.chain(call.request.checkpoint.as_ref().map(Write::Checkpoint)).collect()
            }
            Self::Checkpoint(call) => vec![Write::Checkpoint(&call.request.value)],
        }
    }

    fn answer(self, back: &mut DriverHandle, hash: HashAlg, result: Result<(), RpcError>) {
        match self {
            Self::Store(Call { request, answer }) => {
                let digest = hash.hash(&request.0);
                let digest = bytes::Bytes::copy_from_slice(digest.digest());
                answer.respond(back, result.map(|()| Raw(digest)));
            }
            Self::Commit(call) => call.answer.respond(back, result.map(|()| Empty)),
            Self::Checkpoint(call) => call.answer.respond(back, result.map(|()| Empty)),
        }
    }
}

/// The writes of a commit.
fn writes_of(batch: &BlobBatch) -> impl Iterator<Item = Write<'_>> {
    let blobs = batch.blobs.iter().map(|blob| Write::Blob(blob));
    blobs.chain(batch.checkpoint.as_ref().map(Write::Checkpoint))
}

/// The thread: takes what waits, writes it in one transaction, answers.
fn serve(mut log: BlobLog, queue: &Receiver<Work>, ahead: &Ahead) {
    // Accepted, and not yet written: kept until it is.
    let mut accepted: Vec<BlobBatch> = Vec::new();
    loop {
        let first = if accepted.is_empty() {
            match queue.recv() {
                Ok(work) => Some(work),
                Err(_) => return,
            }
        } else {
            match queue.recv_timeout(RETRY) {
                Ok(work) => Some(work),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let mut pending: Vec<(Pending, DriverHandle)> = Vec::new();
        let mut next = first;
        let mut count = 0;
        while let Some(work) = next.take() {
            match work {
                Work::Accepted(batch) => accepted.push(batch),
                Work::Request(message, mut back) => {
                    match Backing::decode(message) {
                        Ok(Backing::BackingStore(call)) => {
                            pending.push((Pending::Store(call), back));
                        }
                        Ok(Backing::BackingCommit(call)) => {
                            pending.push((Pending::Commit(call), back));
                        }
                        Ok(Backing::BackingCheckpointPut(call)) => {
                            pending.push((Pending::Checkpoint(call), back));
                        }
                        // What was accepted can be read: it is written first.
                        other => {
                            store(&mut log, &mut accepted, &mut pending, ahead);
                            look(&mut log, &accepted, other, &mut back);
                        }
                    }
                }
            }
            count += 1;
            if count < BATCH_MAX {
                next = queue.try_recv().ok();
            }
        }
        store(&mut log, &mut accepted, &mut pending, ahead);
    }
}

/// Writes in one transaction what was accepted and what is asked for, and answers the latter.
fn store(
    log: &mut BlobLog,
    accepted: &mut Vec<BlobBatch>,
    pending: &mut Vec<(Pending, DriverHandle)>,
    ahead: &Ahead,
) {
    if accepted.is_empty() && pending.is_empty() {
        return;
    }
    let requested = pending.iter().flat_map(|(request, _)| request.writes());
    let writes: Vec<Write<'_>> = accepted.iter().flat_map(writes_of).chain(requested).collect();
    let result = log.write(&writes).map_err(|error| wire(&error));
    drop(writes);
    if !accepted.is_empty() {
        ahead.failing.store(result.is_err(), Ordering::Release);
    }
    if result.is_ok() {
        let bytes = accepted.drain(..).map(|batch| size(&batch)).sum();
        ahead.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
    let hash = log.hash();
    for (request, mut back) in pending.drain(..) {
        request.answer(&mut back, hash, result.clone());
    }
}

/// Answers a request that does not write blobs.
fn look(
    log: &mut BlobLog,
    accepted: &[BlobBatch],
    request: Result<Backing, (Message, RpcError)>,
    back: &mut DriverHandle,
) {
    match request {
        Ok(Backing::BackingLoad(call)) => load(log, accepted, call, back),
        Ok(Backing::BackingValidate(call)) => validate(log, call, back),
        Ok(Backing::BackingCheckpointGet(call)) => checkpoints(log, call.answer, back),
        Ok(Backing::BackingMark(call)) => mark(log, call, back),
        // Those that write are not brought here.
        Ok(Backing::BackingStore(call)) => call.answer.err(back, Errno::ENOSYS),
        Ok(Backing::BackingCommit(call)) => call.answer.err(back, Errno::ENOSYS),
        Ok(Backing::BackingCheckpointPut(call)) => call.answer.err(back, Errno::ENOSYS),
        Err((message, _)) if message.method() == "stats-get" => stats(log, &message, back),
        Err((message, error)) => back.refuse(&message, &error),
    }
}

fn load(log: &BlobLog, accepted: &[BlobBatch], call: Call<BackingLoad>, back: &mut DriverHandle) {
    let digest = &call.request.0;
    let result = log.load(digest).map(Raw).or_else(|error| {
        // While nothing can be written, what was accepted is here.
        let blobs = accepted.iter().flat_map(|batch| &batch.blobs);
        let mut same = blobs.filter(|blob| log.hash().hash(blob).digest() == digest.as_ref());
        same.next().map(|blob| Raw(blob.clone())).ok_or_else(|| wire(&error))
    });
    call.answer.respond(back, result);
}

fn validate(log: &BlobLog, call: Call<BackingValidate>, back: &mut DriverHandle) {
    let result = log.validate(&call.request.0).map(|()| Empty).map_err(|error| wire(&error));
    call.answer.respond(back, result);
}

fn checkpoints(log: &BlobLog, answer: Answer<BackingCheckpointGet>, back: &mut DriverHandle) {
    let result =
        log.checkpoints().map(|value| CheckpointList { value }).map_err(|error| wire(&error));
    answer.respond(back, result);
}

fn mark(log: &mut BlobLog, call: Call<BackingMark>, back: &mut DriverHandle) {
    let hashes = &call.request.hashes;
    if hashes.len() > MARK_MAX {
        let text = format!("mark request of {} hashes exceeds limit of {MARK_MAX}", hashes.len());
        return call.answer.err(back, RpcError::new(Errno::EINVAL, text));
    }
    let digests: Result<Vec<Vec<u8>>, _> = hashes
        .iter()
        .map(|hash| hash.parse::<Blobref>().map(|blobref| blobref.digest().to_vec()))
        .collect();
    let result = match digests {
        Ok(digests) => log
            .mark(call.request.epoch, &digests)
            .map(|marked| MarkResponse { marked })
            .map_err(|error| wire(&error)),
        Err(error) => Err(RpcError::new(Errno::EPROTO, error.to_string())),
    };
    call.answer.respond(back, result);
}

fn stats(log: &BlobLog, message: &Message, back: &DriverHandle) {
    let (size, free) = log.size().unwrap_or((0, 0));
    let stats = serde_json::json!({
        "object_count": log.len(), "dbfile_size": size, "dbfile_free": free,
        "path": log.path().display().to_string(),
    });
    let mut response = Message::response_to(message);
    response.set_payload(Some(flux_api::body::json_payload(&stats)));
    back.post(response);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use flux_api::content::Checkpoint;
    use flux_api::rpc;

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

    #[test]
    fn what_cannot_be_written_is_kept_and_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Process).unwrap();
        log.limit_pages(20);
        let ahead = Ahead::default();
        // Larger than what is left, and not to be compressed.
        let noise = |seed: u8| -> Vec<u8> {
            let blocks = (0..20_000u32)
                .map(|n| HashAlg::Sha1.hash(&[&n.to_le_bytes()[..], &[seed]].concat()));
            blocks.flat_map(|block| block.digest().to_vec()).collect()
        };
        let blob = noise(1);
        let batch = BlobBatch { blobs: vec![blob.clone().into()], checkpoint: None };
        ahead.bytes.fetch_add(size(&batch), Ordering::Relaxed);
        let mut accepted = vec![batch];
        store(&mut log, &mut accepted, &mut Vec::new(), &ahead);
        assert!(ahead.failing.load(Ordering::Acquire));
        let (handle, mut take) = DriverHandle::detached("content-backing");
        let wanted = Raw(HashAlg::Sha1.hash(&blob).digest().to_vec().into());
        let request = Backing::decode(rpc::request::<BackingLoad>(&wanted));
        look(&mut log, &accepted, request, &mut { handle });
        assert_eq!(take()[0].errnum().0, 0);
        log.limit_pages(100_000);
        store(&mut log, &mut accepted, &mut Vec::new(), &ahead);
        assert!(accepted.is_empty() && !ahead.failing.load(Ordering::Acquire));
        assert_eq!(ahead.bytes.load(Ordering::Relaxed), 0);
    }
}
