//! `flux shutdown`: end an instance in order.

use std::io::{IsTerminal, Write};

use clap::{Arg, ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::content::{Collect, CollectRequest};
use flux_api::lifecycle::{ShutdownRequest, ShutdownStart};
use flux_client::{Client, To};
use flux_proto::Errno;

use super::program::{Program, counted, flag, text, value};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-shutdown");

/// Severity of errors, the least that is shown.
const ERRORS: i32 = 3;
/// Severity of information.
const INFO: i32 = 6;

/// The options of `flux shutdown`.
pub(crate) fn command() -> Command {
    Command::new("shutdown")
        .about("Shut an instance down")
        .arg(flag("skip-gc", None, "Leave old data in the store (nothing else is done by default)"))
        .arg(flag("gc", None, "Delete what nothing refers to first, as flux gc does"))
        .arg(value(
            "dump",
            None,
            "PATH",
            "Write the key-value store to this file first, as flux dump does",
        ))
        .arg(flag(
            "keep-jobs",
            None,
            "Leave running jobs: the next start of the instance goes on with them",
        ))
        .arg(flag(
            "alone",
            None,
            "End the broker that is asked only: jobs run on, other brokers wait for its return",
        ))
        .arg(flag("background", None, "Do not wait for the end"))
        .arg(flag("quiet", None, "Show errors only"))
        .arg(counted("verbose", 'v', "Show more"))
        .arg(flag("yes", 'y', "Answer questions with yes"))
        .arg(flag("no", 'n', "Answer questions with no"))
        .arg(Arg::new("target").value_name("TARGET").help("Job id or URI of the instance"))
}

/// What is done with the store while the instance still runs.
fn prepare(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    if let Some(path) = text(matches, "dump") {
        super::dump::current(client, path)?;
    }
    if matches.get_flag("gc") && !matches.get_flag("skip-gc") {
        let request = CollectRequest { thorough: true };
        let done = client.call::<Collect>(To::Rank(0), &request);
        done.map_err(|error| PROGRAM.about("gc", &error))?;
    }
    Ok(())
}

/// Runs `flux shutdown`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let client = match text(matches, "target") {
        None => PROGRAM.open()?,
        Some(target) => {
            let uri = super::uri::resolve(PROGRAM, target)?;
            Client::open(Some(&uri)).map_err(|error| PROGRAM.fail(error.to_string()))?
        }
    };
    let alone = matches.get_flag("alone");
    let keep_jobs = alone || matches.get_flag("keep-jobs");
    let to = if alone { To::Any } else { To::Rank(0) };
    if !keep_jobs
        && let Some(running) = running(&client).filter(|running| *running > 0)
        && !agreed(matches, running)?
    {
        return Err(PROGRAM.fail("shutdown aborted"));
    }
    prepare(&client, matches)?;
    if matches.get_flag("background") {
        let request = ShutdownRequest { loglevel: None, keep_jobs, alone };
        let done = client.call::<ShutdownStart>(to, &request);
        // The answer to a request that is no stream has no body.
        return match done {
            Err(error) if error.errno != Errno::EPROTO => {
                Err(PROGRAM.about("shutdown.start", &error))
            }
            _ => Ok(0),
        };
    }
    let quiet = matches.get_flag("quiet");
    let loglevel = match matches.get_count("verbose") {
        0 if quiet => ERRORS,
        0 => INFO - 1,
        1 => INFO,
        _ => INFO + 1,
    };
    let request = ShutdownRequest { loglevel: Some(loglevel), keep_jobs, alone };
    for line in client.stream::<ShutdownStart>(to, &request) {
        match line {
            Ok(line) => output::raw(&line.log),
            // The broker may be gone before the end of the stream arrives.
            Err(error) if matches!(error.errno, Errno::ECONNRESET | Errno::EHOSTUNREACH) => break,
            Err(error) => return Err(PROGRAM.about("shutdown.start", &error)),
        }
    }
    Ok(0)
}

/// How many jobs run, if that can be asked.
fn running(client: &Client) -> Option<u64> {
    let query =
        client.call::<flux_api::job::manager::AllocQuery_>(To::Any, &AnyObject::default()).ok()?;
    Some(query.running)
}

/// Whether running jobs may be ended. Only people are asked, and only when nothing was said.
fn agreed(matches: &clap::ArgMatches, running: u64) -> Result<bool, Failure> {
    if matches.get_flag("yes") || matches.get_flag("no") {
        return Ok(matches.get_flag("yes"));
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !terminal || matches.get_flag("background") {
        return Ok(true);
    }
    let mut out = std::io::stdout().lock();
    let asked = write!(out, "{running} jobs are running. Shut down all the same [y/N]? ");
    asked.and_then(|()| out.flush()).map_err(|error| PROGRAM.fail(error.to_string()))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| PROGRAM.fail(error.to_string()))?;
    Ok(answer.trim().to_ascii_lowercase().starts_with('y'))
}
