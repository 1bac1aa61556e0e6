//! What jobs do, and what must come of them.

use std::fmt::Write as _;

use flux_api::job::ingest::SubmitRequest;
use serde_json::json;

use crate::Plan;
use crate::plan::{Dice, Extra};

/// Lines of a job that does not end by itself, for ten minutes.
const ENDLESS: u32 = 3000;

/// How a job is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// By itself.
    Ends,
    /// By `flux cancel`.
    Canceled,
    /// By itself, once its tasks were sent SIGUSR1 with `flux job kill`.
    Signaled,
    /// By its time limit, in seconds.
    Limited(u32),
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Nodes; each runs one task.
    pub nodes: u32,
    /// Lines that each task writes.
    pub lines: u32,
    /// Pause after each, in ms.
    pub pause: u32,
    /// Exit code of every task.
    pub code: i32,
    /// How it ends.
    pub fate: Fate,
}

impl Kind {
    /// The kind of job `number`: most are short, some take half a minute, some need several nodes,
    /// some fail, and some are canceled, get a signal, or have a time limit.
    #[must_use]
    pub fn of(number: u32, nodes_max: u32, plan: &Plan) -> Self {
        let mut dice = Dice::new(u64::from(number) + 7919);
        let sort = dice.below(100);
        let wide = u64::from(plan.wide.min(100));
        let narrow = 100 - wide;
        let sort = match sort < narrow {
            // Parts of 92 that need one node, and of 8 that need several.
            true => sort * 92 / narrow.max(1),
            false => 92 + (sort - narrow) * 8 / wide.max(1),
        };
        let kind = |nodes, lines, pause| Kind { nodes, lines, pause, code: 0, fate: Fate::Ends };
        let mut kind = match sort {
            0..60 => kind(1, 3, 0),
            60..85 => kind(1, 20, 100),
            85..90 => kind(1, 100, 200),
            90..92 => kind(1, 5000, 0),
            92..97 => kind(2, 10, 100),
            _ => kind(4, 30, 100),
        };
        kind.nodes = kind.nodes.min(nodes_max);
        if let Some(lines) =
            u32::try_from(plan.longest.as_millis()).ok().and_then(|ms| ms.checked_div(kind.pause))
        {
            kind.lines = kind.lines.min(lines);
        }
        if dice.below(20) == 0 {
            kind.code = 3;
        }
        match dice.below(100) {
            0..4 if plan.mix.contains(&Extra::Cancel) => kind.endless(Fate::Canceled),
            4..8 if plan.mix.contains(&Extra::Signal) => kind.fate = Fate::Signaled,
            8..10 if plan.mix.contains(&Extra::Limit) => {
                kind.endless(Fate::Limited(2 + u32::try_from(dice.below(4)).unwrap_or(0)));
            }
            _ => {}
        }
        kind
    }

    fn endless(&mut self, fate: Fate) {
        (self.lines, self.pause, self.code, self.fate) = (ENDLESS, 200, 0, fate);
    }

    /// Whether it comes to its own end.
    #[must_use]
    pub fn ends(self) -> bool {
        matches!(self.fate, Fate::Ends | Fate::Signaled)
    }

    /// The output of one task that comes to its end.
    #[must_use]
    pub fn output(self, token: &str, rank: u32) -> String {
        let mut text = String::new();
        for line in 1..=self.lines {
            let _ = writeln!(text, "{token} {rank} {line}");
        }
        text
    }

    /// The script of its tasks. Each writes into a file of its own when it starts and ends, and when
    /// it has heard the signal that it waits for.
    fn script(self, path: &str, token: &str) -> String {
        let sleep = match self.pause {
            0 => String::new(),
            ms => format!("sleep {}.{:03}; ", ms / 1000, ms % 1000),
        };
        let (trap, wait) = match self.fate {
            Fate::Signaled => (
                "trap 'echo heard >>$f; go=1' USR1; ",
                "while [ -z \"$go\" ] && [ $i -lt 6000 ]; do sleep 0.1; i=$((i+1)); done; ",
            ),
            _ => ("", ""),
        };
        format!(
            "f={path}/{token}.$FLUX_TASK_RANK; go=; i=1; {trap}echo start $$ >>$f; {wait}i=1; \
             while [ $i -le {} ]; do echo {token} $FLUX_TASK_RANK $i; {sleep}i=$((i+1)); done; \
             echo end $$ >>$f; exit {}",
            self.lines, self.code
        )
    }

    /// The request that submits it.
    #[must_use]
    pub fn request(self, path: &str, token: &str) -> SubmitRequest {
        let script = self.script(path, token);
        let duration = match self.fate {
            Fate::Limited(seconds) => seconds,
            _ => 0,
        };
        let spec = json!({
            "version": 1,
            "resources": [{"type": "node", "count": self.nodes, "exclusive": false, "with": [
                {"type": "slot", "count": 1, "label": "task",
                 "with": [{"type": "core", "count": 1}]}]}],
            "tasks": [{"command": ["sh", "-c", script], "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": {"duration": duration, "cwd": "/",
                "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
                "job": {"name": token}}},
        });
        let owner = rustix::process::getuid().as_raw();
        let j = flux_model::sign::wrap_none(spec.to_string().as_bytes(), owner);
        SubmitRequest { j, urgency: 16, flags: 0 }
    }

    /// Compares the mixed output of all tasks with what it should be; the number of lines. Tasks
    /// that were ended may stop anywhere, also within a line.
    ///
    /// # Errors
    /// What is missing or too much.
    pub fn compare(self, text: &str, token: &str) -> Result<usize, String> {
        let mut seen = 0;
        for rank in 0..self.nodes {
            let prefix = format!("{token} {rank} ");
            let mut got = text.split_inclusive('\n').filter(|line| line.starts_with(&prefix));
            for line in self.output(token, rank).split_inclusive('\n') {
                match got.next() {
                    Some(found) if found == line => seen += 1,
                    None if !self.ends() => break,
                    found => {
                        return Err(format!("task {rank}: expected {line:?}, found {found:?}"));
                    }
                }
            }
            if let Some(more) = got.next() {
                return Err(format!("task {rank}: too much: {more:?}"));
            }
        }
        match text.lines().count() {
            lines if lines == seen => Ok(lines),
            lines => Err(format!("{lines} lines instead of {seen}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_whole_in_its_order_and_nothing_is_double() {
        let mut kind = Kind { nodes: 2, lines: 2, pause: 0, code: 0, fate: Fate::Ends };
        let text = "j 0 1\nj 1 1\nj 1 2\nj 0 2\n";
        assert_eq!(kind.compare(text, "j"), Ok(4));
        assert!(kind.compare("j 0 1\nj 1 1\nj 1 2\n", "j").is_err());
        assert!(kind.compare(&format!("{text}j 0 2\n"), "j").is_err());
        assert!(kind.compare(&format!("{text}other\n"), "j").is_err());
        kind.fate = Fate::Canceled;
        assert_eq!(kind.compare("j 0 1\nj 1 1\nj 1 2\n", "j"), Ok(3));
        assert_eq!(kind.compare("", "j"), Ok(0));
        assert!(kind.compare("j 0 2\n", "j").is_err());
        assert!(kind.compare("j 0 1\nj 0 1\n", "j").is_err());
    }
}
