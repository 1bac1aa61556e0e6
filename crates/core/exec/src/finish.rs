//! From the exit of shells to the release of resources.

use flux_api::RpcError;
use flux_api::kvs::{
    Commit, CommitRequest, LAZY, NamespaceRemove, NamespaceRequest, Operation, PRIMARY,
};
use flux_id::Idset;
use flux_model::{signal, wait_status};
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Value, json};

use crate::job::{Stage, Step};
use crate::{ExecService, Wait, append, disarm};

impl ExecService {
    pub(crate) fn shell_exited(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        rank: u32,
        status: i32,
        left: u32,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let place = job.place_of(rank);
        if left > 0 {
            let reason = format!("unkillable user processes for job {}", job.id.f58());
            cx.log(Level::Err, format!("{reason} on {place}"));
            let mut one = Idset::new();
            one.insert(rank);
            self.drain(cx, &one, reason);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let multi = job.shells.len() > 1;
        // After a restart nobody knows whether it had passed the barrier before.
        let sure = job.barriers == 0 && job.resume.is_none();
        if multi && sure && !job.reported && job.ending.is_none() {
            let note = format!("{place} terminated before first barrier");
            self.exception(cx, id, 0, "exec", &note);
        }
        let Some(job) = self.jobs.get(&id) else { return };
        let signum = wait_status::signal(status).filter(|_| multi);
        let killed = signum.map(|signum| job.killed_by(rank, &signal::describe(signum)));
        if let Some(note) = &killed
            && job.leader() == Some(rank)
            && !job.reported
            && job.ending.is_none()
        {
            // Nobody records what the others say.
            self.exception(cx, id, 0, "exec", note);
        }
        self.count_exit(cx, id, rank, status);
        if let Some(note) = killed {
            self.shell_gone(cx, id, rank, note);
        }
    }

    /// Counts a shell as exited with a wait status.
    pub(crate) fn count_exit(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, status: i32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(shell) = job.shells.get_mut(&rank).filter(|shell| !shell.has_exited()) else {
            return;
        };
        shell.stage = Stage::Exited(status);
        job.active -= 1;
        job.status = job.status.max(status);
        let leader = job.leader() == Some(rank);
        let active = job.active;
        if active == 0 {
            return self.all_exited(cx, id);
        }
        if leader && let Some(seconds) = self.settings.shell_exit_timeout {
            job.straggler = Some(cx.timer((seconds * 1e6) as u64, Wait::Straggle(id)));
        }
        self.barrier_failed(cx, id);
    }

    pub(crate) fn straggling(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.step > Step::Running {
            return;
        }
        let seconds = self.settings.shell_exit_timeout.unwrap_or(0.0);
        // A shell whose node was away could neither say its last words nor be heard.
        let now = cx.now_us();
        let since =
            job.shells.values().filter(|shell| !shell.has_exited()).map(|shell| {
                if matches!(shell.stage, Stage::Running(_)) { shell.found } else { now }
            });
        let due = since.max().unwrap_or(0).saturating_add((seconds * 1e6) as u64);
        if due > now {
            let again = cx.timer(due - now, Wait::Straggle(id));
            if let Some(job) = self.jobs.get_mut(&id) {
                job.straggler = Some(again);
            }
            return;
        }
        let timeout = flux_id::fsd::format(seconds);
        let note = format!(
            "job shells still active on {} {timeout} after leader shell exit",
            job.place(&job.active_ranks())
        );
        self.exception(cx, id, 0, "exec", &note);
    }

    fn all_exited(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        self.barrier_failed(cx, id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        disarm(cx, &mut job.expiration);
        disarm(cx, &mut job.killer);
        disarm(cx, &mut job.straggler);
        job.step = Step::Ending;
        let status = job.finish_status();
        let events = [("complete", json!({ "status": status })), ("done", json!(null))];
        let request = CommitRequest {
            namespace: job.namespace(),
            flags: 0,
            ops: vec![append(cx, "exec.eventlog", &events)],
        };
        cx.hand::<Commit>(To::Rank(0), request, Wait::Last(id));
        self.respond(cx, id, "finish", json!({ "status": status }));
    }

    pub(crate) fn last_events(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        // The answer to a commit, or of a root that was there: either has a reference.
        let root = reply.result.clone().and_then(|message| {
            let body = message.json::<Value>().unwrap_or_default();
            let root = body.get("rootref").and_then(Value::as_str).map(str::to_string);
            root.ok_or_else(|| RpcError::new(Errno::EPROTO, "no rootref"))
        });
        match root {
            Ok(root) => {
                // The status is on stable storage: the nodes need not keep it any more.
                if let Some(job) = self.jobs.get(&id) {
                    for rank in job.shells.keys().copied().collect::<Vec<u32>>() {
                        self.forget_record(cx, id, rank);
                    }
                }
                self.graft(cx, id, &root);
            }
            Err(error) if error.errno == Errno::ENOTSUP => self.release(cx, id),
            Err(error) => {
                cx.log(Level::Err, format!("job {id}: last events: {error}"));
                // The disk is full or failing: what the job has stays in its namespace, and the
                // resources must not wait for the disk.
                self.release(cx, id);
            }
        }
    }

    /// Makes the namespace's root the job's guest directory.
    fn graft(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rootref: &str) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.step = Step::Grafting;
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            ops: vec![Operation {
                key: format!("{}.guest", job.id.kvs()),
                flags: 0,
                dirent: json!({"ver": 1, "type": "dirref", "data": [rootref]}).into(),
            }],
        };
        cx.hand::<Commit>(To::Rank(0), request, Wait::Graft(id));
    }

    pub(crate) fn grafted(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some(job) = self.jobs.get(&id) else { return };
        match reply.error() {
            None if job.is_mock() => {}
            None => {
                // Its resources do not wait for that: it goes with the job's last events.
                let request = NamespaceRequest { namespace: job.namespace(), flags: LAZY };
                cx.call::<NamespaceRemove>(To::Rank(0), &request, Wait::Removed);
            }
            Some(error) => {
                // The link to the namespace stays, and so does the namespace.
                cx.log(Level::Err, format!("job {}: guest directory: {error}", job.id.f58()));
            }
        }
        self.release(cx, id);
    }

    /// The job is over for this service: its resources are free.
    pub(crate) fn release(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        self.respond(cx, id, "release", json!({"ranks": "all", "final": true}));
        if let Some(mut job) = self.jobs.remove(&id) {
            self.displace_job(&job);
            disarm(cx, &mut job.expiration);
            disarm(cx, &mut job.killer);
            disarm(cx, &mut job.straggler);
            Self::unfollow(cx, &job);
            self.answer_early(cx, &mut job);
            job.answer.forget();
        }
    }

    /// The job ended before a shell was launched.
    pub(crate) fn nothing_ran(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if let Some(job) = self.jobs.get(&id) {
            let request = NamespaceRequest { namespace: job.namespace(), flags: 0 };
            cx.call::<NamespaceRemove>(To::Rank(0), &request, Wait::Removed);
        }
        self.release(cx, id);
    }
}
