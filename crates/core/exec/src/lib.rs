//! `job-exec`: starts the shells of a job, one on each rank of its R, and watches them to the end
//! (RFC 32, RFC 50).
//!
//! | step | what happens | answered to the manager |
//! |---|---|---|
//! | naming | the guest namespace is made, with `init`, `starting` in it | |
//! | recalling | after a restart: what was done before is looked up, see `recall.rs` | |
//! | starting | `guest` links to the namespace, shells are launched | |
//! | running | every shell has a process | `start`, or `reattached` |
//! | ending | the last shell has exited; `complete`, `done` | `finish` |
//! | grafting | the namespace becomes the job's `guest` directory | `release` |
//!
//! Read first: [`ExecService`], [`job::Job`]. Must never: decide about jobs (the manager does) or
//! touch a process (the `launch` driver does).

mod finish;
mod guest;
pub mod job;
mod kill;
mod launch;
mod lost;
mod mock;
mod ranks;
mod recall;
pub mod settings;
pub mod signals;

use std::collections::{BTreeMap, BTreeSet};

use flux_api::body::AnyObject;
use flux_api::job::exec::{
    CriticalRanks, Exec, ShellBarrier, ShellBarrier_, Start, StartRequest, StartResponse,
};
use flux_api::job::manager::{ExecHello, ExecHello_};
use flux_api::kvs::{APPEND, Operation};
use flux_api::sched::JobExpiration;
use flux_api::{Answer, Empty, RpcError};
use flux_id::{Idset, JobId};
use flux_model::eventlog::Event;
use flux_model::resource_set::ResourceSet;
use flux_model::treeobj::Treeobj;
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Level, Reply, Service, TimerId, To};
use serde_json::{Map, Value, json};

use crate::job::{Ending, Job, Shell, Stage, Step};
use crate::ranks::Node;
use crate::settings::Settings;
use crate::signals::Asked;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The manager to know this service.
    Hello,
    /// Time to say hello again.
    HelloAgain,
    /// A namespace to be made.
    Namespace(u64),
    /// First events or the link to be on disk.
    First(u64),
    /// A shell's process.
    Shell(u64, u32),
    /// Word on a signal.
    Signal,
    /// A signal to be on record.
    SignalKept(u64),
    /// The time limit.
    Expired(u64),
    /// The next kill signal.
    Kill(u64),
    /// Shells that outlive the leader.
    Straggle(u64),
    /// Shells that do not reach the barrier.
    BarrierLate(u64),
    /// Last events to be on disk.
    Last(u64),
    /// The guest directory to be on disk.
    Graft(u64),
    /// The namespace to be gone.
    Removed,
    /// A rank to be drained.
    Drained,
    /// What a shell said to be in the log.
    Logged,
    /// A shell, the first, to know that the other is lost.
    Told(u64, u32, u32),
    /// A mock job's end.
    Mock(u64),
    /// The jobs of before to be told.
    Greeted,
    /// Which nodes are there.
    Online,
    /// What is on record on a node.
    Records(u32),
    /// A shell that no job owns, on a node.
    Stray(u64, u32),
    /// Time to look at nodes that are away.
    Away,
    /// A shell to have heard signals, up to number `last`.
    Heard {
        /// The job.
        id: u64,
        /// The shell.
        rank: u32,
        /// Number of the last signal that it was told.
        last: u64,
        /// Attempts that failed.
        tries: u32,
    },
    /// Time to tell nodes which records can go.
    Forget,
    /// What a job's log says.
    Recall(u64),
    /// What the log in a job's guest directory says.
    RecallGuest(u64),
    /// Time to ask again what was done for a job.
    RecallAgain(u64),
    /// Patience with shells that may have passed a barrier before a restart.
    BarrierOld(u64),
}

/// The `job-exec` service.
#[derive(Debug)]
pub struct ExecService {
    base: Settings,
    settings: Settings,
    jobs: BTreeMap<u64, Job>,
    /// Jobs with shells on each node.
    at_rank: BTreeMap<u32, BTreeSet<u64>>,
    /// Shells whose nodes are away: rank and job. Some may have been found meanwhile.
    away: BTreeSet<(u32, u64)>,
    /// Nodes that were asked what runs there.
    ranks: BTreeMap<u32, Node>,
    online: Idset,
    /// Nodes that were there at some time since the start.
    seen: Idset,
    /// The manager has told of every job that was started before.
    greeted: bool,
    /// Looks at nodes that are away.
    looking: Option<TimerId>,
    /// Records that can go, by rank.
    forgotten: BTreeMap<u32, Vec<u64>>,
    /// The instance stops, and its jobs stay: nodes that go are no loss.
    held: bool,
    /// Who asked for signals that are not yet on record.
    asked: Asked,
}

