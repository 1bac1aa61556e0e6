//! What the events of a job make `attach` do. No I/O: events go in, effects come out.

use std::collections::VecDeque;

use flux_id::JobId;
use flux_model::{
    eventlog::Event,
    job_event::JobStatus,
    stdio::{Header, IoData, Log, StdioEvent},
    wait_status,
};
use serde_json::Value;

use crate::ending;

/// What to show, and when to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Show the events of the job.
    pub(crate) events: bool,
    /// Show the events of its execution.
    pub(crate) exec: bool,
    /// Put the task rank before each line.
    pub(crate) label: bool,
    /// Say nothing about how the job ended.
    pub(crate) quiet: bool,
    /// The event after which the job's own log is of no more interest.
    pub(crate) until: String,
    /// Of the output so far, show only so many lines.
    pub(crate) tail: Option<usize>,
}

impl Default for View {
    fn default() -> Self {
        View {
            events: false,
            exec: false,
            label: false,
            quiet: false,
            until: "finish".into(),
            tail: None,
        }
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Write to standard output.
    Out(Vec<u8>),
    /// Write to standard error.
    Error(Vec<u8>),
    /// A line about the job on standard error.
    Say(String),
    /// The shell takes standard input now.
    Shell {
        /// Service of the leader shell.
        service: String,
        /// Rank of the broker it runs under.
        rank: u32,
        /// Name of the interactive terminal below the service, if the job has one.
        pty: Option<String>,
    },
}

/// The job as far as its logs were read.
#[derive(Debug)]
pub(crate) struct Machine {
    id: JobId,
    view: View,
    /// What the job's own log says.
    pub(crate) status: Option<JobStatus>,
    submitted: f64,
    finish: Option<i32>,
    seen_until: bool,
    job_ended: bool,
    /// The last event of the job's own log was there.
    cleaned: bool,
    output_ended: bool,
    header: Option<Header>,
    /// Ends of task streams that are to come, once the header told how many there are.
    open_streams: Option<u64>,
    /// Output that may yet be cut to the last lines.
    held: Option<VecDeque<Effect>>,
    /// An interactive terminal shows what the captured output repeats.
    pub(crate) on_terminal: bool,
    shell: Option<String>,
}

impl Machine {
    /// Nothing is known yet.
    pub(crate) fn new(id: JobId, view: View) -> Self {
        let held = view.tail.map(|_| VecDeque::new());
        Self {
            id,
            view,
            status: None,
            submitted: 0.0,
            finish: None,
            seen_until: false,
            job_ended: false,
            cleaned: false,
            output_ended: false,
            header: None,
            open_streams: None,
            held,
            on_terminal: false,
            shell: None,
        }
    }

    /// An event of the job's own log.
    pub(crate) fn job_event(&mut self, event: &Event) -> Vec<Effect> {
        match &mut self.status {
            None => {
                self.status = JobStatus::new(event).ok();
                self.submitted = event.timestamp;
            }
            // A log written by another version is shown as far as it can be understood.
            Some(status) => drop(status.apply(event)),
        }
        self.cleaned |= event.name == "clean";
        if self.has_left() {
            // That the log goes on makes no difference.
            return Vec::new();
        }
        if event.name == "finish" {
            self.finish = event.get_i64("status").map(ending::status_of);
        }
        let past = self.seen_until;
        self.seen_until |= event.name == self.view.until;
        if event.name == "exception" {
            return vec![self.exception(event)];
        }
        if self.view.events && !past { vec![self.shown("job", event)] } else { Vec::new() }
    }

    /// Whether the job's own log is complete.
    pub(crate) fn is_clean(&self) -> bool {
        self.cleaned
    }

    /// Whether every stream of the tasks is at its end.
    pub(crate) fn is_all_read(&self) -> bool {
        self.open_streams == Some(0)
    }

    /// The job's own log is at its end.
    pub(crate) fn job_end(&mut self) {
        self.job_ended = true;
    }

