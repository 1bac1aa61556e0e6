//! The jobs: what they do, and the clients that submit and follow them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flux_api::job::ingest::{Submit, SubmitRequest};
use flux_client::{Client, To};
use flux_id::JobId;
use serde_json::{Value, json};

use crate::Plan;
use crate::cluster::Cluster;
use crate::plan::Dice;

/// No answer within this time is a hang.
const HANG: Duration = Duration::from_secs(20);
/// Pause after a submit that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Nodes; each runs one task.
    pub nodes: u32,
    /// Lines that each task writes.
    pub lines: u32,
    /// Pause after each, in ms.
    pub pause: u32,
    /// Exit code of every task.
    pub code: i32,
}

impl Kind {
    /// The kind of job `number`: most are short, some take half a minute, some need several nodes,
    /// some fail.
    #[must_use]
    pub fn of(number: u32, nodes_max: u32, plan: &Plan) -> Self {
        let mut dice = Dice::new(u64::from(number) + 7919);
        let sort = dice.below(100);
        let wide = u64::from(plan.wide.min(100));
        let narrow = 100 - wide;
        let sort = match sort < narrow {
            // Parts of 92 that need one node, and of 8 that need several.
            true => sort * 92 / narrow.max(1),
            false => 92 + (sort - narrow) * 8 / wide.max(1),
        };
        let mut kind = match sort {
            0..60 => Kind { nodes: 1, lines: 3, pause: 0, code: 0 },
            60..85 => Kind { nodes: 1, lines: 20, pause: 100, code: 0 },
            85..90 => Kind { nodes: 1, lines: 100, pause: 200, code: 0 },
            90..92 => Kind { nodes: 1, lines: 5000, pause: 0, code: 0 },
            92..97 => Kind { nodes: 2, lines: 10, pause: 100, code: 0 },
            _ => Kind { nodes: 4, lines: 30, pause: 100, code: 0 },
        };
        kind.nodes = kind.nodes.min(nodes_max);
        if let Some(lines) =
            u32::try_from(plan.longest.as_millis()).ok().and_then(|ms| ms.checked_div(kind.pause))
        {
            kind.lines = kind.lines.min(lines);
        }
        if dice.below(20) == 0 {
            kind.code = 3;
        }
        kind
    }

    /// The output of one task.
    #[must_use]
    pub fn output(self, token: &str, rank: u32) -> String {
        let mut text = String::new();
        for line in 1..=self.lines {
            let _ = writeln!(text, "{token} {rank} {line}");
        }
        text
    }

    /// The script of its tasks. Each writes into a file of its own when it starts and ends.
    fn script(self, path: &str, token: &str) -> String {
        let sleep = match self.pause {
            0 => String::new(),
            ms => format!("sleep {}.{:03}; ", ms / 1000, ms % 1000),
        };
        format!(
            "f={path}/{token}.$FLUX_TASK_RANK; echo start $$ >>$f; i=1; \
             while [ $i -le {} ]; do echo {token} $FLUX_TASK_RANK $i; {sleep}i=$((i+1)); done; \
             echo end $$ >>$f; exit {}",
            self.lines, self.code
        )
    }

    fn request(self, path: &str, token: &str) -> SubmitRequest {
        let script = self.script(path, token);
        let spec = json!({
            "version": 1,
            "resources": [{"type": "node", "count": self.nodes, "exclusive": false, "with": [
                {"type": "slot", "count": 1, "label": "task",
                 "with": [{"type": "core", "count": 1}]}]}],
            "tasks": [{"command": ["sh", "-c", script], "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": {"duration": 0, "cwd": "/",
                "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
                "job": {"name": token}}},
        });
        let owner = rustix::process::getuid().as_raw();
        let j = flux_model::sign::wrap_none(spec.to_string().as_bytes(), owner);
        SubmitRequest { j, urgency: 16, flags: 0 }
    }
}

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

/// All of them.
#[derive(Debug, Default)]
pub struct Jobs {
    /// In the order of their end.
    pub attempts: Vec<Attempt>,
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
    /// When submits succeeded.
    pub times: Vec<Instant>,
    /// How long they took.
    pub took: Vec<Duration>,
    /// The longest wait for any answer.
    pub slowest: Duration,
    /// Outputs that were followed live and came out right.
    pub followed: u32,
    /// Followers that found no broker when they began.
    pub unopened: u32,
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
        self.followed += more.followed;
        self.unopened += more.unopened;
        self.broken.extend(more.broken);
    }
}

/// The longest time between two of these.
#[must_use]
pub fn longest_gap(times: &[Instant]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
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

    fn jobs(&self) -> std::sync::MutexGuard<'_, Jobs> {
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
                self.jobs().attempts.push(Attempt { token, kind, id, at });
                match result {
                    Ok(_) => {
                        tries.times.push(Instant::now());
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

    /// A client that follows the output of running jobs.
    pub fn follow(&self, number: u32, stop: &AtomicBool) -> Tries {
        let mut tries = Tries::default();
        let mut dice = Dice::new(self.plan.seed + 200 + u64::from(number));
        while !stop.load(Ordering::Relaxed) {
            let chosen = {
                let jobs = self.jobs();
                // One that was submitted a moment ago and is in no hurry.
                jobs.attempts
                    .iter()
                    .rev()
                    .take(40)
                    .find(|attempt| attempt.id.is_some() && attempt.kind.pause > 0)
                    .cloned()
            };
            let Some(Attempt { token, kind, id: Some(id), .. }) = chosen else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let rank = u32::try_from(dice.below(u64::from(self.cluster.size()))).unwrap_or(0);
            if Client::open_once(&self.cluster.uri(rank), Duration::from_secs(1)).is_err() {
                std::thread::sleep(PAUSE);
                continue;
            }
            let output = Command::new(self.cluster.flux())
                .args(["job", "attach", &JobId(id).dec()])
                .env("FLUX_URI", self.cluster.uri(rank))
                .stdin(Stdio::null())
                .output();
            match output {
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout);
                    let told = format!("{token}: followed at rank {rank}");
                    let errors = String::from_utf8_lossy(&output.stderr);
                    if text.is_empty() && errors.contains("flux_open:") {
                        // The broker was killed before the command could connect: it was told so.
                        tries.unopened += 1;
                        continue;
                    }
                    if let Err(text) = compare(&text, kind, &token) {
                        tries.broken.push(format!("{told}: {text}; it said: {errors}"));
                    } else if output.status.code() != Some(kind.code) {
                        let status = output.status;
                        tries.broken.push(format!("{told}: {status}; it said: {errors}"));
                    } else {
                        tries.followed += 1;
                    }
                }
                Err(error) => tries.broken.push(format!("flux job attach: {error}")),
            }
        }
        tries
    }
}

/// Compares the mixed output of all tasks with what it should be.
///
/// # Errors
/// What is missing or too much.
pub fn compare(text: &str, kind: Kind, token: &str) -> Result<usize, String> {
    for rank in 0..kind.nodes {
        let prefix = format!("{token} {rank} ");
        let mut got = text.split_inclusive('\n').filter(|line| line.starts_with(&prefix));
        for line in kind.output(token, rank).split_inclusive('\n') {
            let found = got.next();
            if found != Some(line) {
                return Err(format!("task {rank}: expected {line:?}, found {found:?}"));
            }
        }
        if let Some(more) = got.next() {
            return Err(format!("task {rank}: too much: {more:?}"));
        }
    }
    let lines = text.lines().count();
    let expected = (kind.nodes * kind.lines) as usize;
    if lines == expected { Ok(lines) } else { Err(format!("{lines} lines instead of {expected}")) }
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
