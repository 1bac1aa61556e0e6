//! Clients that follow jobs: their output, and their events.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flux_client::Client;
use flux_id::JobId;

use crate::Plan;
use crate::cluster::Cluster;
use crate::command::flux;
use crate::load::{Attempt, Load};
use crate::plan::{Dice, Extra};

const PAUSE: Duration = Duration::from_millis(100);
/// No event is waited for that does not come within this time.
const LATE: Duration = Duration::from_secs(240);

/// What they met.
#[derive(Debug, Default)]
pub struct Followed {
    /// Outputs that came out right.
    pub outputs: u32,
    /// Events that came.
    pub events: u32,
    /// Those who found no broker when they began.
    pub unopened: u32,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

impl Followed {
    /// Adds those of another client.
    pub fn add(&mut self, more: Followed) {
        self.outputs += more.outputs;
        self.events += more.events;
        self.unopened += more.unopened;
        self.broken.extend(more.broken);
    }
}

/// One who follows.
#[derive(Debug)]
pub struct Follower<'a> {
    plan: &'a Plan,
    cluster: &'a Cluster,
    load: &'a Load<'a>,
    dice: Dice,
    found: Followed,
}

impl<'a> Follower<'a> {
    /// The one of a number.
    #[must_use]
    pub fn new(plan: &'a Plan, cluster: &'a Cluster, load: &'a Load<'a>, number: u32) -> Self {
        let dice = Dice::new(plan.seed + 200 + u64::from(number));
        Self { plan, cluster, load, dice, found: Followed::default() }
    }

    /// A job that was submitted a moment ago and is in no hurry, and a broker that is there.
    fn choose(&mut self) -> Option<(Attempt, u64, u32)> {
        let chosen = {
            let jobs = self.load.jobs();
            let mut jobs = jobs.attempts.iter().rev().take(40);
            jobs.find(|attempt| attempt.id.is_some() && attempt.kind.pause > 0).cloned()
        };
        let rank = u32::try_from(self.dice.below(u64::from(self.cluster.size()))).unwrap_or(0);
        let there = Client::open_once(&self.cluster.uri(rank), Duration::from_secs(1)).is_ok();
        match chosen {
            Some(attempt) if there => attempt.id.map(|id| (attempt, id, rank)),
            _ => None,
        }
    }

    /// Follows the output of running jobs, until told to stop.
    #[must_use]
    pub fn outputs(mut self, stop: &AtomicBool) -> Followed {
        while !stop.load(Ordering::Relaxed) {
            match self.choose() {
                Some((attempt, id, rank)) => self.output(&attempt, id, rank),
                None => std::thread::sleep(PAUSE),
            }
        }
        self.found
    }

    fn output(&mut self, attempt: &Attempt, id: u64, rank: u32) {
        let Attempt { token, kind, .. } = attempt;
        let output = Command::new(self.cluster.flux())
            .args(["job", "attach", &JobId(id).dec()])
            .env("FLUX_URI", self.cluster.uri(rank))
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return self.found.broken.push(format!("flux job attach: {error}")),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let told = format!("{token}: followed at rank {rank}");
        let errors = String::from_utf8_lossy(&output.stderr);
        if text.is_empty() && errors.contains("flux_open:") {
            // The broker was killed before the command could connect: it was told so.
            self.found.unopened += 1;
            return;
        }
        if self.is_purged(&errors) {
            return;
        }
        let right = match output.status.code() {
            Some(code) if kind.ends() => code == kind.code,
            code => code.is_some_and(|code| code > 0),
        };
        match kind.compare(&text, token) {
            Err(text) => self.found.broken.push(format!("{told}: {text}; it said: {errors}")),
            Ok(_) if !right => {
                let status = output.status;
                self.found.broken.push(format!("{told}: {status}; it said: {errors}"));
            }
            Ok(_) => self.found.outputs += 1,
        }
    }

    /// The job was purged while its follower could not be told of its end.
    fn is_purged(&self, said: &str) -> bool {
        let gone = ["No such job", "not found"].iter().any(|text| said.contains(text));
        gone && self.plan.mix.contains(&Extra::Purge)
    }

    /// Waits for events of jobs, until told to stop. Each event that is waited for comes in the end.
    #[must_use]
    pub fn events(mut self, stop: &AtomicBool) -> Followed {
        while !stop.load(Ordering::Relaxed) {
            let Some((attempt, id, rank)) = self.choose() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let name = match self.dice.below(4) {
                0 if attempt.kind.ends() => "start",
                1 if attempt.kind.ends() => "finish",
                2 if attempt.kind.ends() => "shell.start",
                _ => "clean",
            };
            let path = if name == "shell.start" { "exec" } else { "eventlog" };
            let id = JobId(id).dec();
            let words = ["job", "wait-event", "--quiet", "--path", path, &id, name];
            match flux(self.cluster, rank, &words, LATE.max(self.plan.patience)) {
                Ok(done) if done.ok => self.found.events += 1,
                Ok(done) if self.is_purged(&done.said) => {}
                Ok(done) if done.said.contains("flux_open:") => self.found.unopened += 1,
                Ok(done) => {
                    let token = &attempt.token;
                    let text = format!("{token}: no {name} at rank {rank}: {}", done.said.trim());
                    self.found.broken.push(text);
                }
                Err(text) => self.found.broken.push(format!("{}: {text}", attempt.token)),
            }
        }
        self.found
    }
}
