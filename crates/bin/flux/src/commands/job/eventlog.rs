//! `flux job eventlog` and `flux job wait-event`: the logs of a job.

use std::time::{Duration, Instant};

use clap::{ArgMatches, Command, value_parser};
use flux_api::job::info::{EventlogWatch, WATCH_WAITCREATE};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_proto::Errno;
use serde_json::Value;

use super::{JOB, id_of};
use crate::{
    commands::{
        human_time::{HumanTime, LocalZone, strftime},
        program::{color, flag, text, value, wants_color, word},
    },
    failure::Failure,
    output,
    resume::Entries,
    session,
};

fn display(command: Command) -> Command {
    command
        .arg(value("format", 'f', "FORMAT", "text or json").value_parser(["text", "json"]))
        .arg(
            value("time-format", 'T', "FORMAT", "raw, iso or offset")
                .value_parser(["raw", "iso", "offset", "human"]),
        )
        .arg(flag("human", 'H', "Show times for people, and colors on a terminal"))
        .arg(color())
        .arg(value("path", 'p', "PATH", "Another log: exec, output, input, or a key"))
}

pub(super) fn command() -> Command {
    display(Command::new("eventlog").about("Show the events of a job"))
        .arg(flag("follow", 'F', "Wait for more until the end of the job"))
        .arg(word("id", "ID", "The job"))
}

pub(super) fn wait_event_command() -> Command {
    display(Command::new("wait-event").about("Wait for an event of a job and show it"))
        .arg(value("timeout", 't', "FSD", "Give up after this time"))
        .arg(value("match-context", 'm', "KEY=VAL", "Only with this in its context"))
        .arg(
            value("count", 'c', "N", "Wait until it came so many times")
                .default_value("1")
                .value_parser(value_parser!(u64).range(1..)),
        )
        .arg(flag("quiet", 'q', "Do not show the event"))
        .arg(flag("verbose", 'v', "Show all events before it"))
        .arg(flag("waitcreate", 'W', "Wait for the log to be created"))
        .arg(word("id", "ID", "The job"))
        .arg(word("event", "EVENT", "Name of the event"))
}

/// How events are shown.
struct Show {
    json: bool,
    times: Times,
    color: bool,
}

enum Times {
    Raw,
    Iso(LocalZone),
    Offset(Option<f64>),
    Human(HumanTime),
}

impl Show {
    fn read(matches: &ArgMatches) -> Show {
        let human = matches.get_flag("human");
        let times = match text(matches, "time-format") {
            _ if human => Times::Human(HumanTime::new(LocalZone::system(), false)),
            Some("human") => Times::Human(HumanTime::new(LocalZone::system(), false)),
            Some("iso") => Times::Iso(LocalZone::system()),
            Some("offset") => Times::Offset(None),
            _ => Times::Raw,
        };
        let asked = human || text(matches, "color").is_some();
        Show {
            json: text(matches, "format") == Some("json"),
            times,
            color: asked && wants_color(matches),
        }
    }

    fn line(&mut self, event: &Event) -> String {
        if self.json {
            let line = event.encode();
            return line.trim_end().to_owned();
        }
        let time = match &mut self.times {
            Times::Raw => format!("{:.6}", event.timestamp),
            Times::Iso(zone) => strftime(zone, "%FT%T.%fZ", event.timestamp),
            Times::Offset(start) => {
                format!("{:.6}", event.timestamp - *start.get_or_insert(event.timestamp))
            }
            Times::Human(human) => human.stamp(event.timestamp).0,
        };
        let mut context = String::new();
        event.write_context_text(&mut context);
        if self.color {
            let name = match event.name.as_str() {
                "exception" => "\x1b[1;31m",
                _ => "\x1b[33m",
            };
            return format!("\x1b[32m{time}\x1b[0m {name}{}\x1b[0m{context}", event.name);
        }
        format!("{time} {}{context}", event.name)
    }
}

/// The key of a log below the job.
fn key(path: Option<&str>) -> String {
    match path {
        None | Some("eventlog") => "eventlog".into(),
        Some("exec") => "guest.exec.eventlog".into(),
        Some(path) if path.starts_with("guest.") => path.into(),
        Some(path) => format!("guest.{path}"),
    }
}

fn not_found(id: &str, path: &str, error: &flux_api::RpcError) -> Failure {
    if error.errno != Errno::ENOENT {
        return JOB.fail(error.message());
    }
    match path {
        "eventlog" => JOB.fail(format!("job {id} not found")),
        path => JOB.fail(format!("job {id} id or {path} not found")),
    }
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let word = text(matches, "id").unwrap_or_default();
    let id = id_of(word)?;
    let path = key(text(matches, "path"));
    let mut show = Show::read(matches);
    let client = JOB.open()?;
    if !matches.get_flag("follow") {
        let log = session::lookup(&client, id, &path, 0)
            .map_err(|error| not_found(word, &path, &error))?;
        let mut lines = String::new();
        for line in log.lines() {
            let event = Event::decode(line).map_err(|error| JOB.fail(error.to_string()))?;
            lines.push_str(&show.line(&event));
            lines.push('\n');
        }
        output::raw(&lines);
        return Ok(0);
    }
    let request = EventlogWatch { id: id.0, path: path.clone(), flags: WATCH_WAITCREATE };
    let mut entries = Entries::new(JOB.name, client, request);
    while let Some(line) = entries.next(None).map_err(|error| not_found(word, &path, &error))? {
        let event = Event::decode(&line).map_err(|error| JOB.fail(error.to_string()))?;
        output::line(&show.line(&event));
    }
    Ok(0)
}

