//! How events of an eventlog are shown: as text or JSON, with the time in one of four forms.

use clap::{Arg, ArgMatches};
use flux_model::eventlog::Event;

use super::{
    human_time::{HumanTime, LocalZone, strftime},
    program::{Program, color, flag, text, value, wants_color},
};
use crate::failure::Failure;

/// Form of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Raw,
    Iso,
    Offset,
    Human,
}

/// Shows events.
#[derive(Debug)]
pub(crate) struct EventView {
    json: bool,
    time: Time,
    color: bool,
    zone: LocalZone,
    human: HumanTime,
    first: Option<f64>,
}

impl EventView {
    /// The options that say how.
    pub(crate) fn arguments() -> [Arg; 4] {
        [
            value("format", 'f', "FORMAT", "text (default) or json"),
            value("time-format", 'T', "FORMAT", "raw (default), iso, offset or human"),
            flag("human", 'H', "Times that people read fast"),
            color(),
        ]
    }

    /// Reads the options.
    pub(crate) fn read(program: Program, matches: &ArgMatches) -> Result<EventView, Failure> {
        let json = match text(matches, "format").unwrap_or("text") {
            "text" => false,
            "json" => true,
            _ => return Err(program.fail("invalid format type")),
        };
        let time = match text(matches, "time-format").unwrap_or("raw") {
            _ if matches.get_flag("human") => Time::Human,
            "raw" => Time::Raw,
            "iso" => Time::Iso,
            "offset" => Time::Offset,
            "human" => Time::Human,
            _ => return Err(program.fail("invalid time-format type")),
        };
        let zone = LocalZone::system();
        Ok(EventView::new(json, time, wants_color(matches), zone))
    }

    fn new(json: bool, time: Time, color: bool, zone: LocalZone) -> EventView {
        EventView {
            json,
            time,
            color,
            human: HumanTime::new(zone.clone(), false),
            zone,
            first: None,
        }
    }

    /// The line of the next event.
    pub(crate) fn line(&mut self, event: &Event) -> String {
        let at = event.timestamp;
        if self.json {
            return event.encode().trim_end().to_owned();
        }
        let stamp = match self.time {
            Time::Raw => format!("{at:.6}"),
            Time::Iso => strftime(&self.zone, "%Y-%m-%dT%H:%M:%S.%f%z", at),
            Time::Offset => format!("{:.6}", at - *self.first.get_or_insert(at)),
            Time::Human => self.human.stamp(at).0,
        };
        let (on, off) = if self.color { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
        let (time_on, time_off) = if self.color { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
        let mut line = format!("{time_on}{stamp}{time_off} {on}{}{off}", event.name);
        event.write_context_text(&mut line);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_time() {
        let text =
            r#"{"timestamp":1795217160.5,"name":"drain","context":{"idset":"0","reason":"a b"}}"#;
        let event = Event::decode(text).unwrap();
        let line = |json, time| EventView::new(json, time, false, LocalZone::utc()).line(&event);
        assert_eq!(line(false, Time::Raw), r#"1795217160.500000 drain idset="0" reason="a b""#);
        assert_eq!(line(false, Time::Offset), r#"0.000000 drain idset="0" reason="a b""#);
        assert_eq!(line(false, Time::Human), r#"[Nov20 23:26] drain idset="0" reason="a b""#);
        assert_eq!(line(true, Time::Raw), text);
    }
}
