//! Checks a file that no broker uses, and mends what can be mended.
//!
//! First the file: every page and every row, each blob against its digest. A damaged file is
//! rewritten from what can be read, and the old one kept beside it. Then the tree of the newest
//! checkpoint: what refers to a lost blob is taken out, and what is left of a value is kept under
//! `lost+found`. Nothing is dropped without being said.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flux_api::content::Checkpoint;
use flux_model::blobref::{Blobref, HashAlg};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{StoreError, wrap};
use crate::format::{self, beside};
use crate::log::{BlobLog, Durability, INSERT, Write, read_checkpoint};
use crate::salvage::{Found, scan};
use crate::wal;

mod tree;

use tree::Mender;

/// What was found, and what was done about it.
#[derive(Debug, Default)]
pub struct Report {
    /// Blobs in the file that are whole.
    pub blobs: u64,
    /// Keys of the newest checkpoint whose values were checked.
    pub keys: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// What was done, a sentence each.
    pub repairs: Vec<String>,
}

impl Report {
    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }
}

/// Checks the file, and mends it if `repair` says so.
///
/// # Errors
/// When there is no such file, a broker uses it, a later release wrote it, it holds nothing that
/// can be read, or the disk fails.
pub fn fsck(name: &Path, repair: bool) -> Result<Report, StoreError> {
    let path = format::place(name)?;
    if !path.is_file() {
        return Err(StoreError::Missing { path, what: "file" });
    }
    let mut report = Report::default();
    // With a log beside it, what is missing at the end may be there.
    let whole = fs::metadata(beside(&path, "-wal")).is_ok_and(|data| data.len() > 0);
    let mut cut = false;
    if let Some((declared, length)) = format::truncated(&path)
        && !whole
    {
        cut = true;
        report.problem(format!("{}: truncated: has {length} of {declared} bytes", path.display()));
        if !repair {
            return Ok(report);
        }
        // Without its full length nothing of it can be read.
        let lengthened = fs::OpenOptions::new().write(true).open(&path);
        lengthened
            .and_then(|file| file.set_len(declared))
            .map_err(|error| StoreError::Place { path: path.clone(), text: error.to_string() })?;
    }
    if let Some(damage) = wal::damage(&path) {
        report.problem(format!("{}: {damage}", path.display()));
        if !repair {
            return Ok(report);
        }
        join(&path, &mut report)?;
    }
    let connection = format::connect(&path, Durability::Synced)?;
    let found = format::version(&connection, &path)?;
    if found > format::FORMAT {
        return Err(StoreError::Newer { path, found });
    }
    let hash = hash_of(&connection, &path)?;
    let sound = file(&connection, &path, hash, &mut report) && !cut;
    if !sound {
        if !repair {
            let text = "the keys were not checked: run again with --repair";
            report.problem(text);
            return Ok(report);
        }
        rewrite(connection, &path, hash, &mut report)?;
    } else {
        drop(connection);
    }
    let mut log = BlobLog::open(name, hash, Durability::Synced)?;
    roots(&mut log, repair, &mut report)?;
    Ok(report)
}

/// Makes the transactions behind a bad page of the log count again; the log as it was is kept.
fn join(path: &Path, report: &mut Report) -> Result<(), StoreError> {
    let log = beside(path, "-wal");
    let kept = unused(&log);
    fs::copy(&log, &kept)
        .and_then(|_| wal::mend(path))
        .map_err(|error| StoreError::Place { path: log.clone(), text: error.to_string() })?;
    report.repairs.push(format!(
        "{}: all its transactions count again; the damaged log is {}",
        log.display(),
        kept.display()
    ));
    Ok(())
}

/// The hash of a file that no broker uses.
///
/// # Errors
/// As [`fsck`].
pub fn hash_in(name: &Path) -> Result<HashAlg, StoreError> {
    let path = format::place(name)?;
    hash_of(&format::connect(&path, Durability::Synced)?, &path)
}

