//! `job-list`: which jobs there are (RFC 43).
//!
//! The service follows the events journal of `job-manager` and keeps what it says: active jobs as
//! their status by events, finished ones as small records. Listing walks an index in the order of
//! the answer and stops when it has enough; nothing scans all jobs for a few. Finished jobs go to
//! the archive too, and come back from it after a restart.
//!
//! Read first: [`ListService`], [`store::Store`], [`view::JobView`] (the one form in which a job is
//! matched and written, wherever it is kept). Must never: change a job, or show in private mode a
//! job to another user.

pub mod active;
pub mod archive;
pub mod attrs;
pub mod config;
pub mod counts;
pub mod finished;
mod follow;
pub mod intern;
mod listing;
pub mod query;
pub mod spec;
pub mod store;
pub mod view;
mod waiters;

use flux_api::body::{AnyObject, Empty};
use flux_api::job::list::{JobList, JobStats, List, ListAttrs, StatsGet};
use flux_api::{Answer, Call, Outbox, RpcError};
use flux_model::job_event::{JobState, StateMask};
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Reply, Service};
use serde_json::{Map, Value, json};

use crate::config::Settings;
use crate::follow::Follow;
use crate::store::Store;
use crate::waiters::Waiters;

/// Requests that may wait for the past of the journal.
const EARLY_MAX: usize = 4096;
/// Streams of `job-stats` at once.
const WATCHERS_MAX: usize = 4096;
/// Least time between two responses of such a stream, in microseconds.
pub const STATS_PERIOD_US: u64 = 200_000;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The journal.
    Journal,
    /// Time to open the journal again.
    Retry,
    /// Whether the KVS has a job that the journal has not told of.
    Exists(u64),
    /// Time to stop waiting for the journal to tell of a job that the KVS has.
    GiveUp(u64),
    /// Time to tell the numbers again.
    Stats,
    /// Time to put finished jobs into the archive.
    Put,
    /// Jobs were put.
    Archived,
    /// Jobs that were purged meanwhile go again.
    Unarchived,
    /// Finished jobs of the archive; the number of the attempt to read them all.
    Load(u64),
}

/// A request that came before the past was known.
#[derive(Debug)]
enum Early {
    List(Call<List>),
    Stats(Call<JobStats>),
}

/// The `job-list` service.
#[derive(Debug, Default)]
pub struct ListService {
    settings: Settings,
    store: Store,
    follow: Follow,
    archiver: archive::Archiver,
    early: Vec<Early>,
    waiters: Waiters,
    /// Jobs that the KVS is asked for.
    lookups: std::collections::BTreeSet<u64>,
    watchers: Vec<Answer<JobStats>>,
    /// Numbers have changed, and the timer to tell them is armed.
    stats_armed: bool,
    draining: bool,
    looked_at: u64,
}

fn overloaded(what: &str) -> RpcError {
    RpcError::new(Errno::EAGAIN, format!("job-list: too many {what}, try again later"))
}

fn unloading() -> RpcError {
    RpcError::new(Errno::ENOSYS, "job-list is unloading")
}

/// Sends a body that is JSON text already.
fn send_text(out: &mut impl Outbox, head: &Message, text: &str) {
    if !head.no_response() {
        out.send(Message::response_to(head).with_json_text(text));
    }
}

impl ListService {
    /// A service of an instance with the `archive` driver: finished jobs are kept there.
    #[must_use]
    pub fn with_archive() -> Self {
        Self { archiver: archive::Archiver::new(), ..Self::default() }
    }

    /// Whether every job is known.
    fn is_complete(&self) -> bool {
        self.follow.is_synced() && !self.archiver.is_loading()
    }

    /// All jobs.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Jobs that requests to list have looked at so far: what listing costs.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Whether this user may not see the jobs of others.
    fn is_confined(&self, cred: Cred) -> bool {
        self.settings.private_mode && !cred.rolemask.contains(Rolemask::OWNER)
    }

    /// Keeps a request until the past is known.
    fn hold(&mut self, cx: &mut Cx<'_, Wait>, early: Early) {
        if self.early.len() < EARLY_MAX {
            return self.early.push(early);
        }
        let error = overloaded("requests before the jobs are known");
        match early {
            Early::List(call) => call.answer.err(cx, error),
            Early::Stats(call) => call.answer.err(cx, error),
        }
    }

    /// The numbers that this user may see.
    fn numbers(&self, cred: Cred) -> AnyObject {
        let own = self.is_confined(cred).then_some(cred.userid);
        AnyObject(self.store.counts.body(own))
    }

    fn job_stats(&mut self, cx: &mut Cx<'_, Wait>, call: Call<JobStats>) {
        if !self.is_complete() {
            return self.hold(cx, Early::Stats(call));
        }
        let body = self.numbers(call.answer.cred());
        if !call.answer.is_streaming() {
            return call.answer.ok(cx, &body);
        }
        if self.watchers.len() >= WATCHERS_MAX {
            return call.answer.err(cx, overloaded("job-stats streams"));
        }
        call.answer.item(cx, &body);
        self.watchers.push(call.answer);
    }

