//! `flux resource eventlog`: events of resources (RFC 44).

use std::time::{Duration, Instant};

use clap::ArgMatches;
use flux_api::body::AnyObject;
use flux_api::resource::{Journal, Status};
use flux_client::To;
use flux_id::Idset;
use flux_model::eventlog::Event;
use flux_proto::Errno;
use serde_json::Value;

use super::{PROGRAM, inventory};
use crate::{
    commands::{
        event_view::EventView,
        program::{duration, text},
    },
    failure::Failure,
    output,
};

/// Runs `flux resource eventlog`.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let mut view = EventView::read(PROGRAM, matches)?;
    let context = match text(matches, "match-context") {
        None => None,
        Some(text) => Some(
            text.split_once('=')
                .ok_or_else(|| PROGRAM.fail("match-context must be of the form KEY=VALUE"))?,
        ),
    };
    let client = PROGRAM.open()?;
    let included = match text(matches, "include") {
        None => None,
        Some(targets) => {
            let status = client.call::<Status>(To::Rank(0), &AnyObject::default());
            let status = status.map_err(|error| PROGRAM.error(&error))?;
            let all = inventory::resource_set(&status.r)?;
            Some(inventory::targeted(targets, &all)?)
        }
    };
    let wait = text(matches, "wait");
    let end = duration(PROGRAM, matches, "timeout")?.map(|time| Instant::now() + time);
    let mut stream = client.stream::<Journal>(To::Rank(0), &AnyObject::default());
    loop {
        let left = end
            .map_or(Duration::from_secs(3600), |end| end.saturating_duration_since(Instant::now()));
        let entry = match stream.next_within(left) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(error) if error.errno == Errno::ETIMEDOUT && end.is_none() => continue,
            Err(error) if error.errno == Errno::ETIMEDOUT => {
                let name = wait.unwrap_or("any");
                return Err(PROGRAM.fail(format!("timeout waiting for event {name}")));
            }
            Err(error) => return Err(PROGRAM.error(&error)),
        };
        if entry.events.is_empty() && wait.is_none() && !matches.get_flag("follow") {
            return Ok(());
        }
        for value in &entry.events {
            let event =
                Event::from_value(value).map_err(|error| PROGRAM.fail(error.to_string()))?;
            if included.as_ref().is_some_and(|ranks| !concerns(&event, ranks)) {
                continue;
            }
            match wait {
                None => output::line(&view.line(&event)),
                Some(name) if event.name == name && context.is_none_or(|kv| has(&event, kv)) => {
                    if !matches.get_flag("quiet") {
                        output::line(&view.line(&event));
                    }
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }
}

/// Whether an event is about one of the ranks.
fn concerns(event: &Event, ranks: &Idset) -> bool {
    let ids = event.get_str("idset").or_else(|| event.get_str("ranks"));
    ids.and_then(|ids| ids.parse::<Idset>().ok()).is_some_and(|ids| ids.intersects(ranks))
}

/// Whether the context has this value: JSON, or text.
fn has(event: &Event, (key, wanted): (&str, &str)) -> bool {
    event.get(key).is_some_and(|value| {
        value.as_str() == Some(wanted)
            || serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| *value == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_by_rank_and_context() {
        let text = r#"{"timestamp":1.5,"name":"drain","context":{"idset":"2-3","overwrite":0}}"#;
        let event = Event::decode(text).unwrap();
        assert!(concerns(&event, &"3-9".parse().unwrap()));
        assert!(!concerns(&event, &"0".parse().unwrap()));
        assert!(has(&event, ("idset", "2-3")) && has(&event, ("overwrite", "0")));
        assert!(!has(&event, ("overwrite", "1")) && !has(&event, ("x", "1")));
    }
}