/// The hash that the file says, or that the length of its digests shows.
fn hash_of(connection: &Connection, path: &Path) -> Result<HashAlg, StoreError> {
    let named: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'hash'", [], |row| row.get(0))
        .unwrap_or_default();
    if let Some(hash) = named.and_then(|name| name.parse().ok()) {
        return Ok(hash);
    }
    let length: Option<i64> = connection
        .query_row("SELECT length(digest) FROM blobs LIMIT 1", [], |row| row.get(0))
        .optional()
        .map_err(|source| wrap(path, source))?;
    Ok(if length == Some(32) { HashAlg::Sha256 } else { HashAlg::Sha1 })
}

/// Checks pages and rows; whether all is well.
fn file(connection: &Connection, path: &Path, hash: HashAlg, report: &mut Report) -> bool {
    let before = report.problems.len();
    if let Err(error) = format::check_length(connection, path) {
        report.problem(error.to_string());
    }
    let lines = connection.prepare("PRAGMA integrity_check(20)").and_then(|mut check| {
        check.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()
    });
    match lines {
        Ok(lines) if lines == ["ok"] => {}
        Ok(lines) => lines.into_iter().for_each(|line| report.problem(line.replace('\n', " "))),
        Err(error) => report.problem(error.to_string()),
    }
    let mut bad = Vec::new();
    let mut blobs = 0;
    let done: Result<(), ()> = scan(connection, |found| {
        match found {
            Found::Row(row) => match row.packed.unpack(hash, &row.digest) {
                Ok(_) => blobs += 1,
                Err(text) => bad.push(format!("row {}: {text}", row.id)),
            },
            Found::Gap(after, text) => bad.push(format!("rows after {after}: {text}")),
        }
        Ok(())
    });
    debug_assert!(done.is_ok());
    report.blobs = blobs;
    bad.into_iter().for_each(|text| report.problem(text));
    for (_, result) in checkpoints(connection, hash) {
        if let Err(text) = result {
            report.problem(format!("checkpoint: {text}"));
        }
    }
    report.problems.len() == before
}

/// Checkpoints, newest first.
fn checkpoints(connection: &Connection, hash: HashAlg) -> Vec<(i64, Result<Checkpoint, String>)> {
    type Columns = (i64, String, Option<Vec<u8>>);
    let read = |query: &str| -> rusqlite::Result<Vec<Columns>> {
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        // Those before one that cannot be read.
        Ok(rows.map_while(Result::ok).collect())
    };
    let rows = read("SELECT id, value, digest FROM checkpoints ORDER BY id DESC")
        // The format before had no digests.
        .or_else(|_| read("SELECT id, value, NULL FROM checkpoints ORDER BY id DESC"));
    let rows = rows.unwrap_or_default().into_iter();
    rows.map(|(id, value, digest)| {
        let digest = digest.unwrap_or_else(|| hash.hash(value.as_bytes()).digest().to_vec());
        (id, read_checkpoint(hash, &value, &digest))
    })
    .collect()
}

/// Makes the file anew from what can be read; the old one is kept.
fn rewrite(
    old: Connection,
    path: &Path,
    hash: HashAlg,
    report: &mut Report,
) -> Result<(), StoreError> {
    let fresh = beside(path, ".repair");
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(beside(&fresh, suffix)).ok();
    }
    let sql = |source| wrap(&fresh, source);
    let new = format::connect(&fresh, Durability::Synced)?;
    format::prepare(&new, &fresh, hash)?;
    let change = new.unchecked_transaction().map_err(sql)?;
    let mut seen = BTreeSet::new();
    let mut kept = 0_u64;
    let mut renamed = 0_u64;
    scan(&old, |found| {
        let Found::Row(row) = found else { return Ok(()) };
        let (size, object) = (row.packed.0, row.packed.1.clone());
        let Ok(blob) = row.packed.open() else { return Ok(()) };
        // Where the digest is what was damaged, the content has its right name again.
        let name = hash.hash(&blob);
        if seen.insert(name) {
            kept += 1;
            renamed += u64::from(name.digest() != row.digest);
            change
                .prepare_cached(INSERT)
                .and_then(|mut insert| insert.execute(params![row.id, name.digest(), size, object]))
                .map_err(sql)?;
        }
        Ok::<(), StoreError>(())
    })?;
    let good = checkpoints(&old, hash).into_iter().rev();
    for (id, checkpoint) in good.filter_map(|(id, value)| value.ok().map(|value| (id, value))) {
        let value = serde_json::to_string(&checkpoint).unwrap_or_default();
        let digest = hash.hash(value.as_bytes());
        change
            .execute(
                "INSERT INTO checkpoints (id, value, digest) VALUES (?1, ?2, ?3)",
                params![id, value, digest.digest()],
            )
            .map_err(sql)?;
    }
    if let Ok(instance) =
        old.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| {
            row.get::<_, String>(0)
        })
    {
        change
            .execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?1)", [instance])
            .map_err(sql)?;
    }
    change.commit().map_err(sql)?;
    format::settle(&new, &fresh)?;
    drop(new);
    drop(old);
    let damaged = unused(path);
    fs::rename(path, &damaged)
        .and_then(|()| {
            fs::rename(beside(path, "-wal"), beside(&damaged, "-wal")).ok();
            fs::remove_file(beside(path, "-shm")).ok();
            fs::rename(&fresh, path)
        })
        .map_err(|error| StoreError::Place { path: path.to_path_buf(), text: error.to_string() })?;
    report.blobs = kept;
    report.repairs.push(format!(
        "{}: rewritten with the {kept} blobs that could be read ({renamed} under another name); \
         the damaged file is {}",
        path.display(),
        damaged.display()
    ));
    Ok(())
}

