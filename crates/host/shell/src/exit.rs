//! How tasks end, what that means for the job, and when the rest is not waited for.

use std::time::{Duration, Instant};

use flux_id::fsd;
use flux_model::{signal, wait_status};

/// The end of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Task rank, or shell rank of a lost shell.
    pub rank: u32,
    /// Host.
    pub host: String,
    /// As `wait` gives it.
    pub wait_status: i32,
    /// It was a shell that went, not a task.
    pub shell: bool,
}

fn describe(status: i32) -> String {
    match wait_status::signal(status) {
        Some(signum) => signal::describe(signum),
        None => format!("Exit {}", wait_status::code(status)),
    }
}

/// An exception to raise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Note of the exception.
    pub note: String,
    /// Wait status of the task that is to blame.
    pub wait_status: i32,
}

/// The leader's rules `exit-timeout` and `exit-on-error`.
#[derive(Debug, Clone)]
pub struct Policy {
    command: String,
    timeout: Option<f64>,
    on_error: bool,
    first: Option<(Exit, Option<Instant>)>,
    done: bool,
}

impl Policy {
    /// Rules for a job that runs `command`; `timeout` in seconds.
    #[must_use]
    pub fn new(command: &str, timeout: Option<f64>, on_error: bool) -> Self {
        Self { command: command.to_string(), timeout, on_error, first: None, done: false }
    }

    /// Notes an end. Returns whether it is the first of the job, and an exception that follows.
    pub fn exited(&mut self, exit: Exit, now: Instant) -> (bool, Option<Verdict>) {
        let mut verdict = None;
        if self.on_error && !self.done && exit.wait_status != 0 {
            self.done = true;
            let Exit { rank, host, wait_status, .. } = &exit;
            let what = describe(*wait_status);
            let note = format!(
                "{}: {} {rank} on host {host} failed ({what}) and exit-on-error is set",
                self.command,
                if exit.shell { "shell rank" } else { "task rank" },
            );
            verdict = Some(Verdict { note, wait_status: *wait_status });
        }
        let first = self.first.is_none();
        if first {
            let wait = self.timeout.and_then(|s| Duration::try_from_secs_f64(s).ok());
            self.first = Some((exit, wait.and_then(|wait| now.checked_add(wait))));
        }
        (first, verdict)
    }

    /// `exit-timeout`; nothing where there is none.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let seconds = self.timeout.unwrap_or_default();
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// When [`Policy::expired`] is to be asked, while tasks are left.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.done { None } else { self.first.as_ref()?.1 }
    }

    /// The exception when the time is up.
    pub fn expired(&mut self, now: Instant) -> Option<Verdict> {
        let deadline = self.deadline()?;
        if deadline > now {
            return None;
        }
        self.done = true;
        let (exit, _) = self.first.as_ref()?;
        let note = format!(
            "{}: {} {} on host {} exited ({}) and exit-timeout={} has expired",
            self.command,
            if exit.shell { "shell rank" } else { "task rank" },
            exit.rank,
            exit.host,
            describe(exit.wait_status),
            fsd::format(self.timeout.unwrap_or_default()),
        );
        Some(Verdict { note, wait_status: exit.wait_status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(rank: u32, wait_status: i32) -> Exit {
        Exit { rank, host: "h0".into(), wait_status, shell: false }
    }

    #[test]
    fn the_first_exit_starts_the_clock() {
        let now = Instant::now();
        let mut policy = Policy::new("cmd", Some(30.0), false);
        assert_eq!(policy.exited(exit(1, 256), now), (true, None));
        assert_eq!(policy.exited(exit(0, 0), now), (false, None));
        assert_eq!(policy.expired(now), None);
        let verdict = policy.expired(now + Duration::from_secs(30)).unwrap();
        let text = "cmd: task rank 1 on host h0 exited (Exit 1) and exit-timeout=30s has expired";
        assert_eq!((verdict.note.as_str(), verdict.wait_status), (text, 256));
        assert_eq!(policy.deadline(), None);
    }

    #[test]
    fn one_error_is_enough_if_so_wanted() {
        let mut policy = Policy::new("cmd", None, true);
        assert_eq!(policy.exited(exit(0, 0), Instant::now()).1, None);
        let verdict = policy.exited(exit(1, 9), Instant::now()).1.unwrap();
        assert_eq!(
            verdict.note,
            "cmd: task rank 1 on host h0 failed (Killed) and exit-on-error is set"
        );
        assert_eq!(policy.exited(exit(2, 9), Instant::now()).1, None);
    }
}
