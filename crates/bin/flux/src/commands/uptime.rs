//! `flux uptime`: how long the instance has run, and what is wrong with it.

use clap::Command;
use flux_api::body::AnyObject;
use flux_api::job::manager::{QueueList_, QueueName, QueueStatus_};
use flux_api::lifecycle::StateGet;
use flux_api::resource::Status;
use flux_client::{Client, To};
use flux_id::Idset;

use super::{
    human_time::{LocalZone, strftime},
    program::Program,
};
use crate::{dispatch::Invocation, failure::Failure, output, session};

const PROGRAM: Program = Program::binary("flux-uptime");

/// The options of `flux uptime`.
pub(crate) fn command() -> Command {
    Command::new("uptime").about("Show how long the instance has run")
}

/// What the line says.
#[derive(Debug, Default)]
struct Facts {
    clock: String,
    state: String,
    seconds: f64,
    owner: String,
    depth: String,
    size: u32,
    drained: u64,
    offline: u64,
    disabled: bool,
    stopped: bool,
}

/// Runs `flux uptime`.
pub(crate) fn run(_: &Invocation) -> Result<i32, Failure> {
    let client = PROGRAM.open()?;
    let none = AnyObject::default();
    let state = client.call::<StateGet>(To::Any, &none).map_err(|error| PROGRAM.error(&error))?;
    let attribute = |name: &str| client.get_attr(name).map_err(|error| PROGRAM.about(name, &error));
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    let owner: u32 = attribute("security.owner")?.parse().unwrap_or(u32::MAX);
    let mut facts = Facts {
        clock: strftime(&LocalZone::system(), "%H:%M:%S", now),
        seconds: state.duration,
        state: state.state,
        owner: session::user_name(owner),
        depth: attribute("instance-level")?,
        size: client.size().map_err(|error| PROGRAM.about("size", &error))?,
        ..Facts::default()
    };
    if facts.state == "run" {
        let start = attribute("broker.starttime").ok().and_then(|text| text.parse::<f64>().ok());
        facts.seconds = start.map_or(facts.seconds, |start| (now - start).max(0.0));
        look(&client, &mut facts);
    }
    facts.lines().iter().for_each(|line| output::line(line));
    Ok(0)
}

/// Asks for what is not well; what cannot be asked is left out.
fn look(client: &Client, facts: &mut Facts) {
    let none = AnyObject::default();
    if let Ok(status) = client.call::<Status>(To::Rank(0), &none) {
        let count = |text: &str| text.parse::<Idset>().map_or(0, |set| set.len());
        facts.drained = status.drain.keys().map(|ranks| count(ranks)).sum();
        facts.offline = count(&status.offline);
    }
    let Ok(list) = client.call::<QueueList_>(To::Any, &none) else { return };
    let names: Vec<Option<String>> = match list.queues.is_empty() {
        true => vec![None],
        false => list.queues.into_iter().map(Some).collect(),
    };
    let asked: Vec<_> = names
        .into_iter()
        .map(|name| client.send::<QueueStatus_>(To::Any, &QueueName { name }))
        .collect();
    for status in asked.into_iter().filter_map(|status| status.wait().ok()) {
        facts.disabled |= !status.enable;
        facts.stopped |= !status.start;
    }
}

impl Facts {
    fn lines(&self) -> Vec<String> {
        let Facts { clock, state, owner, depth, size, .. } = self;
        let time = flux_id::fsd::format_digits(self.seconds, 2);
        let mut line =
            format!(" {clock} {state} {time},  owner {owner},  depth {depth},  size {size}");
        for (count, what) in [(self.drained, "drained"), (self.offline, "offline")] {
            if count > 0 {
                line.push_str(&format!(",  {count} {what}"));
            }
        }
        let mut lines = vec![line];
        let notes = [(self.disabled, "submit disabled"), (self.stopped, "scheduler stopped")];
        let notes: Vec<&str> = notes.iter().filter(|(on, _)| *on).map(|(_, note)| *note).collect();
        if !notes.is_empty() {
            lines.push(format!("  {}", notes.join(",  ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_flux() {
        let mut facts = Facts {
            clock: "23:35:10".into(),
            state: "run".into(),
            seconds: 1.2,
            owner: "root".into(),
            depth: "0".into(),
            size: 2,
            ..Facts::default()
        };
        let line = " 23:35:10 run 1.2s,  owner root,  depth 0,  size 2";
        assert_eq!(facts.lines(), [line]);
        facts.drained = 1;
        facts.offline = 3;
        facts.disabled = true;
        facts.stopped = true;
        let line = format!("{line},  1 drained,  3 offline");
        assert_eq!(facts.lines(), [line.as_str(), "  submit disabled,  scheduler stopped"]);
    }
}
