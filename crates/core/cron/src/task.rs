//! One run of an entry.

use flux_model::wait_status;
use serde_json::{Map, Value};

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for the sync event.
    Deferred,
    /// Its process was asked for, or runs.
    Running,
    /// It ended with status 0.
    Exited,
    /// It ended otherwise.
    Failed,
    /// It took too long.
    Timeout,
    /// It could not be run.
    RexecFailure,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Running => "Running",
            Self::Exited => "Exited",
            Self::Failed => "Failed",
            Self::Timeout => "Timeout",
            Self::RexecFailure => "Rexec Failure",
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Task {
    /// Rank it runs on.
    pub rank: u32,
    /// Process id, once it is known.
    pub pid: i32,
    /// Wait status.
    pub status: i32,
    /// Where it is.
    pub state: State,
    /// Seconds since the epoch.
    pub created: f64,
    /// Seconds since the epoch.
    pub asked: Option<f64>,
    /// Seconds since the epoch.
    pub running: Option<f64>,
    /// Seconds since the epoch.
    pub ended: Option<f64>,
    /// Errno of a run that could not be.
    pub errnum: Option<i32>,
    /// Its time was over.
    pub timed_out: bool,
}

impl Task {
    /// A run that is due.
    #[must_use]
    pub fn new(rank: u32, now: f64) -> Self {
        Self {
            rank,
            pid: 0,
            status: 0,
            state: State::Deferred,
            created: now,
            asked: None,
            running: None,
            ended: None,
            errnum: None,
            timed_out: false,
        }
    }

    /// The run as it is shown.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("rank".into(), self.rank.into());
        map.insert("pid".into(), self.pid.into());
        map.insert("status".into(), self.status.into());
        map.insert("state".into(), self.state.name().into());
        map.insert("create-time".into(), self.created.into());
        for (name, time) in
            [("start-time", self.asked), ("running-time", self.running), ("end-time", self.ended)]
        {
            if let Some(time) = time {
                map.insert(name.into(), time.into());
            }
        }
        if let Some(errnum) = self.errnum {
            map.insert("rexec_errno".into(), errnum.into());
        }
        if self.timed_out {
            map.insert("timedout".into(), true.into());
        }
        if self.ended.is_some()
            && self.errnum.is_none()
            && wait_status::signal(self.status).is_none()
        {
            map.insert("code".into(), wait_status::code(self.status).into());
        }
        Value::Object(map)
    }
}
