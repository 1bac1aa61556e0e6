//! Jobs that waited when the leader went are started in the order of their queue, by priority, then
//! by the time of their submission, when there is a leader again.
//!
//! The scheduler may let a job pass another that needs something else. Jobs that ask for the same
//! never pass each other, so these are compared, by their eventlogs.

use std::collections::BTreeMap;

use flux_id::JobId;
use flux_model::eventlog::{Event, Eventlog};
use serde_json::Value;

use super::Run;

/// What a job asks for: nodes (0: any), cores of each, whether it has a time limit.
pub(super) type Demand = (u64, u64, bool);

/// What is known of leaders that went, and of what jobs ask for.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// When the leader went that is not there now.
    gone: Option<f64>,
    /// When leaders went, and the next one came.
    restarts: Vec<(f64, f64)>,
    pub(super) demands: BTreeMap<u64, Demand>,
}

/// A job in the light of one restart.
#[derive(Debug)]
struct Waited {
    id: u64,
    priority: u64,
    /// When it was given resources.
    started: f64,
    /// When somebody changed its priority, or ended it.
    touched: f64,
}

impl Waited {
    /// A job that waited for resources at this time.
    fn at(id: u64, time: f64, log: &[Event]) -> Option<Self> {
        let first = |names: &[&str], after: f64| {
            let found = log.iter().filter(|event| names.contains(&event.name.as_str()));
            found.map(|event| event.timestamp).find(|at| *at >= after).unwrap_or(f64::INFINITY)
        };
        let ended = first(&["alloc", "exception"], 0.0);
        let known = log.iter().rev().filter(|event| event.name == "priority");
        let priority = known
            .filter(|event| event.timestamp < time)
            .find_map(|event| event.context.as_ref()?.get("priority").and_then(Value::as_u64))?;
        (ended >= time && priority > 0).then(|| Self {
            id,
            priority,
            started: first(&["alloc"], time),
            // A restart posts the priority again: that alone changes nothing.
            touched: first(&["urgency", "exception", "jobspec-update"], time),
        })
    }

    fn is_before(&self, other: &Self) -> bool {
        (other.priority, self.id) < (self.priority, other.id)
    }
}

impl Run {
    pub(super) fn order_leader_gone(&mut self) {
        let now = self.world.true_wall();
        self.order.gone.get_or_insert(now);
    }

    pub(super) fn order_leader_back(&mut self) {
        if let Some(gone) = self.order.gone.take() {
            self.order.restarts.push((gone, self.world.true_wall()));
        }
    }

    /// Compares jobs that waited during a restart.
    pub(super) fn judge_order(&mut self) {
        let logs: Vec<(u64, Eventlog)> = self
            .logs
            .iter()
            .filter(|(id, _)| self.order.demands.contains_key(id))
            .filter_map(|(id, log)| Some((*id, Eventlog::parse(log).ok()?)))
            .collect();
        let mut compared = 0;
        let mut wrong = Vec::new();
        for &(gone, back) in &self.order.restarts {
            let mut alike: BTreeMap<Demand, Vec<Waited>> = BTreeMap::new();
            for (id, log) in &logs {
                if let (Some(waited), Some(demand)) =
                    (Waited::at(*id, gone, log.events()), self.order.demands.get(id))
                {
                    alike.entry(*demand).or_default().push(waited);
                }
            }
            for jobs in alike.values() {
                for second in
                    jobs.iter().filter(|job| job.started > back && job.started.is_finite())
                {
                    // Whatever was changed since then may have changed the order.
                    let clear = |job: &Waited| job.touched > second.started;
                    for first in jobs.iter().filter(|job| job.is_before(second)) {
                        if !clear(first) || !clear(second) {
                            continue;
                        }
                        compared += 1;
                        if first.started > second.started {
                            let (one, two) = (JobId(first.id).f58(), JobId(second.id).f58());
                            wrong.push(format!(
                                "job {two} of priority {} got resources at {:.6}, before {one} of \
                                 priority {} at {:.6}; both waited during a restart at {gone:.6}",
                                second.priority, second.started, first.priority, first.started
                            ));
                        }
                    }
                }
            }
        }
        *self.counts.entry("orders compared after a restart").or_default() += compared;
        for text in wrong {
            self.world.violation(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_from_its_priority_to_its_resources() {
        let log = r#"{"timestamp":1.0,"name":"submit","context":{"userid":1,"urgency":16,"flags":0,"version":1}}
{"timestamp":2.0,"name":"priority","context":{"priority":16}}
{"timestamp":2.7,"name":"urgency","context":{"userid":1,"urgency":9}}
{"timestamp":3.0,"name":"priority","context":{"priority":9}}
{"timestamp":3.7,"name":"flux-restart"}
{"timestamp":3.7,"name":"priority","context":{"priority":9}}
{"timestamp":4.0,"name":"alloc"}
"#;
        let log = Eventlog::parse(log).unwrap();
        let at = |time| Waited::at(7, time, log.events());
        assert!(at(1.5).is_none() && at(5.0).is_none());
        let (early, late) = (at(2.5).unwrap(), at(3.5).unwrap());
        assert_eq!((early.priority, early.touched, early.started), (16, 2.7, 4.0));
        assert_eq!((late.priority, late.touched, late.started), (9, f64::INFINITY, 4.0));
        assert!(early.is_before(&late) && !late.is_before(&early));
    }
}
