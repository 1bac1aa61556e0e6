//! The store behind `content-backing`: a log in memory that forgets what was not synced.
//!
//! As the real store, it writes everything that waits in one transaction, answers when that is on
//! stable storage, and reads only what is there.

mod gc;

use std::collections::BTreeMap;

use bytes::Bytes;
use flux_api::content::{
    Backing, BackingCheckpointPut, BackingCommit, BackingStore, Checkpoint, CheckpointList, GcInfo,
    MarkResponse, StoreStatus,
};
use flux_api::{Api, Call, Empty, Raw, RpcError, rpc};
use flux_proto::{Errno, Message};

use crate::brokers::HASH;
use crate::disk::gc::Gc;
use crate::rng::Rng;

/// Checkpoints kept.
const CHECKPOINTS: usize = 5;

#[derive(Debug)]
enum Write {
    Store(Call<BackingStore>),
    Commit(Call<BackingCommit>),
    Checkpoint(Call<BackingCheckpointPut>),
}

impl Write {
    fn blobs(&self) -> &[Bytes] {
        match self {
            Self::Store(call) => std::slice::from_ref(&call.request.0),
            Self::Commit(call) => &call.request.blobs,
            Self::Checkpoint(_) => &[],
        }
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Store(_) => None,
            Self::Commit(call) => call.request.checkpoint.as_ref(),
            Self::Checkpoint(call) => Some(&call.request.value),
        }
    }

    fn answer(self, out: &mut Vec<Message>, result: Result<(), RpcError>) {
        match self {
            Self::Store(Call { request, answer }) => {
                let digest = Bytes::copy_from_slice(HASH.hash(&request.0).digest());
                answer.respond(out, result.map(|()| Raw(digest)));
            }
            Self::Commit(call) => call.answer.respond(out, result.map(|()| Empty)),
            Self::Checkpoint(call) => call.answer.respond(out, result.map(|()| Empty)),
        }
    }

    fn forget(self) {
        match self {
            Self::Store(call) => call.answer.forget(),
            Self::Commit(call) => call.answer.forget(),
            Self::Checkpoint(call) => call.answer.forget(),
        }
    }
}

/// The disk of rank 0.
#[derive(Debug, Default)]
pub struct Disk {
    blobs: BTreeMap<Bytes, Bytes>,
    /// Oldest first.
    checkpoints: Vec<Checkpoint>,
    waiting: Vec<Write>,
    /// The transaction that is being written, and what the disk will say to it.
    writing: Option<(Vec<Write>, Option<Errno>)>,
    /// What every write fails with, if it does.
    pub fails: Option<Errno>,
    /// Transactions so far.
    pub syncs: u64,
    gc: Gc,
    /// Some broker stood still for longer than blobs are kept for, or is as far away as that: it may
    /// ask for what is gone, and then has to ask for something newer.
    pub(crate) late_readers: bool,
    /// The next step of a collection is planned.
    stepping: bool,
    /// Blobs that were collected so far.
    pub collected: u64,
    /// Passes of the collection that came to their end.
    pub passes: u64,
    /// Passes that looked into nothing old.
    pub young: u64,
    /// Laws that were broken.
    pub violations: Vec<String>,
}

