//! Following the journal of `job-manager`: the past, the sentinel, then each event as it comes;
//! again from the past when the stream ends.

use std::collections::{BTreeSet, VecDeque};

use flux_api::RpcError;
use flux_api::job::manager::{Journal, JournalCancel, JournalRequest, JournalResponse};
use flux_api::kvs::CancelRequest;
use flux_id::JobId;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Tag, To};
use serde_json::Value;

use crate::store::Change;
use crate::{ListService, Wait};

/// Event that names purged jobs.
pub(crate) const PURGE_EVENT: &str = "job-purge-inactive";
/// First time to wait before the journal is opened again, in microseconds; doubles up to the last.
const RETRY_FIRST_US: u64 = 20_000;
const RETRY_LAST_US: u64 = 1_000_000;
/// What is kept while paused; beyond that the journal is read anew.
const HELD_MAX: usize = 65_536;

/// Something that changes jobs.
#[derive(Debug)]
enum Input {
    Journal(JournalResponse),
    Purge(Vec<u64>),
}

/// How far the journal is followed.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    tag: Option<Tag>,
    synced: bool,
    paused: bool,
    held: VecDeque<Input>,
    /// More came while paused than is kept.
    lost: bool,
    /// Jobs purged while the past is read: it may name them still.
    purged: BTreeSet<u64>,
    retry_us: u64,
}

impl Follow {
    /// Whether a job was purged while the past is read.
    pub(crate) fn was_purged(&self, id: u64) -> bool {
        self.purged.contains(&id)
    }

    /// The whole past is known.
    pub(crate) fn forget_purged(&mut self) {
        self.purged.clear();
    }

    /// Whether the past is known, as far as the journal tells it.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }
}

impl ListService {
    /// Opens the journal and begins anew.
    pub(crate) fn open(&mut self, cx: &mut Cx<'_, Wait>) {
        self.close(cx);
        self.store.reset();
        let paused = self.follow.paused;
        let retry_us = self.follow.retry_us;
        self.follow = Follow { paused, retry_us, ..Follow::default() };
        self.archiver.reset();
        let unarchived = self.archiver.is_kept();
        let request = JournalRequest { allow: None, deny: None, full: true, unarchived };
        let tag = cx.call::<Journal>(To::Rank(cx.rank()), &request, Wait::Journal);
        self.follow.tag = Some(tag);
    }

    /// Ends the stream.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_, Wait>) {
        if let Some(tag) = self.follow.tag.take() {
            cx.forget(tag);
            cx.notify::<JournalCancel>(To::Rank(cx.rank()), &CancelRequest { matchtag: tag });
        }
        self.follow.synced = false;
    }

    /// A response of the journal.
    pub(crate) fn journal(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<Journal>() {
            Ok(response) => self.input(cx, Input::Journal(response)),
            Err(error) if reply.last => {
                self.follow.tag = None;
                self.follow.synced = false;
                self.retry(cx, &error);
            }
            Err(error) => {
                cx.log(Level::Err, format!("journal: {error}"));
                self.close(cx);
                self.retry(cx, &error);
            }
        }
    }

    fn retry(&mut self, cx: &mut Cx<'_, Wait>, error: &RpcError) {
        if self.draining {
            return;
        }
        // The manager may come up later, or go down first; anything else is worth a line.
        if !matches!(error.errno, Errno::ENODATA | Errno::ENOSYS) {
            cx.log(Level::Warning, format!("journal ended: {error}; it will be read again"));
        }
        let after = self.follow.retry_us.clamp(RETRY_FIRST_US, RETRY_LAST_US);
        self.follow.retry_us = after * 2;
        cx.timer(after, Wait::Retry);
    }

    fn input(&mut self, cx: &mut Cx<'_, Wait>, input: Input) {
        if !self.follow.paused {
            return self.process(cx, input);
        }
        if self.follow.held.len() < HELD_MAX {
            self.follow.held.push_back(input);
        } else if !self.follow.lost {
            self.follow.lost = true;
            self.follow.held.clear();
            let synced = self.follow.synced;
            self.close(cx);
            // What is known can still be listed until the pause is over.
            self.follow.synced = synced;
        }
    }

    /// Follows the journal again after a pause.
    pub(crate) fn unpause(&mut self, cx: &mut Cx<'_, Wait>) {
        self.follow.paused = false;
        if self.follow.lost {
            return self.open(cx);
        }
        while let Some(input) = self.follow.held.pop_front() {
            self.process(cx, input);
        }
        if self.follow.synced && !self.archiver.is_loading() {
            self.settled(cx);
        }
    }

    fn process(&mut self, cx: &mut Cx<'_, Wait>, input: Input) {
        match input {
            Input::Journal(response) if response.id < 0 => {
                self.follow.retry_us = 0;
                self.follow.synced = true;
                if self.archiver.is_loading() {
                    // Active jobs can be listed now, the others soon.
                    self.serve_early(cx);
                    self.load(cx, None);
                } else {
                    self.settled(cx);
                }
            }
            Input::Journal(response) => self.take(cx, response),
            Input::Purge(ids) => self.purge(cx, ids),
        }
    }

    fn take(&mut self, cx: &mut Cx<'_, Wait>, response: JournalResponse) {
        let id = response.id.cast_unsigned();
        if self.follow.purged.contains(&id) {
            return;
        }
        match self.store.take(response) {
            Ok(Change::Job(id)) => self.changed(cx, id),
            Ok(Change::Ended(id)) => {
                self.ended(cx, id);
                self.changed(cx, id);
            }
            Ok(Change::Gone(id)) => {
                self.absent(cx, id, &Errno::ENOENT.into());
                self.changed(cx, id);
            }
            Err(fault) => {
                cx.log(Level::Err, format!("{}: {fault}", JobId(id).f58()));
                self.changed(cx, id);
            }
        }
    }

    /// Jobs were purged.
    pub(crate) fn purge_event(&mut self, cx: &mut Cx<'_, Wait>, event: &Message) {
        let body: Result<Value, _> = event.json();
        let jobs = body.ok().and_then(|mut body| body.get_mut("jobs").map(Value::take));
        let Some(Value::Array(jobs)) = jobs else {
            return cx.log(Level::Err, format!("{PURGE_EVENT}: event without jobs"));
        };
        let ids: Vec<u64> = jobs.iter().filter_map(Value::as_u64).collect();
        self.input(cx, Input::Purge(ids));
    }

    fn purge(&mut self, cx: &mut Cx<'_, Wait>, ids: Vec<u64>) {
        for id in ids {
            if !self.follow.synced || self.archiver.is_loading() {
                self.follow.purged.insert(id);
            }
            self.archiver.purged(id);
            self.store.purge(id);
            self.absent(cx, id, &Errno::ENOENT.into());
            self.changed(cx, id);
        }
    }
}
