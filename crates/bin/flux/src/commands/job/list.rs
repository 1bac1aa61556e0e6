//! `flux job list` and `flux job list-ids`: jobs as JSON, a line each.

use clap::{ArgMatches, Command, value_parser};
use flux_api::job::list::{List, ListId, ListId_, ListRequest};
use flux_client::To;
use flux_model::job_event::{JobState, StateMask};
use flux_proto::Errno;
use serde_json::{Value, json};

use super::{JOB, ids_of, states, user_of};
use crate::{
    commands::program::{flag, text, texts, value, words},
    failure::Failure,
    output, session,
};

pub(super) fn command() -> Command {
    Command::new("list")
        .about("Print jobs as JSON, one per line")
        .arg(
            value("count", 'c', "N", "At most so many")
                .default_value("1000")
                .value_parser(value_parser!(u64)),
        )
        .arg(value("states", 's', "STATES", "Jobs in these states").short_alias('S'))
        .arg(value("user", 'u', "USER", "Jobs of this user, or all (default: your own)"))
        .arg(flag("all", 'a', "Jobs in all states"))
        .arg(flag("all-users", 'A', "Jobs of all users"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let set = match text(matches, "states") {
        Some(text) => states(text).map_err(|name| JOB.fail(format!("unknown job state {name}")))?,
        None if matches.get_flag("all") => StateMask::ALL.0,
        None => StateMask::ACTIVE.0,
    };
    let user = match text(matches, "user") {
        _ if matches.get_flag("all-users") => -1,
        Some(name) => user_of(name)?,
        None => i64::from(session::uid()),
    };
    let mut terms = vec![json!({"states": [set]})];
    if user >= 0 {
        terms.push(json!({"userid": [user]}));
    }
    let request = ListRequest {
        max_entries: matches.get_one::<u64>("count").copied().unwrap_or(1000),
        attrs: vec!["all".into()],
        constraint: Some(json!({"and": terms})),
        since: 0.0,
        userid: None,
        states: None,
        results: None,
        name: None,
        queue: None,
    };
    let answer = JOB.open()?.call::<List>(To::Any, &request).map_err(|error| JOB.error(&error))?;
    let mut lines = String::new();
    for job in answer.0.get("jobs").and_then(Value::as_array).into_iter().flatten() {
        lines.push_str(&job.to_string());
        lines.push('\n');
    }
    output::raw(&lines);
    Ok(0)
}

pub(super) fn ids_command() -> Command {
    Command::new("list-ids")
        .about("Print these jobs as JSON, one per line")
        .arg(value("wait-state", 'W', "STATE", "Wait until they are in this state"))
        .arg(words("ids", "ID", "Jobs").required(true))
}

pub(super) fn ids(matches: &ArgMatches) -> Result<i32, Failure> {
    let state = text(matches, "wait-state")
        .map(|name| JobState::parse(name).map_err(|error| JOB.fail(error.to_string())))
        .transpose()?
        .map(JobState::bit);
    let ids = ids_of(&texts(matches, "ids"))?;
    let client = JOB.open()?;
    let attrs = vec!["all".to_owned()];
    let sent: Vec<_> = ids
        .iter()
        .map(|id| {
            let request = ListId { id: id.0, attrs: attrs.clone(), state };
            (*id, client.send::<ListId_>(To::Any, &request))
        })
        .collect();
    for (id, pending) in sent {
        let answer = pending.wait().map_err(|error| match error.errno {
            Errno::ENOENT => JOB.fail(format!("{id}: No such job")),
            _ => super::about(id, &error),
        })?;
        output::line(&answer.job.to_string());
    }
    Ok(0)
}
