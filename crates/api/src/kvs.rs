//! `kvs` and `kvs-watch`: the key-value store (RFC 11, RFC 16).

use flux_model::treeobj::{Treeobj, TreeobjError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty};

/// Lookup flag: the key must be a directory.
pub const READDIR: u32 = 1;
/// Lookup flag: the key must be a symlink, which is not followed.
pub const READLINK: u32 = 2;
/// Watch flag: respond now and at each change.
pub const WATCH: u32 = 4;
/// Watch flag: a missing key delays the first response.
pub const WAITCREATE: u32 = 8;
/// Lookup flag: the object as it is stored, not followed.
pub const TREEOBJ: u32 = 16;
/// Watch flag: compare after every root change.
pub const WATCH_FULL: u32 = 64;
/// Watch flag: respond only when the value differs.
pub const WATCH_UNIQ: u32 = 128;
/// Watch flag: after the first response, appended data only.
pub const WATCH_APPEND: u32 = 256;
/// Watch flag: the value in pieces, then ENODATA.
pub const STREAM: u32 = 512;
/// Watch flag: with WATCH_APPEND, one empty response after the initial data.
pub const WATCH_INITIAL_SENTINEL: u32 = 1024;

/// Lookup flag between services: links are followed, but a valref is answered as it is stored,
/// so that the blobs of a value can be told apart.
pub const KEEP_REFS: u32 = 1 << 16;

/// Commit flag: share no commit with others.
pub const NO_MERGE: u32 = 1;
/// Commit flag of this implementation: while the disk is full the commit waits for space instead
/// of failing with ENOSPC. For what must not be lost and that its maker cannot repeat.
pub const WAIT_SPACE: u32 = 1 << 16;
/// Commit flag of this implementation: nobody waits for it, so that it may wait some milliseconds
/// for another commit to go with.
pub const LAZY: u32 = 1 << 17;
/// Commit flag: also write a checkpoint (every commit is durable here).
pub const SYNC: u32 = 4;
/// Operation flag: append to the value.
pub const APPEND: u32 = 32;
/// Flag of an operation that removes a key: directories on the way to it go too when they are
/// empty then, but for those of the first level. Not of flux-core, which ignores it.
pub const PRUNE: u32 = 1 << 30;

/// Namespace that always exists.
pub const PRIMARY: &str = "primary";

/// What an operation puts into its place. JSON of a request becomes [`Dirent::Json`]: whoever
/// applies it looks whether it is a tree object.
#[derive(Debug, Clone, PartialEq)]
pub enum Dirent {
    /// Nothing: the key goes.
    Nothing,
    /// A tree object.
    Object(Treeobj),
    /// What should be one.
    Json(Value),
}

impl Dirent {
    /// The tree object, if there is one.
    ///
    /// # Errors
    /// It is none.
    pub fn into_object(self) -> Result<Option<Treeobj>, TreeobjError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Object(object) => Ok(Some(object)),
            Self::Json(value) => Treeobj::from_value(&value).map(Some),
        }
    }
}

impl From<Value> for Dirent {
    fn from(value: Value) -> Self {
        if value.is_null() { Self::Nothing } else { Self::Json(value) }
    }
}

impl From<Treeobj> for Dirent {
    fn from(object: Treeobj) -> Self {
        Self::Object(object)
    }
}

