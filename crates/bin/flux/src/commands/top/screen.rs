//! What `flux top` shows: lines made from what is known, cut to the window.

use flux_format::{Format, RenderOptions, format_fsd};
use serde_json::{Map, Value};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{
    commands::LocalZone,
    jobs::{JobRow, headings::JobHeadings},
};

/// Columns of a job.
const JOB: &str = "{id.f58:>12} {username:<8.8} {queue:<8.8} {status_abbrev:>2.2} {ntasks:>6h} \
                   {nnodes:>6h} {runtime!F:>8h} {name}";
const TITLE: &str = "       JOBID USER     QUEUE    ST NTASKS NNODES     TIME NAME";
/// Columns of a bar.
const BAR: usize = 24;

/// How much of something there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) used: u64,
    pub(super) all: u64,
    pub(super) down: u64,
}

/// A line of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line(String);

impl Line {
    pub(super) fn of(row: &JobRow) -> Self {
        let options = RenderOptions { header: false, ..RenderOptions::default() };
        let rows = std::slice::from_ref(row);
        let text = Format::parse(JOB)
            .ok()
            .and_then(|format| {
                format.render(&JobHeadings, rows, &LocalZone::system(), options).ok()
            })
            .unwrap_or_default();
        Self(text.concat())
    }
}

/// Everything that is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) size: String,
    pub(super) depth: String,
    pub(super) version: String,
    /// Seconds.
    pub(super) uptime: Option<f64>,
    /// Nodes, cores, gpus.
    pub(super) amounts: [Amount; 3],
    /// Answer of `job-list.job-stats`.
    pub(super) stats: Map<String, Value>,
    pub(super) jobs: Vec<Line>,
}

/// How a line is set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Bold,
    /// The heading, or the chosen job.
    Inverse,
}

impl View {
    /// The lines of a window of so many rows and columns, with a job chosen.
    pub(super) fn lines(&self, window: (usize, usize), chosen: usize) -> Vec<(Look, String)> {
        let (rows, columns) = window;
        let mut lines = vec![(Look::Bold, self.head())];
        let number = |name: &str| self.stats.get(name).and_then(Value::as_u64).unwrap_or(0);
        let states = self.stats.get("job_states");
        let state = |name: &str| states.and_then(|states| states[name].as_u64()).unwrap_or(0);
        let pending = state("depend") + state("priority") + state("sched");
        let failed = number("failed") + number("canceled") + number("timeout");
        let counts = [
            format!("{pending} pending"),
            format!("{} running", state("run") + state("cleanup")),
            format!("{} complete, {failed} failed", number("successful")),
        ];
        for ((name, amount), count) in
            ["nodes", "cores", "gpus"].into_iter().zip(self.amounts).zip(counts)
        {
            lines.push((Look::Plain, format!("{name:>5} {}   {count}", bar(amount))));
        }
        lines.push((Look::Inverse, format!("{TITLE:<columns$}")));
        let room = rows.saturating_sub(lines.len());
        // The chosen one is always in sight.
        let first = (chosen + 1).saturating_sub(room);
        for (at, job) in self.jobs.iter().enumerate().skip(first).take(room) {
            let look = if at == chosen { Look::Inverse } else { Look::Plain };
            lines.push((look, job.0.clone()));
        }
        lines.truncate(rows);
        lines.into_iter().map(|(look, line)| (look, cut(&line, columns))).collect()
    }

    fn head(&self) -> String {
        let up = self.uptime.map_or_else(String::new, |s| format!("  up {}", format_fsd(s)));
        let Self { name, size, depth, version, .. } = self;
        format!("{name}  size {size}  depth {depth}{up}  {version}")
    }
}

