//! Why a job does not run yet, in one line.

use flux_api::job::manager::QueueStatus;
use flux_id::JobId;
use flux_model::job_event::{JobState, JobStatus};
use serde_json::Value;

/// What others say about a job, beside its own log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// The job as `job-list` has it.
    pub(crate) job: Value,
    /// The queue it is in.
    pub(crate) queue: Option<QueueStatus>,
    /// Seconds since the epoch.
    pub(crate) now: f64,
}

/// The line to show; `None` when the job runs or is over.
pub(crate) fn explain(id: JobId, status: &JobStatus, around: &Surroundings) -> Option<String> {
    let reason = match status.state {
        JobState::New => "being validated".to_owned(),
        JobState::Depend => depend(status, around.now),
        JobState::Priority => "waiting for a priority".to_owned(),
        JobState::Sched => sched(status, around),
        JobState::Run if !status.started => match status.prologs.as_slice() {
            [] => "starting".to_owned(),
            prologs => format!("waiting for prolog {}", prologs.join(", ")),
        },
        JobState::Run | JobState::Cleanup | JobState::Inactive => return None,
    };
    Some(format!("{id}: {reason}"))
}

fn depend(status: &JobStatus, now: f64) -> String {
    if status.dependencies.is_empty() {
        return "checking dependencies".to_owned();
    }
    let shown = status.dependencies.iter().map(|text| {
        let begin = text.strip_prefix("begin-time=").and_then(|time| time.parse::<f64>().ok());
        match begin {
            Some(time) => format!("its begin time, in {}", duration(time - now)),
            None => text.clone(),
        }
    });
    format!("waiting for {}", shown.collect::<Vec<_>>().join(", "))
}

fn sched(status: &JobStatus, around: &Surroundings) -> String {
    if status.urgency == 0 {
        return "held: its urgency is 0 (release it with flux job urgency ID default)".to_owned();
    }
    if status.priority == Some(0) {
        return "held: its priority is 0".to_owned();
    }
    if let Some(queue) = around.queue.as_ref().filter(|queue| !queue.start) {
        let name = around.job["queue"].as_str();
        let name = name.map_or_else(|| "scheduling".to_owned(), |name| format!("queue {name}"));
        let reason = queue.stop_reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
        return format!("{name} is stopped{reason}");
    }
    let annotations = &around.job["annotations"]["sched"];
    let mut text =
        annotations["reason_pending"].as_str().unwrap_or("waiting for resources").to_owned();
    if let Some(wanted) = wanted(&around.job) {
        text.push_str(&format!(" (wants {wanted})"));
    }
    match annotations["jobs_ahead"].as_u64() {
        Some(0) => text.push_str(", next in line"),
        Some(1) => text.push_str(", 1 job ahead"),
        Some(count) => text.push_str(&format!(", {count} jobs ahead")),
        None => {}
    }
    if let Some(estimate) = annotations["t_estimate"].as_f64() {
        text.push_str(&match estimate - around.now {
            left if left > 0.0 => format!(", expected to start in {}", duration(left)),
            _ => ", expected to start now".to_owned(),
        });
    }
    text
}

/// The resources a job asked for.
fn wanted(job: &Value) -> Option<String> {
    let count = |key: &str, one: &str, many: &str| {
        let count = job[key].as_u64().filter(|count| *count > 0)?;
        Some(format!("{count} {}", if count == 1 { one } else { many }))
    };
    let parts = [count("nnodes", "node", "nodes"), count("ncores", "core", "cores")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A time in whole units of at most two sizes is easier on the eye than decimals.
fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use flux_model::eventlog::Event;
    use serde_json::json;

    use super::*;

    fn status(urgency: u8, events: &[&str]) -> JobStatus {
        let submit = format!(
            r#"{{"timestamp":1.0,"name":"submit","context":{{"userid":0,"urgency":{urgency},"flags":0,"version":1}}}}"#
        );
        let lines = std::iter::once(submit.as_str()).chain(events.iter().copied());
        let events: Vec<Event> = lines.map(|line| Event::decode(line).expect("valid")).collect();
        JobStatus::replay(&events).expect("a job")
    }

    const PENDING: [&str; 3] = [
        r#"{"timestamp":1.0,"name":"validate"}"#,
        r#"{"timestamp":1.0,"name":"depend"}"#,
        r#"{"timestamp":1.0,"name":"priority","context":{"priority":16}}"#,
    ];

    fn why(status: &JobStatus, around: &Surroundings) -> String {
        explain(JobId(1), status, around).expect("it waits")
    }

    #[test]
    fn the_reason_is_the_nearest_obstacle() {
        let mut around = Surroundings { now: 100.0, ..Surroundings::default() };
        let held = status(0, &PENDING);
        assert!(why(&held, &around).contains("held: its urgency is 0"));
        let job = status(16, &PENDING);
        assert_eq!(why(&job, &around), "ƒ2: waiting for resources");
        around.job = json!({"nnodes": 2, "ncores": 1, "queue": "batch", "annotations": {"sched":
            {"reason_pending": "insufficient resources", "jobs_ahead": 3, "t_estimate": 4000.0}}});
        assert_eq!(
            why(&job, &around),
            "ƒ2: insufficient resources (wants 2 nodes, 1 core), 3 jobs ahead, expected to start in 1h05m"
        );
        around.queue = Some(QueueStatus {
            enable: true,
            disable_reason: None,
            start: false,
            stop_reason: Some("maintenance".into()),
            blocked: None,
            parent: None,
        });
        assert_eq!(why(&job, &around), "ƒ2: queue batch is stopped: maintenance");
    }

    #[test]
    fn dependencies_are_named() {
        let add = r#"{"timestamp":1.0,"name":"dependency-add","context":{"description":"after-start=f1"}}"#;
        let begin = r#"{"timestamp":1.0,"name":"dependency-add","context":{"description":"begin-time=150.000"}}"#;
        let job = status(16, &[add, begin, PENDING[0]]);
        let around = Surroundings { now: 100.0, ..Surroundings::default() };
        assert_eq!(why(&job, &around), "ƒ2: waiting for after-start=f1, its begin time, in 50s");
    }
}
