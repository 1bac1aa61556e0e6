//! `flux cron`: commands at times, at intervals and after events.

use std::io::Read;

use clap::{Arg, ArgAction, ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::cron::{
    Create, CronCreate, CronDelete, CronId, CronSync, Delete, List, Start, Stop, Sync,
};
use flux_client::{Client, To};
use flux_id::fsd;
use flux_model::{signal, wait_status};
use serde_json::{Map, Value};

use super::{
    human_time::{LocalZone, strftime},
    program::{Program, flag, rest, text, texts, value, word},
};
use crate::{dispatch::Invocation, ending, failure::Failure, output, submission::when};

const PROGRAM: Program = Program::binary("flux-cron");

fn options(command: Command) -> Command {
    command
        .arg(value("name", 'N', "STRING", "Name of the entry"))
        .arg(value("count", 'c', "N", "Stop after so many runs"))
        .arg(value("working-dir", 'd', "DIR", "Working directory"))
        .arg(flag("preserve-env", 'E', "Run with the environment of now"))
        .arg(
            Arg::new("options")
                .long("options")
                .short('o')
                .value_name("KEY=VAL,..")
                .action(ArgAction::Append)
                .help("rank, timeout, task-history-count, stop-on-failure"),
        )
}

/// The options of `flux cron`.
pub(crate) fn command() -> Command {
    let run = || rest("command", "COMMAND", "Command and arguments, run by sh -c").required(true);
    let id = || word("id", "ID", "Number of the entry, or cron-NUMBER");
    Command::new("cron")
        .about("Run commands at times, at intervals and after events")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            options(Command::new("interval"))
                .about("Run a command again and again")
                .arg(value("after", 'a', "FSD", "Time until the first run"))
                .arg(word("interval", "INTERVAL", "Time between runs (FSD)"))
                .arg(run()),
        )
        .subcommand(
            options(Command::new("event"))
                .about("Run a command after events")
                .arg(value("nth", 'n', "N", "After every Nth event"))
                .arg(value("after", 'a', "N", "Only after N events"))
                .arg(value("min-interval", 'i', "FSD", "Time between runs, at least"))
                .arg(word("topic", "TOPIC", "Beginning of the topic"))
                .arg(run()),
        )
        .subcommand(
            options(Command::new("at"))
                .about("Run a command once")
                .arg(word("time", "TIME", "+FSD, or a date and time"))
                .arg(run()),
        )
        .subcommand(
            options(Command::new("tab"))
                .about("Add the lines of a crontab(5) file")
                .arg(Arg::new("file").value_name("FILE").help("File, or - (default) for stdin")),
        )
        .subcommand(Command::new("list").about("List entries"))
        .subcommand(Command::new("stop").about("Stop an entry").arg(id()))
        .subcommand(Command::new("start").about("Start an entry again").arg(id()))
        .subcommand(
            Command::new("delete")
                .about("Remove an entry")
                .arg(flag("kill", 'k', "End a run that is under way"))
                .arg(id()),
        )
        .subcommand(
            Command::new("dump")
                .about("Show all of an entry")
                .arg(value("key", 'k', "KEY", "Only this key"))
                .arg(id()),
        )
        .subcommand(
            Command::new("sync")
                .about("Show or change the event that runs wait for")
                .arg(value("epsilon", 'e', "FSD", "Time after the event without a wait"))
                .arg(flag("disable", 'd', "Runs wait for nothing"))
                .arg(Arg::new("topic").value_name("TOPIC").help("Event")),
        )
}

/// Runs `flux cron`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    match name {
        "interval" | "event" | "at" => create(&client, name, matches),
        "tab" => tab(&client, matches),
        "list" => list(&client),
        "stop" => {
            client
                .call::<Stop>(To::Rank(0), &CronId { id: id(matches)? })
                .map_err(|error| PROGRAM.error(&error))?;
            Ok(())
        }
        "start" => {
            client
                .call::<Start>(To::Rank(0), &CronId { id: id(matches)? })
                .map_err(|error| PROGRAM.error(&error))?;
            Ok(())
        }
        "delete" => delete(&client, matches),
        "dump" => dump(&client, matches),
        _ => sync(&client, matches),
    }?;
    Ok(0)
}

fn id(matches: &ArgMatches) -> Result<u64, Failure> {
    let word = text(matches, "id").unwrap_or_default();
    let number = word.strip_prefix("cron-").unwrap_or(word);
    number.parse().map_err(|_| PROGRAM.fail(format!("invalid id '{word}'")))
}

