//! The thread: takes what waits, writes it in one transaction, answers; between requests it
//! collects or copies, a little at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use flux_api::content::{
    Backing, BackingBackup, BackingCheckpointGet, BackingCheckpointPut, BackingCollect,
    BackingCommit, BackingGcInfo, BackingHold, BackingLoad, BackingMark, BackingRelocate,
    BackingStatus, BackingStore, BackingValidate, BlobBatch, CheckpointList, GcInfo, MarkResponse,
    StoreStatus,
};
use flux_api::{Answer, Api, Call, Empty, Raw, RpcError};
use flux_host::driver::DriverHandle;
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Errno, Message};

use crate::collect::{Collection, Step};
use crate::copy::{Aim, Copy};
use crate::driver::{Ahead, Work, size};
use crate::error::StoreError;
use crate::hold::Hold;
use crate::log::{BlobLog, Write};

/// Requests that share one transaction.
const BATCH_MAX: usize = 512;

/// Hashes in one `mark` request.
const MARK_MAX: usize = 16_384;

/// Time between attempts to write what was accepted, while the disk is full.
const RETRY: Duration = Duration::from_millis(200);

/// How long what was accepted may gather, when nothing else is asked for.
const GATHER: Duration = Duration::from_millis(5);

/// Time for a step of what goes on in the background. It is at most one part in
/// [`SHARE`] of the thread's time.
const STEP: Duration = Duration::from_micros(500);
const SHARE: u32 = 4;

/// How long to wait for a thread that works in the background.
const NAP: Duration = Duration::from_millis(1);

fn wire(error: &StoreError) -> RpcError {
    RpcError::new(error.errno(), error.to_string())
}

/// A request that writes, and how to answer it when the batch is on disk.
pub(crate) enum Pending {
    Store(Call<BackingStore>),
    Commit(Call<BackingCommit>),
    Checkpoint(Call<BackingCheckpointPut>),
}

impl Pending {
    fn writes(&self) -> Vec<Write<'_>> {
        match self {
            Self::Store(call) => vec![Write::Loose(&call.request.0)],
            Self::Commit(call) => writes_of(&call.request).collect(),
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

/// The writes of a commit. Without a checkpoint it commits to nothing yet.
fn writes_of(batch: &BlobBatch) -> impl Iterator<Item = Write<'_>> {
    let write = if batch.checkpoint.is_some() { Write::Blob } else { Write::Loose };
    let blobs = batch.blobs.iter().map(move |blob| write(blob));
    blobs.chain(batch.checkpoint.as_ref().map(Write::Checkpoint))
}

/// What goes on between requests.
pub(crate) enum Background {
    Collect(Collection, Answer<BackingCollect>, DriverHandle),
    Backup(Copy, Answer<BackingBackup>, DriverHandle),
    Relocate(Copy, Answer<BackingRelocate>, DriverHandle),
}

impl Background {
    fn what(&self) -> &'static str {
        match self {
            Self::Collect(..) => "a collection",
            Self::Backup(copy, ..) | Self::Relocate(copy, ..) => copy.what(),
        }
    }
}

/// The store's thread.
pub(crate) struct Server {
    pub(crate) log: BlobLog,
    ahead: Arc<Ahead>,
    /// Accepted, and not yet written: kept until it is.
    pub(crate) accepted: Vec<BlobBatch>,
    pub(crate) pending: Vec<(Pending, DriverHandle)>,
    pub(crate) background: Option<Background>,
    /// What commits are about to refer to is being looked for.
    pub(crate) holds: VecDeque<(Hold, Answer<BackingHold>, DriverHandle)>,
    /// When the next step in the background may be.
    next_step: Instant,
    /// Why the last write failed, if it did.
    failure: Option<StoreStatus>,
}

impl Server {
    pub(crate) fn new(log: BlobLog, ahead: Arc<Ahead>) -> Self {
        Self {
            log,
            ahead,
            accepted: Vec::new(),
            pending: Vec::new(),
            background: None,
            holds: VecDeque::new(),
            next_step: Instant::now(),
            failure: None,
        }
    }

