//! The store: what durability costs, bytes per job before and after a collection, what a
//! collection costs those who commit meanwhile, and how long a restart takes with a history.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flux_api::body::AnyObject;
use flux_api::content::{BackingGcInfo, Collect, CollectRequest, GcInfo};
use flux_client::Client;
use flux_client::To;

use crate::instance::Instance;
use crate::messages::{commit_rate, put};
use crate::table::{Design, Table, median};
use crate::{Failure, Plan};

/// Commits of which a quantile is taken.
const COMMITS: u32 = 4_000;

fn statedir(directory: &Path) -> String {
    format!("-Sstatedir={}", directory.display())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    durability(plan, table)?;
    collection(plan, table)?;
    restart(plan, table)
}

fn durability(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    for synced in [false, true] {
        let directory = tempfile::tempdir()?;
        let option = statedir(directory.path());
        let options: &[&str] = if synced { &[&option] } else { &[] };
        let instance = Instance::start(plan, 1, options)?;
        let how = if synced { "each synced" } else { "not synced" };
        for (in_flight, least) in [(1, 1_000.0), (16, 10_000.0)] {
            let rate = commit_rate(&instance.client()?, in_flight)?;
            let settings = format!("{in_flight} in flight, {how}");
            table.row("KVS commits", rate, "/s", Design::AtLeast(least), &settings);
        }
        let count = plan.jobs[0];
        let begun = Instant::now();
        run_jobs(&instance, count, false)?;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        let settings = format!("{count} jobs, {how}");
        table.row("jobs (true)", rate, "/s", Design::AtLeast(1_000.0), &settings);
    }
    Ok(())
}

fn run_jobs(instance: &Instance, count: u64, mock: bool) -> Result<(), Failure> {
    let cc = format!("--cc=1-{count}");
    let mut words = vec!["submit", "--quiet", &cc];
    if mock {
        words.push("--setattr=exec.test.run_duration=0s");
    }
    words.push("true");
    instance.flux(&words)?;
    instance.flux(&["queue", "drain"])?;
    Ok(())
}

fn info(client: &Client) -> Result<GcInfo, Failure> {
    Ok(client.call::<BackingGcInfo>(To::Rank(0), &AnyObject::default())?)
}

fn collect(client: &Client) -> Result<(), Failure> {
    for _ in 0..2 {
        client.call::<Collect>(To::Rank(0), &CollectRequest { thorough: false })?;
    }
    Ok(())
}

/// Collects again and again, through a connection of its own.
fn collect_until(instance: &Instance, stop: &AtomicBool, passes: &AtomicU64) {
    let Ok(client) = instance.client() else { return };
    while !stop.load(Ordering::Relaxed) && collect(&client).is_ok() {
        passes.fetch_add(2, Ordering::Relaxed);
    }
}

/// Commits one after the other; the time that so many of a hundred stay below, and the median.
fn latency(client: &Client) -> Result<(f64, f64), Failure> {
    let mut times = Vec::new();
    for number in 0..COMMITS {
        let begun = Instant::now();
        put(client, number).wait()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Ok((at(99), at(50)))
}

fn collection(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let option = statedir(directory.path());
    let options = [option.as_str(), "--conf=content.gc-grace=0s", "--conf=content.gc=false"];
    let instance = Instance::start(plan, 1, &options)?;
    let client = instance.client()?;
    let count = plan.jobs[0];
    let per_job = |bytes: u64| bytes as f64 / count as f64;
    let empty = info(&client)?.file_bytes;
    run_jobs(&instance, count, false)?;
    let before = info(&client)?.file_bytes.saturating_sub(empty);
    let settings = format!("{count} jobs (true), file without its log");
    table.row("store, per job", per_job(before), "B", Design::Free, &settings);
    let begun = Instant::now();
    collect(&client)?;
    let settings = format!("two passes over {count} jobs");
    table.row("collection", begun.elapsed().as_secs_f64() * 1e3, "ms", Design::Free, &settings);
    let after = info(&client)?;
    let settings = "after a collection".to_string();
    let bytes = per_job(after.file_bytes.saturating_sub(empty));
    table.row("store, per job", bytes, "B", Design::AtMost(2_048.0), &settings);
    let live = after.file_bytes as f64 / after.live_bytes.max(1) as f64;
    table.row("file / live data", live, "", Design::AtMost(2.0), &settings);
    let (alone, middle) = latency(&client)?;
    table.row("KVS commit, p99", alone, "us", Design::Free, "synced, no collection");
    table.row("KVS commit, median", middle, "us", Design::Free, "synced, no collection");
    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (busy, middle) = std::thread::scope(|scope| {
        scope.spawn(|| collect_until(&instance, &stop, &passes));
        let measured = latency(&client);
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    let settings = format!("synced, {} passes meanwhile", passes.load(Ordering::Relaxed));
    table.row("KVS commit, p99", busy, "us", Design::AtMost(alone * 1.5), &settings);
    table.row("KVS commit, median", middle, "us", Design::Free, &settings);
    submits(plan, table, &instance)
}

/// `flux submit` with and without collections meanwhile.
fn submits(plan: &Plan, table: &mut Table, instance: &Instance) -> Result<(), Failure> {
    let p99 = |instance: &Instance| -> Result<f64, Failure> {
        let mut times = Vec::new();
        for _ in 0..plan.repeat * 20 {
            let begun = Instant::now();
            instance.flux(&["submit", "--setattr=exec.test.run_duration=0s", "true"])?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() * 99 / 100].as_secs_f64() * 1e3)
    };
    let alone = p99(instance)?;
    table.row("flux submit, p99", alone, "ms", Design::Free, "synced, no collection");
    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    let busy = std::thread::scope(|scope| {
        scope.spawn(|| collect_until(instance, &stop, &passes));
        let measured = p99(instance);
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    let aim = Design::AtMost(alone * 1.5);
    table.row("flux submit, p99", busy, "ms", aim, "synced, collections meanwhile");
    Ok(())
}

/// Start and stop of an instance with a history, without those of an empty one.
fn restart(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    let mut last = 0;
    let directory = tempfile::tempdir()?;
    let option = statedir(directory.path());
    for &count in &plan.history {
        let left = plan.deadline.saturating_duration_since(Instant::now());
        // About two thousand jobs a second.
        if left < Duration::from_millis((count - last) / 2) {
            table.skipped("restart", &format!("{count} jobs in history: no time"));
            continue;
        }
        let instance = Instance::start(plan, 1, &[&option])?;
        run_jobs(&instance, count - last, true)?;
        drop(instance);
        last = count;
        let time = median(3, || {
            let mut command = Command::new(&plan.flux);
            command.args(["start", "-s", "1", &option, "true"]).stdin(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("flux start with a history: {status}")),
                Err(error) => Err(error.to_string()),
            }
        })?;
        let settings = format!("{count} jobs in history, start and stop");
        table.row("restart", time.as_secs_f64(), "s", Design::AtMost(1.0), &settings);
        let size = std::fs::metadata(directory.path().join("content.sqlite"))?.len();
        let per_job = size as f64 / count as f64;
        table.row("store, per job", per_job, "B", Design::Free, &format!("{count} mock jobs"));
    }
    Ok(())
}
