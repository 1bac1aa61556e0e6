//! `flux module`: the modules of a broker.

use std::time::Duration;

use clap::{ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::broker::{
    Busy, Health, HealthRequest, ModuleEntry, ModuleList_, ModuleLoad, ModuleLoad_, ModuleName,
    ModuleRemove, ModuleTrace, ModuleTraceRequest,
};
use flux_client::{Client, To};
use flux_id::{Idset, fsd};
use flux_proto::Errno;
use serde_json::{Value, json};

use super::program::{Program, flag, rest, text, texts, value, word, words};
use super::trace_view;
use crate::{dispatch::Invocation, failure::Failure, output};

/// A broker that does not tell of its health within this time has none.
const ANSWER_MAX: Duration = Duration::from_secs(5);

const PROGRAM: Program = Program::binary("flux-module");

/// The options of `flux module`.
pub(crate) fn command() -> Command {
    let name = || word("name", "NAME", "Module");
    let load = |command: Command| {
        command
            .arg(value("name", None, "NAME", "Another name for it"))
            .arg(word("module", "MODULE", "Module"))
            .arg(rest("arguments", "ARGUMENT", "Arguments of the module"))
    };
    let force = || flag("force", 'f', "A module that is not there is no error");
    Command::new("module")
        .about("List, start and stop the modules of a broker")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(Command::new("list").about("List modules").arg(flag(
            "long",
            'l',
            "Show paths too",
        )))
        .subcommand(load(Command::new("load").about("Start a module")))
        .subcommand(
            load(Command::new("reload").about("Stop a module and start it again")).arg(force()),
        )
        .subcommand(
            Command::new("remove")
                .about("Stop a module")
                .arg(force())
                .arg(flag("cancel", None, "Stop it even if it does not answer").hide(true))
                .arg(name()),
        )
        .subcommand(
            Command::new("stats")
                .about("Show counters of a service")
                .arg(value("parse", 'p', "KEYS", "Only this value, a dotted path"))
                .arg(value("scale", 's', "N", "Multiply it"))
                .arg(value("type", 't', "TYPE", "Show it as int or double"))
                .arg(flag("rusage", 'R', "Use of the processor and memory"))
                .arg(flag("clear", 'c', "Reset the counters of this broker"))
                .arg(flag("clear-all", 'C', "Reset the counters of all brokers"))
                .arg(name()),
        )
        .subcommand(
            Command::new("trace")
                .about("Show messages to and from modules as they pass")
                .args(trace_view::arguments())
                .arg(words("names", "MODULE", "Modules (default: all)")),
        )
        .subcommand(
            Command::new("health")
                .about("Show services that have owed an answer for long; fails when there are any")
                .arg(value("older", 'o', "FSD", "Requests that have waited for so long [10s]"))
                .arg(value("rank", 'r', "IDS", "On these ranks, or all [this one]")),
        )
        .subcommand(
            Command::new("debug")
                .about("Show and change debug flags of a service")
                .arg(flag("clear", 'C', "Clear all flags"))
                .arg(value("set", 'S', "MASK", "Set the flags to this"))
                .arg(value("setbit", 's', "MASK", "Add flags"))
                .arg(value("clearbit", 'c', "MASK", "Take flags away"))
                .arg(name()),
        )
}

/// Runs `flux module`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((what, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    match what {
        "list" => list(&client, matches),
        "load" => load(&client, matches),
        "reload" => remove(&client, text(matches, "module"), matches.get_flag("force"))
            .and_then(|()| load(&client, matches)),
        "remove" => remove(&client, text(matches, "name"), matches.get_flag("force")),
        "stats" => stats(&client, matches),
        "trace" => trace(&client, matches),
        "health" => return health(&client, matches),
        _ => debug(&client, matches),
    }?;
    Ok(0)
}

fn trace(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let request = ModuleTraceRequest {
        names: texts(matches, "names").into_iter().map(str::to_string).collect(),
        typemask: trace_view::types(PROGRAM, matches)?,
        topic_glob: text(matches, "topic").unwrap_or_default().to_string(),
        full: matches.get_flag("full"),
    };
    trace_view::show(PROGRAM, matches, client.stream::<ModuleTrace>(To::Any, &request))
}

