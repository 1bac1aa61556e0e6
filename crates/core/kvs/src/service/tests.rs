use std::collections::BTreeMap;

use bytes::Bytes;
use flux_api::Body;
use flux_api::RpcError;
use flux_api::content::{BlobBatch, Checkpoint, HoldRequest};
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::Rig;
use serde_json::{Value, json};

use super::KvsService;

mod follower;
mod holding;
mod model;
mod namespaces;
mod reading;
mod writing;

/// A content store: what survives is what was answered.
#[derive(Debug, Default, Clone)]
pub(crate) struct Store {
    pub(crate) blobs: BTreeMap<Blobref, Bytes>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) commits: usize,
    /// How often it was asked to keep something.
    pub(crate) holds: usize,
    /// Errno for the next commits.
    pub(crate) broken: Option<Errno>,
}

impl Store {
    pub(crate) fn take(&mut self, batch: BlobBatch) {
        for blob in batch.blobs {
            self.blobs.insert(HashAlg::Sha1.hash(&blob), blob);
        }
        if batch.checkpoint.is_some() {
            self.checkpoint = batch.checkpoint;
        }
        self.commits += 1;
    }

    /// Answers the service's oldest request; false when there is none for the store.
    pub(crate) fn serve_one(&mut self, rig: &mut Rig<KvsService>) -> bool {
        let Some(at) =
            rig.requests.iter().position(|request| request.topic().starts_with("content"))
        else {
            return false;
        };
        let request = rig.requests.remove(at).unwrap();
        match request.topic() {
            "content.load" => {
                let digest = request.payload.clone().unwrap();
                let blobref = Blobref::from_digest(HashAlg::Sha1, &digest).unwrap();
                match self.blobs.get(&blobref) {
                    Some(blob) => rig.reply_raw(&request, blob.clone()),
                    None => rig.fail(&request, Errno::ENOENT),
                }
            }
            "content.commit" => {
                if let Some(errno) = self.broken {
                    rig.fail(&request, errno);
                } else {
                    self.take(BlobBatch::take(&request).unwrap());
                    rig.reply(&request, Value::Null);
                }
            }
            "content-backing.hold" => {
                let asked: HoldRequest = request.json().unwrap();
                let mut all = asked.dirs.iter().chain(&asked.data);
                let here = |text: &&String| !self.blobs.contains_key(&text.parse().unwrap());
                match all.find(here) {
                    Some(text) => {
                        rig.fail(&request, RpcError::new(Errno::ENOENT, format!("blob {text}")));
                    }
                    None => rig.reply(&request, Value::Null),
                }
                self.holds += 1;
            }
            "content.checkpoint-get" => match &self.checkpoint {
                Some(value) => rig.reply(&request, json!({ "value": [value] })),
                None => rig.fail(&request, Errno::ENOENT),
            },
            topic => panic!("unexpected request {topic}"),
        }
        true
    }

    pub(crate) fn serve(&mut self, rig: &mut Rig<KvsService>) {
        while self.serve_one(rig) {}
    }

    /// Rank 0 as it starts from this store.
    pub(crate) fn start(&mut self) -> Rig<KvsService> {
        let mut rig = Rig::new(KvsService::new(HashAlg::Sha1));
        self.serve(&mut rig);
        assert!(rig.ready, "{:?}", rig.failed);
        rig
    }
}

pub(crate) fn val(data: &str) -> Value {
    Treeobj::val(data).to_value()
}

pub(crate) fn put(key: &str, data: &str) -> Value {
    json!({ "key": key, "flags": 0, "dirent": val(data) })
}

pub(crate) fn append(key: &str, data: &str) -> Value {
    json!({ "key": key, "flags": 32, "dirent": val(data) })
}

pub(crate) fn unlink(key: &str) -> Value {
    json!({ "key": key, "flags": 0, "dirent": null })
}

pub(crate) fn object(key: &str, object: &Treeobj) -> Value {
    json!({ "key": key, "flags": 0, "dirent": object.to_value() })
}

pub(crate) fn transaction(ops: &[Value]) -> Value {
    json!({ "namespace": "primary", "flags": 0, "ops": ops })
}

/// Sends a transaction to primary; the tag of its answer.
pub(crate) fn send(rig: &mut Rig<KvsService>, ops: &[Value]) -> u32 {
    rig.request("kvs.commit", transaction(ops))
}

/// Commits to primary and drops the events.
pub(crate) fn commit(
    store: &mut Store,
    rig: &mut Rig<KvsService>,
    ops: &[Value],
) -> Result<i64, Errno> {
    let tag = send(rig, ops);
    store.serve(rig);
    rig.events.clear();
    rig.response(tag).map(|body| body["rootseq"].as_i64().unwrap()).map_err(|error| error.errno)
}

pub(crate) fn lookup_flags(
    store: &mut Store,
    rig: &mut Rig<KvsService>,
    key: &str,
    flags: u32,
) -> Result<Treeobj, Errno> {
    let tag =
        rig.request("kvs.lookup", json!({ "key": key, "flags": flags, "namespace": "primary" }));
    store.serve(rig);
    rig.response(tag)
        .map(|body| Treeobj::from_value(&body["val"]).unwrap())
        .map_err(|error| error.errno)
}

pub(crate) fn lookup(
    store: &mut Store,
    rig: &mut Rig<KvsService>,
    key: &str,
) -> Result<String, Errno> {
    lookup_flags(store, rig, key, 0).map(|object| match object {
        Treeobj::Val(data) => String::from_utf8(data).unwrap(),
        other => panic!("{other:?}"),
    })
}
