//! Where a blob is: from the first 8 bytes of its digest to row ids.
//!
//! 64 bits of a good hash rarely meet; a row is only trusted after its whole digest was compared.

use std::collections::HashMap;

/// Row ids by digest prefix.
#[derive(Debug, Default)]
pub struct Index {
    rows: HashMap<u64, i64>,
    /// Further rows of the same prefix.
    more: HashMap<u64, Vec<i64>>,
}

fn prefix(digest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = digest.len().min(8);
    bytes[..length].copy_from_slice(&digest[..length]);
    u64::from_be_bytes(bytes)
}

impl Index {
    /// Adds a row.
    pub fn insert(&mut self, digest: &[u8], row: i64) {
        let prefix = prefix(digest);
        if let Some(first) = self.rows.insert(prefix, row) {
            self.more.entry(prefix).or_default().push(first);
        }
    }

    /// Forgets a row.
    pub fn remove(&mut self, digest: &[u8], row: i64) {
        let prefix = prefix(digest);
        let first = self.rows.get(&prefix).copied() == Some(row);
        if let Some(more) = self.more.get_mut(&prefix) {
            if first {
                if let Some(next) = more.pop() {
                    self.rows.insert(prefix, next);
                }
            } else {
                more.retain(|other| *other != row);
            }
            if more.is_empty() {
                self.more.remove(&prefix);
            }
        } else if first {
            self.rows.remove(&prefix);
        }
    }

    /// Rows that may hold the blob.
    pub fn candidates(&self, digest: &[u8]) -> impl Iterator<Item = i64> + '_ {
        let prefix = prefix(digest);
        let more = self.more.get(&prefix).into_iter().flatten().copied();
        self.rows.get(&prefix).copied().into_iter().chain(more)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() + self.more.values().map(Vec::len).sum::<usize>()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_with_one_prefix_are_all_candidates() {
        let mut index = Index::default();
        index.insert(b"12345678a", 1);
        index.insert(b"12345678b", 2);
        index.insert(b"9", 3);
        let mut rows: Vec<i64> = index.candidates(b"12345678c").collect();
        rows.sort_unstable();
        assert_eq!((rows, index.len()), (vec![1, 2], 3));
        assert_eq!(index.candidates(b"x").count(), 0);
        index.remove(b"12345678b", 2);
        assert_eq!(index.candidates(b"12345678c").collect::<Vec<i64>>(), [1]);
        index.remove(b"12345678b", 2);
        index.remove(b"12345678a", 1);
        index.remove(b"9", 3);
        assert!(index.is_empty() && index.more.is_empty());
    }
}
