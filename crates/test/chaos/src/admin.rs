//! Who gives orders while brokers are killed: cancels jobs and sends them signals, drains nodes,
//! stops the queue. Each order is repeated until it is acknowledged, at another broker each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flux_id::JobId;

use crate::Plan;
use crate::board::{Board, wall};
use crate::cluster::Cluster;
use crate::command::{Done, HANG, flux};
use crate::kind::Fate;
use crate::load::{Attempt, Load};
use crate::plan::Dice;

/// Pause after an order that was refused.
const PAUSE: Duration = Duration::from_millis(150);
/// An order that was not acknowledged after this time will never be.
const NEVER: Duration = Duration::from_secs(180);
/// How long a node is drained, and between that.
const DRAINED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(4000));
/// How long the queue is stopped.
const STOPPED: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1500));
/// Between two stops of the queue.
const STARTED: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(20));

/// A time in which nothing may have been started, seconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// On this rank, or nowhere.
    pub rank: Option<u32>,
    /// The order was acknowledged.
    pub from: f64,
    /// The next one was about to be sent.
    pub to: f64,
}

/// What came of the orders.
#[derive(Debug, Default)]
pub struct Orders {
    /// When nothing may have been started.
    pub windows: Vec<Window>,
    /// Commands that were acknowledged.
    pub acknowledged: u32,
    /// Commands that failed, and were repeated.
    pub repeated: u32,
    /// The node that is drained at last, and why.
    pub drained: Option<(u32, String)>,
    /// Whether the queue is stopped at last.
    pub stopped: bool,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

impl Orders {
    /// Adds those of another.
    pub fn add(&mut self, more: Orders) {
        self.windows.extend(more.windows);
        self.acknowledged += more.acknowledged;
        self.repeated += more.repeated;
        self.drained = more.drained.or(self.drained.take());
        self.stopped |= more.stopped;
        self.broken.extend(more.broken);
    }
}

/// Whoever gives orders.
#[derive(Debug)]
pub struct Admin<'a> {
    cluster: &'a Cluster,
    load: &'a Load<'a>,
    dice: Dice,
    orders: Orders,
}

impl<'a> Admin<'a> {
    /// The one of a number.
    #[must_use]
    pub fn new(plan: &Plan, cluster: &'a Cluster, load: &'a Load<'a>, number: u32) -> Self {
        let dice = Dice::new(plan.seed + 400 + u64::from(number));
        Self { cluster, load, dice, orders: Orders::default() }
    }

    fn rank(&mut self) -> u32 {
        u32::try_from(self.dice.below(u64::from(self.cluster.size()))).unwrap_or(0)
    }

    /// Gives an order until it is acknowledged; `done` says of a refusal whether it was carried out
    /// by one before. Returns how often it was sent, and whether it is done.
    fn order(&mut self, words: &[&str], done: impl Fn(&Done) -> bool) -> (u32, bool) {
        let begun = Instant::now();
        let mut last = String::new();
        for sent in 1u32.. {
            let rank = self.rank();
            match flux(self.cluster, rank, words, HANG) {
                Ok(answer) if answer.ok || (sent > 1 && done(&answer)) => {
                    self.orders.acknowledged += 1;
                    return (sent, true);
                }
                Ok(answer) => last = answer.said,
                Err(text) => self.orders.broken.push(text),
            }
            self.orders.repeated += 1;
            if begun.elapsed() > NEVER {
                let words = words.join(" ");
                let text = format!("flux {words} is never acknowledged: {}", last.trim());
                self.orders.broken.push(text);
                return (sent, false);
            }
            std::thread::sleep(PAUSE);
        }
        (u32::MAX, false)
    }