fn seconds(matches: &ArgMatches, name: &str) -> Result<Option<f64>, Failure> {
    text(matches, name)
        .map(|text| {
            fsd::parse(text)
                .map_err(|_| PROGRAM.fail(format!("{name}: '{text}' is not a duration")))
        })
        .transpose()
}

fn number(name: &str, text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| PROGRAM.fail(format!("{name}: '{text}' is not a number")))
}

/// What the options say of an entry.
fn request(kind: &str, matches: &ArgMatches) -> Result<CronCreate, Failure> {
    let mut request = CronCreate {
        kind: kind.to_string(),
        name: text(matches, "name").unwrap_or_default().to_string(),
        command: String::new(),
        args: Map::new(),
        environ: None,
        cwd: None,
        repeat: text(matches, "count").map_or(Ok(0), |text| number("count", text))?,
        rank: 0,
        history: None,
        stop_on_failure: 0,
        timeout: None,
    };
    if let Some(directory) = text(matches, "working-dir") {
        request.cwd = Some(directory.to_string());
    }
    if matches.get_flag("preserve-env") {
        let all = std::env::vars().map(|(name, value)| (name, Value::from(value)));
        request.environ = Some(all.collect());
    }
    for pair in texts(matches, "options").iter().flat_map(|list| list.split(',')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "rank" => {
                let rank = number(key, value)?;
                request.rank = u32::try_from(rank)
                    .map_err(|_| PROGRAM.fail(format!("rank: {rank} is too large")))?;
            }
            "task-history-count" => request.history = Some(number(key, value)?),
            "stop-on-failure" => request.stop_on_failure = number(key, value)?,
            "timeout" => {
                let limit = fsd::parse(value)
                    .map_err(|_| PROGRAM.fail(format!("timeout: '{value}' is not a duration")))?;
                request.timeout = Some(limit);
            }
            _ => return Err(PROGRAM.fail(format!("unknown option '{key}'"))),
        }
    }
    Ok(request)
}

fn add(client: &Client, request: &CronCreate) -> Result<(), Failure> {
    let entry = client
        .call::<Create>(To::Rank(0), request)
        .map_err(|error| PROGRAM.about(&request.kind, &error))?;
    output::line(&format!("{}: cron-{} created", request.kind, entry["id"]));
    Ok(())
}

fn create(client: &Client, name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let kind = if name == "at" { "datetime" } else { name };
    let mut request = request(kind, matches)?;
    request.command = texts(matches, "command").join(" ");
    match name {
        "interval" => {
            let interval = seconds(matches, "interval")?.unwrap_or(0.0);
            request.args.insert("interval".into(), interval.into());
            if let Some(after) = seconds(matches, "after")? {
                request.args.insert("after".into(), after.into());
            }
        }
        "event" => {
            let topic = text(matches, "topic").unwrap_or_default();
            request.args.insert("topic".into(), topic.into());
            for key in ["nth", "after"] {
                if let Some(text) = text(matches, key) {
                    request.args.insert(key.into(), number(key, text)?.into());
                }
            }
            if let Some(gap) = seconds(matches, "min-interval")? {
                request.args.insert("min_interval".into(), gap.into());
            }
        }
        _ => {
            let time = text(matches, "time").unwrap_or_default();
            let epoch = when::epoch(time, &jiff::Zoned::now(), when::Toward::Future)
                .map_err(|error| PROGRAM.fail(error.to_string()))?;
            let zoned = jiff::Timestamp::from_second(epoch.ceil() as i64)
                .map_err(|error| PROGRAM.fail(error.to_string()))?
                .to_zoned(jiff::tz::TimeZone::system());
            let units = [
                ("second", i64::from(zoned.second())),
                ("minute", i64::from(zoned.minute())),
                ("hour", i64::from(zoned.hour())),
                ("mday", i64::from(zoned.day())),
                ("month", i64::from(zoned.month()) - 1),
                ("year", i64::from(zoned.year()) - 1900),
            ];
            request.args =
                units.map(|(unit, value)| (unit.to_string(), value.into())).into_iter().collect();
            request.repeat = 1;
        }
    }
    add(client, &request)
}

fn tab(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "file").unwrap_or("-");
    let mut content = String::new();
    let read = match name {
        "-" => std::io::stdin().read_to_string(&mut content).map(drop),
        path => std::fs::read_to_string(path).map(|text| content = text),
    };
    read.map_err(|error| PROGRAM.fail(format!("{name}: {error}")))?;
    let model = request("datetime", matches)?;
    for (at, line) in (1..).zip(content.lines()) {
        let parsed = flux_cron::crontab::parse_line(line)
            .map_err(|error| PROGRAM.fail(format!("{name}:{at}: {error}")))?;
        let Some(entry) = parsed else { continue };
        let request = CronCreate { command: entry.command, args: entry.args, ..model.clone() };
        add(client, &request).map_err(|mut failure| {
            failure.message = format!("{name}:{at}: {line}: {}", failure.message);
            failure
        })?;
    }
    Ok(())
}

