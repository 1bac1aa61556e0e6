//! What stays in memory of finished jobs: enough to answer for them, and to purge them in order.

use std::collections::{BTreeMap, BTreeSet};

use flux_model::job_event::JobStatus;

/// A finished job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record {
    /// Who submitted it.
    pub userid: u32,
    /// When it became inactive.
    pub t_inactive: f64,
    /// It had resources.
    pub ran: bool,
    /// Its shells were started.
    pub started: bool,
    /// It finished with status 0 and no fatal exception.
    pub success: bool,
    /// It ended by a fatal exception.
    pub exception: bool,
}

impl Record {
    /// The record of a job that is at its end.
    #[must_use]
    pub fn of(status: &JobStatus) -> Self {
        Self {
            userid: status.userid,
            t_inactive: status.t_inactive.unwrap_or(status.t_submit),
            ran: status.t_run.is_some(),
            started: status.started,
            success: status.t_run.is_some()
                && status.finish_status == Some(0)
                && status.fatal_exception.is_none(),
            exception: status.fatal_exception.is_some(),
        }
    }
}

/// All finished jobs that are not purged.
#[derive(Debug, Default)]
pub struct Inactive {
    jobs: BTreeMap<u64, Record>,
    /// Bits of the time (which order like the times, since they are positive), and id.
    by_time: BTreeSet<(u64, u64)>,
}

impl Inactive {
    /// Adds a job.
    pub fn insert(&mut self, id: u64, status: &JobStatus) {
        let record = Record::of(status);
        self.by_time.insert((record.t_inactive.to_bits(), id));
        self.jobs.insert(id, record);
    }

    /// Removes a job.
    pub fn remove(&mut self, id: u64) -> Option<Record> {
        let record = self.jobs.remove(&id)?;
        self.by_time.remove(&(record.t_inactive.to_bits(), id));
        Some(record)
    }

    /// A job.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Record> {
        self.jobs.get(&id)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Every id.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.jobs.keys().copied()
    }

    /// Ids and times, oldest end first.
    pub fn oldest(&self) -> impl Iterator<Item = (u64, f64)> {
        self.by_time.iter().map(|(bits, id)| (*id, f64::from_bits(*bits)))
    }
}

/// The jobs of each user, for `history.get`.
#[derive(Debug, Default)]
pub struct History {
    users: BTreeMap<u64, u32>,
    jobs: BTreeMap<u32, BTreeSet<u64>>,
}

impl History {
    /// Adds a job.
    pub fn insert(&mut self, id: u64, userid: u32) {
        self.users.insert(id, userid);
        self.jobs.entry(userid).or_default().insert(id);
    }

    /// Removes a job.
    pub fn remove(&mut self, id: u64) {
        if let Some(userid) = self.users.remove(&id)
            && let Some(jobs) = self.jobs.get_mut(&userid)
        {
            jobs.remove(&id);
            if jobs.is_empty() {
                self.jobs.remove(&userid);
            }
        }
    }

    /// Jobs of a user, newest first.
    pub fn of(&self, userid: u32) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.jobs.get(&userid).into_iter().flatten().rev().copied()
    }

    /// How many jobs a user has.
    #[must_use]
    pub fn count(&self, userid: u32) -> usize {
        self.jobs.get(&userid).map_or(0, BTreeSet::len)
    }
}
