//! `content`: blobs by their hash (RFC 10), cached on every rank.
//!
//! Rank 0 writes through to the backing store, the others to their parent, so nothing here is
//! ever dirty: a stored blob is answered when the store at the end of the way has it on disk.
//! Equal loads and stores that wait share one request.
//!
//! Read first: [`ContentService`]. Must never: interpret a blob.

mod cache;

use std::collections::BTreeMap;

use bytes::Bytes;
use flux_api::content::{
    BackingCheckpointGet, BackingCheckpointPut, BackingCommit, BackingLoad, BackingStore,
    BlobBatch, CheckpointGet, CheckpointPut_, Commit, Content, Load, Store,
};
use flux_api::{Answer, Empty, Raw, RpcError};
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Reply, Service, To};
use serde_json::{Value, json};

use crate::cache::Cache;

/// Largest blob, 1 GiB.
pub const BLOB_MAX: usize = 1 << 30;

/// Bytes of blobs that a rank keeps, unless told otherwise.
pub const CACHE_BYTES: usize = 16 << 20;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// A blob.
    Load(Bytes),
    /// Word that a blob is stored.
    Store(Bytes),
    /// Word that a batch is durable.
    Commit(u64),
    /// Checkpoints.
    CheckpointGet(u64),
    /// Word that a checkpoint is durable.
    CheckpointPut(u64),
}

/// The `content` service.
#[derive(Debug)]
pub struct ContentService {
    hash: HashAlg,
    cache: Cache,
    loads: BTreeMap<Bytes, Vec<Answer<Load>>>,
    stores: BTreeMap<Bytes, Vec<Answer<Store>>>,
    commits: BTreeMap<u64, (Vec<Bytes>, Answer<Commit>)>,
    gets: BTreeMap<u64, Answer<CheckpointGet>>,
    puts: BTreeMap<u64, Answer<CheckpointPut_>>,
    next: u64,
}

impl ContentService {
    /// A cache of at most `cache_bytes` for blobs named by `hash`.
    #[must_use]
    pub fn new(hash: HashAlg, cache_bytes: usize) -> Self {
        Self {
            hash,
            cache: Cache::new(cache_bytes),
            loads: BTreeMap::new(),
            stores: BTreeMap::new(),
            commits: BTreeMap::new(),
            gets: BTreeMap::new(),
            puts: BTreeMap::new(),
            next: 0,
        }
    }

