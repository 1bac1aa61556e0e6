//! The clients that submit jobs, and what is known of each job.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flux_api::job::ingest::{Submit, SubmitRequest};
use flux_client::{Client, To};
use serde_json::Value;

use crate::Plan;
use crate::board::wall;
use crate::cluster::Cluster;
use crate::kind::{Fate, Kind};
use crate::plan::Dice;

/// No answer within this time is a hang.
const HANG: Duration = Duration::from_secs(20);
/// Pause after a submit that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// When a job is canceled or gets a signal.
const LIFE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(6));

/// A job that was tried to submit.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Names it and its files.
    pub token: String,
    /// What it does.
    pub kind: Kind,
    /// Its id, when that was acknowledged.
    pub id: Option<u64>,
    /// For people: when, since the start.
    pub at: Duration,
}

/// What was asked for a job that is canceled or gets a signal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Order {
    /// How often.
    pub sent: u32,
    /// Whether it was acknowledged.
    pub done: bool,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// In the order of their end.
    pub attempts: Vec<Attempt>,
    /// Those that are to be ended by somebody, and when.
    pub fated: Vec<(Instant, Attempt)>,
    /// What was asked for them, by id.
    pub orders: BTreeMap<u64, Order>,
}

impl Jobs {
    /// Those with an id.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.id.is_some()).count()
    }
}

/// What the clients met.
#[derive(Debug, Default)]
pub struct Tries {
    /// Submits that failed.
    pub failed: u32,
    /// Why.
    pub reasons: BTreeMap<String, u32>,
    /// When submits succeeded, in seconds since the epoch.
    pub times: Vec<f64>,
    /// How long they took.
    pub took: Vec<Duration>,
    /// The longest wait for any answer.
    pub slowest: Duration,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

impl Tries {
    /// Adds those of another client.
    pub fn add(&mut self, more: Tries) {
        self.failed += more.failed;
        for (reason, count) in more.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.times.extend(more.times);
        self.took.extend(more.took);
        self.slowest = self.slowest.max(more.slowest);
        self.broken.extend(more.broken);
    }
}

/// Times between two of these, the longest first, and where each begins.
#[must_use]
pub fn gaps(times: &[f64]) -> Vec<(f64, f64)> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let mut gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).collect();
    gaps.sort_by(|a, b| b.0.total_cmp(&a.0));
    gaps
}

/// The load.
#[derive(Debug)]
pub struct Load<'a> {
    plan: &'a Plan,
    cluster: &'a Cluster,
    begun: Instant,
    next: AtomicU32,
    done: AtomicU32,
    jobs: Mutex<Jobs>,
}

impl<'a> Load<'a> {
    /// A load that begins now.
    #[must_use]
    pub fn new(plan: &'a Plan, cluster: &'a Cluster) -> Self {
        Self {
            plan,
            cluster,
            begun: Instant::now(),
            next: AtomicU32::new(0),
            done: AtomicU32::new(0),
            jobs: Mutex::new(Jobs::default()),
        }
    }

    /// Whether every job was submitted.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.plan.jobs
    }

    /// The jobs so far.
    pub fn jobs(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The jobs, when the clients have ended.
    #[must_use]
    pub fn into_jobs(self) -> Jobs {
        self.jobs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A client: submits jobs at any broker that takes them, until all are submitted.
    pub fn client(&self, client: u32, stop: &AtomicBool) -> Tries {
        let mut tries = Tries::default();
        let mut dice = Dice::new(self.plan.seed + 100 + u64::from(client));
        let path = self.cluster.path().join("jobs").display().to_string();
        let mut connection: Option<Client> = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.jobs {
                return tries;
            }
            // Spread over the time, so that there is always something to lose.
            let due = self.plan.time.mul_f64(f64::from(number) / f64::from(self.plan.jobs.max(1)));
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
            let kind = Kind::of(number, self.cluster.size(), self.plan);
            for attempt in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    return tries;
                }
                let token = format!("j{number}.{attempt}");
                let began = Instant::now();
                let result = self.submit(&mut connection, &mut dice, &kind.request(&path, &token));
                let took = began.elapsed();
                tries.slowest = tries.slowest.max(took);
                if took > HANG {
                    let text = format!("no answer to a submit within {} s", HANG.as_secs());
                    tries.broken.push(text);
                }
                let id = result.as_ref().ok().copied();
                let at = self.begun.elapsed();
                let attempt = Attempt { token, kind, id, at };
                let mut jobs = self.jobs();
                if id.is_some() && matches!(kind.fate, Fate::Canceled | Fate::Signaled) {
                    let due = Instant::now() + dice.between(LIFE);
                    jobs.fated.push((due, attempt.clone()));
                }
                jobs.attempts.push(attempt);
                drop(jobs);
                match result {
                    Ok(_) => {
                        tries.times.push(wall());
                        tries.took.push(took);
                        break;
                    }
                    Err(reason) => {
                        connection = None;
                        tries.failed += 1;
                        *tries.reasons.entry(reason).or_default() += 1;
                        std::thread::sleep(PAUSE);
                    }
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn submit(
        &self,
        connection: &mut Option<Client>,
        dice: &mut Dice,
        request: &SubmitRequest,
    ) -> Result<u64, String> {
        if connection.is_none() {
            let rank = u32::try_from(dice.below(u64::from(self.cluster.size()))).unwrap_or(0);
            let client = Client::open_once(&self.cluster.uri(rank), Duration::from_secs(1))
                .map_err(|error| error.errno().text().to_string())?;
            *connection = Some(client);
        }
        let Some(client) = connection else { return Err("no connection".to_string()) };
        let answer = client.send::<Submit>(To::Any, request).wait_within(HANG + HANG);
        answer.map(|response| response.id).map_err(|error| error.to_string())
    }
}

/// What a job's log says, as a table for people.
#[must_use]
pub fn story(eventlog: &str) -> String {
    let mut text = String::new();
    for line in eventlog.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let time = event["timestamp"].as_f64().unwrap_or_default();
        let _ = write!(text, "\n    {time:.3} {}", event["name"].as_str().unwrap_or("?"));
        if !event["context"].is_null() {
            let _ = write!(text, " {}", event["context"]);
        }
    }
    text
}
