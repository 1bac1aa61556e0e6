//! The file of finished jobs: one row each, plain SQL that anybody may read.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flux_api::archive::{
    ArchiveBeyond, ArchiveCursor, ArchiveInfo, ArchiveLimits, ArchivedJob, CHUNK_MAX,
};
use rusqlite::{Connection, Row, ToSql, params};

use crate::error::{StoreError, wrap};

/// Name of the file in the state directory.
pub const FILE: &str = "job-archive.sqlite";

/// Version of the file's layout, in `PRAGMA user_version`.
pub const FORMAT: i64 = 1;

/// Every column, in the order in which rows are written and read.
const COLUMNS: &str = "id, userid, urgency, priority, t_submit, t_depend, t_priority, t_sched, \
    t_run, t_cleanup, t_inactive, result, status, started, fatal, name, cwd, queue, project, bank, \
    ntasks, ncores, nnodes, duration, expiration, ranks, nodelist, exception_type, \
    exception_severity, exception_note, annotations, dependencies";

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS jobs (
        id INTEGER PRIMARY KEY,
        userid INTEGER NOT NULL,
        urgency INTEGER NOT NULL,
        priority INTEGER,
        t_submit REAL NOT NULL,
        t_depend REAL,
        t_priority REAL,
        t_sched REAL,
        t_run REAL,
        t_cleanup REAL,
        t_inactive REAL NOT NULL,
        result INTEGER NOT NULL,
        status INTEGER,
        started INTEGER NOT NULL,
        fatal INTEGER NOT NULL,
        name TEXT,
        cwd TEXT,
        queue TEXT,
        project TEXT,
        bank TEXT,
        ntasks INTEGER,
        ncores INTEGER,
        nnodes INTEGER,
        duration REAL,
        expiration REAL,
        ranks TEXT,
        nodelist TEXT,
        exception_type TEXT,
        exception_severity INTEGER,
        exception_note TEXT,
        annotations TEXT,
        dependencies TEXT
    );
    CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (t_inactive);
    CREATE INDEX IF NOT EXISTS jobs_by_user ON jobs (userid);
    CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value);
";

/// Jobs that were forgotten and may still be on their way here; older ones are not.
const REMOVED_MAX: usize = 1 << 16;

/// The jobs that were forgotten last.
#[derive(Debug, Default)]
struct Removed {
    ids: BTreeSet<u64>,
    order: VecDeque<u64>,
}

