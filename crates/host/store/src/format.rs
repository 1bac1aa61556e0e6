//! The layout of the file, how it is opened, and how older layouts become this one.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flux_model::blobref::HashAlg;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::error::{StoreError, wrap};
use crate::log::Durability;
use crate::wal;

/// Version of the file's layout, in `PRAGMA user_version`.
///
/// 2 has a digest beside each checkpoint, and the name of the hash in a table `meta`. 3 has rows
/// that are compressed with a dictionary.
pub const FORMAT: i64 = 3;

/// Files up to this size are checked as a whole before they are used, in bytes. Of a larger one
/// every row is read and its length is compared, which finds all but damage inside of blobs; that
/// is found when they are read.
const CHECK_MAX: i64 = 32 << 20;

/// Bytes of a page of a new file. Rows do not share what is left of a page, but of a row that does
/// not fit the rest fills pages of its own to the end: rows from half a page to a page cost most.
/// Measured with jobs that print some KB, files of 8 KiB pages were a sixth larger; smaller ones
/// take longer to be given back.
const PAGE: u32 = 4_096;

/// Pages of the write-ahead log from which on it is written back.
const WAL_PAGES: c_int = 4_000;

/// Tables of a new file. The column `epoch` of blobs is not used any more.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS blobs (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL, epoch INTEGER NOT NULL,
        size INTEGER NOT NULL, object BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS checkpoints (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, value TEXT NOT NULL, digest BLOB);
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);";

/// Where the file really is: `path`, or where a relocation has left a link to.
///
/// # Errors
/// When the link leads nowhere.
pub(crate) fn place(path: &Path) -> Result<PathBuf, StoreError> {
    let Ok(target) = std::fs::read_link(path) else { return Ok(path.to_path_buf()) };
    if !target.exists() {
        return Err(StoreError::Gone { path: path.to_path_buf(), target });
    }
    // Left behind when the move was interrupted; the file that they belong to is gone.
    for suffix in ["-wal", "-shm", "-promised"] {
        std::fs::remove_file(beside(path, suffix)).ok();
    }
    Ok(target)
}

/// A file of SQLite beside another.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Bytes that the file says it has, and those that it has, where they are fewer.
pub(crate) fn truncated(path: &Path) -> Option<(u64, u64)> {
    let mut head = [0; 100];
    let mut file = std::fs::File::open(path).ok()?;
    file.read_exact(&mut head).ok()?;
    let length = file.metadata().ok()?.len();
    let declared = declared(&head)?;
    (length < declared).then_some((declared, length))
}

/// Bytes of a database by its first 100 ones.
fn declared(head: &[u8; 100]) -> Option<u64> {
    if !head.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let pages = u32::from_be_bytes([head[28], head[29], head[30], head[31]]);
    // The number of pages holds only where both change counters agree.
    (head[24..28] == head[92..96]).then(|| page * u64::from(pages))
}

/// Opens the file with the settings that it is used with, and looks at nothing in it.
///
/// # Errors
/// When it can't be opened or is no database.
pub(crate) fn connect(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    let sql = |source| wrap(path, source);
    let logged = std::fs::metadata(beside(path, "-wal")).is_ok_and(|data| data.len() > 0);
    if !logged && let Some((declared, length)) = truncated(path) {
        let text = format!("truncated: has {length} of {declared} bytes");
        return Err(StoreError::Damaged { path: path.to_path_buf(), text });
    }
    if logged
        && durability == Durability::Synced
        && let Some(damage) = wal::damage(path)
    {
        let text = damage.to_string();
        return Err(StoreError::Damaged { path: path.to_path_buf(), text });
    }
    let new = std::fs::metadata(path).map_or(0, |data| data.len()) == 0;
    let mut connection = Connection::open(path).map_err(sql)?;
    if new {
        // To a file that is there this would write.
        connection
            .execute_batch(&format!("PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL;"))
            .map_err(sql)?;
    }
    connection
        .execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {};
             PRAGMA journal_size_limit = {};",
            durability.synchronous(),
            i64::from(WAL_PAGES) * i64::from(PAGE),
        ))
        .map_err(sql)?;
    if logged && durability == Durability::Synced {
        close_writes_back(&connection, false).map_err(sql)?;
        write_again(&beside(path, "-wal")).map_err(|error| StoreError::Place {
            path: path.to_path_buf(),
            text: format!("its log cannot be written: {error}"),
        })?;
        close_writes_back(&connection, true).map_err(sql)?;
    }
    connection.wal_hook(Some(write_back)).map_err(sql)?;
    Ok(connection)
}

