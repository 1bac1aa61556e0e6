//! Blobs by digest, bounded by their bytes; the least recently used go first.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// Cost of an entry beside its blob, a rough figure.
const OVERHEAD: usize = 128;

/// A digest with its first bytes as a number: comparing that decides, without a look elsewhere in
/// memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64, Bytes);

impl Key {
    fn new(digest: &Bytes) -> Self {
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
        Self(u64::from_be_bytes(first), digest.clone())
    }
}

#[derive(Debug)]
pub(crate) struct Cache {
    blobs: BTreeMap<Key, (u64, Bytes)>,
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { blobs: BTreeMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0, limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.blobs.clear();
        self.order.clear();
        self.bytes = 0;
    }

    pub(crate) fn get(&mut self, digest: &Bytes) -> Option<Bytes> {
        self.find(&Key::new(digest))
    }

    fn find(&mut self, key: &Key) -> Option<Bytes> {
        let (used, blob) = self.blobs.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.order.remove(used) {
            self.order.insert(self.clock, key);
        }
        *used = self.clock;
        Some(blob.clone())
    }

    pub(crate) fn put(&mut self, digest: Bytes, blob: Bytes) {
        let cost = blob.len() + OVERHEAD;
        let key = Key::new(&digest);
        if cost > self.limit || self.find(&key).is_some() {
            return;
        }
        // A slice of a larger message would keep all of it alive.
        let blob = Bytes::copy_from_slice(&blob);
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        self.blobs.insert(key, (self.clock, blob));
        self.bytes += cost;
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, blob)) = self.blobs.remove(&oldest) {
                self.bytes -= blob.len() + OVERHEAD;
            }
        }
    }
}

/// Blobs that were stored just now, without their digests: nearly all of them are never asked for
/// here, because whoever stored them keeps them.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    batches: VecDeque<(usize, Vec<Bytes>)>,
    bytes: usize,
}

impl Recent {
    /// Keeps the blobs of a commit, and forgets those of the oldest ones beyond `limit` bytes.
    pub(crate) fn push(&mut self, blobs: Vec<Bytes>, limit: usize) {
        let bytes = blobs.iter().map(|blob| blob.len() + OVERHEAD).sum();
        self.bytes += bytes;
        self.batches.push_back((bytes, blobs));
        while self.bytes > limit {
            let Some((bytes, _)) = self.batches.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    /// Takes all of them, oldest first.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.batches).into_iter().flat_map(|(_, blobs)| blobs)
    }

    /// How many there are, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let count = self.batches.iter().map(|(_, blobs)| blobs.len()).sum();
        (count, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_holds() {
        let mut cache = Cache::new(3 * (OVERHEAD + 10));
        let digest = |n: u8| Bytes::copy_from_slice(&[n]);
        for n in 0..3 {
            cache.put(digest(n), Bytes::from(vec![n; 10]));
        }
        assert!(cache.get(&digest(0)).is_some());
        cache.put(digest(3), Bytes::from(vec![3; 10]));
        assert!(cache.get(&digest(1)).is_none());
        assert!(cache.get(&digest(0)).is_some());
        assert_eq!((cache.len(), cache.bytes()), (3, 3 * (OVERHEAD + 10)));
    }
    #[test]
    fn of_what_was_stored_just_now_the_newest_is_kept() {
        let mut recent = Recent::default();
        let blob = |n: u8| Bytes::from(vec![n; 10]);
        for n in 0..4 {
            recent.push(vec![blob(n), blob(n + 10)], 4 * (OVERHEAD + 10));
        }
        assert_eq!(recent.size(), (4, 4 * (OVERHEAD + 10)));
        let kept: Vec<Bytes> = recent.take().collect();
        assert_eq!(kept, [blob(2), blob(12), blob(3), blob(13)]);
        assert_eq!(recent.size(), (0, 0));
    }
}
