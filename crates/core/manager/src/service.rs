//! The service: its state, and where each input goes.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::RpcError;
use flux_api::job::manager::{Manager, QueueList};
use flux_id::JobId;
use flux_proto::{Errno, Message, MsgType};
use flux_svc::{Cx, Level, Reply, Service};
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::alloc::Alloc;
use crate::commits::Commits;
use crate::config::Settings;
use crate::dependency::Dependencies;
use crate::guests::Guests;
use crate::housekeeping::Allocations;
use crate::inactive::{History, Inactive};
use crate::job::Job;
use crate::journal::{Journal, Part};
use crate::kill::Signals;
use crate::procedure::{Run, Runs, Stage};
use crate::purge::Purges;
use crate::queue::Queues;
use crate::recall::Recall;
use crate::restart::Restart;
use crate::start::Execution;
use crate::update::Updates;
use crate::waiters::Waiters;

/// Calls that may wait until the jobs are read back; more are refused.
const EARLY_MAX: usize = 4096;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// A commit.
    Commit,
    /// The time to commit what has gathered.
    Flush,
    /// The time to store the index of active jobs alone.
    FlushIndex,
    /// The checkpoint, at start.
    Checkpoint,
    /// The index of active jobs, at start.
    Index,
    /// What the archive holds, at start.
    ArchiveInfo,
    /// Finished jobs that active ones depend on, at start.
    Targets,
    /// Finished jobs that a request means.
    Recall(u64),
    /// A user's finished jobs.
    History(u64),
    /// Jobs beyond the limits of a purge.
    Beyond(u64),
    /// Jobs that go out of the archive.
    Removed(u64),
    /// To try again what could not be taken out of the archive.
    PurgeLeft,
    /// Jobs of an unfinished purge that go out of the archive, at start.
    Unfinished(Vec<u64>),
    /// The note that the archive is complete.
    Complete,
    /// Ids of archived jobs, for a listener of the journal.
    BacklogIds(u64),
    /// A directory of jobs, at start.
    Directory {
        /// Its key.
        key: String,
        /// Levels below `job`.
        depth: usize,
    },
    /// A part of a job, at start.
    Replay {
        /// Job id.
        id: u64,
        /// Which.
        part: Part,
    },
    /// The directory of a job that cannot be replayed.
    Lost(u64),
    /// A part of a finished job, for a listener of the journal.
    Backlog {
        /// Number of the listener.
        listener: u64,
        /// Job id.
        id: u64,
        /// Which.
        part: Part,
    },
    /// The begin time of a job.
    BeginTime(u64),
    /// The next look at the limits on finished jobs.
    Purge,
    /// Whether an updated job is feasible.
    Feasibility(u64),
    /// Whether the scheduler agrees to a new end of a job.
    Expiration(u64),
    /// The instance's own resources.
    Lifetime,
    /// Execution was told a signal.
    Signal(u64),
    /// Execution was told the new end of this job.
    ExecExpiration(u64),
    /// The process of a procedure on a rank.
    Procedure(u64, Stage, u32),
    /// The time limit of a procedure.
    ProcedureLate(u64, Stage),
    /// The time to give up a procedure that was told to stop.
    ProcedureKill(u64, Stage),
    /// To ask a rank again that was away.
    ProcedureAgain(u64, Stage, u32),
    /// What housekeeping held, at start.
    HeldList,
    /// What it held of one job, at start.
    Held(u64),
    /// Nodes where a prolog or epilog failed are being drained.
    PerilogDrain(u64, Stage),
    /// The numbers of the names in `policy.access`, asked for after this reload.
    Numbers(u64),
    /// The groups of a user, asked for after this reload.
    Member(u32, u64),
    /// The time until housekeeping gives ranks back one by one.
    HousekeepingRelease(u64),
}

