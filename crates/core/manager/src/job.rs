//! One active job: what its events say, and what is going on for it right now.

use std::rc::Rc;

use flux_model::job_event::{JobState, JobStatus};

/// Where the job's request for resources is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllocState {
    /// No request.
    #[default]
    Idle,
    /// In the queue with this priority.
    Queued(u32),
    /// At the scheduler, which knows this priority.
    Pending(u32),
    /// At the scheduler and withdrawn; the request itself is still to be answered.
    Canceling,
}

/// Where the job's request to start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartState {
    /// Not sent.
    #[default]
    Idle,
    /// Sent; the final `release` is still to come.
    Sent,
    /// The execution service that had it is gone: its successor is asked to find the shells.
    Lost,
    /// Execution released everything.
    Done,
}

/// An active job.
#[derive(Debug)]
pub struct Job {
    /// Job id.
    pub id: u64,
    /// What the events say.
    pub status: JobStatus,
    /// Jobspec without environment, updates applied: JSON text.
    pub jobspec: Rc<str>,
    /// Queue, with named queues.
    pub queue: Option<Rc<str>>,
    /// The name given by the user (`attributes.system.job.name`).
    pub name: Option<Rc<str>>,
    /// Resources: JSON text.
    pub r: Option<Rc<str>>,
    /// The eventlog as it is (or is about to be) in the KVS.
    pub log: String,
    /// Bytes of its request and its jobspec, about.
    pub size: u64,
    /// Bytes of events that only the journal saw.
    pub volatile: usize,
    /// Its first events are durable: others may be asked to work for it.
    pub entered: bool,
    /// It is in the archive, though its last event was not durable when that was told.
    pub archived: bool,
    /// Its `alloc` event is durable.
    pub alloc_durable: bool,
    /// R is to be durable with that event.
    pub r_pending: bool,
    /// Request for resources.
    pub alloc: AllocState,
    /// Request to start.
    pub start: StartState,
    /// It was read back after a restart with its resources: it may have been started before.
    pub replayed: bool,
}

impl Job {
    /// A job after its `submit` event.
    #[must_use]
    pub fn new(id: u64, status: JobStatus, jobspec: Rc<str>) -> Self {
        Self {
            id,
            status,
            jobspec,
            queue: None,
            name: None,
            r: None,
            log: String::new(),
            size: 0,
            volatile: 0,
            entered: false,
            archived: false,
            alloc_durable: false,
            r_pending: false,
            alloc: AllocState::Idle,
            start: StartState::Idle,
            replayed: false,
        }
    }

    /// Current state.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.status.state
    }

    /// Priority, 0 before there is one.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.status.priority.unwrap_or(0)
    }

    /// Whether the submit flag is set.
    #[must_use]
    pub fn has_flag(&self, flag: u32) -> bool {
        self.status.flags & flag != 0
    }

    /// Whether shells may live that execution was not asked to find yet: the leader was restarted.
    #[must_use]
    pub fn is_to_be_found(&self) -> bool {
        match self.start {
            StartState::Idle => self.replayed,
            state => state == StartState::Lost,
        }
    }

    /// Whether execution has, or may have, processes of this job.
    #[must_use]
    pub fn in_execution(&self) -> bool {
        matches!(self.start, StartState::Sent | StartState::Lost)
    }
}
