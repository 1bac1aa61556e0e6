//! Jobs per second, and the memory they leave behind.

use std::time::{Duration, Instant};

use crate::instance::Instance;
use crate::table::{Design, Table};
use crate::{Failure, Plan};

const MIB: f64 = 1024.0 * 1024.0;

/// Submits jobs and waits until the last is done; how long that takes.
fn run(instance: &Instance, count: u64, mock: bool) -> Result<Duration, Failure> {
    let cc = format!("--cc=1-{count}");
    let begun = Instant::now();
    let mut words = vec!["submit", "--quiet", &cc];
    if mock {
        words.push("--setattr=exec.test.run_duration=0s");
    }
    words.push("true");
    instance.flux(&words)?;
    instance.flux(&["queue", "drain"])?;
    Ok(begun.elapsed())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    for mock in [false, true] {
        let (what, least) = if mock { ("mock jobs", 10_000.0) } else { ("jobs (true)", 1_000.0) };
        for size in [1, 4] {
            let mut rate: Option<f64> = None;
            for &count in &plan.jobs {
                let expected = rate.map_or(0.0, |rate| count as f64 / rate);
                let left = plan.deadline.saturating_duration_since(Instant::now()).as_secs_f64();
                if expected > left || left == 0.0 {
                    let why = format!("{count} jobs on {size} brokers: {expected:.0} s, no time");
                    table.skipped(what, &why);
                    continue;
                }
                let instance = Instance::start(plan, size, &[])?;
                let before = instance.memory()?;
                let time = run(&instance, count, mock)?;
                let reached = count as f64 / time.as_secs_f64();
                rate = Some(reached);
                let settings = format!("{count} jobs, {size} brokers, submit to last clean");
                table.row(what, reached, "/s", Design::AtLeast(least), &settings);
                if size == 1 {
                    let after = instance.memory()?;
                    if count == plan.jobs[0] && !mock {
                        let design = Design::AtMost(15.0);
                        table.row("memory of rank 0, idle", before / MIB, "MiB", design, "RSS");
                    }
                    let settings = format!("RSS after {count} of them");
                    let name = format!("memory of rank 0, {what}");
                    table.row(&name, after / MIB, "MiB", Design::Free, &settings);
                }
            }
        }
    }
    Ok(())
}