/// A name for the damaged file.
fn unused(path: &Path) -> PathBuf {
    (0..)
        .map(|n| beside(path, &format!(".damaged{n}")))
        .find(|name| !name.exists())
        .unwrap_or_else(|| beside(path, ".damaged"))
}

/// Checks what the newest checkpoint refers to.
fn roots(log: &mut BlobLog, repair: bool, report: &mut Report) -> Result<(), StoreError> {
    let all = match log.checkpoints() {
        Ok(all) => all,
        Err(StoreError::Missing { .. }) if log.is_empty() => return Ok(()),
        Err(StoreError::Missing { .. }) => {
            report.problem("there are blobs, but no checkpoint says which is the root");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let newest = all.first().map_or(0, |newest| newest.sequence);
    for checkpoint in &all {
        let Some((root, mut mender)) = whole_root(log, checkpoint, report)? else { continue };
        let mended = mender.root(root, newest + 1)?;
        let table = checkpoint.namespaces.as_ref().and_then(|name| name.parse().ok());
        let table = match table {
            Some(table) => mender.namespaces(table)?,
            None => None,
        };
        report.keys += mender.keys;
        let problems = std::mem::take(&mut mender.problems);
        let blobs = std::mem::take(&mut mender.blobs);
        let unharmed = problems.is_empty();
        report.problems.extend(problems);
        if checkpoint.sequence != newest {
            report.problem(format!(
                "version {} is the newest whole one: what was committed after it, up to version \
                 {newest}, is lost",
                checkpoint.sequence
            ));
        } else if unharmed {
            return Ok(());
        }
        if repair {
            let value = Checkpoint {
                version: 1,
                rootref: mended.to_string(),
                sequence: newest + 1,
                timestamp: checkpoint.timestamp,
                namespaces: table.map(|table| table.to_string()),
            };
            let mut writes: Vec<Write<'_>> = blobs.iter().map(|blob| Write::Blob(blob)).collect();
            writes.push(Write::Checkpoint(&value));
            log.write(&writes)?;
            report.repairs.push(format!("version {} has what is left", value.sequence));
        }
        return Ok(());
    }
    report.problem("no checkpoint has a root that can be read: restore a backup or a dump");
    Ok(())
}

/// The root of a checkpoint, if it can be read.
fn whole_root<'a>(
    log: &'a BlobLog,
    checkpoint: &Checkpoint,
    report: &mut Report,
) -> Result<Option<(Blobref, Mender<'a>)>, StoreError> {
    let Ok(root) = checkpoint.rootref.parse::<Blobref>() else {
        report.problem(format!("version {}: its root has no valid name", checkpoint.sequence));
        return Ok(None);
    };
    let mender = Mender::new(log);
    match mender.directory(&root)? {
        Ok(_) => Ok(Some((root, mender))),
        Err(text) => {
            report.problem(format!("version {}: root {root}: {text}", checkpoint.sequence));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
