//! `flux job status` and `flux job wait`: wait for jobs and tell how they ended.

use clap::{ArgMatches, Command, value_parser};
use flux_api::job::{
    JOBID_ANY,
    list::{ListId, ListId_},
    manager::{Wait, WaitRequest},
};
use flux_client::To;
use flux_id::JobId;
use flux_model::job_event::JobState;
use flux_model::{signal, wait_status};
use flux_proto::Errno;
use serde_json::Value;

use super::{JOB, id_of, ids_of};
use crate::{
    commands::program::{flag, text, texts, value, word, words},
    ending,
    failure::Failure,
    output,
};

pub(super) fn command() -> Command {
    Command::new("status")
        .about("Wait for jobs; exit with the highest of their exit statuses")
        .arg(flag("verbose", 'v', "Say how each job ended").action(clap::ArgAction::Count))
        .arg(flag("json", 'j', "Print each job as JSON"))
        .arg(
            value("exception-exit-code", 'e', "N", "Exit status of a job ended by an exception")
                .value_parser(value_parser!(i32)),
        )
        .arg(words("ids", "ID", "Jobs").required(true))
}

/// How a job ended: its exit status and a sentence.
fn outcome(job: &Value, exception_code: Option<i32>) -> (i32, String) {
    let fatal = job["exception_occurred"].as_bool() == Some(true)
        && job["exception_severity"].as_i64() == Some(0);
    let status = job["waitstatus"].as_i64().map(ending::status_of);
    let code = match (status, exception_code) {
        (_, Some(code)) if fatal => code,
        (Some(status), _) => wait_status::exit_code(status),
        (None, _) => 1,
    };
    let text = match status {
        _ if fatal => {
            let kind = job["exception_type"].as_str().unwrap_or_default();
            format!("exception type={kind}")
        }
        Some(status) => match (wait_status::signal(status), wait_status::code(status)) {
            (Some(signum), _) => {
                format!("job shell died by signal: {}", signal::describe(signum))
            }
            (None, code @ 129..) => format!("died by signal: {}", signal::describe(code - 128)),
            (None, code) => format!("exited with exit code {code}"),
        },
        None => "did not run".to_owned(),
    };
    (code, text)
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let names = texts(matches, "ids");
    let ids = ids_of(&names)?;
    let verbose = matches.get_count("verbose") > 0;
    let exception_code = matches.get_one::<i32>("exception-exit-code").copied();
    let client = JOB.open()?;
    let state = Some(JobState::Inactive.bit());
    let sent: Vec<_> = ids
        .iter()
        .map(|id| {
            let request = ListId { id: id.0, attrs: vec!["all".into()], state };
            (*id, client.send::<ListId_>(To::Any, &request))
        })
        .collect();
    let mut highest = 0;
    for ((id, pending), name) in sent.into_iter().zip(names) {
        let job = match pending.wait() {
            Ok(answer) => answer.job,
            Err(error) if error.errno == Errno::ENOENT => {
                return Err(JOB.fail(format!("{name}: No such job")));
            }
            Err(error) => return Err(super::about(id, &error)),
        };
        let (code, text) = outcome(&job, exception_code);
        highest = highest.max(code);
        if matches.get_flag("json") {
            output::line(&job.to_string());
        }
        if verbose {
            output::error_line(&format!("flux-job: {id}: {text}"));
        }
    }
    Ok(highest)
}

pub(super) fn wait_command() -> Command {
    Command::new("wait")
        .about("Wait for a waitable job to end")
        .arg(flag("all", 'a', "Wait for all waitable jobs"))
        .arg(flag("verbose", 'v', "Tell the jobs that succeeded too"))
        .arg(word("id", "ID", "The job (default: any)").required(false))
}

pub(super) fn wait(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = text(matches, "id").map(id_of).transpose()?;
    let all = matches.get_flag("all");
    if all && id.is_some() {
        return Err(JOB.fail("--all and a job id exclude each other"));
    }
    let client = JOB.open()?;
    let request = WaitRequest { id: id.map_or(JOBID_ANY, |id| id.0) };
    if !all {
        let answer = client.call::<Wait>(To::Any, &request).map_err(|error| {
            let code = if error.errno == Errno::ECHILD { 2 } else { 1 };
            Failure { code, ..JOB.error(&error) }
        })?;
        output::line(&JobId(answer.id).to_string());
        if !answer.success {
            return Err(JOB.fail(answer.errstr));
        }
        return Ok(0);
    }
    let mut code = 0;
    loop {
        match client.call::<Wait>(To::Any, &request) {
            Ok(answer) => {
                let id = JobId(answer.id);
                if !answer.success {
                    output::error_line(&format!("{id}: {}", answer.errstr));
                    code = 1;
                } else if matches.get_flag("verbose") {
                    output::error_line(&format!("{id}: job completed successfully"));
                }
            }
            Err(error) if error.errno == Errno::ECHILD => return Ok(code),
            Err(error) => return Err(JOB.error(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn outcomes_have_a_code_and_a_sentence() {
        assert_eq!(
            outcome(&json!({"waitstatus": 1792}), None),
            (7, "exited with exit code 7".into())
        );
        assert_eq!(outcome(&json!({"waitstatus": 0}), None), (0, "exited with exit code 0".into()));
        let canceled = json!({"waitstatus": 36608, "exception_occurred": true,
            "exception_severity": 0, "exception_type": "cancel"});
        assert_eq!(outcome(&canceled, None), (143, "exception type=cancel".into()));
        assert_eq!(outcome(&canceled, Some(9)).0, 9);
        assert_eq!(outcome(&json!({}), None).0, 1);
    }
}
