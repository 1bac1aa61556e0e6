//! A pass of the collection, in small steps on the store's thread, between requests.
//!
//! Directories are read by the store's thread and looked through by a thread of their own
//! ([`walk`]), so that a large one holds up nobody. Then rows that died are deleted, in the order
//! of the file. Where many of a run of rows are dead, those that live move to the end of the
//! file, so that whole pages become free; those go back to the file system at last.
//!
//! Every step is a transaction that leaves the same blobs in reach as before: a crash between
//! steps leaves garbage at most.

use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread;
use std::time::Instant;

use flux_api::content::Collected;
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::References;
use rusqlite::{Connection, params};

use crate::error::{StoreError, wrap};
use crate::format;
use crate::log::{BlobLog, cost};
use crate::pack::Packed;

/// Directories and pieces of values in one question of the walk.
const DIRS: usize = 32;
const DATA: usize = 1_024;

/// Rows looked at in a step, and bytes that are moved in it.
const ROWS: usize = 128;
const MOVED: usize = 256 << 10;

/// Part of a run of rows that may be dead without the rest being moved: one in so many.
const HOLES: u64 = 8;

/// Part of the pages that may stay free after a pass that did not look at everything: one in so
/// many.
const SLACK: i64 = 32;

/// Pages given back in a step.
const PAGES: u32 = 64;

/// What a step has come to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is more to do.
    More,
    /// The walk thinks.
    Wait,
    /// The pass is over.
    Done(Collected),
}

/// A question of the walk.
#[derive(Debug)]
struct Ask {
    dirs: Vec<Blobref>,
    data: Vec<Blobref>,
    read: Vec<(Blobref, Packed)>,
    reply: SyncSender<Vec<(Blobref, Packed)>>,
}

#[derive(Debug)]
enum Phase {
    Mark(Receiver<Ask>, Receiver<Result<(), String>>, Option<Ask>),
    /// The last row looked at, and the last one there was when the walk ended.
    Sweep(i64, i64),
    Shrink,
}

/// A pass that is going on.
#[derive(Debug)]
pub(crate) struct Collection {
    phase: Phase,
    done: Collected,
    /// Pages were given back.
    shrunk: bool,
}