fn list(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let list = client.call::<ModuleList_>(To::Any, &AnyObject::default());
    let mut modules = list.map_err(|error| PROGRAM.about("list", &error))?.mods;
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    let long = matches.get_flag("long");
    output::line(&row("Module", "Idle", "S", "Sendq", "Recvq", "Service", long.then_some("Path")));
    for module in modules {
        let services: Vec<&str> = module
            .services
            .iter()
            .map(String::as_str)
            .filter(|service| *service != module.name)
            .collect();
        output::line(&row(
            &module.name,
            &idle(module.idle),
            state(&module),
            &module.sendqueue.to_string(),
            &module.recvqueue.to_string(),
            &services.join(","),
            long.then_some(module.path.as_str()),
        ));
    }
    Ok(())
}

fn idle(seconds: u64) -> String {
    if seconds > 99 { "idle".to_owned() } else { seconds.to_string() }
}

fn state(module: &ModuleEntry) -> &'static str {
    match module.status {
        0 => "I",
        1 => "R",
        2 => "F",
        3 => "E",
        _ => "?",
    }
}

fn row(
    name: &str,
    idle: &str,
    state: &str,
    sendq: &str,
    recvq: &str,
    services: &str,
    path: Option<&str>,
) -> String {
    let path = path.map(|path| format!("{path:<24} ")).unwrap_or_default();
    let line = format!("{name:<24} {idle:>5} {state:>2} {sendq:>5} {recvq:>5} {path}{services}");
    line.trim_end().to_owned()
}

fn load(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let module = text(matches, "module").unwrap_or_default();
    let request = ModuleLoad {
        path: module.to_owned(),
        args: texts(matches, "arguments").into_iter().map(str::to_owned).collect(),
        name: text(matches, "name").map(str::to_owned),
    };
    let done = client.call::<ModuleLoad_>(To::Any, &request);
    done.map(drop).map_err(|error| {
        let text = error.message();
        // The broker names the module too.
        let text = text.strip_prefix(&format!("{module}: ")).unwrap_or(&text);
        PROGRAM.fail(format!("load {module}: {text}"))
    })
}

fn remove(client: &Client, name: Option<&str>, force: bool) -> Result<(), Failure> {
    let name = name.unwrap_or_default();
    match client.call::<ModuleRemove>(To::Any, &ModuleName { name: name.to_owned() }) {
        Ok(_) => Ok(()),
        Err(error) if force && error.errno == Errno::ENOENT => Ok(()),
        Err(error) if error.errno == Errno::ENOENT => {
            Err(PROGRAM.fail(format!("remove {name}: {}", error.errno.text())))
        }
        Err(error) => Err(PROGRAM.about(&format!("remove {name}"), &error)),
    }
}

fn stats(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "name").unwrap_or_default();
    if matches.get_flag("clear") {
        let done = client.rpc(&format!("{name}.stats-clear"), To::Any, None);
        return done.map(drop).map_err(|error| PROGRAM.about(name, &error));
    }
    if matches.get_flag("clear-all") {
        let event = flux_proto::Message::event(format!("{name}.stats-clear"));
        return client.post(event).map_err(|error| PROGRAM.error(&error));
    }
    let method = if matches.get_flag("rusage") { "rusage" } else { "stats-get" };
    let body = json!({});
    let found = client.rpc(&format!("{name}.{method}"), To::Any, Some(&body));
    let found = found.map_err(|error| PROGRAM.about(name, &error))?;
    let Some(keys) = text(matches, "parse") else {
        output::line(&output::spaced_json(&found));
        return Ok(());
    };
    let value = pick(&found, keys)
        .ok_or_else(|| PROGRAM.fail(format!("JSON key {keys} not found in response")))?;
    let scale: Option<f64> = super::program::number(PROGRAM, matches, "scale")?;
    output::line(&printed(value, scale, text(matches, "type")));
    Ok(())
}

