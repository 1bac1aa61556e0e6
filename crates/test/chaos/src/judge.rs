//! Whether one job that has ended did what it was to do.

use flux_api::RpcError;
use flux_api::job::info::{InfoLookup, Lookup};
use flux_client::{Client, To};
use flux_model::eventlog::Event;
use flux_model::resource_set::ResourceSet;
use flux_model::stdio::{Header, StdioEvent};
use flux_proto::Errno;
use serde_json::Value;

use std::time::Duration;

use crate::kind::Fate;
use crate::load::{Attempt, Order};

/// A time limit may be late by so many seconds: while the leader is away nobody looks.
const LATE: f64 = 60.0;
/// A time limit counts from the decision of the scheduler, which is on record a moment later.
const EARLY: f64 = 0.5;

/// A job that did.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Its name.
    pub token: String,
    /// Lines of its output, which were compared.
    pub lines: usize,
    /// From when to when it had its resources, if ever.
    pub held: Option<(f64, f64, ResourceSet)>,
    /// Seconds that it ran beyond its time limit.
    pub over: Option<f64>,
}

/// Why it cannot be said.
#[derive(Debug)]
pub enum Doubt {
    /// Its data could not be fetched.
    Later(RpcError),
    /// It did not.
    Broken(Vec<String>),
}

impl From<RpcError> for Doubt {
    fn from(error: RpcError) -> Self {
        Doubt::Later(error)
    }
}

impl From<String> for Doubt {
    fn from(text: String) -> Self {
        Doubt::Broken(vec![text])
    }
}

/// A key of a job; `None` when there is no such job or key.
///
/// # Errors
/// It cannot be asked for.
pub fn fetch(client: &Client, id: u64, key: &str) -> Result<Option<String>, RpcError> {
    let request = InfoLookup { id, keys: vec![key.to_string()], flags: 0 };
    let time = Duration::from_secs(20);
    match client.send::<Lookup>(To::Any, &request).wait_within(time) {
        Ok(mut found) => match found.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            _ => Ok(None),
        },
        Err(error) if error.errno == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an eventlog is at its end.
#[must_use]
pub fn is_over(log: &str) -> bool {
    log.contains("\"name\":\"clean\"")
}

/// The output of a job.
fn output(log: &str) -> Result<String, String> {
    let mut header: Option<Header> = None;
    let mut text = String::new();
    for line in log.split_inclusive('\n') {
        let event = Event::decode(line).map_err(|error| error.to_string())?;
        match StdioEvent::decode(&event, header.as_ref()).map_err(|error| error.to_string())? {
            StdioEvent::Header(found) => header = Some(found),
            StdioEvent::Data(data) if data.stream == "stdout" => {
                let data = data.data.unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&data));
            }
            _ => {}
        }
    }
    Ok(text)
}

/// The events of a job.
struct Events(Vec<Event>);

impl Events {
    fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|event| event.name == name).count()
    }

    fn first(&self, name: &str) -> Option<&Event> {
        self.0.iter().find(|event| event.name == name)
    }

    fn time(&self, name: &str) -> f64 {
        self.first(name).map_or(0.0, |event| event.timestamp)
    }

    /// How often each has to be there, and which exceptions.
    fn check(&self, attempt: &Attempt, order: Order) -> Vec<String> {
        let mut broken = Vec::new();
        let fate = attempt.kind.fate;
        // A job that was canceled before it ran has none of these; else it has them all.
        let never_ran = fate == Fate::Canceled && self.count("alloc") == 0;
        let never_started = fate == Fate::Canceled && self.count("start") == 0;
        for (name, wanted) in [
            ("submit", 1),
            ("alloc", usize::from(!never_ran)),
            ("start", usize::from(!never_started)),
            ("free", usize::from(!never_ran)),
            ("clean", 1),
        ] {
            if self.count(name) != wanted {
                broken.push(format!("{} events '{name}'", self.count(name)));
            }
        }
        let finished = self.count("finish");
        if finished > 1 || (finished == 0 && !never_started) {
            broken.push(format!("{finished} events 'finish'"));
        }
        let (wanted, most) = match fate {
            Fate::Ends | Fate::Signaled => ("", 0),
            Fate::Canceled => ("cancel", order.sent.max(1)),
            Fate::Limited(_) => ("timeout", 1),
        };
        let exceptions: Vec<&Event> =
            self.0.iter().filter(|event| event.name == "exception").collect();
        if exceptions.len() > most as usize || (most > 0 && exceptions.is_empty()) {
            broken.push(format!("{} exceptions", exceptions.len()));
        }
        for exception in exceptions {
            if exception.get_str("type") != Some(wanted) {
                broken.push(format!("an exception was raised: {:?}", exception.get_str("type")));
            }
        }
        let status = self.first("finish").and_then(|event| event.get_i64("status"));
        let right = match status {
            status if attempt.kind.ends() => status == Some(i64::from(attempt.kind.code) << 8),
            Some(status) => status != 0,
            None => never_started,
        };
        if !right {
            broken.push(format!("status {status:?}"));
        }
        broken
    }
}

/// Judges a job whose eventlog is at its end; `order` is what was asked for it.
///
/// # Errors
/// What it did wrong, or that it cannot be said.
pub fn judge(
    client: &Client,
    attempt: &Attempt,
    id: u64,
    log: &str,
    order: Order,
) -> Result<Judged, Doubt> {
    let events = Events(log.lines().filter_map(|line| Event::decode(line).ok()).collect());
    let mut broken = events.check(attempt, order);
    let mut judged = Judged { token: attempt.token.clone(), lines: 0, held: None, over: None };
    match fetch(client, id, "guest.output")? {
        Some(text) => {
            match output(&text).and_then(|text| attempt.kind.compare(&text, &attempt.token)) {
                Ok(lines) => judged.lines = lines,
                Err(text) => broken.push(format!("output: {text}")),
            }
        }
        // It may have been canceled before its shell was there.
        None if attempt.kind.fate == Fate::Canceled => {}
        None => broken.push("has no output".to_string()),
    }
    if events.count("alloc") > 0 {
        let text = fetch(client, id, "R")?;
        let value: Option<Value> = text.as_deref().and_then(|text| serde_json::from_str(text).ok());
        match value.and_then(|value| ResourceSet::from_value(&value).ok()) {
            Some(r) => judged.held = Some((events.time("alloc"), events.time("free"), r)),
            None => broken.push(format!("has no R: {text:?}")),
        }
    }
    if let Fate::Limited(seconds) = attempt.kind.fate {
        let over = events.time("exception") - events.time("alloc") - f64::from(seconds);
        if !(-EARLY..LATE).contains(&over) {
            broken.push(format!("its time limit of {seconds} s came {over:.2} s late"));
        }
        judged.over = Some(over);
    }
    if broken.is_empty() { Ok(judged) } else { Err(Doubt::Broken(broken)) }
}
