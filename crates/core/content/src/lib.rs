//! `content`: blobs by their hash (RFC 10), cached on every rank.
//!
//! Rank 0 writes through to the backing store, the others to their parent, so nothing here is
//! ever dirty: a stored blob is answered when the store at the end of the way has it on disk.
//! Equal loads and stores that wait share one request.
//!
//! Read first: [`ContentService`]. Must never: interpret a blob.

mod cache;
mod gc;

use std::collections::BTreeMap;

use bytes::Bytes;
use flux_api::body::AnyObject;
use flux_api::content::{
    BackingCheckpointGet, BackingCheckpointPut, BackingCollect, BackingCommit, BackingGcInfo,
    BackingLoad, BackingStatus, BackingStore, BlobBatch, CheckpointGet, CheckpointPut_, Collect,
    CollectPass, Collected, Commit, Content, Load, Pin, Status, Store,
};
use flux_api::{Answer, Call, Empty, Raw, RpcError};
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service, To};
use serde_json::{Map, Value, json};

use crate::cache::{Cache, Recent};
pub use crate::gc::GcSettings;
use crate::gc::{Gc, Next};

/// Largest blob, 1 GiB.
pub const BLOB_MAX: usize = 1 << 30;

/// Roots that readers may pin at a time.
const PINS_MAX: usize = 1_024;

/// Bytes of blobs that a rank keeps, unless told otherwise.
pub const CACHE_BYTES: usize = 16 << 20;

/// Bytes of blobs of the last commits that are kept beside the cache.
const RECENT_BYTES: usize = 2 << 20;

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
    /// How large the store is.
    Size,
    /// The end of a pass of the collection.
    Pass,
    /// Time for the next pass.
    PassDue,
    /// Whether the store takes writes.
    Status(u64),
}

/// The `content` service.
#[derive(Debug)]
pub struct ContentService {
    hash: HashAlg,
    cache: Cache,
    recent: Recent,
    loads: BTreeMap<Bytes, Vec<Answer<Load>>>,
    stores: BTreeMap<Bytes, Vec<Answer<Store>>>,
    commits: BTreeMap<u64, (Vec<Bytes>, Answer<Commit>)>,
    gets: BTreeMap<u64, Answer<CheckpointGet>>,
    puts: BTreeMap<u64, Answer<CheckpointPut_>>,
    statuses: BTreeMap<u64, Answer<Status>>,
    gc: Gc,
    /// Settings that the configuration changes.
    gc_defaults: GcSettings,
    next: u64,
}

impl ContentService {
    /// A cache of at most `cache_bytes` for blobs named by `hash`.
    #[must_use]
    pub fn new(hash: HashAlg, cache_bytes: usize) -> Self {
        Self {
            hash,
            cache: Cache::new(cache_bytes),
            recent: Recent::default(),
            loads: BTreeMap::new(),
            stores: BTreeMap::new(),
            commits: BTreeMap::new(),
            gets: BTreeMap::new(),
            puts: BTreeMap::new(),
            statuses: BTreeMap::new(),
            gc: Gc::default(),
            gc_defaults: GcSettings::default(),
            next: 0,
        }
    }

    /// Collects by these settings, where the configuration says nothing else.
    #[must_use]
    pub fn with_gc(mut self, settings: GcSettings) -> Self {
        self.gc_defaults = settings;
        self.gc.settings = settings;
        self
    }

