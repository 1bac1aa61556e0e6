//! `flux pgrep` and `flux pkill`: find jobs by their name, and cancel them.

use clap::{ArgMatches, Command, value_parser};
use flux_api::job::{
    list::{ListId, ListId_},
    manager::{Raise, RaiseRequest},
};
use flux_client::{Client, To};
use flux_format::{FormatError, RenderOptions};
use flux_model::job_event::JobState;
use regex_lite::Regex;
use serde_json::Value;

use super::{
    human_time::LocalZone,
    program::{Program, flag, text, texts, value, words},
};
use crate::{
    dispatch::Invocation,
    failure::Failure,
    jobs::{
        JobRow, Query,
        headings::{FORMATS, JobHeadings},
        query::Filter,
        row::UserNames,
    },
    listing::{self, Choice},
    output, session,
};

const PGREP: Program = Program::script("flux-pgrep");
const PKILL: Program = Program::script("flux-pkill");

fn common(command: Command) -> Command {
    command
        .arg(flag("all-users", 'A', "Jobs of all users"))
        .arg(value("user", 'u', "USER", "Jobs of this user, or all"))
        .arg(value("filter", 'f', "STATE|RESULT", "Jobs with one of these states or results"))
        .arg(
            value("queue", 'q', "QUEUE", "Jobs in these queues")
                .action(clap::ArgAction::Append)
                .value_delimiter(','),
        )
        .arg(
            value("count", 'c', "N", "At most so many matching jobs")
                .value_parser(value_parser!(usize)),
        )
        .arg(
            value("max-entries", None, "N", "Look at so many jobs")
                .default_value("1000")
                .value_parser(value_parser!(u64)),
        )
        .arg(
            words("expression", "EXPRESSION", "Pattern of the name, or id ranges F1..F2")
                .required(true),
        )
}

/// The options of `flux pgrep`.
pub(crate) fn command() -> Command {
    common(Command::new("pgrep").about("List jobs whose name matches a pattern"))
        .arg(flag("all", 'a', "Jobs in all states"))
        .arg(flag("no-header", 'n', "No line of headings"))
        .arg(
            value("format", 'o', "FORMAT", "A format, or the name of one")
                .default_value("{id.f58}"),
        )
}

/// The options of `flux pkill`.
pub(crate) fn pkill_command() -> Command {
    common(Command::new("pkill").about("Cancel jobs whose name matches a pattern")).arg(flag(
        "wait",
        None,
        "Wait for the jobs to end",
    ))
}

/// Which jobs match.
enum Pattern {
    Name(Regex),
    Ids(u64, u64),
}

impl Pattern {
    fn parse(word: &str) -> Result<Pattern, String> {
        if let Some((first, last)) = word.split_once("..")
            && let (Some(first), Some(last)) = (session::parse_id(first), session::parse_id(last))
        {
            return Ok(Pattern::Ids(first.0, last.0));
        }
        let pattern = word.strip_prefix("name:").unwrap_or(word);
        Regex::new(pattern)
            .map(Pattern::Name)
            .map_err(|error| format!("invalid pattern '{pattern}': {error}"))
    }

    fn matches(&self, job: &Value) -> bool {
        match self {
            Pattern::Name(regex) => job["name"].as_str().is_some_and(|name| regex.is_match(name)),
            Pattern::Ids(first, last) => {
                job["id"].as_u64().is_some_and(|id| (*first..=*last).contains(&id))
            }
        }
    }
}

