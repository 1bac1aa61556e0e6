//! What the shell tells: events, output, messages, exceptions.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flux_api::job::manager::{Raise, RaiseRequest};
use flux_api::kvs::{Commit, CommitRequest};
use flux_api::rpc;
use flux_client::To;
use flux_model::eventlog::{Context, Event};
use flux_model::stdio::{Encoding, IoData, Log as LogContext, StdioEvent};
use flux_proto::Message;
use serde_json::{Map, Value, json};

use super::{HOLD, Shell, Waiting};
use crate::log::{self, Level};
use crate::outbox::{Letter, Mail, Outbox};
use crate::output::{self, Stream};
use crate::recorder::Log;

/// Seconds since 1970.
fn timestamp() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1.0, |time| time.as_secs_f64())
}

impl Shell {
    /// How long an event may wait for others: nearly not at all when the last commit is long ago.
    fn delay(&self, now: Instant) -> Duration {
        let interval = Duration::try_from_secs_f64(self.options.output.batch_timeout)
            .unwrap_or(Duration::from_millis(500));
        match self.last_commit {
            None => HOLD,
            Some(last) => interval.saturating_sub(now.saturating_duration_since(last)).max(HOLD),
        }
    }

    pub(super) fn append(&mut self, log: Log, event: &Event) {
        let now = Instant::now();
        let delay = if log == Log::Output { self.delay(now) } else { HOLD };
        self.recorder.append(log, event.encode(), now, delay);
    }

    /// An event of the job's `exec.eventlog`.
    pub(super) fn event(&mut self, name: &str, context: Value) {
        let event = Event::new(timestamp(), name);
        let event = match context {
            Value::Object(context) => event.with_context(context),
            _ => event,
        };
        self.append(Log::Exec, &event);
    }

    pub(super) fn stdio(&mut self, log: Log, event: &StdioEvent) {
        self.append(log, &event.encode(timestamp(), None));
    }

    pub(super) fn send_commit(&mut self, request: &CommitRequest) {
        let message = rpc::request::<Commit>(request);
        // Without a connection the recorder keeps it for later.
        drop(self.link.ask(Waiting::Commit, To::Any, message));
    }

    /// A message of the shell.
    pub(super) fn log(&mut self, level: Level, component: &str, text: &str) {
        if !level.is_shown(self.options.verbose) {
            return;
        }
        if self.files.log(&log::line(Some(self.rank), level, component, text)) {
            return;
        }
        let context = LogContext {
            rank: Some(i64::from(self.rank)),
            level: level as u8,
            message: text.to_string(),
            component: (!component.is_empty()).then(|| component.to_string()),
            ..LogContext::default()
        };
        if self.is_leader() {
            self.stdio(Log::Output, &StdioEvent::Log(context));
        } else if let Ok(context) = serde_json::to_value(&context) {
            self.write_to_leader("log", context);
        }
    }

    fn write_to_leader(&mut self, name: &str, context: Value) {
        let body = json!({"name": name, "shell_rank": self.rank, "context": context});
        if let Value::Object(body) = body {
            self.report(Letter::Write, body);
        }
    }