    fn stats_get(&self, cx: &mut Cx<'_, Wait>, call: Call<StatsGet>) {
        if self.is_confined(call.answer.cred()) {
            return call.answer.err(cx, Errno::EPERM);
        }
        let mut body = Map::new();
        if let Some(Value::Object(stats)) = self.stats() {
            body = stats;
        }
        call.answer.ok(cx, &AnyObject(body));
    }

    /// A job changed: whoever waits for it looks again, the numbers are told soon.
    pub(crate) fn changed(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        self.wake(cx, id);
        if !self.watchers.is_empty() && !self.stats_armed {
            self.stats_armed = true;
            cx.timer(STATS_PERIOD_US, Wait::Stats);
        }
    }

    fn tell_stats(&mut self, cx: &mut Cx<'_, Wait>) {
        self.stats_armed = false;
        if self.watchers.is_empty() {
            return;
        }
        for watcher in &self.watchers {
            watcher.item(cx, &self.numbers(watcher.cred()));
        }
    }

    /// More is known: what waited for that goes on, or waits again.
    pub(crate) fn serve_early(&mut self, cx: &mut Cx<'_, Wait>) {
        for early in std::mem::take(&mut self.early) {
            match early {
                Early::List(call) => self.list(cx, call),
                Early::Stats(call) => self.job_stats(cx, call),
            }
        }
    }

    /// Every job is known.
    pub(crate) fn settled(&mut self, cx: &mut Cx<'_, Wait>) {
        self.follow.forget_purged();
        self.serve_early(cx);
        let unknown: Vec<u64> = self.waiters.jobs().filter(|id| !self.store.knows(*id)).collect();
        for id in unknown {
            self.ask_existence(cx, id);
        }
    }
}

impl Service for ListService {
    type Api = JobList;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.subscribe(follow::PURGE_EVENT);
        self.open(cx);
        cx.ready();
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: JobList) {
        match call {
            JobList::List(call) if self.draining => call.answer.err(cx, unloading()),
            JobList::ListId_(call) if self.draining => call.answer.err(cx, unloading()),
            JobList::JobStats(call) if self.draining => call.answer.err(cx, unloading()),
            JobList::List(call) => self.list(cx, call),
            JobList::ListId_(call) => self.list_id(cx, call),
            JobList::ListAttrs_(call) => call.answer.ok(cx, &ListAttrs { attrs: attrs::names() }),
            JobList::JobStats(call) => self.job_stats(cx, call),
            JobList::StatsGet(call) => self.stats_get(cx, call),
            JobList::Pause(call) => {
                self.follow.pause();
                call.answer.ok(cx, &Empty);
            }
            JobList::Unpause(call) => {
                self.unpause(cx);
                call.answer.ok(cx, &Empty);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Journal => self.journal(cx, &reply),
            Wait::Exists(id) => self.existence(cx, id, &reply),
            Wait::Archived => self.put_settled(cx, &reply),
            Wait::Load(load) => self.loaded(cx, load, &reply),
            // What stays there is purged again when its time comes.
            Wait::Unarchived => {}
            Wait::Retry | Wait::GiveUp(_) | Wait::Stats | Wait::Put => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Retry if !self.draining => self.open(cx),
            Wait::Stats => self.tell_stats(cx),
            Wait::Put if !self.draining => self.put_now(cx),
            Wait::GiveUp(id) => self.give_up(cx, id),
            _ => {}
        }
    }

    fn on_event(&mut self, cx: &mut Cx<'_, Wait>, event: &Message) {
        if event.topic() == follow::PURGE_EVENT && event.cred.rolemask.contains(Rolemask::OWNER) {
            self.purge_event(cx, event);
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        self.waiters.disconnect(message);
        self.watchers.retain_mut(|answer| {
            let gone = answer.same_sender(message);
            if gone {
                answer.disown();
            }
            !gone
        });
        for early in std::mem::take(&mut self.early) {
            match early {
                Early::List(call) if call.answer.same_sender(message) => call.answer.forget(),
                Early::Stats(call) if call.answer.same_sender(message) => call.answer.forget(),
                early => self.early.push(early),
            }
        }
    }

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.settings = Settings::parse(config)?;
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.draining = true;
        self.close(cx);
        for early in std::mem::take(&mut self.early) {
            match early {
                Early::List(call) => call.answer.err(cx, unloading()),
                Early::Stats(call) => call.answer.err(cx, unloading()),
            }
        }
        for waiter in self.waiters.take_all() {
            waiter.answer.err(cx, unloading());
        }
        for watcher in std::mem::take(&mut self.watchers) {
            watcher.end(cx);
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        let counts = &self.store.counts;
        Some(json!({
            "jobs": {
                "pending": counts.in_states(StateMask::PENDING),
                "running": counts.in_states(StateMask::RUNNING),
                "inactive": counts.in_states(JobState::Inactive.into()),
            },
            "idsync": { "lookups": self.lookups.len(), "waits": self.waiters.len() },
            "stats_watchers": self.watchers.len(),
            "unarchived": self.archiver.waiting(),
        }))
    }
}

#[cfg(test)]
mod tests;
