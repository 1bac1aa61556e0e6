//! Follows one job: its events, its output, its standard input and its terminal.
//!
//! [`attach`] asks for the three logs of the job in one write and then only waits; what the events
//! mean is decided by [`machine::Machine`], which does no I/O.

mod input;
mod interrupt;
pub(crate) mod machine;
mod terminal;
mod why;

use std::{
    io::IsTerminal,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use flux_api::job::{
    info::{EventlogWatch, WATCH_INITIAL_SENTINEL, WATCH_WAITCREATE},
    list::{ListId, ListId_},
    manager::{QueueName, QueueStatus_, Raise, RaiseRequest},
};
use flux_client::{Client, Pending, To};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_proto::Errno;
use serde_json::Value;

use crate::{
    failure::Failure,
    output,
    resume::{self, Log, Next, Outage},
    session,
};
use input::{Input, Source};
use interrupt::{Interrupts, Signals, WINDOW, Wish};
use machine::{Effect, Machine, View};
pub(crate) use terminal::{Raw, size};

/// A job that waits longer than this is worth a line about why.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often that line is brought up to date.
const REFRESH: Duration = Duration::from_secs(2);
/// Until a log that ended too early is followed again.
const DOUBT: Duration = Duration::from_millis(500);

/// How to attach.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Name in messages.
    pub(crate) program: &'static str,
    /// The job as the user named it.
    pub(crate) name: Option<String>,
    /// What to show.
    pub(crate) view: View,
    /// Do not forward standard input.
    pub(crate) read_only: bool,
    /// Which tasks get standard input.
    pub(crate) stdin_ranks: String,
    /// Nobody else gives input to the job: its end is the end for every task.
    pub(crate) only_input: bool,
    /// Say why the job waits even when standard error is no terminal, a line for each reason.
    pub(crate) status: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: "flux-job",
            name: None,
            view: View::default(),
            read_only: false,
            stdin_ranks: "all".into(),
            only_input: false,
            status: false,
        }
    }
}

/// Follows a job to its end; returns the exit status of the job. An instance that goes away is
/// waited for, see [`resume`].
///
/// # Errors
/// There is no such job, it belongs to somebody else, or the instance does not come back.
pub(crate) fn attach(client: &Client, id: JobId, options: &Options) -> Result<i32, Failure> {
    Session::start(client, id, options)?.run()
}

struct Session<'a> {
    client: Client,
    id: JobId,
    options: &'a Options,
    machine: Machine,
    job: Log,
    exec: Log,
    output: Log,
    output_over: bool,
    /// The output is followed since the job was at its end.
    output_last: bool,
    outage: Outage,
    input: Input,
    signals: Signals,
    interrupts: Interrupts,
    line: StatusLine,
}

fn watch(client: &Client, id: JobId, path: &str, flags: u32) -> Log {
    Log::new(client, EventlogWatch { id: id.0, path: path.into(), flags })
}

impl<'a> Session<'a> {
    fn start(client: &Client, id: JobId, options: &'a Options) -> Result<Self, Failure> {
        let sentinel = if options.view.tail.is_some() { WATCH_INITIAL_SENTINEL } else { 0 };
        let job = watch(client, id, "eventlog", 0);
        let exec = watch(client, id, "guest.exec.eventlog", WATCH_WAITCREATE);
        let output = watch(client, id, "guest.output", WATCH_WAITCREATE | sentinel);
        let signals = Signals::catch().map_err(|errno| {
            Failure::binary(options.program, format!("signalfd: {}", errno.desc()))
        })?;
        let drawn = match (std::io::stderr().is_terminal(), options.status) {
            _ if options.view.quiet => None,
            (true, _) => Some(Drawn::InPlace),
            (false, true) => Some(Drawn::InLines),
            (false, false) => None,
        };
        Ok(Self {
            client: client.clone(),
            id,
            options,
            machine: Machine::new(id, options.view.clone()),
            job,
            exec,
            output,
            output_over: false,
            output_last: false,
            outage: Outage::new(),
            input: Input::new(options.read_only, options.stdin_ranks.clone(), options.only_input),
            signals,
            interrupts: Interrupts::default(),
            line: StatusLine::new(drawn),
        })
    }

