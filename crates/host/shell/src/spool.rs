//! A queue of texts: in memory, and beyond a bound in a file without a name.
//!
//! While the broker is away a task's output has nowhere to go but here. Memory first, then a file
//! in the job's directory, and when that is full or fails, the tasks have to wait; nothing is
//! dropped. The file has no name, so that it goes with the shell, however that ends.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Bytes of a record beside its text: length and tag.
const HEAD: usize = 5;
/// Most bytes that are read back at a time, but for a single record.
const CHUNK: u64 = 1 << 20;

/// How much a [`Spool`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes in memory from which on what comes goes to the file, if it may.
    pub memory: usize,
    /// Bytes in memory that are enough where nothing goes to the file.
    pub flow: usize,
    /// Bytes in the file.
    pub disk: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: 8 << 20, flow: 32 << 20, disk: 4 << 30 }
    }
}

/// A text with a number that says what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is for.
    pub tag: u8,
    /// The text.
    pub text: String,
}

impl Record {
    fn size(&self) -> usize {
        self.text.len() + HEAD
    }
}

#[derive(Debug)]
struct Disk {
    file: File,
    /// Where the oldest record begins.
    read: u64,
    /// Where the next one goes.
    write: u64,
}

/// A queue, first in, first out.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    bounds: Bounds,
    front: VecDeque<Record>,
    front_bytes: usize,
    disk: Option<Disk>,
    /// What came after the file was full.
    back: VecDeque<Record>,
    back_bytes: usize,
    spills: bool,
    lost: Option<String>,
}

