//! `flux gc`: deletes what nothing refers to any more, while the instance runs.

use clap::Command;
use flux_api::content::{Collect, CollectRequest};
use flux_client::To;

use super::program::{Program, flag};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-gc");

/// The options of `flux gc`.
pub(crate) fn command() -> Command {
    Command::new("gc")
        .about("Delete blobs that nothing refers to and shrink the store, while it is in use")
        .long_about(
            "Delete blobs that nothing refers to and shrink the store, while it is in use. Two \
             passes are made, two seconds apart, so that all that is garbage now is gone at the \
             end. The instance does the same by itself as its store \
             grows, unless content.gc is false.",
        )
        .arg(flag("once", None, "Make one pass, which deletes what the last one left over"))
        .arg(flag("quiet", 'q', "Say nothing"))
}

/// Runs `flux gc`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let client = PROGRAM.open()?;
    let request = CollectRequest { thorough: !invocation.matches.get_flag("once") };
    let done = client.call::<Collect>(To::Rank(0), &request).map_err(|e| PROGRAM.error(&e))?;
    if !invocation.matches.get_flag("quiet") {
        output::line(&format!(
            "{} blobs deleted, {} kept; the file has {} bytes, had {}",
            done.deleted, done.live, done.after, done.before
        ));
    }
    Ok(0)
}
