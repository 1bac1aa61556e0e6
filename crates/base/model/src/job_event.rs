//! Job states and events (RFC 21): what a job eventlog says about a job.
//!
//! [`JobStatus`] is a pure fold over the events of a log. It takes events as they come, because a log
//! is the truth even when another version wrote it; [`check::legal`] is the strict judge of whether
//! an event may follow, for tests and simulation.

use serde_json::Value;

use crate::eventlog::{Context, Event};

mod annotations;
pub mod check;
mod names;

pub use annotations::merge_annotations;
pub use names::{JobResult, JobState, NameError, ResultMask, StateMask, StringForm};

/// Urgency of a held job.
pub const URGENCY_HOLD: u8 = 0;
/// Urgency of a job that asked for none.
pub const URGENCY_DEFAULT: u8 = 16;
/// Greatest urgency: the job is expedited.
pub const URGENCY_MAX: u8 = 31;
/// Least severe exception; 0 is fatal.
pub const SEVERITY_MAX: u8 = 7;

/// Submit flag: log debug events.
pub const FLAG_DEBUG: u32 = 2;
/// Submit flag: the job can be waited for.
pub const FLAG_WAITABLE: u32 = 4;
/// Submit flag: the jobspec was not validated.
pub const FLAG_NOVALIDATE: u32 = 8;

/// Why an event does not continue a job's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobEventError {
    /// The log has no event.
    #[error("job eventlog is empty")]
    Empty,
    /// The first event is another one.
    #[error("first job event is '{0}', not submit")]
    NotSubmit(String),
    /// The log is of a version other than 1.
    #[error("job eventlog version {0} is not supported")]
    Version(i64),
    /// A required key of the context is missing, of the wrong type or out of range.
    #[error("job event {event}: invalid or missing {key}")]
    Context {
        /// Name of the event.
        event: String,
        /// Key of the context.
        key: &'static str,
    },
}

/// An exception of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobException {
    /// When it was raised, in seconds since the epoch.
    pub timestamp: f64,
    /// Its type, for example `cancel` or `timeout`.
    pub kind: String,
    /// From 0, fatal, to 7.
    pub severity: u8,
    /// Explanation for people; may be empty.
    pub note: String,
    /// Who raised it, if given.
    pub userid: Option<u32>,
    /// wait(2) status of the task whose end raised it, if given.
    pub wait_status: Option<i32>,
}

/// What the events of a job, up to some point, say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStatus {
    /// Current state.
    pub state: JobState,
    /// Who submitted it.
    pub userid: u32,
    /// Current urgency, 0 to 31.
    pub urgency: u8,
    /// Current priority, once assigned.
    pub priority: Option<u32>,
    /// Submit flags and those set later that have a bit (`FLAG_*`).
    pub flags: u32,
    /// Flag `alloc-bypass` was set: resources do not come from the scheduler.
    pub alloc_bypass: bool,
    /// Flag `immutable` was set: the owner may not update the job.
    pub immutable: bool,
    /// Times a state was entered, in seconds since the epoch; depend, priority and sched the first
    /// time. Submission:
    pub t_submit: f64,
    /// Entered DEPEND.
    pub t_depend: Option<f64>,
    /// First entered PRIORITY.
    pub t_priority: Option<f64>,
    /// First entered SCHED.
    pub t_sched: Option<f64>,
    /// Entered RUN.
    pub t_run: Option<f64>,
    /// Entered CLEANUP.
    pub t_cleanup: Option<f64>,
    /// Entered INACTIVE.
    pub t_inactive: Option<f64>,
    /// The most severe exception, the latest of equals: the one to list.
    pub exception: Option<JobException>,
    /// The first exception of severity 0: the cause of failure.
    pub fatal_exception: Option<JobException>,
    /// wait(2) status of the job from `finish`.
    pub finish_status: Option<i32>,
    /// Descriptions of dependencies not yet removed, oldest first.
    pub dependencies: Vec<String>,
    /// Descriptions of prologs that run.
    pub prologs: Vec<String>,
    /// Descriptions of epilogs that run.
    pub epilogs: Vec<String>,
    /// Resources are allocated and not yet freed.
    pub has_resources: bool,
    /// Job shells have started.
    pub started: bool,
    /// Execution released the last of its resources.
    pub released: bool,
    /// The job was refused by `invalidate` and is to be forgotten.
    pub invalidated: bool,
    /// Annotations: `sched` from the scheduler, `user` from memos.
    pub annotations: Context,
    /// Jobspec updates: dotted path to its latest value, in the order of first update.
    pub jobspec_updates: Context,
    /// Latest expiration of `resource-update`, in seconds since the epoch; 0 is never.
    pub expiration: Option<f64>,
}