    /// An event of the execution log.
    pub(crate) fn exec_event(&mut self, event: &Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.view.exec && event.name != "log" {
            effects.push(self.shown("exec", event));
        }
        match event.name.as_str() {
            "log" => effects.extend(self.exec_log(event)),
            "shell.init" => {
                let service = event.get_str("service").unwrap_or_default().to_owned();
                let rank = event.get_i64("leader-rank").and_then(|rank| u32::try_from(rank).ok());
                if let (false, Some(rank)) = (service.is_empty(), rank) {
                    self.shell = Some(service.clone());
                    let pty = event.get_str("pty").map(str::to_owned);
                    effects.push(Effect::Shell { service, rank, pty });
                }
            }
            _ => {}
        }
        effects
    }

    /// An event of the output log; one that is not understood is told and left.
    pub(crate) fn output_event(&mut self, event: &Event) -> Vec<Effect> {
        let time = self.since(event.timestamp);
        let event = match StdioEvent::decode(event, self.header.as_ref()) {
            Ok(event) => event,
            Err(error) => return vec![Effect::Say(error.to_string())],
        };
        match event {
            StdioEvent::Header(header) => {
                let counts = header.count.iter().filter(|(name, _)| name.starts_with("std"));
                self.open_streams = Some(counts.map(|(_, count)| u64::from(*count)).sum());
                self.header = Some(header);
                Vec::new()
            }
            StdioEvent::Data(data) => self.data(&data),
            StdioEvent::Redirect(redirect) => {
                self.close(redirect.rank.as_deref().unwrap_or("all"));
                let Some(path) = redirect.path else { return Vec::new() };
                if self.view.quiet {
                    return Vec::new();
                }
                let ranks = redirect.rank.unwrap_or_else(|| "all".into());
                vec![Effect::Error(
                    format!("{ranks}: {} redirected to {path}\n", redirect.stream).into_bytes(),
                )]
            }
            StdioEvent::Log(log) => vec![log_line(&log, time)],
            _ => Vec::new(),
        }
    }

    /// What was written before is read; from here on it is live.
    pub(crate) fn output_live(&mut self) -> Vec<Effect> {
        self.held.take().map(Vec::from).unwrap_or_default()
    }

    /// The output log is at its end.
    pub(crate) fn output_end(&mut self) -> Vec<Effect> {
        self.output_ended = true;
        self.output_live()
    }

    /// Whether an event was waited for that came before the end of the job.
    fn has_left(&self) -> bool {
        self.seen_until && self.finish.is_none()
    }

    /// Whether nothing more is to be expected. The end of every task's streams is enough for a job
    /// that succeeded; of one that failed the shell may have more to say, so its log is read to
    /// the end.
    pub(crate) fn is_done(&self) -> bool {
        let started = self.is_started();
        if self.has_left() {
            return true;
        }
        let complete = self.open_streams == Some(0) && self.finish == Some(0);
        let output_done = self.output_ended || complete;
        (self.job_ended && !started) || ((self.job_ended || self.seen_until) && output_done)
    }

    /// Whether the job's shells were started.
    pub(crate) fn is_started(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.started) || self.shell.is_some()
    }

    /// What to say at the end.
    pub(crate) fn last_words(&self) -> Option<String> {
        if self.view.quiet {
            return None;
        }
        ending::describe(self.finish?)
    }

    /// The event that was to be waited for, when the job has ended without it. That it has no end
    /// of its own is told by the exception.
    pub(crate) fn missed(&self) -> Option<&str> {
        let asked = self.view.until != "finish" && !self.seen_until;
        asked.then_some(self.view.until.as_str())
    }

    /// The exit status of the job; 1 when it never ran, or when the event that was asked for never
    /// came.
    pub(crate) fn exit_code(&self) -> i32 {
        match self.finish {
            Some(status) if self.missed().is_some() => wait_status::exit_code(status).max(1),
            Some(status) => wait_status::exit_code(status),
            // Left at an earlier event, as asked.
            None if self.seen_until => 0,
            None => 1,
        }
    }

    fn since(&self, time: f64) -> f64 {
        (time - self.submitted).max(0.0)
    }

