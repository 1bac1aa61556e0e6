//! `flux startlog`: when the instance was started and how each run ended.

use clap::Command;
use flux_api::kvs::{Lookup, LookupRequest, PRIMARY};
use flux_client::{Client, To};
use flux_id::fsd;
use flux_model::{eventlog::Eventlog, treeobj::Treeobj};
use flux_proto::Errno;
use jiff::{Timestamp, tz::TimeZone};

use super::program::{Program, counted, flag};
use crate::{dispatch::Invocation, failure::Failure, output, session};

const PROGRAM: Program = Program::binary("flux-startlog");

/// Key of the log in the primary namespace.
const KEY: &str = "admin.eventlog";

/// The options of `flux startlog`.
pub(crate) fn command() -> Command {
    Command::new("startlog")
        .about("Show when the instance was started and how each run ended")
        .arg(flag("check", None, "Exit with 1 if the last run was not ended in order"))
        .arg(flag("quiet", None, "Print nothing"))
        .arg(counted("show-version", 'v', "Show the version of each run"))
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// In order, at this time.
    At(f64),
    /// It has not ended.
    Running,
    /// Nobody knows when: another start follows, or nobody runs.
    Crashed,
}

/// A run of the instance.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    start: f64,
    version: String,
    end: End,
}

/// Runs `flux startlog`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let client = PROGRAM.open()?;
    let log = read(&client)?;
    // In recovery mode nothing is written: what did not end then did crash.
    let recovery = client.get_attr("broker.recovery-mode").is_ok_and(|value| value == "1");
    let runs = runs(&log, !recovery);
    if !matches.get_flag("quiet") {
        let zone = TimeZone::system();
        let version = matches.get_count("show-version") > 0;
        let now = session::now();
        runs.iter().for_each(|run| output::line(&line(run, version, now, &zone)));
    }
    let last = runs.iter().rev().find(|run| run.end != End::Running);
    let crashed = last.is_some_and(|run| run.end == End::Crashed);
    Ok(i32::from(matches.get_flag("check") && crashed))
}

fn read(client: &Client) -> Result<Eventlog, Failure> {
    let request = LookupRequest {
        key: KEY.to_owned(),
        flags: 0,
        namespace: Some(PRIMARY.to_owned()),
        rootdir: None,
        rootseq: None,
        userid: None,
    };
    let found = match client.call::<Lookup>(To::Any, &request) {
        Ok(found) => found,
        Err(error) if error.errno == Errno::ENOENT => return Ok(Eventlog::new()),
        Err(error) => return Err(PROGRAM.about(KEY, &error)),
    };
    let wrong = |text: &str| PROGRAM.fail(format!("{KEY}: {text}"));
    let Ok(Treeobj::Val(text)) = Treeobj::from_value(&found.val) else {
        return Err(wrong("is no value"));
    };
    let text = String::from_utf8(text).map_err(|_| wrong("is no text"))?;
    Eventlog::parse(&text).map_err(|error| wrong(&error.to_string()))
}

/// The runs that a log tells; the last one goes on when it has no end and `running` says so.
fn runs(log: &Eventlog, running: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for event in log.events() {
        match event.name.as_str() {
            "start" => runs.push(Run {
                start: event.timestamp,
                version: event.get_str("core_version").unwrap_or("unknown").to_owned(),
                end: End::Crashed,
            }),
            "finish" => {
                if let Some(run) = runs.last_mut().filter(|run| run.end == End::Crashed) {
                    run.end = End::At(event.timestamp);
                }
            }
            _ => {}
        }
    }
    if let Some(run) = runs.last_mut().filter(|run| running && run.end == End::Crashed) {
        run.end = End::Running;
    }
    runs
}

fn line(run: &Run, version: bool, now: f64, zone: &TimeZone) -> String {
    let time = |seconds: f64| {
        Timestamp::from_microsecond((seconds * 1e6) as i64).map_or_else(
            |_| "unknown".to_owned(),
            |time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
        )
    };
    let spent = |end: f64| fsd::format((end - run.start).max(0.0));
    let end = match run.end {
        End::At(end) => format!("{} ({})", time(end), spent(end)),
        End::Running => format!("running ({})", spent(now)),
        End::Crashed => "crashed".to_owned(),
    };
    let version = if version { format!("{} ", run.version) } else { String::new() };
    format!("{version}{} - {end}", time(run.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        "{\"timestamp\":100.0,\"name\":\"start\",\"context\":{\"core_version\":\"1.2\"}}\n",
        "{\"timestamp\":160.0,\"name\":\"finish\"}\n",
        "{\"timestamp\":200.0,\"name\":\"start\"}\n",
        "{\"timestamp\":300.0,\"name\":\"start\"}\n",
    );

    #[test]
    fn runs_end_crash_or_go_on() {
        let log = Eventlog::parse(LOG).expect("a log");
        let shown = |running| -> Vec<String> {
            let runs = runs(&log, running);
            runs.iter().map(|run| line(run, true, 301.5, &TimeZone::UTC)).collect()
        };
        assert_eq!(
            shown(true),
            [
                "1.2 1970-01-01 00:01 - 1970-01-01 00:02 (1m)",
                "unknown 1970-01-01 00:03 - crashed",
                "unknown 1970-01-01 00:05 - running (1.5s)",
            ]
        );
        assert_eq!(shown(false)[2], "unknown 1970-01-01 00:05 - crashed");
        assert_eq!(runs(&Eventlog::new(), true), []);
    }
}