impl Serialize for Dirent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_unit(),
            Self::Object(object) => object.serialize(serializer),
            Self::Json(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Dirent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

bodies! {
    /// Body of `kvs.lookup` and `kvs.lookup-plus`.
    pub struct LookupRequest {
        /// Key, `.` separated; `.` is the root.
        pub key: String,
        /// Lookup flags.
        #[serde(default)]
        pub flags: u32,
        /// Namespace to read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub namespace: Option<String>,
        /// Or the root to read: a dirref.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rootdir: Option<Value>,
        /// Wait for this root sequence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rootseq: Option<i64>,
        /// From the owner: to be read as this user may, though `rootdir` is for the owner only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub userid: Option<u32>,
    }

    /// A tree object (RFC 11).
    pub struct LookupResponse {
        /// The object.
        pub val: Value,
    }

    /// Answer of `kvs.lookup-plus`.
    pub struct LookupPlusResponse {
        /// The object, when there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub val: Option<Value>,
        /// ENOENT when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub errno: Option<u32>,
        /// Sequence of the root that was read.
        pub rootseq: i64,
        /// Blobref of that root.
        pub rootref: String,
    }

    /// One operation of a transaction.
    pub struct Operation {
        /// Key.
        pub key: String,
        /// Operation flags.
        #[serde(default)]
        pub flags: u32,
        /// New tree object, or none: that removes the key.
        pub dirent: Dirent,
    }

    /// Body of `kvs.commit`.
    pub struct CommitRequest {
        /// Namespace.
        pub namespace: String,
        /// Commit flags.
        #[serde(default)]
        pub flags: u32,
        /// Operations, applied in order, all or none.
        pub ops: Vec<Operation>,
    }

    /// A root.
    pub struct RootResponse {
        /// Blobref of the root directory.
        pub rootref: String,
        /// Its sequence number.
        pub rootseq: i64,
    }

    /// Body of requests that name a namespace.
    pub struct NamespaceRequest {
        /// Namespace.
        pub namespace: String,
        /// Unused flags.
        #[serde(default)]
        pub flags: u32,
    }

    /// Answer of `kvs.getroot`, and body of `created` events.
    pub struct Root {
        /// User that owns the namespace.
        pub owner: u32,
        /// Sequence number.
        pub rootseq: i64,
        /// Blobref.
        pub rootref: String,
        /// Namespace flags.
        #[serde(default)]
        pub flags: u32,
        /// Namespace.
        pub namespace: String,
    }

    /// Body of `kvs.wait-version`.
    pub struct WaitVersion {
        /// Sequence to wait for.
        pub rootseq: i64,
        /// Namespace.
        pub namespace: String,
    }

    /// Body of `kvs.namespace-create`.
    pub struct NamespaceCreate {
        /// Name.
        pub namespace: String,
        /// Blobref of its first root; an unknown text means an empty directory.
        #[serde(default)]
        pub rootref: String,
        /// Owner; -1 for the instance owner.
        pub owner: i64,
        /// Unused flags.
        #[serde(default)]
        pub flags: u32,
        /// First operations, done with the creation or not at all; for an empty directory only.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub ops: Vec<Operation>,
    }

    /// One namespace.
    pub struct NamespaceEntry {
        /// Name.
        pub namespace: String,
        /// Owner.
        pub owner: u32,
        /// Flags.
        pub flags: u32,
    }

    /// Answer of `kvs.namespace-list`.
    pub struct NamespaceList {
        /// Every namespace.
        pub namespaces: Vec<NamespaceEntry>,
    }

    /// Follower to rank 0: a transaction, answered when its root is durable.
    pub struct RelayCommit {
        /// Name of the transaction, as in events.
        #[serde(default)]
        pub name: String,
        /// User id of the requester.
        pub userid: u32,
        /// Roles of the requester.
        pub rolemask: u32,
        /// Namespace.
        pub namespace: String,
        /// Commit flags.
        #[serde(default)]
        pub flags: u32,
        /// Operations.
        pub ops: Vec<Operation>,
    }

    /// Body of `kvs.namespace-NS-setroot` events.
    pub struct Setroot {
        /// Namespace.
        pub namespace: String,
        /// New sequence number.
        pub rootseq: i64,
        /// New root.
        pub rootref: String,
        /// Transactions that this root finishes.
        pub names: Vec<String>,
        /// Keys that changed.
        pub keys: Map<String, Value>,
        /// Owner of the namespace.
        pub owner: u32,
    }

    /// Body of `kvs-watch.lookup`.
    pub struct WatchRequest {
        /// Namespace.
        pub namespace: String,
        /// Key.
        pub key: String,
        /// Watch and lookup flags.
        pub flags: u32,
    }

    /// Body of cancel requests: ends that stream of the same client.
    pub struct CancelRequest {
        /// Matchtag of the stream.
        pub matchtag: u32,
    }
}

api! {
    /// The key-value store of every rank; rank 0 makes roots, the others follow.
    pub enum Kvs("kvs") {
        /// Reads a key.
        Lookup = "kvs.lookup", user, unary, LookupRequest => LookupResponse;
        /// Reads a key and says at which root; a missing key is a success with errno.
        LookupPlus = "kvs.lookup-plus", user, unary, LookupRequest => LookupPlusResponse;
        /// Applies a transaction; answered when its root is durable.
        Commit = "kvs.commit", user, unary, CommitRequest => RootResponse;
        /// The current root of a namespace.
        Getroot = "kvs.getroot", user, unary, NamespaceRequest => Root;
        /// Answers when this rank has reached a root sequence.
        WaitVersion_ = "kvs.wait-version", user, unary, WaitVersion => RootResponse;
        /// Makes a namespace.
        NamespaceCreate_ = "kvs.namespace-create", owner, unary, NamespaceCreate => Empty;
        /// Removes a namespace.
        NamespaceRemove = "kvs.namespace-remove", owner, unary, NamespaceRequest => Empty;
        /// Lists namespaces.
        NamespaceList_ = "kvs.namespace-list", owner, unary, AnyObject => NamespaceList;
        /// Between brokers: a follower's commit, with the credentials of its client.
        Relaycommit = "kvs.relaycommit", owner, unary, RelayCommit => RootResponse;
        /// Test aid: holds root changes back on this rank.
        SetrootPause = "kvs.setroot-pause", owner, unary, NamespaceRequest => Empty;
        /// Lets them through again.
        SetrootUnpause = "kvs.setroot-unpause", owner, unary, NamespaceRequest => Empty;
    }
}

api! {
    /// Lookups that follow changes.
    pub enum KvsWatch("kvs-watch") {
        /// Reads a key, and again at each change.
        WatchLookup = "kvs-watch.lookup", user, either, WatchRequest => LookupResponse;
        /// Ends a watch of the same client.
        WatchCancel = "kvs-watch.cancel", user, silent, CancelRequest => Empty;
    }
}
