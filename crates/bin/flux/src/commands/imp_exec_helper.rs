//! `flux imp_exec_helper JOBID`: what the privileged launcher reads for a job (RFC 15). The launcher
//! runs it; people have no use for it.

use clap::Command;
use flux_api::job::info::{InfoLookup, Lookup};
use flux_client::To;
use serde_json::json;

use super::program::{Program, text, word};
use crate::{dispatch::Invocation, failure::Failure, output, session};

const PROGRAM: Program = Program::binary("flux-imp_exec_helper");

/// The options of `flux imp_exec_helper`.
pub(crate) fn command() -> Command {
    Command::new("imp_exec_helper")
        .about("Print the input of flux-imp exec for a job")
        .hide(true)
        .arg(word("id", "JOBID", "Job"))
}

/// Runs `flux imp_exec_helper`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let id = text(&invocation.matches, "id").unwrap_or_default();
    let id = session::job_id("flux-imp_exec_helper", id)?;
    let client = PROGRAM.open()?;
    let request = InfoLookup { id: id.0, keys: vec!["J".to_string()], flags: 0 };
    let answer = client.call::<Lookup>(To::Any, &request).map_err(|error| PROGRAM.error(&error))?;
    let j = answer.get("J").and_then(serde_json::Value::as_str);
    let j = j.ok_or_else(|| PROGRAM.fail("the job has no signed request"))?;
    output::line(&json!({ "J": j }).to_string());
    Ok(0)
}
