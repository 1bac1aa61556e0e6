//! An instance of real brokers whose processes are killed all the time, under a load of jobs.
//!
//! `cargo run --release -p flux-chaos -- --minutes 5 --brokers 7 --jobs 3000` starts a tree of
//! brokers from configuration on this host, lets clients submit jobs, and kills a random broker
//! with SIGKILL every second or two and starts it again. At the end it holds the instance to its
//! promises; every promise that was broken is a line, and the exit status.
//!
//! Meanwhile others make use of it ([`Extra`]): jobs are canceled, sent signals, ended by their time
//! limits; nodes are drained, the queue is stopped, brokers suspended and shut down; finished jobs
//! are looked at and purged.
//!
//! Read first: [`Plan`], [`run`], then [`verdict`]. Must never: count anything as kept that was not
//! looked at.

pub mod admin;
pub mod auditor;
pub mod board;
pub mod cluster;
pub mod command;
pub mod follow;
pub mod judge;
pub mod killer;
pub mod kind;
pub mod load;
pub mod plan;
mod report;
pub mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

pub use plan::Plan;

use admin::{Admin, Orders};
use auditor::Audits;
use board::Board;
use cluster::Cluster;
use follow::{Followed, Follower};
use load::{Load, Tries};
use plan::Extra;
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

/// What everybody met.
#[derive(Debug, Default)]
struct Met {
    tries: Tries,
    followed: Followed,
    orders: Orders,
    audits: Audits,
    broken: Vec<String>,
}

/// Waits for a thread.
fn join<T: Default>(thread: ScopedJoinHandle<'_, T>, broken: &mut Vec<String>) -> T {
    thread.join().unwrap_or_else(|_| {
        broken.push("a client panicked".to_string());
        T::default()
    })
}

/// The storm: everybody at work while brokers are killed.
fn storm<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    plan: &'env Plan,
    (cluster, load, board): (&'env Cluster, &'env Load<'env>, &'env Board),
    (stop, end): (&'env AtomicBool, &'env AtomicBool),
) -> Met {
    let has = |extra| plan.mix.contains(&extra);
    let mut met = Met::default();
    let watchers = [
        scope.spawn(move || board.watch_brokers(cluster, end)),
        scope.spawn(move || board.watch_nodes(cluster, end)),
    ];
    let clients: Vec<_> =
        (0..plan.clients).map(|number| scope.spawn(move || load.client(number, stop))).collect();
    let mut followers = Vec::new();
    for number in 0..plan.followers {
        let follower = Follower::new(plan, cluster, load, number);
        followers.push(scope.spawn(move || follower.outputs(stop)));
        if has(Extra::Events) {
            let follower = Follower::new(plan, cluster, load, 50 + number);
            followers.push(scope.spawn(move || follower.events(stop)));
        }
    }
    let admin = |number| Admin::new(plan, cluster, load, number);
    let mut settings = Vec::new();
    if has(Extra::Drain) {
        let admin = admin(0);
        settings.push(scope.spawn(move || admin.drain_nodes(board, stop)));
    }
    if has(Extra::Queue) {
        let admin = admin(1);
        settings.push(scope.spawn(move || admin.stop_queue(stop)));
    }
    let mut enders = Vec::new();
    if has(Extra::Cancel) || has(Extra::Signal) {
        for number in 2..5 {
            let admin = admin(number);
            enders.push(scope.spawn(move || admin.end_jobs(stop)));
        }
    }
    let auditor =
        has(Extra::Purge).then(|| scope.spawn(move || auditor::run(plan, cluster, load, stop)));

    met.broken.extend(killer::run(plan, cluster, load, board));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        met.tries.add(join(client, &mut met.broken));
    }
    for thread in settings {
        met.orders.add(join(thread, &mut met.broken));
    }
    // What was acknowledged last is kept by a leader that is killed once more. Then nothing keeps
    // jobs from running any more, so that everybody comes to an end.
    cluster.settle(cluster.size() - u32::from(met.orders.drained.is_some()));
    if has(Extra::Drain) || has(Extra::Queue) {
        cluster.kill(0);
        board.killed(0, cluster.role(0));
        drop(cluster.restart(0));
        board.started(0);
        cluster.settle(cluster.size() - u32::from(met.orders.drained.is_some()));
        met.broken.extend(Admin::new(plan, cluster, load, 5).look(&met.orders));
        cluster.settle(cluster.size());
    }
    for thread in enders {
        met.orders.add(join(thread, &mut met.broken));
    }
    for follower in followers {
        met.followed.add(join(follower, &mut met.broken));
    }
    if let Some(auditor) = auditor {
        met.audits = join(auditor, &mut met.broken);
    }
    end.store(true, Ordering::Relaxed);
    for watcher in watchers {
        join(watcher, &mut met.broken);
    }
    met
}

/// Runs a plan.
///
/// # Errors
/// When the instance could not be started, or its state not be asked for.
pub fn run(plan: &Plan) -> Result<Report, Failure> {
    let begun = Instant::now();
    let cluster = Cluster::start(plan)?;
    let load = Load::new(plan, &cluster);
    let board = Board::default();
    let (stop, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let met =
        std::thread::scope(|scope| storm(scope, plan, (&cluster, &load, &board), (&stop, &end)));
    let rest = Admin::new(plan, &cluster, &load, 6);
    let record = board.record();
    let waited = Instant::now();
    let mut verdict = {
        let jobs = load.jobs().clone();
        Verdict::of(plan, &cluster, &jobs, &met.audits)
    };
    let waited = waited.elapsed();
    // Jobs that wait for somebody to end them, and whose id nobody knows.
    if !plan.mix.is_empty() {
        verdict.violations.extend(rest.cancel_rest());
    }
    verdict.conclude(&cluster, &record, &met.orders.windows);
    for broken in [&met.broken, &met.tries.broken, &met.followed.broken, &met.orders.broken] {
        verdict.violations.extend(broken.iter().cloned());
    }
    let jobs = load.into_jobs();
    let mut text = report::Table::default();
    if plan.keep {
        text.row("directory, which is kept", cluster.path().display());
    }
    text.plan(plan);
    text.row("time", report::secs(begun.elapsed()));
    text.brokers(&record, &cluster);
    text.row("jobs acknowledged", jobs.acknowledged());
    text.clients(&met.tries, &record);
    text.others(&met.followed, &met.orders);
    text.row("until every job was at its end", report::secs(waited));
    text.jobs(&verdict);
    verdict.violations.extend(cluster.stop(plan));
    text.row("violations", verdict.violations.len());
    Ok(Report { text: text.text, violations: verdict.violations, stories: verdict.stories })
}
