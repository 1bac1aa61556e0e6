//! One job and its fields.

use std::borrow::Cow;

use flux_format::{Field, LocalTime, Row, TimeZone, format_fsd, strftime};
use flux_id::{JobId, JobIdForm};
use flux_model::job_event::{JobResult, JobState, StringForm};
use flux_model::{signal, wait_status};
use serde_json::{Map, Value};

use super::instance::Instance;
use crate::{ending, session};

/// A job as `job-list` has it, and what was found out beside.
#[derive(Debug, Clone)]
pub(crate) struct JobRow {
    /// Its attributes (RFC 43).
    pub(crate) job: Value,
    /// When the list was made, in seconds since the epoch.
    pub(crate) now: f64,
    /// Name of its user.
    pub(crate) username: String,
    /// The instance that it is.
    pub(crate) instance: Option<Instance>,
}

impl JobRow {
    /// A row without nested instance.
    pub(crate) fn new(job: Value, now: f64, names: &mut UserNames) -> JobRow {
        let username = job["userid"].as_u64().map(|uid| names.of(uid)).unwrap_or_default();
        JobRow { job, now, username, instance: None }
    }

    /// Its id.
    pub(crate) fn id(&self) -> JobId {
        JobId(self.job["id"].as_u64().unwrap_or(0))
    }

    /// Its state.
    pub(crate) fn state(&self) -> Option<JobState> {
        JobState::from_bit(u32::try_from(self.job["state"].as_u64()?).ok()?)
    }

    /// Its result, once inactive.
    pub(crate) fn result(&self) -> Option<JobResult> {
        JobResult::from_bit(u32::try_from(self.job["result"].as_u64()?).ok()?)
    }

    fn time(&self, key: &str) -> f64 {
        self.job[key].as_f64().unwrap_or(0.0)
    }

