//! The table, printed row by row.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::Plan;

/// What the design asks of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Design {
    /// Nothing.
    Free,
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// Rows that were printed.
#[derive(Debug)]
pub(crate) struct Table {
    begun: Instant,
    met: u32,
    missed: u32,
}

/// A line to stderr.
pub(crate) fn complain(text: &str) {
    // Nothing can be done when nobody listens.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()));
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Table {
    /// Prints the head: what is measured, and where.
    pub(crate) fn new(plan: &Plan) -> Self {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: Vec<&str> = load.split(' ').take(1).collect();
        let build = if cfg!(debug_assertions) { "debug (not meaningful)" } else { "release" };
        line(&format!(
            "{}: {cpus} cpus, load {} at the start, bench built as {build}",
            plan.flux.display(),
            load.concat()
        ));
        line(&format!(
            "{:34} {:>10} {:7} {:>12}  {:8} settings",
            "what", "measured", "unit", "design", "verdict"
        ));
        Self { begun: Instant::now(), met: 0, missed: 0 }
    }

    /// Prints a figure.
    pub(crate) fn row(&mut self, what: &str, value: f64, unit: &str, aim: Design, settings: &str) {
        let (design, met) = match aim {
            Design::Free => (String::new(), None),
            Design::AtMost(most) => (format!("<= {}", figure(most)), Some(value <= most)),
            Design::AtLeast(least) => (format!(">= {}", figure(least)), Some(value >= least)),
        };
        let verdict = match met {
            None => "",
            Some(true) => "met",
            Some(false) => "NOT MET",
        };
        self.met += u32::from(met == Some(true));
        self.missed += u32::from(met == Some(false));
        line(&format!(
            "{what:34} {:>10} {unit:7} {design:>12}  {verdict:8} {settings}",
            figure(value)
        ));
    }

    /// Says that something was not measured.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        line(&format!("{what:34} {:>10} {why}", "-"));
    }

    /// Says why a part broke off.
    pub(crate) fn failed(&mut self, part: &str, why: &str) {
        line(&format!("{part}: broke off: {why}"));
    }

    /// Prints the sum.
    pub(crate) fn end(&self) {
        line(&format!(
            "{} design figures met, {} not met; {:.0} s",
            self.met,
            self.missed,
            self.begun.elapsed().as_secs_f64()
        ));
    }
}

/// Runs something some times; the median of how long it takes.
///
/// # Errors
/// Its own.
pub(crate) fn median<E>(
    times: usize,
    mut run: impl FnMut() -> Result<(), E>,
) -> Result<Duration, E> {
    let mut taken = Vec::with_capacity(times.max(1));
    for _ in 0..times.max(1) {
        let begun = Instant::now();
        run()?;
        taken.push(begun.elapsed());
    }
    taken.sort();
    Ok(taken[taken.len() / 2])
}