    /// Serves until the driver is dropped.
    pub(crate) fn run(mut self, queue: &Receiver<Work>) {
        loop {
            let first = match self.patience() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => queue.recv_timeout(time),
            };
            let first = match first {
                Ok(work) => Some(work),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            };
            let mut next = first;
            let mut count = 0;
            if matches!(next, Some(Work::Accepted)) {
                // Nobody waits for it, and a transaction for each would cost far more.
                next = queue.recv_timeout(GATHER).ok();
            }
            while let Some(work) = next.take() {
                self.take(work);
                count += 1;
                if count < BATCH_MAX {
                    next = queue.try_recv().ok();
                }
            }
            self.take_accepted();
            self.store();
            self.hold_on();
            if self.background.is_some() && Instant::now() >= self.next_step {
                self.step();
            }
        }
    }

    fn close(self) {
        let error = RpcError::new(Errno::EIO, "the store was closed");
        for (_, answer, mut back) in self.holds {
            answer.err(&mut back, error.clone());
        }
        match self.background {
            None => {}
            Some(Background::Collect(_, answer, mut back)) => answer.err(&mut back, error),
            Some(Background::Backup(_, answer, mut back)) => answer.err(&mut back, error),
            Some(Background::Relocate(_, answer, mut back)) => answer.err(&mut back, error),
        }
    }

    /// How long to wait for requests, if not for ever.
    fn patience(&self) -> Option<Duration> {
        if !self.holds.is_empty() {
            return Some(Duration::ZERO);
        }
        let step = self
            .background
            .is_some()
            .then(|| self.next_step.saturating_duration_since(Instant::now()));
        let retry = (!self.accepted.is_empty()).then_some(RETRY);
        match (step, retry) {
            (Some(step), Some(retry)) => Some(step.min(retry)),
            (step, retry) => step.or(retry),
        }
    }

    /// Takes what was accepted up to now.
    pub(crate) fn take_accepted(&mut self) {
        self.accepted.extend(self.ahead.take());
    }

    pub(crate) fn take(&mut self, work: Work) {
        match work {
            // Taken with everything that has come since.
            Work::Accepted => {}
            Work::Request(message, mut back) => match Backing::decode(message) {
                Ok(Backing::BackingStore(call)) => {
                    self.pending.push((Pending::Store(call), back));
                }
                Ok(Backing::BackingCommit(call)) => {
                    self.pending.push((Pending::Commit(call), back));
                }
                Ok(Backing::BackingCheckpointPut(call)) => {
                    self.pending.push((Pending::Checkpoint(call), back));
                }
                // What was accepted can be read: it is written first.
                other => {
                    self.take_accepted();
                    self.store();
                    self.look(other, &mut back);
                }
            },
        }
    }

    /// Writes in one transaction what was accepted and what is asked for, and answers the latter.
    pub(crate) fn store(&mut self) {
        if self.accepted.is_empty() && self.pending.is_empty() {
            return;
        }
        let requested = self.pending.iter().flat_map(|(request, _)| request.writes());
        let writes: Vec<Write<'_>> =
            self.accepted.iter().flat_map(writes_of).chain(requested).collect();
        let result = self.log.write(&writes);
        drop(writes);
        self.note(&result);
        let result = result.map_err(|error| wire(&error));
        if !self.accepted.is_empty() {
            self.ahead.failing.store(result.is_err(), Ordering::Release);
        }
        if result.is_ok() {
            let bytes = self.accepted.drain(..).map(|batch| size(&batch)).sum();
            self.ahead.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let hash = self.log.hash();
        for (request, mut back) in self.pending.drain(..) {
            request.answer(&mut back, hash, result.clone());
        }
    }

    /// Remembers whether writes go through.
    fn note(&mut self, result: &Result<(), StoreError>) {
        self.failure = result.as_ref().err().map(|error| {
            let state = if matches!(error, StoreError::Full(_)) { "full" } else { "failing" };
            StoreStatus { state: state.to_string(), text: error.to_string() }
        });
    }

    /// Answers a request that does not write blobs.
    pub(crate) fn look(
        &mut self,
        request: Result<Backing, (Message, RpcError)>,
        back: &mut DriverHandle,
    ) {
        match request {
            Ok(Backing::BackingLoad(call)) => self.load(call, back),
            Ok(Backing::BackingValidate(call)) => self.validate(call, back),
            Ok(Backing::BackingHold(call)) => self.hold(call, back),
            Ok(Backing::BackingCheckpointGet(call)) => self.checkpoints(call.answer, back),
            Ok(Backing::BackingMark(call)) => self.mark(call, back),
            Ok(Backing::BackingCollect(call)) => self.collect(call, back),
            Ok(Backing::BackingGcInfo(call)) => self.gc_info(call.answer, back),
            Ok(Backing::BackingBackup(call)) => self.backup(call, back),
            Ok(Backing::BackingRelocate(call)) => self.relocate(call, back),
            Ok(Backing::BackingStatus(call)) => self.status(call.answer, back),
            // Those that write are not brought here.
            Ok(Backing::BackingStore(call)) => call.answer.err(back, Errno::ENOSYS),
            Ok(Backing::BackingCommit(call)) => call.answer.err(back, Errno::ENOSYS),
            Ok(Backing::BackingCheckpointPut(call)) => call.answer.err(back, Errno::ENOSYS),
            Err((message, _)) if message.method() == "stats-get" => self.stats(&message, back),
            Err((message, error)) => back.refuse(&message, &error),
        }
    }

    fn load(&self, call: Call<BackingLoad>, back: &mut DriverHandle) {
        let digest = &call.request.0;
        let result = self.log.load(digest).map(Raw).or_else(|error| {
            // While nothing can be written, what was accepted is here.
            let hash = self.log.hash();
            let blobs = self.accepted.iter().flat_map(|batch| &batch.blobs);
            let mut same = blobs.filter(|blob| hash.hash(blob).digest() == digest.as_ref());
            same.next().map(|blob| Raw(blob.clone())).ok_or_else(|| wire(&error))
        });
        call.answer.respond(back, result);
    }

    fn validate(&self, call: Call<BackingValidate>, back: &mut DriverHandle) {
        let result = self.log.validate(&call.request.0);
        call.answer.respond(back, result.map(|()| Empty).map_err(|error| wire(&error)));
    }

    fn hold(&mut self, call: Call<BackingHold>, back: &mut DriverHandle) {
        match Hold::begin(&call.request) {
            Ok(hold) => {
                self.holds.push_back((hold, call.answer, back.clone()));
                self.hold_on();
            }
            Err(text) => call.answer.err(back, RpcError::new(Errno::EPROTO, text)),
        }
    }

    /// Looks for a while for what commits are about to refer to: they wait for it, and so it does
    /// not for the background.
    pub(crate) fn hold_on(&mut self) {
        let Some((mut hold, answer, mut back)) = self.holds.pop_front() else { return };
        match hold.step(&mut self.log, Instant::now() + STEP) {
            Ok(true) => answer.ok(&mut back, &Empty),
            Ok(false) => self.holds.push_back((hold, answer, back)),
            // It may be among what was accepted, and cannot be written now.
            Err(StoreError::Collected(_)) if !self.accepted.is_empty() => {
                answer.err(&mut back, wire(&StoreError::Full(self.log.path().to_path_buf())));
            }
            Err(error) => answer.err(&mut back, wire(&error)),
        }
    }

    fn checkpoints(&self, answer: Answer<BackingCheckpointGet>, back: &mut DriverHandle) {
        let result = self.log.checkpoints().map(|value| CheckpointList { value });
        answer.respond(back, result.map_err(|error| wire(&error)));
    }

    fn mark(&mut self, call: Call<BackingMark>, back: &mut DriverHandle) {
        let hashes = &call.request.hashes;
        if hashes.len() > MARK_MAX {
            let count = hashes.len();
            let text = format!("mark request of {count} hashes exceeds limit of {MARK_MAX}");
            return call.answer.err(back, RpcError::new(Errno::EINVAL, text));
        }
        let mut marked = 0;
        for hash in hashes {
            let row = hash
                .parse::<Blobref>()
                .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
                .and_then(|name| self.log.row_of(name.digest()).map_err(|error| wire(&error)));
            match row {
                Ok(row) => marked += u64::from(row.is_some_and(|row| self.log.marks.keep(row))),
                Err(error) => return call.answer.err(back, error),
            }
        }
        call.answer.ok(back, &MarkResponse { marked });
    }

    fn gc_info(&self, answer: Answer<BackingGcInfo>, back: &mut DriverHandle) {
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let result = self.log.size().map(|(file, free)| GcInfo {
            current_epoch: self.log.marks.passes,
            high_water: self.log.high_water(),
            file_bytes: number(file),
            free_bytes: number(free),
            live_bytes: self.log.account.live,
            added_bytes: self.log.account.added[0],
            settled_bytes: self.log.account.settled(),
        });
        answer.respond(back, result.map_err(|error| wire(&error)));
    }

    /// Whether writes go through: what failed is tried again.
    fn status(&mut self, answer: Answer<BackingStatus>, back: &mut DriverHandle) {
        if self.failure.is_some() {
            let result = self.log.probe();
            self.note(&result);
        }
        let fine = StoreStatus { state: "ok".to_string(), text: String::new() };
        answer.ok(back, self.failure.as_ref().unwrap_or(&fine));
    }

    fn idle(&self) -> Result<(), StoreError> {
        match &self.background {
            None => Ok(()),
            Some(work) => {
                Err(StoreError::Working { path: self.log.path().to_path_buf(), what: work.what() })
            }
        }
    }

    fn collect(&mut self, call: Call<BackingCollect>, back: &mut DriverHandle) {
        let pins: Result<Vec<Blobref>, _> =
            call.request.pins.iter().map(|text| text.parse()).collect();
        let pins = match pins {
            Ok(pins) => pins,
            Err(error) => {
                return call.answer.err(back, RpcError::new(Errno::EPROTO, error.to_string()));
            }
        };
        let grace = call.request.grace_us.map_or(Duration::MAX, Duration::from_micros);
        let thorough = !call.request.young;
        let begun = self.idle().and_then(|()| {
            self.log.marks.set_grace(grace);
            Collection::begin(&mut self.log, &pins, thorough)
        });
        match begun {
            Ok(collection) => {
                self.background = Some(Background::Collect(collection, call.answer, back.clone()));
            }
            Err(error) => call.answer.err(back, wire(&error)),
        }
    }

    fn backup(&mut self, call: Call<BackingBackup>, back: &mut DriverHandle) {
        let path = &call.request.path;
        match self.idle().and_then(|()| Copy::begin(&self.log, Aim::Backup, path)) {
            Ok(copy) => {
                self.background = Some(Background::Backup(copy, call.answer, back.clone()));
            }
            Err(error) => call.answer.err(back, wire(&error)),
        }
    }

    fn relocate(&mut self, call: Call<BackingRelocate>, back: &mut DriverHandle) {
        let path = &call.request.path;
        match self.idle().and_then(|()| Copy::begin(&self.log, Aim::Relocate, path)) {
            Ok(copy) => {
                self.background = Some(Background::Relocate(copy, call.answer, back.clone()));
            }
            Err(error) => call.answer.err(back, wire(&error)),
        }
    }

    /// A step of what goes on in the background.
    pub(crate) fn step(&mut self) {
        let began = Instant::now();
        let deadline = began + STEP;
        let mut nap = false;
        match self.background.take() {
            None => {}
            Some(Background::Collect(mut collection, answer, mut back)) => {
                match collection.step(&mut self.log, deadline) {
                    Ok(Step::Done(done)) => answer.ok(&mut back, &done),
                    Ok(step) => {
                        nap = matches!(step, Step::Wait);
                        self.background = Some(Background::Collect(collection, answer, back));
                    }
                    Err(error) => {
                        self.log.marks.give_up();
                        answer.err(&mut back, wire(&error));
                    }
                }
            }
            Some(Background::Backup(mut copy, answer, mut back)) => {
                match copy.step(&mut self.log, deadline) {
                    Ok(Some(copied)) => answer.ok(&mut back, &copied),
                    Ok(None) => self.background = Some(Background::Backup(copy, answer, back)),
                    Err(error) => answer.err(&mut back, wire(&error)),
                }
            }
            Some(Background::Relocate(mut copy, answer, mut back)) => {
                match copy.step(&mut self.log, deadline) {
                    Ok(Some(copied)) => answer.ok(&mut back, &copied),
                    Ok(None) => self.background = Some(Background::Relocate(copy, answer, back)),
                    Err(error) => answer.err(&mut back, wire(&error)),
                }
            }
        }
        let pause = began.elapsed() * (SHARE - 1);
        self.next_step = Instant::now() + if nap { pause.max(NAP) } else { pause };
    }

    fn stats(&self, message: &Message, back: &DriverHandle) {
        let (size, free) = self.log.size().unwrap_or((0, 0));
        let stats = serde_json::json!({
            "object_count": self.log.len(), "dbfile_size": size, "dbfile_free": free,
            "current_epoch": self.log.marks.passes,
            "path": self.log.path().display().to_string(),
        });
        let mut response = Message::response_to(message);
        response.set_payload(Some(flux_api::body::json_payload(&stats)));
        back.post(response);
    }
}

#[cfg(test)]
pub(crate) mod tests;
