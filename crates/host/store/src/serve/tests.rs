//! The thread's work, driven step by step.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use flux_api::content::{Checkpoint, CollectPass, Collected, Copied, CopyRequest};
use flux_api::{Body, rpc};
use flux_model::treeobj::Treeobj;

use super::*;
use crate::log::Durability;

mod collecting;
mod copying;
pub(crate) mod disk;
mod failing;
mod holding;
mod power;

/// A pass that looks at everything, and keeps nothing for what was not committed.
pub(super) const PASS: CollectPass =
    CollectPass { pins: Vec::new(), young: false, grace_us: Some(0) };

/// The store with its messages.
pub(super) struct Bench {
    pub(super) server: Server,
    back: DriverHandle,
    taken: Box<dyn FnMut() -> Vec<Message>>,
}

impl Bench {
    pub(super) fn open(path: &Path) -> Self {
        Self::with(BlobLog::open(path, HashAlg::Sha1, Durability::Process).unwrap())
    }

    pub(super) fn with(log: BlobLog) -> Self {
        let (back, take) = DriverHandle::detached("content-backing");
        let server = Server::new(log, Arc::default());
        Self { server, back, taken: Box::new(take) }
    }

    pub(super) fn ask<R: flux_api::Rpc>(&mut self, request: &R::Request) {
        let work = Work::Request(rpc::request::<R>(request), self.back.clone());
        self.server.take(work);
        self.server.store();
    }

    /// Lets the background go on until it is idle; what was answered.
    pub(super) fn settle(&mut self) -> Vec<Message> {
        let limit = Instant::now() + Duration::from_secs(60);
        while self.server.background.is_some() {
            assert!(Instant::now() < limit, "the background does not end");
            self.server.step();
        }
        (self.taken)()
    }

    pub(super) fn answer<B: Body>(&mut self) -> Result<B, RpcError> {
        let last = self.settle().pop().expect("there is an answer");
        RpcError::of(&last).map_or_else(|| Ok(B::take(&last).unwrap()), Err)
    }

    /// The answer among others.
    pub(super) fn answer_to<R: flux_api::Rpc>(&mut self) -> Result<R::Response, RpcError> {
        let mut answers = self.settle();
        answers.retain(|answer| answer.topic() == R::TOPIC);
        let last = answers.pop().expect("there is an answer");
        RpcError::of(&last).map_or_else(|| Ok(R::Response::take(&last).unwrap()), Err)
    }

    pub(super) fn collect(&mut self) -> Collected {
        self.ask::<BackingCollect>(&PASS);
        self.answer().unwrap()
    }

    /// A pass that looks into nothing old.
    pub(super) fn collect_young(&mut self) -> Collected {
        self.ask::<BackingCollect>(&CollectPass { young: true, ..PASS });
        self.answer().unwrap()
    }

    pub(super) fn put(&mut self, tree: &Tree, sequence: i64) {
        let batch = BlobBatch { blobs: tree.blobs(), checkpoint: Some(tree.checkpoint(sequence)) };
        self.ask::<BackingCommit>(&batch);
        assert!(self.answer::<Empty>().is_ok());
    }

    pub(super) fn copy<R: flux_api::Rpc<Request = CopyRequest>>(
        &mut self,
        path: &Path,
    ) -> Result<Copied, RpcError> {
        self.ask::<R>(&CopyRequest { path: path.display().to_string() });
        self.answer()
    }
}

/// Values in directories of their own, as blobs.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tree {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
}

/// A value that does not compress, by its number.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 20);
    let mut n = 0_u64;
    while bytes.len() < length {
        let block = [seed.to_le_bytes(), n.to_le_bytes()].concat();
        bytes.extend_from_slice(HashAlg::Sha1.hash(&block).digest());
        n += 1;
    }
    bytes.truncate(length);
    bytes
}

impl Tree {
    pub(crate) fn with(mut self, name: impl ToString, value: Vec<u8>) -> Self {
        self.values.insert(name.to_string(), value);
        self
    }

    fn dirs(&self) -> (Vec<Bytes>, Bytes) {
        let mut blobs = Vec::new();
        let mut root = BTreeMap::new();
        for (name, value) in &self.values {
            blobs.push(Bytes::from(value.clone()));
            let reference = Treeobj::Valref(vec![HashAlg::Sha1.hash(value)]);
            let dir = Treeobj::Dir([("v".to_string(), reference)].into()).encode();
            root.insert(name.clone(), Treeobj::Dirref(HashAlg::Sha1.hash(&dir)));
            blobs.push(dir.into());
        }
        (blobs, Treeobj::Dir(root).encode().into())
    }

    pub(crate) fn blobs(&self) -> Vec<Bytes> {
        let (mut blobs, root) = self.dirs();
        blobs.push(root);
        blobs
    }

    pub(crate) fn checkpoint(&self, sequence: i64) -> Checkpoint {
        Checkpoint {
            version: 1,
            rootref: HashAlg::Sha1.hash(&self.dirs().1).to_string(),
            sequence,
            timestamp: 1.0,
            namespaces: None,
        }
    }

    /// Every blob can be read, and the newest checkpoint is this tree's.
    #[track_caller]
    pub(super) fn check(&self, log: &BlobLog) {
        for blob in self.blobs() {
            let found = log.load(HashAlg::Sha1.hash(&blob).digest()).unwrap();
            assert_eq!(found, blob);
        }
        let newest = log.checkpoints().unwrap().remove(0);
        assert_eq!(newest.rootref, self.checkpoint(0).rootref);
    }
}
