//! Eventlogs: JSON objects, one per line (RFC 18).
//!
//! The order of the log is authoritative; timestamps may run backwards. Keys that the RFC does not
//! define are kept and written back.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The context of an event: keys in the order they were written.
pub type Context = Map<String, Value>;

/// Why text is no eventlog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventlogError {
    /// A line is not a valid event. Lines count from 1.
    #[error("eventlog line {line}: {reason}")]
    Line {
        /// Number of the line.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The last line has no newline, so the log was cut off.
    #[error("eventlog line {line}: not terminated by a newline")]
    Unterminated {
        /// Number of the line.
        line: usize,
    },
    /// A single event is not valid.
    #[error("invalid event: {0}")]
    Event(String),
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it was created: seconds since the Unix epoch, finite and greater than zero.
    pub timestamp: f64,
    /// Its name; not empty.
    pub name: String,
    /// Data of the event, absent if it has none.
    pub context: Option<Context>,
    /// Keys of the event that RFC 18 does not define.
    pub extra: Map<String, Value>,
}

impl Event {
    /// An event without context.
    pub fn new(timestamp: f64, name: impl Into<String>) -> Self {
        Event { timestamp, name: name.into(), context: None, extra: Map::new() }
    }

    /// The event with this context.
    #[must_use]
    pub fn with_context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// The value of a context key, if there is one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.context.as_ref()?.get(key)
    }

    /// The text of a context key, if it is a string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The number of a context key, if it is an integer that fits.
    pub fn get_i64(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_i64()
    }

    /// Reads an event from one line, with or without its newline.
    ///
    /// # Errors
    /// [`EventlogError::Event`] says what is missing or wrong.
    pub fn decode(line: &str) -> Result<Self, EventlogError> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        if line.contains('\n') {
            return Err(EventlogError::Event("more than one line".to_owned()));
        }
        serde_json::from_str(line).map_err(|err| EventlogError::Event(err.to_string()))
    }

    /// Reads an event from a JSON value, as the journal carries it.
    ///
    /// # Errors
    /// As [`Event::decode`].
    pub fn from_value(value: &Value) -> Result<Self, EventlogError> {
        Self::deserialize(value).map_err(|err| EventlogError::Event(err.to_string()))
    }

    /// The JSON value.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("an event has string keys only")
    }

    /// The compact JSON of the event and a newline: what is appended to a log.
    pub fn encode(&self) -> String {
        let mut line = serde_json::to_string(self).expect("an event has string keys only");
        line.push('\n');
        line
    }

    /// The form shown to people: timestamp with six decimals, name, then `key=json` for every key of
    /// the context. No newline.
    pub fn to_text(&self) -> String {
        let mut text = format!("{:.6} {}", self.timestamp, self.name);
        self.write_context_text(&mut text);
        text
    }

    /// Appends ` key=json` for every key of the context.
    pub fn write_context_text(&self, text: &mut String) {
        for (key, value) in self.context.iter().flatten() {
            // Writing to a string cannot fail.
            let _ = write!(text, " {key}={value}");
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl FromStr for Event {
    type Err = EventlogError;

    fn from_str(line: &str) -> Result<Self, EventlogError> {
        Event::decode(line)
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("name", &self.name)?;
        if let Some(context) = &self.context {
            map.serialize_entry("context", context)?;
        }
        for (key, value) in &self.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let (mut timestamp, mut name, mut context) = (None, None, None);
        let mut extra = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "timestamp" => set(&mut timestamp, "timestamp", map.next_value::<f64>()?)?,
                "name" => set(&mut name, "name", map.next_value::<String>()?)?,
                "context" => set(&mut context, "context", map.next_value::<Context>()?)?,
                _ => {
                    let value = map.next_value()?;
                    extra.insert(key, value);
                }
            }
        }
        let timestamp: f64 = timestamp.ok_or_else(|| de::Error::missing_field("timestamp"))?;
        if !(timestamp.is_finite() && timestamp > 0.0) {
            return Err(de::Error::custom("timestamp must be greater than zero"));
        }
        let name: String = name.ok_or_else(|| de::Error::missing_field("name"))?;
        if name.is_empty() {
            return Err(de::Error::custom("name is empty"));
        }
        Ok(Event { timestamp, name, context, extra })
    }
}

fn set<T, E: de::Error>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    if slot.is_some() {
        return Err(E::duplicate_field(name));
    }
    *slot = Some(value);
    Ok(())
}

/// A whole eventlog.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Eventlog {
    events: Vec<Event>,
}

impl Eventlog {
    /// A log without events yet. (It is never stored: a log exists from its first event on.)
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a log. Empty text is a log without events.
    ///
    /// # Errors
    /// The first line that is not a valid event, or lacks its newline.
    pub fn parse(text: &str) -> Result<Self, EventlogError> {
        let mut events = Vec::new();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            let Some(line) = line.strip_suffix('\n') else {
                return Err(EventlogError::Unterminated { line: number });
            };
            let event = serde_json::from_str(line)
                .map_err(|err| EventlogError::Line { line: number, reason: err.to_string() })?;
            events.push(event);
        }
        Ok(Eventlog { events })
    }

    /// The events, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Adds an event at the end.
    pub fn append(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The first event of this name.
    pub fn find(&self, name: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.name == name)
    }

    /// The text of the log.
    pub fn encode(&self) -> String {
        self.events.iter().map(Event::encode).collect()
    }
}