impl JobStatus {
    /// The status after a `submit` event.
    ///
    /// # Errors
    /// When the event is another one, or lacks what RFC 21 requires.
    pub fn new(submit: &Event) -> Result<Self, JobEventError> {
        if submit.name != "submit" {
            return Err(JobEventError::NotSubmit(submit.name.clone()));
        }
        let version = required(submit, "version", Value::as_i64)?;
        if version != 1 {
            return Err(JobEventError::Version(version));
        }
        Ok(JobStatus {
            state: JobState::New,
            userid: integer(submit, "userid")?,
            urgency: urgency(submit)?,
            priority: None,
            flags: integer(submit, "flags")?,
            alloc_bypass: false,
            immutable: false,
            t_submit: submit.timestamp,
            t_depend: None,
            t_priority: None,
            t_sched: None,
            t_run: None,
            t_cleanup: None,
            t_inactive: None,
            exception: None,
            fatal_exception: None,
            finish_status: None,
            dependencies: Vec::new(),
            prologs: Vec::new(),
            epilogs: Vec::new(),
            has_resources: false,
            started: false,
            released: false,
            invalidated: false,
            annotations: Context::new(),
            jobspec_updates: Context::new(),
            expiration: None,
        })
    }

    /// The status after all these events.
    ///
    /// # Errors
    /// As [`JobStatus::new`] and [`JobStatus::apply`], or [`JobEventError::Empty`].
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, JobEventError> {
        let mut events = events.into_iter();
        let mut status = Self::new(events.next().ok_or(JobEventError::Empty)?)?;
        for event in events {
            status.apply(event)?;
        }
        Ok(status)
    }

