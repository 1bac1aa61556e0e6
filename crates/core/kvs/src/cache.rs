//! Parsed objects by their address: a bounded number of bytes, and what is not yet durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flux_model::blobref::Blobref;

use crate::dir::Dir;

/// Largest piece of a value that is kept.
const DATA_MAX: usize = 64 << 10;

/// What an entry takes beside its object, in two trees that are half full.
const OVERHEAD: usize = 320;

/// What a blob holds.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    /// A directory.
    Dir(Arc<Dir>),
    /// A piece of a value.
    Data(Bytes),
}

#[derive(Debug)]
struct Entry {
    object: Object,
    size: usize,
    used: u64,
    /// How many places in trees it was stored for, as far as is known: two directories may have
    /// the same content, and one of them changes.
    places: u32,
}

/// Objects by address. Durable ones are forgotten, longest unused first, beyond the bound; those
/// of commits in flight stay until they are settled.
#[derive(Debug)]
pub(crate) struct Cache {
    clean: BTreeMap<Blobref, Entry>,
    by_use: BTreeMap<u64, Blobref>,
    dirty: BTreeMap<Blobref, Object>,
    /// The empty directory: known without a store.
    empty: Blobref,
    bytes: usize,
    limit: usize,
    clock: u64,
    /// Loads that were needed so far.
    pub(crate) faults: u64,
}

impl Cache {
    pub(crate) fn new(limit: usize, empty: Blobref) -> Self {
        Self {
            clean: BTreeMap::new(),
            by_use: BTreeMap::new(),
            dirty: BTreeMap::new(),
            empty,
            bytes: 0,
            limit,
            clock: 0,
            faults: 0,
        }
    }

    fn get(&mut self, blobref: &Blobref) -> Option<&Object> {
        if let Some(entry) = self.clean.get_mut(blobref) {
            self.by_use.remove(&entry.used);
            self.clock += 1;
            entry.used = self.clock;
            self.by_use.insert(self.clock, *blobref);
            return Some(&entry.object);
        }
        self.dirty.get(blobref)
    }

    pub(crate) fn dir(&mut self, blobref: &Blobref) -> Option<Arc<Dir>> {
        match self.get(blobref) {
            Some(Object::Dir(dir)) => Some(dir.clone()),
            _ => (*blobref == self.empty).then(Arc::default),
        }
    }

    pub(crate) fn data(&mut self, blobref: &Blobref) -> Option<Bytes> {
        match self.get(blobref) {
            Some(Object::Data(data)) => Some(data.clone()),
            _ => None,
        }
    }

    /// Keeps a durable object of `size` stored bytes.
    pub(crate) fn put(&mut self, blobref: Blobref, object: Object, size: usize) {
        if matches!(object, Object::Data(_)) && size > DATA_MAX {
            return;
        }
        let size = OVERHEAD
            + match &object {
                Object::Dir(dir) => dir.footprint(),
                Object::Data(_) => size,
            };
        self.clock += 1;
        let entry = Entry { object, size, used: self.clock, places: 1 };
        self.bytes += size;
        self.by_use.insert(self.clock, blobref);
        if let Some(old) = self.clean.insert(blobref, entry) {
            self.bytes -= old.size;
            self.by_use.remove(&old.used);
            self.share(&blobref, old.places);
        }
        while self.bytes > self.limit && self.clean.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(entry) = self.clean.remove(&oldest) {
                self.bytes -= entry.size;
            }
        }
    }

    /// Keeps an object of a commit that is not yet durable.
    pub(crate) fn put_dirty(&mut self, blobref: Blobref, object: Object) {
        self.dirty.insert(blobref, object);
    }

    /// Notes that a durable object is in more places.
    pub(crate) fn share(&mut self, blobref: &Blobref, more: u32) {
        if let Some(entry) = self.clean.get_mut(blobref) {
            entry.places = entry.places.saturating_add(more);
        }
    }

    /// A durable object is of no use any more in one place; forgets it if that was the last.
    pub(crate) fn remove(&mut self, blobref: &Blobref) {
        if let Some(entry) = self.clean.get_mut(blobref)
            && entry.places > 1
        {
            entry.places -= 1;
        } else if let Some(entry) = self.clean.remove(blobref) {
            self.bytes -= entry.size;
            self.by_use.remove(&entry.used);
        }
    }

    /// An object of a commit became durable.
    pub(crate) fn settle(&mut self, blobref: Blobref, object: Object, size: usize) {
        self.dirty.remove(&blobref);
        self.put(blobref, object, size);
    }

    /// Forgets what is not durable: its commits failed.
    pub(crate) fn drop_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Durable objects, and their bytes in memory.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.clean.len(), self.bytes)
    }

    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Sizes of the durable objects in bytes.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.clean.values().map(|entry| entry.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flux_model::blobref::HashAlg;

    #[test]
    fn what_two_places_have_is_kept_until_both_have_changed() {
        let mut cache = Cache::new(1 << 20, HashAlg::Sha1.hash(b""));
        let name = HashAlg::Sha1.hash(b"x");
        let dir = || Object::Dir(Arc::default());
        cache.put(name, dir(), 10);
        cache.put(name, dir(), 10);
        cache.share(&name, 1);
        for _ in 0..2 {
            cache.remove(&name);
            assert!(cache.dir(&name).is_some());
        }
        cache.remove(&name);
        assert!(cache.dir(&name).is_none());
        assert_eq!(cache.size(), (0, 0));
    }

    #[test]
    fn the_longest_unused_object_goes_first() {
        let mut cache = Cache::new(3 * (100 + OVERHEAD), HashAlg::Sha1.hash(b""));
        let names: Vec<Blobref> = (0..4u8).map(|i| HashAlg::Sha1.hash(&[i])).collect();
        for name in &names[..3] {
            cache.put(*name, Object::Data(Bytes::new()), 100);
        }
        assert!(cache.data(&names[0]).is_some());
        cache.put(names[3], Object::Data(Bytes::new()), 100);
        assert!(cache.data(&names[0]).is_some());
        assert!(cache.data(&names[1]).is_none());
        assert_eq!(cache.size(), (3, 3 * (100 + OVERHEAD)));
    }
}
