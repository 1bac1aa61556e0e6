//! What is on disk of units: that there is one, who sends signals to it, and the pipes into which
//! the shell writes, which its own descriptors keep open while no broker reads them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// Name of the directory, beside the journal of the supervisor.
const NAME: &str = "units";
const ENDS: [&str; 2] = ["out", "err"];

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

    /// Whether there is any.
    pub(super) fn are_there(&self) -> bool {
        std::fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_some())
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
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        for at in 0..ENDS.len() {
            let path = self.pipe(id, at);
            std::fs::remove_file(&path).ok();
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
}