    /// Whether it has not begun to run.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(
            self.state(),
            Some(JobState::New | JobState::Depend | JobState::Priority | JobState::Sched)
        )
    }

    /// Seconds it ran, so far.
    pub(crate) fn runtime(&self) -> f64 {
        let (start, end) = (self.time("t_run"), self.time("t_cleanup"));
        match (start > 0.0, end > 0.0) {
            (true, true) => (end - start).max(0.0),
            (true, false) => (self.now - start).max(0.0),
            _ => 0.0,
        }
    }

    fn remaining(&self) -> f64 {
        let expiration = self.time("expiration");
        if self.state() == Some(JobState::Run) && expiration > 0.0 {
            (expiration - self.now).max(0.0)
        } else {
            0.0
        }
    }

    /// State while it is active, then the result.
    pub(crate) fn status(&self, form: StringForm) -> &'static str {
        match (self.state(), self.result()) {
            (Some(JobState::Inactive), Some(result)) => result.name(form),
            (Some(state), _) => state.name(form),
            (None, _) => "",
        }
    }

    fn emoji(&self) -> &'static str {
        match (self.state(), self.result()) {
            (Some(JobState::Inactive), Some(JobResult::Completed)) => "\u{1f60e}",
            (Some(JobState::Inactive), Some(JobResult::Failed)) => "\u{1f62d}",
            (Some(JobState::Inactive), Some(JobResult::Canceled)) => "\u{1f648}",
            (Some(JobState::Inactive), Some(JobResult::Timeout)) => "\u{231b}",
            (Some(JobState::New | JobState::Priority), _) => "\u{1f6a7}",
            (Some(JobState::Depend), _) => "\u{1f517}",
            (Some(JobState::Sched), _) => "\u{1f4c5}",
            (Some(JobState::Run), _) => "\u{1f3c3}",
            (Some(JobState::Cleanup), _) => "\u{1f9f9}",
            _ => "",
        }
    }

    /// The exit code, the negative signal that ended the shell, or -128 when it was canceled before
    /// it ran.
    pub(crate) fn returncode(&self) -> Option<i32> {
        if self.state() != Some(JobState::Inactive) {
            return None;
        }
        match self.job["waitstatus"].as_i64() {
            Some(status) => {
                let status = ending::status_of(status);
                let signum = wait_status::signal(status);
                Some(signum.map_or_else(|| wait_status::code(status), |signum| -signum))
            }
            None if self.result() == Some(JobResult::Canceled) => Some(-128),
            None => None,
        }
    }

    /// The address of the instance that the job is.
    pub(crate) fn uri(&self) -> Option<&str> {
        self.job["annotations"]["user"]["uri"].as_str()
    }

    fn dependencies(&self) -> Vec<&str> {
        let list = self.job["dependencies"].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    }

    /// What matters most about the job in its state.
    pub(crate) fn contextual_info(&self) -> String {
        match self.state() {
            Some(JobState::Priority) => "priority-wait".into(),
            Some(JobState::Depend) => {
                let shown = self.dependencies().into_iter().map(|text| {
                    text.strip_prefix("begin-time=")
                        .and_then(|time| time.parse::<f64>().ok())
                        .map_or_else(|| text.to_owned(), begin_time)
                });
                format!("depends:{}", shown.collect::<Vec<_>>().join(","))
            }
            Some(JobState::Sched) => {
                let estimate = self.job["annotations"]["sched"]["t_estimate"].as_f64();
                if let Some(estimate) = estimate {
                    return match estimate - self.now {
                        left if left > 0.0 => format!("eta:{}", format_fsd(left)),
                        _ => "eta:now".into(),
                    };
                }
                if self.job["urgency"].as_i64() == Some(0) {
                    "held".into()
                } else if self.job["priority"].as_i64() == Some(0) {
                    "priority-hold".into()
                } else {
                    String::new()
                }
            }
            Some(JobState::New) | None => String::new(),
            _ => self.job["nodelist"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn contextual_time(&self) -> f64 {
        if self.is_pending() { self.time("duration") } else { self.runtime() }
    }

    /// Why it ended as it did.
    pub(crate) fn inactive_reason(&self) -> String {
        if self.state() != Some(JobState::Inactive) {
            return String::new();
        }
        let note = self.job["exception_note"].as_str().filter(|note| !note.is_empty());
        let kind = self.job["exception_type"].as_str().unwrap_or_default();
        let fatal = self.job["exception_occurred"].as_bool() == Some(true)
            && self.job["exception_severity"].as_i64() == Some(0);
        match self.result() {
            Some(JobResult::Canceled) => match note {
                Some(note) => format!("Canceled: {note}"),
                None => "Canceled".into(),
            },
            Some(JobResult::Timeout) => "Timeout".into(),
            _ if fatal && kind != "exec" => match note {
                Some(note) => format!("Exception: type={kind} note={note}"),
                None => format!("Exception: type={kind}"),
            },
            _ => match self.returncode() {
                Some(126) => "Command invoked cannot execute".into(),
                Some(127) => "command not found".into(),
                Some(128) => "Invalid argument to exit".into(),
                Some(code) if code > 128 => signal::describe(code - 128),
                Some(code) if code < 0 => signal::describe(-code),
                Some(code) => format!("Exit {code}"),
                None if fatal => format!("Exception: type={kind}"),
                None => String::new(),
            },
        }
    }

    fn number(&self, key: &str) -> Field<'_> {
        match &self.job[key] {
            Value::Number(number) => number
                .as_i64()
                .map(Field::Int)
                .or_else(|| number.as_u64().map(Field::Uint))
                .or_else(|| number.as_f64().map(Field::Float))
                .unwrap_or(Field::Empty),
            _ => Field::Empty,
        }
    }

    fn text(&self, key: &str) -> Field<'_> {
        self.job[key].as_str().map_or(Field::Empty, Field::from)
    }

    /// An annotation by its path.
    fn annotation(&self, path: &str) -> Field<'_> {
        let mut value = &self.job["annotations"];
        for key in path.split('.').filter(|key| !key.is_empty()) {
            value = &value[key];
        }
        match value {
            Value::Null => Field::Empty,
            Value::String(text) => Field::from(text.as_str()),
            Value::Bool(flag) => Field::Bool(*flag),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => Field::Int(int),
                (None, Some(float)) => Field::Float(float),
                _ => Field::Empty,
            },
            other => Field::from(other.to_string()),
        }
    }

    fn exception(&self, key: &str) -> Field<'_> {
        let full = format!("exception_{key}");
        match &self.job[full.as_str()] {
            Value::Bool(flag) => Field::Bool(*flag),
            Value::String(text) => Field::from(text.as_str()),
            Value::Number(number) => number.as_i64().map_or(Field::Empty, Field::Int),
            _ => Field::Empty,
        }
    }

    /// The job as `--json` prints it: names instead of numbers, and what follows from the attributes.
    pub(crate) fn to_json(&self) -> Value {
        let mut job = self.job.as_object().cloned().unwrap_or_default();
        let mut exception = Map::new();
        for key in ["occurred", "severity", "type", "note"] {
            let value = job.remove(&format!("exception_{key}"));
            exception.insert(key.into(), value.unwrap_or_else(|| "".into()));
        }
        let state = self.state().map_or("", |state| state.name(StringForm::LongUpper));
        job.insert("state".into(), state.into());
        if let Some(result) = self.result() {
            job.insert("result".into(), result.name(StringForm::LongUpper).into());
        }
        job.insert("status".into(), self.status(StringForm::LongUpper).into());
        job.insert("username".into(), self.username.as_str().into());
        job.insert("runtime".into(), self.runtime().into());
        job.insert("t_remaining".into(), self.remaining().into());
        job.insert("exception".into(), exception.into());
        if let Some(code) = self.returncode() {
            job.insert("returncode".into(), code.into());
        }
        if self.state() == Some(JobState::Inactive) {
            job.insert("inactive_reason".into(), self.inactive_reason().into());
        }
        if let Some(uri) = self.uri() {
            job.insert("uri".into(), uri.into());
        }
        job.into()
    }
}

