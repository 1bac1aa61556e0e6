//! `job-manager`: the life of every job (RFC 21, RFC 27, RFC 32, RFC 33).

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty};
use crate::kvs::CancelRequest;

bodies! {
    /// One job from ingest.
    pub struct NewJob {
        /// Job id.
        pub id: u64,
        /// User.
        pub userid: u32,
        /// 0..=31.
        pub urgency: u32,
        /// When ingest took it.
        pub t_submit: f64,
        /// Submit flags.
        pub flags: u32,
        /// Jobspec without environment.
        pub jobspec: Value,
        /// The signed request. The manager writes it and the jobspec in the commit that carries
        /// the job's first events, so that a job is on disk whole or not at all.
        #[serde(rename = "J")]
        pub j: String,
    }

    /// Body of `job-manager.submit`.
    pub struct SubmitBatch {
        /// Jobs.
        pub jobs: Vec<NewJob>,
    }

    /// Jobs that were refused.
    pub struct SubmitErrors {
        /// Pairs of job id and why.
        pub errors: Vec<(u64, String)>,
        /// Pairs of job id and error number, for those that are not EINVAL.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub errnums: Vec<(u64, u32)>,
    }

    /// Answer of `job-manager.getinfo`.
    pub struct ManagerInfo {
        /// The highest id ever given; 0 for none.
        pub max_jobid: u64,
    }

    /// Body of `job-manager.list`.
    pub struct ListRequest {
        /// 0: all.
        pub max_entries: u32,
    }

    /// Answer of `job-manager.list`.
    pub struct ListResponse {
        /// Active jobs, in queue order first.
        pub jobs: Vec<Value>,
    }

    /// Body of `job-manager.getattr`.
    pub struct GetattrRequest {
        /// Job id.
        pub id: u64,
        /// `jobspec`, `R`, `eventlog`.
        pub attrs: Vec<String>,
    }

    /// Body of `job-manager.urgency`.
    pub struct UrgencyRequest {
        /// Job id.
        pub id: u64,
        /// 0..=31.
        pub urgency: i64,
    }

    /// Answer of `job-manager.urgency`.
    pub struct UrgencyResponse {
        /// What it was.
        pub old_urgency: u32,
    }

    /// Body of `job-manager.raise`.
    pub struct RaiseRequest {
        /// Job id.
        pub id: u64,
        /// 0 ends the job.
        pub severity: i64,
        /// A word.
        #[serde(rename = "type")]
        pub kind: String,
        /// A sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub note: Option<String>,
        /// Wait status that the job shall have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub wait_status: Option<i32>,
    }

    /// Body of `job-manager.raiseall`.
    pub struct RaiseAllRequest {
        /// Only count.
        pub dry_run: bool,
        /// User; -1 for all.
        pub userid: i64,
        /// Bits of job states.
        pub states: u32,
        /// 0 ends the jobs.
        pub severity: i64,
        /// A word.
        #[serde(rename = "type")]
        pub kind: String,
        /// A sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub note: Option<String>,
    }

    /// How many jobs were meant.
    pub struct CountResponse {
        /// Jobs that match.
        pub count: u64,
        /// Of those, failures.
        #[serde(default)]
        pub errors: u64,
    }

    /// Body of `job-manager.kill`.
    pub struct KillRequest {
        /// Job id.
        pub id: u64,
        /// Signal number.
        pub signum: i32,
    }

    /// Body of `job-manager.killall`.
    pub struct KillAllRequest {
        /// Only count.
        pub dry_run: bool,
        /// User; -1 for all.
        pub userid: i64,
        /// Signal number.
        pub signum: i32,
    }

    /// Body of `job-manager.update`.
    pub struct UpdateRequest {
        /// Job id.
        pub id: u64,
        /// New values by dotted key.
        pub updates: Map<String, Value>,
    }

    /// Body of `job-manager.memo`.
    pub struct MemoRequest {
        /// Job id.
        pub id: u64,
        /// Merged into `annotations.user`; null deletes.
        pub memo: Map<String, Value>,
        /// Not kept on disk.
        #[serde(default)]
        pub volatile: bool,
    }

    /// Body of `job-manager.wait`.
    pub struct WaitRequest {
        /// Job id, or any waitable job.
        #[serde(deserialize_with = "crate::job::any_id")]
        pub id: u64,
    }

    /// Answer of `job-manager.wait`.
    pub struct WaitResponse {
        /// Job id.
        pub id: u64,
        /// It completed with status 0.
        pub success: bool,
        /// Why not; empty on success.
        pub errstr: String,
    }

    /// Answer of `job-manager.idle`.
    pub struct IdleResponse {
        /// Jobs that still wait.
        pub pending: u64,
    }

    /// Body of `job-manager.purge`.
    pub struct PurgeRequest {
        /// Seconds; -1 for no limit.
        pub age_limit: f64,
        /// Jobs to keep; -1 for no limit.
        pub num_limit: i64,
        /// Jobs to purge at most now, 1..=100.
        pub batch: i64,
        /// Purge; else only count.
        pub force: bool,
    }

    /// Body of `job-manager.purge-id`.
    pub struct PurgeId {
        /// Job id.
        pub id: u64,
        /// Not 0: purge; else only count.
        pub force: i64,
    }

    /// Body of `job-manager.events-journal`.
    pub struct JournalRequest {
        /// Only these event names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub allow: Option<Value>,
        /// Not these.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub deny: Option<Value>,
        /// Finished jobs too.
        #[serde(default)]
        pub full: bool,
        /// Of the finished ones only those that are not in the archive.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub unarchived: bool,
    }

    /// Body of `job-manager.archived`.
    pub struct ArchivedIds {
        /// Jobs that are in the archive now, durably.
        pub ids: Vec<u64>,
    }

    /// One response of the journal; id -1 without events ends the backlog.
    pub struct JournalResponse {
        /// Job id.
        pub id: i64,
        /// Events (RFC 21).
        pub events: Vec<Value>,
        /// With `submit`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub jobspec: Option<Value>,
        /// With `alloc`.
        #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
        pub r: Option<Value>,
    }

    /// Answer of `job-manager.queue-list`.
    pub struct QueueList {
        /// Names; empty without named queues.
        pub queues: Vec<String>,
    }

    /// Body of `job-manager.queue-status`.
    pub struct QueueName {
        /// Name, with named queues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
    }

    /// Answer of `job-manager.queue-status` (RFC 33).
    pub struct QueueStatus {
        /// Takes jobs.
        pub enable: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub disable_reason: Option<String>,
        /// Starts jobs.
        pub start: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub stop_reason: Option<String>,
        /// `scheduler`, `parent` or `shutdown`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub blocked: Option<String>,
        /// The queue behind a virtual queue.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub parent: Option<String>,
    }

    /// Body of `job-manager.queue-enable`.
    pub struct QueueEnable {
        /// Name, with named queues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Take jobs, or not.
        pub enable: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Every queue.
        #[serde(default)]
        pub all: bool,
    }

    /// Body of `job-manager.queue-start`.
    pub struct QueueStart {
        /// Name, with named queues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Start jobs, or not.
        pub start: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Every queue.
        #[serde(default)]
        pub all: bool,
        /// Forget it at restart.
        #[serde(default)]
        pub nocheckpoint: bool,
        /// The instance ends: no job is started before a restart, even if a queue is started.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub ending: bool,
    }

    /// Answer of `job-manager.alloc-query`.
    pub struct AllocQuery {
        /// Requests not yet sent.
        pub queue_length: u64,
        /// Requests at the scheduler.
        pub alloc_pending: u64,
        /// Running jobs.
        pub running: u64,
    }

    /// Body of `job-manager.sched-hello`.
    pub struct SchedHello {
        /// The scheduler takes jobs that have given part of their R back.
        #[serde(default, rename = "partial-ok")]
        pub partial_ok: bool,
    }

    /// A job that holds resources.
    pub struct SchedHelloJob {
        /// Job id.
        pub id: u64,
        /// Priority.
        pub priority: u64,
        /// User.
        pub userid: u32,
        /// When it was submitted.
        pub t_submit: f64,
        /// Idset of ranks already free.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub free: Option<String>,
    }

    /// Body of `job-manager.sched-ready`.
    pub struct SchedReady {
        /// `unlimited` or `limited`.
        pub mode: String,
        /// Requests at once, when limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
    }

    /// Answer of `job-manager.sched-ready`.
    pub struct SchedReadyResponse {
        /// Jobs that wait.
        pub count: u64,
    }

    /// Body of `job-manager.exec-hello`.
    pub struct ExecHello {
        /// Service to send start requests to.
        pub service: String,
    }

    /// Body of `job-manager.history.get`.
    pub struct HistoryRequest {
        /// A slice, as in Python.
        pub slice: String,
    }

    /// Answer of `job-manager.history.get`.
    pub struct HistoryResponse {
        /// The caller's jobs, newest first.
        pub jobs: Vec<u64>,
    }

    /// Body of `job-manager.post-event.post`.
    pub struct PostJobEvent {
        /// Job id.
        pub id: u64,
        /// Event name.
        pub name: String,
        /// Context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub context: Option<Value>,
    }

    /// Body of `job-manager.jobtap`.
    pub struct JobtapRequest {
        /// Plugin to load.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub load: Option<String>,
        /// Its configuration.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub conf: Option<Value>,
        /// Plugin to remove.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub remove: Option<String>,
        /// Only list what is loaded.
        #[serde(default)]
        pub query_only: bool,
    }

    /// Answer of `job-manager.jobtap`.
    pub struct JobtapResponse {
        /// Names of plugins, in load order; those with a dot are built in.
        pub plugins: Vec<String>,
    }

    /// Body of `job-manager.jobtap-query`.
    pub struct JobtapQuery {
        /// Name of the plugin.
        pub name: String,
    }

    /// Body of `job-manager.housekeeping-kill`.
    pub struct HousekeepingKill {
        /// Signal.
        pub signum: i32,
        /// Job id; all without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub jobid: Option<u64>,
        /// Idset of ranks; all without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ranks: Option<String>,
    }

    /// What the manager allocates: union of R.
    pub struct ManagerResources {
        /// R.
        pub allocated: Value,
    }
}

