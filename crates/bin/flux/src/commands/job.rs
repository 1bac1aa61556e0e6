//! `flux job`: what can be done with a job, by subcommand.

use clap::{ArgMatches, Command};
use flux_api::RpcError;
use flux_id::JobId;

use super::program::Program;
use crate::{dispatch::Invocation, failure::Failure, session};

mod attach;
mod eventlog;
mod exception;
mod id;
mod info;
mod list;
mod manage;
mod states;
mod status;
mod submit;
mod taskmap;

pub(super) use states::states;

const JOB: Program = Program::binary("flux-job");

/// A subcommand.
struct Sub {
    command: fn() -> Command,
    run: fn(&ArgMatches) -> Result<i32, Failure>,
}

const SUBCOMMANDS: &[Sub] = &[
    Sub { command: attach::command, run: attach::run },
    Sub { command: exception::cancel_command, run: exception::cancel },
    Sub { command: exception::cancelall_command, run: exception::cancelall },
    Sub { command: eventlog::command, run: eventlog::run },
    Sub { command: taskmap::hostpids_command, run: taskmap::hostpids },
    Sub { command: id::command, run: id::run },
    Sub { command: info::command, run: info::run },
    Sub { command: exception::kill_command, run: exception::kill },
    Sub { command: exception::killall_command, run: exception::killall },
    Sub { command: manage::last_command, run: manage::last },
    Sub { command: list::command, run: list::run },
    Sub { command: list::ids_command, run: list::ids },
    Sub { command: manage::memo_command, run: manage::memo },
    Sub { command: info::namespace_command, run: info::namespace },
    Sub { command: manage::purge_command, run: manage::purge },
    Sub { command: exception::raise_command, run: exception::raise },
    Sub { command: exception::raiseall_command, run: exception::raiseall },
    Sub { command: manage::stats_command, run: manage::stats },
    Sub { command: status::command, run: status::run },
    Sub { command: submit::command, run: submit::run },
    Sub { command: taskmap::command, run: taskmap::run },
    Sub { command: info::timeleft_command, run: info::timeleft },
    Sub { command: manage::urgency_command, run: manage::urgency },
    Sub { command: status::wait_command, run: status::wait },
    Sub { command: eventlog::wait_event_command, run: eventlog::wait_event },
];

/// The options of `flux job`.
pub(crate) fn command() -> Command {
    let command = Command::new("job")
        .about("Low-level job operations")
        .subcommand_required(true)
        .disable_help_subcommand(true);
    SUBCOMMANDS.iter().fold(command, |command, sub| command.subcommand((sub.command)()))
}

/// Runs `flux job`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else {
        return Err(JOB.fail("missing subcommand"));
    };
    match SUBCOMMANDS.iter().find(|sub| (sub.command)().get_name() == name) {
        Some(sub) => (sub.run)(matches),
        None => Err(JOB.fail(format!("unknown subcommand {name}"))),
    }
}

/// The job id of an argument.
fn id_of(text: &str) -> Result<JobId, Failure> {
    session::job_id(JOB.name, text)
}

/// The job ids of all arguments.
fn ids_of(texts: &[&str]) -> Result<Vec<JobId>, Failure> {
    texts.iter().map(|text| id_of(text)).collect()
}

/// A failed request about a job.
fn about(id: JobId, error: &RpcError) -> Failure {
    JOB.about(&id.to_string(), error)
}

/// The user id of an option: a number, a name or `all`.
fn user_of(text: &str) -> Result<i64, Failure> {
    session::user(text).ok_or_else(|| JOB.fail(format!("unknown user {text}")))
}
