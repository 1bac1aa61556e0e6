//! The log of SQLite beside the file: is what was promised still in it?
//!
//! A reader of the log stops at the first page whose checksum is wrong, since that is how a log
//! ends that was being written when the power went. A page that was damaged later looks the same,
//! and everything committed after it would be forgotten without a word. How much was synced the
//! [`Promise`] beside the log tells. Where there is none, as of an older release, two whole
//! transactions behind a bad page are taken for promised, since each commit is synced before the
//! next one begins; what collections move is not, but for the last of it.

use std::fs;
use std::io;
use std::path::Path;

use crate::format::beside;
use crate::promise::Promise;

/// Bytes of the head of the log, and of that of each page in it.
pub(crate) const HEAD: usize = 32;
pub(crate) const PAGE_HEAD: usize = 24;

/// First word of a log whose checksums are of little-endian words; the other is one more.
const MAGIC: u32 = 0x377f_0682;

/// A running checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum(u32, u32);

impl Sum {
    fn of(self, bytes: &[u8], big: bool) -> Self {
        let word = |bytes: [u8; 4]| {
            if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        bytes.chunks_exact(8).fold(self, |Self(a, b), pair| {
            let a = a.wrapping_add(word([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(b);
            Self(a, b.wrapping_add(word([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(a))
        })
    }
}

/// A number in it.
pub(crate) fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

fn sum_at(bytes: &[u8], at: usize) -> Sum {
    Sum(number(bytes, at), number(bytes, at + 4))
}

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The first bad page, counted from 1; 0: the head.
    page: usize,
    /// Transactions behind it that were promised.
    lost: usize,
    /// Pages that were promised, where that is known.
    promised: usize,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { page, lost, promised } = self;
        match page {
            _ if *lost == 0 => {
                write!(
                    f,
                    "page {page} of its log is bad or missing, of {promised} that were promised"
                )
            }
            0 => write!(f, "the head of its log is bad, with {lost} transactions behind it"),
            _ => write!(f, "page {page} of its log is bad, with {lost} transactions behind it"),
        }
    }
}

/// A log in memory.
#[derive(Debug)]
struct Log {
    bytes: Vec<u8>,
    big: bool,
    page: usize,
}

impl Log {
    fn new(bytes: Vec<u8>) -> Option<Self> {
        let big = match number(&bytes, 0) {
            MAGIC => false,
            magic if magic == MAGIC + 1 => true,
            // Which of them it was does not matter, as long as pages can be told apart.
            _ => cfg!(target_endian = "big"),
        };
        let page = match number(&bytes, 8) as usize {
            page if page.is_power_of_two() && (512..=65_536).contains(&page) => page,
            _ => return None,
        };
        Some(Self { bytes, big, page })
    }

    fn count(&self) -> usize {
        self.bytes.len().saturating_sub(HEAD) / (PAGE_HEAD + self.page)
    }

    fn at(&self, page: usize) -> usize {
        HEAD + page * (PAGE_HEAD + self.page)
    }

    /// The checksum that a page should have after what its predecessor has.
    fn should(&self, page: usize, before: Sum) -> Sum {
        let at = self.at(page);
        let head = self.bytes.get(at..at + 8).unwrap_or_default();
        let data = self.bytes.get(at + PAGE_HEAD..at + PAGE_HEAD + self.page).unwrap_or_default();
        before.of(head, self.big).of(data, self.big)
    }

    fn says(&self, page: usize) -> Sum {
        sum_at(&self.bytes, self.at(page) + 16)
    }

    /// Whether it ends a transaction.
    fn commits(&self, page: usize) -> bool {
        number(&self.bytes, self.at(page) + 4) != 0
    }

    fn salt(&self, page: usize) -> &[u8] {
        let at = self.at(page) + 8;
        self.bytes.get(at..at + 8).unwrap_or_default()
    }

    fn head_is_good(&self) -> bool {
        let sum = Sum::default().of(&self.bytes[..24], self.big);
        sum == sum_at(&self.bytes, 24) && number(&self.bytes, 0) & !1 == MAGIC
    }

    fn damage(&self) -> Option<Damage> {
        let count = self.count();
        let good = self.head_is_good();
        let salt = if good { &self.bytes[16..24] } else { self.salt(0) };
        let mut bad = (!good).then_some(0);
        let mut before = sum_at(&self.bytes, 24);
        // Transactions that follow each other without a break, behind what is bad.
        let (mut run, mut lost) = (0, 0);
        for page in 0..count {
            let holds = self.salt(page) == salt && self.should(page, before) == self.says(page);
            before = self.says(page);
            if bad.is_none() {
                if !holds {
                    bad = Some(page + 1);
                }
                continue;
            }
            // Of a page whose predecessor is bad nothing is known.
            run = if holds { run + usize::from(self.commits(page)) } else { 0 };
            lost = lost.max(run);
        }
        // One of them may be the one that was being written.
        bad.filter(|_| lost >= 2).map(|page| Damage { page, lost, promised: 0 })
    }

    /// What marks the pages of this log.
    fn own_salt(&self) -> &[u8] {
        if self.head_is_good() { &self.bytes[16..24] } else { self.salt(0) }
    }

    /// Pages of the transactions that a reader finds.
    fn found(&self) -> usize {
        if !self.head_is_good() {
            return 0;
        }
        let mut before = sum_at(&self.bytes, 24);
        let mut found = 0;
        for page in 0..self.count() {
            if self.salt(page) != self.own_salt() || self.should(page, before) != self.says(page) {
                break;
            }
            before = self.says(page);
            if self.commits(page) {
                found = page + 1;
            }
        }
        found
    }

    /// Whether less is found than was promised of this log.
    fn breach(&self, promise: &Promise) -> Option<Damage> {
        let promised = promise.pages as usize;
        let found = self.found();
        (found < promised).then_some(Damage { page: found + 1, lost: 0, promised })
    }

    /// Makes all pages up to the last that belongs to this log count.
    fn mend(&mut self, promise: Option<Promise>) {
        let promised = promise.filter(|promise| promise.salt == *self.own_salt());
        let salt = if self.head_is_good() {
            self.bytes[16..24].to_vec()
        } else {
            let salt = self.salt(0).to_vec();
            let magic = MAGIC + u32::from(self.big);
            self.bytes[..4].copy_from_slice(&magic.to_be_bytes());
            self.bytes[4..8].copy_from_slice(&3_007_000_u32.to_be_bytes());
            self.bytes[16..24].copy_from_slice(&salt);
            let Sum(a, b) = Sum::default().of(&self.bytes[..24], self.big);
            self.bytes[24..28].copy_from_slice(&a.to_be_bytes());
            self.bytes[28..32].copy_from_slice(&b.to_be_bytes());
            salt
        };
        let mut last = 0;
        for page in 0..self.count() {
            let before = if page == 0 { sum_at(&self.bytes, 24) } else { self.says(page - 1) };
            if self.salt(page) == salt && self.should(page, before) == self.says(page) {
                last = page;
            }
        }
        if let Some(promise) = promised {
            last = last.max((promise.pages as usize).min(self.count()).saturating_sub(1));
        }
        let mut before = sum_at(&self.bytes, 24);
        for page in 0..self.count().min(last + 1) {
            let at = self.at(page);
            self.bytes[at + 8..at + 16].copy_from_slice(&salt);
            before = self.should(page, before);
            self.bytes[at + 16..at + 20].copy_from_slice(&before.0.to_be_bytes());
            self.bytes[at + 20..at + 24].copy_from_slice(&before.1.to_be_bytes());
        }
    }
}

fn read(path: &Path) -> Option<Log> {
    let bytes = fs::read(beside(path, "-wal")).ok()?;
    (bytes.len() > HEAD).then(|| Log::new(bytes))?
}

/// Looks at the log beside a database that nobody has open.
pub(crate) fn damage(path: &Path) -> Option<Damage> {
    let log = read(path)?;
    match Promise::read(path) {
        // What is behind it may be there in parts when the power went.
        Some(promise) if promise.salt == *log.own_salt() => {
            log.breach(&promise).map(|breach| log.damage().unwrap_or(breach))
        }
        // Before anything of a log is promised, it is noted which one it is.
        Some(_) => None,
        None => log.damage(),
    }
}

/// Makes what is behind a bad page count again; what the page holds is checked later, as all is.
///
/// # Errors
/// When the log can't be written.
pub(crate) fn mend(path: &Path) -> io::Result<()> {
    let Some(mut log) = read(path) else { return Ok(()) };
    log.mend(Promise::read(path));
    let name = beside(path, "-wal");
    fs::write(&name, &log.bytes)?;
    fs::File::open(&name)?.sync_all()?;
    // It was kept as far as it could be.
    Promise::forget(path);
    Ok(())
}

#[cfg(test)]
mod tests;
