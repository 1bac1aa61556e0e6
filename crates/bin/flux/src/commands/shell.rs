//! `flux shell`: the job shell, started by the execution service.

use clap::{Arg, Command};

use crate::{dispatch::Invocation, failure::Failure};

/// The options of `flux shell`.
pub(crate) fn command() -> Command {
    Command::new("shell")
        .about("Run the tasks of a job (started by the execution service)")
        .hide(true)
        .arg(
            Arg::new("arguments")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .help("Options and the job id"),
        )
}

/// Runs `flux shell`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let words: Vec<String> =
        invocation.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Ok(flux_shell::main(&words))
}
