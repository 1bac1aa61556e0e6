//! Jobs that wait, in lanes of jobs that compete for the same nodes, and jobs that run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use flux_api::Answer;
use flux_api::sched::Alloc;
use flux_model::resource_set::Children;
use serde_json::Value;

use crate::demand::Demand;
use crate::eligible::Eligible;

/// Place in the queue: highest priority first, then the oldest id.
pub(crate) type Turn = (Reverse<u64>, u64);

/// A job that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) answer: Answer<Alloc>,
    pub(crate) priority: u64,
    pub(crate) demand: Demand,
    pub(crate) eligible: Arc<Eligible>,
    /// Classes it competes for, as bits.
    pub(crate) mask: u64,
    /// Time limit in seconds; 0 for none.
    pub(crate) duration: f64,
    /// What was said of it last.
    pub(crate) said: Option<Value>,
}

/// Jobs that wait, by lane.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    jobs: BTreeMap<u64, Waiting>,
    lanes: BTreeMap<u64, BTreeSet<Turn>>,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Takes every job out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.lanes.clear();
        std::mem::take(&mut self.jobs).into_values()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Waiting> {
        self.jobs.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Waiting> {
        self.jobs.get_mut(&id)
    }

    pub(crate) fn insert(&mut self, id: u64, job: Waiting) -> Option<Waiting> {
        let old = self.remove(id);
        self.lanes.entry(job.mask).or_default().insert((Reverse(job.priority), id));
        self.jobs.insert(id, job);
        old
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Waiting> {
        let job = self.jobs.remove(&id)?;
        if let Some(lane) = self.lanes.get_mut(&job.mask) {
            lane.remove(&(Reverse(job.priority), id));
            if lane.is_empty() {
                self.lanes.remove(&job.mask);
            }
        }
        Some(job)
    }

    pub(crate) fn prioritize(&mut self, id: u64, priority: u64) {
        if let Some(job) = self.remove(id) {
            self.insert(id, Waiting { priority, ..job });
        }
    }

    pub(crate) fn masks(&self) -> Vec<u64> {
        self.lanes.keys().copied().collect()
    }

    /// The next turn of a lane after `last`.
    pub(crate) fn next(&self, mask: u64, last: Option<Turn>) -> Option<Turn> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.lanes.get(&mask)?.range((from, Bound::Unbounded)).next().copied()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.jobs.keys().copied().collect()
    }

    pub(crate) fn take_all(&mut self) -> BTreeMap<u64, Waiting> {
        self.lanes.clear();
        std::mem::take(&mut self.jobs)
    }
}

/// A job that holds resources.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) parts: Vec<(u32, Arc<Children>)>,
    /// Seconds since the epoch; infinite for no end.
    pub(crate) end: f64,
}

/// Jobs that hold resources, by id and by end.
#[derive(Debug, Default)]
pub(crate) struct Running {
    jobs: BTreeMap<u64, Holding>,
    ends: BTreeSet<(u64, u64)>,
}

/// Orders times that are not negative.
fn order(end: f64) -> u64 {
    end.max(0.0).to_bits()
}

impl Running {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn insert(&mut self, id: u64, job: Holding) {
        self.remove(id);
        self.ends.insert((order(job.end), id));
        self.jobs.insert(id, job);
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Holding> {
        let job = self.jobs.remove(&id)?;
        self.ends.remove(&(order(job.end), id));
        Some(job)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Holding> {
        self.jobs.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Holding> {
        self.jobs.get_mut(&id)
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.jobs.contains_key(&id)
    }

    pub(crate) fn set_end(&mut self, id: u64, end: f64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        self.ends.remove(&(order(job.end), id));
        job.end = end;
        self.ends.insert((order(end), id));
        true
    }

    /// Jobs with what they hold, in the order of their ends.
    pub(crate) fn by_end(&self) -> impl Iterator<Item = (f64, &[(u32, Arc<Children>)])> {
        self.ends
            .iter()
            .filter_map(|(_, id)| self.jobs.get(id).map(|job| (job.end, job.parts.as_slice())))
    }
}
