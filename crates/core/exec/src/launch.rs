//! From the start request to running shells.
//!
//! A shell is asked for with `launch.start`, which on its node starts it once and follows it ever
//! after, or with `launch.attach` where it must not be started any more. When its node is lost the
//! shell runs on; it is asked for again when the node is back, and only a grace time without the
//! node, or a node that does not know the shell, is a loss.

use flux_api::RpcError;
use flux_api::job::manager::{Update, UpdateRequest};
use flux_api::kvs::{
    Commit, CommitRequest, LAZY, NamespaceCreate, NamespaceCreate_, Operation, PRIMARY, WAIT_SPACE,
};
use flux_api::launch::{Attach_, LaunchAttach, LaunchEvent, LaunchStart, LaunchUnit, Start_};
use flux_id::Idset;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Value, json};

use crate::guest::ShellCommand;
use crate::job::{Stage, Step};
use crate::ranks::is_away;
use crate::{ExecService, Wait, append};

impl ExecService {
    pub(crate) fn make_namespace(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.step = Step::Naming;
        // The first events are there as soon as the namespace is, with one commit for both.
        let events =
            [("init", Value::Null), ("starting", Value::Null), ("recoverable", Value::Null)];
        let request = NamespaceCreate {
            namespace: job.namespace(),
            rootref: String::new(),
            owner: i64::from(job.userid),
            flags: 0,
            ops: vec![append(cx, "exec.eventlog", &events)],
        };
        cx.hand::<NamespaceCreate_>(To::Rank(0), request, Wait::Namespace(id));
    }

    pub(crate) fn named(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(error) = reply.error() {
            // The namespace is on disk before the first shell is launched: where it is already,
            // shells may run that were launched before the leader went down.
            if error.errno == Errno::EEXIST {
                job.step = Step::Recalling;
                return self.recall(cx, id);
            }
            let note = format!("failed to create guest namespace: {error}");
            self.exception(cx, id, 0, "exec", &note);
            return self.release(cx, id);
        }
        let job_is_new = job.shells.values().all(|shell| !shell.launched);
        if job.ending.is_some() && job_is_new {
            // Canceled before anything was launched.
            return self.nothing_ran(cx, id);
        }
        self.begin_shells(cx, id, &[]);
    }

