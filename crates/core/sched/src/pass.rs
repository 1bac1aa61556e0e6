//! One pass over the queue: who starts now, who is promised a time, who may pass whom.

use std::collections::BTreeMap;

use flux_svc::Cx;

use crate::config::Policy;
use crate::forecast::{Forecast, forecast};
use crate::queue::Turn;
use crate::service::{SchedService, Wait};

/// Jobs of one lane that are tried behind one that waits, in one pass.
const DEPTH: u32 = 100;
/// Running jobs up to which a reservation is worked out anew in each pass.
const FEW_RUNNING: usize = 256;
/// Else: how long a reservation holds, in microseconds.
const KEEP_US: u64 = 1_000_000;

/// A job that waits at the head of its lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Blocked {
    pub(crate) turn: Turn,
    pub(crate) mask: u64,
    pub(crate) when: Forecast,
}

/// What the last pass found.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    /// Jobs that wait with a reservation, or without hope of one.
    pub(crate) blocked: Vec<Blocked>,
    /// Nothing has changed since but arrivals.
    pub(crate) settled: bool,
    /// Reservations by job: when worked out, and what it gave.
    known: BTreeMap<u64, (u64, Forecast)>,
}

impl Outlook {
    /// Nodes came or went, or an end moved: reservations no longer hold.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.settled = false;
    }
}

impl SchedService {
    /// Starts what can start, after resources or the order changed.
    pub(crate) fn pass(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.can_place() {
            self.outlook.settled = false;
            return;
        }
        self.outlook.blocked.clear();
        let mut lanes: BTreeMap<u64, (Option<Turn>, u32)> =
            self.queue.masks().into_iter().map(|mask| (mask, (None, DEPTH))).collect();
        loop {
            let next = lanes
                .iter()
                .filter(|(_, (_, budget))| *budget > 0)
                .filter_map(|(mask, (last, _))| Some((self.queue.next(*mask, *last)?, *mask)))
                .min();
            let Some((turn, mask)) = next else { break };
            let placed = self.attempt(cx, turn, mask);
            if !placed && self.settings.policy == Policy::Fifo {
                break;
            }
            // Nobody passes one of whom it is not known when it starts.
            let closed = !placed && self.is_closed(mask);
            if let Some((last, budget)) = lanes.get_mut(&mask) {
                *last = Some(turn);
                match (placed, closed) {
                    (true, _) => {}
                    (false, true) => *budget = 0,
                    (false, false) => *budget -= 1,
                }
            }
        }
        let blocked: Vec<u64> = self.outlook.blocked.iter().map(|b| b.turn.1).collect();
        self.outlook.known.retain(|id, _| blocked.contains(id));
        self.outlook.settled = true;
        self.plan_annotations(cx);
    }

    /// Whether a job waits that no other of this lane may pass.
    fn is_closed(&self, mask: u64) -> bool {
        let closes = |blocked: &Blocked| blocked.mask & mask != 0 && blocked.when.is_endless();
        self.outlook.blocked.iter().any(closes)
    }

    /// Considers a job that has just come.
    pub(crate) fn arrival(&mut self, cx: &mut Cx<'_, Wait>, turn: Turn, mask: u64) {
        if !self.can_place() {
            return;
        }
        let in_the_way =
            |blocked: &Blocked| blocked.mask & mask != 0 || self.settings.policy == Policy::Fifo;
        let behind = self.outlook.blocked.iter().any(|b| in_the_way(b) && b.turn < turn);
        let before = self.outlook.blocked.iter().any(|b| in_the_way(b) && b.turn > turn);
        if !self.outlook.settled || before || !behind {
            return self.pass(cx);
        }
        if self.settings.policy == Policy::Easy {
            self.attempt(cx, turn, mask);
        }
        self.plan_annotations(cx);
    }

    /// Tries one job whose betters have been tried. True when it got resources.
    fn attempt(&mut self, cx: &mut Cx<'_, Wait>, turn: Turn, mask: u64) -> bool {
        let id = turn.1;
        let ahead = self
            .outlook
            .blocked
            .iter()
            .filter(|blocked| blocked.mask & mask != 0)
            .map(|blocked| match blocked.when {
                Forecast::At(time) => (time, blocked.turn.1),
                // Nobody ends before that.
                Forecast::Unknown | Forecast::NeedsNodes => (f64::NEG_INFINITY, blocked.turn.1),
            })
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some(job) = self.queue.get(id) else { return false };
        if let Some((reserved, head)) = ahead {
            // It must be gone when the time that was promised comes.
            let end = self.end_of(cx.wall(), job.duration);
            return end <= reserved && self.grant(cx, id, Some(head));
        }
        if self.grant(cx, id, None) {
            return true;
        }
        let when = self.reservation(cx, id);
        // A job that needs nodes that are down waits for people, and holds nobody up.
        if when != Forecast::NeedsNodes || self.settings.policy == Policy::Fifo {
            self.outlook.blocked.push(Blocked { turn, mask, when });
        }
        false
    }

    fn reservation(&mut self, cx: &Cx<'_, Wait>, id: u64) -> Forecast {
        if self.running.len() > FEW_RUNNING
            && let Some((since, when)) = self.outlook.known.get(&id)
            && cx.now_us().saturating_sub(*since) < KEEP_US
        {
            return *when;
        }
        let Some(job) = self.queue.get(id) else { return Forecast::Unknown };
        let when =
            forecast(&self.pool, &job.demand, &job.eligible, cx.wall(), self.running.by_end());
        self.outlook.known.insert(id, (cx.now_us(), when));
        when
    }

    /// When a job that starts now ends: infinite without limit.
    pub(crate) fn end_of(&self, now: f64, duration: f64) -> f64 {
        if duration > 0.0 {
            now + duration
        } else if self.instance_end > 0.0 {
            self.instance_end
        } else {
            f64::INFINITY
        }
    }
}