/// Whether the log is written back when the connection is closed: not while it may hold what is
/// not on the disk.
pub(crate) fn close_writes_back(connection: &Connection, does: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !does).map(drop)
}

/// Writes a long log back. SQLite would do so by itself and hide a sync that failed.
fn write_back(wal: &mut Wal, pages: c_int) -> rusqlite::Result<()> {
    if pages < WAL_PAGES {
        return Ok(());
    }
    match wal.checkpoint().map_err(|error| (error.sqlite_error_code(), error)) {
        // The log grows on, and is written back when there is room.
        Ok(()) | Err((Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Writes the bytes of a file again where they are, and syncs them. After a sync that failed, in
/// this process or one before it, they are read as if they were on the disk, and are not: what is
/// written from them elsewhere would have nothing behind it after a power cut.
fn write_again(path: &Path) -> io::Result<()> {
    let bytes = std::fs::read(path)?;
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    #[cfg(test)]
    crate::serve::tests::disk::written_again(path, bytes)?;
    Ok(())
}

/// Version of the layout; 0 for a new file.
pub(crate) fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|source| wrap(path, source))
}

/// A number that SQLite knows of a file.
pub(crate) fn number(connection: &Connection, path: &Path, what: &str) -> Result<i64, StoreError> {
    connection
        .query_row(&format!("PRAGMA {what}"), [], |row| row.get(0))
        .map_err(|source| wrap(path, source))
}

/// Writes the log beside the file back into it, and empties it. What the file holds is then
/// synced, whatever became of earlier syncs.
///
/// # Errors
/// When that can't be done.
pub(crate) fn settle(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let busy: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(|source| wrap(path, source))?;
    if busy == 0 { Ok(()) } else { Err(StoreError::Busy(path.to_path_buf())) }
}

/// Makes the tables of a new file, or checks and migrates those of an old one.
///
/// # Errors
/// When it is damaged, of a later layout, or made with another hash.
pub(crate) fn prepare(
    connection: &Connection,
    path: &Path,
    hash: HashAlg,
) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_path_buf(), found });
    }
    if found != 0 {
        check(connection, path)?;
    }
    if found < FORMAT {
        migrate(connection, path, found, hash)?;
    }
    let sql = |source| wrap(path, source);
    let named: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'hash'", [], |row| row.get(0))
        .optional()
        .map_err(sql)?;
    match named {
        Some(named) if named != hash.name() => {
            Err(StoreError::Hash { path: path.to_path_buf(), found: named })
        }
        Some(_) => Ok(()),
        None => connection
            .execute("INSERT INTO meta VALUES ('hash', ?1)", [hash.name()])
            .map(drop)
            .map_err(sql),
    }
}

/// Writes the log back and compares the length of the file with what it says of itself, in bytes.
pub(crate) fn check_length(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    settle(connection, path)?;
    let damaged = |text| Err(StoreError::Damaged { path: path.to_path_buf(), text });
    let bytes = number(connection, path, "page_count")? * number(connection, path, "page_size")?;
    let length = std::fs::metadata(path).map_or(0, |data| data.len());
    if i64::try_from(length).is_ok_and(|length| length < bytes) {
        return damaged(format!("truncated: has {length} of {bytes} bytes"));
    }
    Ok(bytes)
}

/// Looks whether the file is whole; at a large one less closely.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let bytes = check_length(connection, path)?;
    let damaged = |text| Err(StoreError::Damaged { path: path.to_path_buf(), text });
    if bytes <= CHECK_MAX {
        let text: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|source| wrap(path, source))?;
        if text != "ok" {
            return damaged(text.replace('\n', " "));
        }
    }
    Ok(())
}

/// One transaction: afterwards the file is of this layout, or as it was.
fn migrate(
    connection: &Connection,
    path: &Path,
    found: i64,
    hash: HashAlg,
) -> Result<(), StoreError> {
    let sql = |source| wrap(path, source);
    let change = connection.unchecked_transaction().map_err(sql)?;
    if found == 1 {
        change.execute_batch("ALTER TABLE checkpoints ADD COLUMN digest BLOB").map_err(sql)?;
        let old: Vec<(i64, String)> = change
            .prepare("SELECT id, value FROM checkpoints")
            .and_then(|mut rows| {
                rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .map_err(sql)?;
        for (id, value) in old {
            let digest = hash.hash(value.as_bytes());
            change
                .execute(
                    "UPDATE checkpoints SET digest = ?2 WHERE id = ?1",
                    params![id, digest.digest()],
                )
                .map_err(sql)?;
        }
    }
    change
        .execute_batch(&format!("{TABLES} PRAGMA user_version = {FORMAT};"))
        .and_then(|()| change.commit())
        .map_err(sql)
}