    fn digest(&self, blob: &[u8]) -> Bytes {
        Bytes::copy_from_slice(self.hash.hash(blob).digest())
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn load(&mut self, cx: &mut Cx<'_, Wait>, digest: Bytes, answer: Answer<Load>) {
        if Blobref::from_digest(self.hash, &digest).is_err() {
            let text =
                format!("content: a digest of {} bytes is not {}", digest.len(), self.hash.name());
            return answer.err(cx, RpcError::new(Errno::EPROTO, text));
        }
        if let Some(blob) = self.cache.get(&digest) {
            return answer.ok(cx, &Raw(blob));
        }
        let waiting = self.loads.entry(digest.clone()).or_default();
        waiting.push(answer);
        if waiting.len() > 1 {
            return;
        }
        let request = Raw(digest.clone());
        if cx.rank() == 0 {
            cx.call::<BackingLoad>(To::Rank(0), &request, Wait::Load(digest));
        } else {
            cx.call::<Load>(To::Upstream, &request, Wait::Load(digest));
        }
    }

    fn store(&mut self, cx: &mut Cx<'_, Wait>, blob: Bytes, answer: Answer<Store>) {
        if blob.len() > BLOB_MAX {
            let text =
                format!("content: a blob of {} bytes is over the limit of 1 GiB", blob.len());
            return answer.err(cx, RpcError::new(Errno::EFBIG, text));
        }
        let digest = self.digest(&blob);
        if self.cache.get(&digest).is_some() {
            // What is in the cache came from the store, or is there already.
            return answer.ok(cx, &Raw(digest));
        }
        let waiting = self.stores.entry(digest.clone()).or_default();
        waiting.push(answer);
        if waiting.len() > 1 {
            return;
        }
        let request = Raw(blob);
        if cx.rank() == 0 {
            cx.call::<BackingStore>(To::Rank(0), &request, Wait::Store(digest));
        } else {
            cx.call::<Store>(To::Upstream, &request, Wait::Store(digest));
        }
    }

    fn commit(&mut self, cx: &mut Cx<'_, Wait>, batch: &BlobBatch, answer: Answer<Commit>) {
        if cx.rank() > 0 {
            let text = "content.commit is only available on rank 0";
            return answer.err(cx, RpcError::new(Errno::EPROTO, text));
        }
        if let Some(blob) = batch.blobs.iter().find(|blob| blob.len() > BLOB_MAX) {
            let text =
                format!("content: a blob of {} bytes is over the limit of 1 GiB", blob.len());
            return answer.err(cx, RpcError::new(Errno::EFBIG, text));
        }
        let ticket = self.ticket();
        cx.call::<BackingCommit>(To::Rank(0), batch, Wait::Commit(ticket));
        self.commits.insert(ticket, (batch.blobs.clone(), answer));
    }

    fn loaded(&mut self, cx: &mut Cx<'_, Wait>, digest: &Bytes, result: Result<Bytes, RpcError>) {
        let result = result.and_then(|blob| {
            if *self.hash.hash(&blob).digest() == digest[..] {
                return Ok(blob);
            }
            let text = "content: a blob does not match its digest: the store is damaged";
            Err(RpcError::new(Errno::EIO, text))
        });
        if let Ok(blob) = &result {
            self.cache.put(digest.clone(), blob.clone());
        }
        for answer in self.loads.remove(digest).unwrap_or_default() {
            answer.respond(cx, result.clone().map(Raw));
        }
    }
}

impl Service for ContentService {
    type Api = Content;
    type Wait = Wait;

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Content) {
        match call {
            Content::Load(call) => self.load(cx, call.request.0, call.answer),
            Content::Store(call) => self.store(cx, call.request.0, call.answer),
            Content::Commit(call) => self.commit(cx, &call.request, call.answer),
            // Every answered store is on disk already.
            Content::Flush(call) => call.answer.ok(cx, &Empty),
            Content::Dropcache(call) => {
                self.cache.clear();
                call.answer.ok(cx, &Empty);
            }
            Content::CheckpointGet(call) => {
                let ticket = self.ticket();
                self.gets.insert(ticket, call.answer);
                cx.call::<BackingCheckpointGet>(
                    To::Rank(0),
                    &call.request,
                    Wait::CheckpointGet(ticket),
                );
            }
            Content::CheckpointPut_(call) => {
                let ticket = self.ticket();
                self.puts.insert(ticket, call.answer);
                cx.call::<BackingCheckpointPut>(
                    To::Rank(0),
                    &call.request,
                    Wait::CheckpointPut(ticket),
                );
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Load(digest) => {
                let result = reply.decode::<Load>().map(|raw| raw.0);
                self.loaded(cx, &digest, result);
            }
            Wait::Store(digest) => {
                let result = reply.decode::<Store>();
                for answer in self.stores.remove(&digest).unwrap_or_default() {
                    answer.respond(cx, result.clone().map(|_| Raw(digest.clone())));
                }
            }
            Wait::Commit(ticket) => {
                if let Some((blobs, answer)) = self.commits.remove(&ticket) {
                    let result = reply.decode::<BackingCommit>();
                    if result.is_ok() {
                        for blob in blobs {
                            self.cache.put(self.digest(&blob), blob);
                        }
                    }
                    answer.respond(cx, result);
                }
            }
            Wait::CheckpointGet(ticket) => {
                if let Some(answer) = self.gets.remove(&ticket) {
                    answer
                        .respond(cx, without_store(reply.decode::<BackingCheckpointGet>(), "get"));
                }
            }
            Wait::CheckpointPut(ticket) => {
                if let Some(answer) = self.puts.remove(&ticket) {
                    answer
                        .respond(cx, without_store(reply.decode::<BackingCheckpointPut>(), "put"));
                }
            }
        }
    }

    fn on_timer(&mut self, _cx: &mut Cx<'_, Wait>, _wait: Wait) {}

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        fn drop_sender<R: flux_api::Rpc>(waiting: &mut Vec<Answer<R>>, message: &Message) {
            let mut kept = Vec::new();
            for answer in waiting.drain(..) {
                if answer.same_sender(message) {
                    answer.forget();
                } else {
                    kept.push(answer);
                }
            }
            *waiting = kept;
        }
        // The entries stay: a request for each is on its way.
        for waiting in self.loads.values_mut() {
            drop_sender(waiting, message);
        }
        for waiting in self.stores.values_mut() {
            drop_sender(waiting, message);
        }
    }

    /// Whoever still waits is told so; what is on its way to the store may yet get there.
    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        let error = RpcError::new(Errno::ENOSYS, "content: the service is shutting down");
        for answer in std::mem::take(&mut self.loads).into_values().flatten() {
            answer.err(cx, error.clone());
        }
        for answer in std::mem::take(&mut self.stores).into_values().flatten() {
            answer.err(cx, error.clone());
        }
        for (_, answer) in std::mem::take(&mut self.commits).into_values() {
            answer.err(cx, error.clone());
        }
        for answer in std::mem::take(&mut self.gets).into_values() {
            answer.err(cx, error.clone());
        }
        for answer in std::mem::take(&mut self.puts).into_values() {
            answer.err(cx, error.clone());
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        Some(json!({
            "count": self.cache.len(),
            "valid": self.cache.len(),
            "dirty": self.stores.len(),
            "size": self.cache.bytes(),
            "flush-batch-count": self.stores.len(),
            "mmap": { "tags": {}, "blobs": 0 },
        }))
    }
}

/// A missing store, said as such.
fn without_store<T>(result: Result<T, RpcError>, what: &str) -> Result<T, RpcError> {
    result.map_err(|error| match error.errno {
        Errno::ENOSYS => {
            let text = format!("checkpoint {what} unavailable, no backing store");
            RpcError::new(Errno::ENOSYS, text)
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests;
