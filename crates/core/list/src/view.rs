//! One job as it is listed: borrowed from wherever it is kept, matched and written in one way.

use std::fmt::Write;

use flux_model::job_event::{JobResult, JobState};
use serde_json::Value;

use crate::attrs::Attr;

/// The worst exception of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExceptionView<'a> {
    /// Its type.
    pub kind: &'a str,
    /// From 0, fatal, to 7.
    pub severity: u8,
    /// For people; may be empty.
    pub note: &'a str,
}

/// JSON that is kept as text, or as a value.
#[derive(Debug, Clone, Copy)]
pub enum Json<'a> {
    /// A JSON text.
    Text(&'a str),
    /// An object.
    Object(&'a serde_json::Map<String, Value>),
    /// A list of strings.
    Strings(&'a [String]),
}

/// Every attribute of a job; what is not known is `None`.
///
/// Whatever keeps jobs (in memory or in an archive on disk) gives this, and nothing else is needed
/// to match and list them.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are the attributes of RFC 43")]
pub struct JobView<'a> {
    pub id: u64,
    pub userid: u32,
    pub urgency: u8,
    pub priority: Option<u32>,
    pub t_submit: f64,
    pub t_depend: Option<f64>,
    pub t_priority: Option<f64>,
    pub t_sched: Option<f64>,
    pub t_run: Option<f64>,
    pub t_cleanup: Option<f64>,
    pub t_inactive: Option<f64>,
    pub state: JobState,
    pub name: Option<&'a str>,
    pub cwd: Option<&'a str>,
    pub queue: Option<&'a str>,
    pub project: Option<&'a str>,
    pub bank: Option<&'a str>,
    pub ntasks: Option<u64>,
    pub ncores: Option<u64>,
    pub duration: Option<f64>,
    pub nnodes: Option<u64>,
    pub ranks: Option<&'a str>,
    pub nodelist: Option<&'a str>,
    pub result: Option<JobResult>,
    pub exception: Option<ExceptionView<'a>>,
    pub expiration: Option<f64>,
    pub annotations: Option<Json<'a>>,
    pub waitstatus: Option<i32>,
    pub dependencies: Option<Json<'a>>,
    /// No attribute: its shells were started.
    pub started: bool,
    /// No attribute: it had a fatal exception.
    pub fatal: bool,
}

impl JobView<'_> {
    /// Writes the job as a JSON object with `id` and those of `attrs` that are known.
    pub fn write(&self, out: &mut String, attrs: &[Attr]) {
        let _ = write!(out, "{{\"id\":{}", self.id);
        for attr in attrs {
            self.write_attr(out, *attr);
        }
        out.push('}');
    }

    fn write_attr(&self, out: &mut String, attr: Attr) {
        // Exceptions are told when the job is over, as its result is.
        let over = self.state == JobState::Inactive;
        let exception = self.exception.filter(|_| over);
        let name = attr.name();
        match attr {
            Attr::Userid => number(out, name, Some(self.userid)),
            Attr::Urgency => number(out, name, Some(self.urgency)),
            Attr::Priority => number(out, name, self.priority),
            Attr::TSubmit => real(out, name, Some(self.t_submit)),
            Attr::TDepend => real(out, name, self.t_depend),
            Attr::TPriority => real(out, name, self.t_priority),
            Attr::TSched => real(out, name, self.t_sched),
            Attr::TRun => real(out, name, self.t_run),
            Attr::TCleanup => real(out, name, self.t_cleanup),
            Attr::TInactive => real(out, name, self.t_inactive),
            Attr::State => number(out, name, Some(self.state.bit())),
            Attr::Name => text(out, name, self.name),
            Attr::Cwd => text(out, name, self.cwd),
            Attr::Queue => text(out, name, self.queue),
            Attr::Project => text(out, name, self.project),
            Attr::Bank => text(out, name, self.bank),
            Attr::Ntasks => number(out, name, self.ntasks),
            Attr::Ncores => number(out, name, self.ncores),
            Attr::Duration => real(out, name, self.duration),
            Attr::Nnodes => number(out, name, self.nnodes),
            Attr::Ranks => text(out, name, self.ranks),
            Attr::Nodelist => text(out, name, self.nodelist),
            Attr::Success => {
                number(out, name, self.result.map(|result| result == JobResult::Completed));
            }
            Attr::ExceptionOccurred => number(out, name, over.then_some(exception.is_some())),
            Attr::ExceptionType => text(out, name, exception.map(|e| e.kind)),
            Attr::ExceptionSeverity => number(out, name, exception.map(|e| e.severity)),
            Attr::ExceptionNote => text(out, name, exception.map(|e| e.note)),
            Attr::Result => number(out, name, self.result.map(JobResult::bit)),
            Attr::Expiration => real(out, name, self.expiration),
            Attr::Annotations => json(out, name, self.annotations),
            Attr::Waitstatus => number(out, name, self.waitstatus),
            Attr::Dependencies => json(out, name, self.dependencies),
        }
    }
}

fn key(out: &mut String, name: &str) {
    let _ = write!(out, ",\"{name}\":");
}

/// Integers and booleans, which print as JSON does.
fn number<T: std::fmt::Display>(out: &mut String, name: &str, value: Option<T>) {
    if let Some(value) = value {
        let _ = write!(out, ",\"{name}\":{value}");
    }
}

fn real(out: &mut String, name: &str, value: Option<f64>) {
    // JSON has no other numbers than finite ones.
    if let Some(value) = value.and_then(serde_json::Number::from_f64) {
        let _ = write!(out, ",\"{name}\":{value}");
    }
}

fn text(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        key(out, name);
        quote(out, value);
    }
}

fn quote(out: &mut String, value: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if value.bytes().all(plain) {
        let _ = write!(out, "\"{value}\"");
    } else {
        let _ = write!(out, "{}", Value::from(value));
    }
}

fn json(out: &mut String, name: &str, value: Option<Json<'_>>) {
    let Some(value) = value else { return };
    key(out, name);
    match value {
        Json::Text(text) => out.push_str(text),
        Json::Object(object) => {
            out.push_str(&serde_json::to_string(object).unwrap_or_else(|_| "{}".to_string()));
        }
        Json::Strings(list) => {
            for (at, item) in list.iter().enumerate() {
                out.push(if at == 0 { '[' } else { ',' });
                quote(out, item);
            }
            out.push_str(if list.is_empty() { "[]" } else { "]" });
        }
    }
}
