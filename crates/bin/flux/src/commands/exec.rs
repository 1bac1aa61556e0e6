//! `flux exec`: run a command on many brokers at once (RFC 42).

use clap::{Arg, ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::lifecycle::ConfigGet;
use flux_api::rexec::{self, ExecRequest};
use flux_client::{Client, To};
use flux_id::{Hostlist, Idset};
use serde_json::{Map, Value};

use super::program::{Program, counted, flag, rest, text, texts, value};
use crate::{dispatch::Invocation, failure::Failure, output, session};

mod crowd;
mod summary;

const PROGRAM: Program = Program::binary("flux-exec");

/// The options of `flux exec`.
pub(crate) fn command() -> Command {
    Command::new("exec")
        .about("Run a command on many brokers")
        .arg(
            value("rank", 'r', "IDSET", "Ranks to run on, or all (default), or hosts")
                .alias("ranks"),
        )
        .arg(value("exclude", 'x', "IDSET", "Ranks or hosts to leave out"))
        .arg(value("jobid", 'j', "ID", "Run on the nodes of a job; ranks count within it"))
        .arg(value("dir", 'd', "PATH", "Working directory (default: this one)"))
        .arg(flag("labelio", 'l', "Begin each line of output with its rank").alias("label-io"))
        .arg(flag("noinput", 'n', "No standard input"))
        .arg(counted("verbose", 'v', "Say what is done"))
        .arg(flag("quiet", 'q', "Do not tell exit codes"))
        .arg(
            Arg::new("setopt")
                .long("setopt")
                .value_name("NAME=VALUE")
                .action(clap::ArgAction::Append)
                .hide(true)
                .help("Option of the subprocess server"),
        )
        .arg(value("service", None, "NAME", "Service that runs processes (default: rexec)"))
        .arg(flag("with-imp", None, "Run the command through the privileged helper"))
        .arg(flag("bg", None, "Leave the processes in the background"))
        .arg(flag("waitable", None, "With --bg: keep the exit status until it is asked for"))
        .arg(value("label", None, "NAME", "Name for the processes"))
        .arg(
            Arg::new("attach")
                .long("attach")
                .value_name("PID|LABEL")
                .conflicts_with_all(["bg", "waitable"])
                .help("Follow a process that runs in the background"),
        )
        .arg(rest("command", "COMMAND", "Command and arguments"))
}

/// Runs `flux exec`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let words: Vec<String> = texts(matches, "command").into_iter().map(str::to_owned).collect();
    if words.is_empty() && text(matches, "attach").is_none() {
        return Err(PROGRAM.fail("no command was given"));
    }
    let client = PROGRAM.open()?;
    let ranks = ranks(&client, matches)?;
    let request = request(&client, matches, words)?;
    let service = text(matches, "service").unwrap_or("rexec");
    if matches.get_flag("bg") {
        return background(&client, service, &ranks, &request);
    }
    crowd::Crowd::start(&client, service, &ranks, &crowd::What::read(matches, request)).run()
}

/// The ranks to run on, of which none may be beyond the instance.
fn ranks(client: &Client, matches: &ArgMatches) -> Result<Idset, Failure> {
    let size = client.size().map_err(|error| PROGRAM.error(&error))?;
    let everyone = Idset::first_n(size);
    let job = text(matches, "jobid").map(|id| job_ranks(client, id)).transpose()?;
    let places = job.as_ref().map_or(u64::from(size), Idset::len);
    let limit = Idset::first_n(u32::try_from(places).unwrap_or(u32::MAX));
    let read = |name: &str| match text(matches, name) {
        None => Ok(None),
        Some("all") => Ok(Some(limit.clone())),
        Some(list) => targets(client, list).map(Some),
    };
    let chosen = read("rank")?.unwrap_or_else(|| limit.clone());
    let beyond = chosen.difference(&limit);
    if !beyond.is_empty() {
        return Err(PROGRAM.fail(format!("One or more invalid --ranks specified: {beyond}")));
    }
    let mut chosen = chosen;
    if let Some(excluded) = read("exclude")? {
        chosen.remove_all(&excluded);
    }
    if chosen.is_empty() {
        return Err(PROGRAM.fail("No targets specified"));
    }
    Ok(match job {
        None => chosen.intersection(&everyone),
        Some(ranks) => ranks
            .ids()
            .enumerate()
            .filter(|(at, _)| u32::try_from(*at).is_ok_and(|at| chosen.contains(at)))
            .map(|(_, rank)| rank)
            .collect(),
    })
}