api! {
    /// The life of every job; rank 0.
    pub enum Manager("job-manager") {
        /// From ingest: new jobs.
        Submit = "job-manager.submit", owner, unary, SubmitBatch => SubmitErrors;
        /// The highest id.
        Getinfo = "job-manager.getinfo", user, unary, AnyObject => ManagerInfo;
        /// Active jobs.
        List = "job-manager.list", owner, unary, ListRequest => ListResponse;
        /// Parts of an active job.
        Getattr = "job-manager.getattr", user, unary, GetattrRequest => Map<String, Value>;
        /// Changes the urgency.
        Urgency = "job-manager.urgency", user, unary, UrgencyRequest => UrgencyResponse;
        /// Raises an exception.
        Raise = "job-manager.raise", user, unary, RaiseRequest => Empty;
        /// Raises an exception on many jobs.
        RaiseAll = "job-manager.raiseall", user, unary, RaiseAllRequest => CountResponse;
        /// Sends a signal to the tasks of a job.
        Kill = "job-manager.kill", user, unary, KillRequest => Empty;
        /// Sends a signal to the tasks of many jobs.
        KillAll = "job-manager.killall", user, unary, KillAllRequest => CountResponse;
        /// Changes the jobspec of a job.
        Update = "job-manager.update", user, unary, UpdateRequest => Empty;
        /// Notes for people.
        Memo = "job-manager.memo", user, unary, MemoRequest => Empty;
        /// Waits for a waitable job.
        Wait = "job-manager.wait", owner, unary, WaitRequest => WaitResponse;
        /// Answers when no job is active.
        Drain = "job-manager.drain", owner, unary, AnyObject => Empty;
        /// Answers when no job runs.
        Idle = "job-manager.idle", owner, unary, AnyObject => IdleResponse;
        /// Forgets finished jobs.
        Purge = "job-manager.purge", owner, unary, PurgeRequest => CountResponse;
        /// Forgets one finished job.
        PurgeId_ = "job-manager.purge-id", owner, unary, PurgeId => CountResponse;
        /// Every event of every job as it happens.
        Journal = "job-manager.events-journal", owner, streaming, JournalRequest => JournalResponse;
        /// From job-list: these finished jobs are in the archive.
        Archived = "job-manager.archived", owner, silent, ArchivedIds => Empty;
        /// Ends a journal stream.
        JournalCancel = "job-manager.events-journal-cancel", owner, silent, CancelRequest => Empty;
        /// Names of queues.
        QueueList_ = "job-manager.queue-list", user, unary, AnyObject => QueueList;
        /// State of a queue.
        QueueStatus_ = "job-manager.queue-status", user, unary, QueueName => QueueStatus;
        /// Takes jobs, or not.
        QueueEnable_ = "job-manager.queue-enable", owner, unary, QueueEnable => Empty;
        /// Starts jobs, or not.
        QueueStart_ = "job-manager.queue-start", owner, unary, QueueStart => Empty;
        /// How much waits for the scheduler.
        AllocQuery_ = "job-manager.alloc-query", user, unary, AnyObject => AllocQuery;
        /// Resources of active jobs.
        ResourceStatus = "job-manager.resource-status", owner, unary, AnyObject => ManagerResources;
        /// The scheduler introduces itself; answered with jobs that hold resources.
        SchedHello_ = "job-manager.sched-hello", owner, streaming, SchedHello => SchedHelloJob;
        /// The scheduler is ready for requests.
        SchedReady_ = "job-manager.sched-ready", owner, unary, SchedReady => SchedReadyResponse;
        /// The execution service introduces itself.
        ExecHello_ = "job-manager.exec-hello", owner, unary, ExecHello => Empty;
        /// Recent jobs of the caller.
        History = "job-manager.history.get", user, unary, HistoryRequest => HistoryResponse;
        /// Lists, loads and removes policy plugins.
        Jobtap = "job-manager.jobtap", owner, unary, JobtapRequest => JobtapResponse;
        /// What a policy plugin does.
        JobtapQuery_ = "job-manager.jobtap-query", owner, unary, JobtapQuery => Map<String, Value>;
        /// Sends a signal to housekeeping processes.
        HousekeepingKill_ = "job-manager.housekeeping-kill", owner, unary, HousekeepingKill => Empty;
        /// Posts an event to a job's eventlog.
        PostJobEvent_ = "job-manager.post-event.post", owner, unary, PostJobEvent => Empty;
    }
}
