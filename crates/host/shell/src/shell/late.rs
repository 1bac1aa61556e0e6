//! `exit-timeout`: when it is over, whether tasks still run.
//!
//! The end of another shell's tasks is told in a letter, which waits while a broker between them is
//! away. So a shell that seems late is asked before the job is ended for it, and one that cannot be
//! asked is waited for: the execution service says when it is lost.

use std::time::{Duration, Instant};

use flux_api::RpcError;
use flux_client::To;
use flux_proto::Message;
use serde_json::Value;

use super::{Shell, Waiting};

/// Between looks at shells that seem late.
const LOOK: Duration = Duration::from_secs(1);
/// A shell that takes a question and does not answer for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);

impl Shell {
    /// When [`Shell::end_late_tasks`] has something to do.
    pub(super) fn late_at(&self) -> Option<Instant> {
        if self.local_done() && self.others.is_empty() {
            // All have ended; only records and letters are on their way.
            return None;
        }
        let at = self.policy.deadline()?.max(self.all_started? + self.policy.timeout());
        Some(self.look_at.map_or(at, |look| at.max(look)))
    }

    /// Ends the job when tasks run on for too long after the first has ended.
    pub(super) fn end_late_tasks(&mut self, now: Instant) {
        if self.late_at().is_none_or(|at| at > now) {
            return;
        }
        let stuck = |since: &Instant| now.saturating_duration_since(*since) >= SILENCE;
        if !self.local_done() || self.asked.values().any(stuck) {
            return self.exit_timeout_over(now);
        }
        self.look_at = Some(now + LOOK);
        for shell in self.others.clone() {
            let Some(node) = self.layout.nodes.get(shell as usize) else { continue };
            if self.asked.contains_key(&shell) || !self.link.is_up() {
                continue;
            }
            let topic = format!("{}.running", self.job.service);
            let message = Message::request(topic).with_json(&serde_json::json!({}));
            let to = To::Rank(node.broker_rank);
            if self.link.ask(Waiting::Running(shell), to, message).is_ok() {
                self.asked.insert(shell, now);
            }
        }
    }

    /// A shell says how many of its tasks run.
    pub(super) fn runs(&mut self, shell: u32, answer: Result<Message, RpcError>) {
        self.asked.remove(&shell);
        let Some(body) = answer.ok().and_then(|message| message.json::<Value>().ok()) else {
            return;
        };
        let running = body["tasks"].as_u64().unwrap_or(0);
        let long = body["since"].as_f64().unwrap_or(0.0) >= self.policy.timeout().as_secs_f64();
        if running > 0 && long && self.others.contains(&shell) {
            self.exit_timeout_over(Instant::now());
        }
    }

    /// Answers how many tasks of this shell run, and since when, in seconds.
    pub(super) fn tell_running(&self, request: &Message) {
        let tasks = self.tasks.iter().filter(|task| !task.is_done()).count();
        let since = self.began.elapsed().as_secs_f64();
        self.link.post(
            Message::response_to(request)
                .with_json(&serde_json::json!({"tasks": tasks, "since": since})),
        );
    }

    fn exit_timeout_over(&mut self, now: Instant) {
        if let Some(verdict) = self.policy.expired(now) {
            self.raise(&verdict.note, Some(verdict.wait_status));
        }
    }
}