fn find(
    program: Program,
    client: &Client,
    matches: &ArgMatches,
    default: Filter,
) -> Result<Vec<Value>, Failure> {
    let patterns = texts(matches, "expression").into_iter().map(Pattern::parse);
    let patterns = patterns.collect::<Result<Vec<_>, _>>().map_err(|text| program.fail(text))?;
    let filter = match text(matches, "filter") {
        Some(text) => Filter::parse(text)
            .map_err(|name| program.fail(format!("Invalid filter specified: {name}")))?,
        None => default,
    };
    let user = match text(matches, "user") {
        _ if matches.get_flag("all-users") => None,
        None => Some(session::uid()),
        Some(name) => {
            let uid = session::user(name);
            let uid = uid.ok_or_else(|| program.fail(format!("Invalid user {name} specified")))?;
            u32::try_from(uid).ok()
        }
    };
    let query = Query {
        count: matches.get_one::<u64>("max-entries").copied().unwrap_or(1000),
        filter,
        user,
        name: None,
        queues: texts(matches, "queue").into_iter().map(str::to_owned).collect(),
        include: None,
        since: 0.0,
    };
    let own = std::env::var("FLUX_JOB_ID").ok().and_then(|id| session::parse_id(&id));
    let mut jobs = query.run(client).map_err(|error| program.error(&error))?;
    // The job that searches would nearly always find itself.
    jobs.retain(|job| own.is_none_or(|own| job["id"].as_u64() != Some(own.0)));
    jobs.retain(|job| patterns.iter().any(|pattern| pattern.matches(job)));
    jobs.truncate(matches.get_one::<usize>("count").copied().unwrap_or(usize::MAX));
    Ok(jobs)
}

/// Runs `flux pgrep`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let wrong = |error: FormatError| PGREP.fail(format!("Error in user format: {error}"));
    let formats = listing::formats("pgrep", FORMATS).map_err(|text| PGREP.fail(text))?;
    let default = listing::default_format("PGREP", "{id.f58}");
    let wanted = text(matches, "format").unwrap_or(&default);
    let format = match listing::choose("flux-pgrep", &formats, wanted).map_err(wrong)? {
        Choice::Use(format) => format,
        Choice::Printed => return Ok(0),
    };
    format.check(&JobHeadings).map_err(wrong)?;
    let client = PGREP.open()?;
    let default = if matches.get_flag("all") { Filter::ALL } else { Filter::ACTIVE };
    let jobs = find(PGREP, &client, matches, default)?;
    if jobs.is_empty() {
        return Err(Failure::bare("", 1));
    }
    let (now, mut names) = (session::now(), UserNames::default());
    let rows: Vec<JobRow> = jobs.into_iter().map(|job| JobRow::new(job, now, &mut names)).collect();
    // The plain list of ids is for scripts.
    let header = !matches.get_flag("no-header") && wanted != "{id.f58}";
    let options = RenderOptions { header, ..RenderOptions::default() };
    let lines = format.render(&JobHeadings, &rows, &LocalZone::system(), options).map_err(wrong)?;
    output::raw(&(lines.join("\n") + "\n"));
    Ok(0)
}

/// Runs `flux pkill`.
pub(crate) fn pkill(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let client = PKILL.open()?;
    let jobs = find(PKILL, &client, matches, Filter::ACTIVE)?;
    if jobs.is_empty() {
        return Err(Failure::bare("", 1));
    }
    let ids: Vec<u64> = jobs.iter().filter_map(|job| job["id"].as_u64()).collect();
    let sent: Vec<_> = ids
        .iter()
        .map(|id| {
            let kind = "cancel".to_owned();
            let request =
                RaiseRequest { id: *id, severity: 0, kind, note: None, wait_status: None };
            (*id, client.send::<Raise>(To::Any, &request))
        })
        .collect();
    let mut canceled = Vec::new();
    let mut code = 0;
    for (id, pending) in sent {
        match pending.wait() {
            Ok(_) => canceled.push(id),
            Err(error) => {
                output::error_line(&format!("flux-pkill: ERROR: {}: {error}", flux_id::JobId(id)));
                code = 1;
            }
        }
    }
    let plural = if canceled.len() == 1 { "" } else { "s" };
    output::error_line(&format!("flux-pkill: INFO: Canceled {} job{plural}", canceled.len()));
    if matches.get_flag("wait") {
        let state = Some(JobState::Inactive.bit());
        let waits: Vec<_> = canceled
            .iter()
            .map(|id| client.send::<ListId_>(To::Any, &ListId { id: *id, attrs: vec![], state }))
            .collect();
        for pending in waits {
            pending.wait().map_err(|error| PKILL.error(&error))?;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_names_or_ranges_of_ids() {
        let job = json!({"id": 5, "name": "sleep"});
        let matches = |word: &str| Pattern::parse(word).expect("valid").matches(&job);
        assert!(matches("^sl") && matches("name:eep$") && matches("3..5"));
        assert!(!matches("^eep") && !matches("6..9"));
        assert!(Pattern::parse("(").is_err());
    }
}