    fn sleep(&mut self, span: (Duration, Duration), stop: &AtomicBool) {
        let until = Instant::now() + self.dice.between(span);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends jobs that wait for that, until told to stop and all have been.
    #[must_use]
    pub fn end_jobs(mut self, stop: &AtomicBool) -> Orders {
        loop {
            let due = {
                let mut jobs = self.load.jobs();
                let now = Instant::now();
                let at = jobs.fated.iter().position(|(due, _)| *due <= now);
                if at.is_none() && jobs.fated.is_empty() && stop.load(Ordering::Relaxed) {
                    return self.orders;
                }
                at.map(|at| jobs.fated.swap_remove(at).1)
            };
            match due {
                Some(attempt) => self.end_job(attempt),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn end_job(&mut self, attempt: Attempt) {
        let Some(id) = attempt.id else { return };
        let word = JobId(id).dec();
        let (sent, done) = match attempt.kind.fate {
            Fate::Canceled => {
                self.order(&["cancel", &word], |answer| answer.said.contains("inactive"))
            }
            Fate::Signaled => {
                if !self.has_begun(&attempt) {
                    // Its tasks would be killed by the signal, which they do not wait for yet.
                    let later = Instant::now() + Duration::from_millis(500);
                    self.load.jobs().fated.push((later, attempt));
                    return;
                }
                self.order(&["job", "kill", "--signal=USR1", &word], |answer| {
                    answer.said.contains("inactive") || answer.said.contains("not running")
                })
            }
            _ => return,
        };
        let order = crate::load::Order { sent, done };
        self.load.jobs().orders.insert(id, order);
    }

    fn has_begun(&self, attempt: &Attempt) -> bool {
        (0..attempt.kind.nodes)
            .all(|rank| self.cluster.file(&attempt.token, rank).contains("start "))
    }

    /// Drains one node after the other, and leaves the last one so.
    #[must_use]
    pub fn drain_nodes(mut self, board: &Board, stop: &AtomicBool) -> Orders {
        for round in 0u32.. {
            self.sleep(DRAINED, stop);
            let rank = self.rank();
            let (target, reason) = (rank.to_string(), format!("round {round}"));
            board.drain(rank, true);
            let words = ["resource", "drain", "--update", &target, &reason];
            let (_, drained) = self.order(&words, |_| false);
            let from = wall();
            self.sleep(DRAINED, stop);
            let to = wall();
            if drained {
                self.orders.windows.push(Window { rank: Some(rank), from, to });
            }
            if stop.load(Ordering::Relaxed) {
                self.orders.drained = drained.then_some((rank, reason));
                break;
            }
            let words = ["resource", "undrain", "--update", &target];
            let (_, undrained) = self.order(&words, |_| false);
            if undrained {
                board.drain(rank, false);
            }
        }
        self.orders
    }

    /// Stops the queue now and then, and leaves it so.
    #[must_use]
    pub fn stop_queue(mut self, stop: &AtomicBool) -> Orders {
        loop {
            self.sleep(STARTED, stop);
            let (_, stopped) = self.order(&["queue", "stop", "--quiet", "-m", "storm"], |_| false);
            let from = wall();
            self.sleep(STOPPED, stop);
            let to = wall();
            if stopped {
                self.orders.windows.push(Window { rank: None, from, to });
            }
            if stop.load(Ordering::Relaxed) {
                self.orders.stopped = stopped;
                return self.orders;
            }
            self.order(&["queue", "start", "--quiet"], |_| false);
        }
    }

    /// After the storm: whether what was acknowledged last is so, also after one more kill of the
    /// leader; then it is undone.
    #[must_use]
    pub fn look(mut self, found: &Orders) -> Vec<String> {
        for (what, words, wanted) in [
            ("drained", &["resource", "drain", "-no", "{ranks} {reason}"][..], {
                let drained = found.drained.as_ref();
                drained.map(|(rank, reason)| format!("{rank} {reason}"))
            }),
            ("stopped", &["queue", "status"][..], found.stopped.then(|| "storm".to_string())),
        ] {
            let text = match flux(self.cluster, 0, words, HANG) {
                Ok(done) => done.out,
                Err(text) => {
                    self.orders.broken.push(text);
                    continue;
                }
            };
            let right = match (&wanted, what) {
                (Some(wanted), "drained") => text.trim() == wanted,
                (None, "drained") => text.trim().is_empty(),
                (Some(wanted), _) => text.contains(wanted.as_str()),
                (None, _) => text.contains("Scheduling is started"),
            };
            if !right {
                let text = format!("{what}: acknowledged was {wanted:?}, now it says {text:?}");
                self.orders.broken.push(text);
            }
        }
        if let Some((rank, _)) = &found.drained {
            self.order(&["resource", "undrain", "--update", &rank.to_string()], |_| false);
        }
        if found.stopped {
            self.order(&["queue", "start", "--quiet"], |_| false);
        }
        self.orders.broken
    }

    /// Cancels what runs although its client never learned its id.
    #[must_use]
    pub fn cancel_rest(mut self) -> Vec<String> {
        self.order(&["cancel", "--quiet", "--all"], |answer| answer.said.contains("Matched 0"));
        self.orders.broken
    }
}
