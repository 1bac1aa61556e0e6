//! An instance of real brokers whose processes are killed all the time, under a load of jobs.
//!
//! `cargo run --release -p flux-chaos -- --minutes 5 --brokers 7 --jobs 3000` starts a tree of
//! brokers from configuration on this host, lets clients submit jobs, and kills a random broker
//! with SIGKILL every second or two and starts it again. At the end it holds the instance to its
//! promises; every promise that was broken is a line, and the exit status.
//!
//! Read first: [`Plan`], [`run`], then [`verdict`]. Must never: count anything as kept that was not
//! looked at.

pub mod cluster;
pub mod killer;
pub mod load;
pub mod plan;
pub mod verdict;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use plan::Plan;

use cluster::{Cluster, Role};
use load::Load;
use verdict::Verdict;

/// Why the run could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// All figures, as a table.
    pub text: String,
    /// Promises that were broken, each as a sentence.
    pub violations: Vec<String>,
    /// What is known of the jobs that they are about, each a text of several lines.
    pub stories: Vec<String>,
}

/// Runs a plan.
///
/// # Errors
/// When the instance could not be started, or its state not be asked for.
pub fn run(plan: &Plan) -> Result<Report, Failure> {
    let begun = Instant::now();
    let cluster = Cluster::start(plan)?;
    let load = Load::new(plan, &cluster);
    let stop = AtomicBool::new(false);
    let (tries, kills) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..plan.clients)
            .map(|client| {
                let (load, stop) = (&load, &stop);
                scope.spawn(move || load.client(client, stop))
            })
            .collect();
        let followers: Vec<_> = (0..plan.followers)
            .map(|number| {
                let (load, stop) = (&load, &stop);
                scope.spawn(move || load.follow(number, stop))
            })
            .collect();
        let kills = killer::run(plan, &cluster, &load);
        stop.store(true, Ordering::Relaxed);
        let mut tries = load::Tries::default();
        for client in clients {
            match client.join() {
                Ok(more) => tries.add(more),
                Err(_) => tries.broken.push("a client panicked".to_string()),
            }
        }
        for follower in followers {
            match follower.join() {
                Ok(more) => tries.add(more),
                Err(_) => tries.broken.push("a follower panicked".to_string()),
            }
        }
        (tries, kills)
    });
    cluster.settle();
    let jobs = load.into_jobs();
    let waited = Instant::now();
    let mut verdict = Verdict::of(plan, &cluster, &jobs, &kills);
    let waited = waited.elapsed();
    verdict.violations.extend(tries.broken.iter().cloned());
    let own_restarts = cluster.restarts();
    let place = cluster.path().display().to_string();
    verdict.violations.extend(cluster.stop(plan));

    let mut text = String::new();
    let secs = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<44} {value}");
    };
    if plan.keep {
        row("directory, which is kept", place);
    }
    row("brokers", plan.brokers.to_string());
    row("levels of the tree below the leader", plan.tree.depth(plan.brokers).to_string());
    for setting in &plan.settings {
        row("configuration", setting.clone());
    }
    row("seed", plan.seed.to_string());
    row("time", secs(begun.elapsed()));
    for role in [Role::Leader, Role::Router, Role::Leaf] {
        let of: Vec<_> = kills.iter().filter(|kill| kill.role == role).collect();
        row(&format!("kills, {role}"), of.len().to_string());
        let back = of.iter().filter_map(|kill| kill.recovered).max();
        if let Some(back) = back {
            row(&format!("longest until ready again, {role}"), secs(back));
        }
    }
    row("restarts that brokers asked for", own_restarts.to_string());
    row("jobs acknowledged", jobs.acknowledged().to_string());
    row("submits refused or lost, and tried again", tries.failed.to_string());
    for (reason, count) in &tries.reasons {
        row(&format!("  {reason}"), count.to_string());
    }
    row("longest wait for the answer of a submit", secs(tries.slowest));
    row("longest time without a successful submit", secs(load::longest_gap(&tries.times)));
    row("median and longest time of a submit", {
        let mut times = tries.took.clone();
        times.sort();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        format!("{} / {}", secs(median), secs(times.last().copied().unwrap_or_default()))
    });
    row("outputs followed live", tries.followed.to_string());
    row("followers that found no broker", tries.unopened.to_string());
    row("until every job was at its end", secs(waited));
    row("jobs that ended as they should", verdict.good.to_string());
    row("lines of output compared", verdict.lines.to_string());
    row("attempts without acknowledgement that ran", verdict.unacknowledged.to_string());
    row("violations", verdict.violations.len().to_string());
    Ok(Report { text, violations: verdict.violations, stories: verdict.stories })
}
