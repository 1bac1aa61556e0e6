//! `archive`: finished jobs on disk, one row each: a driver on rank 0.
//!
//! `job-list` puts a job here when it is over, then tells `job-manager`, which from then on need
//! not look at it again, not even after a restart. What is here is what `flux jobs -a` shows. An
//! instance whose state goes with it (a temporary statedir) has no archive.

use crate::body::{AnyObject, Empty};

bodies! {
    /// A finished job. The names are those of RFC 43, unless said otherwise; what is not known is
    /// left out.
    pub struct ArchivedJob {
        /// Job id.
        pub id: u64,
        /// User.
        pub userid: u32,
        /// 0..=31.
        pub urgency: u8,
        /// Once assigned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub priority: Option<u32>,
        /// Times in seconds since the epoch.
        pub t_submit: f64,
        /// Entered DEPEND.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub t_depend: Option<f64>,
        /// First entered PRIORITY.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub t_priority: Option<f64>,
        /// First entered SCHED.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub t_sched: Option<f64>,
        /// Entered RUN.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub t_run: Option<f64>,
        /// Entered CLEANUP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub t_cleanup: Option<f64>,
        /// Entered INACTIVE.
        pub t_inactive: f64,
        /// Number of the result.
        pub result: u32,
        /// wait(2) status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub waitstatus: Option<i32>,
        /// Not of RFC 43: its shells were started.
        #[serde(default)]
        pub started: bool,
        /// Not of RFC 43: a fatal exception ended it.
        #[serde(default)]
        pub fatal: bool,
        /// Name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Working directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cwd: Option<String>,
        /// Queue.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub queue: Option<String>,
        /// Project.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub project: Option<String>,
        /// Bank.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bank: Option<String>,
        /// Number of tasks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ntasks: Option<u64>,
        /// Number of cores.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ncores: Option<u64>,
        /// Number of nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub nnodes: Option<u64>,
        /// Time limit in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub duration: Option<f64>,
        /// When its resources expired, or would have; 0 is never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub expiration: Option<f64>,
        /// Idset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ranks: Option<String>,
        /// Hostlist.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub nodelist: Option<String>,
        /// Of the worst exception: its type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exception_type: Option<String>,
        /// Its severity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exception_severity: Option<u8>,
        /// Its note.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exception_note: Option<String>,
        /// JSON text of an object.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub annotations: Option<String>,
        /// JSON text of a list of strings.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub dependencies: Option<String>,
    }

    /// Jobs.
    pub struct ArchivedJobs {
        /// At most [`CHUNK_MAX`].
        pub jobs: Vec<ArchivedJob>,
    }

    /// Job ids.
    pub struct ArchiveIds {
        /// At most [`CHUNK_MAX`].
        pub ids: Vec<u64>,
    }

    /// Where the next chunk begins.
    pub struct ArchiveCursor {
        /// The last job seen became inactive then.
        pub t_inactive: f64,
        /// Its id.
        pub id: u64,
    }

    /// Body of `archive.list`.
    pub struct ArchiveListRequest {
        /// Only jobs after this one in the order of the list; none: from the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub after: Option<ArchiveCursor>,
        /// Jobs wanted, at most [`CHUNK_MAX`].
        pub max: u64,
    }

    /// Body of `archive.ids`.
    pub struct ArchiveIdsRequest {
        /// Only ids above this one.
        pub above: u64,
        /// Ids wanted, at most [`CHUNK_MAX`].
        pub max: u64,
    }

    /// Body of `archive.of-user`.
    pub struct ArchiveUserRequest {
        /// User.
        pub userid: u32,
        /// Ids wanted.
        pub max: u64,
    }

    /// Body of `archive.beyond`. Without any limit every job is beyond.
    pub struct ArchiveLimits {
        /// Jobs that ended at this time or before are beyond.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ended_before: Option<f64>,
        /// All but this many, those that ended last, are beyond.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub keep: Option<u64>,
        /// Ids wanted, at most [`CHUNK_MAX`]; the oldest first.
        pub max: u64,
        /// Jobs that are never beyond, and are not counted: who asks remembers them itself, and
        /// does not know whether they are here already.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub except: Vec<u64>,
        /// Only jobs of this user are meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub userid: Option<u32>,
    }

    /// Jobs beyond a limit.
    pub struct ArchiveBeyond {
        /// How many there are in all.
        pub count: u64,
        /// As many ids as were wanted.
        pub ids: Vec<u64>,
    }

    /// What is in the archive.
    pub struct ArchiveInfo {
        /// Jobs.
        pub count: u64,
        /// The highest id; 0 for none.
        pub max_id: u64,
        /// Every job that is not in the index of active jobs is here: nobody need scan for others.
        pub complete: bool,
        /// Bytes of the file.
        pub bytes: u64,
    }
}

/// Jobs, or ids, in one request or response.
pub const CHUNK_MAX: u64 = 4096;

api! {
    /// Finished jobs on disk; a driver on rank 0. Whatever changes it is on stable storage when it
    /// is answered; a full or failing disk is answered with its errno (ENOSPC, EIO).
    pub enum Archive("archive") {
        /// Stores jobs; those of the same id are replaced.
        ArchivePut = "archive.put", owner, unary, ArchivedJobs => Empty;
        /// Jobs, those that ended last first.
        ArchiveList = "archive.list", owner, unary, ArchiveListRequest => ArchivedJobs;
        /// Those of the jobs that are here.
        ArchiveGet = "archive.get", owner, unary, ArchiveIds => ArchivedJobs;
        /// Ids in rising order.
        ArchiveIds_ = "archive.ids", owner, unary, ArchiveIdsRequest => ArchiveIds;
        /// Ids of a user's jobs, the highest first.
        ArchiveOfUser = "archive.of-user", owner, unary, ArchiveUserRequest => ArchiveIds;
        /// Jobs that may be purged, those that ended first first.
        ArchiveBeyond_ = "archive.beyond", owner, unary, ArchiveLimits => ArchiveBeyond;
        /// Forgets jobs.
        ArchiveRemove = "archive.remove", owner, unary, ArchiveIds => Empty;
        /// Remembers that every finished job is here.
        ArchiveComplete = "archive.complete", owner, unary, AnyObject => Empty;
        /// What is here.
        ArchiveInfo_ = "archive.info", owner, unary, AnyObject => ArchiveInfo;
    }
}