/// The `job-manager` service.
#[derive(Debug, Default)]
pub struct JobManager {
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Finished jobs go to the archive, and are remembered there.
    pub(crate) archive: bool,
    /// Jobs in the archive, about.
    pub(crate) archived: u64,
    /// A scan is not yet in the archive as a whole.
    pub(crate) migrating: bool,
    /// Finished jobs that are not in the archive.
    pub(crate) inactive: Inactive,
    pub(crate) recall: Recall,
    pub(crate) purges: Purges,
    pub(crate) history: History,
    pub(crate) queues: Queues,
    pub(crate) settings: Settings,
    pub(crate) access: Access,
    pub(crate) guests: Guests,
    pub(crate) alloc: Alloc,
    pub(crate) exec: Execution,
    pub(crate) dependencies: Dependencies,
    pub(crate) journal: Journal,
    pub(crate) commits: Commits,
    pub(crate) waiting: Waiters,
    pub(crate) updates: Updates,
    pub(crate) signals: Signals,
    /// Prologs, epilogs and housekeeping that run.
    pub(crate) procedures: Runs,
    /// Prologs and epilogs that ended, and whose nodes are being drained.
    pub(crate) perilog_drains: BTreeMap<(u64, Stage), Run>,
    /// Allocations of finished jobs that housekeeping still holds.
    pub(crate) housekeeping: Allocations,
    /// Jobs in RUN or CLEANUP.
    pub(crate) running: u64,
    pub(crate) max_jobid: u64,
    /// Jobs whose state may allow another action.
    pub(crate) touched: BTreeSet<u64>,
    /// Singletons whose turn may have come.
    pub(crate) touched_names: BTreeSet<u64>,
    pub(crate) purge_armed: bool,
    /// When the instance ends, in seconds since the epoch; 0 for never; `None` before it is known.
    pub(crate) instance_end: Option<f64>,
    /// The service goes down, and has not yet said that it may.
    pub(crate) draining: bool,
    /// Set until the jobs are read back.
    pub(crate) restarting: Option<Restart>,
    early: Vec<Manager>,
    up: bool,
}

impl JobManager {
    /// A manager of an instance with the `archive` driver: finished jobs are kept there.
    #[must_use]
    pub fn with_archive() -> Self {
        let mut manager = Self { archive: true, ..Self::default() };
        manager.commits.index.keep();
        manager
    }

    /// Jobs are read back: begin to serve.
    pub(crate) fn up(&mut self, cx: &mut Cx<'_, Wait>) {
        self.up = true;
        cx.ready();
        for call in std::mem::take(&mut self.early) {
            self.route(cx, call);
        }
        self.purge_by_limits(cx);
        self.migration_done(cx);
        self.watch_lifetime(cx);
    }

    /// Handles a request; what it means is known.
    pub(crate) fn call(&mut self, cx: &mut Cx<'_, Wait>, call: Manager) {
        match call {
            Manager::Submit(call) => self.submit(cx, call),
            Manager::Getinfo(call) => self.getinfo(cx, call),
            Manager::List(call) => self.list(cx, call),
            Manager::Getattr(call) => self.getattr(cx, call),
            Manager::Urgency(call) => self.urgency(cx, call),
            Manager::Raise(call) => self.raise_request(cx, call),
            Manager::RaiseAll(call) => self.raise_all(cx, call),
            Manager::Kill(call) => self.kill(cx, call),
            Manager::KillAll(call) => self.kill_all(cx, call),
            Manager::Update(call) => self.update(cx, call),
            Manager::Memo(call) => self.memo(cx, call),
            Manager::Wait(call) => self.wait(cx, call),
            Manager::Drain(call) => self.drain(cx, call),
            Manager::Idle(call) => self.idle(call),
            Manager::Purge(call) => self.purge(cx, call),
            Manager::PurgeId_(call) => self.purge_id(cx, call),
            Manager::Journal(call) => self.journal_open(cx, call),
            Manager::Archived(call) => self.archived(cx, call),
            Manager::JournalCancel(call) => self.journal_cancel(cx, call),
            Manager::QueueList_(call) => {
                call.answer.ok(cx, &QueueList { queues: self.queues.names() });
            }
            Manager::QueueStatus_(call) => self.queue_status(cx, call),
            Manager::QueueEnable_(call) => self.queue_enable(cx, call),
            Manager::QueueStart_(call) => self.queue_start(cx, call),
            Manager::AllocQuery_(call) => {
                let response = self.alloc_query();
                call.answer.ok(cx, &response);
            }
            Manager::ResourceStatus(call) => self.resource_status(cx, call),
            Manager::SchedHello_(call) => self.sched_hello(cx, call),
            Manager::SchedReady_(call) => self.sched_ready(cx, call),
            Manager::ExecHello_(call) => self.exec_hello(cx, call),
            Manager::History(call) => self.history_get(cx, call),
            Manager::Jobtap(call) => self.jobtap(cx, call),
            Manager::JobtapQuery_(call) => self.jobtap_query(cx, call),
            Manager::HousekeepingKill_(call) => self.housekeeping_kill(cx, call),
            Manager::PostJobEvent_(call) => self.post_event(cx, call),
        }
    }
}

