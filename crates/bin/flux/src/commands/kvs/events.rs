//! `flux kvs eventlog`: eventlogs (RFC 18) in keys.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use flux_api::kvs::{self, WatchLookup, WatchRequest};
use flux_client::To;
use flux_model::eventlog::{Event, Eventlog};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;

use super::{PROGRAM, Store, about, bytes_of, decode, in_namespace, namespace_of, operation};
use crate::{
    commands::{
        event_view::EventView,
        program::{duration, flag, number, rest, text, texts, value, word},
    },
    failure::Failure,
    output,
};

pub(super) fn command(view: [Arg; 4]) -> Command {
    let waitcreate = || flag("waitcreate", 'W', "Wait until the key exists");
    Command::new("eventlog")
        .about("Read and write eventlogs")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            in_namespace(Command::new("get").about("Show an eventlog"))
                .args(view.clone())
                .arg(waitcreate())
                .arg(flag("watch", 'w', "Go on with new events"))
                .arg(value("count", 'c', "N", "With --watch: end after N events"))
                .arg(flag("unformatted", 'u', "JSON as it is stored"))
                .arg(word("key", "KEY", "Key of the eventlog")),
        )
        .subcommand(
            in_namespace(Command::new("append").about("Append an event"))
                .arg(value("timestamp", 't', "SECONDS", "When it happened (default: now)"))
                .arg(word("key", "KEY", "Key of the eventlog"))
                .arg(word("name", "NAME", "Name of the event"))
                .arg(rest("context", "CONTEXT", "Its context, a JSON object")),
        )
        .subcommand(
            in_namespace(Command::new("wait-event").about("Wait for an event"))
                .args(view)
                .arg(waitcreate())
                .arg(value("timeout", 't', "FSD", "Give up after this time"))
                .arg(flag("unformatted", 'u', "JSON as it is stored"))
                .arg(flag("quiet", 'q', "Print nothing"))
                .arg(flag("verbose", 'v', "Print the events before it too"))
                .arg(word("key", "KEY", "Key of the eventlog"))
                .arg(word("event", "EVENT", "Name of the event")),
        )
}

pub(super) fn run(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    let store = store.in_namespace(Some(&namespace_of(matches)));
    match name {
        "get" => get(&store, matches),
        "append" => append(&store, matches),
        _ => wait_event(&store, matches),
    }
}

fn line(matches: &ArgMatches, view: &mut EventView, event: &Event) {
    if matches.get_flag("unformatted") {
        output::raw(&event.encode());
    } else {
        output::line(&view.line(event));
    }
}

fn parse(key: &str, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
    let text = String::from_utf8_lossy(bytes);
    let log = Eventlog::parse(&text).map_err(|error| PROGRAM.fail(format!("{key}: {error}")))?;
    Ok(log.into_iter().collect())
}

/// Gives events as they come to `take`, until it returns true, the log ends, or the time is up
/// (false).
fn follow(
    store: &Store,
    matches: &ArgMatches,
    watch: bool,
    time: Option<Duration>,
    mut take: impl FnMut(&Event) -> bool,
) -> Result<bool, Failure> {
    let key = text(matches, "key").unwrap_or_default();
    if !watch && !matches.get_flag("waitcreate") {
        let bytes = bytes_of(key, store.object(key, 0, None)?)?;
        return Ok(parse(key, &bytes)?.iter().any(take));
    }
    let mut flags = if watch { kvs::WATCH | kvs::WATCH_APPEND } else { 0 };
    if matches.get_flag("waitcreate") {
        flags |= kvs::WAITCREATE;
    }
    let request = WatchRequest { namespace: store.namespace.clone(), key: key.to_owned(), flags };
    if !watch {
        let found = store.client.call::<WatchLookup>(To::Any, &request);
        let found = found.map_err(|error| about(key, &error))?;
        let bytes = bytes_of(key, decode(key, &found.val)?)?;
        return Ok(parse(key, &bytes)?.iter().any(take));
    }
    let end = time.map(|time| Instant::now() + time);
    let mut stream = store.client.stream::<WatchLookup>(To::Any, &request);
    loop {
        let left = end
            .map_or(Duration::from_secs(3600), |end| end.saturating_duration_since(Instant::now()));
        match stream.next_within(left) {
            Ok(Some(found)) => {
                let bytes = bytes_of(key, decode(key, &found.val)?)?;
                if parse(key, &bytes)?.iter().any(&mut take) {
                    return Ok(true);
                }
            }
            Ok(None) => return Ok(false),
            Err(error) if error.errno == Errno::ETIMEDOUT && end.is_none() => {}
            Err(error) if error.errno == Errno::ETIMEDOUT => return Ok(false),
            Err(error) => return Err(about(key, &error)),
        }
    }
}

fn get(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let mut view = EventView::read(PROGRAM, matches)?;
    let count: u64 = number(PROGRAM, matches, "count")?.unwrap_or(u64::MAX);
    let watch = matches.get_flag("watch");
    let mut seen = 0;
    follow(store, matches, watch, None, |event| {
        line(matches, &mut view, event);
        seen += 1;
        watch && seen >= count
    })?;
    Ok(())
}

fn append(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    let at: f64 = number(PROGRAM, matches, "timestamp")?.unwrap_or(now);
    let mut event = Event::new(at, text(matches, "name").unwrap_or_default());
    let context = texts(matches, "context").join(" ");
    if !context.is_empty() {
        let context = serde_json::from_str(&context);
        let context = context.map_err(|error| PROGRAM.fail(format!("context: {error}")))?;
        event = event.with_context(context);
    }
    let line = event.encode();
    Event::decode(&line).map_err(|error| PROGRAM.fail(error.to_string()))?;
    let key = text(matches, "key").unwrap_or_default();
    let put = operation(key, kvs::APPEND, Some(&Treeobj::val(line)));
    store.commit(0, vec![put]).map(drop)
}

fn wait_event(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let mut view = EventView::read(PROGRAM, matches)?;
    let name = text(matches, "event").unwrap_or_default();
    let time = duration(PROGRAM, matches, "timeout")?;
    let (quiet, verbose) = (matches.get_flag("quiet"), matches.get_flag("verbose"));
    let found = follow(store, matches, true, time, |event| {
        let hit = event.name == name;
        if !quiet && (hit || verbose) {
            line(matches, &mut view, event);
        }
        hit
    })?;
    if found {
        return Ok(());
    }
    Err(PROGRAM.fail(match time {
        Some(_) => format!("wait-event timeout on event '{name}'"),
        None => format!("event '{name}' never received"),
    }))
}
