//! Numbers of jobs by state and result, of all and of each queue (`job-stats`).

use std::collections::BTreeMap;

use flux_model::job_event::{JobResult, JobState, StateMask};
use serde_json::{Map, Value, json};

use crate::view::JobView;

/// What a job counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its state.
    pub state: JobState,
    /// Its result, when it is over.
    pub result: Option<JobResult>,
}

impl Kind {
    /// What this job counts as.
    #[must_use]
    pub fn of(job: &JobView<'_>) -> Self {
        Self { state: job.state, result: job.result }
    }
}

/// Numbers of a set of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Tally {
    /// By the number of the bit of the state.
    states: [u64; 7],
    /// By the number of the bit of the result.
    results: [u64; 4],
    purged: u64,
}

impl Tally {
    fn change(&mut self, kind: Kind, by: i64) {
        let add = |number: &mut u64| *number = number.saturating_add_signed(by);
        add(&mut self.states[kind.state.bit().trailing_zeros() as usize]);
        if let Some(result) = kind.result {
            add(&mut self.results[result.bit().trailing_zeros() as usize]);
        }
    }

    fn state(&self, state: JobState) -> u64 {
        self.states[state.bit().trailing_zeros() as usize]
    }

    fn put(&self, into: &mut Map<String, Value>) {
        let result = |result: JobResult| self.results[result.bit().trailing_zeros() as usize];
        let total: u64 = self.states.iter().sum();
        into.insert(
            "job_states".to_string(),
            json!({
                "depend": self.state(JobState::Depend),
                "priority": self.state(JobState::Priority),
                "sched": self.state(JobState::Sched),
                "run": self.state(JobState::Run),
                "cleanup": self.state(JobState::Cleanup),
                "inactive": self.state(JobState::Inactive),
                "total": total - self.state(JobState::New),
            }),
        );
        for (name, number) in [
            ("successful", result(JobResult::Completed)),
            ("failed", result(JobResult::Failed)),
            ("canceled", result(JobResult::Canceled)),
            ("timeout", result(JobResult::Timeout)),
            ("inactive_purged", self.purged),
        ] {
            into.insert(name.to_string(), number.into());
        }
    }
}

/// Numbers of jobs, and of those in each queue.
#[derive(Debug, Default)]
struct Numbers {
    all: Tally,
    queues: BTreeMap<String, Tally>,
}

impl Numbers {
    fn each(&mut self, queue: Option<&str>, f: impl Fn(&mut Tally)) {
        f(&mut self.all);
        let Some(queue) = queue else { return };
        if let Some(tally) = self.queues.get_mut(queue) {
            f(tally);
        } else {
            f(self.queues.entry(queue.to_string()).or_default());
        }
    }

    fn reset(&mut self) {
        let clear = |tally: &mut Tally| *tally = Tally { purged: tally.purged, ..Tally::default() };
        clear(&mut self.all);
        self.queues.values_mut().for_each(clear);
    }

    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        self.all.put(&mut body);
        let queues = self.queues.iter().map(|(name, tally)| {
            let mut queue = Map::new();
            queue.insert("name".to_string(), name.as_str().into());
            tally.put(&mut queue);
            Value::Object(queue)
        });
        body.insert("queues".to_string(), queues.collect());
        body
    }
}

/// All numbers, and those of each user.
#[derive(Debug, Default)]
pub struct Counts {
    everybody: Numbers,
    users: BTreeMap<u32, Numbers>,
}

impl Counts {
    fn each(&mut self, userid: u32, queue: Option<&str>, f: impl Fn(&mut Tally)) {
        self.everybody.each(queue, &f);
        self.users.entry(userid).or_default().each(queue, &f);
    }

    /// A job appears.
    pub fn add(&mut self, userid: u32, queue: Option<&str>, kind: Kind) {
        self.each(userid, queue, |tally| tally.change(kind, 1));
    }

    /// A job goes.
    pub fn remove(&mut self, userid: u32, queue: Option<&str>, kind: Kind) {
        self.each(userid, queue, |tally| tally.change(kind, -1));
    }

    /// A finished job was purged: it is counted as such.
    pub fn purged(&mut self, userid: u32, queue: Option<&str>) {
        self.each(userid, queue, |tally| tally.purged += 1);
    }

    /// Forgets all numbers but those of purged jobs.
    pub fn reset(&mut self) {
        self.everybody.reset();
        self.users.values_mut().for_each(Numbers::reset);
    }

    /// Jobs in any of these states.
    #[must_use]
    pub fn in_states(&self, states: StateMask) -> u64 {
        JobState::ALL
            .into_iter()
            .filter(|state| states.contains(*state))
            .map(|state| self.everybody.all.state(state))
            .sum()
    }

    /// The body of a `job-stats` response: of all jobs, or those of one user.
    #[must_use]
    pub fn body(&self, of: Option<u32>) -> Map<String, Value> {
        match of {
            None => self.everybody.body(),
            Some(user) => {
                self.users.get(&user).map_or_else(|| Numbers::default().body(), Numbers::body)
            }
        }
    }
}