/// Names services whose oldest request is older than a limit, with the depth of their queue.
fn health(client: &Client, matches: &ArgMatches) -> Result<i32, Failure> {
    let older = text(matches, "older").unwrap_or("10s");
    let older =
        fsd::parse(older).map_err(|error| PROGRAM.fail(format!("--older: '{older}': {error}")))?;
    let ranks = match text(matches, "rank") {
        None => vec![To::Any],
        Some("all") => {
            let size = client.get_attr("size").map_err(|error| PROGRAM.error(&error))?;
            (0..size.parse().unwrap_or(1)).map(To::Rank).collect()
        }
        Some(text) => {
            let ranks: Idset =
                text.parse().map_err(|error| PROGRAM.fail(format!("--rank: '{text}': {error}")))?;
            ranks.ids().map(To::Rank).collect()
        }
    };
    let mut code = 0;
    for rank in ranks {
        match client.call_within::<Health>(rank, &HealthRequest { older }, ANSWER_MAX) {
            Ok(report) => {
                for busy in report.services {
                    code = 1;
                    output::line(&owes(report.rank, &busy));
                }
            }
            Err(error) => {
                code = 1;
                let rank = if let To::Rank(rank) = rank {
                    format!("rank {rank}: ")
                } else {
                    String::new()
                };
                output::line(&format!("{rank}{}", error.message()));
            }
        }
    }
    Ok(code)
}

fn owes(rank: u32, busy: &Busy) -> String {
    let Busy { name, topic, oldest, depth } = busy;
    let since = fsd::format_short(oldest.round());
    format!("rank {rank}: {name}: {topic} waits for {since}, {depth} unanswered")
}

/// The value at a dotted path.
fn pick<'a>(value: &'a Value, keys: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(keys) {
        return Some(found);
    }
    let (first, rest) = keys.split_once('.')?;
    pick(value.get(first)?, rest)
}

fn printed(value: &Value, scale: Option<f64>, kind: Option<&str>) -> String {
    let Some(number) = value.as_f64() else { return output::spaced_json(value) };
    let whole = kind == Some("int") || (kind.is_none() && !value.is_f64());
    let number = number * scale.unwrap_or(1.0);
    if whole { format!("{number:.0}") } else { format!("{number:.6}") }
}

fn debug(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "name").unwrap_or_default();
    let mask = |option: &str| {
        text(matches, option)
            .map(|text| {
                let digits = text.strip_prefix("0x");
                let mask = digits.map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
                mask.map_err(|_| PROGRAM.fail(format!("--{option}: '{text}' is not a mask")))
            })
            .transpose()
    };
    let (op, flags) = if matches.get_flag("clear") {
        ("clr", 0)
    } else if let Some(flags) = mask("set")? {
        ("set", flags)
    } else if let Some(flags) = mask("clearbit")? {
        ("clrbit", flags)
    } else {
        ("setbit", mask("setbit")?.unwrap_or(0))
    };
    let body = json!({ "op": op, "flags": flags });
    let done = client.rpc(&format!("{name}.debug"), To::Any, Some(&body));
    let done = done.map_err(|error| PROGRAM.about(name, &error))?;
    output::line(&format!("0x{:x}", done["flags"].as_u64().unwrap_or(0)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heading_is_that_of_flux() {
        let line = row("Module", "Idle", "S", "Sendq", "Recvq", "Service", None);
        assert_eq!(line, "Module                    Idle  S Sendq Recvq Service");
    }

    #[test]
    fn a_service_that_owes_an_answer_is_named_with_its_queue() {
        let (name, topic) = ("kvs".to_string(), "kvs.commit".to_string());
        let busy = Busy { name, topic, oldest: 61.2, depth: 7 };
        assert_eq!(owes(3, &busy), "rank 3: kvs: kvs.commit waits for 1.02m, 7 unanswered");
    }

    #[test]
    fn values_are_picked_by_path() {
        let stats = json!({"a": {"b": 3}, "x.y": 1.5});
        assert_eq!(pick(&stats, "a.b"), Some(&json!(3)));
        assert_eq!(pick(&stats, "x.y"), Some(&json!(1.5)));
        assert_eq!(pick(&stats, "a.c"), None);
        assert_eq!(printed(&json!(3), None, None), "3");
        assert_eq!(printed(&json!(1.5), Some(2.0), None), "3.000000");
    }
}
