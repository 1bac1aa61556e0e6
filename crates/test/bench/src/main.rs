//! Measures an instance on this machine and prints a table, beside what the machine itself can do
//! and the figures the design aims at.
//!
//! `cargo run --release -p flux-bench -- [--quick | --full] [--only PART] [--soak SECONDS]
//! [--flux PROGRAM]`. It needs a release build of the `flux` program, by default the one beside it.
//! `--soak` makes only the soak, in twice that time; `--keep JOBS` says how many finished jobs it
//! keeps, and `--output` makes them print something. Timings are no tests: nothing fails because it
//! is slow.

mod archive;
mod commands;
mod floor;
mod instance;
mod jobs;
mod messages;
mod recovery;
mod soak;
mod store;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::table::Table;

/// Why a measurement was not made.
type Failure = Box<dyn std::error::Error>;

/// Measures one part.
type Measure = fn(&Plan, &mut Table) -> Result<(), Failure>;

/// What is measured, and for how long.
#[derive(Debug)]
struct Plan {
    flux: PathBuf,
    /// Numbers of jobs with processes, and with mock execution.
    jobs: Vec<u64>,
    /// Numbers of brokers that are started and stopped.
    brokers: Vec<u32>,
    /// Numbers of finished jobs that an instance is started with.
    history: Vec<u64>,
    /// Numbers of finished jobs in an archive that was filled by hand.
    records: Vec<u64>,
    /// Numbers of active jobs that an instance is started with.
    active: Vec<u64>,
    /// Length of each half of the soak; it is made only when it is asked for.
    soak: Duration,
    /// Finished jobs that the soak keeps, and whether they are processes that print something.
    keep: u64,
    output: bool,
    /// Only this part.
    only: Option<String>,
    /// Repetitions of what takes milliseconds.
    repeat: usize,
    /// When nothing long is begun any more.
    deadline: Instant,
}

fn plan(mut words: impl Iterator<Item = String>) -> Result<Plan, Failure> {
    let beside = std::env::current_exe()?.with_file_name("flux");
    let mut plan = Plan {
        flux: beside,
        jobs: vec![1_000, 10_000],
        brokers: vec![1, 4, 16, 64],
        history: vec![1_000, 16_000, 64_000],
        records: vec![1_000, 64_000],
        active: vec![100, 1_000],
        soak: Duration::from_secs(60),
        keep: 24_000,
        output: false,
        only: None,
        repeat: 20,
        deadline: Instant::now() + Duration::from_secs(300),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => {
                plan.jobs = vec![1_000];
                plan.brokers = vec![1, 4, 16];
                plan.history = vec![1_000];
                plan.active = vec![100, 1_000];
                plan.repeat = 10;
                plan.deadline = Instant::now() + Duration::from_secs(60);
            }
            "--full" => {
                plan.jobs = vec![1_000, 10_000, 50_000];
                plan.history = vec![1_000, 64_000, 500_000];
                plan.records = vec![1_000, 64_000, 500_000];
                plan.active = vec![100, 1_000, 10_000];
                plan.deadline = Instant::now() + Duration::from_secs(600);
            }
            "--only" => plan.only = Some(words.next().ok_or("--only needs the name of a part")?),
            "--soak" => {
                let seconds = words.next().and_then(|text| text.parse().ok());
                plan.soak = Duration::from_secs(seconds.ok_or("--soak needs seconds")?);
                plan.only = Some("soak".to_string());
            }
            "--keep" => {
                let jobs = words.next().and_then(|text| text.parse().ok());
                plan.keep = jobs.ok_or("--keep needs a number of jobs")?;
            }
            "--output" => plan.output = true,
            "--flux" => plan.flux = words.next().ok_or("--flux needs a path")?.into(),
            other => {
                let text = "usage: flux-bench [--quick | --full] [--only PART] \
                            [--soak SECONDS] [--keep JOBS] [--output] [--flux PROGRAM]";
                return Err(format!("unknown option '{other}'\n{text}").into());
            }
        }
    }
    if !plan.flux.is_file() {
        let text = "build it with: cargo build --release -p flux";
        return Err(format!("{}: no such program; {text}", plan.flux.display()).into());
    }
    Ok(plan)
}

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            table::complain(&format!("flux-bench: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut table = Table::new(&plan);
    let parts: [(&str, Measure); 9] = [
        ("floor", floor::measure),
        ("commands", commands::measure),
        ("start and stop", commands::start_and_stop),
        ("messages", messages::measure),
        ("archive", archive::measure),
        ("jobs", jobs::measure),
        ("store", store::measure),
        ("recovery", recovery::measure),
        ("soak", soak::measure),
    ];
    for (name, measure) in parts {
        // The soak takes minutes.
        if plan.only.as_deref().map_or(name == "soak", |only| only != name) {
            continue;
        }
        if let Err(error) = measure(&plan, &mut table) {
            table.failed(name, &error.to_string());
        }
    }
    table.end();
    ExitCode::SUCCESS
}
