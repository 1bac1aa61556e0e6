//! Holds the instance to its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use flux_api::RpcError;
use flux_api::job::info::{InfoLookup, Lookup};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_model::resource_set::ResourceSet;
use flux_model::stdio::{Header, StdioEvent};
use flux_proto::Errno;
use serde_json::Value;

use crate::Plan;
use crate::cluster::Cluster;
use crate::killer::Kill;
use crate::load::{Attempt, Jobs, compare, story};

/// Jobs that went wrong of which everything is told.
const STORIES: usize = 20;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Jobs that ended as they should.
    pub good: usize,
    /// Lines of output that were compared.
    pub lines: usize,
    /// Jobs that ran although their client never learned so.
    pub unacknowledged: usize,
    /// Broken promises.
    pub violations: Vec<String>,
    /// What is known of the jobs that they are about.
    pub stories: Vec<String>,
    suspects: BTreeSet<u64>,
}

fn fetch(client: &Client, id: u64, key: &str) -> Result<Option<String>, RpcError> {
    let request = InfoLookup { id, keys: vec![key.to_string()], flags: 0 };
    let time = Duration::from_secs(20);
    match client.send::<Lookup>(To::Any, &request).wait_within(time) {
        Ok(mut found) => match found.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            _ => Ok(None),
        },
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// The output of a job.
fn output(log: &str) -> Result<String, String> {
    let mut header: Option<Header> = None;
    let mut text = String::new();
    for line in log.split_inclusive('\n') {
        let event = Event::decode(line).map_err(|error| error.to_string())?;
        match StdioEvent::decode(&event, header.as_ref()).map_err(|error| error.to_string())? {
            StdioEvent::Header(found) => header = Some(found),
            StdioEvent::Data(data) if data.stream == "stdout" => {
                let data = data.data.unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&data));
            }
            _ => {}
        }
    }
    Ok(text)
}

/// From when to when a job had its resources.
struct Held {
    token: String,
    from: f64,
    to: f64,
    r: ResourceSet,
}

impl Verdict {
    /// Waits until every job is at its end, then looks at everything.
    #[must_use]
    pub fn of(plan: &Plan, cluster: &Cluster, jobs: &Jobs, kills: &[Kill]) -> Self {
        let mut verdict = Verdict::default();
        let mut ids = BTreeSet::new();
        let mut held = Vec::new();
        // Patience is with an instance that gets nothing done, not with a long queue.
        let mut until = Instant::now() + plan.patience;
        let mut waiting: Vec<&Attempt> = Vec::new();
        for attempt in &jobs.attempts {
            if let Some(id) = attempt.id {
                if !ids.insert(id) {
                    let id = JobId(id).f58();
                    verdict.broken(attempt, &format!("id {id} was given to another job too"));
                }
                waiting.push(attempt);
            }
        }
        if jobs.acknowledged() < plan.jobs as usize {
            let text = format!("only {} jobs were ever acknowledged", jobs.acknowledged());
            verdict.violations.push(text);
        }
        let mut logs: BTreeMap<u64, String> = BTreeMap::new();
        while !waiting.is_empty() {
            let Ok(client) = Client::open_once(&cluster.uri(0), Duration::from_secs(5)) else {
                if Instant::now() > until {
                    verdict.violations.push("the leader does not listen any more".to_string());
                    return verdict;
                }
                cluster.tend();
                std::thread::sleep(Duration::from_millis(200));
                continue;
            };
            let late = Instant::now() > until;
            let before = waiting.len();
            waiting.retain(|attempt| {
                let Some(id) = attempt.id else { return false };
                match fetch(&client, id, "eventlog") {
                    Ok(Some(log)) if log.contains("\"name\":\"clean\"") => {
                        logs.insert(id, log);
                        false
                    }
                    Ok(Some(log)) if late => {
                        logs.insert(id, log);
                        verdict.broken(attempt, "does not end");
                        false
                    }
                    Ok(None) => {
                        verdict.broken(attempt, "is lost: it was acknowledged, and has no log");
                        false
                    }
                    Err(error) if late => {
                        verdict.broken(attempt, &format!("cannot be asked for: {error}"));
                        false
                    }
                    _ => true,
                }
            });
            if waiting.len() < before {
                until = Instant::now() + plan.patience;
            }
            cluster.tend();
            std::thread::sleep(Duration::from_millis(200));
        }
        match Client::open_once(&cluster.uri(0), Duration::from_secs(5)) {
            Ok(client) => {
                for attempt in &jobs.attempts {
                    let log = attempt.id.and_then(|id| logs.get(&id));
                    if let (Some(id), Some(log)) = (attempt.id, log) {
                        verdict.judge(&client, attempt, id, log, &mut held);
                    }
                }
            }
            Err(error) => verdict.violations.push(format!("the leader is away: {error}")),
        }
        verdict.overlaps(&mut held);
        for attempt in &jobs.attempts {
            verdict.files(cluster, attempt);
        }
        verdict.processes(cluster);
        verdict.tell(cluster, &logs, kills);
        verdict
    }