impl Disk {
    /// Takes a request; what is answered at once goes to `out`. True when a transaction begins,
    /// which [`Disk::written`] ends.
    pub fn request(&mut self, message: Message, out: &mut Vec<Message>) -> bool {
        match Backing::decode(message) {
            Ok(Backing::BackingStore(call)) => self.waiting.push(Write::Store(call)),
            Ok(Backing::BackingCommit(call)) => self.waiting.push(Write::Commit(call)),
            Ok(Backing::BackingCheckpointPut(call)) => self.waiting.push(Write::Checkpoint(call)),
            Ok(Backing::BackingLoad(call)) => {
                let found = self.blobs.get(&call.request.0).cloned().map(Raw);
                self.check_load(&call.request.0);
                call.answer.respond(out, found.ok_or_else(|| RpcError::bare(Errno::ENOENT)));
            }
            Ok(Backing::BackingValidate(call)) => {
                let found = self.blobs.contains_key(&call.request.0).then_some(Empty);
                call.answer.respond(out, found.ok_or_else(|| RpcError::bare(Errno::ENOENT)));
            }
            Ok(Backing::BackingHold(call)) => self.hold(call, out),
            Ok(Backing::BackingCheckpointGet(call)) => {
                let value: Vec<Checkpoint> = self.checkpoints.iter().rev().cloned().collect();
                let found = (!value.is_empty()).then_some(CheckpointList { value });
                call.answer.respond(out, found.ok_or_else(|| RpcError::bare(Errno::ENOENT)));
            }
            Ok(Backing::BackingMark(call)) => {
                let marked = call.request.hashes.len() as u64;
                call.answer.ok(out, &MarkResponse { marked });
            }
            Ok(Backing::BackingCollect(call)) => self.begin_pass(call, out),
            Ok(Backing::BackingGcInfo(call)) => {
                let bytes: usize = self.blobs.values().map(Bytes::len).sum();
                let settled = (bytes as u64).saturating_sub(self.gc.live + self.gc.added);
                let info = GcInfo {
                    current_epoch: i64::try_from(self.gc.passes).unwrap_or(0),
                    high_water: 0,
                    file_bytes: bytes as u64,
                    free_bytes: 0,
                    live_bytes: self.gc.live,
                    added_bytes: self.gc.added,
                    settled_bytes: settled,
                };
                call.answer.ok(out, &info);
            }
            Ok(Backing::BackingStatus(call)) => {
                let state = match self.fails {
                    None => "ok",
                    Some(Errno::ENOSPC) => "full",
                    Some(_) => "failing",
                };
                let status = StoreStatus { state: state.to_string(), text: String::new() };
                call.answer.ok(out, &status);
            }
            Ok(Backing::BackingBackup(call)) => call.answer.err(out, Errno::ENOSYS),
            Ok(Backing::BackingRelocate(call)) => call.answer.err(out, Errno::ENOSYS),
            Err((message, error)) => {
                if !message.no_response() {
                    out.push(rpc::refusal(&message, &error));
                }
            }
        }
        self.begin()
    }

    fn begin(&mut self) -> bool {
        if self.writing.is_some() || self.waiting.is_empty() {
            return false;
        }
        self.writing = Some((std::mem::take(&mut self.waiting), self.fails));
        true
    }

    fn sync(&mut self, writes: &[Write]) {
        self.syncs += 1;
        for write in writes {
            for blob in write.blobs() {
                let digest = Bytes::copy_from_slice(HASH.hash(blob).digest());
                self.gc.reach(&digest);
                if self.blobs.insert(digest, blob.clone()).is_none() {
                    self.gc.added += blob.len() as u64;
                }
            }
            self.checkpoints.extend(write.checkpoint().cloned());
        }
        let excess = self.checkpoints.len().saturating_sub(CHECKPOINTS);
        self.checkpoints.drain(..excess);
    }

    /// The transaction is through, or has failed. True when the next one begins.
    pub fn written(&mut self, out: &mut Vec<Message>) -> bool {
        if let Some((writes, failure)) = self.writing.take() {
            let result = match failure {
                None => {
                    self.sync(&writes);
                    Ok(())
                }
                Some(errno) => Err(RpcError::bare(errno)),
            };
            for write in writes {
                write.answer(out, result.clone());
            }
        }
        self.begin()
    }

    /// The process is gone, or the power: what was being written is there as a whole or not at
    /// all, what waited is lost.
    pub fn crash(&mut self, rng: &mut Rng) {
        if let Some((writes, failure)) = self.writing.take() {
            if failure.is_none() && rng.chance(50) {
                self.sync(&writes);
            }
            writes.into_iter().for_each(Write::forget);
        }
        self.waiting.drain(..).for_each(Write::forget);
        self.gc.crash();
        self.stepping = false;
    }
}