    fn digest(&self, blob: &[u8]) -> Bytes {
        Bytes::copy_from_slice(self.hash.hash(blob).digest())
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn find(&mut self, digest: &Bytes) -> Option<Bytes> {
        if let Some(blob) = self.cache.get(digest) {
            return Some(blob);
        }
        if self.recent.size().0 == 0 {
            return None;
        }
        for blob in self.recent.take() {
            self.cache.put(self.digest(&blob), blob);
        }
        self.cache.get(digest)
    }

    fn load(&mut self, cx: &mut Cx<'_, Wait>, digest: Bytes, answer: Answer<Load>) {
        if Blobref::from_digest(self.hash, &digest).is_err() {
            let text =
                format!("content: a digest of {} bytes is not {}", digest.len(), self.hash.name());
            return answer.err(cx, RpcError::new(Errno::EPROTO, text));
        }
        if let Some(blob) = self.find(&digest) {
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
        // That it is in the cache says nothing: it may have been collected since.
        let waiting = self.stores.entry(digest.clone()).or_default();
        waiting.push(answer);
        if waiting.len() > 1 {
            return;
        }
        if cx.rank() == 0 {
            self.gc.wrote(blob.len() as u64, false);
        }
        let request = Raw(blob);
        if cx.rank() == 0 {
            cx.call::<BackingStore>(To::Rank(0), &request, Wait::Store(digest));
        } else {
            cx.call::<Store>(To::Upstream, &request, Wait::Store(digest));
        }
    }

    fn commit(&mut self, cx: &mut Cx<'_, Wait>, batch: BlobBatch, answer: Answer<Commit>) {
        if cx.rank() > 0 {
            let text = "content.commit is only available on rank 0";
            return answer.err(cx, RpcError::new(Errno::EPROTO, text));
        }
        if let Some(blob) = batch.blobs.iter().find(|blob| blob.len() > BLOB_MAX) {
            let text =
                format!("content: a blob of {} bytes is over the limit of 1 GiB", blob.len());
            return answer.err(cx, RpcError::new(Errno::EFBIG, text));
        }
        let bytes: usize = batch.blobs.iter().map(|blob| blob.len()).sum();
        self.gc.wrote(bytes as u64, batch.checkpoint.is_some());
        let ticket = self.ticket();
        self.commits.insert(ticket, (batch.blobs.clone(), answer));
        cx.hand::<BackingCommit>(To::Rank(0), batch, Wait::Commit(ticket));
    }

    /// Refuses what only rank 0 can do.
    fn only_leader<R: flux_api::Rpc>(cx: &mut Cx<'_, Wait>, call: Call<R>) -> Option<Call<R>> {
        if cx.rank() == 0 {
            return Some(call);
        }
        let text = format!("{} is only available on rank 0", R::TOPIC);
        call.answer.err(cx, RpcError::new(Errno::EPROTO, text));
        None
    }

    fn collect(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Collect>) {
        let Some(call) = Self::only_leader(cx, call) else { return };
        self.gc.want(call.answer, call.request.thorough);
        self.advance_gc(cx);
    }

    fn pin(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Pin>) {
        let Some(call) = Self::only_leader(cx, call) else { return };
        let rootref = call.request.rootref;
        if let Err(error) = rootref.parse::<Blobref>()
            && !rootref.is_empty()
        {
            return call.answer.err(cx, RpcError::new(Errno::EPROTO, error.to_string()));
        }
        if self.gc.pins.len() >= PINS_MAX {
            let text = format!("content: {PINS_MAX} roots are pinned already");
            return call.answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        call.answer.item(cx, &Empty);
        let ticket = self.ticket();
        self.gc.pins.insert(ticket, (call.answer, rootref));
    }

    fn status(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Status>) {
        let Some(call) = Self::only_leader(cx, call) else { return };
        let ticket = self.ticket();
        self.statuses.insert(ticket, call.answer);
        cx.call::<BackingStatus>(To::Rank(0), &call.request, Wait::Status(ticket));
    }

    /// Does what the collection needs next.
    fn advance_gc(&mut self, cx: &mut Cx<'_, Wait>) {
        if cx.rank() > 0 {
            return;
        }
        match self.gc.next(cx.now_us()) {
            Next::Nothing => {}
            Next::Look => {
                cx.call::<BackingGcInfo>(To::Rank(0), &AnyObject::default(), Wait::Size);
            }
            Next::Pass(thorough) => {
                let mut pins: Vec<String> =
                    self.gc.pins.values().map(|(_, root)| root.clone()).collect();
                let count = pins.len();
                pins.retain(|root| !root.is_empty());
                // Somebody stores what is not committed before its end.
                let held = pins.len() < count;
                let grace_us = (!held).then_some(self.gc.settings.grace_us);
                let pass = CollectPass { pins, young: !thorough, grace_us };
                cx.call::<BackingCollect>(To::Rank(0), &pass, Wait::Pass);
            }
            Next::Later(us) => {
                cx.timer(us, Wait::PassDue);
            }
        }
    }

    fn passed(&mut self, cx: &mut Cx<'_, Wait>, result: &Result<Collected, RpcError>) {
        match result {
            Ok(done) if done.deleted > 0 => cx.log(
                Level::Debug,
                format!(
                    "collected {} blobs, kept {}: the file has {} bytes, had {}",
                    done.deleted, done.live, done.after, done.before
                ),
            ),
            Ok(_) => {}
            Err(error) if matches!(error.errno, Errno::EBUSY | Errno::ENOSPC | Errno::ENOSYS) => {}
            Err(error) => {
                cx.log(Level::Err, format!("nothing is collected any more: {error}"));
            }
        }
        for (answer, result) in self.gc.passed(cx.now_us(), result) {
            answer.respond(cx, result);
        }
        self.advance_gc(cx);
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
            Content::Commit(call) => self.commit(cx, call.request, call.answer),
            // Every answered store is on disk already.
            Content::Flush(call) => call.answer.ok(cx, &Empty),
            Content::Dropcache(call) => {
                self.cache.clear();
                drop(self.recent.take());
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
            Content::Collect(call) => self.collect(cx, call),
            Content::Pin(call) => self.pin(cx, call),
            Content::Status(call) => self.status(cx, call),
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
                        self.recent.push(blobs, RECENT_BYTES);
                    }
                    answer.respond(cx, result);
                }
                self.advance_gc(cx);
            }
            Wait::Size => {
                self.gc.looked(cx.now_us(), reply.decode::<BackingGcInfo>());
                self.advance_gc(cx);
            }
            Wait::Pass => self.passed(cx, &reply.decode::<BackingCollect>()),
            // A timer, not a call.
            Wait::PassDue => {}
            Wait::Status(ticket) => {
                if let Some(answer) = self.statuses.remove(&ticket) {
                    answer.respond(cx, reply.decode::<BackingStatus>());
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

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        if wait == Wait::PassDue {
            self.gc.rang();
            self.advance_gc(cx);
        }
    }

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.gc.settings = self.gc_defaults.configured(config)?;
        Ok(())
    }

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
        self.gc.disconnect(message);
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
        for answer in std::mem::take(&mut self.statuses).into_values() {
            answer.err(cx, error.clone());
        }
        let (wanted, pins) = self.gc.end();
        for answer in wanted {
            answer.err(cx, error.clone());
        }
        for answer in pins {
            answer.err(cx, error.clone());
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        let (recent, recent_bytes) = self.recent.size();
        Some(json!({
            "count": self.cache.len() + recent,
            "valid": self.cache.len() + recent,
            "dirty": self.stores.len(),
            "size": self.cache.bytes() + recent_bytes,
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
