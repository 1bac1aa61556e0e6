//! How long an instance of seven brokers cannot be used when one of them is killed and started
//! again at once.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use flux_chaos::cluster::Cluster;

use crate::table::{Design, Table};
use crate::{Failure, Plan};

/// What anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn submit(cluster: &Cluster, rank: u32) -> bool {
    let mut command = Command::new(cluster.flux());
    command.args(["submit", "--setattr=exec.test.run_duration=0s", "true"]);
    command.env("FLUX_URI", cluster.uri(rank)).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn until(what: &str, done: impl Fn() -> bool) -> Result<Duration, Failure> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("no {what} within {} s", PATIENCE.as_secs()).into());
        }
        sleep(Duration::from_millis(2));
    }
    Ok(begun.elapsed())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    let mut chaos = flux_chaos::Plan::new(plan.flux.clone());
    chaos.brokers = 7;
    let cluster = Cluster::start(&chaos).map_err(|error| error.to_string())?;
    let times = plan.repeat.div_ceil(2);
    // Whom to kill, and from where to use the instance.
    for (role, rank, at) in
        [("leader", 0, 0), ("leader", 0, 6), ("router", 1, 3), ("router", 1, 0), ("leaf", 6, 6)]
    {
        until("submission", || submit(&cluster, at))?;
        let (mut usable, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..times {
            cluster.kill(rank);
            let begun = Instant::now();
            cluster.restart(rank).map_err(|error| error.to_string())?;
            until("submission", || submit(&cluster, at))?;
            usable.push(begun.elapsed());
            until("whole instance", || cluster.nodes_up() == Some(7))?;
            whole.push(begun.elapsed());
        }
        let mut row = |what: &str, mut times: Vec<Duration>, aim: Design| {
            times.sort_unstable();
            let ms = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3);
            let settings = format!(
                "{role} killed, used at rank {at}; worst of {} ({:.0} ms median)",
                times.len(),
                ms(times.len() / 2)
            );
            table.row(what, ms(times.len() - 1), "ms", aim, &settings);
        };
        row("kill to submit works again", usable, Design::Free);
        row("kill to all nodes schedulable", whole, Design::AtMost(5_000.0));
    }
    drop(cluster.stop(&chaos));
    Ok(())
}