impl FromIterator<Event> for Eventlog {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        Eventlog { events: events.into_iter().collect() }
    }
}

impl IntoIterator for Eventlog {
    type Item = Event;
    type IntoIter = std::vec::IntoIter<Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

impl<'a> IntoIterator for &'a Eventlog {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The example of RFC 18, with the quotes its third line lacks.
    const RFC_EXAMPLE: &str = r#"{"timestamp":1552593348.073045,"name":"submit","context":{"urgency":16,"userid":5588,"flags":0}}
{"timestamp":1552593547.411336,"name":"urgency","context":{"urgency":0,"userid":5588}}
{"timestamp":1552593348.088391,"name":"alloc","context":{"note":"rank0/core[0-1]"}}
{"timestamp":1552593348.093541,"name":"free"}
{"timestamp":1552593348.089787,"name":"start"}
{"timestamp":1552593348.09283,"name":"release","context":{"ranks":"all","final":true}}
{"timestamp":1552593348.090927,"name":"finish","context":{"status":0}}
{"timestamp":1552593348.104432,"name":"clean"}
"#;

    #[test]
    fn the_example_of_the_rfc_round_trips_to_the_byte() {
        let log = Eventlog::parse(RFC_EXAMPLE).unwrap();
        assert_eq!(log.events().len(), 8);
        assert_eq!(log.find("finish").and_then(|event| event.get_i64("status")), Some(0));
        assert_eq!(log.encode(), RFC_EXAMPLE);
    }

    #[test]
    fn text_form_has_six_decimals_and_json_values() {
        let event = Event::decode(
            r#"{"timestamp":1.5,"name":"x","context":{"a":"b c","n":1,"o":{"k":[true]}}}"#,
        )
        .unwrap();
        assert_eq!(event.to_text(), r#"1.500000 x a="b c" n=1 o={"k":[true]}"#);
        assert_eq!(Event::new(2.0, "y").to_text(), "2.000000 y");
    }

    #[test]
    fn unknown_keys_and_integer_timestamps_are_kept() {
        let event = Event::decode(r#"{"name":"x","who":"me","timestamp":3}"#).unwrap();
        assert_eq!(event.timestamp, 3.0);
        assert_eq!(event.encode(), "{\"timestamp\":3.0,\"name\":\"x\",\"who\":\"me\"}\n");
    }

    #[test]
    fn bad_events_are_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"timestamp":1}"#,
            r#"{"name":"x"}"#,
            r#"{"timestamp":0,"name":"x"}"#,
            r#"{"timestamp":-1,"name":"x"}"#,
            r#"{"timestamp":"1","name":"x"}"#,
            r#"{"timestamp":1,"name":""}"#,
            r#"{"timestamp":1,"name":7}"#,
            r#"{"timestamp":1,"name":"x","context":[]}"#,
            r#"{"timestamp":1,"name":"x","context":null}"#,
            r#"{"timestamp":1,"name":"x","name":"y"}"#,
            r#"{"timestamp":1,"name":"x"} {}"#,
        ] {
            assert!(Event::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let good = "{\"timestamp\":1,\"name\":\"x\"}\n";
        let err = Eventlog::parse(&format!("{good}{good}oops\n")).unwrap_err();
        assert!(matches!(err, EventlogError::Line { line: 3, .. }));
        let err = Eventlog::parse(&format!("{good}\n")).unwrap_err();
        assert!(matches!(err, EventlogError::Line { line: 2, .. }));
        let err = Eventlog::parse(&format!("{good}{}", good.trim_end())).unwrap_err();
        assert_eq!(err.to_string(), "eventlog line 2: not terminated by a newline");
        assert!(Eventlog::parse("").unwrap().events().is_empty());
    }

    proptest! {
        #[test]
        fn events_round_trip(
            timestamp in 1e-6f64..1e12,
            name in ".{1,8}",
            note: Option<String>,
            number: i64,
        ) {
            let mut event = Event::new(timestamp, name);
            if let Some(note) = note {
                let mut context = Context::new();
                context.insert(note.clone(), note.into());
                context.insert("number".to_owned(), number.into());
                event = event.with_context(context);
            }
            let line = event.encode();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(&Event::decode(&line).unwrap(), &event);
            prop_assert_eq!(&Event::from_value(&event.to_value()).unwrap(), &event);
        }

        #[test]
        fn parsing_never_panics(text: String, json in r#"[{}\[\]":,a-z0-9\n]{0,60}"#) {
            drop(Eventlog::parse(&text));
            drop(Eventlog::parse(&json));
        }
    }
}
