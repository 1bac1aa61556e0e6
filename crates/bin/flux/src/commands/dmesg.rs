//! `flux dmesg`: the log of a broker.

use clap::Command;
use flux_api::Empty;
use flux_api::lifecycle::{Clear, Dmesg, Dmesg_};
use flux_client::To;

use super::{
    human_time::{HumanTime, LocalZone},
    log_line::LogLine,
    program::{Program, color, flag, wants_color},
};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-dmesg");

/// The options of `flux dmesg`.
pub(crate) fn command() -> Command {
    Command::new("dmesg")
        .about("Show the log of the broker")
        .arg(flag("clear", 'C', "Empty the log"))
        .arg(flag("read-clear", 'c', "Empty the log after it is shown"))
        .arg(flag("follow", 'f', "Go on with new lines"))
        .arg(flag("new", 'n', "With --follow: only new lines"))
        .arg(flag("human", 'H', "Times that people read fast"))
        .arg(flag("delta", 'd', "With --human: times since the line before"))
        .arg(color())
}

/// Runs `flux dmesg`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let client = PROGRAM.open()?;
    let clear =
        || client.call::<Clear>(To::Any, &Empty).map(drop).map_err(|error| PROGRAM.error(&error));
    if matches.get_flag("clear") {
        clear()?;
        return Ok(0);
    }
    let request = Dmesg { follow: matches.get_flag("follow"), nobacklog: matches.get_flag("new") };
    let human = matches.get_flag("human") || matches.get_flag("delta");
    let color = human && wants_color(matches);
    let mut time = HumanTime::new(LocalZone::system(), matches.get_flag("delta"));
    for line in client.stream::<Dmesg_>(To::Any, &request) {
        let line = line.map_err(|error| PROGRAM.fail(format!("log.dmesg: {}", error.message())))?;
        let Some(parsed) = LogLine::parse(&line.0) else {
            output::line(&line.0);
            continue;
        };
        let seconds = parsed.timestamp.parse::<jiff::Timestamp>().ok();
        match seconds.filter(|_| human) {
            Some(at) => {
                let (stamp, date) = time.stamp(at.as_microsecond() as f64 / 1e6);
                output::line(&paint(&parsed, &stamp, date, color));
            }
            None => output::line(&parsed.line()),
        }
    }
    if matches.get_flag("read-clear") {
        clear()?;
    }
    Ok(0)
}

/// A line with its time; in color, errors stand out.
fn paint(line: &LogLine<'_>, stamp: &str, date: bool, color: bool) -> String {
    if !color {
        return format!("{stamp} {}", line.message());
    }
    let stamp_color = if date { "\x1b[1;32m" } else { "\x1b[32m" };
    let text_color = match line.severity {
        0..=3 => "\x1b[31m",
        4 | 5 => "\x1b[1;39m",
        6 => "",
        _ => "\x1b[2m",
    };
    let message = line.message();
    let (who, what) = message.split_once(' ').unwrap_or((&message, ""));
    format!("{stamp_color}{stamp}\x1b[0m \x1b[33m{who}\x1b[0m {text_color}{what}\x1b[0m")
}