    /// Records events of a return, if there are any, and the link to the namespace; asks for the
    /// shells.
    pub(crate) fn begin_shells(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        events: &[(&str, Value)],
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.step = Step::Starting;
        if !events.is_empty() {
            let request = CommitRequest {
                namespace: job.namespace(),
                flags: WAIT_SPACE,
                ops: vec![append(cx, "exec.eventlog", events)],
            };
            cx.hand::<Commit>(To::Rank(0), request, Wait::First(id));
        }
        // It goes with the event that says that the job has started.
        let link = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: WAIT_SPACE | LAZY,
            ops: vec![Operation {
                key: format!("{}.guest", job.id.kvs()),
                flags: 0,
                dirent: Treeobj::symlink(Some(&job.namespace()), ".").into(),
            }],
        };
        cx.call::<Commit>(To::Rank(0), &link, Wait::First(id));
        self.record_early(cx, id);
        let Some(job) = self.jobs.get(&id) else { return };
        let ranks: Vec<u32> = job.shells.keys().copied().collect();
        let waits = ranks.len() > 1 && job.barriers == 0;
        for rank in ranks {
            self.ask_for(cx, id, rank);
        }
        if waits && let Some(seconds) = self.settings.barrier_timeout {
            cx.timer((seconds * 1e6) as u64, Wait::BarrierLate(id));
        }
    }

    pub(crate) fn first_events(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        if let Some(error) = reply.error() {
            let note = format!("failed to record the start of the job: {error}");
            self.exception(cx, id, 0, "exec", &note);
        }
    }

    /// Asks the node of a shell for it, once that is ready.
    pub(crate) fn ask_for(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32) {
        if !self.is_ready(cx, rank) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let over = job.is_over();
        let age = job.age(cx.now_us(), cx.wall());
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        if shell.stage != Stage::Wanted {
            return;
        }
        if over && !shell.launched && !shell.asked {
            // It was never asked for, and is not wanted any more.
            return self.end_shell(cx, id, rank, 0);
        }
        let [stdout, stderr] = shell.known;
        let wait = Wait::Shell(id, rank);
        if over || shell.launched {
            let request = LaunchAttach { id, stdout, stderr };
            let tag = cx.stream::<Attach_>(To::Rank(rank), &request, wait);
            (shell.stage, shell.tag) = (Stage::Asked, Some(tag));
            return;
        }
        let since = shell.asked.then_some(job.began);
        let age = shell.asked.then_some(age);
        let ShellCommand { cmdline, env } =
            match self.settings.shell_command(job.id, job.guest, &job.jobspec) {
                Ok(command) => command,
                Err(note) => {
                    // The configuration was changed since the job began.
                    self.exception(cx, id, 0, "exec", &note);
                    return self.end_shell(cx, id, rank, 126 << 8);
                }
            };
        let unit = self.settings.units.then(|| LaunchUnit {
            cores: job.r.children(rank).map(|own| own.cores.to_string()).unwrap_or_default(),
            properties: self.settings.unit_properties.clone(),
        });
        let imp = self.settings.imp.clone().filter(|_| job.guest);
        let request = LaunchStart {
            id,
            userid: job.userid,
            cmdline,
            env,
            cwd: None,
            input: None,
            signaller: imp.map(|imp| vec![imp, "kill".to_string()]).unwrap_or_default(),
            unit,
            since,
            age,
            stdout,
            stderr,
        };
        let tag = cx.stream::<Start_>(To::Rank(rank), &request, wait);
        (shell.stage, shell.tag, shell.asked) = (Stage::Asked, Some(tag), true);
    }

    pub(crate) fn shell_reply(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, reply: &Reply) {
        let shell = self.jobs.get(&id).and_then(|job| job.shells.get(&rank));
        if shell.is_none_or(|shell| shell.has_exited() || shell.tag != Some(reply.tag)) {
            return;
        }
        match reply.decode::<Start_>() {
            Ok(event) => match event.kind.as_str() {
                "started" => {
                    let now = cx.now_us();
                    if let Some(age) = event.age
                        && let Some(job) = self.jobs.get_mut(&id).filter(|job| job.resume.is_some())
                    {
                        job.has_run(age, now);
                    }
                    self.date_end(cx, id);
                    self.shell_started(cx, id, rank, event.pid.unwrap_or(0));
                }
                "finished" => {
                    let left = event.left.unwrap_or(0);
                    self.shell_exited(cx, id, rank, event.status.unwrap_or(0), left);
                }
                "output" => self.shell_output(cx, id, rank, event),
                "lost" => {
                    let note = event.note.unwrap_or_else(|| "nothing is known of it".to_string());
                    self.shell_lost(cx, id, rank, &note);
                }
                _ => {}
            },
            Err(_) if reply.is_end() => {}
            Err(error) if is_away(&error) => self.shell_away(cx, id, rank),
            Err(error) if error.errno == Errno::ENOENT => self.shell_missing(cx, id, rank, &error),
            Err(error) => self.shell_failed(cx, id, rank, &error),
        }
    }

    fn shell_started(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, pid: i32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        if shell.stage != Stage::Asked {
            return;
        }
        shell.launched = true;
        shell.stage = Stage::Running(pid);
        shell.found = cx.now_us();
        shell.away = None;
        if let Some(ending) = &job.ending {
            let signum = if ending.shell_kills > 0 {
                self.settings.kill_signal
            } else {
                self.settings.term_signal
            };
            self.signal_shell(cx, id, rank, signum);
        }
        self.tell_all_gone(cx, id, rank);
        self.tell_signals(cx, id, rank, 0);
        self.settle(id, rank);
        self.launched(cx, id);
    }

    /// Whether a shell was launched is known.
    fn settle(&mut self, id: u64, rank: u32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        if !std::mem::replace(&mut shell.settled, true) {
            job.launching = job.launching.saturating_sub(1);
        }
    }

    /// The job runs when that is known of every shell.
    fn launched(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.launching > 0 || job.step != Step::Starting {
            return;
        }
        job.step = Step::Running;
        let expiration = job.r.expiration;
        if job.used.is_none() && !job.reattach && job.r.starttime > 0.0 {
            // From now on the clock may be set.
            job.used = Some(((cx.wall() - job.r.starttime).max(0.0), cx.now_us()));
        }
        let kind = if job.reattach { "reattached" } else { "start" };
        self.respond(cx, id, kind, json!({}));
        self.set_expiration(cx, id, expiration);
        self.make_up(cx, id);
    }

    /// A job that has lost much of its time before it could start gets it back.
    fn make_up(&self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id).filter(|job| !job.reattach) else { return };
        let duration = job.r.expiration - job.r.starttime;
        let delay = cx.wall() - job.r.starttime;
        let percent = f64::from(self.settings.max_start_delay_percent);
        if job.r.starttime <= 0.0 || duration <= 0.0 || delay * 100.0 <= percent * duration {
            return;
        }
        let mut updates = serde_json::Map::new();
        updates.insert("attributes.system.duration".to_string(), (delay + duration).into());
        let request = UpdateRequest { id, updates };
        cx.call::<Update>(To::Rank(0), &request, Wait::Signal);
        let text = format!(
            "{}: started {delay:.1} s after its allocation: its end is moved",
            job.id.f58()
        );
        cx.log(Level::Info, text);
    }

    /// What a shell says on its own stdout and stderr, before it can write to the eventlog.
    fn shell_output(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, event: LaunchEvent) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { return };
        let stream = event.stream.unwrap_or_default();
        if let Some(shell) = job.shells.get_mut(&rank) {
            let at = usize::from(stream == "stderr");
            shell.known[at] = event.offset.unwrap_or(shell.known[at] + data.len() as u64);
        }
        cx.log(Level::Debug, format!("{}: rank {rank}: {}", job.id.f58(), data.trim_end()));
        let context = json!({
            "component": "job-shell", "stream": stream, "rank": rank.to_string(), "data": data,
        });
        let request = CommitRequest {
            namespace: job.namespace(),
            flags: 0,
            ops: vec![append(cx, "exec.eventlog", &[("log", context)])],
        };
        cx.hand::<Commit>(To::Rank(0), request, Wait::Logged);
    }

    /// The shell could not be launched.
    fn shell_failed(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, error: &RpcError) {
        let Some(job) = self.jobs.get(&id) else { return };
        let place = job.place_of(rank);
        let note = if error.errno == Errno::ENOSYS {
            format!("launch service is not loaded on {place}")
        } else {
            format!("job shell exec error on broker {place}: {error}")
        };
        self.exception(cx, id, 0, "exec", &note);
        self.end_shell(cx, id, rank, 126 << 8);
    }

    /// A shell ends without a status of its own.
    pub(crate) fn end_shell(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, status: i32) {
        self.settle(id, rank);
        self.count_exit(cx, id, rank, status);
        // One that the job can do without.
        if self.jobs.get(&id).is_some_and(|job| !job.reported && job.ending.is_none()) {
            self.launched(cx, id);
        }
    }

    /// The node of a shell is lost; the shell may run on.
    pub(crate) fn shell_away(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32) {
        self.ranks.remove(&rank);
        let now = cx.now_us();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        shell.stage = Stage::Wanted;
        shell.tag = None;
        shell.listens = false;
        let since = *shell.away.get_or_insert(now);
        if self.jobs.get(&id).is_some_and(|job| self.is_late(job, rank, since, now)) {
            return self.node_lost(cx, id, rank);
        }
        self.away.insert((rank, id));
        self.watch_away(cx);
    }

    /// A node says that it has no shell of the job.
    fn shell_missing(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, error: &RpcError) {
        let Some(job) = self.jobs.get(&id) else { return };
        let launched = job.shells.get(&rank).is_some_and(|shell| shell.launched);
        if launched {
            return self.shell_lost(cx, id, rank, "it is not on record there");
        }
        if job.is_over() {
            // It was asked for, but the request never got there.
            return self.end_shell(cx, id, rank, 0);
        }
        self.shell_failed(cx, id, rank, error);
    }
}

impl crate::job::Job {
    /// [`crate::job::Job::place`] of one rank.
    pub(crate) fn place_of(&self, rank: u32) -> String {
        let mut one = Idset::new();
        one.insert(rank);
        self.place(&one)
    }
}