    /// Output of a task of this shell, or on the leader of any.
    pub(super) fn output(&mut self, stream: Stream, rank: u32, data: Vec<u8>, eof: bool) {
        if !data.is_empty() {
            match self.files.write(&self.options.output, stream, rank, &data) {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    let text = format!("{}: {}", stream.name(), output::reason(&error));
                    self.log(Level::Error, "output", &text);
                    return;
                }
            }
        }
        if eof && data.is_empty() && self.goes_to_file(stream) {
            return;
        }
        let rank = rank.to_string();
        let mut piece = IoData::end(stream.name(), &rank);
        piece.eof = eof;
        piece.data = (!data.is_empty()).then_some(data);
        if !self.is_leader() {
            self.write_to_leader("data", Value::Object(piece.encode(Encoding::Utf8)));
            return;
        }
        if let Some(data) = &mut piece.data {
            let limit = self.options.output.limit;
            let allowed = self.meters[stream as usize].count(data.len(), limit);
            data.truncate(allowed.bytes);
            if allowed.warn {
                let text = format!(
                    "{} will be truncated, {} limit exceeded",
                    stream.name(),
                    output::size(limit)
                );
                self.log(Level::Warn, "output", &text);
            }
            if data.is_empty() {
                piece.data = None;
            }
        }
        if piece.data.is_some() || piece.eof {
            self.stdio(Log::Output, &StdioEvent::Data(piece));
        }
    }

    fn goes_to_file(&self, stream: Stream) -> bool {
        let output = &self.options.output;
        match stream {
            Stream::Out => output.stdout.path.is_some(),
            Stream::Err => output.stderr.path.is_some(),
        }
    }

    /// A piece of output or a message that another shell wrote.
    pub(super) fn written(&mut self, name: &str, context: &Context) {
        match name {
            "data" => {
                let Ok(piece) = IoData::decode(context, Encoding::Utf8) else { return };
                let (Some(stream), Ok(rank)) = (Stream::of(&piece.stream), piece.rank.parse())
                else {
                    return;
                };
                self.output(stream, rank, piece.data.unwrap_or_default(), piece.eof);
            }
            "log" => {
                let event = Event::new(timestamp(), "log").with_context(context.clone());
                if let Ok(event @ StdioEvent::Log(_)) = StdioEvent::decode(&event, None) {
                    self.stdio(Log::Output, &event);
                }
            }
            _ => {}
        }
    }

    /// A letter to the leader.
    pub(super) fn report(&mut self, letter: Letter, body: Map<String, Value>) {
        self.write_letter(0, letter, body);
    }

    /// A letter to another shell.
    pub(super) fn write_letter(&mut self, to: u32, letter: Letter, body: Map<String, Value>) {
        if to == 0 && self.orphaned {
            return;
        }
        let (rank, up) = (self.rank, self.link.is_up());
        let dir = || match &self.dir {
            Some(dir) => dir.path().to_path_buf(),
            None => std::env::temp_dir(),
        };
        let outbox = self.outboxes.entry(to).or_insert_with(|| Outbox::new(rank, dir()));
        outbox.set_stalled(!up);
        outbox.push(letter, body);
        self.send_letters(Instant::now());
    }

    /// Sends the letters whose turn it is.
    pub(super) fn send_letters(&mut self, now: Instant) {
        if !self.link.is_up() {
            return;
        }
        let mut losses = Vec::new();
        for (to, outbox) in &mut self.outboxes {
            let Some(node) = self.layout.nodes.get(*to as usize) else { continue };
            let mut mails = outbox.again(now);
            outbox.set_stalled(!mails.is_empty());
            mails.extend(std::iter::from_fn(|| outbox.next(now)));
            losses.extend(outbox.take_loss());
            for Mail { number, letter, body } in mails {
                let topic = format!("{}.{}", self.job.service, letter.method());
                let mut message = Message::request(topic);
                message.set_payload(Some(json_payload(body)));
                // A connection that is lost meanwhile makes all of them go again.
                drop(self.link.ask(
                    Waiting::Letter(*to, number),
                    To::Rank(node.broker_rank),
                    message,
                ));
            }
        }
        for text in losses {
            self.log(Level::Error, "output", &text);
        }
    }

    /// Ends the job with an exception.
    pub(super) fn raise(&mut self, note: &str, wait_status: Option<i32>) {
        let request = RaiseRequest {
            id: self.job.id.0,
            severity: 0,
            kind: "exec".to_string(),
            note: Some(note.to_string()),
            wait_status,
        };
        if let Ok(body) = serde_json::to_value(&request) {
            self.send_raise(body);
        }
    }

    pub(super) fn send_raise(&mut self, body: Value) {
        let message = Message::request(<Raise as flux_api::Rpc>::TOPIC).with_json(&body);
        if let Err(Waiting::Raise(body)) = self.link.ask(Waiting::Raise(body), To::Any, message) {
            self.unraised.push(body);
        }
    }

    /// Ends everything: says why, kills the tasks and raises an exception.
    pub(super) fn fatal(&mut self, code: i32, component: &str, text: &str) {
        self.log(Level::Fatal, component, text);
        self.raise(text, None);
        self.kill_tasks(9);
        self.code = self.code.max(code);
    }
}

/// A payload of JSON text as messages carry it.
fn json_payload(text: String) -> Bytes {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes.into()
}