/// A bar with numbers: `[||||xx    3/8]`, where x is down.
fn bar(amount: Amount) -> String {
    let Amount { used, all, down } = amount;
    let share = |part: u64| match all {
        0 => 0,
        all => {
            usize::try_from(part.min(all).saturating_mul(BAR as u64).div_ceil(all)).unwrap_or(BAR)
        }
    };
    let full = share(used).min(BAR);
    let lost = share(down).min(BAR - full);
    let empty = BAR - full - lost;
    format!("[{}{}{}] {used}/{all}", "|".repeat(full), "x".repeat(lost), " ".repeat(empty))
}

/// As much of a line as fits into so many columns.
fn cut(line: &str, columns: usize) -> String {
    if line.width() <= columns {
        return line.to_string();
    }
    let mut width = 0;
    line.chars()
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width <= columns
        })
        .collect()
}

/// The lines as a terminal is to draw them, in place of what it shows.
pub(super) fn paint(lines: &[(Look, String)], colors: bool) -> String {
    let mut text = String::from("\x1b[H");
    for (at, (look, line)) in lines.iter().enumerate() {
        let (before, after) = match look {
            Look::Plain => ("", ""),
            Look::Bold if colors => ("\x1b[1;34m", "\x1b[0m"),
            Look::Bold => ("\x1b[1m", "\x1b[0m"),
            Look::Inverse => ("\x1b[7m", "\x1b[0m"),
        };
        let newline = if at == 0 { "" } else { "\r\n" };
        text.push_str(&[newline, before, line, after, "\x1b[K"].concat());
    }
    text.push_str("\x1b[J");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> View {
        let stats = json!({
            "job_states": { "depend": 1, "priority": 0, "sched": 2, "run": 3, "cleanup": 0 },
            "successful": 7, "failed": 1, "canceled": 1, "timeout": 0,
        });
        View {
            name: "flux".into(),
            size: "4".into(),
            depth: "0".into(),
            version: "0.88.0".into(),
            uptime: Some(90.0),
            amounts: [
                Amount { used: 1, all: 4, down: 1 },
                Amount { used: 8, all: 32, down: 8 },
                Amount::default(),
            ],
            stats: stats.as_object().unwrap().clone(),
            jobs: (0..30).map(|n| Line(format!("job {n}"))).collect(),
        }
    }

    #[test]
    fn the_screen_has_a_head_bars_and_jobs() {
        let lines: Vec<String> =
            view().lines((8, 80), 0).into_iter().map(|(_, line)| line).collect();
        assert_eq!(
            lines,
            [
                "flux  size 4  depth 0  up 1.5m  0.88.0".to_string(),
                "nodes [||||||xxxxxx            ] 1/4   3 pending".to_string(),
                "cores [||||||xxxxxx            ] 8/32   3 running".to_string(),
                " gpus [                        ] 0/0   7 complete, 2 failed".to_string(),
                format!("{TITLE:<80}"),
                "job 0".to_string(),
                "job 1".to_string(),
                "job 2".to_string(),
            ]
        );
    }

    #[test]
    fn the_chosen_job_is_in_sight_in_any_window() {
        let view = view();
        for rows in 0..40 {
            for columns in [0, 1, 7, 40, 200] {
                for chosen in [0, 5, 29] {
                    let lines = view.lines((rows, columns), chosen);
                    assert!(lines.len() <= rows);
                    assert!(lines.iter().all(|(_, line)| line.width() <= columns));
                    let sight = lines.iter().any(|(look, line)| {
                        *look == Look::Inverse && line.ends_with(&format!(" {chosen}"))
                    });
                    assert_eq!(sight, rows > 5 && columns >= 7, "{rows} {columns} {chosen}");
                }
            }
        }
    }

    #[test]
    fn wide_characters_are_not_cut_in_half() {
        assert_eq!(cut("ab\u{6f22}\u{5b57}", 5), "ab\u{6f22}");
        assert_eq!(cut("ab", 1), "a");
        assert!(paint(&[(Look::Bold, "x".into())], false).contains("\x1b[1mx"));
    }
}
