//! Somebody who purges finished jobs: one by one, all but so many, those of some age; and limits of
//! the configuration do it too. What is purged is gone everywhere, and what is active stays.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::job::info::{InfoLookup, Lookup as InfoLookupRpc};
use flux_api::job::list::{ListId, ListId_};
use flux_api::job::manager::{Purge, PurgeId, PurgeId_, PurgeRequest};
use flux_id::JobId;
use flux_proto::{Errno, Message};
use serde_json::Value;

use super::load::INACTIVE;
use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::rng::Rng;
use crate::world::SEC;

/// What is known of purges.
#[derive(Debug)]
pub(super) struct Janitor {
    rng: Rng,
    caller: Option<Caller>,
    /// Jobs of which it was said that they are purged.
    purged: BTreeSet<u64>,
    /// Jobs that were not known when they were looked at.
    unknown: BTreeSet<u64>,
    /// States by job, as `job-list` said in the end.
    pub(super) listed: BTreeMap<u64, u64>,
}

impl Janitor {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x6a21_70b5),
            caller: None,
            purged: BTreeSet::new(),
            unknown: BTreeSet::new(),
            listed: BTreeMap::new(),
        }
    }
}

/// Event that names purged jobs.
pub(crate) const PURGED: &str = "job-purge-inactive";

impl Run {
    pub(super) fn begin_janitor(&mut self) {
        if self.scenario.faults.purges {
            self.ring(2 * SEC, Task::Janitor);
        }
    }

    /// The next purge.
    pub(super) fn tidy(&mut self) {
        if self.phase != Phase::Load {
            return;
        }
        let after = self.janitor.rng.range(SEC / 10, 5 * SEC);
        self.ring(after, Task::Janitor);
        let connected = self.janitor.caller.filter(|caller| self.world.is_connected(*caller));
        let Some(caller) = connected else {
            let rank = self.janitor.rng.rank(0, self.scenario.size);
            self.janitor.caller = self.world.connect(rank);
            return;
        };
        let rng = &mut self.janitor.rng;
        let batch = i64::try_from(rng.range(1, 101)).unwrap_or(1);
        let force = rng.chance(80);
        let number = i64::try_from(rng.range(0, 12)).unwrap_or(0);
        let age = rng.range(0, 10_000) as f64 / 1e3;
        let (age_limit, num_limit) = match rng.range(0, 4) {
            0 => (-1.0, number),
            1 => (age, -1),
            2 => (age, number),
            _ => {
                let ids: Vec<u64> = self.oracle.jobs.keys().copied().collect();
                let Some(id) = rng.pick(&ids).copied() else { return };
                let force = i64::from(force);
                let tag = self.world.call::<PurgeId_>(caller, None, &PurgeId { id, force });
                self.purposes.insert((caller, tag), Purpose::PurgeOne(id, force > 0));
                return self.count("purges");
            }
        };
        let request = PurgeRequest { age_limit, num_limit, batch, force };
        let tag = self.world.call::<Purge>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Ignored);
        self.count("purges");
    }

    /// One job was purged, or could be, or may not be.
    pub(super) fn purged_one(&mut self, caller: Caller, id: u64, force: bool, message: &Message) {
        if message.errnum() != Errno::OK {
            return;
        }
        if force {
            self.is_purged(caller, id);
        } else {
            self.is_over(id);
        }
    }

    /// Somebody who listens hears which jobs are purged.
    pub(super) fn purge_told(&mut self, caller: Caller, message: &Message) {
        let body: Value = message.json().unwrap_or_default();
        let jobs = body.get("jobs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for id in jobs.iter().filter_map(Value::as_u64).collect::<Vec<u64>>() {
            self.is_purged(caller, id);
        }
    }

    /// A job that is active is no job to purge.
    fn is_over(&mut self, id: u64) {
        let name = JobId(id).f58();
        let ended = |event: &Value| event.get("name").and_then(Value::as_str) == Some("clean");
        if self.journal.get(&id).is_some_and(|events| !events.iter().any(ended)) {
            self.world.violation(format!("job {name} was purged, but is active"));
        }
        if !self.admin.reviewed && self.admin.jobs.contains(&id) {
            self.world.violation(format!("job {name} was purged, but is held"));
        }
    }

    /// A job is gone: nobody knows it any more where that was said.
    fn is_purged(&mut self, caller: Caller, id: u64) {
        self.is_over(id);
        if self.janitor.purged.insert(id) {
            self.count("jobs purged");
        }
        let key = format!("{}.eventlog", JobId(id).kvs());
        self.lookup(caller, key, Purpose::Gone(id, "the kvs"));
        let request = InfoLookup { id, keys: vec!["jobspec".to_string()], flags: 0 };
        let tag = self.world.call::<InfoLookupRpc>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Gone(id, "job-info"));
        let request = ListId { id, attrs: vec!["state".to_string()], state: None };
        let tag = self.world.call::<ListId_>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Gone(id, "job-list"));
    }

    /// Somebody was asked for a job that is purged.
    pub(super) fn gone(&mut self, id: u64, whom: &str, message: &Message) {
        if message.errnum() == Errno::OK {
            let name = JobId(id).f58();
            self.world.violation(format!("job {name} was purged, but {whom} knows it"));
        }
    }

    /// A job that was acknowledged is not known: in the end it must be purged.
    pub(super) fn not_known(&mut self, id: u64) {
        if self.scenario.faults.purges {
            self.janitor.unknown.insert(id);
        } else {
            self.world.violation(format!("job {id} was acknowledged but is not known"));
        }
    }

    /// Each job is known everywhere, and has ended, or is known nowhere and was purged.
    pub(super) fn judge_presence(&mut self) {
        for id in self.oracle.jobs.keys().copied().collect::<Vec<u64>>() {
            let name = JobId(id).f58();
            let state = self.janitor.listed.get(&id).copied();
            let stored = self.logs.contains_key(&id);
            let archived = self.world.archive.contains(id);
            let purged = self.janitor.purged.contains(&id);
            let problem = match (stored, state) {
                (true, _) if purged => "was purged, but is in the kvs",
                (true, _) if self.janitor.unknown.contains(&id) => "was not known, but is there",
                (true, Some(state)) if state == u64::from(INACTIVE) => continue,
                (true, _) => "has not ended, says job-list",
                (false, _) if !self.scenario.faults.purges => "was acknowledged but is lost",
                (false, Some(_)) if purged => "was purged, but job-list knows it",
                (false, None) if archived => "is purged, but in the archive",
                (false, None) => continue,
                (false, Some(_)) if archived => "is in job-list and the archive, not in the kvs",
                (false, Some(_)) => "is in job-list alone",
            };
            self.world.violation(format!("job {name} {problem} (state {state:?})"));
        }
    }
}
