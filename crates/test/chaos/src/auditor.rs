//! Looks at jobs that have ended while others run, and has some of them purged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flux_client::Client;
use flux_id::JobId;

use crate::Plan;
use crate::cluster::Cluster;
use crate::command::{HANG, flux};
use crate::judge::{Judged, fetch, is_over, judge};
use crate::kind::Fate;
use crate::load::{Attempt, Load};
use crate::plan::Dice;

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(2);
/// Jobs that are asked for in a round.
const ROUND: usize = 60;

/// A job that was looked at and found good.
#[derive(Debug, Clone)]
pub struct Audit {
    /// What was found.
    pub judged: Judged,
    /// Its eventlog, which has to stay as it is.
    pub log: String,
    /// A purge was asked for; acknowledged or not.
    pub purged: Option<bool>,
}

/// What was found, by job id.
#[derive(Debug, Default)]
pub struct Audits {
    /// Good jobs.
    pub jobs: BTreeMap<u64, Audit>,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

/// Looks at jobs until told to stop.
#[must_use]
pub fn run(plan: &Plan, cluster: &Cluster, load: &Load<'_>, stop: &AtomicBool) -> Audits {
    let mut audits = Audits::default();
    let mut dice = Dice::new(plan.seed + 500);
    while !stop.load(Ordering::Relaxed) {
        let until = Instant::now() + PAUSE;
        let rank = u32::try_from(dice.below(u64::from(cluster.size()))).unwrap_or(0);
        if let Ok(client) = Client::open_once(&cluster.uri(rank), Duration::from_secs(1)) {
            look(load, &client, &mut audits);
        }
        purge(cluster, &mut dice, &mut audits);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    audits
}

/// Some that were not looked at yet and are old enough to be at their end.
fn candidates(load: &Load<'_>, audits: &Audits) -> Vec<(Attempt, u64)> {
    let jobs = load.jobs();
    let fated = |fate| matches!(fate, Fate::Canceled | Fate::Signaled);
    jobs.attempts
        .iter()
        .filter_map(|attempt| attempt.id.map(|id| (attempt, id)))
        .filter(|(attempt, id)| !fated(attempt.kind.fate) || jobs.orders.contains_key(id))
        .filter(|(_, id)| !audits.jobs.contains_key(id))
        .take(ROUND)
        .map(|(attempt, id)| (attempt.clone(), id))
        .collect()
}

fn look(load: &Load<'_>, client: &Client, audits: &mut Audits) {
    for (attempt, id) in candidates(load, audits) {
        let order = load.jobs().orders.get(&id).copied().unwrap_or_default();
        let log = match fetch(client, id, "eventlog") {
            Ok(Some(log)) if is_over(&log) => log,
            Ok(_) => continue,
            // The broker was killed.
            Err(_) => return,
        };
        // What is wrong is told in the end, with all that is known.
        if let Ok(judged) = judge(client, &attempt, id, &log, order) {
            audits.jobs.insert(id, Audit { judged, log, purged: None });
        }
    }
}

/// Every other good job is purged.
fn purge(cluster: &Cluster, dice: &mut Dice, audits: &mut Audits) {
    let ids: Vec<u64> = audits
        .jobs
        .iter()
        .filter(|(_, audit)| audit.purged != Some(true))
        .filter(|(_, audit)| audit.purged.is_some() || audit.log.len() % 2 == 0)
        .map(|(id, _)| *id)
        .take(ROUND)
        .collect();
    if ids.is_empty() {
        return;
    }
    // One that is gone already fails the request: what may have been purged is asked for alone.
    let (again, first): (Vec<u64>, Vec<u64>) =
        ids.into_iter().partition(|id| audits.jobs.get(id).is_some_and(|job| job.purged.is_some()));
    for id in again.into_iter().take(5) {
        purge_these(cluster, dice, audits, &[id]);
    }
    if !first.is_empty() {
        purge_these(cluster, dice, audits, &first);
    }
}

fn purge_these(cluster: &Cluster, dice: &mut Dice, audits: &mut Audits, ids: &[u64]) {
    let names: Vec<String> = ids.iter().map(|id| JobId(*id).dec()).collect();
    let mut words = vec!["job", "purge", "--force"];
    words.extend(names.iter().map(String::as_str));
    let rank = u32::try_from(dice.below(u64::from(cluster.size()))).unwrap_or(0);
    let done = match flux(cluster, rank, &words, HANG) {
        Ok(done) => done.ok || (ids.len() == 1 && done.said.contains("not found")),
        Err(text) => {
            audits.broken.push(text);
            false
        }
    };
    for id in ids {
        if let Some(audit) = audits.jobs.get_mut(id) {
            audit.purged = Some(done);
        }
    }
}
