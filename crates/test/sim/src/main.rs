//! Sweeps seeds: `flux-sim --seeds COUNT --first SEED`, or shows one: `flux-sim --show SEED`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use flux_sim::Scenario;
use flux_sim::run::run;

struct Options {
    seeds: u64,
    first: u64,
    show: Option<u64>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seeds: 1000, first: 0, show: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{word}: a number must follow"))?;
        match word.as_str() {
            "--seeds" => options.seeds = number,
            "--first" => options.first = number,
            "--show" => options.show = Some(number),
            _ => return Err(format!("{word}: not --seeds, --first or --show")),
        }
    }
    Ok(options)
}

fn sweep(options: &Options, out: &mut impl Write) -> io::Result<bool> {
    let (first, count, verbose) = match options.show {
        Some(seed) => (seed, 1, true),
        None => (options.first, options.seeds, false),
    };
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut failed, mut seconds, mut steps) = (0_u64, 0.0, 0_u64);
    for seed in first..first.saturating_add(count) {
        let report = run(Scenario::of(seed), verbose);
        seconds += report.seconds;
        steps += report.steps;
        for (name, count) in &report.counts {
            *counts.entry(name).or_default() += count;
        }
        if verbose {
            writeln!(out, "{:?}", Scenario::of(seed))?;
            for line in &report.lines {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "hash {:016x}", report.hash)?;
        }
        if !report.violations.is_empty() {
            failed += 1;
            writeln!(out, "seed {seed}: {}", report.violations.join("\n  "))?;
            writeln!(out, "  again: cargo run --release -p flux-sim -- --show {seed}")?;
        }
    }
    writeln!(out, "{count} seeds, {failed} failed, {seconds:.0} virtual seconds, {steps} events")?;
    for (name, count) in counts {
        writeln!(out, "  {name}: {count}")?;
    }
    Ok(failed == 0)
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let result =
        options().and_then(|options| sweep(&options, &mut out).map_err(|error| error.to_string()));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            writeln!(io::stderr(), "flux-sim: {error}").ok();
            ExitCode::from(2)
        }
    }
}
