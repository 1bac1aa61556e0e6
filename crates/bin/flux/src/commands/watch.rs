//! `flux watch`: watch the output and progress of many jobs.

use clap::{Command, value_parser};
use flux_id::JobId;

use super::program::{Program, counted, flag, text, texts, value, words};
use crate::{
    dispatch::Invocation,
    failure::Failure,
    follow::{Follower, Sinks, Want, bar::Bar},
    jobs::{
        Query,
        query::{self, Filter},
    },
    session,
};

const WATCH: Program = Program::script("flux-watch");

/// The options of `flux watch`.
pub(crate) fn command() -> Command {
    Command::new("watch")
        .about("Watch the output of jobs until they end")
        .arg(flag("active", 'a', "All your jobs that are not over"))
        .arg(flag("all", 'A', "All your jobs"))
        .arg(
            value("count", 'c', "N", "At most so many jobs")
                .default_value("1000")
                .value_parser(value_parser!(u64)),
        )
        .arg(value("filter", 'f', "STATE|RESULT", "Jobs with one of these states or results"))
        .arg(
            value("since", None, "WHEN", "Jobs that ended after this time")
                .allow_hyphen_values(true),
        )
        .arg(flag("progress", None, "Show a progress bar"))
        .arg(flag("jps", None, "Show jobs per second"))
        .arg(flag("label-io", 'l', "Put job id and task rank before each line"))
        .arg(counted("verbose", 'v', "Say how each job ended"))
        .arg(words("ids", "JOBID", "These jobs"))
}

/// Runs `flux watch`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let ids = texts(matches, "ids");
    let since = text(matches, "since")
        .map(|when| {
            query::since(when, &jiff::Zoned::now())
                .ok_or_else(|| WATCH.fail(format!("--since: \"{when}\" is no time in the past")))
        })
        .transpose()?;
    let filter = match text(matches, "filter") {
        Some(text) => Some(
            Filter::parse(text)
                .map_err(|name| WATCH.fail(format!("Invalid filter specified: {name}")))?,
        ),
        None if matches.get_flag("all") || since.is_some() => Some(Filter::ALL),
        None if matches.get_flag("active") => Some(Filter::ACTIVE),
        None => None,
    };
    if ids.is_empty() && filter.is_none() {
        return Err(WATCH.fail("At least one job selection option is required"));
    }
    let mut jobs: Vec<JobId> = Vec::with_capacity(ids.len());
    for id in ids {
        let parsed = session::parse_id(id);
        jobs.push(parsed.ok_or_else(|| WATCH.fail(format!("invalid JobID value: '{id}'")))?);
    }
    let client = WATCH.open()?;
    if let Some(filter) = filter {
        let query = Query {
            count: matches.get_one::<u64>("count").copied().unwrap_or(1000),
            filter,
            user: Some(session::uid()),
            name: None,
            queues: Vec::new(),
            include: None,
            since: since.unwrap_or(0.0),
        };
        let found = query.run(&client).map_err(|error| WATCH.error(&error))?;
        jobs.extend(found.iter().filter_map(|job| job["id"].as_u64()).map(JobId));
    }
    jobs.sort_unstable_by_key(|id| id.0);
    jobs.dedup();
    let want = Want {
        output: true,
        event: None,
        label: matches.get_flag("label-io"),
        verbose: matches.get_count("verbose") > 0,
    };
    let rate = matches.get_flag("jps");
    let total = jobs.len() as u64;
    let bar = Bar::new(matches.get_flag("progress") || rate, total, rate);
    let mut follower = Follower::new(WATCH.name, &client, want);
    for id in jobs {
        follower.add(id.0, Sinks::default());
    }
    while !follower.is_done() {
        follower.wait().map_err(|text| WATCH.fail(text))?;
        follower.take_ready();
        bar.show(&follower.tally, total);
    }
    bar.finish();
    Ok(follower.code())
}
