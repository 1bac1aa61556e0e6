//! The file: rows of blobs in the order of their arrival, and checkpoints.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flux_api::content::Checkpoint;
use flux_model::blobref::HashAlg;
use flux_proto::Errno;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::index::Index;

/// Version of the file's layout, in `PRAGMA user_version`.
pub const FORMAT: i64 = 1;

/// Checkpoints that are kept.
pub const CHECKPOINTS_MAX: u32 = 5;

/// Blobs from this size on are compressed, if that makes them smaller.
const COMPRESS_MIN: usize = 256;

/// What an answer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The data survives a power cut: each transaction is synced.
    Synced,
    /// The data lasts as long as the process, which is all that a state directory needs that goes
    /// with the instance: commits are answered when they are accepted, and written soon after.
    Process,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such blob or checkpoint.
    #[error("{path}: no such {what}", path = .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `blob` or `checkpoint`.
        what: &'static str,
    },
    /// The disk is full.
    #[error("{path}: no space left on device: free some space, then go on", path = .0.display())]
    Full(PathBuf),
    /// The file holds something that it should not.
    #[error("{path}: damaged: {text}: see flux-fsck(1)", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The file was written by a later release.
    #[error("{path}: format {found} is newer than this release knows ({FORMAT})", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// Any other failure of SQLite.
    #[error("{path}: {source}", path = .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// The errno on the wire.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Missing { .. } => Errno::ENOENT,
            Self::Full(_) => Errno::ENOSPC,
            Self::Newer { .. } => Errno::EINVAL,
            Self::Damaged { .. } | Self::Sqlite { .. } => Errno::EIO,
        }
    }
}

