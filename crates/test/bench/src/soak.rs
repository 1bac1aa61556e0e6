//! A soak: jobs come and are purged for minutes, while the store is collected as it sees fit.

use std::path::Path;
use std::time::{Duration, Instant};

use flux_api::body::AnyObject;
use flux_api::content::{BackingGcInfo, Collect, CollectRequest, GcInfo};
use flux_client::{Client, To};

use crate::instance::Instance;
use crate::table::{Design, Table};
use crate::{Failure, Plan};

/// Jobs of each submission, which are a second apart, and single submissions between them, of
/// which the latency is taken.
const BATCH: u64 = 30;
const SINGLES: usize = 20;

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    submits: Vec<Duration>,
    jobs: u64,
    /// The store at its largest in the second half, and its log then.
    largest: (GcInfo, u64),
    /// Sums of the live data that was known, and of samples, in the second half.
    live: (u64, u64),
    last: u64,
}

/// What a job is.
fn job(plan: &Plan) -> Vec<&'static str> {
    if plan.output {
        // 4.8 KB.
        vec!["seq", "1", "1200"]
    } else {
        vec!["--setattr=exec.test.run_duration=0s", "true"]
    }
}

fn submit(instance: &Instance, count: u64, job: &[&str]) -> Result<(), Failure> {
    let cc = format!("--cc=1-{count}");
    let mut words = vec!["submit", "--quiet"];
    if count > 1 {
        words.push(&cc);
    }
    words.extend_from_slice(job);
    instance.flux(&words)?;
    Ok(())
}

fn info(client: &Client) -> Result<GcInfo, Failure> {
    Ok(client.call::<BackingGcInfo>(To::Rank(0), &AnyObject::default())?)
}

fn work(plan: &Plan, instance: &Instance, directory: &Path) -> Result<Seen, Failure> {
    let client = instance.client()?;
    let time = plan.soak;
    let job = job(plan);
    let log = directory.join("content.sqlite-wal");
    let begun = Instant::now();
    let mut seen = Seen::default();
    while begun.elapsed() < time {
        let round = Instant::now();
        submit(instance, BATCH, &job)?;
        for _ in 0..SINGLES {
            let one = Instant::now();
            submit(instance, 1, &job)?;
            seen.submits.push(one.elapsed());
        }
        seen.jobs += BATCH + SINGLES as u64;
        let info = info(&client)?;
        if begun.elapsed() > time / 2 {
            seen.live = (seen.live.0 + info.live_bytes, seen.live.1 + 1);
            let log = std::fs::metadata(&log).map_or(0, |data| data.len());
            if info.file_bytes > seen.largest.0.file_bytes {
                seen.largest = (info, log);
            }
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    instance.flux(&["queue", "drain"])?;
    seen.last = info(&client)?.file_bytes;
    seen.submits.sort_unstable();
    Ok(seen)
}

/// Sets whether the store is collected.
fn configure(
    plan: &Plan,
    instance: &Instance,
    directory: &Path,
    collecting: bool,
) -> Result<(), Failure> {
    let path = directory.join("soak.toml");
    let text = format!(
        "[content]\ngc = {collecting}\n[job-manager]\ninactive-num-limit = {}\n",
        plan.keep
    );
    std::fs::write(&path, text)?;
    instance.flux(&["config", "load", &path.display().to_string()])?;
    Ok(())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    const MIB: f64 = 1024.0 * 1024.0;
    let time = plan.soak;
    let directory = tempfile::tempdir()?;
    let statedir = format!("-Sstatedir={}", directory.path().display());
    let instance = Instance::start(plan, 1, &[&statedir])?;
    configure(plan, &instance, directory.path(), true)?;
    submit(&instance, plan.keep, &job(plan))?;
    instance.flux(&["queue", "drain"])?;
    let mut p99 = None;
    for collecting in [false, true] {
        configure(plan, &instance, directory.path(), collecting)?;
        let seen = work(plan, &instance, directory.path())?;
        let at = |percent: usize| {
            let place = (seen.submits.len() * percent / 100).min(seen.submits.len() - 1);
            seen.submits[place].as_secs_f64() * 1e3
        };
        let how = if collecting { "collections as needed" } else { "no collection" };
        let settings = format!("{} jobs in {} s, {how}", seen.jobs, time.as_secs());
        let aim = match p99 {
            Some(alone) => Design::AtMost(1.5 * alone),
            None => Design::Free,
        };
        table.row("soak: flux submit, median", at(50), "ms", Design::Free, &settings);
        table.row("soak: flux submit, p99", at(99), "ms", aim, &settings);
        p99 = Some(at(99));
        if !collecting {
            table.row("soak: file", seen.last as f64 / MIB, "MiB", Design::Free, &settings);
            continue;
        }
        // What lives is known after a pass that has just been made.
        let client = instance.client()?;
        client.call::<Collect>(To::Rank(0), &CollectRequest { thorough: true })?;
        let info = info(&client)?;
        let live = info.live_bytes.max(1) as f64;
        let (largest, log) = &seen.largest;
        let kind = if plan.output { "jobs with output" } else { "mock jobs" };
        let settings =
            format!("{} {kind} kept, {} passes, second half", plan.keep, info.current_epoch);
        let mut bytes = |what: &str, bytes: u64| {
            table.row(what, bytes as f64 / MIB, "MiB", Design::Free, &settings);
        };
        bytes("soak: live data", info.live_bytes);
        bytes("soak: live data, mean of what was known", seen.live.0 / seen.live.1.max(1));
        bytes("soak: largest file", largest.file_bytes);
        bytes("soak: free pages in it", largest.free_bytes);
        bytes("soak: added since the last pass began", largest.added_bytes);
        bytes("soak: left standing by young passes", largest.settled_bytes);
        bytes("soak: log beside it", *log);
        let aim = Design::AtMost(2.0);
        let most = largest.file_bytes as f64;
        table.row("soak: largest file / live data", most / live, "", aim, &settings);
    }
    Ok(())
}
