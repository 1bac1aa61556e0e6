//! What must be true at the end, whatever went wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use flux_id::JobId;
use flux_model::eventlog::Eventlog;
use flux_model::job_event::check;
use flux_model::resource_set::ResourceSet;

/// What is remembered of a run to judge it.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Jobs whose submission was acknowledged, and when.
    pub jobs: BTreeMap<u64, u64>,
    /// For each key: the newest value whose commit was acknowledged, and the newest that was sent.
    pub keys: BTreeMap<String, (u64, u64)>,
    /// For each key: values whose commit may still happen, or may have happened after a newer one.
    /// A client that left heard of no answer, and a broker that stood still sends it on later.
    open: BTreeMap<String, BTreeSet<u64>>,
    /// When each core of each rank is taken: from, to, by which job.
    cores: BTreeMap<(u32, u32), Vec<(f64, f64, u64)>>,
    /// What each session's keys were found to be.
    found: BTreeMap<String, Option<u64>>,
    /// Jobs by their result.
    pub results: BTreeMap<String, u64>,
}

impl Oracle {
    /// Judges one job by its eventlog and R.
    ///
    /// # Errors
    /// The law that is broken.
    pub fn judge_job(&mut self, id: u64, log: &str, r: Option<&str>) -> Result<(), String> {
        let name = JobId(id).f58();
        let log = Eventlog::parse(log).map_err(|error| format!("job {name}: {error}"))?;
        let events = log.events();
        let status = check::legal_log(events)
            .map_err(|(at, error)| format!("job {name}: event {at}: {error}: {}", log.encode()))?;
        if !status.is_inactive() {
            return Err(format!("job {name} has not ended: {}", log.encode()));
        }
        let result = status.result().map_or("none".to_string(), |result| format!("{result:?}"));
        *self.results.entry(result).or_default() += 1;
        let count = |name: &str| events.iter().filter(|event| event.name == name).count();
        for event in ["clean", "alloc", "start"] {
            if count(event) > 1 {
                return Err(format!("job {name}: {event} more than once: {}", log.encode()));
            }
        }
        let Some(alloc) = log.find("alloc") else { return Ok(()) };
        let free = log.find("free").ok_or_else(|| {
            format!("job {name} ended without giving its resources back: {}", log.encode())
        })?;
        let r = r.ok_or_else(|| format!("job {name} was allocated resources but has no R"))?;
        let r: serde_json::Value =
            serde_json::from_str(r).map_err(|error| format!("job {name}: R: {error}"))?;
        let r = ResourceSet::from_value(&r).map_err(|error| format!("job {name}: R: {error}"))?;
        for (rank, _, children) in r.iter() {
            for core in children.cores.ids() {
                let taken = (alloc.timestamp, free.timestamp, id);
                self.cores.entry((rank, core)).or_default().push(taken);
            }
        }
        Ok(())
    }

    /// Every core that two jobs had at once.
    pub fn double_allocations(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for ((rank, core), times) in &mut self.cores {
            times.sort_by(|one, other| one.0.total_cmp(&other.0));
            for pair in times.windows(2) {
                if let [(_, until, first), (from, _, second)] = pair
                    && from < until
                {
                    let (first, second) = (JobId(*first).f58(), JobId(*second).f58());
                    found.push(format!(
                        "core {core} of rank {rank} belongs to {first} until {until:.6} and to \
                         {second} from {from:.6}"
                    ));
                }
            }
        }
        found
    }

    /// A commit of a value is on its way.
    pub fn sent(&mut self, key: &str, value: u64) {
        self.keys.entry(key.to_string()).or_default().1 = value;
        self.open.entry(key.to_string()).or_default().insert(value);
    }

    /// A commit was acknowledged: no older value is read from now on, except one whose commit was
    /// on its way at the same time, since either may have been the later one.
    pub fn acknowledged(&mut self, key: &str, value: u64) {
        let Some((acknowledged, _)) = self.keys.get_mut(key) else { return };
        if *acknowledged < value {
            *acknowledged = value;
            self.refused(key, value);
        }
    }

    /// A commit was refused: it never happens.
    pub fn refused(&mut self, key: &str, value: u64) {
        if let Some(open) = self.open.get_mut(key) {
            open.remove(&value);
        }
    }

    /// Whether a key may have a value when another was acknowledged before.
    #[must_use]
    pub fn may_be(&self, key: &str, value: u64, acknowledged: u64) -> bool {
        value >= acknowledged || self.open.get(key).is_some_and(|open| open.contains(&value))
    }

    /// Judges the value that a key has.
    ///
    /// # Errors
    /// The law that is broken.
    pub fn judge_key(&self, key: &str, value: Option<u64>) -> Result<(), String> {
        let Some((acknowledged, sent)) = self.keys.get(key) else { return Ok(()) };
        let value = value.unwrap_or(0);
        if value <= *sent && self.may_be(key, value, *acknowledged) {
            return Ok(());
        }
        Err(format!("{key} is {value}, but {acknowledged} was acknowledged and {sent} sent last"))
    }

    /// Judges keys that were only ever changed together.
    ///
    /// # Errors
    /// They differ.
    pub fn judge_twin(&mut self, key: &str, value: Option<u64>) -> Result<(), String> {
        let session = key.trim_end_matches(".value").rsplit('.').next().unwrap_or(key);
        match self.found.insert(session.to_string(), value) {
            Some(other) if other != value => {
                Err(format!("{key} is {value:?}, the key that changes with it is {other:?}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_not_followed_by_what_was_settled_before() {
        let mut oracle = Oracle::default();
        for value in 1..=3 {
            oracle.sent("a", value);
        }
        oracle.acknowledged("a", 1);
        oracle.refused("a", 2);
        oracle.acknowledged("a", 3);
        for (value, good) in [(None, false), (Some(1), false), (Some(2), false), (Some(3), true)] {
            assert_eq!(oracle.judge_key("a", value).is_ok(), good, "{value:?}");
        }
    }

    #[test]
    fn a_commit_that_nobody_answered_may_happen_after_newer_ones() {
        let mut oracle = Oracle::default();
        oracle.sent("a", 1);
        oracle.sent("a", 2);
        oracle.acknowledged("a", 2);
        assert!(oracle.judge_key("a", Some(1)).is_ok());
        assert!(oracle.judge_key("a", Some(3)).is_err());
        // It was answered late: which of both was the later one is not known.
        oracle.acknowledged("a", 1);
        assert!(oracle.judge_key("a", Some(1)).is_ok());
        assert!(oracle.judge_key("a", None).is_err());
    }
}
