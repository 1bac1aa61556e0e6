//! Which events may follow in a job eventlog (RFC 21, and what a job manager adds to it).

use serde_json::Value;

use super::{JobEventError, JobState, JobStatus, StateMask};
use crate::eventlog::Event;

/// Why an event may not come next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalEvent {
    /// The event is malformed.
    #[error(transparent)]
    Invalid(#[from] JobEventError),
    /// The event does not belong in this state.
    #[error("job event {event} is illegal in state {state}")]
    State {
        /// Name of the event.
        event: String,
        /// State of the job.
        state: JobState,
    },
    /// Something must happen first, or happened already.
    #[error("job event {event} is illegal: {reason}")]
    Order {
        /// Name of the event.
        event: String,
        /// What is missing or was there before.
        reason: &'static str,
    },
}

/// Checks that a whole log is legal, and returns what it says.
///
/// # Errors
/// The index of the first bad event, and why.
pub fn legal_log<'a>(
    events: impl IntoIterator<Item = &'a Event>,
) -> Result<JobStatus, (usize, IllegalEvent)> {
    let mut status = None;
    for (index, event) in events.into_iter().enumerate() {
        let next = match status.take() {
            None => JobStatus::new(event),
            Some(mut status) => {
                legal(&status, event).map_err(|why| (index, why))?;
                status.apply(event).map(|()| status)
            }
        };
        status = Some(next.map_err(|why| (index, why.into()))?);
    }
    status.ok_or((0, JobEventError::Empty.into()))
}

/// Checks that `event` may come next for a job in this status. Events that RFC 21 does not know are
/// legal until the job is inactive.
///
/// # Errors
/// [`IllegalEvent`] says why not.
pub fn legal(status: &JobStatus, event: &Event) -> Result<(), IllegalEvent> {
    use JobState::{Cleanup, Depend, New, Priority, Run, Sched};
    // A malformed event is illegal whatever the state.
    status.clone().apply(event)?;
    let order = |holds: bool, reason: &'static str| {
        if holds { Ok(()) } else { Err(IllegalEvent::Order { event: event.name.clone(), reason }) }
    };
    let states = |states: &[JobState]| {
        if states.contains(&status.state) {
            Ok(())
        } else {
            Err(IllegalEvent::State { event: event.name.clone(), state: status.state })
        }
    };
    let description = event.get_str("description").unwrap_or_default();
    let listed = |list: &[String]| list.iter().any(|known| known == description);

    order(!status.invalidated, "the job was invalidated")?;
    if !(StateMask::from(New) | StateMask::ACTIVE).contains(status.state) {
        return Err(IllegalEvent::State { event: event.name.clone(), state: status.state });
    }
    match event.name.as_str() {
        "submit" => order(false, "the job was submitted before"),
        "validate" | "invalidate" => states(&[New]),
        "dependency-add" => {
            states(&[New, Depend])?;
            order(!listed(&status.dependencies), "the dependency exists")
        }
        "dependency-remove" => order(listed(&status.dependencies), "no such dependency"),
        "depend" => {
            states(&[Depend])?;
            order(status.dependencies.is_empty(), "dependencies are outstanding")
        }
        "priority" => states(&[Priority, Sched]),
        "urgency" => states(&[Depend, Priority, Sched]),
        "flux-restart" => states(&[Depend, Priority, Sched, Run, Cleanup]),
        "jobspec-update" => {
            let keys = event.context.as_ref().map_or(0, |context| context.len());
            order(keys > 0, "it updates nothing")
        }
        "resource-update" => order(status.has_resources, "the job has no resources"),
        "alloc" => {
            states(&[Sched])?;
            order(!status.has_resources, "the job has resources")
        }
        "prolog-start" => {
            states(&[Depend, Priority, Sched, Run])?;
            order(!status.started, "the job has started")?;
            order(!listed(&status.prologs), "the prolog runs already")
        }
        "prolog-finish" => {
            integer(event, "status")?;
            order(listed(&status.prologs), "no such prolog")
        }
        "start" => {
            // An exception may arrive between the request to start and its answer.
            states(&[Run, Cleanup])?;
            order(status.has_resources, "the job has no resources")?;
            order(status.prologs.is_empty(), "a prolog runs")?;
            order(!status.started, "the job has started before")?;
            order(status.finish_status.is_none(), "the job has finished")
        }
        "finish" => {
            states(&[Run, Cleanup])?;
            order(status.has_resources, "the job has no resources")?;
            order(status.finish_status.is_none(), "the job has finished before")
        }
        "release" => {
            states(&[Cleanup])?;
            let ranks = event.get_str("ranks").is_some();
            order(ranks, "ranks is missing")?;
            order(status.t_run.is_some(), "the job never had resources")?;
            order(!status.released, "everything was released before")
        }
        "epilog-start" => {
            states(&[Cleanup])?;
            order(!listed(&status.epilogs), "the epilog runs already")
        }
        "epilog-finish" => {
            integer(event, "status")?;
            order(listed(&status.epilogs), "no such epilog")
        }
        "free" => {
            states(&[Cleanup])?;
            order(status.has_resources, "the job has no resources")?;
            order(status.epilogs.is_empty(), "an epilog runs")?;
            let released = status.released || status.finish_status.is_none();
            order(released, "execution has not released everything")?;
            let quiet = !status.started || status.released || status.fatal_exception.is_some();
            order(quiet, "the job runs")
        }
        "exception" => order(event.get_str("note").is_some(), "note is missing"),
        "clean" => {
            states(&[Cleanup])?;
            order(!status.has_resources || status.alloc_bypass, "the job has resources")?;
            order(status.epilogs.is_empty(), "an epilog runs")
        }
        _ => Ok(()),
    }
}

fn integer(event: &Event, key: &'static str) -> Result<(), JobEventError> {
    super::required(event, key, Value::as_i64).map(drop)
}
