//! What waiting jobs are told: why they wait, how many are before them, and until when.
//!
//! Said of the first jobs of the queue only, when it changes, and not more often than once a
//! second, so that a long queue costs nothing.

use flux_api::sched::{ALLOC_ANNOTATE, AllocResponse};
use flux_svc::Cx;
use serde_json::{Map, Value, json};

use crate::forecast::Forecast;
use crate::grants::response;
use crate::queue::Turn;
use crate::service::{SchedService, Wait};

/// Jobs that are told.
const TOLD: usize = 32;
/// Least time between two rounds, in microseconds.
const ROUND_US: u64 = 1_000_000;

impl SchedService {
    /// Sees to it that waiting jobs are told in a while.
    pub(crate) fn plan_annotations(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.telling && self.queue.len() > 0 {
            self.telling = true;
            cx.timer(ROUND_US, Wait::Tell);
        }
    }

    /// Tells the first waiting jobs what has changed for them.
    pub(crate) fn tell(&mut self, cx: &mut Cx<'_, Wait>) {
        self.telling = false;
        for (at, turn) in self.first_turns().into_iter().enumerate() {
            let mut sched = Map::new();
            let blocked = self.outlook.blocked.iter().find(|blocked| blocked.turn == turn);
            let reason = match blocked.map(|blocked| blocked.when) {
                Some(Forecast::At(time)) => {
                    sched.insert("t_estimate".to_string(), json!(time));
                    "insufficient resources"
                }
                Some(Forecast::Unknown) => "insufficient resources",
                Some(Forecast::NeedsNodes) => "nodes are down",
                None if self.outlook.blocked.iter().any(|blocked| blocked.turn < turn) => {
                    "behind other jobs"
                }
                None => "nodes are down",
            };
            sched.insert("reason_pending".to_string(), reason.into());
            sched.insert("jobs_ahead".to_string(), at.into());
            let Some(job) = self.queue.get_mut(turn.1) else { continue };
            let new = Value::Object(sched.clone());
            if job.said.as_ref() == Some(&new) {
                continue;
            }
            // What is not said again no longer holds.
            if let Some(Value::Object(old)) = &job.said {
                for key in old.keys() {
                    sched.entry(key.clone()).or_insert(Value::Null);
                }
            }
            job.said = Some(new);
            let annotations = Some(json!({ "sched": sched }));
            let body = AllocResponse { annotations, ..response(turn.1, ALLOC_ANNOTATE, None) };
            job.answer.item(cx, &body);
        }
    }

    /// The first turns of the whole queue.
    fn first_turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for mask in self.queue.masks() {
            let mut last = None;
            for _ in 0..TOLD {
                let Some(turn) = self.queue.next(mask, last) else { break };
                turns.push(turn);
                last = Some(turn);
            }
        }
        turns.sort_unstable();
        turns.truncate(TOLD);
        turns
    }
}
