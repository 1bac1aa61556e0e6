//! What is on disk of units: that there is one, who sends signals to it, the pipes into which the
//! shell writes, and what was in them.
//!
//! A pipe holds what was written as long as somebody has it open: the shell, and systemd until the
//! unit has ended. So the last thing that a unit does is to put what is still in its pipes into files,
//! unless a broker reads them: that holds a lock. What the broker reads it puts there, too, so that
//! its successor knows where it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flux_api::launch::OUTPUT_MAX;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// Name of the directory, beside the journal of the supervisor.
const NAME: &str = "units";
const ENDS: [&str; 2] = ["out", "err"];
/// Locked by the broker that reads the pipes.
const LOCK: &str = "lock";
/// Puts what is in the pipes of a unit into its files: `$1` is the path of its record.
const SAVE: &str = "for s in out err; do dd if=\"$1.$s\" of=\"$1.$s.kept\" bs=64k status=none \
                    iflag=nonblock oflag=append conv=notrunc; done 2>/dev/null; true";
/// Most bytes of a stream that are kept: characters that were cut off are in it, too.
const KEPT_MAX: u64 = 2 * OUTPUT_MAX as u64;

/// One record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Name of the unit.
    pub(super) name: String,
    /// Program and first arguments that send a signal to another user's process.
    pub(super) signaller: Vec<String>,
    /// systemd has taken it: without it, a record without unit is one of a shell that never ran.
    pub(super) taken: bool,
}

/// The directory of the records.
#[derive(Debug, Clone)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    /// Below the directory of a broker's shells.
    pub(super) fn below(directory: &Path) -> Self {
        Self { directory: directory.join(NAME) }
    }

    fn file(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn pipe(&self, id: u64, at: usize) -> PathBuf {
        self.directory.join(format!("{id}.{}", ENDS.get(at).copied().unwrap_or("x")))
    }

    fn kept_file(&self, id: u64, at: usize) -> PathBuf {
        self.directory.join(format!("{id}.{}.kept", ENDS.get(at).copied().unwrap_or("x")))
    }

    /// Whether there is any.
    pub(super) fn are_there(&self) -> bool {
        let is_record = |name: std::ffi::OsString| name.to_str()?.parse::<u64>().ok();
        let entries = std::fs::read_dir(&self.directory);
        entries.is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| is_record(entry.file_name()).is_some()))
        })
    }

    fn make(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// From here on, until the file is closed, pipes are read by this broker and by nobody else.
    /// Nothing when a unit that ends is just saving what is in its own.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        self.make()?;
        let path = self.directory.join(LOCK);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Program and arguments that save what is in the pipes of a unit when no broker reads them.
    pub(super) fn saving(&self, id: u64) -> Vec<String> {
        let (lock, record) = (self.directory.join(LOCK), self.file(id));
        let (lock, record) = (lock.display().to_string(), record.display().to_string());
        let words = ["flock", "--nonblock", "--shared", &lock, "sh", "-c", SAVE, "sh", &record];
        words.map(str::to_string).into()
    }

    /// Keeps what was read from a pipe, as long as it is not much.
    pub(super) fn keep(&self, id: u64, at: usize, bytes: &[u8]) -> io::Result<()> {
        let path = self.kept_file(id, at);
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.len() < KEPT_MAX {
            file.write_all(bytes)?;
        }
        Ok(())
    }

    /// What was kept.
    pub(super) fn kept(&self, id: u64, at: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(self.kept_file(id, at)) {
            // What cannot be read is not shown.
            drop(file.take(KEPT_MAX + (64 << 10)).read_to_end(&mut bytes));
        }
        bytes
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(u64, Record)> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let mut found: Vec<(u64, Record)> = entries
            .flatten()
            .filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse().ok()?;
                let text = std::fs::read(entry.path()).ok()?;
                // A crash may have cut it off: then there was no unit yet.
                Some((id, serde_json::from_slice(&text).unwrap_or_default()))
            })
            .collect();
        found.sort_by_key(|(id, _)| *id);
        found
    }

    /// Puts a unit on record, before it is started, with fresh pipes.
    pub(super) fn add(&self, id: u64, record: &Record) -> io::Result<()> {
        self.make()?;
        for at in 0..ENDS.len() {
            let path = self.pipe(id, at);
            std::fs::remove_file(&path).ok();
            std::fs::remove_file(self.kept_file(id, at)).ok();
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        self.write(id, record)
    }

    /// Writes the record itself.
    pub(super) fn write(&self, id: u64, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record).map_err(io::Error::other)?;
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.file(id))?;
        file.write_all(&text)
    }

    /// The end of a pipe that the shell gets. It can be read, too, so that writing to it never
    /// fails; when it is full, the shell waits for a broker.
    pub(super) fn write_end(&self, id: u64, at: usize) -> io::Result<OwnedFd> {
        let file: File = OpenOptions::new().read(true).write(true).open(self.pipe(id, at))?;
        Ok(file.into())
    }

    /// The end that the broker reads.
    pub(super) fn read_end(&self, id: u64, at: usize) -> io::Result<pipe::Receiver> {
        pipe::OpenOptions::new().read_write(true).open_receiver(self.pipe(id, at))
    }

    /// Forgets a unit.
    pub(super) fn remove(&self, id: u64) {
        for at in 0..ENDS.len() {
            std::fs::remove_file(self.pipe(id, at)).ok();
            std::fs::remove_file(self.kept_file(id, at)).ok();
        }
        std::fs::remove_file(self.file(id)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_and_go_with_their_pipes() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::below(dir.path());
        assert!(!records.are_there() && records.all().is_empty());
        let record = Record {
            name: "x.service".to_string(),
            signaller: vec!["imp".to_string()],
            taken: true,
        };
        records.add(7, &record).unwrap();
        records.add(7, &record).unwrap();
        assert_eq!(records.all(), [(7, record)]);
        std::fs::write(dir.path().join("units/8"), "{").unwrap();
        assert_eq!(records.all()[1], (8, Record::default()));
        records.remove(7);
        records.remove(8);
        assert!(!records.are_there());
    }

    #[test]
    fn what_is_in_the_pipes_of_a_unit_that_ends_is_saved_unless_a_broker_reads() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::below(dir.path());
        records.add(7, &Record::default()).unwrap();
        let run = || {
            let words = records.saving(7);
            assert!(std::process::Command::new(&words[0]).args(&words[1..]).status().is_ok());
        };
        // Somebody has the pipe open, as systemd has until the unit has ended.
        let mut pipe = File::from(records.write_end(7, 1).unwrap());
        records.keep(7, 1, b"before ").unwrap();
        pipe.write_all(b"the last words").unwrap();
        let lock = records.lock().unwrap();
        assert!(lock.is_some() && records.lock().unwrap().is_none());
        run();
        assert_eq!(records.kept(7, 1), b"before ");
        drop(lock);
        run();
        assert_eq!(records.kept(7, 1), b"before the last words");
        assert_eq!(records.kept(7, 0), b"");
        // Nothing is left, and nothing is read twice.
        run();
        assert_eq!(records.kept(7, 1).len(), 21);
        let much = vec![b'x'; 1 << 20];
        records.keep(7, 0, &much).unwrap();
        records.keep(7, 0, &much).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("units/7.out.kept")).unwrap().len(), 1 << 20);
        records.remove(7);
        assert!(!records.are_there());
        let left: Vec<_> = std::fs::read_dir(dir.path().join("units")).unwrap().collect();
        assert_eq!(left.len(), 1, "the lock: {left:?}");
    }
}
