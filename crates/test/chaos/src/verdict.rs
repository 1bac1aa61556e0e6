//! Holds the instance to its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use flux_client::Client;
use flux_id::JobId;
use flux_model::eventlog::Event;

use crate::Plan;
use crate::admin::Window;
use crate::auditor::Audits;
use crate::board::Record;
use crate::cluster::Cluster;
use crate::judge::{Doubt, Judged, fetch, is_over, judge};
use crate::kind::Fate;
use crate::load::{Attempt, Jobs, Order, story};

/// An allocation is on record a moment after it was decided.
const MOMENT: f64 = 1.0;

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
    /// Jobs that were purged, acknowledged.
    pub purged: usize,
    /// Jobs that were canceled, sent a signal, ended by their time limit.
    pub fates: [usize; 3],
    /// Longest that a job ran beyond its time limit, in seconds.
    pub longest_over: f64,
    /// Broken promises.
    pub violations: Vec<String>,
    /// What is known of the jobs that they are about.
    pub stories: Vec<String>,
    suspects: BTreeSet<u64>,
    judged: Vec<Judged>,
    logs: BTreeMap<u64, String>,
}

impl Verdict {
    /// Waits until every job is at its end, then looks at everything.
    #[must_use]
    pub fn of(plan: &Plan, cluster: &Cluster, jobs: &Jobs, audits: &Audits) -> Self {
        let mut verdict = Verdict::default();
        let mut ids = BTreeSet::new();
        let mut waiting: Vec<&Attempt> = Vec::new();
        for attempt in &jobs.attempts {
            if let Some(id) = attempt.id {
                if !ids.insert(id) {
                    let id = JobId(id).f58();
                    verdict.broken(attempt, &format!("id {id} was given to another job too"));
                }
                if !audits.jobs.contains_key(&id) {
                    waiting.push(attempt);
                }
            }
        }
        if jobs.acknowledged() < plan.jobs as usize {
            let text = format!("only {} jobs were ever acknowledged", jobs.acknowledged());
            verdict.violations.push(text);
        }
        verdict.violations.extend(audits.broken.iter().cloned());
        let Some(logs) = verdict.wait(plan, cluster, waiting) else { return verdict };
        match Client::open_once(&cluster.uri(0), Duration::from_secs(5)) {
            Ok(client) => {
                for attempt in &jobs.attempts {
                    let Some(id) = attempt.id else { continue };
                    if let Some(log) = logs.get(&id) {
                        let order = jobs.orders.get(&id).copied().unwrap_or_default();
                        verdict.judge(&client, attempt, id, log, order);
                    } else if let Some(audit) = audits.jobs.get(&id) {
                        verdict.good(attempt, audit.judged.clone());
                        verdict.audited(&client, attempt, id, audits);
                    }
                }
            }
            Err(error) => verdict.violations.push(format!("the leader is away: {error}")),
        }
        verdict.overlaps();
        for attempt in &jobs.attempts {
            verdict.files(cluster, attempt, jobs);
        }
        verdict.logs = logs;
        verdict
    }