/// How long after a restart a barrier waits for shells that may have passed it before, in
/// microseconds. Shells that have not ask again within seconds.
const BARRIER_OLD: u64 = 60_000_000;

/// One event as an append to an eventlog.
fn append(cx: &Cx<'_, Wait>, key: &str, events: &[(&str, Value)]) -> Operation {
    let mut text = String::new();
    for (name, context) in events {
        let mut event = Event::new(cx.wall(), *name);
        if let Value::Object(context) = context {
            event = event.with_context(context.clone());
        }
        text.push_str(&event.encode());
    }
    Operation {
        key: key.to_string(),
        flags: APPEND,
        dirent: Treeobj::val(text.into_bytes()).into(),
    }
}

impl ExecService {
    /// A service that starts shells with these defaults, which `[exec]` may change.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            base: settings.clone(),
            settings,
            jobs: BTreeMap::new(),
            at_rank: BTreeMap::new(),
            away: BTreeSet::new(),
            ranks: BTreeMap::new(),
            online: Idset::new(),
            seen: Idset::new(),
            greeted: false,
            looking: None,
            forgotten: BTreeMap::new(),
            held: false,
            asked: Asked::default(),
        }
    }

    fn hello(cx: &mut Cx<'_, Wait>) {
        let request = ExecHello { service: "job-exec".to_string() };
        cx.call::<ExecHello_>(To::Rank(0), &request, Wait::Hello);
    }

    fn respond(&self, cx: &mut Cx<'_, Wait>, id: u64, kind: &str, data: Value) {
        if let Some(job) = self.jobs.get(&id) {
            job.answer.give_item(cx, StartResponse { id, kind: kind.to_string(), data });
        }
    }

    /// Tells the manager of an exception; it raises it and the event comes back to us.
    fn exception(&mut self, cx: &mut Cx<'_, Wait>, id: u64, severity: i32, kind: &str, note: &str) {
        if let Some(job) = self.jobs.get_mut(&id) {
            if severity == 0 {
                job.reported = true;
            }
            let userid = job.userid;
            let data = json!({
                "severity": severity, "type": kind, "note": note, "userid": userid,
            });
            self.respond(cx, id, "exception", data);
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_, Wait>, request: StartRequest, answer: Answer<Start>) {
        let id = request.id;
        let refuse = |cx: &mut Cx<'_, Wait>, answer: Answer<Start>, note: String| {
            let data =
                json!({"severity": 0, "type": "exec", "note": note, "userid": request.userid});
            answer.item(cx, &StartResponse { id, kind: "exception".into(), data });
            let data = json!({"ranks": "all", "final": true});
            answer.item(cx, &StartResponse { id, kind: "release".into(), data });
            answer.forget();
        };
        if self.jobs.contains_key(&id) {
            return refuse(cx, answer, "the job has been started already".to_string());
        }
        let r = match ResourceSet::from_value(&request.r) {
            Ok(r) => r,
            Err(error) => return refuse(cx, answer, format!("R: {error}")),
        };
        let guest = request.userid != cx.owner();
        if let Err(note) = self.settings.shell_command(JobId(id), guest, &request.jobspec) {
            return refuse(cx, answer, note);
        }
        if guest && request.jobspec.pointer("/attributes/system/exec/test").is_some() {
            let note = "jobs of other users cannot use test execution";
            return refuse(cx, answer, note.to_string());
        }
        let shells = r.ranks().ids().map(|rank| (rank, Shell::new())).collect::<BTreeMap<_, _>>();
        let count = shells.len();
        let again = request.reattach || request.resume.is_some();
        let job = Job {
            id: JobId(id),
            userid: request.userid,
            guest,
            r,
            jobspec: request.jobspec,
            answer,
            step: if again { Step::Recalling } else { Step::Naming },
            shells,
            launching: count,
            active: count,
            barrier: BTreeMap::new(),
            barriers: 0,
            gone: BTreeMap::new(),
            signals: Vec::new(),
            status: 0,
            critical: None,
            ending: None,
            expiration: None,
            killer: None,
            straggler: None,
            reported: false,
            began: request.resume.as_ref().map_or(cx.wall(), |resume| resume.since),
            began_us: request.resume.is_none().then(|| cx.now_us()),
            used: None,
            ended_after: None,
            early: Vec::new(),
            resume: request.resume,
            reattach: request.reattach,
        };
        self.place_job(id, job.shells.keys().copied());
        self.jobs.insert(id, job);
        if again {
            return self.recall(cx, id);
        }
        if self.begin_mock(cx, id) {
            return;
        }
        self.make_namespace(cx, id);
    }

    fn barrier(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        request: &ShellBarrier,
        answer: Answer<ShellBarrier_>,
    ) {
        let Some(job) = self.jobs.get_mut(&request.id) else {
            return answer.err(cx, RpcError::new(Errno::ENOENT, "job not found"));
        };
        if let Err(error) = own(answer.cred(), job.userid) {
            return answer.err(cx, error);
        }
        if !job.shells.contains_key(&request.rank) {
            let text = format!("rank {} runs no shell of this job", request.rank);
            return answer.err(cx, RpcError::new(Errno::EINVAL, text));
        }
        if let Some(passed) = request.passed {
            if passed < job.barriers {
                // The others passed it when a restart lost the answer to this one.
                return answer.ok(cx, &Empty);
            }
            if passed > job.barriers {
                job.barriers = passed;
                Self::pass_barrier(cx, job);
            }
        }
        if job.active < job.shells.len() {
            // A shell has exited: nobody will complete this barrier.
            return answer.err(cx, Errno::EIO);
        }
        let patience = job.barrier.is_empty() && job.resume.is_some();
        if let Some(older) = job.barrier.insert(request.rank, answer) {
            // The shell asks again since it has lost its broker.
            older.forget();
        }
        if job.barrier.len() == job.shells.len() {
            job.barriers = job.barriers.saturating_add(1);
            Self::pass_barrier(cx, job);
        } else if patience {
            cx.timer(BARRIER_OLD, Wait::BarrierOld(request.id));
        }
    }

    fn pass_barrier(cx: &mut Cx<'_, Wait>, job: &mut Job) {
        for (_, answer) in std::mem::take(&mut job.barrier) {
            answer.ok(cx, &Empty);
        }
    }

    /// After a restart some shells wait at a barrier, the others may have passed it before: those
    /// would not ask again.
    fn barrier_old(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let whole = job.active == job.shells.len();
        let running = job.shells.values().all(|shell| matches!(shell.stage, Stage::Running(_)));
        if job.barrier.is_empty() || job.step > Step::Running || !whole {
            return;
        }
        if !running {
            cx.timer(BARRIER_OLD, Wait::BarrierOld(id));
            return;
        }
        job.barriers = job.barriers.saturating_add(1);
        Self::pass_barrier(cx, job);
    }

    fn barrier_failed(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            for (_, answer) in std::mem::take(&mut job.barrier) {
                answer.err(cx, Errno::EIO);
            }
        }
    }

    fn barrier_late(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.step > Step::Running || job.barriers > 0 || job.shells.len() < 2 {
            return;
        }
        let missing: Idset =
            job.shells.keys().filter(|rank| !job.barrier.contains_key(rank)).copied().collect();
        let total = job.shells.len();
        let note = format!(
            "start barrier timeout waiting for {}/{total} nodes {}",
            missing.len(),
            job.place(&missing)
        );
        let reason = format!("job {} start timeout: possible node hang", job.id.f58());
        self.drain(cx, &missing, reason);
        self.exception(cx, id, 0, "exec", &note);
    }

    fn set_critical(&mut self, request: &CriticalRanks, cred: Cred) -> Result<Empty, RpcError> {
        let job = self
            .jobs
            .get_mut(&request.id)
            .ok_or_else(|| RpcError::new(Errno::ENOENT, "job not found"))?;
        own(cred, job.userid)?;
        let indices: Idset = request
            .ranks
            .parse()
            .map_err(|error| RpcError::new(Errno::EPROTO, format!("ranks: {error}")))?;
        let critical = job
            .shells
            .keys()
            .enumerate()
            .filter(|(at, _)| u32::try_from(*at).is_ok_and(|at| indices.contains(at)))
            .map(|(_, rank)| *rank)
            .collect::<BTreeSet<_>>();
        job.critical = Some(critical);
        Ok(Empty)
    }

    fn set_expiration(&mut self, cx: &mut Cx<'_, Wait>, id: u64, expiration: f64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(timer) = job.expiration.take() {
            cx.cancel_timer(timer);
        }
        job.r.expiration = expiration;
        // One that is to end has had its time; told again it would be another exception.
        if expiration > 0.0 && job.step <= Step::Running && !job.is_over() {
            // Never more than the whole of it: the clock may have been set.
            let (whole, used) = match job.r.starttime {
                start if start > 0.0 => {
                    let used = job.used(cx.now_us()).unwrap_or(cx.wall() - start);
                    ((expiration - start).max(0.0), used)
                }
                _ => (f64::INFINITY, 0.0),
            };
            let left = match whole.is_finite() {
                true => (whole - used).clamp(0.0, whole),
                false => (expiration - cx.wall()).max(0.0),
            };
            job.expiration = Some(cx.timer((left * 1e6) as u64, Wait::Expired(id)));
        }
    }
}

