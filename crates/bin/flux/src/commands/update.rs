//! `flux update`: change a job after it was submitted.

use clap::Command;
use flux_api::job::{
    info::{CURRENT, InfoLookup, Lookup},
    list::{ListId, ListId_},
    manager::{Update, UpdateRequest},
};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::job_event::JobState;
use flux_model::wait_status;
use serde_json::{Map, Value};

use super::program::{Program, counted, flag, text, texts, word, words};
use crate::{
    dispatch::Invocation, ending, failure::Failure, output, session, submission::duration,
};

const UPDATE: Program = Program::script("flux-update");

/// The options of `flux update`.
pub(crate) fn command() -> Command {
    Command::new("update")
        .about("Change the duration, name or queue of a job")
        .arg(flag("dry-run", 'n', "Print the update and change nothing"))
        .arg(counted("verbose", 'v', "Print the update"))
        .arg(flag("wait", None, "Wait for the job to end; its exit status is the result"))
        .arg(word("id", "JOBID", "The job"))
        .arg(
            words(
                "updates",
                "KEY=VAL",
                "duration (also +FSD, -FSD), name, queue, or the attribute itself",
            )
            .required(true),
        )
}

/// A wanted change.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    /// A key of the jobspec gets a value.
    Set(String, Value),
    /// The duration changes by so many seconds.
    Longer(f64),
}

fn change(word: &str) -> Result<Change, String> {
    let (key, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected KEY=VALUE"))?;
    if key == "duration" {
        let (sign, rest) = match value.split_at_checked(1) {
            Some(("+", rest)) => (1.0, rest),
            Some(("-", rest)) => (-1.0, rest),
            _ => (0.0, value),
        };
        let seconds = duration::seconds(rest, 1.0)
            .ok_or_else(|| "invalid Flux standard duration".to_owned())?;
        if sign != 0.0 {
            return Ok(Change::Longer(sign * seconds));
        }
        let seconds = if seconds.is_finite() { seconds } else { 0.0 };
        return Ok(Change::Set("attributes.system.duration".into(), seconds.into()));
    }
    let parsed = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok(match key {
        "name" => Change::Set("attributes.system.job.name".into(), value.into()),
        "queue" => Change::Set("attributes.system.queue".into(), value.into()),
        key if key.starts_with("attributes.") => Change::Set(key.into(), parsed),
        key => Change::Set(format!("attributes.system.{key}"), parsed),
    })
}

fn current_duration(client: &Client, id: JobId) -> Result<f64, Failure> {
    let request = InfoLookup { id: id.0, keys: vec!["jobspec".into()], flags: CURRENT };
    let answer = client.call::<Lookup>(To::Any, &request).map_err(|error| UPDATE.error(&error))?;
    let spec = answer.get("jobspec").and_then(Value::as_str).unwrap_or_default();
    let spec: Value =
        serde_json::from_str(spec).map_err(|error| UPDATE.fail(format!("jobspec: {error}")))?;
    Ok(spec["attributes"]["system"]["duration"].as_f64().unwrap_or(0.0))
}

/// Runs `flux update`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let word = text(matches, "id").unwrap_or_default();
    let id = session::parse_id(word)
        .ok_or_else(|| UPDATE.fail(format!("invalid JobID value: '{word}'")))?;
    let changes: Result<Vec<Change>, String> =
        texts(matches, "updates").into_iter().map(change).collect();
    let changes = changes.map_err(|text| UPDATE.fail(text))?;
    let client = UPDATE.open()?;
    let mut updates = Map::new();
    for change in changes {
        let (key, value) = match change {
            Change::Set(key, value) => (key, value),
            Change::Longer(seconds) => {
                let current = current_duration(&client, id)?;
                if current == 0.0 {
                    return Err(UPDATE.fail("duration is unlimited: it cannot be adjusted"));
                }
                let new = current + seconds;
                if new <= 0.0 {
                    return Err(UPDATE.fail("the adjusted duration would not be positive"));
                }
                ("attributes.system.duration".to_owned(), Value::from(new))
            }
        };
        updates.insert(key, value);
    }
    let dry_run = matches.get_flag("dry-run");
    if dry_run || matches.get_count("verbose") > 0 {
        for (key, value) in &updates {
            output::error_line(&format!("flux-update: updating {key} to {value}"));
        }
    }
    if dry_run {
        return Ok(0);
    }
    let request = UpdateRequest { id: id.0, updates };
    client.call::<Update>(To::Any, &request).map_err(|error| UPDATE.error(&error))?;
    if !matches.get_flag("wait") {
        return Ok(0);
    }
    let attrs = vec!["waitstatus".into()];
    let request = ListId { id: id.0, attrs, state: Some(JobState::Inactive.bit()) };
    let answer = client.call::<ListId_>(To::Any, &request).map_err(|e| UPDATE.error(&e))?;
    Ok(answer.job["waitstatus"]
        .as_i64()
        .map_or(1, |told| wait_status::exit_code(ending::status_of(told))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_keys_stand_for_attributes() {
        let set =
            |key: &str, value: Value| Ok(Change::Set(format!("attributes.system.{key}"), value));
        assert_eq!(change("duration=1h"), set("duration", json!(3600.0)));
        assert_eq!(change("duration=+10m"), Ok(Change::Longer(600.0)));
        assert_eq!(change("duration=-10m"), Ok(Change::Longer(-600.0)));
        assert_eq!(change("name=5"), set("job.name", json!("5")));
        assert_eq!(change("queue=batch"), set("queue", json!("batch")));
        assert_eq!(change("attributes.system.x=[1]"), set("x", json!([1])));
        assert!(change("duration=x").is_err() && change("x").is_err());
    }
}
