//! A copy of the file while it is in use: a backup, or the file's new place.
//!
//! Rows never change, so that copying them in order, in small steps on the store's thread, until
//! none is left, and then the checkpoints of that same instant, gives what the store was at that
//! instant. A thread of its own writes the new file.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Instant;

use flux_api::content::Copied;
use flux_model::blobref::HashAlg;
use rusqlite::{Connection, params};

use crate::error::{StoreError, wrap};
use crate::format;
use crate::log::{BlobLog, Durability, INSERT};

/// Rows and bytes that are read in a step.
const ROWS: i64 = 64;
const BYTES: usize = 512 << 10;

/// Parts on their way to the thread that writes.
const PARTS: usize = 4;

/// What the copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Backup,
    Relocate,
}

type CopiedRow = (i64, Vec<u8>, i64, Vec<u8>);

#[derive(Debug)]
enum Part {
    Rows(Vec<CopiedRow>),
    /// Nothing is left: these belong to it.
    Rest(Rest),
}

/// What there is beside blobs.
#[derive(Debug)]
struct Rest {
    checkpoints: Vec<(i64, String, Vec<u8>)>,
    meta: Vec<(String, String)>,
}

/// A copy that is going on.
#[derive(Debug)]
pub(crate) struct Copy {
    aim: Aim,
    target: PathBuf,
    /// The last row that was read.
    at: i64,
    blobs: u64,
    /// Read, but not yet taken by the thread.
    held: Option<Part>,
    parts: Option<SyncSender<Part>>,
    written: Receiver<Result<Connection, StoreError>>,
    asked: bool,
}

impl Copy {
    /// Begins a copy to a new file.
    pub(crate) fn begin(log: &BlobLog, aim: Aim, path: &str) -> Result<Self, StoreError> {
        let target = PathBuf::from(path);
        let wrong =
            |text: &str| Err(StoreError::Place { path: target.clone(), text: text.to_string() });
        if !target.is_absolute() {
            return wrong("must be an absolute path on the broker's node");
        }
        if target.symlink_metadata().is_ok() {
            return wrong("is there already: choose a new name");
        }
        if !target.parent().is_some_and(Path::is_dir) {
            return wrong("its directory does not exist");
        }
        let (parts, taken) = sync_channel(PARTS);
        let (say, written) = channel();
        let (file, hash) = (part_of(&target), log.hash());
        let writer = thread::Builder::new().name("store-copy".to_string());
        let spawned = writer.spawn(move || {
            let result = fill(&file, hash, &taken);
            if result.is_err() {
                remove(&file);
            }
            // Nobody listens when the store is closed.
            drop(say.send(result));
        });
        spawned.map_err(|error| log.damaged(format!("no thread for a copy: {error}")))?;
        let parts = Some(parts);
        Ok(Self { aim, target, at: 0, blobs: 0, held: None, parts, written, asked: false })
    }

    pub(crate) fn what(&self) -> &'static str {
        match self.aim {
            Aim::Backup => "a backup",
            Aim::Relocate => "a relocation",
        }
    }

    /// Does a little: `None` while the other thread must be waited for or more is to be done.
    ///
    /// # Errors
    /// When either file can't be read or written; the new one is then removed.
    pub(crate) fn step(
        &mut self,
        log: &mut BlobLog,
        deadline: Instant,
    ) -> Result<Option<Copied>, StoreError> {
        match self.written.try_recv() {
            Ok(Ok(connection)) => return self.finish(log, connection).map(Some),
            Ok(Err(error)) => return Err(error),
            Err(TryRecvError::Disconnected) => {
                return Err(log.damaged("the copy broke off".to_string()));
            }
            Err(TryRecvError::Empty) => {}
        }
        while !self.asked {
            let Some(parts) = &self.parts else { break };
            let part = match self.held.take() {
                Some(part) => part,
                None => {
                    let rows = rows_after(log, self.at)?;
                    match rows.last() {
                        Some((id, ..)) => {
                            self.at = *id;
                            self.blobs += rows.len() as u64;
                            Part::Rows(rows)
                        }
                        None => Part::Rest(rest(log)?),
                    }
                }
            };
            let last = matches!(part, Part::Rest(_));
            match parts.try_send(part) {
                Ok(()) if last => {
                    self.asked = true;
                    self.parts = None;
                }
                Ok(()) => {}
                Err(TrySendError::Full(Part::Rest(_))) => {
                    // They must be read when no row is left.
                    break;
                }
                Err(TrySendError::Full(part)) => {
                    self.held = Some(part);
                    break;
                }
                // It failed, and says why.
                Err(TrySendError::Disconnected(_)) => break,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(None)
    }

    fn finish(&mut self, log: &mut BlobLog, connection: Connection) -> Result<Copied, StoreError> {
        let file = part_of(&self.target);
        let result = match self.aim {
            Aim::Backup => publish(connection, &file, &self.target),
            Aim::Relocate => self.swap(log, connection, &file),
        };
        if result.is_err() {
            remove(&file);
        }
        result?;
        let bytes = fs::metadata(&self.target).map_or(0, |data| data.len());
        Ok(Copied { blobs: self.blobs, bytes })
    }

    /// Adds what came since, and goes on in the new file.
    fn swap(
        &mut self,
        log: &mut BlobLog,
        connection: Connection,
        file: &Path,
    ) -> Result<(), StoreError> {
        loop {
            let rows = rows_after(log, self.at)?;
            let Some((id, ..)) = rows.last() else { break };
            self.at = *id;
            self.blobs += rows.len() as u64;
            put(&connection, file, &Part::Rows(rows))?;
        }
        put(&connection, file, &Part::Rest(rest(log)?))?;
        publish(connection, file, &self.target)?;
        let connection = format::connect(&self.target, log.durability())?;
        // From here on it is the new file: whoever opens the name finds it.
        let name = log.name().to_path_buf();
        let link = format::beside(&name, ".moving");
        fs::remove_file(&link).ok();
        let linked = symlink(&self.target, &link)
            .and_then(|()| fs::rename(&link, &name))
            .and_then(|()| sync_directory(&name));
        if let Err(error) = linked {
            drop(connection);
            remove(&self.target);
            return Err(place(&name, &error));
        }
        let old = log.path.clone();
        drop(log.go_on_in(connection, self.target.clone()));
        if old != name {
            remove(&old);
        }
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(format::beside(&old, suffix)).ok();
        }
        Ok(())
    }
}