impl Removed {
    fn add(&mut self, ids: &[u64]) {
        self.order.extend(ids.iter().filter(|id| self.ids.insert(**id)));
        while self.order.len() > REMOVED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

/// Finished jobs in one SQLite file.
///
/// Job ids are kept as SQLite's signed integers; those of the first 17 years of an instance order
/// alike.
#[derive(Debug)]
pub struct JobArchive {
    path: PathBuf,
    connection: Connection,
    count: u64,
    removed: Removed,
}

fn signed(id: u64) -> i64 {
    id.cast_signed()
}

fn unsigned(id: i64) -> u64 {
    id.cast_unsigned()
}

fn limit(max: u64) -> i64 {
    i64::try_from(max.min(CHUNK_MAX)).unwrap_or(i64::MAX)
}

fn record(row: &Row<'_>) -> rusqlite::Result<ArchivedJob> {
    let number = |at: usize| -> rusqlite::Result<Option<u64>> {
        Ok(row.get::<_, Option<i64>>(at)?.and_then(|number| u64::try_from(number).ok()))
    };
    Ok(ArchivedJob {
        id: unsigned(row.get(0)?),
        userid: row.get(1)?,
        urgency: row.get(2)?,
        priority: row.get(3)?,
        t_submit: row.get(4)?,
        t_depend: row.get(5)?,
        t_priority: row.get(6)?,
        t_sched: row.get(7)?,
        t_run: row.get(8)?,
        t_cleanup: row.get(9)?,
        t_inactive: row.get(10)?,
        result: row.get(11)?,
        waitstatus: row.get(12)?,
        started: row.get(13)?,
        fatal: row.get(14)?,
        name: row.get(15)?,
        cwd: row.get(16)?,
        queue: row.get(17)?,
        project: row.get(18)?,
        bank: row.get(19)?,
        ntasks: number(20)?,
        ncores: number(21)?,
        nnodes: number(22)?,
        duration: row.get(23)?,
        expiration: row.get(24)?,
        ranks: row.get(25)?,
        nodelist: row.get(26)?,
        exception_type: row.get(27)?,
        exception_severity: row.get(28)?,
        exception_note: row.get(29)?,
        annotations: row.get(30)?,
        dependencies: row.get(31)?,
    })
}

/// How long the archive waits for others who have its file open, unless configured.
pub const BUSY: Duration = Duration::from_secs(50);

impl JobArchive {
    /// Opens or makes the file in a state directory. One that is damaged is put aside (`.damaged`)
    /// and a new one begun, since the key-value store has every job too; the text says so.
    ///
    /// # Errors
    /// When it can't be opened or is of a later format.
    pub fn open(statedir: &Path) -> Result<(Self, Option<String>), StoreError> {
        Self::open_file(&statedir.join(FILE), BUSY)
    }

    /// The same with this file, and so much patience with others who have it open.
    ///
    /// # Errors
    /// As there.
    pub fn open_file(path: &Path, busy: Duration) -> Result<(Self, Option<String>), StoreError> {
        let path = path.to_path_buf();
        match Self::try_open(&path, busy) {
            Err(StoreError::Damaged { text, .. }) => {
                let aside = path.with_extension("sqlite.damaged");
                let failed = |error: std::io::Error| StoreError::Damaged {
                    path: path.clone(),
                    text: format!("{text}; and it cannot be put aside: {error}"),
                };
                std::fs::rename(&path, &aside).map_err(failed)?;
                for suffix in ["-wal", "-shm"] {
                    let mut name = path.clone().into_os_string();
                    name.push(suffix);
                    // What is not there need not go.
                    std::fs::remove_file(name).ok();
                }
                let note = format!(
                    "{}: damaged: {text}: put aside as {}, and made anew from the key-value store",
                    path.display(),
                    aside.display()
                );
                Ok((Self::try_open(&path, busy)?, Some(note)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn try_open(path: &Path, busy: Duration) -> Result<Self, StoreError> {
        let sql = |source| wrap(path, source);
        let connection = Connection::open(path).map_err(sql)?;
        connection.busy_timeout(busy).map_err(sql)?;
        connection
            .execute_batch(
                "PRAGMA auto_vacuum = INCREMENTAL;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA cache_size = -2000;",
            )
            .map_err(sql)?;
        let found: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
        if found > FORMAT {
            return Err(StoreError::Newer { path: path.to_path_buf(), found });
        }
        connection
            .execute_batch(&format!("{TABLES} PRAGMA user_version = {FORMAT};"))
            .map_err(sql)?;
        let count: i64 =
            connection.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).map_err(sql)?;
        Ok(Self {
            path: path.to_path_buf(),
            connection,
            count: unsigned(count),
            removed: Removed::default(),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sql(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |source| wrap(&path, source)
    }

    /// Runs `change` in one transaction, which is on stable storage in the end.
    fn transaction(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<i64>,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        let transaction = self.connection.transaction().map_err(&sql)?;
        let added = change(&transaction).map_err(&sql)?;
        transaction.commit().map_err(&sql)?;
        self.count = self.count.saturating_add_signed(added);
        Ok(())
    }

    /// Stores jobs; those of the same id are replaced. A job that was forgotten is purged, and its
    /// id is never given again: it stays away, though it was on its way here meanwhile.
    ///
    /// # Errors
    /// When the disk is full or fails; none of them is then stored.
    pub fn put(&mut self, jobs: &[ArchivedJob]) -> Result<(), StoreError> {
        let removed = std::mem::take(&mut self.removed);
        let result = self.put_but(jobs, &removed.ids);
        self.removed = removed;
        result
    }

    fn put_but(&mut self, jobs: &[ArchivedJob], purged: &BTreeSet<u64>) -> Result<(), StoreError> {
        self.transaction(|connection| {
            let mut known = connection.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?;
            let places: Vec<String> = (1..=32).map(|at| format!("?{at}")).collect();
            let text =
                format!("INSERT OR REPLACE INTO jobs ({COLUMNS}) VALUES ({})", places.join(","));
            let mut insert = connection.prepare_cached(&text)?;
            let mut added = 0;
            for job in jobs.iter().filter(|job| !purged.contains(&job.id)) {
                added += i64::from(!known.exists([signed(job.id)])?);
                let id = signed(job.id);
                let number = |number: Option<u64>| number.and_then(|n| i64::try_from(n).ok());
                let (ntasks, ncores) = (number(job.ntasks), number(job.ncores));
                let nnodes = number(job.nnodes);
                let values: [&dyn ToSql; 32] = [
                    &id,
                    &job.userid,
                    &job.urgency,
                    &job.priority,
                    &job.t_submit,
                    &job.t_depend,
                    &job.t_priority,
                    &job.t_sched,
                    &job.t_run,
                    &job.t_cleanup,
                    &job.t_inactive,
                    &job.result,
                    &job.waitstatus,
                    &job.started,
                    &job.fatal,
                    &job.name,
                    &job.cwd,
                    &job.queue,
                    &job.project,
                    &job.bank,
                    &ntasks,
                    &ncores,
                    &nnodes,
                    &job.duration,
                    &job.expiration,
                    &job.ranks,
                    &job.nodelist,
                    &job.exception_type,
                    &job.exception_severity,
                    &job.exception_note,
                    &job.annotations,
                    &job.dependencies,
                ];
                insert.execute(&values[..])?;
            }
            Ok(added)
        })
    }

    /// Forgets jobs.
    ///
    /// # Errors
    /// When the disk is full or fails; none of them is then forgotten.
    pub fn remove(&mut self, ids: &[u64]) -> Result<(), StoreError> {
        self.transaction(|connection| {
            let mut delete = connection.prepare_cached("DELETE FROM jobs WHERE id = ?1")?;
            let mut gone = 0;
            for id in ids {
                gone += i64::try_from(delete.execute([signed(*id)])?).unwrap_or(0);
            }
            Ok(-gone)
        })?;
        self.removed.add(ids);
        // Free pages go back a few at a time, so that no request waits long.
        self.connection.execute_batch("PRAGMA incremental_vacuum(64)").map_err(self.sql())
    }

    /// Remembers that every finished job is here.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn set_complete(&mut self) -> Result<(), StoreError> {
        self.transaction(|connection| {
            connection.execute("INSERT OR REPLACE INTO about VALUES ('complete', 1)", [])?;
            Ok(0)
        })
    }

    fn jobs(&self, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<ArchivedJob>, StoreError> {
        let sql = self.sql();
        let text = format!("SELECT {COLUMNS} FROM jobs {condition}");
        let mut statement = self.connection.prepare_cached(&text).map_err(&sql)?;
        statement
            .query_map(values, record)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(&sql)
    }

    fn ids(&self, text: &str, values: &[&dyn ToSql]) -> Result<Vec<u64>, StoreError> {
        let sql = self.sql();
        let mut statement = self.connection.prepare_cached(text).map_err(&sql)?;
        statement
            .query_map(values, |row| Ok(unsigned(row.get(0)?)))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(&sql)
    }

    /// Jobs, those that ended last first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn list(
        &self,
        after: Option<&ArchiveCursor>,
        max: u64,
    ) -> Result<Vec<ArchivedJob>, StoreError> {
        const ORDER: &str = "ORDER BY t_inactive DESC, id DESC";
        let max = limit(max);
        let Some(after) = after else {
            return self.jobs(&format!("{ORDER} LIMIT ?1"), params![max]);
        };
        let condition = format!("WHERE (t_inactive, id) < (?1, ?2) {ORDER} LIMIT ?3");
        self.jobs(&condition, params![after.t_inactive, signed(after.id), max])
    }

    /// Those of the jobs that are here.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn get(&self, ids: &[u64]) -> Result<Vec<ArchivedJob>, StoreError> {
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.jobs("WHERE id = ?1", params![signed(*id)])?);
        }
        Ok(found)
    }

    /// Ids in rising order.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn ids_above(&self, above: u64, max: u64) -> Result<Vec<u64>, StoreError> {
        let text = "SELECT id FROM jobs WHERE id > ?1 ORDER BY id LIMIT ?2";
        self.ids(text, params![signed(above), limit(max)])
    }

    /// Ids of a user's jobs, the highest first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn of_user(&self, userid: u32, max: u64) -> Result<Vec<u64>, StoreError> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let text = "SELECT id FROM jobs WHERE userid = ?1 ORDER BY id DESC LIMIT ?2";
        self.ids(text, params![userid, max])
    }

    /// Jobs beyond limits, those that ended first first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn beyond(&self, limits: &ArchiveLimits) -> Result<ArchiveBeyond, StoreError> {
        let except: Vec<String> = limits.except.iter().map(|id| signed(*id).to_string()).collect();
        let except = format!("[{}]", except.join(","));
        let count_of = |text: &str, values: &[&dyn ToSql]| -> Result<u64, StoreError> {
            let count: i64 = self
                .connection
                .prepare_cached(text)
                .and_then(|mut statement| statement.query_row(values, |row| row.get(0)))
                .map_err(self.sql())?;
            Ok(unsigned(count))
        };
        // Those of one user through the index of users, else all.
        let mut here = match limits.userid {
            None => self.count,
            Some(user) => count_of("SELECT count(*) FROM jobs WHERE userid = ?1", params![user])?,
        };
        let user = limits.userid.map_or_else(String::new, |user| format!("userid = {user} AND "));
        if !limits.except.is_empty() {
            let text = format!(
                "SELECT count(*) FROM jobs WHERE {user}id IN (SELECT value FROM json_each(?1))"
            );
            here = here.saturating_sub(count_of(&text, params![except])?);
        }
        let by_number = limits.keep.map_or(0, |keep| here.saturating_sub(keep));
        let by_age = match limits.ended_before {
            None => 0,
            Some(time) => {
                let text = format!(
                    "SELECT count(*) FROM jobs WHERE {user}t_inactive <= ?1 \
                     AND id NOT IN (SELECT value FROM json_each(?2))"
                );
                count_of(&text, params![time, except])?
            }
        };
        let unlimited = limits.keep.is_none() && limits.ended_before.is_none();
        let count = if unlimited { here } else { by_number.max(by_age) };
        let text = format!(
            "SELECT id FROM jobs WHERE {user}id NOT IN (SELECT value FROM json_each(?2)) \
             ORDER BY t_inactive, id LIMIT ?1"
        );
        let wanted = count.min(limits.max);
        let ids =
            if wanted == 0 { Vec::new() } else { self.ids(&text, params![limit(wanted), except])? };
        Ok(ArchiveBeyond { count, ids })
    }

    /// What is here.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn info(&self) -> Result<ArchiveInfo, StoreError> {
        let number = |text: &str| -> Result<i64, StoreError> {
            self.connection.query_row(text, [], |row| row.get(0)).map_err(self.sql())
        };
        let pages = number("PRAGMA page_count")? * number("PRAGMA page_size")?;
        Ok(ArchiveInfo {
            count: self.count,
            max_id: unsigned(number("SELECT coalesce(max(id), 0) FROM jobs")?),
            complete: number("SELECT count(*) FROM about WHERE key = 'complete'")? > 0,
            bytes: unsigned(pages),
        })
    }
}

#[cfg(test)]
mod tests;