/// Looks each user up once.
#[derive(Debug, Default)]
pub(crate) struct UserNames(std::collections::BTreeMap<u64, String>);

impl UserNames {
    fn of(&mut self, uid: u64) -> String {
        let name = || u32::try_from(uid).map_or_else(|_| uid.to_string(), session::user_name);
        self.0.entry(uid).or_insert_with(name).clone()
    }
}

/// `begin@Nov21-00:22:40` in the local time zone.
fn begin_time(time: f64) -> String {
    use crate::commands::LocalZone;
    let local: Option<LocalTime> = LocalZone::system().local(time);
    let text = local.map(|local| strftime("%b%d-%H:%M:%S", &local, time));
    format!("begin@{}", text.unwrap_or_default())
}

/// Text of a guest on the terminal of somebody else: what would move its cursor, or end a line, is
/// replaced.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Cow::Owned(text.chars().map(shown).collect())
    } else {
        Cow::Borrowed(text)
    }
}

impl Row for JobRow {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        Some(match self.value(name)? {
            Field::Str(Cow::Borrowed(text)) => Field::Str(harmless(text)),
            Field::Str(Cow::Owned(text)) => Field::from(harmless(&text).into_owned()),
            field => field,
        })
    }
}

impl JobRow {
    fn value(&self, name: &str) -> Option<Field<'_>> {
        let form = |form: JobIdForm| Field::from(self.id().format(form));
        Some(match name {
            "id" | "id.f58" => Field::from(self.id().to_string()),
            "id.dec" => Field::Uint(self.id().0),
            "id.f58plain" => form(JobIdForm::F58Plain),
            "id.hex" => form(JobIdForm::Hex),
            "id.dothex" => form(JobIdForm::DotHex),
            "id.kvs" => form(JobIdForm::Kvs),
            "id.words" => form(JobIdForm::Words),
            "id.emoji" => form(JobIdForm::Emoji),
            "userid" | "urgency" | "ntasks" | "ncores" | "nnodes" | "waitstatus" | "priority" => {
                self.number(name)
            }
            "username" => Field::from(self.username.as_str()),
            "name" | "cwd" | "queue" | "project" | "bank" | "ranks" | "nodelist" => self.text(name),
            "state" => Field::from(self.state().map_or("", |s| s.name(StringForm::LongUpper))),
            "state_single" => {
                Field::from(self.state().map_or("", |s| s.name(StringForm::ShortUpper)))
            }
            "status" => Field::from(self.status(StringForm::LongUpper)),
            "status_abbrev" => Field::from(self.status(StringForm::ShortUpper)),
            "status_emoji" | "state_emoji" | "result_emoji" => Field::from(self.emoji()),
            "result" => Field::from(self.result().map_or("", |r| r.name(StringForm::LongUpper))),
            "result_abbrev" => {
                Field::from(self.result().map_or("", |r| r.name(StringForm::ShortUpper)))
            }
            "duration" => Field::Duration(self.time(name)),
            "expiration" | "t_submit" | "t_depend" | "t_priority" | "t_sched" | "t_run"
            | "t_cleanup" | "t_inactive" => Field::Time(self.time(name)),
            "t_remaining" => Field::Duration(self.remaining()),
            "runtime" => Field::Duration(self.runtime()),
            "success" => self.job[name].as_bool().map_or(Field::Empty, Field::Bool),
            "returncode" => self.returncode().map_or(Field::Empty, |code| Field::Int(code.into())),
            "dependencies" => Field::from(self.dependencies().join(",")),
            "contextual_info" => Field::from(self.contextual_info()),
            "contextual_time" => Field::Duration(self.contextual_time()),
            "inactive_reason" => Field::from(self.inactive_reason()),
            "uri" => self.uri().map_or(Field::Empty, Field::from),
            "uri.local" => {
                let local = self.uri().and_then(super::instance::local_uri);
                local.map_or(Field::Empty, Field::from)
            }
            "annotations" => match &self.job["annotations"] {
                Value::Null => Field::Empty,
                other => Field::from(other.to_string()),
            },
            "sched" | "user" => self.annotation(name),
            _ => {
                if let Some(key) = name.strip_prefix("exception.") {
                    return Some(self.exception(key));
                }
                if let Some(rest) = name.strip_prefix("instance.") {
                    let instance = self.instance.as_ref();
                    return instance.map_or(Some(Field::Empty), |instance| instance.field(rest));
                }
                if let Some(path) = name.strip_prefix("annotations.") {
                    return Some(self.annotation(path));
                }
                if name.starts_with("sched.") || name.starts_with("user.") {
                    return Some(self.annotation(name));
                }
                return None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use flux_format::{Format, RenderOptions, Utc};
    use serde_json::json;

    use super::*;
    use crate::jobs::headings::{FORMATS, JobHeadings};

    fn row(job: Value) -> JobRow {
        JobRow { job, now: 1000.0, username: "root".into(), instance: None }
    }

    fn show(format: &str, job: Value) -> String {
        let format = Format::parse(format).expect("valid");
        let options = RenderOptions { header: false, ..RenderOptions::default() };
        format.render(&JobHeadings, &[row(job)], &Utc, options).expect("known fields").concat()
    }

    fn default(rows: &[JobRow]) -> Vec<String> {
        let format = Format::parse(FORMATS[0].1).expect("valid");
        format.render(&JobHeadings, rows, &Utc, RenderOptions::default()).expect("known fields")
    }

    #[test]
    fn the_default_table_is_that_of_flux() {
        let waiting = json!({"id": 1_u64 << 24, "userid": 0, "name": "true", "state": 2, "ntasks": 1,
            "duration": 0.0, "dependencies": ["after-start=f1"]});
        let done = json!({"id": 2_u64 << 24, "userid": 0, "name": "true", "state": 64, "result": 1,
            "ntasks": 1, "nnodes": 1, "t_run": 1.0, "t_cleanup": 1.032, "nodelist": "vm"});
        let lines = default(&[row(waiting), row(done)]);
        assert_eq!(lines[0], "       JOBID USER     NAME       ST NTASKS NNODES     TIME INFO");
        assert!(
            lines[1]
                .ends_with(" root     true        D      1      -        - depends:after-start=f1")
        );
        assert!(
            lines[2].ends_with(" root     true       CD      1      1   0.032s vm"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn reasons_and_codes() {
        let ended = |extra: Value| {
            let mut job = json!({"id": 1, "state": 64, "result": 2});
            job.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
            show("{returncode}|{inactive_reason}", job)
        };
        assert_eq!(ended(json!({"waitstatus": 1792})), "7|Exit 7");
        assert_eq!(ended(json!({"waitstatus": 35072})), "137|Killed");
        assert_eq!(ended(json!({"waitstatus": 32512})), "127|command not found");
        let cancel = json!({"result": 4, "exception_occurred": true, "exception_severity": 0,
            "exception_type": "cancel", "exception_note": "bye"});
        assert_eq!(ended(cancel), "-128|Canceled: bye");
        assert_eq!(ended(json!({"result": 8, "waitstatus": 36352})), "142|Timeout");
        let alloc = json!({"exception_occurred": true, "exception_severity": 0,
            "exception_type": "alloc", "exception_note": "too big"});
        assert_eq!(ended(alloc), "|Exception: type=alloc note=too big");
    }

    #[test]
    fn waiting_jobs_say_why() {
        let sched = |extra: Value| {
            let mut job = json!({"id": 1, "state": 8, "urgency": 16, "priority": 16});
            job.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
            show("{contextual_info}", job)
        };
        assert_eq!(sched(json!({})), "");
        assert_eq!(sched(json!({"urgency": 0, "priority": 0})), "held");
        assert_eq!(sched(json!({"priority": 0})), "priority-hold");
        let eta = |time: f64| json!({"annotations": {"sched": {"t_estimate": time}}});
        assert_eq!(sched(eta(1060.0)), "eta:1m");
        assert_eq!(sched(eta(900.0)), "eta:now");
        assert_eq!(show("{contextual_info}", json!({"state": 4})), "priority-wait");
    }

    #[test]
    fn annotations_are_reached_by_path() {
        let job = json!({"annotations": {"user": {"a": {"b": 3}, "uri": "ssh://h/p"}}});
        assert_eq!(show("{annotations.user.a.b} {user.uri} {uri}", job), "3 ssh://h/p ssh://h/p");
    }

    #[test]
    fn json_has_names_for_numbers() {
        let job = row(json!({"id": 5, "state": 64, "result": 1, "waitstatus": 0})).to_json();
        assert_eq!((&job["state"], &job["result"]), (&json!("INACTIVE"), &json!("COMPLETED")));
        assert_eq!((&job["returncode"], &job["exception"]["type"]), (&json!(0), &json!("")));
    }
}
