//! Sweeps seeds: `flux-sim --seeds COUNT --first SEED --threads NUMBER`, or shows one:
//! `flux-sim --show SEED`. `--stop 1` ends a sweep at the first seed that fails.
//! `flux-sim --boot SIZE --fanout K` boots one large instance, and tells how long it took.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use flux_sim::run::run;
use flux_sim::{Report, Scenario};

/// As the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Options {
    seeds: u64,
    first: u64,
    threads: u64,
    stop: bool,
    show: Option<u64>,
    boot: Option<u64>,
    fanout: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 1000,
        first: 0,
        threads: 1,
        stop: false,
        show: None,
        boot: None,
        fanout: 32,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{word}: a number must follow"))?;
        match word.as_str() {
            "--seeds" => options.seeds = number,
            "--first" => options.first = number,
            "--threads" => options.threads = number.clamp(1, 64),
            "--stop" => options.stop = number > 0,
            "--show" => options.show = Some(number),
            "--boot" => options.boot = Some(number),
            "--fanout" => options.fanout = number,
            _ => {
                let known = "--seeds, --first, --threads, --stop, --show, --boot or --fanout";
                return Err(format!("{word}: not {known}"));
            }
        }
    }
    Ok(options)
}

/// So often a sweep tells on stderr how far it is.
const PROGRESS: u64 = 1000;

/// What all seeds of a sweep came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: u64,
    seconds: f64,
    steps: u64,
    counts: BTreeMap<&'static str, u64>,
    /// An error of what is written to.
    trouble: Option<io::Error>,
}

impl Sum {
    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { seeds, failed, seconds, steps, .. } = self;
        writeln!(
            out,
            "{seeds} seeds, {failed} failed, {seconds:.0} virtual seconds, {steps} events"
        )?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(out, "  {name}: {count}"))
    }

    fn add(&mut self, seed: u64, report: &Report, out: &mut impl Write) -> io::Result<()> {
        self.seeds += 1;
        self.seconds += report.seconds;
        self.steps += report.steps;
        for (name, count) in &report.counts {
            *self.counts.entry(name).or_default() += count;
        }
        if !report.violations.is_empty() {
            self.failed += 1;
            writeln!(out, "seed {seed}: {}", report.violations.join("\n  "))?;
            writeln!(out, "  again: cargo run --release -p flux-sim -- --show {seed}")?;
        }
        Ok(())
    }
}

/// Runs seeds, each thread the next one that nobody has.
fn sweep(options: &Options, out: &mut (impl Write + Send)) -> io::Result<bool> {
    let end = options.first.saturating_add(options.seeds);
    let (next, over) = (AtomicU64::new(options.first), AtomicBool::new(false));
    let shared = Mutex::new((Sum::default(), out));
    let work = || {
        while !over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let report = run(Scenario::of(seed), false);
            let Ok(mut shared) = shared.lock() else { break };
            let (sum, out) = &mut *shared;
            let added = sum.add(seed, &report, out);
            if sum.seeds % PROGRESS == 0 {
                // Nobody to tell when stderr is closed.
                sum.table(&mut io::stderr()).ok();
            }
            if added.is_err() || (options.stop && sum.failed > 0) {
                over.store(true, Ordering::Relaxed);
            }
            sum.trouble = sum.trouble.take().or(added.err());
        }
    };
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(work);
        }
    });
    let (sum, out) = shared.into_inner().map_err(|_| io::Error::other("a seed panicked"))?;
    if let Some(error) = sum.trouble {
        return Err(error);
    }
    sum.table(out)?;
    Ok(sum.failed == 0)
}

/// Runs one seed and shows everything that happened.
fn show(seed: u64, out: &mut impl Write) -> io::Result<bool> {
    let report = run(Scenario::of(seed), true);
    writeln!(out, "{:?}", Scenario::of(seed))?;
    for line in &report.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "hash {:016x}", report.hash)?;
    for (name, count) in &report.counts {
        writeln!(out, "  {name}: {count}")?;
    }
    Sum::default().add(seed, &report, out)?;
    Ok(report.violations.is_empty())
}

/// Boots one instance and shows its figures.
fn boot(size: u64, fanout: u64, out: &mut impl Write) -> io::Result<bool> {
    let narrow = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let began = Instant::now();
    let figures = flux_sim::boot::boot(narrow(size)?, narrow(fanout)?).map_err(io::Error::other)?;
    writeln!(
        out,
        "{size} brokers, fanout {fanout}: boot {:.3} s, job on all {:.3} s, shutdown {:.3} s; {} \
         events in {:.1} s of real time",
        figures.boot,
        figures.job,
        figures.shutdown,
        figures.steps,
        began.elapsed().as_secs_f64()
    )?;
    Ok(true)
}

fn main() -> ExitCode {
    let mut out = io::stdout();
    let result = options().and_then(|options| {
        let done = match (options.boot, options.show) {
            (Some(size), _) => boot(size, options.fanout, &mut out),
            (None, Some(seed)) => show(seed, &mut out),
            (None, None) => sweep(&options, &mut out),
        };
        done.map_err(|error| error.to_string())
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            writeln!(io::stderr(), "flux-sim: {error}").ok();
            ExitCode::from(2)
        }
    }
}
