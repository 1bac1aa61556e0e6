//! Whole trees of the key-value store, for `flux dump`, `flux restore` and `flux fsck`: where
//! blobs come from, a running instance or a file that no broker uses.

pub(crate) mod attributes;
pub(crate) mod dump;
pub(crate) mod restore;

use std::collections::BTreeMap;
use std::path::Path;

use flux_api::Raw;
use flux_api::content::{BackingLoad, BackingStore, Checkpoint, Load, Store};
use flux_client::{Client, To};
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::Treeobj;
use flux_store::fsck::hash_in;
use flux_store::log::Write;
use flux_store::{BlobLog, Durability};

/// Bytes that gather for a transaction of a file.
const BATCH: usize = 8 << 20;

/// Where blobs are.
pub(crate) trait Blobs {
    /// Blobs in the order of their names; why one can't be had.
    fn load(&mut self, names: &[Blobref]) -> Vec<Result<Vec<u8>, String>>;

    /// Stores a blob, at the latest with [`Blobs::finish`].
    fn store(&mut self, blob: Vec<u8>) -> Result<Blobref, String>;

    /// All that was stored is on disk.
    fn finish(&mut self) -> Result<(), String>;
}

/// The blobs of a running instance.
pub(crate) struct Running<'a> {
    pub(crate) client: &'a Client,
    pub(crate) hash: HashAlg,
    /// Past the cache.
    pub(crate) bypass: bool,
    /// Requests that are on their way at a time.
    pub(crate) window: usize,
}

impl Blobs for Running<'_> {
    fn load(&mut self, names: &[Blobref]) -> Vec<Result<Vec<u8>, String>> {
        let mut results = Vec::with_capacity(names.len());
        for some in names.chunks(self.window.max(1)) {
            let digests = some.iter().map(|name| Raw(name.digest().to_vec().into()));
            if self.bypass {
                let waiting: Vec<_> =
                    digests.map(|raw| self.client.send::<BackingLoad>(To::Rank(0), &raw)).collect();
                results.extend(waiting.into_iter().map(flux_client::Pending::wait));
            } else {
                let waiting: Vec<_> =
                    digests.map(|raw| self.client.send::<Load>(To::Any, &raw)).collect();
                results.extend(waiting.into_iter().map(flux_client::Pending::wait));
            }
        }
        let named = names.iter().zip(results);
        named
            .map(|(name, result)| match result {
                Ok(raw) if name.addresses(&raw.0) => Ok(raw.0.to_vec()),
                Ok(_) => Err(format!("{name}: the blob is damaged")),
                Err(error) => Err(format!("{name}: {}", error.message())),
            })
            .collect()
    }

    fn store(&mut self, blob: Vec<u8>) -> Result<Blobref, String> {
        let raw = Raw(blob.into());
        let stored = if self.bypass {
            self.client.call::<BackingStore>(To::Rank(0), &raw)
        } else {
            self.client.call::<Store>(To::Any, &raw)
        };
        let digest = stored.map_err(|error| error.message())?;
        Blobref::from_digest(self.hash, &digest.0).map_err(|error| error.to_string())
    }

    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The blobs of a state directory that no broker uses.
pub(crate) struct Stopped {
    log: BlobLog,
    waiting: Vec<Vec<u8>>,
    bytes: usize,
}

impl Stopped {
    /// Opens the store of a state directory, or makes one with this hash.
    ///
    /// # Errors
    /// When it is in use, damaged, or not there while it must be.
    pub(crate) fn open(statedir: &Path, make: Option<HashAlg>) -> Result<Self, String> {
        let path = statedir.join("content.sqlite");
        let hash = match make {
            _ if path.exists() => hash_in(&path),
            Some(hash) => Ok(hash),
            None => return Err(format!("{}: no such file", path.display())),
        };
        let log = hash.and_then(|hash| BlobLog::open(&path, hash, Durability::Synced));
        let log = log.map_err(|error| error.to_string())?;
        Ok(Self { log, waiting: Vec::new(), bytes: 0 })
    }

    /// The newest checkpoint, if there is one.
    pub(crate) fn checkpoint(&self) -> Result<Option<Checkpoint>, String> {
        match self.log.checkpoints() {
            Ok(all) => Ok(all.into_iter().next()),
            Err(flux_store::StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes a root the newest one.
    pub(crate) fn set_checkpoint(&mut self, value: &Checkpoint) -> Result<(), String> {
        self.finish()?;
        self.log.write(&[Write::Checkpoint(value)]).map_err(|error| error.to_string())
    }
}

impl Blobs for Stopped {
    fn load(&mut self, names: &[Blobref]) -> Vec<Result<Vec<u8>, String>> {
        let load = |name: &Blobref| self.log.load(name.digest());
        let read = names.iter().map(|name| (name, load(name)));
        read.map(|(name, result)| match result {
            Ok(blob) => Ok(blob.to_vec()),
            Err(error) => Err(format!("{name}: {error}")),
        })
        .collect()
    }

    fn store(&mut self, blob: Vec<u8>) -> Result<Blobref, String> {
        let name = self.log.hash().hash(&blob);
        self.bytes += blob.len();
        self.waiting.push(blob);
        if self.bytes > BATCH {
            self.finish()?;
        }
        Ok(name)
    }

    fn finish(&mut self) -> Result<(), String> {
        let writes: Vec<Write<'_>> = self.waiting.iter().map(|blob| Write::Blob(blob)).collect();
        self.log.write(&writes).map_err(|error| error.to_string())?;
        self.waiting.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// The directory in a blob.
pub(crate) fn directory(blob: &[u8]) -> Result<BTreeMap<String, Treeobj>, String> {
    match Treeobj::decode(blob) {
        Ok(Treeobj::Dir(entries)) => Ok(entries),
        Ok(other) => Err(format!("a {} is where a directory should be", other.type_name())),
        Err(error) => Err(error.to_string()),
    }
}
