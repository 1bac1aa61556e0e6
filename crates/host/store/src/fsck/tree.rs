//! The tree of a root: what it refers to and is not there is taken out.

use std::collections::BTreeMap;

use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::Treeobj;

use crate::error::StoreError;
use crate::log::BlobLog;

/// Deepest key. The tree has no loops: an object's name is made of what it refers to.
const DEPTH: usize = 1_024;

/// Walks a tree and builds the same one without what is lost.
pub(super) struct Mender<'a> {
    log: &'a BlobLog,
    hash: HashAlg,
    /// Values that were checked.
    pub(super) keys: u64,
    pub(super) problems: Vec<String>,
    /// Directories of the mended tree that are new.
    pub(super) blobs: Vec<Vec<u8>>,
    /// What is left of damaged values, by key.
    lost: BTreeMap<String, Treeobj>,
    /// Directories that are whole, so that a shared one is looked at once.
    whole: BTreeMap<Blobref, u64>,
}

impl<'a> Mender<'a> {
    pub(super) fn new(log: &'a BlobLog) -> Self {
        Self {
            log,
            hash: log.hash(),
            keys: 0,
            problems: Vec::new(),
            blobs: Vec::new(),
            lost: BTreeMap::new(),
            whole: BTreeMap::new(),
        }
    }

    /// Reads a directory; in the inner result, why it can't be used.
    pub(super) fn directory(
        &self,
        blobref: &Blobref,
    ) -> Result<Result<BTreeMap<String, Treeobj>, String>, StoreError> {
        let blob = match self.log.load(blobref.digest()) {
            Ok(blob) => blob,
            Err(StoreError::Missing { .. }) => return Ok(Err("the blob is lost".to_string())),
            Err(StoreError::Damaged { .. }) => return Ok(Err("the blob is damaged".to_string())),
            Err(error) => return Err(error),
        };
        Ok(match Treeobj::decode(&blob) {
            Ok(Treeobj::Dir(entries)) => Ok(entries),
            Ok(other) => Err(format!("a {} is where a directory should be", other.type_name())),
            Err(error) => Err(error.to_string()),
        })
    }

    fn usable(&self, blobref: &Blobref) -> Result<bool, StoreError> {
        match self.log.load(blobref.digest()) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put(&mut self, entries: BTreeMap<String, Treeobj>) -> Blobref {
        let blob = Treeobj::Dir(entries).encode();
        let name = self.hash.hash(&blob);
        self.blobs.push(blob);
        name
    }

    /// The root of what is left, which is the same one if nothing is lost. What is left of
    /// damaged values is in `lost+found.N`, with N this `number`.
    pub(super) fn root(&mut self, root: Blobref, number: i64) -> Result<Blobref, StoreError> {
        let mended = self.descend(root, "", false)?.unwrap_or_else(|| self.put(BTreeMap::new()));
        if self.lost.is_empty() {
            return Ok(mended);
        }
        let mut found = BTreeMap::new();
        for (key, value) in std::mem::take(&mut self.lost) {
            set(&mut found, &key, value);
        }
        let found = Treeobj::Dirref(self.put(found));
        let read = self.blobs.iter().find(|blob| self.hash.hash(blob) == mended);
        let mut entries = match read.map(|blob| Treeobj::decode(blob)) {
            Some(Ok(Treeobj::Dir(entries))) => entries,
            _ => self.directory(&mended)?.unwrap_or_default(),
        };
        let mut all = match entries.remove("lost+found") {
            Some(Treeobj::Dir(all)) => all,
            Some(Treeobj::Dirref(blobref)) => self.directory(&blobref)?.unwrap_or_default(),
            _ => BTreeMap::new(),
        };
        all.insert(number.to_string(), found);
        let all = Treeobj::Dirref(self.put(all));
        entries.insert("lost+found".to_string(), all);
        Ok(self.put(entries))
    }

    /// The table of namespaces without those that are lost; nothing if that is the table itself.
    pub(super) fn namespaces(&mut self, table: Blobref) -> Result<Option<Blobref>, StoreError> {
        self.descend(table, "namespace", true)
    }

    /// A directory of its own: its new name, or nothing if it is lost. In a `table`, a directory
    /// inside another goes as a whole when anything in it is lost.
    fn descend(
        &mut self,
        blobref: Blobref,
        key: &str,
        table: bool,
    ) -> Result<Option<Blobref>, StoreError> {
        if let Some(keys) = self.whole.get(&blobref) {
            self.keys += keys;
            return Ok(Some(blobref));
        }
        if key.split('.').count() > DEPTH {
            self.problems.push(format!("{key}: deeper than {DEPTH} directories"));
            return Ok(None);
        }
        let entries = match self.directory(&blobref)? {
            Ok(entries) => entries,
            Err(text) => {
                self.problems.push(format!("{key}: directory {blobref}: {text}"));
                return Ok(None);
            }
        };
        let before = (self.problems.len(), self.keys);
        let kept = self.entries(entries, key, table)?;
        if self.problems.len() == before.0 {
            self.whole.insert(blobref, self.keys - before.1);
            return Ok(Some(blobref));
        }
        Ok(Some(self.put(kept)))
    }

    fn entries(
        &mut self,
        entries: BTreeMap<String, Treeobj>,
        key: &str,
        table: bool,
    ) -> Result<BTreeMap<String, Treeobj>, StoreError> {
        let mut kept = BTreeMap::new();
        for (name, object) in entries {
            let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let object = match object {
                Treeobj::Val(_) | Treeobj::Symlink { .. } => {
                    self.keys += 1;
                    Some(object)
                }
                Treeobj::Valref(blobs) => self.value(blobs, &path)?,
                Treeobj::Dirref(blobref) => {
                    self.descend(blobref, &path, table)?.map(Treeobj::Dirref)
                }
                Treeobj::Dir(inner) => {
                    let before = self.problems.len();
                    let inner = self.entries(inner, &path, table)?;
                    let lost = table && self.problems.len() > before;
                    (!lost).then_some(Treeobj::Dir(inner))
                }
            };
            if let Some(object) = object {
                kept.insert(name, object);
            }
        }
        Ok(kept)
    }

    fn value(&mut self, blobs: Vec<Blobref>, key: &str) -> Result<Option<Treeobj>, StoreError> {
        self.keys += 1;
        let mut left = Vec::new();
        let mut lost = 0;
        for blobref in &blobs {
            if self.usable(blobref)? {
                left.push(*blobref);
            } else {
                lost += 1;
            }
        }
        if lost == 0 {
            return Ok(Some(Treeobj::Valref(blobs)));
        }
        self.problems.push(format!("{key}: {lost} of {} blobs are lost", blobs.len()));
        if !left.is_empty() {
            self.lost.insert(key.to_string(), Treeobj::Valref(left));
        }
        Ok(None)
    }
}

/// Puts a value at a key, with directories on the way.
fn set(dir: &mut BTreeMap<String, Treeobj>, key: &str, value: Treeobj) {
    match key.split_once('.') {
        None => {
            dir.insert(key.to_string(), value);
        }
        Some((name, rest)) => {
            let entry = dir.entry(name.to_string()).or_insert_with(Treeobj::empty_dir);
            if let Treeobj::Dir(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}
