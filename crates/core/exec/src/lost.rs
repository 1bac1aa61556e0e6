//! Shells that are lost, and what the others are told: a leader waits for no tasks that nobody will
//! report, and the rest keeps no letters for a leader that is gone.

use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, To};
use serde_json::json;

use crate::job::{Job, Stage, Step};
use crate::ranks::is_away;
use crate::{ExecService, Wait};

/// Until a shell that could not be told is told again, in microseconds.
const TELL_AGAIN: u64 = 500_000;

/// Seconds that nodes have at least to come (back) after a start of the leader.
const RETURN_GRACE: f64 = 30.0;

impl Job {
    /// What is said of a shell that a signal has ended.
    pub(crate) fn killed_by(&self, rank: u32, signal: &str) -> String {
        let at = self.shells.keys().position(|other| *other == rank).unwrap_or_default();
        format!("shell rank {at} (on {}): {signal}", self.r.host(rank).unwrap_or("unknown"))
    }

    /// Shells that have to hear of the loss of another one: the leader, or all where it is lost.
    fn audience(&self, lost: u32) -> Vec<u32> {
        let leader = self.leader();
        let listens = |rank: &u32| leader == Some(*rank) || leader == Some(lost);
        let runs = |rank: &u32| {
            matches!(self.shells.get(rank).map(|shell| shell.stage), Some(Stage::Running(_)))
        };
        self.shells
            .keys()
            .copied()
            .filter(|rank| *rank != lost && listens(rank) && runs(rank))
            .collect()
    }
}

impl ExecService {
    /// A shell has ended without having said that its tasks have.
    pub(crate) fn shell_gone(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, note: String) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.shells.len() > 1) else { return };
        job.gone.insert(rank, note);
        for other in job.audience(rank) {
            self.tell_gone(cx, id, other, rank);
        }
    }

    /// Tells a shell that was found (again) what it may have missed.
    pub(crate) fn tell_all_gone(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32) {
        let Some(job) = self.jobs.get(&id).filter(|job| !job.gone.is_empty()) else { return };
        let news: Vec<u32> =
            job.gone.keys().copied().filter(|lost| job.audience(*lost).contains(&rank)).collect();
        for lost in news {
            self.tell_gone(cx, id, rank, lost);
        }
    }

    fn tell_gone(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, lost: u32) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(message) = job.gone.get(&lost) else { return };
        let severity = if job.is_critical(lost) { 0 } else { 2 };
        let body = json!({
            "type": "lost-shell",
            "severity": severity,
            "shell_rank": job.shells.keys().position(|rank| *rank == lost),
            "message": message,
        });
        let topic = format!("{}-shell-{}.exception", job.userid, job.id.f58plain());
        let message = Message::request(topic).with_json(&body);
        cx.request(To::Rank(rank), message, Wait::Told(id, rank, lost));
    }

    /// A shell was told, or could not be.
    pub(crate) fn told_gone(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: &Reply) {
        // One that starts, or that has lost its broker, is not known there.
        let later = |errno| matches!(errno, Errno::ENOSYS | Errno::EAGAIN);
        if reply.error().is_some_and(|error| later(error.errno) || is_away(error)) {
            cx.timer(TELL_AGAIN, wait);
        }
    }

    /// Tells a shell again, while there is something to be told.
    pub(crate) fn tell_again(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, lost: u32) {
        let told = |job: &&Job| job.step <= Step::Running && job.audience(lost).contains(&rank);
        // One that is away is told when it is found again.
        if self.jobs.get(&id).filter(told).is_some() {
            self.tell_gone(cx, id, rank, lost);
        }
    }

    /// Nodes that are away for longer than their job waits for them.
    pub(crate) fn give_up_away(&mut self, cx: &mut Cx<'_, Wait>) {
        let now = cx.now_us();
        let late = |(rank, id): &(u32, u64)| {
            let Some(job) = self.jobs.get(id) else { return false };
            let since = job.shells.get(rank).filter(|shell| !shell.has_exited());
            let since = since.and_then(|shell| shell.away);
            since.is_some_and(|since| self.is_late(job, *rank, since, now))
        };
        let late: Vec<(u32, u64)> = self.away.iter().copied().filter(late).collect();
        for (rank, id) in late {
            self.node_lost(cx, id, rank);
        }
    }

    /// Whether a node that is away since then is waited for no longer. Where the job shall end it
    /// need not be: what runs there is killed when it is back, before anything else is started.
    pub(crate) fn is_late(&self, job: &Job, rank: u32, since: u64, now: u64) -> bool {
        if self.held {
            return false;
        }
        let mut grace = self.settings.lost_node_grace.unwrap_or(f64::INFINITY);
        if job.ending.is_some() {
            grace = grace.min(self.settings.kill_timeout);
        }
        if (job.reattach || job.resume.is_some()) && !self.seen.contains(rank) {
            // After a start of the leader the others have to find it first.
            grace = grace.max(RETURN_GRACE);
        }
        now.saturating_sub(since) as f64 >= grace * 1e6
    }

    /// The node of a shell has been away for too long.
    pub(crate) fn node_lost(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32) {
        let Some(job) = self.jobs.get(&id) else { return };
        let place = job.place_of(rank);
        let note = format!("node failure on {place}");
        if job.ending.is_some() {
            let text =
                format!("job {} ends without its shell on {place}, which is away", job.id.f58());
            cx.log(Level::Warning, text);
        } else {
            let severity = if job.is_critical(rank) { 0 } else { 2 };
            self.exception(cx, id, severity, "node-failure", &note);
        }
        self.end_shell(cx, id, rank, 9);
        self.shell_gone(cx, id, rank, note);
    }

    /// A shell has ended and nobody knows how.
    pub(crate) fn shell_lost(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, note: &str) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let note = format!("the job shell on {} is lost: {note}", job.place_of(rank));
        if !job.reported && job.ending.is_none() {
            self.exception(cx, id, 0, "exec", &note);
        }
        self.end_shell(cx, id, rank, 9);
        self.shell_gone(cx, id, rank, note);
    }
}