    /// Everything that may tell why a job went wrong.
    fn tell(&mut self, cluster: &Cluster, logs: &BTreeMap<u64, String>, kills: &[Kill]) {
        let client = Client::open_once(&cluster.uri(0), Duration::from_secs(5));
        for id in self.suspects.iter().take(STORIES) {
            let log = logs.get(id).map_or("", String::as_str);
            let mut text = format!("{}:{}", JobId(*id).f58(), story(log));
            let exec = client
                .as_ref()
                .ok()
                .and_then(|client| fetch(client, *id, "guest.exec.eventlog").ok().flatten());
            let _ = write!(text, "\n  its execution:{}", story(&exec.unwrap_or_default()));
            let times: Vec<f64> = log
                .lines()
                .filter_map(|line| Event::decode(line).ok())
                .map(|event| event.timestamp)
                .collect();
            let from = times.first().copied().unwrap_or_default() - 2.0;
            let to = times.last().copied().unwrap_or(f64::MAX) + 1.0;
            text.push_str("\n  brokers that were away:");
            for kill in kills.iter().filter(|kill| kill.at < to) {
                let back = kill.started.unwrap_or(f64::MAX);
                if back > from {
                    let _ = write!(text, "\n    {:.3} to {back:.3} rank {}", kill.at, kill.rank);
                }
            }
            self.stories.push(text);
        }
    }

    fn broken(&mut self, attempt: &Attempt, text: &str) {
        self.suspects.extend(attempt.id);
        let id = attempt.id.map_or_else(String::new, |id| format!(" ({})", JobId(id).f58()));
        let at = attempt.at.as_secs_f64();
        self.violations.push(format!("{}{id}, submitted at {at:.1} s: {text}", attempt.token));
    }

    fn judge(
        &mut self,
        client: &Client,
        attempt: &Attempt,
        id: u64,
        log: &str,
        held: &mut Vec<Held>,
    ) {
        let before = self.violations.len();
        let events: Vec<Event> = log.lines().filter_map(|line| Event::decode(line).ok()).collect();
        let count = |name: &str| events.iter().filter(|event| event.name == name).count();
        for name in ["submit", "alloc", "start", "finish", "free", "clean"] {
            if count(name) != 1 {
                let text = format!("{} events '{name}'", count(name));
                self.broken(attempt, &text);
                return;
            }
        }
        if count("exception") > 0 {
            self.broken(attempt, "an exception was raised");
        }
        let time = |name: &str| {
            events.iter().find(|event| event.name == name).map_or(0.0, |event| event.timestamp)
        };
        let status = events.iter().find(|event| event.name == "finish");
        let status = status.and_then(|event| event.get_i64("status"));
        if status != Some(i64::from(attempt.kind.code) << 8) {
            self.broken(attempt, &format!("status {status:?}"));
        }
        match fetch(client, id, "guest.output") {
            Ok(Some(text)) => {
                match output(&text).and_then(|text| compare(&text, attempt.kind, &attempt.token)) {
                    Ok(lines) => self.lines += lines,
                    Err(text) => self.broken(attempt, &format!("output: {text}")),
                }
            }
            Ok(None) => self.broken(attempt, "has no output"),
            Err(error) => self.broken(attempt, &format!("output: {error}")),
        }
        match fetch(client, id, "R") {
            Ok(Some(text)) => {
                let r = serde_json::from_str(&text)
                    .ok()
                    .and_then(|value: Value| ResourceSet::from_value(&value).ok());
                if let Some(r) = r {
                    let (from, to) = (time("alloc"), time("free"));
                    held.push(Held { token: attempt.token.clone(), from, to, r });
                }
            }
            other => self.broken(attempt, &format!("has no R: {other:?}")),
        }
        if self.violations.len() == before {
            self.good += 1;
        }
    }

    /// No core may belong to two jobs at a time.
    fn overlaps(&mut self, held: &mut [Held]) {
        held.sort_by(|a, b| a.from.total_cmp(&b.from));
        let mut last: BTreeMap<(u32, u32), (f64, String)> = BTreeMap::new();
        for job in held {
            for (rank, _, children) in job.r.iter() {
                for core in children.cores.ids() {
                    let entry = (job.to, job.token.clone());
                    if let Some((to, other)) = last.insert((rank, core), entry)
                        && to > job.from
                    {
                        let text = format!(
                            "core {core} of rank {rank} belonged to both {other} and {}",
                            job.token
                        );
                        self.violations.push(text);
                    }
                }
            }
        }
    }

    /// No task may have run twice, and those of acknowledged jobs once.
    fn files(&mut self, cluster: &Cluster, attempt: &Attempt) {
        let mut ran = false;
        for rank in 0..attempt.kind.nodes {
            let path = cluster.path().join("jobs").join(format!("{}.{rank}", attempt.token));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
            let (starts, ends) = (count("start "), count("end "));
            ran |= starts > 0;
            if starts > 1 || ends > 1 {
                self.broken(attempt, &format!("task {rank} ran {starts} times: {text:?}"));
            } else if attempt.id.is_some() && (starts, ends) != (1, 1) {
                self.broken(attempt, &format!("task {rank} did not run to its end: {text:?}"));
            }
        }
        if ran && attempt.id.is_none() {
            self.unacknowledged += 1;
        }
    }

    /// Nothing may be left of jobs that have ended. Attempts that were not acknowledged may run.
    fn processes(&mut self, cluster: &Cluster) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let left: Vec<(i32, String)> = cluster
                .processes()
                .into_iter()
                .filter(|(_, words)| !words.contains("broker -c") && !words.contains("supervise"))
                .collect();
            if left.is_empty() {
                return;
            }
            if Instant::now() > until {
                for (pid, words) in left {
                    self.violations.push(format!("process {pid} is left: {words}"));
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