    /// Applies the next event. Unknown events change nothing; a known event that cannot happen in
    /// this state does not change the state.
    ///
    /// # Errors
    /// When the context lacks what RFC 21 requires; the status is then unchanged.
    pub fn apply(&mut self, event: &Event) -> Result<(), JobEventError> {
        let now = event.timestamp;
        match event.name.as_str() {
            "validate" => self.step(JobState::New, JobState::Depend, now),
            "invalidate" => self.invalidated = true,
            "dependency-add" => self.dependencies.push(text(event, "description")?.to_owned()),
            "dependency-remove" => forget(&mut self.dependencies, text(event, "description")?),
            "depend" => self.step(JobState::Depend, JobState::Priority, now),
            "priority" => {
                self.priority = Some(integer(event, "priority")?);
                self.step(JobState::Priority, JobState::Sched, now);
            }
            "urgency" => {
                self.urgency = urgency(event)?;
                self.step(JobState::Sched, JobState::Priority, now);
            }
            "flux-restart" => self.step(JobState::Sched, JobState::Priority, now),
            "jobspec-update" => {
                for (path, value) in event.context.iter().flatten() {
                    self.jobspec_updates.insert(path.clone(), value.clone());
                }
                self.step(JobState::Sched, JobState::Priority, now);
            }
            "resource-update" => {
                self.expiration = Some(required(event, "expiration", Value::as_f64)?);
            }
            "set-flags" => self.set_flags(event)?,
            "alloc" => {
                if let Some(Value::Object(patch)) = event.get("annotations") {
                    merge_annotations(&mut self.annotations, patch);
                }
                self.has_resources |= self.state == JobState::Sched;
                self.step(JobState::Sched, JobState::Run, now);
            }
            "prolog-start" => self.prologs.push(text(event, "description")?.to_owned()),
            "prolog-finish" => forget(&mut self.prologs, text(event, "description")?),
            "epilog-start" => self.epilogs.push(text(event, "description")?.to_owned()),
            "epilog-finish" => forget(&mut self.epilogs, text(event, "description")?),
            "start" => self.started = true,
            "finish" => {
                self.finish_status = Some(integer(event, "status")?);
                self.step(JobState::Run, JobState::Cleanup, now);
            }
            "release" => self.released |= required(event, "final", Value::as_bool)?,
            "free" => self.has_resources = false,
            "exception" => self.raise(event)?,
            "clean" => self.step(JobState::Cleanup, JobState::Inactive, now),
            "annotations" => match event.get("annotations") {
                Some(Value::Object(annotations)) => self.annotations = annotations.clone(),
                Some(Value::Null) => self.annotations = Context::new(),
                _ => return Err(missing(event, "annotations")),
            },
            "memo" => {
                let mut patch = Context::new();
                let memo = event.context.clone().unwrap_or_default();
                patch.insert("user".to_owned(), Value::Object(memo));
                merge_annotations(&mut self.annotations, &patch);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the job reached its end.
    pub fn is_inactive(&self) -> bool {
        self.state == JobState::Inactive
    }

    /// How the job ended, once it is inactive.
    pub fn result(&self) -> Option<JobResult> {
        if !self.is_inactive() {
            return None;
        }
        if self.t_run.is_some() && self.finish_status == Some(0) {
            return Some(JobResult::Completed);
        }
        match &self.exception {
            Some(exception) if exception.severity == 0 => match exception.kind.as_str() {
                "cancel" => Some(JobResult::Canceled),
                "timeout" => Some(JobResult::Timeout),
                _ => Some(JobResult::Failed),
            },
            _ => Some(JobResult::Failed),
        }
    }

    /// Moves from one state to the next; does nothing in any other state.
    fn step(&mut self, from: JobState, to: JobState, now: f64) {
        if self.state == from {
            self.enter(to, now);
        }
    }

    fn enter(&mut self, state: JobState, now: f64) {
        self.state = state;
        let entered = match state {
            JobState::New => return,
            JobState::Depend => &mut self.t_depend,
            JobState::Priority => &mut self.t_priority,
            JobState::Sched => &mut self.t_sched,
            JobState::Run => &mut self.t_run,
            JobState::Cleanup => &mut self.t_cleanup,
            JobState::Inactive => &mut self.t_inactive,
        };
        entered.get_or_insert(now);
    }

    fn raise(&mut self, event: &Event) -> Result<(), JobEventError> {
        let severity: u8 = integer(event, "severity")?;
        if severity > SEVERITY_MAX {
            return Err(missing(event, "severity"));
        }
        let exception = JobException {
            timestamp: event.timestamp,
            kind: text(event, "type")?.to_owned(),
            severity,
            note: event.get_str("note").unwrap_or_default().to_owned(),
            userid: optional(event, "userid"),
            wait_status: optional(event, "wait_status"),
        };
        if severity == 0 {
            if exception.kind == "scheduler-restart" {
                self.has_resources = false;
            }
            if matches!(
                self.state,
                JobState::Depend | JobState::Priority | JobState::Sched | JobState::Run
            ) {
                self.enter(JobState::Cleanup, event.timestamp);
            }
            if self.fatal_exception.is_none() {
                self.fatal_exception = Some(exception.clone());
            }
        }
        if self.exception.as_ref().is_none_or(|worst| severity <= worst.severity) {
            self.exception = Some(exception);
        }
        Ok(())
    }

    fn set_flags(&mut self, event: &Event) -> Result<(), JobEventError> {
        let flags = required(event, "flags", Value::as_array)?;
        for flag in flags {
            match flag.as_str() {
                Some("debug") => self.flags |= FLAG_DEBUG,
                Some("waitable") => self.flags |= FLAG_WAITABLE,
                Some("novalidate") => self.flags |= FLAG_NOVALIDATE,
                Some("alloc-bypass") => self.alloc_bypass = true,
                Some("immutable") => self.immutable = true,
                // A later version may know more flags.
                Some(_) => {}
                None => return Err(missing(event, "flags")),
            }
        }
        Ok(())
    }
}

fn missing(event: &Event, key: &'static str) -> JobEventError {
    JobEventError::Context { event: event.name.clone(), key }
}

fn required<'a, T>(
    event: &'a Event,
    key: &'static str,
    convert: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<T, JobEventError> {
    event.get(key).and_then(convert).ok_or_else(|| missing(event, key))
}

fn text<'a>(event: &'a Event, key: &'static str) -> Result<&'a str, JobEventError> {
    required(event, key, Value::as_str)
}

fn integer<T: TryFrom<i64>>(event: &Event, key: &'static str) -> Result<T, JobEventError> {
    required(event, key, |value| T::try_from(value.as_i64()?).ok())
}

fn optional<T: TryFrom<i64>>(event: &Event, key: &str) -> Option<T> {
    T::try_from(event.get_i64(key)?).ok()
}

fn urgency(event: &Event) -> Result<u8, JobEventError> {
    let urgency = integer(event, "urgency")?;
    if urgency > URGENCY_MAX { Err(missing(event, "urgency")) } else { Ok(urgency) }
}

fn forget(descriptions: &mut Vec<String>, description: &str) {
    if let Some(index) = descriptions.iter().position(|known| known == description) {
        descriptions.remove(index);
    }
}

#[cfg(test)]
mod tests;