/// Which event is waited for.
struct Wanted<'a> {
    name: &'a str,
    context: Option<(&'a str, Value)>,
}

impl Wanted<'_> {
    fn is(&self, event: &Event) -> bool {
        event.name == self.name
            && self.context.as_ref().is_none_or(|(key, value)| event.get(key) == Some(value))
    }
}

/// Reads `KEY=VAL`; what is no JSON is text.
fn key_value(text: &str) -> Option<(&str, Value)> {
    let (key, value) = text.split_once('=')?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    (!key.is_empty()).then_some((key, value))
}

pub(super) fn wait_event(matches: &ArgMatches) -> Result<i32, Failure> {
    let word = text(matches, "id").unwrap_or_default();
    let name = text(matches, "event").unwrap_or_default();
    let id: JobId = id_of(word)?;
    let path = key(text(matches, "path"));
    let context = text(matches, "match-context")
        .map(|text| key_value(text).ok_or_else(|| JOB.fail("match-context must be KEY=VAL")))
        .transpose()?;
    let wanted = Wanted { name, context };
    let deadline = text(matches, "timeout")
        .map(|text| flux_id::fsd::parse(text).map_err(|_| JOB.fail(format!("{text}: no duration"))))
        .transpose()?
        .filter(|seconds| seconds.is_finite())
        .and_then(|seconds| Instant::now().checked_add(Duration::from_secs_f64(seconds)));
    let mut left = matches.get_one::<u64>("count").copied().unwrap_or(1);
    let mut show = Show::read(matches);
    let (quiet, verbose) = (matches.get_flag("quiet"), matches.get_flag("verbose"));
    let client = JOB.open()?;
    // Logs of the execution come into being with the job's start; waiting for them is the point.
    let create = matches.get_flag("waitcreate") || path != "eventlog";
    let flags = if create { WATCH_WAITCREATE } else { 0 };
    let request = EventlogWatch { id: id.0, path: path.clone(), flags };
    let mut entries = Entries::new(JOB.name, client, request);
    loop {
        let line = match entries.next(deadline) {
            Ok(Some(line)) => line,
            Ok(None) => return Err(JOB.fail(format!("event '{name}' never received"))),
            Err(error) if error.errno == Errno::ETIMEDOUT && deadline.is_some() => {
                return Err(JOB.fail(format!("wait-event timeout on event '{name}'")));
            }
            Err(error) => return Err(not_found(word, &path, &error)),
        };
        let event = Event::decode(&line).map_err(|error| JOB.fail(error.to_string()))?;
        let text = show.line(&event);
        let found = wanted.is(&event);
        left -= u64::from(found);
        let last = left == 0;
        if !quiet && (verbose || last) {
            output::line(&text);
        }
        if last {
            return Ok(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_shown_with_their_times() {
        let event = Event::decode(
            r#"{"timestamp":1795217160.5,"name":"exception","context":{"type":"cancel","n":1}}"#,
        )
        .expect("valid");
        let mut show = Show { json: false, times: Times::Raw, color: false };
        assert_eq!(show.line(&event), "1795217160.500000 exception type=\"cancel\" n=1");
        show.times = Times::Offset(Some(1_795_217_160.0));
        assert_eq!(show.line(&event), "0.500000 exception type=\"cancel\" n=1");
        show.times = Times::Iso(LocalZone::utc());
        assert!(show.line(&event).starts_with("2026-11-20T23:26:00.500000Z exception"));
        show.json = true;
        assert!(show.line(&event).starts_with("{\"timestamp\":1795217160.5,"));
    }

    #[test]
    fn logs_have_short_names() {
        assert_eq!(key(None), "eventlog");
        assert_eq!(key(Some("exec")), "guest.exec.eventlog");
        assert_eq!(key(Some("output")), "guest.output");
        assert_eq!(key(Some("guest.exec.eventlog")), "guest.exec.eventlog");
    }

    #[test]
    fn contexts_match_by_value() {
        let event = Event::decode(r#"{"timestamp":1.0,"name":"x","context":{"a":1,"b":"s"}}"#);
        let event = event.expect("valid");
        let is = |text| Wanted { name: "x", context: key_value(text) }.is(&event);
        assert!(is("a=1") && is("b=s") && is("b=\"s\""));
        assert!(!is("a=2") && !is("c=1"));
    }
}
