//! `flux env`: the environment of commands that `flux` runs.

use std::os::unix::process::CommandExt;

use clap::Command;

use super::program::{Program, rest, texts};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-env");

/// The options of `flux env`.
pub(crate) fn command() -> Command {
    Command::new("env")
        .about("Show the environment of flux commands, or run a command in it")
        .arg(rest("command", "COMMAND", "Command and arguments"))
}

/// Runs `flux env`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let words = texts(&invocation.matches, "command");
    if let Some((program, arguments)) = words.split_first() {
        let error = std::process::Command::new(program).args(arguments).exec();
        return Err(PROGRAM.fail(format!("execvp ({program}): {error}")));
    }
    for (name, value) in std::env::vars_os() {
        output::line(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    }
    Ok(0)
}
