//! The file: rows of blobs in the order of their arrival, and checkpoints.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flux_api::content::Checkpoint;
use flux_model::blobref::{Blobref, HashAlg};
use rusqlite::{Connection, OptionalExtension, params};

use crate::copy::sync_directory;
use crate::error::{StoreError, wrap};
use crate::format;
use crate::index::Index;
use crate::marks::Marks;
use crate::pack::Packed;
use crate::promise::Keeper;

/// Checkpoints that are kept.
pub const CHECKPOINTS_MAX: u32 = 5;

/// Adds a row.
pub(crate) const INSERT: &str =
    "INSERT INTO blobs (id, digest, epoch, size, object) VALUES (?1, ?2, 0, ?3, ?4)";

/// What an answer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The data survives a power cut: each transaction is synced.
    Synced,
    /// The data lasts as long as the process, which is all that a state directory needs that goes
    /// with the instance: commits are answered when they are accepted, and written soon after.
    Process,
}

impl Durability {
    /// SQLite's word for it.
    pub(crate) fn synchronous(self) -> &'static str {
        match self {
            Self::Synced => "FULL",
            Self::Process => "OFF",
        }
    }
}

/// One thing to write.
#[derive(Debug)]
pub enum Write<'a> {
    /// A blob of a commit.
    Blob(&'a [u8]),
    /// A blob that waits for a commit that refers to it.
    Loose(&'a [u8]),
    /// A checkpoint.
    Checkpoint(&'a Checkpoint),
}

/// Bytes of blobs, as they are stored.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Account {
    /// All that is in the file.
    pub(crate) total: u64,
    /// What the last look at everything found alive; 0 before that.
    pub(crate) live: u64,
    /// What was added since the last passes began, the newest one first.
    pub(crate) added: [u64; 2],
}

impl Account {
    /// A pass begins.
    pub(crate) fn begin(&mut self) {
        self.added = [0, self.added[0]];
    }

    fn add(&mut self, bytes: u64) {
        self.total += bytes;
        self.added[0] += bytes;
    }

    /// What was not alive then, and is not new either.
    pub(crate) fn settled(&self) -> u64 {
        self.total.saturating_sub(self.live + self.added[0] + self.added[1])
    }
}

/// Blobs and checkpoints in one SQLite file.
#[derive(Debug)]
pub struct BlobLog {
    /// Where it is asked for; see [`format::place`].
    name: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) index: Index,
    pub(crate) marks: Marks,
    hash: HashAlg,
    durability: Durability,
    next_row: i64,
    last_checkpoint: i64,
    /// What collections are decided by.
    pub(crate) account: Account,
    /// Notes what of SQLite's log was promised, where that is synced.
    keeper: Option<Keeper>,
    /// The disk failed (it was not merely full): what it holds must be read again before anything
    /// is written.
    suspect: bool,
}

impl BlobLog {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or is of a later format.
    pub fn open(name: &Path, hash: HashAlg, durability: Durability) -> Result<Self, StoreError> {
        let path = format::place(name)?;
        let connection = format::connect(&path, durability)?;
        format::prepare(&connection, &path, hash)?;
        if durability == Durability::Synced {
            sync_directory(&path).map_err(|error| StoreError::Place {
                path: path.clone(),
                text: error.to_string(),
            })?;
        }
        let mut log = Self {
            name: name.to_path_buf(),
            path,
            connection,
            index: Index::default(),
            marks: Marks::new(0),
            hash,
            durability,
            next_row: 1,
            last_checkpoint: 0,
            account: Account::default(),
            keeper: None,
            suspect: false,
        };
        log.read_index()?;
        log.keep_promises();
        Ok(log)
    }

    /// After the disk failed: a sync that succeeds now says nothing of what an earlier one failed
    /// to write, so everything is read again, and written back and synced.
    fn recover(&mut self) -> Result<(), StoreError> {
        let connection = format::connect(Path::new(":memory:"), Durability::Process)?;
        drop(std::mem::replace(&mut self.connection, connection));
        let fresh = Self::open(&self.name, self.hash, self.durability)?;
        format::settle(&fresh.connection, &fresh.path)?;
        let account = Account { total: fresh.account.total, ..self.account };
        *self = Self { account, ..fresh };
        Ok(())
    }

    fn keep_promises(&mut self) {
        let synced = self.durability == Durability::Synced;
        self.keeper = synced.then(|| Keeper::new(&self.path));
    }

