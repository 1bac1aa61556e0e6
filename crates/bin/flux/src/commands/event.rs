//! `flux event`: publish events and show them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgMatches, Command};
use flux_api::broker::{Publish, PublishRequest};
use flux_client::To;
use flux_proto::{Flags, Message};

use super::program::{Program, flag, number, rest, text, texts, value, word, words};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-event");

/// Flag of `event.publish`: only the owner receives it.
const PRIVATE: u32 = 0x20;

/// The options of `flux event`.
pub(crate) fn command() -> Command {
    Command::new("event")
        .about("Publish events and show them")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("pub")
                .about("Publish an event")
                .arg(flag("raw", 'r', "The payload is no JSON"))
                .arg(flag("synchronous", 's', "Wait for the sequence number"))
                .arg(flag("loopback", 'l', "Wait until the event comes back"))
                .arg(flag("private", 'p', "Only for the owner of the instance"))
                .arg(word("topic", "TOPIC", "Topic"))
                .arg(rest("payload", "PAYLOAD", "A JSON object, or text")),
        )
        .subcommand(
            Command::new("sub")
                .about("Show events")
                .arg(flag("raw", 'r', "The payload is no JSON"))
                .arg(value("count", 'c', "N", "End after N events"))
                .arg(words("topics", "TOPIC", "Prefixes of topics (default: all)")),
        )
}

/// Runs `flux event`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    match invocation.matches.subcommand() {
        Some(("pub", matches)) => publish(matches),
        Some((_, matches)) => subscribe(matches),
        None => Ok(1),
    }
}

/// The payload of an event: JSON text with a NUL, or bytes as they are.
fn payload(matches: &ArgMatches) -> Result<Option<Vec<u8>>, Failure> {
    let text = texts(matches, "payload").join(" ");
    if text.is_empty() {
        return Ok(None);
    }
    if matches.get_flag("raw") {
        return Ok(Some(text.into_bytes()));
    }
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&text);
    object.map_err(|_| PROGRAM.fail("payload must be a JSON object"))?;
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Ok(Some(bytes))
}

fn publish(matches: &ArgMatches) -> Result<i32, Failure> {
    let topic = text(matches, "topic").unwrap_or_default().to_owned();
    let bytes = payload(matches)?;
    let client = PROGRAM.open()?;
    let loopback = matches.get_flag("loopback");
    if loopback {
        client.subscribe(&topic).map_err(|error| PROGRAM.error(&error))?;
    }
    let private = matches.get_flag("private");
    if matches.get_flag("synchronous") || loopback {
        let request = PublishRequest {
            topic,
            flags: if private { PRIVATE } else { 0 },
            payload: bytes.map(|bytes| STANDARD.encode(bytes)),
        };
        let answer = client.call::<Publish>(To::Any, &request);
        let seq = answer.map_err(|error| PROGRAM.error(&error))?.seq;
        if loopback {
            loop {
                let event = client.next_event(None).map_err(|error| PROGRAM.error(&error))?;
                if event.sequence() == seq {
                    break;
                }
            }
        }
        return Ok(0);
    }
    let mut event = Message::event(topic);
    if let Some(bytes) = bytes {
        event.set_payload(Some(bytes.into()));
    }
    if private {
        event.flags.insert(Flags::PRIVATE);
    }
    client.post(event).map_err(|error| PROGRAM.error(&error))?;
    Ok(0)
}

fn subscribe(matches: &ArgMatches) -> Result<i32, Failure> {
    let count: u64 = number(PROGRAM, matches, "count")?.unwrap_or(u64::MAX);
    let client = PROGRAM.open()?;
    let mut topics = texts(matches, "topics");
    if topics.is_empty() {
        topics.push("");
    }
    for topic in topics {
        client.subscribe(topic).map_err(|error| PROGRAM.about(topic, &error))?;
    }
    for _ in 0..count {
        let event = client.next_event(None).map_err(|error| PROGRAM.error(&error))?;
        let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        output::line(&shown(now, &event));
    }
    Ok(0)
}

/// `TIME TOPIC PAYLOAD`.
fn shown(now: f64, event: &Message) -> String {
    let bytes = event.payload.as_deref().unwrap_or_default();
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let mut line = format!("{now:.6}\t{}", event.topic());
    if !bytes.is_empty() {
        line.push('\t');
        line.push_str(&String::from_utf8_lossy(bytes));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_show_topic_and_payload() {
        let event = Message::event("a.b").with_json(&serde_json::json!({"x": 1}));
        assert_eq!(shown(1.5, &event), "1.500000\ta.b\t{\"x\":1}");
        assert_eq!(shown(1.5, &Message::event("a")), "1.500000\ta");
    }
}