/// One thing to write.
#[derive(Debug)]
pub enum Write<'a> {
    /// A blob.
    Blob(&'a [u8]),
    /// A checkpoint.
    Checkpoint(&'a Checkpoint),
}

/// Blobs and checkpoints in one SQLite file.
#[derive(Debug)]
pub struct BlobLog {
    path: PathBuf,
    connection: Connection,
    index: Index,
    hash: HashAlg,
    next_row: i64,
    epoch: i64,
}

impl BlobLog {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or is of a later format.
    pub fn open(path: &Path, hash: HashAlg, durability: Durability) -> Result<Self, StoreError> {
        let sql = |source| wrap(path, source);
        let connection = Connection::open(path).map_err(sql)?;
        let synchronous = match durability {
            Durability::Synced => "FULL",
            Durability::Process => "OFF",
        };
        connection
            .execute_batch(&format!(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA auto_vacuum = INCREMENTAL;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = {synchronous};
                 PRAGMA wal_autocheckpoint = 4000;"
            ))
            .map_err(sql)?;
        let found: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
        if found > FORMAT {
            return Err(StoreError::Newer { path: path.to_path_buf(), found });
        }
        if found != 0 {
            let check: String =
                connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql)?;
            if check != "ok" {
                return Err(StoreError::Damaged { path: path.to_path_buf(), text: check });
            }
        }
        connection
            .execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS blobs (
                     id INTEGER PRIMARY KEY, digest BLOB NOT NULL, epoch INTEGER NOT NULL,
                     size INTEGER NOT NULL, object BLOB NOT NULL);
                 CREATE TABLE IF NOT EXISTS checkpoints (
                     id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, value TEXT NOT NULL);
                 PRAGMA user_version = {FORMAT};"
            ))
            .map_err(sql)?;
        let mut log = Self {
            path: path.to_path_buf(),
            connection,
            index: Index::default(),
            hash,
            next_row: 1,
            epoch: 0,
        };
        log.read_index()?;
        Ok(log)
    }

    fn read_index(&mut self) -> Result<(), StoreError> {
        let sql = |source| wrap(&self.path, source);
        let mut statement =
            self.connection.prepare("SELECT id, digest FROM blobs ORDER BY id").map_err(sql)?;
        let mut rows = statement.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let id: i64 = row.get(0).map_err(sql)?;
            let digest = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sql)?;
            self.index.insert(digest, id);
            self.next_row = id + 1;
        }
        self.epoch = self
            .connection
            .query_row("SELECT COALESCE(MAX(id), 0) FROM checkpoints", [], |row| row.get(0))
            .map_err(sql)?;
        Ok(())
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The hash that names blobs.
    #[must_use]
    pub fn hash(&self) -> HashAlg {
        self.hash
    }

    /// Lets the file grow to so many pages only.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
    }

    /// Number of blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no blob.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn row_of(&self, digest: &[u8]) -> Result<Option<i64>, StoreError> {
        let sql = |source| wrap(&self.path, source);
        for row in self.index.candidates(digest) {
            let mut statement = self
                .connection
                .prepare_cached("SELECT digest = ?2 FROM blobs WHERE id = ?1")
                .map_err(sql)?;
            let same: Option<bool> = statement
                .query_row(params![row, digest], |row| row.get(0))
                .optional()
                .map_err(sql)?;
            if same == Some(true) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Reads a blob and checks it against its digest.
    ///
    /// # Errors
    /// When it is missing, damaged, or can't be read.
    pub fn load(&self, digest: &[u8]) -> Result<Bytes, StoreError> {
        let sql = |source| wrap(&self.path, source);
        let Some(row) = self.row_of(digest)? else {
            return Err(StoreError::Missing { path: self.path.clone(), what: "blob" });
        };
        let mut statement = self
            .connection
            .prepare_cached("SELECT size, object FROM blobs WHERE id = ?1")
            .map_err(sql)?;
        let (size, object): (i64, Vec<u8>) =
            statement.query_row([row], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sql)?;
        let damaged = |text: String| StoreError::Damaged { path: self.path.clone(), text };
        let blob = if size < 0 {
            object
        } else {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > 1 << 30 {
                return Err(damaged(format!("row {row} claims {size} bytes")));
            }
            lz4_flex::block::decompress(&object, size)
                .map_err(|error| damaged(format!("row {row}: {error}")))?
        };
        if *self.hash.hash(&blob).digest() != *digest {
            return Err(damaged(format!("row {row} does not match its digest")));
        }
        Ok(Bytes::from(blob))
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// When it is not, or the file can't be read.
    pub fn validate(&self, digest: &[u8]) -> Result<(), StoreError> {
        match self.row_of(digest)? {
            Some(_) => Ok(()),
            None => Err(StoreError::Missing { path: self.path.clone(), what: "blob" }),
        }
    }

    /// Writes everything in one transaction, or nothing.
    ///
    /// # Errors
    /// When the disk is full or fails; nothing of it is then in the store.
    pub fn write(&mut self, writes: &[Write<'_>]) -> Result<(), StoreError> {
        let mut added: Vec<(Vec<u8>, i64)> = Vec::new();
        let result = self.write_rows(writes, &mut added);
        match result {
            Ok(()) => {
                for (digest, row) in added {
                    self.index.insert(&digest, row);
                }
                Ok(())
            }
            Err(error) => {
                // The connection may be in a transaction still; a failure here changes nothing.
                if !self.connection.is_autocommit() {
                    self.connection.execute_batch("ROLLBACK").ok();
                }
                Err(error)
            }
        }
    }

    fn write_rows(
        &mut self,
        writes: &[Write<'_>],
        added: &mut Vec<(Vec<u8>, i64)>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let sql = |source| wrap(&path, source);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut next = self.next_row;
        let mut epoch = self.epoch;
        let mut fresh = Index::default();
        for write in writes {
            match write {
                Write::Blob(blob) => {
                    let digest = self.hash.hash(blob).digest().to_vec();
                    let twice = fresh
                        .candidates(&digest)
                        .any(|at| added.iter().any(|(known, row)| *row == at && *known == digest));
                    if twice {
                        continue;
                    }
                    if let Some(row) = self.row_of(&digest)? {
                        self.connection
                            .prepare_cached(
                                "UPDATE blobs SET epoch = ?2 WHERE id = ?1 AND epoch < ?2",
                            )
                            .and_then(|mut statement| statement.execute(params![row, epoch]))
                            .map_err(sql)?;
                        continue;
                    }
                    let packed = (blob.len() >= COMPRESS_MIN)
                        .then(|| lz4_flex::block::compress(blob))
                        .filter(|packed| packed.len() < blob.len());
                    let (size, object) = match &packed {
                        Some(packed) => {
                            (i64::try_from(blob.len()).unwrap_or(i64::MAX), packed.as_slice())
                        }
                        None => (-1, *blob),
                    };
                    self.connection
                        .prepare_cached(
                            "INSERT INTO blobs (id, digest, epoch, size, object)
                             VALUES (?1, ?2, ?3, ?4, ?5)",
                        )
                        .and_then(|mut statement| {
                            statement.execute(params![next, digest, epoch, size, object])
                        })
                        .map_err(sql)?;
                    fresh.insert(&digest, next);
                    added.push((digest, next));
                    next += 1;
                }
                Write::Checkpoint(checkpoint) => {
                    let value = serde_json::to_string(checkpoint).unwrap_or_default();
                    self.connection
                        .prepare_cached("INSERT INTO checkpoints (value) VALUES (?1)")
                        .and_then(|mut statement| statement.execute([value]))
                        .map_err(sql)?;
                    epoch = self.connection.last_insert_rowid();
                }
            }
        }
        if epoch != self.epoch {
            self.connection
                .prepare_cached("DELETE FROM checkpoints WHERE id <= ?1")
                .and_then(|mut statement| statement.execute([epoch - i64::from(CHECKPOINTS_MAX)]))
                .map_err(sql)?;
        }
        self.connection.execute_batch("COMMIT").map_err(sql)?;
        self.next_row = next;
        self.epoch = epoch;
        Ok(())
    }

    /// Checkpoints, newest first.
    ///
    /// # Errors
    /// When there is none, one is damaged, or the file can't be read.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let sql = |source| wrap(&self.path, source);
        let mut statement = self
            .connection
            .prepare_cached("SELECT value FROM checkpoints ORDER BY id DESC")
            .map_err(sql)?;
        let values = statement
            .query_map([], |row| row.get::<_, String>(0))
            .and_then(Iterator::collect::<Result<Vec<String>, _>>)
            .map_err(sql)?;
        if values.is_empty() {
            return Err(StoreError::Missing { path: self.path.clone(), what: "checkpoint" });
        }
        values
            .iter()
            .map(|value| {
                serde_json::from_str(value).map_err(|error| StoreError::Damaged {
                    path: self.path.clone(),
                    text: format!("checkpoint: {error}"),
                })
            })
            .collect()
    }

    /// Raises the epoch of blobs that a collection found alive; returns how many rows changed.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn mark(&mut self, epoch: i64, digests: &[Vec<u8>]) -> Result<u64, StoreError> {
        let mut marked = 0;
        for digest in digests {
            if let Some(row) = self.row_of(digest)? {
                let changed = self
                    .connection
                    .prepare_cached("UPDATE blobs SET epoch = ?2 WHERE id = ?1 AND epoch < ?2")
                    .and_then(|mut statement| statement.execute(params![row, epoch]))
                    .map_err(|source| wrap(&self.path, source))?;
                marked += changed as u64;
            }
        }
        Ok(marked)
    }

    /// Bytes of the file, and of pages in it that are free.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn size(&self) -> Result<(i64, i64), StoreError> {
        let number = |pragma: &str| -> Result<i64, StoreError> {
            self.connection
                .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
                .map_err(|source| wrap(&self.path, source))
        };
        let page = number("page_size")?;
        Ok((number("page_count")? * page, number("freelist_count")? * page))
    }
}

