//! `content-backing`: the store as a service, on a thread of its own.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use flux_api::content::{
    Backing, BackingCheckpointGet, BackingCheckpointPut, BackingCommit, BackingLoad, BackingMark,
    BackingStore, BackingValidate, CheckpointList, MarkResponse,
};
use flux_api::{Answer, Api, Call, Empty, Raw, RpcError};
use flux_host::driver::{Driver, DriverHandle};
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Errno, Message};

use crate::log::{BlobLog, Durability, StoreError, Write};

/// Requests that share one transaction.
const BATCH_MAX: usize = 512;

/// Hashes in one `mark` request.
const MARK_MAX: usize = 16_384;

/// The driver: hands requests to the store's thread.
#[derive(Debug)]
pub struct StoreDriver {
    requests: Sender<(Message, DriverHandle)>,
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
        let (requests, queue) = channel();
        thread::Builder::new()
            .name("store".to_string())
            .spawn(move || serve(log, &queue))
            .map_err(|error| StoreError::Damaged { path, text: error.to_string() })?;
        Ok(Self { requests })
    }
}

impl Driver for StoreDriver {
    fn name(&self) -> &'static str {
        "content-backing"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if let Err(failed) = self.requests.send((message, back.clone())) {
            let (message, back) = failed.0;
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

/// The thread: takes what waits, writes it in one transaction, answers.
fn serve(mut log: BlobLog, queue: &Receiver<(Message, DriverHandle)>) {
    while let Ok(first) = queue.recv() {
        let mut pending: Vec<(Pending, DriverHandle)> = Vec::new();
        let mut next = Some(first);
        while let Some((message, mut back)) = next.take() {
            match Backing::decode(message) {
                Ok(Backing::BackingStore(call)) => pending.push((Pending::Store(call), back)),
                Ok(Backing::BackingCommit(call)) => pending.push((Pending::Commit(call), back)),
                Ok(Backing::BackingCheckpointPut(call)) => {
                    pending.push((Pending::Checkpoint(call), back));
                }
                Ok(Backing::BackingLoad(call)) => load(&log, call, &mut back),
                Ok(Backing::BackingValidate(call)) => validate(&log, call, &mut back),
                Ok(Backing::BackingCheckpointGet(call)) => {
                    checkpoints(&log, call.answer, &mut back)
                }
                Ok(Backing::BackingMark(call)) => mark(&mut log, call, &mut back),
                Err((message, _)) if message.method() == "stats-get" => {
                    stats(&log, &message, &back);
                }
                Err((message, error)) => back.refuse(&message, &error),
            }
            if pending.len() < BATCH_MAX {
                next = queue.try_recv().ok();
            }
        }
        if pending.is_empty() {
            continue;
        }
        let writes: Vec<Write<'_>> =
            pending.iter().flat_map(|(request, _)| request.writes()).collect();
        let result = log.write(&writes).map_err(|error| wire(&error));
        drop(writes);
        let hash = log.hash();
        for (request, mut back) in pending {
            request.answer(&mut back, hash, result.clone());
        }
    }
}

fn load(log: &BlobLog, call: Call<BackingLoad>, back: &mut DriverHandle) {
    let result = log.load(&call.request.0).map(Raw).map_err(|error| wire(&error));
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
    use std::time::{Duration, Instant};

    use flux_api::content::{BlobBatch, Checkpoint};
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
}