/// Answers any call with an error.
pub(crate) fn refuse(cx: &mut Cx<'_, Wait>, call: Manager, error: RpcError) {
    macro_rules! refuse {
        ($($name:ident)+) => {
            match call {
                $( Manager::$name(call) => call.answer.err(cx, error), )+
            }
        };
    }
    refuse!(
        Submit Getinfo List Getattr Urgency Raise RaiseAll Kill KillAll Update Memo Wait Drain Idle
        Purge PurgeId_ Journal Archived JournalCancel QueueList_ QueueStatus_ QueueEnable_ QueueStart_
        AllocQuery_ ResourceStatus SchedHello_ SchedReady_ ExecHello_ History Jobtap JobtapQuery_
        HousekeepingKill_ PostJobEvent_
    );
}

impl Service for JobManager {
    type Api = Manager;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        self.restart(cx);
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Manager) {
        if self.up {
            self.route(cx, call);
            self.finish(cx);
        } else {
            if self.early.len() >= EARLY_MAX {
                let text = "job-manager is reading jobs back: try again";
                return refuse(cx, call, RpcError::new(Errno::EAGAIN, text));
            }
            self.early.push(call);
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Commit => {
                let result = reply.error().cloned().map_or(Ok(()), Err);
                self.committed(cx, result);
            }
            Wait::Checkpoint => self.checkpoint_read(cx, &reply),
            Wait::Index => self.index_read(cx, &reply),
            Wait::ArchiveInfo => self.archive_read(cx, &reply),
            Wait::Targets => self.targets_read(cx, &reply),
            Wait::Recall(ticket) => self.recalled(cx, ticket, &reply),
            Wait::History(ticket) => self.history_read(cx, ticket, &reply),
            Wait::Beyond(ticket) => self.beyond(cx, ticket, &reply),
            Wait::Removed(ticket) => self.removed(cx, ticket, &reply),
            Wait::Unfinished(ids) => self.unfinished(cx, ids, &reply),
            Wait::Complete => Self::completed(cx, &reply),
            Wait::BacklogIds(listener) => self.backlog_ids(cx, listener, &reply),
            Wait::Directory { key, depth } => self.directory_read(cx, &key, depth, &reply),
            Wait::Replay { id, part } => self.replay_read(cx, (id, part), &reply),
            Wait::Lost(id) => self.lost_read(cx, id, &reply),
            Wait::Backlog { listener, id, part } => {
                self.backlog_read(cx, (listener, id, part), &reply);
            }
            Wait::Lifetime => self.lifetime_read(cx, &reply),
            Wait::Feasibility(_) | Wait::Expiration(_) => self.update_reply(cx, &wait, &reply),
            Wait::Signal(ticket) => self.signal_reply(cx, ticket, &reply),
            Wait::ExecExpiration(id) => {
                if let Some(error) = reply.error() {
                    let text = format!("{}: expiration not updated: {error}", JobId(id).f58());
                    cx.log(Level::Err, text);
                }
            }
            Wait::Procedure(id, stage, rank) => {
                self.procedure_reply(cx, (id, stage), rank, &reply);
            }
            Wait::HeldList => self.held_list(cx, &reply),
            Wait::Held(id) => self.held_read(cx, id, &reply),
            Wait::Numbers(generation) => self.numbers_told(cx, generation, &reply),
            Wait::Member(userid, generation) => self.member_told(cx, userid, generation, &reply),
            Wait::PerilogDrain(id, stage) => self.perilog_drained(cx, id, stage, &reply),
            Wait::Flush
            | Wait::FlushIndex
            | Wait::BeginTime(_)
            | Wait::Purge
            | Wait::PurgeLeft
            | Wait::ProcedureLate(..)
            | Wait::ProcedureKill(..)
            | Wait::ProcedureAgain(..)
            | Wait::HousekeepingRelease(_) => {}
        }
        if self.up {
            self.finish(cx);
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Flush => self.flush_now(cx),
            Wait::FlushIndex => self.flush_index(cx),
            Wait::BeginTime(id) => self.begin_time(cx, id),
            Wait::Purge => self.purge_by_limits(cx),
            Wait::PurgeLeft => self.purge_left(cx),
            Wait::ProcedureLate(id, stage) => self.procedure_late(cx, id, stage),
            Wait::ProcedureKill(id, stage) => self.procedure_given_up(cx, id, stage),
            Wait::ProcedureAgain(id, stage, rank) => self.procedure_again(cx, id, stage, rank),
            Wait::HousekeepingRelease(id) => self.housekeeping_release(cx, id),
            _ => {}
        }
        self.finish(cx);
    }

    /// Responses without a matchtag: of the scheduler and of execution, matched by job id.
    fn on_other(&mut self, cx: &mut Cx<'_, Wait>, message: Message) {
        if message.kind != MsgType::Response {
            return cx.refuse_unknown(&message);
        }
        if message.topic() == "sched.alloc" {
            self.alloc_response(cx, message);
        } else if self.exec.topic().as_deref() == Some(message.topic()) {
            self.start_response(cx, message);
        } else {
            let text = format!("unexpected response to {}", message.topic());
            return cx.log(Level::Debug, text);
        }
        self.finish(cx);
    }

    fn on_disconnect(&mut self, cx: &mut Cx<'_, Wait>, message: &Message) {
        // Scheduler and executor are the owner's; a guest may say anything of its routes.
        if message.cred.is_owner() {
            let client = message.first_route();
            self.sched_disconnect(cx, client);
            self.exec_disconnect(cx, client);
        }
        self.waiters_disconnect(message);
        self.journal_end(cx, |answer| answer.same_sender(message));
        if self.up {
            self.finish(cx);
        }
    }

    fn on_config(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let settings = Settings::parse(config)?;
        self.queues.configure(&settings.queues);
        self.settings = settings;
        self.access_changed(cx);
        if self.up {
            self.queue_changed(None);
            if !self.purge_armed {
                self.purge_by_limits(cx);
            }
            self.finish(cx);
        }
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        for call in std::mem::take(&mut self.early) {
            refuse(cx, call, RpcError::new(Errno::ENOSYS, "job-manager is unloading"));
        }
        self.access_end(cx);
        self.recall_end(cx);
        self.purges_end(cx);
        self.waiters_end(cx);
        self.updates_end(cx);
        self.journal_end(cx, |_| true);
        self.settle_down(cx);
    }

    fn stats(&self) -> Option<Value> {
        let (listeners, events) = self.journal.counts();
        Some(json!({
            "journal": { "listeners": listeners, "events": events },
            "active_jobs": self.jobs.len(),
            "inactive_jobs": self.archived + self.inactive.len() as u64,
            "max_jobid": self.max_jobid,
            "housekeeping": self.housekeeping_stats(),
        }))
    }
}
