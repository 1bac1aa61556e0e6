//! `flux setattr`: change or remove a broker attribute.

use clap::{Arg, Command};
use flux_api::lifecycle::{AttrName, AttrSet, Rm, Set};
use flux_client::To;

use super::program::{Program, flag, text, word};
use crate::{dispatch::Invocation, failure::Failure};

const PROGRAM: Program = Program::binary("flux-setattr");

/// The options of `flux setattr`.
pub(crate) fn command() -> Command {
    Command::new("setattr")
        .about("Change a broker attribute")
        .arg(flag("force", 'f', "Change it though it is not meant to change"))
        .arg(flag("expunge", 'e', "Remove the attribute"))
        .arg(word("name", "NAME", "Attribute"))
        .arg(
            Arg::new("value")
                .value_name("VALUE")
                .allow_hyphen_values(true)
                .required_unless_present("expunge")
                .conflicts_with("expunge")
                .help("New value"),
        )
}

/// Runs `flux setattr`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let name = text(matches, "name").unwrap_or_default().to_owned();
    let client = PROGRAM.open()?;
    let done = match text(matches, "value") {
        Some(value) => {
            let force = matches.get_flag("force");
            let request = AttrSet { name: name.clone(), value: value.to_owned(), force };
            client.call::<Set>(To::Any, &request)
        }
        None => client.call::<Rm>(To::Any, &AttrName { name: name.clone() }),
    };
    done.map_err(|error| PROGRAM.about(&name, &error))?;
    Ok(0)
}
