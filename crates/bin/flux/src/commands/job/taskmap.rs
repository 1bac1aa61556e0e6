//! `flux job taskmap` and `flux job hostpids`: where the tasks of a job are.

use std::{collections::BTreeMap, time::Instant};

use clap::{ArgMatches, Command, value_parser};
use flux_api::job::info::{EventlogWatch, EventlogWatch_, WATCH_WAITCREATE};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::{eventlog::Event, taskmap::Taskmap};
use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use super::{JOB, id_of};
use crate::{
    commands::program::{duration, text, value, word},
    failure::Failure,
    output, session,
};

pub(super) fn command() -> Command {
    let number = |name, help| value(name, None, "N", help).value_parser(value_parser!(u32));
    Command::new("taskmap")
        .about("Show which tasks run on which nodes")
        .arg(number("taskids", "Print the tasks of this node"))
        .arg(number("ntasks", "Print the number of tasks of this node"))
        .arg(number("nodeid", "Print the node of this task"))
        .arg(number("hostname", "Print the host of this task"))
        .arg(value("to", None, "FORM", "raw, pmi, multiline or hosts").value_parser([
            "raw",
            "pmi",
            "multiline",
            "hosts",
        ]))
        .arg(word("id", "ID|TASKMAP", "The job, or a task map"))
}

/// Waits for an event of the execution of a job.
fn exec_event(
    client: &Client,
    id: JobId,
    name: &str,
    deadline: Option<Instant>,
) -> Result<Event, String> {
    let path = "guest.exec.eventlog".to_owned();
    let request = EventlogWatch { id: id.0, path, flags: WATCH_WAITCREATE };
    let mut stream = client.stream::<EventlogWatch_>(To::Any, &request);
    let mut next = || match deadline {
        None => stream.next().transpose(),
        Some(at) => stream.next_within(at.saturating_duration_since(Instant::now())),
    };
    while let Some(entry) = next().map_err(|error| match error.errno {
        Errno::ENOENT => "no such job".to_owned(),
        Errno::ETIMEDOUT => "it has no tasks yet".to_owned(),
        _ => error.message(),
    })? {
        let event = entry.event.and_then(|line| Event::decode(&line).ok());
        if let Some(event) = event.filter(|event| event.name == name) {
            return Ok(event);
        }
    }
    Err("the job has no tasks".into())
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let argument = text(matches, "id").unwrap_or_default();
    let number = |name: &str| matches.get_one::<u32>(name).copied();
    let wants_hosts = number("hostname").is_some() || text(matches, "to") == Some("hosts");
    let (map, hosts) = match parse_map(argument) {
        Some(map) if wants_hosts => {
            return Err(JOB.fail(format!("{map}: hosts need a job id", map = map.to_raw())));
        }
        Some(map) => (map, Vec::new()),
        None => {
            let id = id_of(argument)?;
            let client = JOB.open()?;
            let fail = |text: String| JOB.fail(format!("Unable to get job taskmap: {text}"));
            let event = exec_event(&client, id, "shell.start", None).map_err(fail)?;
            let map = event.get("taskmap").map(Taskmap::from_value);
            let map = map.ok_or_else(|| fail("shell.start has none".into()))?;
            let map = map.map_err(|error| fail(error.to_string()))?;
            let hosts = if wants_hosts { hosts(&client, id).map_err(fail)? } else { Vec::new() };
            (map, hosts)
        }
    };
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let line = if let Some(node) = number("taskids") {
        known_node(&map, node)?;
        map.tasks_of(node).to_string()
    } else if let Some(node) = number("ntasks") {
        known_node(&map, node)?;
        map.tasks_of(node).len().to_string()
    } else if let Some(task) = number("nodeid") {
        node_of(&map, task)?.to_string()
    } else if let Some(task) = number("hostname") {
        let node = usize::try_from(node_of(&map, task)?).unwrap_or(usize::MAX);
        let host = names.get(node).ok_or_else(|| JOB.fail(format!("node {node} has no host")))?;
        (*host).to_owned()
    } else {
        match text(matches, "to") {
            Some("raw") => map.to_raw(),
            Some("pmi") => map.to_pmi().map_err(|error| JOB.fail(error.to_string()))?,
            Some("multiline") => map.to_multiline().trim_end().to_owned(),
            Some("hosts") => map.to_hosts(&names).trim_end().to_owned(),
            _ => map.to_array().to_string(),
        }
    };
    output::line(&line);
    Ok(0)
}

