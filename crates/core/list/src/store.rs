//! All jobs, with an index for each order in which they are listed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use flux_api::job::manager::JournalResponse;
use flux_model::eventlog::Event;
use flux_model::job_event::{JobState, StateMask};

use crate::active::Active;
use crate::counts::{Counts, Kind};
use crate::finished::{Finished, order};
use crate::view::JobView;

/// Where an active job stands in the orders of listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not listed yet.
    Nowhere,
    /// Pending: highest priority first, those without one last, then by id.
    Pending(Reverse<Option<u32>>, u64),
    /// Running: newest first, those that never ran last.
    Running(Reverse<(u64, u64)>),
}

impl Place {
    fn of(job: &Active) -> Self {
        let status = &job.status;
        match status.state {
            JobState::New | JobState::Inactive => Self::Nowhere,
            JobState::Depend | JobState::Priority | JobState::Sched => {
                Self::Pending(Reverse(status.priority), job.id)
            }
            JobState::Run | JobState::Cleanup => {
                Self::Running(Reverse((status.t_run.map_or(0, order), job.id)))
            }
        }
    }
}

/// Why a response of the journal does not continue a job.
pub type Fault = String;

/// What a response of the journal changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This job.
    Job(u64),
    /// This job, which is over now.
    Ended(u64),
    /// This job was refused and is gone.
    Gone(u64),
}

/// All jobs.
#[derive(Debug, Default)]
pub struct Store {
    active: BTreeMap<u64, Active>,
    pending: BTreeSet<(Reverse<Option<u32>>, u64)>,
    running: BTreeSet<Reverse<(u64, u64)>>,
    /// Finished jobs.
    pub finished: Finished,
    /// Numbers of jobs.
    pub counts: Counts,
}

impl Store {
    /// One job, if it is known and listed.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<JobView<'_>> {
        match self.active.get(&id) {
            Some(job) => job.is_listed().then(|| job.view()),
            None => self.finished.get(id),
        }
    }

    /// Whether a job is known, listed or not.
    #[must_use]
    pub fn knows(&self, id: u64) -> bool {
        self.active.contains_key(&id) || self.finished.get(id).is_some()
    }

    /// Jobs in any of these states, in the order of listing; of finished ones those that ended
    /// after `since`. Walks no more than is taken.
    pub fn walk(&self, states: StateMask, since: f64) -> impl Iterator<Item = JobView<'_>> {
        let any = |mask: StateMask| states.0 & mask.0 != 0;
        let pending = any(StateMask::PENDING).then(|| self.pending.iter().map(|(_, id)| *id));
        let running = any(StateMask::RUNNING).then(|| self.running.iter().map(|key| key.0.1));
        let inactive = any(JobState::Inactive.into()).then(|| self.finished.newest(since));
        let active = pending.into_iter().flatten().chain(running.into_iter().flatten());
        active
            .filter_map(|id| self.active.get(&id))
            .map(Active::view)
            .chain(inactive.into_iter().flatten())
    }

    fn unplace(&mut self, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Pending(priority, id) => drop(self.pending.remove(&(priority, id))),
            Place::Running(key) => drop(self.running.remove(&key)),
        }
    }

    fn enter(&mut self, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Pending(priority, id) => drop(self.pending.insert((priority, id))),
            Place::Running(key) => drop(self.running.insert(key)),
        }
    }

    /// Forgets a job; false when it was not known.
    pub fn remove(&mut self, id: u64) -> bool {
        if let Some(job) = self.active.remove(&id) {
            self.unplace(Place::of(&job));
            self.counts.remove(job.status.userid, job.spec.queue.as_deref(), Kind::of(&job.view()));
            return true;
        }
        let Some(job) = self.finished.get(id) else { return false };
        self.counts.remove(job.userid, job.queue, Kind::of(&job));
        self.finished.remove(id)
    }

    /// Takes a finished job of the archive, unless it is known; whether it was not.
    pub fn load(&mut self, job: &JobView<'_>) -> bool {
        if self.knows(job.id) {
            return false;
        }
        self.counts.add(job.userid, job.queue, Kind::of(job));
        self.finished.insert(job);
        true
    }

    /// Forgets a finished job that was purged, and counts it.
    pub fn purge(&mut self, id: u64) {
        if let Some(job) = self.finished.get(id) {
            self.counts.purged(job.userid, job.queue);
            self.remove(id);
        }
    }

    /// Forgets all jobs, but not how many were purged.
    pub fn reset(&mut self) {
        self.active.clear();
        self.pending.clear();
        self.running.clear();
        self.finished = Finished::default();
        self.counts.reset();
    }

    /// Takes the events of one job.
    ///
    /// # Errors
    /// A fault with the job and the event; events before it were taken.
    pub fn take(&mut self, mut response: JournalResponse) -> Result<Change, Fault> {
        let id = u64::try_from(response.id).map_err(|_| "invalid job id".to_string())?;
        let mut events = std::mem::take(&mut response.events).into_iter().peekable();
        let starts = events.peek().is_some_and(|event| {
            event.get("name").and_then(|name| name.as_str()) == Some("submit")
        });
        let mut fault = None;
        let (mut job, before) = if starts {
            self.remove(id);
            let event = events.next().unwrap_or_default();
            let event = Event::from_value(&event).map_err(|error| error.to_string())?;
            (Active::new(id, &event).map_err(|error| error.to_string())?, None)
        } else {
            match self.active.remove(&id) {
                Some(job) => {
                    let before = (Place::of(&job), Kind::of(&job.view()), job.spec.queue.clone());
                    (job, Some(before))
                }
                // Nothing that is listed changes once a job is over.
                None if self.finished.get(id).is_some() => return Ok(Change::Job(id)),
                None => return Err("event of a job that was not submitted".to_string()),
            }
        };
        job.documents(&mut response);
        for event in events {
            let applied = Event::from_value(&event)
                .map_err(|error| error.to_string())
                .and_then(|event| job.apply(&event).map_err(|error| error.to_string()));
            if let Err(error) = applied {
                fault.get_or_insert(error);
            }
        }
        self.settle(job, before, fault)
    }

    /// Puts a job where it belongs after its events.
    fn settle(
        &mut self,
        job: Active,
        before: Option<(Place, Kind, Option<Box<str>>)>,
        fault: Option<Fault>,
    ) -> Result<Change, Fault> {
        let id = job.id;
        let (place, kind, user) = (Place::of(&job), Kind::of(&job.view()), job.status.userid);
        if let Some((old_place, old_kind, queue)) = before {
            let counted = old_kind == kind && queue == job.spec.queue;
            if !counted || job.status.invalidated {
                self.counts.remove(user, queue.as_deref(), old_kind);
            }
            if old_place != place || job.status.invalidated {
                self.unplace(old_place);
            }
            if job.status.invalidated {
                return Ok(Change::Gone(id));
            }
            if !counted {
                self.counts.add(user, job.spec.queue.as_deref(), kind);
            }
            if old_place != place {
                self.enter(place);
            }
        } else {
            if job.status.invalidated {
                return Ok(Change::Gone(id));
            }
            self.counts.add(user, job.spec.queue.as_deref(), kind);
            self.enter(place);
        }
        let change = if job.status.is_inactive() {
            self.finished.insert(&job.view());
            Change::Ended(id)
        } else {
            self.active.insert(id, job);
            Change::Job(id)
        };
        fault.map_or(Ok(change), Err)
    }
}
