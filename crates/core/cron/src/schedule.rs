//! When an entry runs.

use flux_api::RpcError;
use flux_proto::Errno;
use serde_json::{Map, Value, json};

/// Units of a time of the calendar, with what `*` is shown as.
const UNITS: [(&str, &str); 7] = [
    ("second", "0-60"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("mday", "1-31"),
    ("month", "0-11"),
    ("year", "0-1100"),
    ("weekday", "0-6"),
];
/// Order of the units in a pattern of the calendar.
const PATTERN: [&str; 7] = ["second", "minute", "hour", "mday", "month", "weekday", "year"];

/// When an entry runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Again and again.
    Interval {
        /// Seconds between runs.
        interval: f64,
        /// Seconds until the first.
        after: f64,
        /// Seconds since the epoch; 0 while stopped.
        next: f64,
    },
    /// After events.
    Event {
        /// Beginning of their topics.
        topic: String,
        /// Only each nth.
        nth: u64,
        /// Only after this many.
        after: u64,
        /// Events so far.
        counter: u64,
        /// Seconds between runs, at least.
        min_interval: f64,
    },
    /// At times of the calendar.
    Datetime {
        /// What was asked for, by unit.
        units: Map<String, Value>,
        /// Seconds since the epoch; 0 while stopped.
        next: f64,
    },
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

fn seconds(args: &Map<String, Value>, key: &str, default: f64) -> Result<f64, RpcError> {
    match args.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_f64()
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
            .ok_or_else(|| invalid(format!("cron: {key} must be a number of seconds"))),
    }
}

fn count(args: &Map<String, Value>, key: &str) -> Result<u64, RpcError> {
    match args.get(key) {
        None => Ok(0),
        Some(value) => {
            value.as_u64().ok_or_else(|| invalid(format!("cron: {key} must be a number from 0")))
        }
    }
}

impl Schedule {
    /// Reads the arguments of a type.
    ///
    /// # Errors
    /// EINVAL for wrong arguments, ENOSYS for another type.
    pub fn parse(kind: &str, args: &Map<String, Value>) -> Result<Self, RpcError> {
        match kind {
            "interval" => {
                let interval = seconds(args, "interval", 0.0)?;
                if interval <= 0.0 {
                    return Err(invalid("cron: interval must be more than 0 seconds"));
                }
                let after = seconds(args, "after", interval)?;
                Ok(Self::Interval { interval, after, next: 0.0 })
            }
            "event" => {
                let topic = args.get("topic").and_then(Value::as_str).unwrap_or_default();
                if topic.is_empty() {
                    return Err(invalid("cron: an event entry needs a topic"));
                }
                Ok(Self::Event {
                    topic: topic.to_string(),
                    nth: count(args, "nth")?,
                    after: count(args, "after")?,
                    counter: 0,
                    min_interval: seconds(args, "min_interval", 0.0)?,
                })
            }
            "datetime" => {
                let unit = |name: &str| UNITS.iter().any(|(unit, _)| *unit == name);
                if let Some(unknown) = args.keys().find(|name| !unit(name)) {
                    return Err(invalid(format!("cron: unknown unit of time '{unknown}'")));
                }
                let word = |value: &Value| match value {
                    Value::Number(number) => number.is_i64(),
                    Value::String(text) => !text.is_empty() && !text.contains(char::is_whitespace),
                    _ => false,
                };
                match args.iter().find(|(_, value)| !word(value)) {
                    Some((name, _)) => Err(invalid(format!("cron: {name} is no time"))),
                    None => Ok(Self::Datetime { units: args.clone(), next: 0.0 }),
                }
            }
            other => Err(RpcError::new(Errno::ENOSYS, format!("cron: unknown type '{other}'"))),
        }
    }

    /// The pattern for the calendar, for entries that follow it.
    #[must_use]
    pub fn pattern(&self) -> Option<String> {
        let Self::Datetime { units, .. } = self else { return None };
        let word = |name: &&str| match units.get(*name) {
            None => "*".to_string(),
            Some(Value::String(text)) => text.clone(),
            // Numbers count as in C: months from 0, years from 1900.
            Some(number) => {
                let number = number.as_i64().unwrap_or(0);
                match *name {
                    "month" => number + 1,
                    "year" => number + 1900,
                    _ => number,
                }
                .to_string()
            }
        };
        Some(PATTERN.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    /// When it runs next; 0 when that is not known or never.
    #[must_use]
    pub fn next(&self) -> f64 {
        match self {
            Self::Interval { next, .. } | Self::Datetime { next, .. } => *next,
            Self::Event { .. } => 0.0,
        }
    }

    /// Sets it.
    pub fn set_next(&mut self, time: f64) {
        if let Self::Interval { next, .. } | Self::Datetime { next, .. } = self {
            *next = time;
        }
    }

    /// Counts an event; whether the entry runs now.
    pub fn counts(&mut self, event: &str, now: f64, lastrun: f64) -> bool {
        let Self::Event { topic, nth, after, counter, min_interval } = self else { return false };
        if !event.starts_with(topic.as_str()) {
            return false;
        }
        *counter += 1;
        if *counter <= *after || (*nth > 1 && (*counter - *after) % *nth != 0) {
            return false;
        }
        lastrun <= 0.0 || now - lastrun >= *min_interval
    }

    /// The `typedata` of the entry.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Interval { interval, after, next } => {
                json!({"interval": interval, "after": after, "next_wakeup": next})
            }
            Self::Event { topic, nth, after, counter, min_interval } => json!({
                "topic": topic, "nth": nth, "after": after, "counter": counter,
                "min_interval": min_interval,
            }),
            Self::Datetime { units, next } => {
                let mut map = Map::new();
                map.insert("next_wakeup".into(), (*next).into());
                for (name, all) in UNITS {
                    let value = match units.get(name) {
                        None => Value::from(all),
                        Some(Value::String(text)) if text == "*" => Value::from(all),
                        Some(value) => match value {
                            Value::String(_) => value.clone(),
                            number => Value::from(number.to_string()),
                        },
                    };
                    map.insert(name.into(), value);
                }
                Value::Object(map)
            }
        }
    }
}