    fn read_index(&mut self) -> Result<(), StoreError> {
        let sql = |source| wrap(&self.path, source);
        let mut statement = self
            .connection
            .prepare("SELECT id, digest, length(object) FROM blobs ORDER BY id")
            .map_err(sql)?;
        let mut rows = statement.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let id: i64 = row.get(0).map_err(sql)?;
            let digest = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sql)?;
            let length: i64 = row.get(2).map_err(sql)?;
            if self.index.is_empty() {
                self.marks = Marks::new(id);
            }
            self.account.total += cost(usize::try_from(length).unwrap_or(0), digest.len());
            self.index.insert(digest, id);
            self.next_row = id + 1;
        }
        self.last_checkpoint = self
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

    pub(crate) fn row_of(&self, digest: &[u8]) -> Result<Option<i64>, StoreError> {
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

    /// A row's blob as it is stored.
    pub(crate) fn packed(&self, row: i64) -> Result<Packed, StoreError> {
        self.connection
            .prepare_cached("SELECT size, object FROM blobs WHERE id = ?1")
            .and_then(|mut statement| {
                statement.query_row([row], |row| Ok(Packed(row.get(0)?, row.get(1)?)))
            })
            .map_err(|source| wrap(&self.path, source))
    }

    pub(crate) fn damaged(&self, text: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), text }
    }

    /// Reads a blob and checks it against its digest.
    ///
    /// # Errors
    /// When it is missing, damaged, or can't be read.
    pub fn load(&self, digest: &[u8]) -> Result<Bytes, StoreError> {
        let Some(row) = self.row_of(digest)? else {
            return Err(StoreError::Missing { path: self.path.clone(), what: "blob" });
        };
        let blob = self.packed(row)?.unpack(self.hash, digest);
        blob.map(Bytes::from).map_err(|text| {
            let name = Blobref::from_digest(self.hash, digest);
            let name = name.map_or_else(|_| format!("row {row}"), |name| name.to_string());
            self.damaged(format!("blob {name}: {text}"))
        })
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
    /// When the disk is full or fails; nothing of it is then in the store, or all of it is and
    /// nobody was told.
    pub fn write(&mut self, writes: &[Write<'_>]) -> Result<(), StoreError> {
        if self.suspect {
            self.recover()?;
        }
        let mut added = Added::default();
        let mut result = self.write_rows(writes, &mut added);
        if let Err(StoreError::Full(_)) = &result {
            // The log beside the file can be emptied, which may be room enough.
            self.undo_transaction();
            if self.settle().is_ok() {
                added = Added::default();
                result = self.write_rows(writes, &mut added);
            }
        }
        match result {
            Ok(()) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.committed();
                    keeper.promise();
                }
                for (digest, row) in added.rows {
                    self.index.insert(&digest, row);
                    self.marks.reach(row);
                }
                for row in added.again {
                    self.marks.reach(row);
                }
                for row in added.loose {
                    self.marks.keep(row);
                }
                self.account.add(added.bytes);
                Ok(())
            }
            Err(error) => {
                self.undo(&error);
                Err(error)
            }
        }
    }

    /// The disk failed: what is read is not believed before it was written again. Nor is it to be
    /// written back by a close.
    fn doubt(&mut self) {
        self.suspect = true;
        // It fails for a connection that is no good only.
        drop(format::close_writes_back(&self.connection, false));
    }

    /// A transaction failed.
    fn undo(&mut self, error: &StoreError) {
        self.undo_transaction();
        if !matches!(error, StoreError::Full(_)) {
            self.doubt();
        }
    }

    fn undo_transaction(&mut self) {
        // A failure here changes nothing: the connection is made anew.
        if !self.connection.is_autocommit() && self.connection.execute_batch("ROLLBACK").is_err() {
            self.doubt();
        }
    }

    fn write_rows(&mut self, writes: &[Write<'_>], added: &mut Added) -> Result<(), StoreError> {
        let path = self.path.clone();
        let sql = |source| wrap(&path, source);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        let mut next = self.next_row;
        let mut last = self.last_checkpoint;
        let mut fresh = Index::default();
        for write in writes {
            match write {
                Write::Blob(blob) | Write::Loose(blob) => {
                    let loose = matches!(write, Write::Loose(_));
                    let digest = self.hash.hash(blob).digest().to_vec();
                    let twice = fresh.candidates(&digest).find(|at| {
                        added.rows.iter().any(|(same, row)| row == at && *same == digest)
                    });
                    if let Some(row) = twice {
                        added.loose.extend(loose.then_some(row));
                        continue;
                    }
                    if let Some(row) = self.row_of(&digest)? {
                        if loose { &mut added.loose } else { &mut added.again }.push(row);
                        continue;
                    }
                    added.loose.extend(loose.then_some(next));
                    let packed = Packed::new(blob);
                    let (size, object) = match &packed {
                        Some(Packed(how, packed)) => (*how, packed.as_slice()),
                        None => (-1, *blob),
                    };
                    self.connection
                        .prepare_cached(INSERT)
                        .and_then(|mut insert| insert.execute(params![next, digest, size, object]))
                        .map_err(sql)?;
                    added.bytes += cost(object.len(), digest.len());
                    fresh.insert(&digest, next);
                    added.rows.push((digest, next));
                    next += 1;
                }
                Write::Checkpoint(checkpoint) => {
                    let value = serde_json::to_string(checkpoint).unwrap_or_default();
                    let digest = self.hash.hash(value.as_bytes());
                    self.connection
                        .prepare_cached("INSERT INTO checkpoints (value, digest) VALUES (?1, ?2)")
                        .and_then(|mut insert| insert.execute(params![value, digest.digest()]))
                        .map_err(sql)?;
                    last = self.connection.last_insert_rowid();
                }
            }
        }
        if last != self.last_checkpoint {
            self.connection
                .prepare_cached("DELETE FROM checkpoints WHERE id <= ?1")
                .and_then(|mut delete| delete.execute([last - i64::from(CHECKPOINTS_MAX)]))
                .map_err(sql)?;
        }
        self.connection.execute_batch("COMMIT").map_err(sql)?;
        self.next_row = next;
        self.last_checkpoint = last;
        Ok(())
    }

    /// Changes rows in a transaction that need not be synced: it loses nothing, and comes before
    /// whatever is synced later.
    pub(crate) fn change<T>(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        if self.suspect {
            self.recover()?;
        }
        let synced = self.durability == Durability::Synced;
        if synced {
            self.synchronous("NORMAL")?;
        }
        let result = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| change(&self.connection))
            .and_then(|done| self.connection.execute_batch("COMMIT").map(|()| done))
            .map_err(|source| wrap(&self.path, source));
        match &result {
            Ok(_) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.committed();
                }
            }
            Err(error) => self.undo(error),
        }
        if synced && let Err(error) = self.synchronous("FULL") {
            // Whatever comes next must be synced.
            self.doubt();
            return Err(error);
        }
        result
    }

    /// Writes the log beside the file back. Where that fails, a sync may have: it is not believed
    /// when it succeeds later.
    pub(crate) fn settle(&mut self) -> Result<(), StoreError> {
        if self.suspect {
            return self.recover();
        }
        let result = format::settle(&self.connection, &self.path);
        if !matches!(result, Ok(()) | Err(StoreError::Busy(_) | StoreError::Full(_))) {
            self.doubt();
        }
        result
    }

    fn synchronous(&self, how: &str) -> Result<(), StoreError> {
        self.connection
            .execute_batch(&format!("PRAGMA synchronous = {how}"))
            .map_err(|source| wrap(&self.path, source))
    }

    /// The id of the next row, which is then taken.
    pub(crate) fn take_row(&mut self) -> i64 {
        self.next_row += 1;
        self.next_row - 1
    }

    /// The highest row.
    #[must_use]
    pub fn high_water(&self) -> i64 {
        self.next_row - 1
    }

    /// Whether a write of nothing goes through.
    ///
    /// # Errors
    /// What a write would fail with.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        if self.suspect {
            self.recover()?;
        }
        let result = self
            .connection
            .execute("INSERT OR REPLACE INTO meta VALUES ('probe', ?1)", [self.next_row])
            .map(drop)
            .map_err(|source| wrap(&self.path, source));
        match &result {
            Ok(()) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.committed();
                }
            }
            Err(error) => self.undo(error),
        }
        result
    }

    /// Goes on in another file that holds the same.
    pub(crate) fn go_on_in(&mut self, connection: Connection, path: PathBuf) -> Connection {
        self.path = path;
        let former = std::mem::replace(&mut self.connection, connection);
        self.keep_promises();
        former
    }

    /// The name by which the file is opened.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// How writes are synced.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    /// Checkpoints, newest first.
    ///
    /// # Errors
    /// When there is none, one is damaged, or the file can't be read.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let sql = |source| wrap(&self.path, source);
        let mut statement = self
            .connection
            .prepare_cached("SELECT value, digest FROM checkpoints ORDER BY id DESC")
            .map_err(sql)?;
        let values = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect::<Result<Vec<(String, Vec<u8>)>, _>>)
            .map_err(sql)?;
        if values.is_empty() {
            return Err(StoreError::Missing { path: self.path.clone(), what: "checkpoint" });
        }
        let read = |(value, digest): &(String, Vec<u8>)| {
            read_checkpoint(self.hash, value, digest)
                .map_err(|text| self.damaged(format!("checkpoint: {text}")))
        };
        values.iter().map(read).collect()
    }

    /// Bytes of the file, and of pages in it that are free.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn size(&self) -> Result<(i64, i64), StoreError> {
        let number = |what: &str| format::number(&self.connection, &self.path, what);
        let page = number("page_size")?;
        Ok((number("page_count")? * page, number("freelist_count")? * page))
    }
}

/// What a transaction adds.
#[derive(Debug, Default)]
struct Added {
    rows: Vec<(Vec<u8>, i64)>,
    /// Rows that were there.
    again: Vec<i64>,
    /// Rows of blobs that were stored by themselves.
    loose: Vec<i64>,
    bytes: u64,
}

/// Bytes that a row takes, about.
pub(crate) fn cost(object: usize, digest: usize) -> u64 {
    (object + digest + 12) as u64
}

/// A checkpoint, checked against its digest; what is wrong otherwise.
pub(crate) fn read_checkpoint(
    hash: HashAlg,
    value: &str,
    digest: &[u8],
) -> Result<Checkpoint, String> {
    if *hash.hash(value.as_bytes()).digest() != *digest {
        return Err("it does not match its digest".to_string());
    }
    serde_json::from_str(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use flux_proto::Errno;

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
