//! Exceptions and signals: `raise`, `raiseall`, `cancel`, `cancelall`, `kill`, `killall`.

use clap::{Arg, ArgMatches, Command, value_parser};
use flux_api::{
    RpcError,
    job::manager::{
        CountResponse, Kill, KillAll, KillAllRequest, KillRequest, Raise, RaiseAll,
        RaiseAllRequest, RaiseRequest,
    },
};
use flux_client::{Client, Pending, To};
use flux_id::JobId;
use flux_model::signal;

use super::{JOB, ids_of, states, user_of};
use crate::{
    commands::program::{flag, text, texts, value, words},
    failure::Failure,
    output, session,
};

fn severity(default: &'static str) -> Arg {
    value("severity", 's', "N", "Severity from 0 (ends the job) to 7")
        .default_value(default)
        .value_parser(value_parser!(i64))
}

fn message() -> Arg {
    value("message", 'm', "TEXT", "Say why").allow_hyphen_values(true)
}

fn user() -> Arg {
    value("user", 'u', "USER", "Jobs of this user, or all (default: your own)")
}

fn force() -> Arg {
    flag("force", 'f', "Do it; else only count")
}

fn ids() -> Arg {
    words("ids", "ID", "Jobs").required(true)
}

pub(super) fn raise_command() -> Command {
    Command::new("raise")
        .about("Raise an exception on jobs")
        .arg(severity("0"))
        .arg(value("type", 't', "TYPE", "Type of the exception").default_value("cancel"))
        .arg(message())
        .arg(ids())
        .arg(Arg::new("note").value_name("MESSAGE").num_args(0..).last(true))
}

pub(super) fn raiseall_command() -> Command {
    Command::new("raiseall")
        .about("Raise an exception on many jobs")
        .arg(severity("7"))
        .arg(user())
        .arg(value("states", 'S', "STATES", "Jobs in these states").default_value("active"))
        .arg(force())
        .arg(Arg::new("type").value_name("TYPE").required(true))
        .arg(words("note", "MESSAGE", "Say why"))
}

pub(super) fn cancel_command() -> Command {
    Command::new("cancel")
        .about("Cancel jobs")
        .arg(message())
        .arg(ids())
        .arg(Arg::new("note").value_name("MESSAGE").num_args(0..).last(true))
}

pub(super) fn cancelall_command() -> Command {
    Command::new("cancelall")
        .about("Cancel many jobs")
        .arg(user())
        .arg(
            value("states", 'S', "STATES", "Jobs in these states")
                .short_alias('s')
                .default_value("active"),
        )
        .arg(flag("quiet", 'q', "Say nothing when no job matches"))
        .arg(force())
        .arg(words("note", "MESSAGE", "Say why"))
}

fn signal() -> Arg {
    value("signal", 's', "SIGNAL", "Number or name of the signal").default_value("SIGTERM")
}

pub(super) fn kill_command() -> Command {
    Command::new("kill").about("Send a signal to the tasks of jobs").arg(signal()).arg(ids())
}

pub(super) fn killall_command() -> Command {
    Command::new("killall")
        .about("Send a signal to the tasks of many jobs")
        .arg(signal())
        .arg(user())
        .arg(force())
}

fn note_of(matches: &ArgMatches) -> Option<String> {
    let words = texts(matches, "note");
    if !words.is_empty() {
        return Some(words.join(" "));
    }
    matches.try_get_one::<String>("message").ok().flatten().cloned()
}

pub(super) fn raise(matches: &ArgMatches) -> Result<i32, Failure> {
    let severity = matches.get_one::<i64>("severity").copied().unwrap_or(0);
    raise_each(matches, text(matches, "type").unwrap_or("cancel"), severity)
}

pub(super) fn cancel(matches: &ArgMatches) -> Result<i32, Failure> {
    raise_each(matches, "cancel", 0)
}

fn raise_each(matches: &ArgMatches, kind: &str, severity: i64) -> Result<i32, Failure> {
    let ids = ids_of(&texts(matches, "ids"))?;
    let note = note_of(matches);
    let client = JOB.open()?;
    let sent = ids.into_iter().map(|id| {
        let (kind, note) = (kind.to_owned(), note.clone());
        let request = RaiseRequest { id: id.0, severity, kind, note, wait_status: None };
        (id, client.send::<Raise>(To::Any, &request))
    });
    Ok(settle("raise", sent.collect()))
}