fn wrap(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, text: source.to_string() }
        }
        _ => StoreError::Sqlite { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(sequence: i64) -> Checkpoint {
        serde_json::from_value(serde_json::json!({
            "version": 1, "rootref": "sha1-0", "sequence": sequence, "timestamp": 1.0
        }))
        .unwrap()
    }

    #[test]
    fn what_was_written_is_there_after_a_reopen_without_a_close() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        let big = vec![7_u8; 10_000];
        {
            let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
            assert!(matches!(log.checkpoints(), Err(StoreError::Missing { .. })));
            let first = checkpoint(1);
            log.write(&[
                Write::Blob(b"a"),
                Write::Blob(&big),
                Write::Blob(b"a"),
                Write::Checkpoint(&first),
            ])
            .unwrap();
            assert_eq!(log.len(), 2);
            for sequence in 2..10 {
                log.write(&[Write::Checkpoint(&checkpoint(sequence))]).unwrap();
            }
        }
        let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
        assert_eq!(log.load(HashAlg::Sha1.hash(b"a").digest()).unwrap(), &b"a"[..]);
        assert_eq!(log.load(HashAlg::Sha1.hash(&big).digest()).unwrap(), &big[..]);
        let sequences: Vec<i64> =
            log.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.sequence).collect();
        assert_eq!(sequences, [9, 8, 7, 6, 5]);
        assert_eq!(log.load(&[0; 20]).unwrap_err().errno(), Errno::ENOENT);
    }

    #[test]
    fn a_damaged_blob_is_said_and_not_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
        log.write(&[Write::Blob(b"good")]).unwrap();
        log.connection.execute("UPDATE blobs SET object = ?1", [&b"bad!"[..]]).unwrap();
        let error = log.load(HashAlg::Sha1.hash(b"good").digest()).unwrap_err();
        assert_eq!(error.errno(), Errno::EIO);
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        let error = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind_and_passes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
        log.connection.execute_batch("PRAGMA max_page_count = 20").unwrap();
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..400_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        let error = log.write(&[Write::Blob(&noise)]).unwrap_err();
        assert_eq!(error.errno(), Errno::ENOSPC, "{error}");
        assert_eq!(log.len(), 0);
        log.connection.execute_batch("PRAGMA max_page_count = 100000").unwrap();
        log.write(&[Write::Blob(&noise)]).unwrap();
        assert_eq!(log.load(HashAlg::Sha1.hash(&noise).digest()).unwrap(), &noise[..]);
    }
}
