//! The end of a job by an exception: a signal to the shells, then kill signals to the tasks, then
//! to the shells, and at last the ranks are given up.

use flux_api::job::manager::{Kill as JobKill, KillRequest as JobKillRequest};
use flux_api::kvs::{Commit, CommitRequest, LAZY};
use flux_api::launch::{Kill_, LaunchKill};
use flux_svc::{Cx, Level, To};
use serde_json::json;

use crate::job::{Ending, Shell, Stage, Step};
use crate::{ExecService, Wait, append, ending, guest};

/// Kill signals to the tasks before the shells are signalled directly.
const TASK_KILLS: u32 = 5;

/// Longest pause between signals to the shells, in seconds.
const INTERVAL_MAX: f64 = 300.0;

const SIGALRM: i32 = 14;
const SIGKILL: i32 = 9;

impl ExecService {
    pub(crate) fn expired(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.step > Step::Running {
            return;
        }
        // Tasks may tell a time limit from other endings by its signal.
        self.signal_shells(cx, id, SIGALRM);
        self.exception(cx, id, 0, "timeout", "resource allocation expired");
    }

    /// A fatal exception was raised on the job.
    pub(crate) fn end_early(&mut self, cx: &mut Cx<'_, Wait>, id: u64, wait_status: Option<i32>) {
        let settings = self.settings.clone();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.step > Step::Running {
            return;
        }
        let (first, now) = (job.ending.is_none(), cx.now_us());
        let before = job.resume.as_ref().is_some_and(|resume| resume.ended.is_some());
        let undated = before && job.ran(now).is_none();
        let entry = job.ending.get_or_insert_with(|| ending(&settings, wait_status, now));
        if entry.wait_status.is_none() {
            entry.wait_status = wait_status;
        }
        if first {
            entry.undated = undated;
            let ago = if before && !undated { job.ended_ago(now, cx.wall()) } else { 0.0 };
            self.escalate_since(cx, id, ago);
        }
        if first && !before {
            self.record_end(cx, id);
        }
        if self.end_mock(cx, id) {
            return;
        }
        self.end_wanted(cx, id);
        self.signal_shells(cx, id, settings.term_signal);
    }

    /// The end began so many seconds ago: what should have been sent since counts as sent.
    fn escalate_since(&mut self, cx: &mut Cx<'_, Wait>, id: u64, ago: f64) {
        let timeout = self.settings.kill_timeout;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(entry) = &mut job.ending else { return };
        let kills = (ago / timeout).floor().min(f64::from(TASK_KILLS));
        entry.kills = kills as u32;
        let left = (timeout * (kills + 1.0) - ago).max(0.0);
        if let Some(older) = job.killer.replace(cx.timer((left * 1e6) as u64, Wait::Kill(id))) {
            cx.cancel_timer(older);
        }
    }

    /// A shell was found again: its node may have said for how long it has run, which tells how
    /// long ago an end began that is on record, whatever has become of the clock.
    pub(crate) fn date_end(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let (now, wall) = (cx.now_us(), cx.wall());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let ago = job.ended_ago(now, wall);
        let undated = |ending: &mut Ending| std::mem::replace(&mut ending.undated, false);
        if job.ending.as_mut().is_some_and(undated) {
            self.escalate_since(cx, id, ago);
        }
    }

    /// Puts on record how long the shells had been there when the end began.
    fn record_end(&self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.step >= Step::Starting) else { return };
        let Some(ran) = job.ran(cx.now_us()).filter(|_| !job.is_mock()) else { return };
        let request = CommitRequest {
            namespace: job.namespace(),
            flags: LAZY,
            ops: vec![append(cx, "exec.eventlog", &[("ending", json!({ "ran": ran }))])],
        };
        cx.call::<Commit>(To::Rank(0), &request, Wait::Logged);
    }

    /// Shells that were never asked for are not wanted any more.
    fn end_wanted(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.step >= Step::Starting) else { return };
        let never = |shell: &Shell| shell.stage == Stage::Wanted && !shell.asked && !shell.launched;
        let ranks: Vec<u32> =
            job.shells.iter().filter(|(_, shell)| never(shell)).map(|(rank, _)| *rank).collect();
        for rank in ranks {
            self.end_shell(cx, id, rank, 0);
        }
    }

    pub(crate) fn signal_shells(&mut self, cx: &mut Cx<'_, Wait>, id: u64, signum: i32) {
        let Some(job) = self.jobs.get(&id) else { return };
        for rank in job.active_ranks().ids() {
            self.signal_shell(cx, id, rank, signum);
        }
    }

    pub(crate) fn signal_shell(&self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, signum: i32) {
        let Some(job) = self.jobs.get(&id) else { return };
        let running =
            matches!(job.shells.get(&rank).map(|shell| shell.stage), Some(Stage::Running(_)));
        if !running {
            // It gets the signal when its node is back.
            return;
        }
        // The last signal is for everything that comes from the shell.
        let all = signum == SIGKILL && !job.guest;
        let request = LaunchKill { id, signum: guest::signal_for(signum, job.guest), all };
        cx.call::<Kill_>(To::Rank(rank), &request, Wait::Signal);
    }

    pub(crate) fn kill_again(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let settings = self.settings.clone();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(entry) = &mut job.ending else { return };
        if job.step > Step::Running {
            return;
        }
        let gone = cx.now_us().saturating_sub(entry.began_us) as f64 / 1e6;
        let left = settings.max_kill_timeout.map(|limit| limit - gone);
        if left.is_some_and(|left| left <= 0.0) {
            return self.give_up(cx, id);
        }
        if entry.kills < TASK_KILLS {
            entry.kills += 1;
            let request = JobKillRequest { id, signum: settings.kill_signal };
            cx.call::<JobKill>(To::Rank(0), &request, Wait::Signal);
        } else if left.is_some() || entry.shell_kills < settings.max_kill_count {
            entry.shell_kills += 1;
            entry.interval = (entry.interval * 2.0).min(INTERVAL_MAX);
        } else {
            return self.give_up(cx, id);
        }
        let direct = entry.shell_kills > 0;
        let interval = left.map_or(entry.interval, |left| entry.interval.min(left));
        job.killer = Some(cx.timer((interval * 1e6) as u64, Wait::Kill(id)));
        if direct {
            self.signal_shells(cx, id, settings.kill_signal);
        }
    }

    /// Processes that cannot be killed: the ranks get no more work, the job ends without them.
    fn give_up(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let ranks = job.active_ranks();
        let reason = format!("unkillable user processes for job {}", job.id.f58());
        cx.log(Level::Err, format!("{reason} on {}", job.place(&ranks)));
        self.drain(cx, &ranks, reason);
        for rank in ranks.ids() {
            self.count_exit(cx, id, rank, 9);
        }
    }
}
