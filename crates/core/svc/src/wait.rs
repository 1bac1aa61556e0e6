//! What a service waits for: responses by tag, and timers, each with a printable value.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Matchtag of a request of this service.
pub type Tag = u32;

/// Names an armed timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Pending<W> {
    pub(crate) wait: W,
    pub(crate) streaming: bool,
    pub(crate) topic: std::sync::Arc<str>,
    pub(crate) deadline: Option<TimerId>,
    pub(crate) since: u64,
}

/// Outstanding requests of a service.
#[derive(Debug)]
pub(crate) struct Waits<W> {
    pub(crate) pending: BTreeMap<Tag, Pending<W>>,
    next: Tag,
}

impl<W> Waits<W> {
    pub(crate) fn new() -> Self {
        Self { pending: BTreeMap::new(), next: 1 }
    }

    /// A tag that is free; tags rise and wrap, so that a late response to a forgotten request
    /// does not meet a new one.
    pub(crate) fn insert(&mut self, pending: Pending<W>) -> Tag {
        loop {
            let tag = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1);
            if let Entry::Vacant(free) = self.pending.entry(tag) {
                free.insert(pending);
                return tag;
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Alarm<W> {
    /// A timer of the service.
    Service(W),
    /// The deadline of a request.
    Deadline(Tag),
}

/// Armed timers of a service, by time, then by order of arming.
#[derive(Debug)]
pub(crate) struct Timers<W> {
    pub(crate) armed: BTreeMap<(u64, u64), Alarm<W>>,
    times: BTreeMap<u64, u64>,
    next: u64,
}

impl<W> Timers<W> {
    pub(crate) fn new() -> Self {
        Self { armed: BTreeMap::new(), times: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn arm(&mut self, at: u64, alarm: Alarm<W>) -> TimerId {
        let id = self.next;
        self.next += 1;
        self.armed.insert((at, id), alarm);
        self.times.insert(id, at);
        TimerId(id)
    }

    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        self.times.remove(&id.0).is_some_and(|at| self.armed.remove(&(at, id.0)).is_some())
    }

    pub(crate) fn due(&mut self, now: u64) -> Option<Alarm<W>> {
        let (&(at, id), _) = self.armed.first_key_value()?;
        if at > now {
            return None;
        }
        self.times.remove(&id);
        self.armed.remove(&(at, id))
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.armed.first_key_value().map(|(&(at, _), _)| at)
    }
}
