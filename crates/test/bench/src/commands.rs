//! How long commands take, and how long an instance takes to come and go.

use std::process::{Command, Stdio};

use crate::instance::Instance;
use crate::table::{Design, Table, median};
use crate::{Failure, Plan};

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    let instance = Instance::start(plan, 1, &[])?;
    let settings = format!("1 broker, median of {}", plan.repeat);
    let commands: [(&[&str], f64); 5] = [
        (&["submit", "true"], 10.0),
        (&["run", "true"], 30.0),
        (&["jobs"], 10.0),
        (&["resource", "list"], 10.0),
        (&["queue", "status"], 10.0),
    ];
    for (words, most) in commands {
        let name = format!("flux {}", words.join(" "));
        match median(plan.repeat, || instance.flux(words).map(drop)) {
            Ok(time) => {
                let time = time.as_secs_f64() * 1e3;
                table.row(&name, time, "ms", Design::AtMost(most), &settings);
            }
            Err(error) => table.skipped(&name, &error.to_string()),
        }
    }
    Ok(())
}

pub(crate) fn start_and_stop(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    for &size in &plan.brokers {
        let most = match size {
            1 => Design::AtMost(0.1),
            4 => Design::AtMost(0.2),
            64 => Design::AtMost(1.0),
            _ => Design::Free,
        };
        let time = median(3, || {
            let mut command = Command::new(&plan.flux);
            command.args(["start", "-s", &size.to_string(), "true"]).stdin(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("flux start -s {size} true: {status}")),
                Err(error) => Err(error.to_string()),
            }
        })?;
        let settings = format!("{size} brokers, median of 3");
        table.row("flux start true", time.as_secs_f64(), "s", most, &settings);
    }
    Ok(())
}
