//! The journal: what was started on this node and how it ended, one JSON object to a line.
//!
//! It is written by the supervisor alone, and read by the next one. A line that a crash cut off is
//! the last one, and is dropped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::protocol::{VERSION, line};

/// Size in bytes from which on it may be written anew.
const COMPACT_MIN: u64 = 1 << 20;

/// How a shell has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this wait status, leaving so many processes behind that could not be killed.
    Exited(i32, u32),
    /// Nobody knows.
    Lost(String),
}

/// What is on record of one shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Process id; 0 when the supervisor ended before it could write it down.
    pub pid: i32,
    /// Start of the process in ticks since the boot.
    pub born: u64,
    /// What sends signals to it.
    pub signaller: Vec<String>,
    /// How it ended, once it has.
    pub end: Option<End>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    /// A supervisor begins.
    Begin { version: u32, boot: String },
    /// A shell is about to be started.
    Start { id: u64, signaller: Vec<String> },
    /// It runs.
    Runs { id: u64, pid: i32, born: u64 },
    /// It has ended.
    End { id: u64, end: End },
    /// Its status was taken, or it never ran.
    Gone { id: u64 },
}

/// The journal of a directory, open for writing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    boot: String,
}

fn open(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .append(!truncate)
        .truncate(truncate)
        .mode(0o600)
        .open(path)
}

/// The name of the journal in its directory.
pub const NAME: &str = "journal";

/// Reads what is on record, and the boot that the newest supervisor wrote it in.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(directory: &Path) -> io::Result<(BTreeMap<u64, Record>, String)> {
    let mut bytes = Vec::new();
    match File::open(directory.join(NAME)) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let (mut records, mut boot) = (BTreeMap::new(), String::new());
    for text in bytes.split(|&byte| byte == b'\n') {
        // What a crash has torn says nothing.
        let Ok(entry) = serde_json::from_slice::<Entry>(text) else { continue };
        match entry {
            Entry::Begin { boot: new, .. } => boot = new,
            Entry::Start { id, signaller } => {
                let record = Record { pid: 0, born: 0, signaller, end: None };
                records.insert(id, record);
            }
            Entry::Runs { id, pid, born } => {
                if let Some(record) = records.get_mut(&id) {
                    (record.pid, record.born) = (pid, born);
                }
            }
            Entry::End { id, end } => {
                if let Some(record) = records.get_mut(&id) {
                    record.end = Some(end);
                }
            }
            Entry::Gone { id } => {
                records.remove(&id);
            }
        }
    }
    Ok((records, boot))
}

impl Journal {
    /// Begins a journal that holds these records, in place of the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(
        directory: &Path,
        boot: &str,
        records: &BTreeMap<u64, Record>,
    ) -> io::Result<Self> {
        let path = directory.join(NAME);
        let file = open(&path, false)?;
        let mut journal = Self { path, file, size: 0, boot: boot.to_string() };
        journal.rewrite(records)?;
        Ok(journal)
    }

    /// Writes the journal anew, with what is still of interest.
    ///
    /// # Errors
    /// When it cannot be written; the one before is still there then.
    pub fn rewrite(&mut self, records: &BTreeMap<u64, Record>) -> io::Result<()> {
        let mut bytes = line(&Entry::Begin { version: VERSION, boot: self.boot.clone() });
        for (&id, record) in records {
            let Record { pid, born, signaller, end } = record.clone();
            bytes.extend(line(&Entry::Start { id, signaller }));
            bytes.extend(line(&Entry::Runs { id, pid, born }));
            if let Some(end) = end {
                bytes.extend(line(&Entry::End { id, end }));
            }
        }
        let fresh = self.path.with_extension("new");
        let mut file = open(&fresh, true)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = open(&self.path, false)?;
        self.size = bytes.len() as u64;
        Ok(())
    }

    fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let bytes = line(entry);
        let before = self.size;
        let result = self.file.write_all(&bytes);
        match result {
            Ok(()) => self.size += bytes.len() as u64,
            // Half a line must not spoil the next one.
            Err(_) => drop(self.file.set_len(before)),
        }
        result
    }

    /// A shell is about to be started.
    ///
    /// # Errors
    /// When it cannot be written: then the shell must not be started.
    pub fn start(&mut self, id: u64, signaller: &[String]) -> io::Result<()> {
        self.add(&Entry::Start { id, signaller: signaller.to_vec() })
    }

    /// It runs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn runs(&mut self, id: u64, pid: i32, born: u64) -> io::Result<()> {
        self.add(&Entry::Runs { id, pid, born })
    }

    /// It has ended.
    ///
    /// # Errors
    /// When it cannot be written: to be tried again.
    pub fn ended(&mut self, id: u64, end: &End) -> io::Result<()> {
        self.add(&Entry::End { id, end: end.clone() })
    }

    /// It is of no interest any more.
    ///
    /// # Errors
    /// When it cannot be written: then the record comes back after a restart, and is removed again.
    pub fn gone(&mut self, id: u64) -> io::Result<()> {
        self.add(&Entry::Gone { id })
    }

    /// What was written stays after a power cut.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether most of it is history.
    #[must_use]
    pub fn is_long(&self, records: usize) -> bool {
        self.size > COMPACT_MIN && self.size / 1024 > records as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_over_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), "b1", &BTreeMap::new()).unwrap();
        for id in 1..=4 {
            journal.start(id, &[]).unwrap();
        }
        for id in 1..=3 {
            journal.runs(id, 100 + i32::try_from(id).unwrap(), 7).unwrap();
        }
        journal.ended(1, &End::Exited(256, 0)).unwrap();
        journal.ended(2, &End::Exited(0, 0)).unwrap();
        journal.gone(2).unwrap();
        let (records, boot) = read(dir.path()).unwrap();
        assert_eq!(boot, "b1");
        assert_eq!(records.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(records[&1].end, Some(End::Exited(256, 0)));
        assert_eq!((records[&3].pid, records[&3].born, &records[&3].end), (103, 7, &None));
        assert_eq!(records[&4].pid, 0);
        journal.rewrite(&records).unwrap();
        assert_eq!(read(dir.path()).unwrap(), (records, boot));
    }

    #[test]
    fn a_torn_line_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), "b1", &BTreeMap::new()).unwrap();
        journal.start(1, &[]).unwrap();
        journal.runs(1, 5, 6).unwrap();
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (records, _) = read(dir.path()).unwrap();
            assert!(records.len() <= 1);
        }
        std::fs::write(&path, b"\xff\x00garbage\n{\"Gone\":{\"id\":9}}\n").unwrap();
        assert!(read(dir.path()).unwrap().0.is_empty());
    }
}
