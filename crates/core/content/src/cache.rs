//! Blobs by digest, bounded by their bytes; the least recently used go first.

use std::collections::BTreeMap;

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
}
