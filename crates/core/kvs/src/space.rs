//! What a rank knows of a namespace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flux_api::Answer;
use flux_api::kvs::{Commit, Relaycommit, RootResponse, WaitVersion_};
use flux_model::blobref::Blobref;
use flux_proto::{Cred, Rolemask};
use serde_json::{Map, Value};

use crate::apply::{Held, Op};
use crate::cache::Object;
use crate::dir::Node;
use crate::error::KvsError;

/// A version of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) seq: i64,
    pub(crate) blobref: Blobref,
}

impl Root {
    pub(crate) fn response(&self) -> RootResponse {
        RootResponse { rootref: self.blobref.to_string(), rootseq: self.seq }
    }
}

/// Who waits for a version.
#[derive(Debug)]
pub(crate) enum VersionWaiter {
    /// `kvs.wait-version`.
    Version(Answer<WaitVersion_>),
    /// A lookup with `rootseq`, by its number.
    Lookup(u64),
    /// A commit of this follower.
    Commit(Answer<Commit>, RootResponse),
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) owner: u32,
    pub(crate) flags: u32,
    /// What readers of this rank see.
    pub(crate) root: Root,
    /// Root changes are held back; the newest one held.
    pub(crate) paused: Option<Option<Root>>,
    /// Waiters by the version they wait for, then in order of arrival.
    pub(crate) waiters: BTreeMap<(i64, u64), VersionWaiter>,
    /// Commits of this namespace, on rank 0.
    pub(crate) work: Work,
    /// Transactions committed here since the start.
    pub(crate) transactions: u64,
    /// Bytes that a guest has put here, on rank 0.
    pub(crate) put: u64,
}

impl Space {
    pub(crate) fn new(owner: u32, flags: u32, root: Root) -> Self {
        Self {
            owner,
            flags,
            root,
            paused: None,
            waiters: BTreeMap::new(),
            work: Work::new(root),
            transactions: 0,
            put: 0,
        }
    }

    /// Whether this user may read and write.
    pub(crate) fn allows(&self, cred: Cred) -> bool {
        cred.rolemask.contains(Rolemask::OWNER) || cred.userid == self.owner
    }
}

/// How a transaction is answered.
#[derive(Debug)]
pub(crate) enum Done {
    /// To a client of rank 0.
    Commit(Answer<Commit>),
    /// To a follower.
    Relay(Answer<Relaycommit>),
}

/// A transaction.
#[derive(Debug)]
pub(crate) struct Txn {
    pub(crate) name: String,
    pub(crate) ops: Vec<Op>,
    /// Shares its version with no other.
    pub(crate) exclusive: bool,
    /// Waits while the disk is full.
    pub(crate) patient: bool,
    pub(crate) done: Done,
    pub(crate) held: Held,
    /// What it refers to is there, and stays for a while.
    pub(crate) sure: bool,
    /// A load on its behalf failed.
    pub(crate) failed: Option<KvsError>,
}

/// Transactions that make one version together.
#[derive(Debug)]
pub(crate) struct Group {
    /// The version, once the group is sealed and if any of its transactions went through.
    pub(crate) root: Option<Root>,
    pub(crate) changed: bool,
    pub(crate) exclusive: bool,
    pub(crate) txns: Vec<(Txn, Result<(), KvsError>)>,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self { root: None, changed: false, exclusive: false, txns: Vec::new() }
    }

    /// Keys that its transactions changed.
    pub(crate) fn keys(&self) -> Map<String, Value> {
        let mut keys = Map::new();
        for (txn, result) in &self.txns {
            if result.is_ok() {
                for op in &txn.ops {
                    if !keys.contains_key(&op.key) {
                        keys.insert(op.key.clone(), Value::Null);
                    }
                }
            }
        }
        keys
    }
}

/// The writing side of a namespace, on rank 0.
#[derive(Debug)]
pub(crate) struct Work {
    /// Newest version on disk.
    pub(crate) durable: Root,
    /// Newest version that was made, durable or not.
    pub(crate) newest: Root,
    /// Tree that the next transaction changes: the newest version and what was applied since.
    pub(crate) tree: Node,
    /// Not yet applied.
    pub(crate) queue: VecDeque<Txn>,
    /// The head of the queue waits: the number of this stall, and how many objects are missing.
    pub(crate) stall: Option<(u64, usize)>,
    /// Applied, not yet sent to the store.
    pub(crate) groups: Vec<Group>,
    /// Created and durable.
    pub(crate) born: bool,
    /// To be removed; nothing new is taken.
    pub(crate) dying: bool,
}

impl Work {
    fn new(root: Root) -> Self {
        Self {
            durable: root,
            newest: root,
            tree: Node::Ref(root.blobref),
            queue: VecDeque::new(),
            stall: None,
            groups: Vec::new(),
            born: true,
            dying: false,
        }
    }
}

/// What the next commit to the store carries, each blob once.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) blobs: Vec<Bytes>,
    /// The same, for the cache once they are durable, with their sizes.
    pub(crate) objects: Vec<(Blobref, Object, usize)>,
    pub(crate) bytes: usize,
    /// Directories that have changed since, in their former versions.
    pub(crate) replaced: Vec<Blobref>,
    /// Directories that are the same as another one of this commit, once for each such.
    pub(crate) shared: Vec<Blobref>,
    seen: BTreeSet<Blobref>,
}

impl Outgoing {
    /// Adds a blob; false when it is there already.
    pub(crate) fn push(&mut self, blobref: Blobref, bytes: &Bytes, object: Object) -> bool {
        let new = self.seen.insert(blobref);
        if new {
            self.bytes += bytes.len();
            self.blobs.push(bytes.clone());
            self.objects.push((blobref, object, bytes.len()));
        }
        new
    }
}
