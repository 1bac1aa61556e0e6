//! `flux ping`: how long a service takes to answer.

use std::time::{Duration, Instant};

use clap::Command;
use flux_api::RpcError;
use flux_client::{Client, RawPending, To};
use flux_proto::Message;
use serde_json::{Value, json};

use super::program::{Program, duration, flag, number, text, value, word};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-ping");

/// Most bytes of padding.
const MAX_PAD: usize = 64 << 20;

/// The options of `flux ping`.
pub(crate) fn command() -> Command {
    Command::new("ping")
        .about("Measure the round trip time to a service")
        .arg(value("rank", 'r', "RANK", "Rank, any or upstream"))
        .arg(value("pad", 'p', "BYTES", "Bytes of padding"))
        .arg(value("interval", 'i', "SECONDS", "Time between requests (default: 1s)"))
        .arg(value("count", 'c', "N", "Number of requests (default: no limit)"))
        .arg(flag("batch", 'b', "Send all requests at once"))
        .arg(flag("userid", 'u', "Show the user id and roles that the service saw"))
        .arg(word("target", "TARGET", "Service, RANK, RANK!SERVICE, any or upstream"))
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    to: To,
    service: String,
}

impl Target {
    /// Reads `SERVICE`, `RANK`, `RANK!SERVICE`; a number or one of the words `any` and `upstream`
    /// alone means the broker there.
    fn parse(text: &str, rank: Option<&str>) -> Option<Target> {
        let node = |text: &str| match text {
            "any" => Some(To::Any),
            "upstream" => Some(To::Upstream),
            _ => text.parse().ok().map(To::Rank),
        };
        if let Some(rank) = rank {
            return Some(Target { to: node(rank)?, service: text.to_owned() });
        }
        if let Some((rank, service)) = text.split_once('!') {
            let service = if service.is_empty() { "broker" } else { service };
            return Some(Target { to: node(rank)?, service: service.to_owned() });
        }
        Some(match node(text) {
            Some(to) => Target { to, service: "broker".into() },
            None => Target { to: To::Any, service: text.to_owned() },
        })
    }

    fn name(&self) -> String {
        let node = match self.to {
            To::Any => "any".to_owned(),
            To::Upstream => "upstream".to_owned(),
            To::Rank(rank) => rank.to_string(),
        };
        format!("{node}!{}", self.service)
    }

    /// Name of the method in an error.
    fn method(&self) -> String {
        match self.to {
            To::Any => format!("{}.ping", self.service),
            _ => format!("{}.ping", self.name()),
        }
    }
}

/// Runs `flux ping`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let target = Target::parse(text(matches, "target").unwrap_or_default(), text(matches, "rank"))
        .ok_or_else(|| PROGRAM.fail("invalid rank"))?;
    let pad: usize = number(PROGRAM, matches, "pad")?.unwrap_or(0);
    if pad > MAX_PAD {
        return Err(PROGRAM.fail(format!("--pad: at most {MAX_PAD} bytes")));
    }
    let count: u64 = number(PROGRAM, matches, "count")?.unwrap_or(u64::MAX);
    let interval = match text(matches, "interval") {
        None => Duration::from_secs(1),
        Some(_) => duration(PROGRAM, matches, "interval")?.unwrap_or(Duration::MAX),
    };
    let batch = matches.get_flag("batch");
    if batch && count == u64::MAX {
        return Err(PROGRAM.fail("--batch requires --count"));
    }
    let client = PROGRAM.open()?;
    let pad = "p".repeat(pad);
    let show = |sent: Sent| {
        let answer = sent.answer().map_err(|error| {
            PROGRAM.fail(format!("{}: {}", target.method(), error.errno.text()))
        })?;
        let line = line(&target.service, pad.len(), matches.get_flag("userid"), &answer);
        output::line(&line);
        Ok(())
    };
    if batch {
        let sent: Vec<_> = (0..count).map(|seq| send(&client, &target, seq, &pad)).collect();
        sent.into_iter().try_for_each(show)?;
    } else {
        for seq in 0..count {
            let start = Instant::now();
            show(send(&client, &target, seq, &pad))?;
            if seq + 1 < count {
                std::thread::sleep(interval.saturating_sub(start.elapsed()));
            }
        }
    }
    output::error_line(&format!("flux-ping {}", target.name()));
    Ok(0)
}

/// A request on its way.
struct Sent {
    pending: RawPending,
    seq: u64,
    at: Instant,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    body: Value,
    seq: u64,
    time: Duration,
}

impl Sent {
    fn answer(mut self) -> Result<Answer, RpcError> {
        let message = self.pending.next_until(None)?;
        let time = self.at.elapsed();
        let body: Value = message.json().map_err(|error| {
            RpcError::new(flux_proto::Errno::EPROTO, format!("unexpected response: {error}"))
        })?;
        if body["seq"].as_u64() != Some(self.seq) {
            let text = format!("response has sequence {}, expected {}", body["seq"], self.seq);
            return Err(RpcError::new(flux_proto::Errno::EPROTO, text));
        }
        Ok(Answer { body, seq: self.seq, time })
    }
}

fn send(client: &Client, target: &Target, seq: u64, pad: &str) -> Sent {
    let at = Instant::now();
    let since = jiff::Timestamp::now();
    let body = json!({
        "seq": seq,
        "time.tv_sec": since.as_second(),
        "time.tv_nsec": since.subsec_nanosecond(),
        "pad": pad,
    });
    let message = Message::request(format!("{}.ping", target.service)).with_json(&body);
    Sent { pending: client.start(target.to, message), seq, at }
}

fn line(service: &str, pad: usize, userid: bool, answer: &Answer) -> String {
    let Answer { body, seq, time } = answer;
    let (rank, route) = (&body["rank"], body["route"].as_str().unwrap_or_default());
    let who = if userid {
        let roles = body["rolemask"].as_u64().unwrap_or_default();
        format!(" userid={} rolemask=0x{roles:x}", body["userid"])
    } else {
        String::new()
    };
    let time = time.as_secs_f64() * 1e3;
    format!("{rank}!{service}.ping pad={pad}{who} seq={seq} time={time:.3} ms ({route})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Option<(String, String)> {
        Target::parse(text, None).map(|target| (target.name(), target.method()))
    }

    #[test]
    fn targets_are_ranks_and_services() {
        let name = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(target("kvs"), name("any!kvs", "kvs.ping"));
        assert_eq!(target("3"), name("3!broker", "3!broker.ping"));
        assert_eq!(target("3!kvs"), name("3!kvs", "3!kvs.ping"));
        assert_eq!(target("upstream"), name("upstream!broker", "upstream!broker.ping"));
        assert_eq!(target("x!kvs"), None);
        let rank = Target::parse("kvs", Some("7")).map(|target| target.name());
        assert_eq!(rank.as_deref(), Some("7!kvs"));
    }

    #[test]
    fn the_line_is_that_of_flux() {
        let body = json!({"rank": 0, "route": "b38a8f76!0", "userid": 5, "rolemask": 5});
        let answer = Answer { body, seq: 2, time: Duration::from_micros(178) };
        assert_eq!(
            line("kvs", 0, false, &answer),
            "0!kvs.ping pad=0 seq=2 time=0.178 ms (b38a8f76!0)"
        );
        assert_eq!(
            line("kvs", 9, true, &answer),
            "0!kvs.ping pad=9 userid=5 rolemask=0x5 seq=2 time=0.178 ms (b38a8f76!0)"
        );
    }
}
