//! The progress bar of many jobs.

use std::{io::IsTerminal, time::Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Tally;

/// A bar on standard error; nothing where that is no terminal.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
    rate: bool,
    since: Instant,
}

impl Bar {
    /// A bar for `total` jobs; with `rate` it shows jobs per second.
    pub(crate) fn new(wanted: bool, total: u64, rate: bool) -> Self {
        let bar = (wanted && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {percent:>3}% {elapsed}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, rate, since: Instant::now() }
    }

    /// Shows how far the jobs are.
    pub(crate) fn show(&self, tally: &Tally, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_message(message(
                tally,
                total,
                self.rate.then(|| self.since.elapsed().as_secs_f64()),
            ));
            bar.set_position(tally.done);
        }
    }

    /// Leaves the bar as it is.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn message(tally: &Tally, total: u64, seconds: Option<f64>) -> String {
    let pending = total.saturating_sub(tally.running + tally.done);
    let Tally { running, completed, failed, done, .. } = tally;
    let mut text = format!("PD:{pending:<4} R:{running:<4} CD:{completed:<4} F:{failed:<4}");
    if let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0) {
        text.push_str(&format!(" {:.1} job/s", *done as f64 / seconds));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_running_or_done_is_pending() {
        let tally = Tally { all: 5, running: 1, completed: 2, failed: 1, done: 3 };
        assert_eq!(message(&tally, 10, None), "PD:6    R:1    CD:2    F:1   ");
        assert!(message(&tally, 10, Some(2.0)).ends_with(" 1.5 job/s"));
    }
}