impl Collection {
    /// Begins a pass from the newest checkpoint and these further roots; a `thorough` one looks
    /// into what is old, too (see [`marks`](crate::marks)). Without a checkpoint nothing is known
    /// to be dead, and the pass ends at once.
    pub(crate) fn begin(
        log: &mut BlobLog,
        pins: &[Blobref],
        thorough: bool,
    ) -> Result<Self, StoreError> {
        let checkpoint = match log.checkpoints() {
            Ok(checkpoints) => checkpoints.into_iter().next(),
            Err(StoreError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        let before = bytes(log)?;
        let done = Collected { before, ..Collected::default() };
        let Some(checkpoint) = checkpoint else {
            return Ok(Self { phase: Phase::Shrink, done, shrunk: true });
        };
        let named = std::iter::once(&checkpoint.rootref).chain(&checkpoint.namespaces);
        let roots: Result<Vec<Blobref>, _> = named.map(|text| text.parse()).collect();
        let mut roots = roots.map_err(|error| log.damaged(format!("checkpoint: {error}")))?;
        roots.extend(pins);
        let lowest: i64 = log
            .connection
            .query_row("SELECT COALESCE(MIN(id), 1) FROM blobs", [], |row| row.get(0))
            .map_err(|source| wrap(&log.path, source))?;
        let highest = log.high_water();
        log.marks.begin(lowest, highest, thorough, Instant::now());
        log.account.begin();
        let (asks, asked) = channel();
        let (say, said) = channel();
        let hash = log.hash();
        let walker = thread::Builder::new().name("store-walk".to_string());
        let spawned = walker.spawn(move || {
            // Nobody listens when the store is closed.
            drop(say.send(walk(roots, hash, &asks)));
        });
        spawned.map_err(|error| log.damaged(format!("no thread for a collection: {error}")))?;
        Ok(Self { phase: Phase::Mark(asked, said, None), done, shrunk: false })
    }

    /// Does a little, until `deadline` at most.
    ///
    /// # Errors
    /// When a directory is missing or damaged (then nothing was deleted), or the disk fails.
    pub(crate) fn step(
        &mut self,
        log: &mut BlobLog,
        deadline: Instant,
    ) -> Result<Step, StoreError> {
        if !log.marks.running() && !matches!(self.phase, Phase::Shrink) {
            // The disk failed meanwhile, and the file was opened anew.
            return Err(log.damaged("the collection was given up".to_string()));
        }
        match &mut self.phase {
            Phase::Mark(asked, said, open) => {
                if open.is_none() {
                    *open = match asked.try_recv() {
                        Ok(ask) => Some(ask),
                        Err(TryRecvError::Empty) => return Ok(Step::Wait),
                        Err(TryRecvError::Disconnected) => None,
                    };
                }
                let Some(mut ask) = open.take() else {
                    let ended = said.recv().unwrap_or_else(|_| Err("the walk broke off".into()));
                    ended.map_err(|text| log.damaged(format!("collection: {text}")))?;
                    log.marks.marked();
                    let from = log.marks.settled_rows();
                    self.phase = Phase::Sweep(from.unwrap_or(i64::MIN), log.high_water());
                    return Ok(Step::More);
                };
                if answer(log, &mut ask, deadline)? {
                    // The walk ends when nobody listens.
                    drop(ask.reply.send(ask.read));
                } else {
                    *open = Some(ask);
                }
                Ok(Step::More)
            }
            Phase::Sweep(at, end) => {
                match sweep(log, &mut self.done, *at, *end)? {
                    Some(last) => *at = last,
                    None => {
                        if log.marks.settled_rows().is_none() {
                            log.account.live = self.done.live_bytes;
                        }
                        self.phase = Phase::Shrink;
                    }
                }
                Ok(Step::More)
            }
            Phase::Shrink => {
                let number = |what| format::number(&log.connection, &log.path, what);
                let free = number("freelist_count")?;
                // A few free pages are of use soon.
                let few = number("page_count")? / SLACK;
                if free > 0 && (free > few || log.marks.settled_rows().is_none()) {
                    log.change(shrink)?;
                    self.shrunk = true;
                    let left = format::number(&log.connection, &log.path, "freelist_count")?;
                    if left < free {
                        return Ok(Step::More);
                    }
                }
                if self.shrunk {
                    log.settle()?;
                }
                log.marks.end();
                self.done.after = bytes(log)?;
                Ok(Step::Done(self.done.clone()))
            }
        }
    }
}

fn bytes(log: &BlobLog) -> Result<u64, StoreError> {
    log.size().map(|(bytes, _)| u64::try_from(bytes).unwrap_or(0))
}

/// Gives back a few free pages at the end of the file.
fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    // Each row is a page.
    while rows.next()?.is_some() {}
    Ok(())
}

/// Marks what is asked for and reads directories that were not yet walked; false when the time
/// is over before that.
fn answer(log: &mut BlobLog, ask: &mut Ask, deadline: Instant) -> Result<bool, StoreError> {
    while let Some(blobref) = ask.data.pop() {
        let row = find(log, &blobref)?;
        log.marks.walk(row);
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
    while let Some(blobref) = ask.dirs.pop() {
        let row = find(log, &blobref)?;
        if log.marks.walk(row) {
            ask.read.push((blobref, log.packed(row)?));
        }
        if Instant::now() >= deadline {
            return Ok(ask.dirs.is_empty());
        }
    }
    Ok(true)
}

fn find(log: &BlobLog, blobref: &Blobref) -> Result<i64, StoreError> {
    log.row_of(blobref.digest())?
        .ok_or_else(|| log.damaged(format!("blob {blobref} is missing: nothing was collected")))
}

/// Follows every reference from the roots, asking the store's thread for what is not known.
fn walk(roots: Vec<Blobref>, hash: HashAlg, asks: &Sender<Ask>) -> Result<(), String> {
    let mut dirs = roots;
    let mut data: Vec<Blobref> = Vec::new();
    while !(dirs.is_empty() && data.is_empty()) {
        let pieces = data.split_off(data.len().saturating_sub(DATA));
        // What can be marked without being read goes first, so that less has to be kept.
        let some = if data.is_empty() { DIRS } else { 0 };
        let some = dirs.split_off(dirs.len().saturating_sub(some));
        let (reply, replied) = sync_channel(1);
        let ask = Ask { dirs: some, data: pieces, read: Vec::new(), reply };
        asks.send(ask).map_err(|_| "the store was closed".to_string())?;
        let read = replied.recv().map_err(|_| "the store was closed".to_string())?;
        for (blobref, packed) in read {
            let blob = packed.unpack(hash, blobref.digest());
            let found =
                blob.and_then(|blob| References::of(&blob).map_err(|error| error.to_string()));
            let found = found.map_err(|text| format!("blob {blobref}: {text}"))?;
            dirs.extend(found.dirs);
            data.extend(found.data);
        }
    }
    Ok(())
}

struct Row {
    id: i64,
    digest: Vec<u8>,
    length: usize,
}

/// Looks at the next rows after `at`, deletes dead ones; the last row looked at, or none at the
/// end.
fn sweep(
    log: &mut BlobLog,
    done: &mut Collected,
    at: i64,
    end: i64,
) -> Result<Option<i64>, StoreError> {
    let rows = next_rows(log, at, end)?;
    let Some(last) = rows.last().map(|row| row.id) else { return Ok(None) };
    let weight =
        |rows: &[&Row]| -> u64 { rows.iter().map(|row| cost(row.length, row.digest.len())).sum() };
    let (live, dead): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| log.marks.alive(row.id));
    let (live_bytes, dead_bytes) = (weight(&live), weight(&dead));
    let reached: Vec<&Row> = live.iter().copied().filter(|row| log.marks.reached(row.id)).collect();
    done.live += reached.len() as u64;
    done.live_bytes += weight(&reached);
    done.deleted += dead.len() as u64;
    if dead.is_empty() {
        return Ok(Some(last));
    }
    if dead_bytes * HOLES < live_bytes {
        log.change(|connection| {
            let mut delete = connection.prepare_cached("DELETE FROM blobs WHERE id = ?1")?;
            dead.iter().try_for_each(|row| delete.execute([row.id]).map(drop))
        })?;
    } else {
        let moves: Vec<(i64, i64)> = live.iter().map(|row| (row.id, log.take_row())).collect();
        log.change(|connection| {
            let mut copy = connection.prepare_cached(
                "INSERT INTO blobs (id, digest, epoch, size, object)
                 SELECT ?2, digest, 0, size, object FROM blobs WHERE id = ?1",
            )?;
            moves.iter().try_for_each(|(from, to)| copy.execute(params![from, to]).map(drop))?;
            connection
                .prepare_cached("DELETE FROM blobs WHERE id > ?1 AND id <= ?2")?
                .execute([at, last])
        })?;
        for (row, (from, to)) in live.iter().zip(&moves) {
            log.index.remove(&row.digest, *from);
            log.index.insert(&row.digest, *to);
            log.marks.moved(*from, *to);
        }
    }
    for row in dead {
        log.index.remove(&row.digest, row.id);
    }
    log.account.total = log.account.total.saturating_sub(dead_bytes);
    Ok(Some(last))
}

fn next_rows(log: &BlobLog, at: i64, end: i64) -> Result<Vec<Row>, StoreError> {
    let read = || -> rusqlite::Result<Vec<Row>> {
        let mut statement = log.connection.prepare_cached(
            "SELECT id, digest, length(object) FROM blobs
             WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )?;
        let mut found = statement.query(params![at, end, ROWS as i64])?;
        let mut rows = Vec::new();
        let mut sum = 0;
        while let Some(row) = found.next()? {
            let length = usize::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
            rows.push(Row { id: row.get(0)?, digest: row.get(1)?, length });
            sum += length;
            if sum > MOVED {
                break;
            }
        }
        Ok(rows)
    };
    read().map_err(|source| wrap(&log.path, source))
}
