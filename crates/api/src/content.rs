//! `content` and `content-backing`: blobs by their hash (RFC 10), and the store behind them.
//!
//! The cache runs on every rank: rank 0 writes to the backing store, the others to their parent.
//! The backing store is a driver; a response to `content-backing.commit` is a promise on disk.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flux_proto::{Carried, Carry, Message};

use crate::body::{AnyObject, Body, Empty, Raw};

/// Blobs to store, and the root that they complete: all of it, or none, is durable when the
/// response comes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BlobBatch {
    /// Blobs, each before those that refer to it.
    pub blobs: Vec<Bytes>,
    /// The new root, if this batch makes one durable.
    pub checkpoint: Option<Checkpoint>,
}

/// Wire form: `u32` length of the checkpoint JSON (0: none), the JSON, then each blob with a
/// `u32` length before it; all numbers big endian.
impl Carry for BlobBatch {
    fn payload(&self) -> Bytes {
        let size: usize = self.blobs.iter().map(|blob| blob.len() + 4).sum();
        let json = self.checkpoint.as_ref().and_then(|value| serde_json::to_vec(value).ok());
        let json = json.unwrap_or_default();
        let mut bytes = BytesMut::with_capacity(size + json.len() + 4);
        bytes.put_u32(u32::try_from(json.len()).unwrap_or(0));
        bytes.put_slice(&json);
        for blob in &self.blobs {
            // The content service refuses blobs over 1 GiB before they get here.
            bytes.put_u32(u32::try_from(blob.len()).unwrap_or(u32::MAX));
            bytes.put_slice(blob);
        }
        bytes.freeze()
    }
}

impl Body for BlobBatch {
    fn put(&self, message: &mut Message) {
        message.set_payload(Some(self.payload()));
    }

    fn hand(self, message: &mut Message) {
        message.set_body(Carried::new(self));
    }

    fn receive(message: &mut Message) -> Result<Self, String> {
        message.body = match message.body.take().map(Carried::take::<Self>) {
            Some(Ok(batch)) => return Ok(batch),
            Some(Err(other)) => Some(other),
            None => None,
        };
        Self::take(message)
    }

    fn take(message: &Message) -> Result<Self, String> {
        fn part(bytes: &mut Bytes) -> Result<Bytes, String> {
            if bytes.len() < 4 {
                return Err("truncated blob batch".to_string());
            }
            let length = bytes.get_u32() as usize;
            if length > bytes.len() {
                return Err("truncated blob batch".to_string());
            }
            Ok(bytes.split_to(length))
        }
        let mut bytes = message.bytes().cloned().unwrap_or_default();
        let json = part(&mut bytes)?;
        let checkpoint = if json.is_empty() {
            None
        } else {
            Some(serde_json::from_slice(&json).map_err(|error| error.to_string())?)
        };
        let mut blobs = Vec::new();
        while !bytes.is_empty() {
            blobs.push(part(&mut bytes)?);
        }
        Ok(Self { blobs, checkpoint })
    }
}