impl Spool {
    /// An empty queue, whose file would be in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf, bounds: Bounds) -> Self {
        Self {
            dir,
            bounds,
            front: VecDeque::new(),
            front_bytes: 0,
            disk: None,
            back: VecDeque::new(),
            back_bytes: 0,
            spills: false,
            lost: None,
        }
    }

    /// Whether the file may be used from now on: nobody is taking from the queue.
    pub fn set_spilling(&mut self, spills: bool) {
        self.spills = spills;
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.write - disk.read);
        on_disk + (self.front_bytes + self.back_bytes) as u64
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && self.back.is_empty() && !self.has_file_records()
    }

    /// Whether no more should be added, as far as that can be put off.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.back.is_empty() || (!self.spills && self.front_bytes >= self.bounds.flow)
    }

    fn has_file_records(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.read < disk.write)
    }

    /// Adds a record, however full the queue is.
    pub fn push(&mut self, record: Record) {
        let size = record.size();
        let after_file = self.has_file_records();
        let in_memory = !after_file
            && self.back.is_empty()
            && (!self.spills || self.front_bytes + size <= self.bounds.memory);
        if in_memory {
            self.front_bytes += size;
            self.front.push_back(record);
        } else if !self.back.is_empty() || self.write(&record).is_err() {
            self.back_bytes += size;
            self.back.push_back(record);
        }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.disk.is_none() {
            let file = nameless(&self.dir)?;
            self.disk = Some(Disk { file, read: 0, write: 0 });
        }
        let Some(disk) = &mut self.disk else { return Err(io::ErrorKind::NotFound.into()) };
        let size = record.size() as u64;
        if disk.write - disk.read + size > self.bounds.disk {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = u32::try_from(record.text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = Vec::with_capacity(record.size());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.push(record.tag);
        bytes.extend_from_slice(record.text.as_bytes());
        // What a failure leaves behind is written over by the next one.
        disk.file.write_all_at(&bytes, disk.write)?;
        disk.write += size;
        Ok(())
    }

    /// Takes the oldest record, unless it is larger than `room`.
    pub fn pop(&mut self, room: usize) -> Option<Record> {
        if self.front.is_empty() {
            self.refill();
        }
        if self.front.front()?.text.len() > room {
            return None;
        }
        let record = self.front.pop_front()?;
        self.front_bytes -= record.size();
        Some(record)
    }

    fn refill(&mut self) {
        if self.has_file_records()
            && let Err(error) = self.read()
            && let Some(disk) = self.disk.take()
        {
            let bytes = disk.write - disk.read;
            self.lost = Some(format!("{bytes} bytes that waited on disk cannot be read: {error}"));
        }
        if self.front.is_empty() {
            self.front = std::mem::take(&mut self.back);
            self.front_bytes = std::mem::take(&mut self.back_bytes);
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let end = disk.write.min(disk.read + CHUNK);
        while disk.read < end {
            let mut head = [0; HEAD];
            disk.file.read_exact_at(&mut head, disk.read)?;
            let [a, b, c, d, tag] = head;
            let len = u32::from_le_bytes([a, b, c, d]);
            let mut text = vec![0; len as usize];
            disk.file.read_exact_at(&mut text, disk.read + HEAD as u64)?;
            let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
            let record = Record { tag, text };
            disk.read += record.size() as u64;
            self.front_bytes += record.size();
            self.front.push_back(record);
        }
        if disk.read == disk.write {
            // Gives the space back.
            self.disk = None;
        }
        Ok(())
    }

    /// What could not be read back, once.
    pub fn take_loss(&mut self) -> Option<String> {
        self.lost.take()
    }
}

/// A file in `dir` that no other process finds.
fn nameless(dir: &std::path::Path) -> io::Result<File> {
    let open =
        |flags| OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(dir);
    let tmpfile = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    if let Ok(file) = open(tmpfile) {
        return Ok(file);
    }
    // A file system without such files.
    let path = dir.join(format!(".spool-{}", std::process::id()));
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(tag: u8, text: &str) -> Record {
        Record { tag, text: text.to_string() }
    }

    fn small() -> Bounds {
        Bounds { memory: 40, flow: 80, disk: 200 }
    }

    #[test]
    fn memory_then_disk_then_the_tasks_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path().to_path_buf(), small());
        spool.set_spilling(true);
        let mut pushed = Vec::new();
        while !spool.is_full() {
            let next = record(pushed.len() as u8, "0123456789");
            spool.push(next.clone());
            pushed.push(next);
        }
        // 2 in memory, 13 on disk, 1 beyond.
        assert_eq!(pushed.len(), 16);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let mut popped = Vec::new();
        while let Some(next) = spool.pop(usize::MAX) {
            popped.push(next);
        }
        assert_eq!(popped, pushed);
        assert!(spool.is_empty() && !spool.is_full() && spool.bytes() == 0);
    }

    #[test]
    fn without_a_place_for_a_file_memory_holds_it() {
        let mut spool = Spool::new(PathBuf::from("/nonexistent/place"), small());
        spool.set_spilling(true);
        for tag in 0..9 {
            spool.push(record(tag, "0123456789"));
        }
        assert!(spool.is_full());
        let tags: Vec<u8> =
            std::iter::from_fn(|| spool.pop(usize::MAX)).map(|record| record.tag).collect();
        assert_eq!(tags, (0..9).collect::<Vec<u8>>());
    }

    #[test]
    fn a_broker_that_takes_everything_costs_no_file() {
        let mut spool = Spool::new(PathBuf::from("/nonexistent/place"), small());
        for tag in 0..5 {
            spool.push(record(tag, "0123456789"));
        }
        assert!(!spool.is_full());
        spool.push(record(5, "0123456789"));
        assert!(spool.is_full());
        assert_eq!(spool.pop(9), None);
        assert_eq!(spool.pop(10).unwrap().tag, 0);
    }

    proptest! {
        #[test]
        fn order_is_kept_whatever_happens(
            steps in proptest::collection::vec((0u8..4, "[a-z]{0,30}"), 0..60),
            memory in 0usize..60, disk in 0u64..200,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let bounds = Bounds { memory, flow: memory, disk };
            let mut spool = Spool::new(dir.path().to_path_buf(), bounds);
            let mut model = VecDeque::new();
            for (step, text) in steps {
                match step {
                    0 => prop_assert_eq!(spool.pop(usize::MAX), model.pop_front()),
                    1 => spool.set_spilling(text.len() % 2 == 0),
                    tag => {
                        spool.push(record(tag, &text));
                        model.push_back(record(tag, &text));
                    }
                }
                prop_assert_eq!(spool.is_empty(), model.is_empty());
            }
            while let Some(expected) = model.pop_front() {
                prop_assert_eq!(spool.pop(usize::MAX), Some(expected));
            }
            prop_assert!(spool.is_empty());
        }
    }
}
