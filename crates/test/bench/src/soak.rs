//! A soak: jobs come and are purged for minutes, while the store is collected as it sees fit.

use std::path::Path;
use std::time::{Duration, Instant};

use flux_api::body::AnyObject;
use flux_api::content::{BackingGcInfo, Collect, CollectRequest, GcInfo};
use flux_client::{Client, To};

use crate::instance::Instance;
use crate::table::{Design, Table};
use crate::{Failure, Plan};

/// Finished jobs that are kept. What was written within two grace times is in the file, too, so
/// that those of a small site would not be seen behind it.
const KEPT: u64 = 24_000;

/// Jobs of each submission, which are a second apart, and single submissions between them, of
/// which the latency is taken.
const BATCH: u64 = 30;
const SINGLES: usize = 20;

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    submits: Vec<Duration>,
    jobs: u64,
    /// Bytes of the file in its second half.
    files: Vec<u64>,
    last: u64,
}

fn info(client: &Client) -> Result<GcInfo, Failure> {
    Ok(client.call::<BackingGcInfo>(To::Rank(0), &AnyObject::default())?)
}

fn work(instance: &Instance, time: Duration) -> Result<Seen, Failure> {
    let client = instance.client()?;
    let mock = "--setattr=exec.test.run_duration=0s";
    let begun = Instant::now();
    let mut seen = Seen::default();
    while begun.elapsed() < time {
        let round = Instant::now();
        let cc = format!("--cc=1-{BATCH}");
        instance.flux(&["submit", "--quiet", &cc, mock, "true"])?;
        for _ in 0..SINGLES {
            let one = Instant::now();
            instance.flux(&["submit", "--quiet", mock, "true"])?;
            seen.submits.push(one.elapsed());
        }
        seen.jobs += BATCH + SINGLES as u64;
        let file = info(&client)?.file_bytes;
        if begun.elapsed() > time / 2 {
            seen.files.push(file);
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    instance.flux(&["queue", "drain"])?;
    seen.last = info(&client)?.file_bytes;
    seen.submits.sort_unstable();
    Ok(seen)
}

/// Sets whether the store is collected.
fn configure(instance: &Instance, directory: &Path, collecting: bool) -> Result<(), Failure> {
    let path = directory.join("soak.toml");
    let text =
        format!("[content]\ngc = {collecting}\n[job-manager]\ninactive-num-limit = {KEPT}\n");
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
    configure(&instance, directory.path(), true)?;
    let cc = format!("--cc=1-{KEPT}");
    instance.flux(&["submit", "--quiet", &cc, "--setattr=exec.test.run_duration=0s", "true"])?;
    instance.flux(&["queue", "drain"])?;
    let mut p99 = None;
    for collecting in [false, true] {
        configure(&instance, directory.path(), collecting)?;
        let seen = work(&instance, time)?;
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
        let most = seen.files.iter().copied().max().unwrap_or_default() as f64;
        let settings = format!("{KEPT} jobs kept, {} passes, second half", info.current_epoch);
        table.row("soak: live data", live / MIB, "MiB", Design::Free, &settings);
        table.row("soak: largest file", most / MIB, "MiB", Design::Free, &settings);
        let aim = Design::AtMost(2.0);
        table.row("soak: largest file / live data", most / live, "", aim, &settings);
    }
    Ok(())
}