/// A task map in any of its text forms; a job id is none.
fn parse_map(text: &str) -> Option<Taskmap> {
    if text.starts_with('[') || text.starts_with('{') {
        let value: Value = serde_json::from_str(text).ok()?;
        return Taskmap::from_value(&value).ok();
    }
    if text.starts_with('(') {
        return Taskmap::from_pmi(text).ok();
    }
    text.contains(';').then(|| Taskmap::from_raw(text).ok()).flatten()
}

fn known_node(map: &Taskmap, node: u32) -> Result<(), Failure> {
    if node < map.nnodes() { Ok(()) } else { Err(JOB.fail(format!("no node {node} in taskmap"))) }
}

fn node_of(map: &Taskmap, task: u32) -> Result<u32, Failure> {
    map.node_of(task).ok_or_else(|| JOB.fail(format!("no task {task} in taskmap")))
}

fn hosts(client: &Client, id: JobId) -> Result<Vec<String>, String> {
    let set = session::resources(client, id).map_err(|error| error.message())?;
    Ok(set.nodelist().iter().collect())
}

pub(super) fn hostpids_command() -> Command {
    Command::new("hostpids")
        .about("Print HOST:PID of every task in order")
        .arg(value("delimiter", 'd', "TEXT", "Text between them").default_value(","))
        .arg(value("ranks", 'r', "IDSET", "Only these tasks"))
        .arg(value("timeout", 't', "FSD", "Give up after this time"))
        .arg(word("id", "ID", "The job"))
}

pub(super) fn hostpids(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    let ranks = text(matches, "ranks")
        .filter(|text| *text != "all")
        .map(|text| text.parse::<flux_id::Idset>())
        .transpose()
        .map_err(|error| JOB.fail(format!("--ranks: {error}")))?;
    let deadline =
        duration(JOB, matches, "timeout")?.and_then(|time| Instant::now().checked_add(time));
    let client = JOB.open()?;
    let fail = |text: String| JOB.fail(format!("{id}: {text}"));
    let event = exec_event(&client, id, "shell.init", deadline).map_err(fail)?;
    let service = event.get_str("service").unwrap_or_default();
    let set = session::resources(&client, id).map_err(|error| fail(error.message()))?;
    let topic = format!("{service}.proctable");
    // Every shell knows its own tasks.
    let sent: Vec<_> = set
        .ranks()
        .ids()
        .map(|rank| {
            client.start(To::Rank(rank), Message::request(topic.as_str()).with_json(&json!({})))
        })
        .collect();
    let mut tasks = BTreeMap::new();
    for mut answer in sent {
        let table = answer.next_until(deadline).map_err(|error| {
            fail(match error.errno {
                Errno::ENOSYS => "the job shell does not list processes".to_owned(),
                _ => error.message(),
            })
        })?;
        let table = table.json::<Value>().ok().as_ref().and_then(table_entries);
        tasks.extend(
            table.ok_or_else(|| fail("the job shell answered an unknown process table".into()))?,
        );
    }
    let wanted = tasks
        .into_iter()
        .filter(|(task, _)| ranks.as_ref().is_none_or(|ranks| ranks.contains(*task)))
        .map(|(_, entry)| entry);
    let delimiter = text(matches, "delimiter").unwrap_or(",");
    output::line(&wanted.collect::<Vec<_>>().join(delimiter));
    Ok(0)
}

/// Task rank and `HOST:PID` of every task of a shell.
fn table_entries(table: &Value) -> Option<Vec<(u32, String)>> {
    let host = table["host"].as_str()?;
    let entry = |task: &Value| {
        let rank = u32::try_from(task["rank"].as_u64()?).ok()?;
        Some((rank, format!("{host}:{}", task["pid"].as_i64()?)))
    };
    table["tasks"].as_array()?.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_told_from_job_ids() {
        assert!(parse_map("[[0,2,1,1]]").is_some());
        assert!(parse_map("(vector,(0,2,1))").is_some());
        assert!(parse_map("0-1;2-3").is_some());
        assert!(parse_map("f1").is_none() && parse_map("123").is_none());
    }

    #[test]
    fn process_tables_become_pairs() {
        let table = json!({"host": "a", "tasks": [{"rank": 1, "pid": 5}]});
        assert_eq!(table_entries(&table), Some(vec![(1, "a:5".into())]));
        assert_eq!(table_entries(&json!({"host": "a"})), None);
    }
}