    fn run(mut self) -> Result<i32, Failure> {
        loop {
            self.take_job()?;
            self.take_exec()?;
            self.take_output()?;
            self.input.settle(&self.client, Instant::now());
            for text in self.input.take_terminal_output() {
                self.line.clear();
                output::bytes(&text);
            }
            if self.machine.is_done() {
                break;
            }
            if let Some(wish) = self.wait()?
                && self.grant(wish)
            {
                return Ok(0);
            }
        }
        self.input.close();
        self.line.clear();
        if let Some(text) = self.machine.last_words() {
            self.say(&text);
        }
        if let Some(name) = self.machine.missed() {
            let text = format!("event '{name}' never received");
            self.say(&text);
        }
        Ok(self.machine.exit_code())
    }

    fn say(&mut self, text: &str) {
        self.line.clear();
        output::error_line(&format!("{}: {text}{}", self.options.program, self.input.newline()));
    }

    fn failure(&mut self, text: String) -> Failure {
        self.input.close();
        self.line.clear();
        Failure::binary(self.options.program, text)
    }

    /// The instance is away: all logs that broke off are followed again a little later.
    fn away(
        &mut self,
        error: &flux_api::RpcError,
        which: fn(&mut Self) -> &mut Log,
    ) -> Result<(), Failure> {
        if error.errno == Errno::ECONNRESET {
            // The connection is lost, as the next wait will say.
            return Ok(());
        }
        let now = Instant::now();
        match self.outage.begin(&error.message(), now) {
            Ok(pause) => which(self).follow_at(now + pause),
            Err(reason) => return Err(self.failure(reason)),
        }
        Ok(())
    }

    fn take_job(&mut self) -> Result<(), Failure> {
        while let Some(next) = self.job.next() {
            match next {
                Next::Entry(entry) => {
                    let effects = entry
                        .event
                        .and_then(|line| Event::decode(&line).ok())
                        .map(|event| self.machine.job_event(&event));
                    self.act(effects.unwrap_or_default());
                }
                Next::Away(error) => self.away(&error, |session| &mut session.job)?,
                Next::Failed(error) => {
                    let text = match error.errno {
                        Errno::ENOENT => "No such job".to_owned(),
                        _ => error.message(),
                    };
                    let text = if self.machine.status.is_none() {
                        let name = self.options.name.clone();
                        let name = name.unwrap_or_else(|| self.id.to_string());
                        format!("Failed to attach to {name}: {text}")
                    } else {
                        format!("job eventlog: {text}")
                    };
                    return Err(self.failure(text));
                }
            }
        }
        if self.job.was_alive()
            && let Some(text) = self.outage.end()
        {
            self.say(text);
        }
        if self.job.is_ended() {
            if self.machine.is_clean() {
                self.machine.job_end();
            } else {
                // A broker that went away has cut it short.
                self.job.doubt(Instant::now() + DOUBT);
            }
        }
        Ok(())
    }

    fn take_exec(&mut self) -> Result<(), Failure> {
        while let Some(next) = self.exec.next() {
            match next {
                Next::Entry(entry) => {
                    let event = entry.event.and_then(|line| Event::decode(&line).ok());
                    let effects = event.map(|event| self.machine.exec_event(&event));
                    self.act(effects.unwrap_or_default());
                }
                Next::Away(error) => self.away(&error, |session| &mut session.exec)?,
                // A job without execution log (never started, or purged) has nothing to tell.
                Next::Failed(_) => {}
            }
        }
        Ok(())
    }