/// A job's data is for its user and the owner.
fn own(cred: Cred, userid: u32) -> Result<(), RpcError> {
    if cred.rolemask.contains(Rolemask::OWNER) || cred.userid == userid {
        return Ok(());
    }
    Err(RpcError::new(Errno::EPERM, "the job belongs to another user"))
}

/// Disarms a timer that may be armed.
fn disarm(cx: &mut Cx<'_, Wait>, timer: &mut Option<TimerId>) {
    if let Some(timer) = timer.take() {
        cx.cancel_timer(timer);
    }
}

impl Service for ExecService {
    type Api = Exec;
    type Wait = Wait;

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.let_go();
        cx.drained();
    }

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.subscribe("job-exception");
        Self::watch_nodes(cx);
        Self::hello(cx);
        cx.ready();
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Exec) {
        match call {
            Exec::Start(call) => self.begin(cx, call.request, call.answer),
            Exec::Expiration(call) => {
                let JobExpiration { id, expiration } = call.request;
                if self.jobs.contains_key(&id) {
                    self.set_expiration(cx, id, expiration);
                    call.answer.ok(cx, &Empty);
                } else {
                    call.answer.err(cx, RpcError::new(Errno::ENOENT, "job not found"));
                }
            }
            Exec::Signal(call) => self.signalled(cx, &call.request, call.answer),
            Exec::CriticalRanks_(call) => {
                let result = self.set_critical(&call.request, call.answer.cred());
                call.answer.respond(cx, result);
            }
            Exec::Hold(call) => {
                self.held = true;
                call.answer.ok(cx, &Empty);
            }
            Exec::ShellBarrier_(call) => self.barrier(cx, &call.request, call.answer),
            Exec::Stats(call) => {
                let stats = self.describe();
                call.answer.ok(cx, &stats);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Hello => {
                if let Some(error) = reply.error() {
                    cx.log(Level::Debug, format!("job-manager.exec-hello: {error}"));
                    cx.timer(10_000, Wait::HelloAgain);
                } else {
                    // The jobs that were started before come right after this answer.
                    cx.timer(0, Wait::Greeted);
                }
            }
            Wait::Namespace(id) => self.named(cx, id, &reply),
            Wait::First(id) => self.first_events(cx, id, &reply),
            Wait::Shell(id, rank) => self.shell_reply(cx, id, rank, &reply),
            Wait::Last(id) => self.last_events(cx, id, &reply),
            Wait::Graft(id) => self.grafted(cx, id, &reply),
            Wait::Online => self.online(cx, &reply),
            Wait::Records(rank) => self.records(cx, rank, &reply),
            Wait::Stray(id, rank) => self.stray(cx, id, rank, &reply),
            Wait::Heard { .. } => self.heard(cx, wait, &reply),
            Wait::Told(..) => self.told_gone(cx, wait, &reply),
            Wait::SignalKept(ticket) => self.signal_kept(cx, ticket, &reply),
            Wait::Recall(id) => self.recalled(cx, id, &reply),
            Wait::RecallGuest(id) => self.recalled_guest(cx, id, &reply),
            Wait::Drained => {
                if let Some(error) = reply.error() {
                    cx.log(Level::Err, format!("resource.drain: {error}"));
                }
            }
            Wait::HelloAgain
            | Wait::Signal
            | Wait::Expired(_)
            | Wait::Kill(_)
            | Wait::Straggle(_)
            | Wait::BarrierLate(_)
            | Wait::Removed
            | Wait::Logged
            | Wait::Mock(_)
            | Wait::Greeted
            | Wait::Away
            | Wait::Forget
            | Wait::RecallAgain(_)
            | Wait::BarrierOld(_) => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::HelloAgain => Self::hello(cx),
            Wait::Expired(id) => self.expired(cx, id),
            Wait::Kill(id) => self.kill_again(cx, id),
            Wait::Straggle(id) => self.straggling(cx, id),
            Wait::BarrierLate(id) => self.barrier_late(cx, id),
            Wait::Mock(id) => self.mock_ended(cx, id, 0),
            Wait::Greeted => self.greeted(cx),
            Wait::Away => self.look_at_away(cx),
            Wait::Forget => self.forget_records(cx),
            Wait::Heard { id, rank, tries, .. } => self.tell_signals_again(cx, id, rank, tries),
            Wait::Told(id, rank, lost) => self.tell_again(cx, id, rank, lost),
            Wait::RecallAgain(id) => self.recall(cx, id),
            Wait::BarrierOld(id) => self.barrier_old(cx, id),
            _ => {}
        }
    }

    fn on_event(&mut self, cx: &mut Cx<'_, Wait>, event: &Message) {
        #[derive(Debug)]
        struct Raised {
            id: u64,
            severity: i64,
            wait_status: Option<i32>,
        }
        let Ok(body) = event.json::<Value>() else { return };
        let raised = (|| {
            Some(Raised {
                id: body.get("id")?.as_u64()?,
                severity: body.get("severity")?.as_i64()?,
                wait_status: body
                    .get("wait_status")
                    .and_then(Value::as_i64)
                    .and_then(|status| i32::try_from(status).ok()),
            })
        })();
        if let Some(raised) = raised
            && raised.severity == 0
            && self.jobs.contains_key(&raised.id)
        {
            self.end_early(cx, raised.id, raised.wait_status);
        }
    }

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        self.settings =
            self.base.with_config(config).map_err(|text| RpcError::new(Errno::EINVAL, text))?;
        Ok(())
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        for job in self.jobs.values_mut() {
            let gone: Vec<u32> = job
                .barrier
                .iter()
                .filter(|(_, answer)| answer.same_sender(message))
                .map(|(rank, _)| *rank)
                .collect();
            for rank in gone {
                if let Some(answer) = job.barrier.remove(&rank) {
                    answer.forget();
                }
            }
        }
    }
}