    /// Waits until jobs are at their end; their eventlogs.
    fn wait(
        &mut self,
        plan: &Plan,
        cluster: &Cluster,
        mut waiting: Vec<&Attempt>,
    ) -> Option<BTreeMap<u64, String>> {
        // Patience is with an instance that gets nothing done, not with a long queue.
        let mut until = Instant::now() + plan.patience;
        let mut logs: BTreeMap<u64, String> = BTreeMap::new();
        while !waiting.is_empty() {
            let Ok(client) = Client::open_once(&cluster.uri(0), Duration::from_secs(5)) else {
                if Instant::now() > until {
                    self.violations.push("the leader does not listen any more".to_string());
                    return None;
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
                    Ok(Some(log)) if is_over(&log) => {
                        logs.insert(id, log);
                        false
                    }
                    Ok(Some(log)) if late => {
                        logs.insert(id, log);
                        self.broken(attempt, "does not end");
                        false
                    }
                    Ok(None) => {
                        self.broken(attempt, "is lost: it was acknowledged, and has no log");
                        false
                    }
                    Err(error) if late => {
                        self.broken(attempt, &format!("cannot be asked for: {error}"));
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
        Some(logs)
    }

    fn good(&mut self, attempt: &Attempt, judged: Judged) {
        self.good += 1;
        self.lines += judged.lines;
        match attempt.kind.fate {
            Fate::Ends => {}
            Fate::Canceled => self.fates[0] += 1,
            Fate::Signaled => self.fates[1] += 1,
            Fate::Limited(_) => self.fates[2] += 1,
        }
        self.longest_over = self.longest_over.max(judged.over.unwrap_or_default());
        self.judged.push(judged);
    }

    /// What was good stays as it is, or is gone when it was purged.
    fn audited(&mut self, client: &Client, attempt: &Attempt, id: u64, audits: &Audits) {
        let Some(audit) = audits.jobs.get(&id) else { return };
        match (fetch(client, id, "eventlog"), audit.purged) {
            (Ok(None), Some(true)) => self.purged += 1,
            (Ok(Some(_)), Some(true)) => self.broken(attempt, "was purged, and is back"),
            (Ok(None), None) => self.broken(attempt, "was at its end, and is gone"),
            (Ok(Some(log)), _) if log != audit.log => {
                self.broken(attempt, &format!("its log was changed after its end: {}", audit.log));
            }
            (Err(error), _) => self.broken(attempt, &format!("cannot be asked for: {error}")),
            _ => {}
        }
    }

    /// The last part: no processes are left, nothing was started where and when it must not be, and
    /// whatever tells why jobs went wrong.
    pub fn conclude(&mut self, cluster: &Cluster, record: &Record, windows: &[Window]) {
        self.windows(windows);
        self.processes(cluster);
        let logs = std::mem::take(&mut self.logs);
        self.tell(cluster, &logs, record);
    }

    /// While a node was drained nothing was started there; nor anywhere while the queue was stopped.
    fn windows(&mut self, windows: &[Window]) {
        for judged in &self.judged {
            let Some((from, _, r)) = &judged.held else { continue };
            for window in windows {
                let within = *from > window.from + MOMENT && *from < window.to;
                let here = |rank| r.iter().any(|(other, _, _)| other == rank);
                if within && window.rank.is_none_or(here) {
                    let what = window.rank.map_or("the queue was stopped".to_string(), |rank| {
                        format!("rank {rank} was drained")
                    });
                    let since = from - window.from;
                    let text = format!("{} was started {since:.2} s after {what}", judged.token);
                    self.violations.push(text);
                }
            }
        }
    }

    /// Everything that may tell why a job went wrong.
    fn tell(&mut self, cluster: &Cluster, logs: &BTreeMap<u64, String>, record: &Record) {
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
            for kill in record.kills.iter().filter(|kill| kill.at < to) {
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

    fn judge(&mut self, client: &Client, attempt: &Attempt, id: u64, log: &str, order: Order) {
        match judge(client, attempt, id, log, order) {
            Ok(judged) => self.good(attempt, judged),
            Err(Doubt::Later(error)) => self.broken(attempt, &format!("cannot be seen: {error}")),
            Err(Doubt::Broken(texts)) => {
                for text in texts {
                    self.broken(attempt, &text);
                }
            }
        }
    }

    /// No core may belong to two jobs at a time.
    fn overlaps(&mut self) {
        self.judged.sort_by(|a, b| {
            let from = |judged: &Judged| judged.held.as_ref().map_or(0.0, |held| held.0);
            from(a).total_cmp(&from(b))
        });
        let mut last: BTreeMap<(u32, u32), (f64, &str)> = BTreeMap::new();
        for job in &self.judged {
            let Some((from, to, r)) = &job.held else { continue };
            for (rank, _, children) in r.iter() {
                for core in children.cores.ids() {
                    if let Some((until, other)) = last.insert((rank, core), (*to, &job.token))
                        && until > *from
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
    fn files(&mut self, cluster: &Cluster, attempt: &Attempt, jobs: &Jobs) {
        let mut ran = false;
        let order = attempt.id.and_then(|id| jobs.orders.get(&id)).copied().unwrap_or_default();
        for rank in 0..attempt.kind.nodes {
            let text = cluster.file(&attempt.token, rank);
            let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
            let (starts, ends) = (count("start "), count("end "));
            ran |= starts > 0;
            if starts > 1 || ends > 1 {
                self.broken(attempt, &format!("task {rank} ran {starts} times: {text:?}"));
            } else if !attempt.kind.ends() && ends > 0 {
                self.broken(attempt, &format!("task {rank} ran to its end: {text:?}"));
            } else if attempt.kind.ends() && attempt.id.is_some() && (starts, ends) != (1, 1) {
                self.broken(attempt, &format!("task {rank} did not run to its end: {text:?}"));
            }
            let heard = u32::try_from(count("heard")).unwrap_or(u32::MAX);
            if heard > order.sent || (heard == 0 && ends > 0 && order.sent > 0) {
                let sent = order.sent;
                self.broken(attempt, &format!("task {rank} heard {heard} signals, sent {sent}"));
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