bodies! {
    /// A root of the key-value store that was made durable.
    pub struct Checkpoint {
        /// Format, 1.
        pub version: u32,
        /// Blobref of the root directory.
        pub rootref: String,
        /// Root sequence number.
        pub sequence: i64,
        /// When, in seconds since the epoch.
        pub timestamp: f64,
        /// Blobref of the directory (RFC 11) of the namespaces beside primary. Left out when
        /// there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub namespaces: Option<String>,
    }

    /// Body of `checkpoint-put`.
    pub struct CheckpointPut {
        /// The newest root.
        pub value: Checkpoint,
    }

    /// Checkpoints, newest first.
    pub struct CheckpointList {
        /// At least one.
        pub value: Vec<Checkpoint>,
    }

    /// Body of `register-backing`.
    pub struct BackingName {
        /// Name of the store.
        pub name: String,
    }

    /// Counters of a rank's cache.
    pub struct CacheStats {
        /// Entries.
        pub count: u64,
        /// Entries whose blob is here.
        pub valid: u64,
        /// Entries not yet stored.
        pub dirty: u64,
        /// Bytes of all blobs.
        pub size: u64,
        /// Stores in flight.
        #[serde(rename = "flush-batch-count")]
        pub flush_batch_count: u64,
    }

    /// Body of `content-backing.mark`.
    pub struct MarkRequest {
        /// The collection that found these blobs alive.
        pub epoch: i64,
        /// Blobrefs, at most 16384.
        pub hashes: Vec<String>,
    }

    /// Body of `content-backing.hold`: what a commit is about to refer to.
    #[derive(Default)]
    pub struct HoldRequest {
        /// Blobrefs of directories.
        #[serde(default)]
        pub dirs: Vec<String>,
        /// Blobrefs of pieces of values.
        #[serde(default)]
        pub data: Vec<String>,
    }

    /// How many rows were marked.
    pub struct MarkResponse {
        /// Rows whose epoch was raised.
        pub marked: u64,
    }

    /// Body of `content.collect`.
    #[derive(Default)]
    pub struct CollectRequest {
        /// Waits for a second pass after the grace time, so that all that is garbage now is gone
        /// when the answer comes; otherwise one pass is made.
        #[serde(default)]
        pub thorough: bool,
    }

    /// Body of `content-backing.collect`: one pass.
    #[derive(Default)]
    pub struct CollectPass {
        /// Blobrefs of directories that are alive beside the newest checkpoint: those of readers.
        #[serde(default)]
        pub pins: Vec<String>,
        /// Looks only into what was stored lately: what passes before have found alive is taken to
        /// live.
        #[serde(default)]
        pub young: bool,
        /// How long a blob is kept that was stored by itself, so that a commit can refer to it, in
        /// microseconds; without it, for ever.
        #[serde(default)]
        pub grace_us: Option<u64>,
    }

    /// What a pass has done. A blob is deleted by the first pass that, as the pass before it, did
    /// not reach it, and only if it was not stored since the pass before began. A young pass
    /// looks only at what was stored lately, unless the one before it was none.
    #[derive(Default)]
    pub struct Collected {
        /// Blobs looked at that are alive: reached by this pass, or stored since it began.
        pub live: u64,
        /// Their bytes in the file.
        pub live_bytes: u64,
        /// Blobs that were deleted.
        pub deleted: u64,
        /// Bytes of the file before.
        pub before: u64,
        /// Bytes of the file after.
        pub after: u64,
    }

    /// What a collection would be decided by.
    #[derive(Default)]
    pub struct GcInfo {
        /// Collections since the store was opened.
        pub current_epoch: i64,
        /// Highest row.
        pub high_water: i64,
        /// Bytes of the file, its log beside it not counted.
        pub file_bytes: u64,
        /// Bytes of pages in it that are free.
        pub free_bytes: u64,
        /// Bytes of blobs that the last pass that looked at all of them found alive; 0 before it.
        pub live_bytes: u64,
        /// Bytes of blobs that were added since the last pass began.
        pub added_bytes: u64,
        /// Bytes of blobs beside both, that young passes have left standing.
        #[serde(default)]
        pub settled_bytes: u64,
    }

    /// A file for a copy of the store.
    pub struct CopyRequest {
        /// Absolute path on rank 0; no file may be there.
        pub path: String,
    }

    /// What was copied.
    pub struct Copied {
        /// Blobs.
        pub blobs: u64,
        /// Bytes of the new file.
        pub bytes: u64,
    }

    /// A root that a reader walks, or word that blobs are stored which a commit will refer to.
    pub struct PinRequest {
        /// Blobref of a directory. Empty, it means whatever is stored by itself from now on.
        pub rootref: String,
    }

    /// Whether the store takes writes.
    #[derive(Default)]
    pub struct StoreStatus {
        /// `ok`, `full` (no space: new work is refused, what runs goes on), or `failing`.
        pub state: String,
        /// One sentence on what is wrong and what to do; empty if nothing is.
        pub text: String,
    }
}

