//! From the start request to running shells.

use flux_api::kvs::{
    Commit, CommitRequest, NamespaceCreate, NamespaceCreate_, Operation, PRIMARY, WAIT_SPACE,
};
use flux_api::rexec::{self, Command, Exec as Rexec, ExecRequest, ExecResponse};
use flux_id::Idset;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, Value, json};

use crate::guest::ShellCommand;
use crate::job::{Shell, Step};
use crate::{ExecService, Wait, append};

impl ExecService {
    pub(crate) fn make_namespace(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let request = NamespaceCreate {
            namespace: job.namespace(),
            rootref: String::new(),
            owner: i64::from(job.userid),
            flags: 0,
        };
        cx.call::<NamespaceCreate_>(To::Rank(0), &request, Wait::Namespace(id));
    }

    pub(crate) fn named(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(error) = reply.error() {
            // The namespace is on disk before the first shell is launched: where it is already,
            // shells may have run when the leader went down. No job is started twice; what the
            // shells wrote stays there.
            let note = if error.errno == Errno::EEXIST {
                "the job may have run before the instance was restarted".to_string()
            } else {
                format!("failed to create guest namespace: {error}")
            };
            self.exception(cx, id, 0, "exec", &note);
            return self.release(cx, id);
        }
        if job.ending.is_some() {
            // Canceled before anything was launched.
            return self.nothing_ran(cx, id);
        }
        job.step = Step::Starting;
        job.commits = 2;
        let events = [("init", Value::Null), ("starting", Value::Null)];
        let request = CommitRequest {
            namespace: job.namespace(),
            flags: WAIT_SPACE,
            ops: vec![append(cx, "exec.eventlog", &events)],
        };
        let link = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: WAIT_SPACE,
            ops: vec![Operation {
                key: format!("{}.guest", job.id.kvs()),
                flags: 0,
                dirent: Treeobj::symlink(Some(&job.namespace()), ".").to_value(),
            }],
        };
        cx.call::<Commit>(To::Rank(0), &request, Wait::First(id));
        cx.call::<Commit>(To::Rank(0), &link, Wait::First(id));
        self.launch(cx, id);
    }

    pub(crate) fn first_events(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.commits = job.commits.saturating_sub(1);
        }
        if let Some(error) = reply.error() {
            let note = format!("failed to record the start of the job: {error}");
            self.exception(cx, id, 0, "exec", &note);
        }
    }

    /// Launches the shells, each on its rank.
    fn launch(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let ShellCommand { cmdline, env } = match self.settings.shell_command(job.id, job.guest) {
            Ok(command) => command,
            Err(note) => {
                // The configuration was changed since the job began.
                self.exception(cx, id, 0, "exec", &note);
                return self.nothing_ran(cx, id);
            }
        };
        let request = ExecRequest {
            cmd: Command {
                cmdline,
                env,
                opts: Map::new(),
                channels: Vec::new(),
                cwd: Some("/".to_string()),
                label: None,
            },
            flags: rexec::STDOUT | rexec::STDERR,
            local_flags: 0,
        };
        let ranks: Vec<u32> = job.shells.keys().copied().collect();
        for rank in ranks {
            let tag = cx.stream::<Rexec>(To::Rank(rank), &request, Wait::Shell(id, rank));
            job.tags.insert(tag, rank);
        }
        if job.shells.len() > 1
            && let Some(seconds) = self.settings.barrier_timeout
        {
            cx.timer((seconds * 1e6) as u64, Wait::BarrierLate(id));
        }
    }

    pub(crate) fn shell_reply(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, reply: &Reply) {
        match reply.decode::<Rexec>() {
            Ok(response) => match response.kind.as_str() {
                "started" => self.shell_started(cx, id, rank, response.pid.unwrap_or(0)),
                "finished" => self.shell_exited(cx, id, rank, response.status.unwrap_or(0)),
                "output" => self.shell_output(cx, id, rank, response),
                _ => {}
            },
            Err(_) if reply.is_end() => {}
            Err(error) => self.shell_failed(cx, id, rank, &error),
        }
    }

    fn shell_started(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, pid: i32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.shells.get(&rank) != Some(&Shell::Launching) {
            return;
        }
        job.shells.insert(rank, Shell::Running(pid));
        job.launching -= 1;
        if job.ending.is_some() {
            self.signal_shell(cx, id, rank, self.settings.term_signal);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.launching > 0 || job.step != Step::Starting {
            return;
        }
        job.step = Step::Running;
        let expiration = job.r.expiration;
        self.respond(cx, id, "start", json!({}));
        self.set_expiration(cx, id, expiration);
    }

    /// What a shell says on its own stdout and stderr, before it can write to the eventlog.
    fn shell_output(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, response: ExecResponse) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(io) = response.io else { return };
        let Some(data) = io.data.filter(|data| !data.is_empty()) else { return };
        cx.log(Level::Debug, format!("{}: rank {rank}: {}", job.id.f58(), data.trim_end()));
        let context = json!({
            "component": "job-shell", "stream": io.stream, "rank": rank.to_string(), "data": data,
        });
        let request = CommitRequest {
            namespace: job.namespace(),
            flags: 0,
            ops: vec![append(cx, "exec.eventlog", &[("log", context)])],
        };
        cx.call::<Commit>(To::Rank(0), &request, Wait::Told);
    }

    /// The shell could not be launched, or its broker is lost.
    fn shell_failed(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        rank: u32,
        error: &flux_api::RpcError,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if matches!(job.shells.get(&rank), Some(Shell::Exited(_)) | None) {
            return;
        }
        let mut one = Idset::new();
        one.insert(rank);
        let place = job.place(&one);
        let lost = error.errno == Errno::EHOSTUNREACH;
        let critical = job.is_critical(rank);
        let (severity, kind, note) = if lost {
            let severity = if critical { 0 } else { 2 };
            (severity, "node-failure", format!("node failure on {place}"))
        } else if error.errno == Errno::ENOSYS {
            (0, "exec", format!("rexec service is not loaded on {place}"))
        } else {
            (0, "exec", format!("job shell exec error on broker {place}: {error}"))
        };
        self.exception(cx, id, severity, kind, &note);
        if let Some(job) = self.jobs.get_mut(&id)
            && job.shells.get(&rank) == Some(&Shell::Launching)
        {
            job.launching -= 1;
        }
        // As if it had been killed, or could not be executed.
        let status = if lost { 9 } else { 126 << 8 };
        self.count_exit(cx, id, rank, status);
    }
}
