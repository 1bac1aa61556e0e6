//! `cargo run --release -p flux-chaos -- --minutes 5 --brokers 7 --jobs 3000`

use std::io::Write;
use std::process::ExitCode;

use flux_chaos::Plan;

fn say(text: &str) {
    // Nobody is left to be told when this fails.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn main() -> ExitCode {
    let report = Plan::parse(std::env::args().skip(1)).and_then(|plan| flux_chaos::run(&plan));
    match report {
        Ok(report) => {
            say(&report.text);
            for violation in &report.violations {
                say(&format!("VIOLATION: {violation}\n"));
            }
            for story in &report.stories {
                say(&format!("{story}\n"));
            }
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format!("flux-chaos: {error}\n"));
            ExitCode::from(2)
        }
    }
}
