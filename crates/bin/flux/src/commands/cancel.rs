//! `flux cancel`: cancel jobs.

use clap::{ArgMatches, Command};
use flux_api::job::manager::{Raise, RaiseAll, RaiseAllRequest, RaiseRequest};
use flux_client::To;
use flux_id::JobId;

use super::{
    job::states,
    program::{Program, flag, text, texts, value, words},
};
use crate::{dispatch::Invocation, failure::Failure, output, session};

const CANCEL: Program = Program::script("flux-cancel");

/// The options of `flux cancel`.
pub(crate) fn command() -> Command {
    Command::new("cancel")
        .about("Cancel jobs")
        .arg(flag("all", None, "All your jobs"))
        .arg(flag("dry-run", 'n', "Only count"))
        .arg(flag("quiet", 'q', "Say nothing when all goes well"))
        .arg(value("user", 'u', "USER", "With --all: jobs of this user, or all"))
        .arg(value("states", 'S', "STATES", "Jobs in these states").default_value("active"))
        .arg(value("message", 'm', "TEXT", "Say why").allow_hyphen_values(true))
        .arg(words("ids", "JOBID", "Jobs"))
}

/// The complaint of an argument that is no job id.
fn bad_id(text: &str) -> Failure {
    let usage = command().bin_name("flux cancel").render_usage().to_string();
    let text =
        format!("{usage}\nflux cancel: error: argument JOBID...: invalid JobID value: '{text}'");
    Failure::bare(text, 2)
}

/// Runs `flux cancel`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let ids = texts(matches, "ids");
    let user = text(matches, "user")
        .map(|name| {
            session::user(name).ok_or_else(|| CANCEL.fail(format!("Invalid user {name} specified")))
        })
        .transpose()?;
    if !ids.is_empty() {
        if matches.get_flag("all") || user.is_some() {
            return Err(CANCEL.fail("Do not specify a list of jobids with --all or --user"));
        }
        let ids: Result<Vec<JobId>, Failure> =
            ids.into_iter().map(|id| session::parse_id(id).ok_or_else(|| bad_id(id))).collect();
        return each(matches, &ids?);
    }
    let states_given =
        matches.value_source("states") == Some(clap::parser::ValueSource::CommandLine);
    if !matches.get_flag("all") && user.is_none() && !states_given {
        return Err(CANCEL.fail("No target jobs were provided"));
    }
    let set = text(matches, "states").unwrap_or("active");
    let states =
        states(set).map_err(|name| CANCEL.fail(format!("Invalid state specified: {name}")))?;
    let dry_run = matches.get_flag("dry-run");
    let request = RaiseAllRequest {
        dry_run,
        userid: user.unwrap_or_else(|| i64::from(session::uid())),
        states,
        severity: 0,
        kind: "cancel".into(),
        note: text(matches, "message").map(str::to_owned),
    };
    let answer =
        CANCEL.open()?.call::<RaiseAll>(To::Any, &request).map_err(|error| CANCEL.error(&error))?;
    if !matches.get_flag("quiet") || answer.errors > 0 {
        output::error_line(&summary(answer.count, answer.errors, dry_run));
    }
    Ok(i32::from(answer.errors > 0))
}

fn summary(count: u64, errors: u64, dry_run: bool) -> String {
    let jobs = if count == 1 { "job" } else { "jobs" };
    match (count, dry_run) {
        (0, _) => "flux-cancel: Matched 0 jobs".into(),
        (_, true) => format!("flux-cancel: Would cancel {count} {jobs}"),
        (_, false) => {
            let plural = if errors == 1 { "error" } else { "errors" };
            format!("flux-cancel: Canceled {count} {jobs} ({errors} {plural})")
        }
    }
}

/// Cancels jobs by id; silent when all goes well.
fn each(matches: &ArgMatches, ids: &[JobId]) -> Result<i32, Failure> {
    if matches.get_flag("dry-run") {
        output::error_line(&summary(ids.len() as u64, 0, true));
        return Ok(0);
    }
    let client = CANCEL.open()?;
    let note = text(matches, "message").map(str::to_owned);
    let sent: Vec<_> = ids
        .iter()
        .map(|id| {
            let kind = "cancel".to_owned();
            let request =
                RaiseRequest { id: id.0, severity: 0, kind, note: note.clone(), wait_status: None };
            (*id, client.send::<Raise>(To::Any, &request))
        })
        .collect();
    let mut code = 0;
    for (id, pending) in sent {
        if let Err(error) = pending.wait() {
            output::error_line(&format!("flux-cancel: ERROR: {id}: {error}"));
            code = 1;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_as_flux_tells_them() {
        assert_eq!(summary(1, 0, false), "flux-cancel: Canceled 1 job (0 errors)");
        assert_eq!(summary(1, 0, true), "flux-cancel: Would cancel 1 job");
        assert_eq!(summary(0, 0, false), "flux-cancel: Matched 0 jobs");
        assert_eq!(summary(3, 1, false), "flux-cancel: Canceled 3 jobs (1 error)");
    }

    #[test]
    fn a_bad_id_is_a_usage_error() {
        let failure = bad_id("xyz");
        assert!(failure.message.ends_with("error: argument JOBID...: invalid JobID value: 'xyz'"));
        assert_eq!(failure.code, 2);
    }
}
