//! `flux getattr`: the value of a broker attribute.

use clap::Command;

use super::program::{Program, text, word};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-getattr");

/// The options of `flux getattr`.
pub(crate) fn command() -> Command {
    Command::new("getattr").about("Show a broker attribute").arg(word(
        "name",
        "NAME",
        "Attribute, such as size",
    ))
}

/// Runs `flux getattr`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let name = text(&invocation.matches, "name").unwrap_or_default();
    let client = PROGRAM.open()?;
    output::line(&client.get_attr(name).map_err(|error| PROGRAM.about(name, &error))?);
    Ok(0)
}