    fn take_output(&mut self) -> Result<(), Failure> {
        while let Some(next) = self.output.next() {
            let effects = match next {
                Next::Entry(entry) => match entry.event.map(|line| Event::decode(&line)) {
                    None => self.machine.output_live(),
                    Some(Ok(event)) => self.machine.output_event(&event),
                    Some(Err(_)) => Vec::new(),
                },
                Next::Away(error) => {
                    self.away(&error, |session| &mut session.output)?;
                    Vec::new()
                }
                Next::Failed(_) => Vec::new(),
            };
            self.act(effects);
        }
        if !self.output.is_ended() || self.output_over {
            return Ok(());
        }
        if self.output_last || self.machine.is_all_read() {
            self.output_over = true;
            let effects = self.machine.output_end();
            self.act(effects);
        } else if self.job.is_ended() {
            // Only what is read after the end of the job is sure to be all.
            self.output_last = true;
            self.output.doubt(Instant::now());
            self.output.follow(&self.client);
        } else {
            self.output.doubt(Instant::now() + DOUBT);
        }
        Ok(())
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Out(text) => {
                    self.line.clear();
                    output::bytes(&text);
                }
                Effect::Error(text) => {
                    self.line.clear();
                    output::error_bytes(&text);
                }
                Effect::Say(text) => self.say(&text),
                Effect::Shell { service, rank, pty } => {
                    self.line.clear();
                    self.machine.on_terminal = pty.is_some() && !self.options.read_only;
                    self.input.open(&self.client, &service, rank, pty.as_deref());
                }
            }
        }
    }

    /// Waits for something to happen. Returns what the user wants, if that is it.
    fn wait(&mut self) -> Result<Option<Wish>, Failure> {
        let now = Instant::now();
        for log in [&mut self.job, &mut self.exec, &mut self.output] {
            log.retry(&self.client, now);
        }
        if let Some(text) = self.outage.news(now) {
            self.say(&text);
        }
        let time = self.line.timeout(&self.client, self.id, &self.machine);
        let again = [
            self.job.due(),
            self.exec.due(),
            self.output.due(),
            self.input.due(),
            self.outage.news_at(),
        ];
        let again = again.into_iter().flatten().min();
        let again = again.map(|at| at.saturating_duration_since(now));
        let time = match (time, again) {
            (Some(time), Some(again)) => Some(time.min(again)),
            (time, again) => time.or(again),
        };
        let stdin = std::io::stdin();
        let source = self.input.source();
        let mut extra = vec![self.signals.as_fd()];
        if source == Source::Ready {
            extra.push(stdin.as_fd());
        }
        // In the background the terminal cannot be read; coming back is not announced.
        let time = match source {
            Source::Background => Some(time.unwrap_or(REFRESH).min(Duration::from_millis(500))),
            _ => time,
        };
        let ready = self.client.wait(&extra, time);
        drop(extra);
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => return self.reconnect(&error.message()),
        };
        if ready.extra.get(1) == Some(&true) && self.input.read(&self.client) {
            return Ok(Some(Wish::Detach));
        }
        let signal = self.signals.next();
        Ok(signal.and_then(|signal| self.interrupts.judge(signal, Instant::now())))
    }

    /// Connects again when the broker is back, and follows everything from where it was. Returns
    /// what the user wants, if that comes first.
    fn reconnect(&mut self, lost: &str) -> Result<Option<Wish>, Failure> {
        let mut reason = lost.to_owned();
        loop {
            let Ok(pause) = self.outage.begin(&reason, Instant::now()) else {
                return Err(self.failure(reason));
            };
            match resume::connect() {
                Ok(client) => {
                    self.client = client;
                    self.line.forget();
                    for log in [&mut self.job, &mut self.exec, &mut self.output] {
                        log.follow(&self.client);
                    }
                    self.output_last = self.job.is_ended();
                    self.input.reconnected(&self.client);
                    return Ok(None);
                }
                Err((why, true)) => return Err(self.failure(format!("{lost}: {why}"))),
                Err((why, false)) => reason = format!("{lost}: {why}"),
            }
            if let Some(text) = self.outage.news(Instant::now()) {
                self.say(&text);
            }
            if let Some(signal) = self.signals.next_within(pause) {
                match self.interrupts.judge(signal, Instant::now()) {
                    Some(Wish::Warn) => {
                        let seconds = WINDOW.as_secs();
                        self.say(&format!("one more ctrl-C within {seconds}s to detach"));
                    }
                    // Nobody is there who could cancel the job.
                    Some(Wish::Cancel | Wish::Detach) => return Ok(Some(Wish::Detach)),
                    Some(Wish::Suspend) => return Ok(Some(Wish::Suspend)),
                    Some(Wish::Resize) | None => {}
                }
            }
        }
    }

    /// Does what the user wants; true to leave.
    fn grant(&mut self, wish: Wish) -> bool {
        match wish {
            Wish::Warn => {
                let seconds = WINDOW.as_secs();
                self.say(&format!(
                    "one more ctrl-C within {seconds}s to cancel or ctrl-Z to detach"
                ));
            }
            Wish::Cancel => {
                let request = RaiseRequest {
                    id: self.id.0,
                    severity: 0,
                    kind: "cancel".into(),
                    note: Some("interrupted by ctrl-C".into()),
                    wait_status: None,
                };
                if let Err(error) = self.client.call::<Raise>(To::Any, &request) {
                    self.say(&format!("cancel {}: {error}", self.id));
                }
            }
            Wish::Detach => {
                self.input.close();
                self.say(&format!("detached from {}", self.id));
                return true;
            }
            Wish::Suspend => {
                self.line.clear();
                interrupt::suspend();
            }
            Wish::Resize => self.input.resize(&self.client),
        }
        false
    }
}