fn entries(client: &Client) -> Result<Vec<Value>, Failure> {
    let list = client.call::<List>(To::Rank(0), &AnyObject::default());
    list.map(|list| list.entries).map_err(|error| PROGRAM.error(&error))
}

fn list(client: &Client) -> Result<(), Failure> {
    let line = |id: &str, name: &str, state: &str, runs: &str, last: &str, status: &str| {
        output::line(&format!("{id:>6} {name:<15} {state:<9} {runs:>8} {last:>18}  {status:<18}"));
    };
    line("ID", "CMD/NAME", "STATE", "#RUNS", "LASTRUN", "STATUS");
    let zone = LocalZone::system();
    for entry in entries(client)? {
        let name: String = entry["name"].as_str().unwrap_or_default().chars().take(15).collect();
        let state = match (entry["stopped"].as_bool(), entry["tasks"][0]["state"].as_str()) {
            (Some(true), _) => "Stopped",
            (_, Some("Running")) => "Running",
            _ => "Active",
        };
        let last = entry["stats"]["lastrun"].as_f64().unwrap_or(0.0);
        let last = if last > 0.0 { strftime(&zone, "%Y-%m-%d %H:%M", last) } else { "-".into() };
        let task = &entry["tasks"][0];
        let status = match (task["state"].as_str(), task["code"].as_i64()) {
            (Some("Failed"), Some(code)) => format!("Exit {code}"),
            (Some("Failed"), None) => {
                let status = ending::status_of(task["status"].as_i64().unwrap_or(0));
                signal::describe(wait_status::signal(status).unwrap_or(0))
            }
            (Some(state), _) => state.to_string(),
            (None, _) => String::new(),
        };
        let runs = entry["stats"]["count"].to_string();
        line(&entry["id"].to_string(), &name, state, &runs, &last, &status);
    }
    Ok(())
}

fn delete(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let request = CronDelete { id: id(matches)?, kill: matches.get_flag("kill") };
    let entry =
        client.call::<Delete>(To::Rank(0), &request).map_err(|error| PROGRAM.error(&error))?;
    output::line(&format!(
        "Removed cron-{}: {}",
        entry["id"],
        entry["name"].as_str().unwrap_or("")
    ));
    Ok(())
}

fn dump(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let wanted = id(matches)?;
    let all = entries(client)?;
    let entry = all.iter().find(|entry| entry["id"] == wanted);
    let entry = entry.ok_or_else(|| PROGRAM.fail(format!("cron-{wanted} does not exist")))?;
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(key) = text(matches, "key") {
        let found = key.split('.').try_fold(entry, |value, part| match part.parse::<usize>() {
            Ok(at) if value.is_array() => value.get(at),
            _ => value.get(part),
        });
        let found = found.ok_or_else(|| PROGRAM.fail(format!("no key '{key}'")))?;
        output::line(&plain(found));
        return Ok(());
    }
    let mut lines = Vec::new();
    flatten(String::new(), entry, &mut lines);
    lines.iter().for_each(|(key, value)| output::line(&format!("{key}: {}", plain(value))));
    Ok(())
}

/// Leaves with their dotted keys.
fn flatten<'a>(prefix: String, value: &'a Value, lines: &mut Vec<(String, &'a Value)>) {
    let below =
        |name: &str| if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                flatten(below(name), value, lines);
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                flatten(below(&at.to_string()), value, lines);
            }
        }
        leaf => lines.push((prefix, leaf)),
    }
}

fn sync(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let request = CronSync {
        topic: text(matches, "topic").map(str::to_owned),
        disable: matches.get_flag("disable"),
        sync_epsilon: seconds(matches, "epsilon")?,
    };
    let answer =
        client.call::<Sync>(To::Rank(0), &request).map_err(|error| PROGRAM.error(&error))?;
    match (answer.get("sync_event").and_then(Value::as_str), answer.get("sync_epsilon")) {
        (Some(topic), epsilon) => {
            let epsilon = epsilon.and_then(Value::as_f64).unwrap_or(0.0);
            output::line(&format!("sync: {topic}: epsilon={epsilon:.3}s"));
        }
        (None, _) => output::line("sync: disabled"),
    }
    Ok(())
}
