//! `flux job attach`: follow a job.

use clap::{ArgMatches, Command};

use super::{JOB, id_of};
use crate::{
    attach::{self, machine::View},
    commands::program::{counted, flag, text, value, word},
    failure::Failure,
};

pub(super) fn command() -> Command {
    Command::new("attach")
        .about("Follow a job: its output, its input and its end")
        .arg(flag("show-events", 'E', "Show the events of the job"))
        .arg(flag("show-exec", 'X', "Show the events of its execution"))
        .arg(flag("show-status", None, "Say why the job waits (always so on a terminal)"))
        .arg(value("wait-event", 'w', "NAME", "Leave after this event (default: finish)"))
        .arg(flag("label-io", 'l', "Put the task rank before each line of output"))
        .arg(counted("verbose", 'v', "Show events; twice: of the execution too"))
        .arg(flag("quiet", 'q', "Say nothing about the job itself"))
        .arg(flag("read-only", 'r', "Do not forward standard input"))
        .arg(flag("unbuffered", 'u', "Do not buffer input (input is never buffered here)"))
        .arg(value("stdin-ranks", 'i', "IDSET", "Forward standard input to these tasks only"))
        .arg(
            value("tail", None, "N", "Show only the last lines of the output so far (10)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("10")
                .value_parser(clap::value_parser!(usize)),
        )
        .arg(flag("debug", None, "Release tasks that were stopped for a debugger (refused)"))
        .arg(word("id", "ID", "The job"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    if matches.get_flag("debug") {
        return Err(JOB.fail("--debug: tasks are not stopped for debuggers by this job shell"));
    }
    let verbose = matches.get_count("verbose");
    let ranks = text(matches, "stdin-ranks").unwrap_or("all");
    if ranks != "all" && ranks.parse::<flux_id::Idset>().is_err() {
        return Err(JOB.fail(format!("--stdin-ranks: '{ranks}' is no idset")));
    }
    let options = attach::Options {
        program: JOB.name,
        name: text(matches, "id").map(str::to_owned),
        view: View {
            events: matches.get_flag("show-events") || verbose > 0,
            exec: matches.get_flag("show-exec") || verbose > 1,
            label: matches.get_flag("label-io"),
            quiet: matches.get_flag("quiet"),
            until: text(matches, "wait-event").unwrap_or("finish").to_owned(),
            tail: matches.get_one::<usize>("tail").copied(),
        },
        read_only: matches.get_flag("read-only"),
        stdin_ranks: ranks.to_owned(),
        only_input: false,
        status: matches.get_flag("show-status"),
    };
    attach::attach(&JOB.open()?, id, &options)
}