/// How the status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drawn {
    /// On a terminal: over and over at the same place.
    InPlace,
    /// Elsewhere: a line for each reason.
    InLines,
}

/// The line that says why the job does not run yet.
struct StatusLine {
    drawn: Option<Drawn>,
    shown: bool,
    text: String,
    since: Instant,
    asked: Option<Instant>,
    around: why::Surroundings,
    job: Option<Pending<ListId_>>,
    queue: Option<Pending<QueueStatus_>>,
}

impl StatusLine {
    fn new(drawn: Option<Drawn>) -> Self {
        Self {
            drawn,
            shown: false,
            text: String::new(),
            since: Instant::now(),
            asked: None,
            around: why::Surroundings::default(),
            job: None,
            queue: None,
        }
    }

    /// The answers that were on their way will not come.
    fn forget(&mut self) {
        (self.job, self.queue, self.asked) = (None, None, None);
    }

    /// Removes the line, so that something else can be written there.
    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            output::error_bytes(b"\r\x1b[K");
        }
    }

    /// Brings the line up to date; says when to do so again.
    fn timeout(&mut self, client: &Client, id: JobId, machine: &Machine) -> Option<Duration> {
        let drawn = self.drawn.filter(|_| !machine.is_started());
        let Some(drawn) = drawn else {
            self.clear();
            // An answer that nobody takes would end every wait at once.
            (self.job, self.queue) = (None, None);
            return None;
        };
        let waited = self.since.elapsed();
        if waited < PATIENCE {
            return Some(PATIENCE.saturating_sub(waited));
        }
        self.take();
        if self.asked.is_none_or(|asked| asked.elapsed() >= REFRESH) {
            self.asked = Some(Instant::now());
            self.ask(client, id);
        }
        if self.job.is_some() && !self.around.job.is_object() {
            // The answer ends the wait; before it there is only half of the truth to tell.
            return Some(REFRESH);
        }
        self.around.now = session::now();
        let text =
            machine.status.as_ref().and_then(|status| why::explain(id, status, &self.around));
        let text = text.unwrap_or_default();
        if drawn == Drawn::InLines {
            // A countdown is no other reason.
            let reason = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
            if !text.is_empty() && reason(&text) != reason(&self.text) {
                output::error_line(&text);
                self.text = text;
            }
            return Some(Duration::from_secs(1));
        }
        // Drawn again only when it says something else, or something else was written.
        if !self.shown || text != self.text {
            self.clear();
            let width = terminal_width().saturating_sub(1);
            let fits: String = text.chars().take(width).collect();
            output::error_bytes(fits.as_bytes());
            self.shown = !fits.is_empty();
            self.text = text;
        }
        Some(Duration::from_secs(1))
    }

    fn ask(&mut self, client: &Client, id: JobId) {
        let attrs = ["annotations", "queue", "nnodes", "ncores"].map(str::to_owned).to_vec();
        self.job = Some(client.send::<ListId_>(To::Any, &ListId { id: id.0, attrs, state: None }));
        let name = self.around.job["queue"].as_str().map(str::to_owned);
        self.queue = Some(client.send::<QueueStatus_>(To::Any, &QueueName { name }));
    }

    fn take(&mut self) {
        if let Some(answer) = self.job.as_mut().and_then(Pending::try_take) {
            self.job = None;
            let known = self.around.job.is_object();
            self.around.job = answer.map_or(Value::Null, |answer| answer.job);
            if !known && self.around.job["queue"].is_string() {
                // Now the queue can be asked for by name.
                self.asked = None;
            }
        }
        if let Some(answer) = self.queue.as_mut().and_then(Pending::try_take) {
            self.queue = None;
            self.around.queue = answer.ok();
        }
    }
}

/// Columns of the terminal on standard error.
pub(crate) fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}