/// Ranks, or hosts by name.
fn targets(client: &Client, list: &str) -> Result<Idset, Failure> {
    if let Ok(ranks) = list.parse::<Idset>() {
        return Ok(ranks);
    }
    let bad = || PROGRAM.fail(format!("invalid rank or host list: '{list}'"));
    let wanted: Hostlist = list.parse().map_err(|_| bad())?;
    let all = client.get_attr("hostlist").map_err(|error| PROGRAM.error(&error))?;
    let all: Hostlist = all.parse().map_err(|_| bad())?;
    if let Some(host) = wanted.iter().find(|host| !all.contains(host)) {
        return Err(PROGRAM.fail(format!("host {host} is not in this instance")));
    }
    let index = wanted.index();
    let matching = all.iter().enumerate().filter(|(_, host)| index.contains(host));
    Ok(matching.filter_map(|(rank, _)| u32::try_from(rank).ok()).collect())
}

fn job_ranks(client: &Client, text: &str) -> Result<Idset, Failure> {
    let id: flux_id::JobId =
        text.parse().map_err(|_| PROGRAM.fail(format!("{text}: malformed input")))?;
    let set = session::resources(client, id);
    set.map(|set| set.ranks())
        .map_err(|error| PROGRAM.fail(format!("job {text}: {}", error.message())))
}

/// Whether anybody may go into this directory.
fn is_open(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0)
}

fn request(
    client: &Client,
    matches: &ArgMatches,
    mut words: Vec<String>,
) -> Result<ExecRequest, Failure> {
    if matches.get_flag("with-imp") {
        let config = client.call::<ConfigGet>(To::Any, &AnyObject::default());
        let config = Value::Object(config.map_err(|error| PROGRAM.error(&error))?);
        let imp = config["exec"]["imp"].as_str().map(str::to_owned);
        let imp = imp.ok_or_else(|| PROGRAM.fail("exec.imp path not found in config"))?;
        words.splice(0..0, [imp, "run".to_owned()]);
    }
    let cwd = match text(matches, "dir") {
        Some(path) => Some(path.to_owned()),
        None => std::env::current_dir().ok().map(|path| {
            let owner = client.get_attr("security.owner").ok();
            let own = owner == Some(nix::unistd::geteuid().to_string());
            // Root acts for an owner who cannot go where root is.
            let there = own || path.ancestors().all(is_open);
            if there { path.to_string_lossy().into_owned() } else { "/".to_owned() }
        }),
    };
    // Variables that are no UTF-8 cannot be sent.
    let env: Map<String, Value> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name != "FLUX_PROXY_REMOTE")
        .map(|(name, value)| (name, Value::String(value)))
        .collect();
    let opts = texts(matches, "setopt")
        .into_iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.into())),
            None => Err(PROGRAM.fail(format!("--setopt: '{text}' is not NAME=VALUE"))),
        })
        .collect::<Result<_, Failure>>()?;
    let label = text(matches, "label").map(str::to_owned);
    let mut flags = rexec::STDOUT | rexec::STDERR;
    if matches.get_flag("bg") {
        if matches.get_flag("waitable") {
            flags |= rexec::WAITABLE;
        }
    } else {
        flags |= rexec::WRITE_CREDIT;
    }
    let cmd = rexec::Command { cmdline: words, env, opts, channels: Vec::new(), cwd, label };
    Ok(ExecRequest { cmd, flags, local_flags: 0 })
}

/// Starts processes that outlive this command and tells their process ids.
fn background(
    client: &Client,
    service: &str,
    ranks: &Idset,
    request: &ExecRequest,
) -> Result<i32, Failure> {
    let started: Vec<_> = ranks
        .ids()
        .map(|rank| (rank, client.start(To::Rank(rank), crowd::message(service, "exec", request))))
        .collect();
    let mut code = 0;
    for (rank, mut pending) in started {
        match pending.next_until(None) {
            Ok(message) => {
                let body: Value = message.json().unwrap_or_default();
                output::line(&format!("{rank}: {}", body["pid"]));
            }
            Err(error) => {
                code = code.max(summary::code_of(error.errno));
                output::error_line(&summary::refusal(rank, &request.cmd.cmdline, &error));
            }
        }
    }
    Ok(code)
}