    fn shown(&self, log: &str, event: &Event) -> Effect {
        let mut text = format!("{:.3}s: {log}.{}", self.since(event.timestamp), event.name);
        if let Some(context) = &event.context {
            text.push(' ');
            text.push_str(&Value::Object(context.clone()).to_string());
        }
        Effect::Error((text + "\n").into_bytes())
    }

    fn exception(&self, event: &Event) -> Effect {
        let mut text = format!(
            "{:.3}s: job.exception {} type={} severity={}",
            self.since(event.timestamp),
            self.id,
            event.get_str("type").unwrap_or_default(),
            event.get_i64("severity").unwrap_or_default(),
        );
        if let Some(note) = event.get_str("note").filter(|note| !note.is_empty()) {
            text.push(' ');
            text.push_str(note);
        }
        Effect::Error((text + "\n").into_bytes())
    }

    /// A line that reached the log of the execution before there was an output log.
    fn exec_log(&self, event: &Event) -> Option<Effect> {
        let data = event.get_str("data")?.trim_end_matches('\n');
        let component = event.get_str("component").unwrap_or("flux-shell");
        let rank = event.get("rank").map(|rank| rank.to_string().replace('"', ""));
        let time = self.since(event.timestamp);
        let rank = rank.map(|rank| format!("[{rank}]")).unwrap_or_default();
        Some(Effect::Error(format!("{time:.3}s: {component}{rank}: {data}\n").into_bytes()))
    }

    /// One stream of the tasks of these ranks is at its end.
    fn close(&mut self, ranks: &str) {
        if let Some(open) = &mut self.open_streams {
            let count = match ranks {
                "all" => *open / 2,
                ranks => ranks.parse::<flux_id::Idset>().map_or(1, |ranks| ranks.len()),
            };
            *open = open.saturating_sub(count);
        }
    }

    fn data(&mut self, data: &IoData) -> Vec<Effect> {
        if data.eof {
            self.close(&data.rank);
        }
        let Some(bytes) = data.data.as_deref().filter(|bytes| !bytes.is_empty()) else {
            return Vec::new();
        };
        if self.on_terminal && data.stream == "stdout" && data.rank == "0" {
            return Vec::new();
        }
        let label = self.view.label.then(|| format!("{}: ", data.rank));
        let mut text = labelled(bytes, label.as_deref());
        if data.repeat > 1 {
            text = text.repeat(usize::try_from(data.repeat).unwrap_or(1));
        }
        let effect = |text: Vec<u8>| {
            if data.stream == "stderr" { Effect::Error(text) } else { Effect::Out(text) }
        };
        let (Some(held), Some(limit)) = (&mut self.held, self.view.tail) else {
            return vec![effect(text)];
        };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            held.push_back(effect(line.to_vec()));
            if held.len() > limit {
                held.pop_front();
            }
        }
        Vec::new()
    }
}

/// A line that the job shell logged.
fn log_line(log: &Log, time: f64) -> Effect {
    let level = match log.level {
        0..=2 => "FATAL: ",
        3 => "ERROR: ",
        4 => " WARN: ",
        5 => "",
        6 => "DEBUG: ",
        _ => "TRACE: ",
    };
    let program = log.program.as_deref().unwrap_or("flux-shell");
    let rank = log.rank.map(|rank| format!("[{rank}]")).unwrap_or_default();
    let component = log.component.as_deref().map(|c| format!("{c}: ")).unwrap_or_default();
    let text = format!("{time:.3}s: {program}{rank}: {level}{component}{}\n", log.message);
    Effect::Error(text.into_bytes())
}

/// The text with a label before each line; a line that was begun elsewhere gets one too, since
/// pieces of different tasks mix.
fn labelled(bytes: &[u8], label: Option<&str>) -> Vec<u8> {
    let Some(label) = label else { return bytes.to_vec() };
    let mut text = Vec::with_capacity(bytes.len() + 16);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(label.as_bytes());
        text.extend_from_slice(line);
    }
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests;
