//! How much of SQLite's log was promised: a few bytes in a file beside it, written after the sync
//! of each commit, and synced themselves only when the log begins anew.
//!
//! The last transaction of a log that ends in bad pages may have been cut off while it was written,
//! or damaged later: SQLite takes both for the end. What this file says is a lower bound of what was
//! synced, whenever it is read: it is written later than that, and what is lost of it by a power
//! cut makes it say less. After a kill it says exactly how much. Only of the log with the same salt
//! does it say anything; each time the log begins anew it has another one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::format::beside;
use crate::wal::{HEAD, PAGE_HEAD, number};

const MAGIC: &[u8; 8] = b"ffwal 1\n";

/// Bytes of the file.
const LENGTH: usize = 28;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Promise {
    /// Which log it is of.
    pub(crate) salt: [u8; 8],
    /// So many pages of it are whole transactions that were synced.
    pub(crate) pages: u32,
}

/// FNV-1a, folded: enough to tell a half-written file.
fn sum(bytes: &[u8]) -> [u8; 8] {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let sum = bytes
        .iter()
        .fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    sum.to_be_bytes()
}

impl Promise {
    fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.salt);
        bytes[16..20].copy_from_slice(&self.pages.to_be_bytes());
        let sum = sum(&bytes[..20]);
        bytes[20..].copy_from_slice(&sum);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTH || bytes[..8] != *MAGIC || bytes[20..] != sum(&bytes[..20]) {
            return None;
        }
        let mut salt = [0; 8];
        salt.copy_from_slice(&bytes[8..16]);
        Some(Self { salt, pages: number(bytes, 16) })
    }

    fn place(path: &Path) -> PathBuf {
        beside(path, "-promised")
    }

    /// What was promised of the log beside a database, if that is known.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::decode(&std::fs::read(Self::place(path)).ok()?)
    }

    /// Nothing is known any more.
    pub(crate) fn forget(path: &Path) {
        // Where it is not, or cannot be taken away, the salt tells that it is of another log.
        std::fs::remove_file(Self::place(path)).ok();
    }
}

/// Follows a log that is being written, and notes how much of it was promised.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    path: PathBuf,
    log: Option<File>,
    file: Option<File>,
    /// Where the log stands.
    now: Promise,
}

impl Keeper {
    /// Begins with what is in the log of a database that was just opened.
    pub(crate) fn new(path: &Path) -> Self {
        let mut keeper = Self { path: path.to_path_buf(), ..Self::default() };
        while keeper.committed() {}
        keeper.promise();
        keeper
    }

    /// A transaction was committed: it is followed to its last page. A page that a transaction left
    /// behind which failed is never behind that, since the next one writes over it. Whether there
    /// was one.
    pub(crate) fn committed(&mut self) -> bool {
        let log = self.log.take().or_else(|| File::open(beside(&self.path, "-wal")).ok());
        let went_on = log.as_ref().is_some_and(|log| self.follow(log));
        self.log = log;
        went_on
    }

    fn follow(&mut self, log: &File) -> bool {
        let mut head = [0; HEAD];
        if log.read_exact_at(&mut head, 0).is_err() {
            return false;
        }
        if head[16..24] != self.now.salt {
            self.now.salt.copy_from_slice(&head[16..24]);
            self.now.pages = 0;
            // From now on it is this log of which it says something, if too little.
            self.promise();
            if let Some(file) = &self.file {
                file.sync_data().ok();
            }
        }
        let size = (PAGE_HEAD as u64) + u64::from(number(&head, 8));
        let mut pages = self.now.pages;
        let mut page = [0; PAGE_HEAD];
        loop {
            let at = HEAD as u64 + u64::from(pages) * size;
            if log.read_exact_at(&mut page, at).is_err() || page[8..16] != self.now.salt {
                return false;
            }
            pages += 1;
            if number(&page, 4) != 0 {
                self.now.pages = pages;
                return true;
            }
        }
    }

    /// Everything that was followed is synced.
    pub(crate) fn promise(&mut self) {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            self.file = options.open(Promise::place(&self.path)).ok();
        }
        // What cannot be written says less than it could; so does what was written before.
        if let Some(file) = &self.file {
            file.write_all_at(&self.now.encode(), 0).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_half_written_says_nothing() {
        let promise = Promise { salt: *b"saltsalt", pages: 77 };
        let bytes = promise.encode();
        assert_eq!(Promise::decode(&bytes), Some(promise));
        for at in 0..LENGTH {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(Promise::decode(&bad), None, "{at}");
            assert_eq!(Promise::decode(&bytes[..at]), None);
        }
    }
}