impl ExecService {
    /// The service stops and the jobs go on: whoever waits hears from the broker that it is gone.
    fn let_go(&mut self) {
        self.at_rank.clear();
        self.away.clear();
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.answer.forget();
            job.barrier.into_values().for_each(Answer::forget);
        }
        self.asked.forget();
    }

    fn describe(&self) -> AnyObject {
        let settings = &self.settings;
        let mut jobs = Map::new();
        for job in self.jobs.values() {
            let entry = json!({
                "implementation": "bulk-exec",
                "step": format!("{:?}", job.step),
                "active_ranks": job.active_ranks().to_string(),
                "ending": job.ending.is_some(),
            });
            jobs.insert(job.id.f58plain(), entry);
        }
        let stats = json!({
            "method": "bulk-exec",
            "kill-timeout": settings.kill_timeout,
            "term-signal": settings.term_signal,
            "kill-signal": settings.kill_signal,
            "max-kill-count": settings.max_kill_count,
            "max-kill-timeout": settings.max_kill_timeout,
            "max-start-delay-percent": settings.max_start_delay_percent,
            "barrier-timeout": settings.barrier_timeout,
            "shell-exit-timeout": settings.shell_exit_timeout,
            "lost-node-grace": settings.lost_node_grace,
            "job-shell": settings.shell.join(" "),
            "imp": settings.imp,
            "jobs": jobs,
        });
        match stats {
            Value::Object(stats) => AnyObject(stats),
            _ => AnyObject::default(),
        }
    }

    fn drain(&self, cx: &mut Cx<'_, Wait>, ranks: &Idset, reason: String) {
        use flux_api::resource::{Drain, DrainRequest};
        let request = DrainRequest {
            targets: ranks.to_string(),
            reason: Some(reason),
            mode: Some("update".to_string()),
        };
        cx.call::<Drain>(To::Rank(0), &request, Wait::Drained);
    }
}

/// A job's own state when it shall end early.
fn ending(settings: &Settings, wait_status: Option<i32>, began_us: u64) -> Ending {
    Ending { began_us, wait_status, interval: settings.kill_timeout, ..Ending::default() }
}

#[cfg(test)]
mod tests;
