//! `flux logger`: write a line to the log of the broker.

use clap::Command;
use flux_api::Raw;
use flux_api::lifecycle::Append;
use flux_client::To;

use super::{
    log_line::SEVERITIES,
    program::{Program, rest, text, texts, value},
};
use crate::{dispatch::Invocation, failure::Failure};

const PROGRAM: Program = Program::binary("flux-logger");

/// The options of `flux logger`.
pub(crate) fn command() -> Command {
    Command::new("logger")
        .about("Write a line to the log of the broker")
        .arg(value(
            "severity",
            's',
            "SEVERITY",
            "emerg, alert, crit, err, warning, notice, info (default) or debug",
        ))
        .arg(value("appname", 'n', "NAME", "Who says it (default: logger)"))
        .arg(rest("message", "MESSAGE", "What to say").required(true))
}

/// Runs `flux logger`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let name = text(matches, "severity").unwrap_or("info");
    let severity = SEVERITIES.iter().position(|severity| *severity == name).ok_or_else(|| {
        PROGRAM.fail("invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug")
    })?;
    let appname = text(matches, "appname").unwrap_or("logger");
    let message = texts(matches, "message").join(" ");
    let client = PROGRAM.open()?;
    let rank = client.rank().map_err(|error| PROGRAM.error(&error))?;
    let line = compose(severity, &jiff::Timestamp::now(), rank, appname, &message);
    client.call::<Append>(To::Any, &Raw(line.into())).map_err(|error| PROGRAM.error(&error))?;
    Ok(0)
}

fn compose(
    severity: usize,
    now: &jiff::Timestamp,
    rank: u32,
    appname: &str,
    message: &str,
) -> String {
    let word = appname.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
    format!("<{}>1 {now:.6} {rank} {word} - - - {message}", severity * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::log_line::LogLine;

    #[test]
    fn what_is_logged_is_read_back() {
        let now: jiff::Timestamp = "2026-11-20T23:35:10.592748Z".parse().unwrap();
        let line = compose(6, &now, 0, "a b", "hello  world");
        assert_eq!(line, "<48>1 2026-11-20T23:35:10.592748Z 0 a_b - - - hello  world");
        let back = LogLine::parse(&line).unwrap();
        assert_eq!(back.line(), "2026-11-20T23:35:10.592748Z a_b.info[0]: hello  world");
    }
}
