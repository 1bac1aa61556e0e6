//! The end of a job by an exception: a signal to the shells, then kill signals to the tasks, then
//! to the shells, and at last the ranks are given up.

use flux_api::job::manager::{Kill as JobKill, KillRequest as JobKillRequest};
use flux_api::rexec::{Kill, KillRequest};
use flux_svc::{Cx, Level, To};

use crate::job::{Shell, Step};
use crate::{ExecService, Wait, ending, guest};

/// Kill signals to the tasks before the shells are signalled directly.
const TASK_KILLS: u32 = 5;

/// Longest pause between signals to the shells, in seconds.
const INTERVAL_MAX: f64 = 300.0;

const SIGALRM: i32 = 14;

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
        let first = job.ending.is_none();
        let entry = job.ending.get_or_insert_with(|| ending(&settings, wait_status));
        if entry.wait_status.is_none() {
            entry.wait_status = wait_status;
        }
        if first {
            job.killer = Some(cx.timer((settings.kill_timeout * 1e6) as u64, Wait::Kill(id)));
        }
        if self.end_mock(cx, id) {
            return;
        }
        self.signal_shells(cx, id, settings.term_signal);
    }

    pub(crate) fn signal_shells(&mut self, cx: &mut Cx<'_, Wait>, id: u64, signum: i32) {
        let Some(job) = self.jobs.get(&id) else { return };
        for rank in job.active_ranks().ids() {
            self.signal_shell(cx, id, rank, signum);
        }
    }

    pub(crate) fn signal_shell(&self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, signum: i32) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(Shell::Running(pid)) = job.shells.get(&rank) else { return };
        let signum = guest::signal_for(signum, job.guest);
        let request = KillRequest { pid: *pid, signum, label: None };
        cx.call::<Kill>(To::Rank(rank), &request, Wait::Signal);
    }

    pub(crate) fn kill_again(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let settings = self.settings.clone();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(entry) = &mut job.ending else { return };
        if job.step > Step::Running {
            return;
        }
        if entry.kills < TASK_KILLS {
            entry.kills += 1;
            let request = JobKillRequest { id, signum: settings.kill_signal };
            cx.call::<JobKill>(To::Rank(0), &request, Wait::Signal);
        } else if entry.shell_kills < settings.max_kill_count {
            entry.shell_kills += 1;
            entry.interval = (entry.interval * 2.0).min(INTERVAL_MAX);
        } else {
            return self.give_up(cx, id);
        }
        let (direct, interval) = (entry.shell_kills > 0, entry.interval);
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