api! {
    /// The blob cache of every rank.
    pub enum Content("content") {
        /// Reads a blob by its raw digest.
        Load = "content.load", owner, unary, Raw => Raw;
        /// Stores a blob and answers its raw digest.
        Store = "content.store", owner, unary, Raw => Raw;
        /// Stores blobs and, with them, a root: all durable when answered. Rank 0 only.
        Commit = "content.commit", owner, unary, BlobBatch => Empty;
        /// Answers when every dirty entry is stored.
        Flush = "content.flush", owner, unary, Empty => Empty;
        /// Forgets clean entries.
        Dropcache = "content.dropcache", owner, unary, Empty => Empty;
        /// Newest checkpoints.
        CheckpointGet = "content.checkpoint-get", owner, unary, AnyObject => CheckpointList;
        /// Stores a checkpoint after all blobs before it.
        CheckpointPut_ = "content.checkpoint-put", owner, unary, CheckpointPut => Empty;
        /// Deletes blobs that nothing refers to and shrinks the file. Rank 0 only.
        Collect = "content.collect", owner, unary, CollectRequest => Collected;
        /// Keeps what a root refers to, or what is stored by itself, until its client leaves. One empty response says that it
        /// holds. Rank 0 only.
        Pin = "content.pin", owner, streaming, PinRequest => Empty;
        /// Whether the store takes writes. Rank 0 only.
        Status = "content.status", user, unary, AnyObject => StoreStatus;
    }
}

api! {
    /// The backing store: a driver on rank 0. Every answer to a store or commit is a promise on
    /// disk; a full or failing disk is answered with its errno (ENOSPC, EIO).
    pub enum Backing("content-backing") {
        /// Reads a blob by its raw digest.
        BackingLoad = "content-backing.load", owner, unary, Raw => Raw;
        /// Stores a blob and answers its raw digest.
        BackingStore = "content-backing.store", owner, unary, Raw => Raw;
        /// Stores blobs and a checkpoint in one transaction.
        BackingCommit = "content-backing.commit", owner, unary, BlobBatch => Empty;
        /// Whether a blob is there (ENOENT).
        BackingValidate = "content-backing.validate", owner, unary, Raw => Empty;
        /// Looks whether blobs are there, with all that directories among them refer to, and keeps
        /// them for a minute at least, so that a commit can refer to them. ENOENT names one that is
        /// missing, EINVAL one that is no directory.
        BackingHold = "content-backing.hold", owner, unary, HoldRequest => Empty;
        /// Newest checkpoints.
        BackingCheckpointGet = "content-backing.checkpoint-get", owner, unary, AnyObject => CheckpointList;
        /// Stores a checkpoint.
        BackingCheckpointPut = "content-backing.checkpoint-put", owner, unary, CheckpointPut => Empty;
        /// Raises the epoch of blobs that a collection found alive.
        BackingMark = "content-backing.mark", owner, unary, MarkRequest => MarkResponse;
        /// Makes one pass of a collection: marks what the newest checkpoint and the pins reach,
        /// deletes what neither this pass nor the one before reached, shrinks the file.
        BackingCollect = "content-backing.collect", owner, unary, CollectPass => Collected;
        /// What a collection would be decided by.
        BackingGcInfo = "content-backing.gc-info", owner, unary, AnyObject => GcInfo;
        /// Copies the store, as it is at one instant, to a new file, while serving.
        BackingBackup = "content-backing.backup", owner, unary, CopyRequest => Copied;
        /// Moves the store to a new file, while serving.
        BackingRelocate = "content-backing.relocate", owner, unary, CopyRequest => Copied;
        /// Whether the last write went through.
        BackingStatus = "content-backing.status", owner, unary, AnyObject => StoreStatus;
    }
}
