//! `flux lsattr`: the broker attributes that are set.

use clap::Command;
use flux_api::body::AnyObject;
use flux_api::lifecycle::{AttrName, Get, List};
use flux_client::To;
use flux_proto::Errno;

use super::program::{Program, flag};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-lsattr");

/// The options of `flux lsattr`.
pub(crate) fn command() -> Command {
    Command::new("lsattr").about("List broker attributes").arg(flag(
        "values",
        'v',
        "Show the values too",
    ))
}

/// Runs `flux lsattr`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let client = PROGRAM.open()?;
    let list = client.call::<List>(To::Any, &AnyObject::default());
    let mut names = list.map_err(|error| PROGRAM.error(&error))?.names;
    names.sort();
    if !invocation.matches.get_flag("values") {
        output::raw(&names.iter().map(|name| format!("{name}\n")).collect::<String>());
        return Ok(0);
    }
    let values: Vec<_> = names
        .into_iter()
        .map(|name| (client.send::<Get>(To::Any, &AttrName { name: name.clone() }), name))
        .collect();
    for (value, name) in values {
        let value = match value.wait() {
            Ok(value) => value.value,
            Err(error) if error.errno == Errno::ENOENT => "-".to_owned(),
            Err(error) => return Err(PROGRAM.about(&name, &error)),
        };
        output::line(&format!("{name:<40}{value}"));
    }
    Ok(0)
}
