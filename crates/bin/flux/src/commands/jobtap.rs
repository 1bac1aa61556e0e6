//! `flux jobtap`: the policies of the job manager. They are built in; this lists and shows them.

use clap::{ArgMatches, Command};
use flux_api::job::manager::{Jobtap, JobtapQuery, JobtapQuery_, JobtapRequest, JobtapResponse};
use flux_client::{Client, To};
use flux_proto::Errno;

use super::program::{Program, flag, text, texts, value, word, words};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-jobtap");

/// The options of `flux jobtap`.
pub(crate) fn command() -> Command {
    Command::new("jobtap")
        .about("List, query, load and remove policies of the job manager")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(Command::new("list").about("List what is loaded").arg(flag(
            "all",
            'a',
            "What is built in too",
        )))
        .subcommand(
            Command::new("query")
                .about("Show the state of one")
                .arg(word("plugin", "NAME", "Name")),
        )
        .subcommand(
            Command::new("load")
                .about("Load one")
                .arg(value("remove", 'r', "NAME", "Remove this one first"))
                .arg(word("plugin", "NAME", "Name"))
                .arg(words("conf", "KEY=VAL", "Configuration")),
        )
        .subcommand(Command::new("remove").about("Remove one").arg(word("plugin", "NAME", "Name")))
}

/// Runs `flux jobtap`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    match name {
        "list" => {
            let request = JobtapRequest { query_only: true, ..request() };
            let all = matches.get_flag("all");
            let plugins = ask(&client, &request)?.plugins;
            let shown = plugins.iter().filter(|name| all || !name.starts_with('.'));
            shown.for_each(|name| output::line(name));
        }
        "query" => query(&client, matches)?,
        "load" => {
            if !texts(matches, "conf").is_empty() {
                return Err(PROGRAM.fail("no policy takes a configuration on the command line"));
            }
            let load = text(matches, "plugin").map(str::to_owned);
            let remove = text(matches, "remove").map(str::to_owned);
            ask(&client, &JobtapRequest { load, remove, ..request() })?;
        }
        _ => {
            let remove = text(matches, "plugin").map(str::to_owned);
            ask(&client, &JobtapRequest { remove, ..request() })?;
        }
    }
    Ok(0)
}

fn request() -> JobtapRequest {
    JobtapRequest { load: None, conf: None, remove: None, query_only: false }
}

fn ask(client: &Client, request: &JobtapRequest) -> Result<JobtapResponse, Failure> {
    client
        .call::<Jobtap>(To::Rank(0), request)
        .map_err(|error| PROGRAM.fail(format!("ERROR: {}", error.message())))
}

fn query(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "plugin").unwrap_or_default().to_owned();
    let answer = client.call::<JobtapQuery_>(To::Rank(0), &JobtapQuery { name: name.clone() });
    let answer = answer.map_err(|error| match error.errno {
        Errno::ENOENT => PROGRAM.fail(format!("ERROR: {name} not found")),
        _ => PROGRAM.fail(format!("ERROR: {}", error.message())),
    })?;
    output::line(&serde_json::Value::Object(answer).to_string());
    Ok(())
}
