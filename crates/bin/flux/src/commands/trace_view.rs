//! `flux module trace` and `flux overlay trace`: messages as lines.

use clap::{Arg, ArgMatches};
use flux_api::overlay::TraceLine;
use flux_api::rpc::Rpc;
use flux_client::Stream;

use super::{
    human_time::{LocalZone, strftime},
    program::{Program, color, flag, text, value, wants_color},
};
use crate::{failure::Failure, output};

/// Kinds of messages, by the bits of a type mask.
const KINDS: [(&str, u32); 4] = [("request", 1), ("response", 2), ("event", 4), ("control", 8)];

/// What both commands take.
pub(super) fn arguments() -> [Arg; 6] {
    [
        flag("full", 'f', "Payloads that are JSON objects, too"),
        value("topic", 'T', "GLOB", "Only these topics: * and ? stand for any characters"),
        value("type", 't', "TYPE,...", "Only these kinds: request, response, event, control"),
        color(),
        flag("human", 'H', "Times as people write them"),
        flag("delta", 'd', "Times since the line before"),
    ]
}

/// The type mask that was asked for: everything but control messages, unless they are named.
pub(super) fn types(program: Program, matches: &ArgMatches) -> Result<u32, Failure> {
    let Some(list) = text(matches, "type") else { return Ok(7) };
    list.split(',').try_fold(0, |mask, name| {
        let kind = KINDS.iter().find(|(kind, _)| *kind == name.trim());
        kind.map(|(_, bit)| mask | bit)
            .ok_or_else(|| program.fail(format!("--type: '{name}' is no kind of message")))
    })
}

/// Shows lines until the stream ends.
pub(super) fn show<R: Rpc<Response = TraceLine>>(
    program: Program,
    matches: &ArgMatches,
    stream: Stream<R>,
) -> Result<(), Failure> {
    let colors = wants_color(matches);
    let (human, delta) = (matches.get_flag("human"), matches.get_flag("delta"));
    let mut last = None;
    for line in stream {
        let line = line.map_err(|error| program.error(&error))?;
        let time = match last.replace(line.timestamp).filter(|_| delta) {
            Some(before) => format!("{:+.6}", line.timestamp - before),
            None if human => strftime(&LocalZone::system(), "%H:%M:%S.%f", line.timestamp),
            None => format!("{:.6}", line.timestamp),
        };
        output::line(&format!("{time} {}", told(&line, colors)));
    }
    Ok(())
}

/// A line without its time.
fn told(line: &TraceLine, colors: bool) -> String {
    let kind = KINDS.iter().find(|(_, bit)| *bit == line.kind).map_or("unknown", |(name, _)| name);
    let who = match (&line.name, line.rank) {
        (Some(name), _) => name.clone(),
        (None, -1) => "all".to_string(),
        (None, rank) => rank.to_string(),
    };
    let (before, after) = match (colors, line.prefix.as_str()) {
        (false, _) => ("", ""),
        (true, "tx") => ("\x1b[33m", "\x1b[0m"),
        (true, _) => ("\x1b[36m", "\x1b[0m"),
    };
    let mut text = format!(
        "{before}{}{after} {who} {kind} {} [{}]",
        line.prefix, line.topic, line.payload_size
    );
    if let Some(error) = &line.errstr {
        text.push_str(&format!(" {error}"));
    }
    if let Some(payload) = &line.payload {
        text.push_str(&format!("\n{}", output::spaced_json(payload)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_name_the_peer_the_kind_and_the_error() {
        let mut line = TraceLine {
            timestamp: 1.0,
            prefix: "rx".into(),
            rank: 3,
            name: None,
            kind: 2,
            topic: "kvs.get".into(),
            payload_size: 9,
            payload: Some(json!({ "a": 1 })),
            errnum: 2,
            errstr: Some("No such file or directory".into()),
        };
        let text = "rx 3 response kvs.get [9] No such file or directory\n{\"a\": 1}";
        assert_eq!(told(&line, false), text);
        (line.name, line.payload, line.errstr) = (Some("kvs".into()), None, None);
        assert_eq!(told(&line, true), "\x1b[36mrx\x1b[0m kvs response kvs.get [9]");
        line.name = None;
        line.rank = -1;
        assert_eq!(told(&line, false), "rx all response kvs.get [9]");
    }
}
