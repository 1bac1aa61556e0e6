//! How long an instance takes to come back, by what it has to remember.

use std::path::Path;
use std::time::Instant;

use flux_api::archive::ArchivedJob;
use flux_store::archive::JobArchive;
use serde_json::json;

use crate::instance::Instance;
use crate::table::{Design, Table};
use crate::{Failure, Plan};

/// Jobs that wait while an instance with much history is away.
const ACTIVE: u64 = 1_000;

const MIB: f64 = 1024.0 * 1024.0;

/// A finished job like many others; ids are below those of the instance.
fn record(n: u64) -> Result<ArchivedJob, Failure> {
    let t = 1_700_000_000.0 + n as f64;
    let rank = n % 64;
    let annotations = format!("{{\"sched\":{{\"resource_summary\":\"rank{rank}/core[0-3]\"}}}}");
    Ok(serde_json::from_value(json!({
        "id": n + 1, "userid": 1000 + n % 50, "urgency": 16, "priority": 16, "t_submit": t,
        "t_depend": t, "t_priority": t, "t_sched": t, "t_run": t + 1.0, "t_cleanup": t + 2.0,
        "t_inactive": t + 3.0, "result": 1, "waitstatus": 0, "started": true,
        "name": format!("step-{}", n % 1000), "cwd": "/home/someone/project", "ntasks": 4,
        "ncores": 4, "nnodes": 1, "duration": 3600.0, "expiration": t + 3600.0,
        "ranks": rank.to_string(), "nodelist": format!("node{rank}"), "annotations": annotations,
    }))?)
}

/// Fills the archive of an instance that is not running.
fn fill(statedir: &Path, count: u64) -> Result<(), Failure> {
    let (mut archive, _) = JobArchive::open(statedir)?;
    let mut next = archive.info()?.count.saturating_sub(1);
    while next < count {
        let end = (next + 4000).min(count);
        let jobs = (next..end).map(record).collect::<Result<Vec<_>, _>>()?;
        archive.put(&jobs)?;
        next = end;
    }
    Ok(())
}

/// Starts an instance with what its state directory has; the time until it can be used.
fn started(
    plan: &Plan,
    table: &mut Table,
    options: &[&str],
    active: u64,
    finished: u64,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let instance = Instance::start(plan, 1, options)?;
    let ready = begun.elapsed();
    let listed = instance.flux(&["jobs", "--no-header", "-c0", "-o", "{id}"])?;
    let all_active = begun.elapsed();
    let some = instance.flux(&["jobs", "-a", "--no-header", "-c5", "-o", "{id}"])?;
    let known = begun.elapsed();
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    if (lines(&listed.stdout), lines(&some.stdout)) != (active, 5) {
        return Err(
            format!("after a restart with {finished} finished jobs some are missing").into()
        );
    }
    let what = format!("{finished} finished, {active} active jobs");
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    table.row("restart: ready", ms(ready), "ms", Design::AtMost(1_000.0), &what);
    table.row("restart: active jobs listed", ms(all_active), "ms", Design::Free, &what);
    table.row("restart: finished jobs known", ms(known), "ms", Design::Free, &what);
    let memory = instance.memory()?;
    table.row("restart: memory of rank 0", memory / MIB, "MiB", Design::Free, &what);
    Ok(())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    for &active in &plan.active {
        let directory = tempfile::tempdir()?;
        let option = format!("-Sstatedir={}", directory.path().display());
        let options = [option.as_str()];
        let first = Instance::start(plan, 1, &options)?;
        first.flux(&["submit", "--quiet", "--wait", "true"])?;
        let waiting = format!("--cc=1-{active}");
        first.flux(&["submit", "--quiet", "--urgency=hold", &waiting, "true"])?;
        drop(first);
        // The numbers of finished jobs, each with a thousand active ones; else the least of them.
        let all = active == ACTIVE;
        for &count in plan.records.iter().take(if all { plan.records.len() } else { 1 }) {
            if Instant::now() >= plan.deadline {
                table.skipped("restart", &format!("{count} finished jobs: no time"));
                continue;
            }
            fill(directory.path(), count)?;
            started(plan, table, &options, active, count)?;
        }
    }
    Ok(())
}