/// Waits for all answers; tells the failures.
fn settle<R: flux_api::Rpc>(verb: &str, sent: Vec<(JobId, Pending<R>)>) -> i32 {
    let mut code = 0;
    for (id, pending) in sent {
        if let Err(error) = pending.wait() {
            output::error_line(&format!("flux-job: {verb} {id}: {error}"));
            code = 1;
        }
    }
    code
}

fn signal_of(matches: &ArgMatches) -> Result<i32, Failure> {
    let name = text(matches, "signal").unwrap_or("SIGTERM");
    signal::number(name).ok_or_else(|| JOB.fail(format!("invalid signal {name}")))
}

pub(super) fn kill(matches: &ArgMatches) -> Result<i32, Failure> {
    let signum = signal_of(matches)?;
    let ids = ids_of(&texts(matches, "ids"))?;
    let client = JOB.open()?;
    let sent = ids
        .into_iter()
        .map(|id| (id, client.send::<Kill>(To::Any, &KillRequest { id: id.0, signum })));
    Ok(settle("kill", sent.collect()))
}

fn of_user(matches: &ArgMatches) -> Result<i64, Failure> {
    text(matches, "user").map_or(Ok(i64::from(session::uid())), user_of)
}

/// The lines about a command for many jobs.
fn matched(count: u64, forced: Option<String>) -> String {
    match forced {
        None if count > 0 => format!("Command matched {count} jobs (-f to confirm)"),
        _ if count == 0 => "Command matched 0 jobs".to_owned(),
        Some(text) => text,
        None => String::new(),
    }
}

fn conclude(
    answer: Result<CountResponse, RpcError>,
    forced: bool,
    verb: &str,
) -> Result<i32, Failure> {
    let CountResponse { count, errors } = answer.map_err(|error| JOB.error(&error))?;
    let text = forced.then(|| format!("{verb} {count} jobs ({errors} errors)"));
    output::error_line(&format!("flux-job: {}", matched(count, text)));
    Ok(i32::from(errors > 0))
}

pub(super) fn killall(matches: &ArgMatches) -> Result<i32, Failure> {
    let signum = signal_of(matches)?;
    let force = matches.get_flag("force");
    let request = KillAllRequest { dry_run: !force, userid: of_user(matches)?, signum };
    let answer = JOB.open()?.call::<KillAll>(To::Any, &request);
    conclude(answer, force, &signal::describe(signum))
}

fn raise_all(
    client: &Client,
    matches: &ArgMatches,
    kind: &str,
    severity: i64,
) -> Result<Result<CountResponse, RpcError>, Failure> {
    let set = text(matches, "states").unwrap_or("active");
    let request = RaiseAllRequest {
        dry_run: !matches.get_flag("force"),
        userid: of_user(matches)?,
        states: states(set).map_err(|name| JOB.fail(format!("unknown job state {name}")))?,
        severity,
        kind: kind.to_owned(),
        note: note_of(matches),
    };
    Ok(client.call::<RaiseAll>(To::Any, &request))
}

pub(super) fn raiseall(matches: &ArgMatches) -> Result<i32, Failure> {
    let severity = matches.get_one::<i64>("severity").copied().unwrap_or(7);
    let kind = text(matches, "type").unwrap_or_default();
    let answer = raise_all(&JOB.open()?, matches, kind, severity)?;
    conclude(answer, matches.get_flag("force"), "Raised exception on")
}

pub(super) fn cancelall(matches: &ArgMatches) -> Result<i32, Failure> {
    let answer = raise_all(&JOB.open()?, matches, "cancel", 0)?;
    if matches.get_flag("quiet") && answer.as_ref().is_ok_and(|answer| answer.errors == 0) {
        return Ok(0);
    }
    conclude(answer, matches.get_flag("force"), "Canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_are_only_counted_without_force() {
        assert_eq!(matched(0, None), "Command matched 0 jobs");
        assert_eq!(matched(2, None), "Command matched 2 jobs (-f to confirm)");
        assert_eq!(
            matched(2, Some("Terminated 2 jobs (0 errors)".into())),
            "Terminated 2 jobs (0 errors)"
        );
        assert_eq!(matched(0, Some("x".into())), "Command matched 0 jobs");
    }
}