fn place(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Place { path: path.to_path_buf(), text: error.to_string() }
}

/// The name of the new file while it is not whole.
fn part_of(target: &Path) -> PathBuf {
    format::beside(target, ".part")
}

fn remove(file: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format::beside(file, suffix)).ok();
    }
}

/// Makes sure that a new name is on disk.
pub(crate) fn sync_directory(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Closes the new file, which is whole, and gives it its name.
fn publish(connection: Connection, file: &Path, target: &Path) -> Result<(), StoreError> {
    format::settle(&connection, file)?;
    connection.close().map_err(|(_, source)| wrap(file, source))?;
    let named = File::open(file)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(file, target))
        .and_then(|()| sync_directory(target));
    named.map_err(|error| place(target, &error))
}

/// The thread that writes.
fn fill(file: &Path, hash: HashAlg, parts: &Receiver<Part>) -> Result<Connection, StoreError> {
    remove(file);
    let connection = format::connect(file, Durability::Process)?;
    format::prepare(&connection, file, hash)?;
    loop {
        let Ok(part) = parts.recv() else {
            let text = "the copy broke off".to_string();
            return Err(StoreError::Place { path: file.to_path_buf(), text });
        };
        put(&connection, file, &part)?;
        if matches!(part, Part::Rest(_)) {
            break;
        }
    }
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(|source| wrap(file, source))?;
    format::settle(&connection, file)?;
    Ok(connection)
}

fn put(connection: &Connection, file: &Path, part: &Part) -> Result<(), StoreError> {
    let write = || -> rusqlite::Result<()> {
        let change = connection.unchecked_transaction()?;
        match part {
            Part::Rows(rows) => {
                let mut insert = change.prepare_cached(INSERT)?;
                for (id, digest, size, object) in rows {
                    insert.execute(params![id, digest, size, object])?;
                }
            }
            Part::Rest(rest) => {
                for (key, value) in &rest.meta {
                    change.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", [key, value])?;
                }
                change.execute("DELETE FROM checkpoints", [])?;
                for (id, value, digest) in &rest.checkpoints {
                    change.execute(
                        "INSERT INTO checkpoints (id, value, digest) VALUES (?1, ?2, ?3)",
                        params![id, value, digest],
                    )?;
                }
            }
        }
        change.commit()
    };
    write().map_err(|source| wrap(file, source))
}

fn rows_after(log: &BlobLog, at: i64) -> Result<Vec<CopiedRow>, StoreError> {
    let read = || -> rusqlite::Result<Vec<CopiedRow>> {
        let mut statement = log.connection.prepare_cached(
            "SELECT id, digest, size, object FROM blobs WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut found = statement.query([at, ROWS])?;
        let mut rows: Vec<CopiedRow> = Vec::new();
        let mut sum = 0;
        while let Some(row) = found.next()? {
            let copied: CopiedRow = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            sum += copied.3.len();
            rows.push(copied);
            if sum > BYTES {
                break;
            }
        }
        Ok(rows)
    };
    read().map_err(|source| wrap(&log.path, source))
}

fn rest(log: &BlobLog) -> Result<Rest, StoreError> {
    let read = || -> rusqlite::Result<Rest> {
        let mut statement =
            log.connection.prepare_cached("SELECT id, value, digest FROM checkpoints")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let checkpoints = rows.collect::<Result<_, _>>()?;
        let mut statement = log.connection.prepare_cached("SELECT key, value FROM meta")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Rest { checkpoints, meta: rows.collect::<Result<_, _>>()? })
    };
    read().map_err(|source| wrap(&log.path, source))
}
