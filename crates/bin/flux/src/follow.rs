//! Follows many jobs at once: until an event or their end, with or without their output.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Write,
    rc::Rc,
    time::{Duration, Instant},
};

use flux_api::{
    RpcError,
    job::info::{EventlogEntry, EventlogWatch, WATCH_WAITCREATE},
};
use flux_client::Client;
use flux_id::JobId;
use flux_model::{
    eventlog::Event,
    stdio::{Header, StdioEvent},
    wait_status,
};

use crate::{
    ending, output,
    resume::{self, Log, Next, Outage},
};

pub(crate) mod bar;

/// Until a log that ended too early is followed again.
const DOUBT: Duration = Duration::from_millis(500);

/// What is wanted of each job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// Its output, live.
    pub(crate) output: bool,
    /// Only until this event; `exec.NAME` is one of the execution log.
    pub(crate) event: Option<String>,
    /// Job id and task rank before each line of output.
    pub(crate) label: bool,
    /// A line about every exception and failure.
    pub(crate) verbose: bool,
}

/// A file that several jobs may share.
pub(crate) type Sink = Rc<RefCell<File>>;

/// Where the output of a job goes, when not to this process's own streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sinks {
    /// For standard output.
    pub(crate) out: Option<Sink>,
    /// For standard error.
    pub(crate) err: Option<Sink>,
}

impl Sinks {
    /// Writes to one of the two.
    pub(crate) fn write(&self, error: bool, text: &[u8]) {
        let sink = if error { &self.err } else { &self.out };
        match sink {
            Some(file) => {
                if file.borrow_mut().write_all(text).is_err() {
                    output::error_line("log file: cannot be written");
                }
            }
            None if error => output::error_bytes(text),
            None => output::bytes(text),
        }
    }
}

/// How far the jobs are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Jobs that were added.
    pub(crate) all: u64,
    /// Of these, running.
    pub(crate) running: u64,
    /// Ended well.
    pub(crate) completed: u64,
    /// Ended otherwise.
    pub(crate) failed: u64,
    /// No longer followed.
    pub(crate) done: u64,
}

#[derive(Debug)]
struct Followed {
    sinks: Sinks,
    /// Streams that have not ended; the job is done without any.
    open: u32,
    header: Option<Header>,
    running: bool,
    finish: Option<i32>,
    fatal: bool,
    started: bool,
    seen: bool,
    /// The last event of its log was there.
    clean: bool,
    /// Its log is at its end.
    over: bool,
    /// Ends of its tasks' streams that are to come, once the header told how many there are.
    open_streams: Option<u64>,
    /// Its output log ended before the job did: at its end, or cut short when a broker went away.
    held: Option<Log>,
    /// The output is followed since the job was at its end.
    output_last: bool,
    /// Matchtags of its logs, by kind.
    tags: [Option<u32>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Job,
    Exec,
    Output,
}

/// A log of a job.
type Of = (u64, Kind, Log);

/// The jobs that are followed. An instance that goes away is waited for, see [`resume`].
pub(crate) struct Follower {
    program: &'static str,
    client: Client,
    want: Want,
    jobs: BTreeMap<u64, Followed>,
    /// By the matchtag of their streams.
    logs: BTreeMap<u32, Of>,
    /// Logs that broke off.
    away: Vec<Of>,
    /// Jobs whose output log ended before them, and when it is followed again.
    held: VecDeque<(Instant, u64)>,
    outage: Outage,
    /// How far they are.
    pub(crate) tally: Tally,
    code: i32,
}

impl Follower {
    /// Follows nothing yet; `program` begins the lines about the instance.
    pub(crate) fn new(program: &'static str, client: &Client, want: Want) -> Self {
        Self {
            program,
            client: client.clone(),
            want,
            jobs: BTreeMap::new(),
            logs: BTreeMap::new(),
            away: Vec::new(),
            held: VecDeque::new(),
            outage: Outage::new(),
            tally: Tally::default(),
            code: 0,
        }
    }

    /// Begins to follow a job.
    pub(crate) fn add(&mut self, id: u64, sinks: Sinks) {
        let mut job = Followed {
            sinks,
            open: 0,
            header: None,
            running: false,
            finish: None,
            fatal: false,
            started: false,
            seen: false,
            clean: false,
            over: false,
            open_streams: None,
            held: None,
            output_last: false,
            tags: [None; 3],
        };
        self.watch(&mut job, id, Kind::Job);
        if self.want.event.as_deref().is_some_and(|event| event.starts_with("exec.")) {
            self.watch(&mut job, id, Kind::Exec);
        }
        if self.want.output {
            self.watch(&mut job, id, Kind::Output);
        }
        self.jobs.insert(id, job);
        self.tally.all += 1;
    }

    fn watch(&mut self, job: &mut Followed, id: u64, kind: Kind) {
        let (path, flags) = match kind {
            Kind::Job => ("eventlog", 0),
            Kind::Exec => ("guest.exec.eventlog", WATCH_WAITCREATE),
            Kind::Output => ("guest.output", WATCH_WAITCREATE),
        };
        let request = EventlogWatch { id, path: path.into(), flags };
        let log = Log::new(&self.client, request);
        if let Some(tag) = log.matchtag() {
            job.tags[kind as usize] = Some(tag);
            self.logs.insert(tag, (id, kind, log));
        }
        job.open += 1;
    }

    fn keep(&mut self, (id, kind, log): Of) {
        let Some(tag) = log.matchtag() else { return self.away.push((id, kind, log)) };
        if let Some(job) = self.jobs.get_mut(&id) {
            job.tags[kind as usize] = Some(tag);
        }
        self.logs.insert(tag, (id, kind, log));
    }

    /// Whether there is nothing left to follow.
    pub(crate) fn is_done(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The highest exit status of the jobs so far.
    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// Waits for something to arrive, also for an instance that is away.
    ///
    /// # Errors
    /// It does not come back.
    pub(crate) fn wait(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for of in std::mem::take(&mut self.away) {
            let (id, kind, mut log) = of;
            if self.jobs.contains_key(&id) {
                log.retry(&self.client, now);
                self.keep((id, kind, log));
            }
        }
        while let Some((_, id)) = self.held.pop_front_if(|(at, _)| *at <= now) {
            self.follow_held(id, now);
        }
        self.tell(now);
        let held = self.held.front().map(|(at, _)| *at);
        let due = self.away.iter().filter_map(|(_, _, log)| log.due());
        let due = due.chain(held).chain(self.outage.news_at()).min();
        let time = due.map(|at| at.saturating_duration_since(now));
        match self.client.wait(&[], time) {
            Ok(_) => Ok(()),
            Err(error) => self.reconnect(&error.message()),
        }
    }

    /// Follows an output log again that ended before its job.
    fn follow_held(&mut self, id: u64, now: Instant) {
        let held = self.jobs.get_mut(&id).and_then(|job| job.held.take());
        if let Some(mut log) = held {
            log.doubt(now);
            log.follow(&self.client);
            self.keep((id, Kind::Output, log));
        }
    }

    /// A log is at its end, or failed. It may have been cut short by a broker that went away.
    fn log_ended(&mut self, id: u64, kind: Kind, mut log: Log, failed: bool) {
        let now = Instant::now();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match kind {
            Kind::Job if !failed && !job.clean && !job.seen => {
                log.doubt(now + DOUBT);
                return self.keep((id, kind, log));
            }
            Kind::Job => {
                job.over = true;
                if job.held.is_some() {
                    // Only what is read after the end of the job is sure to be all.
                    job.output_last = true;
                    self.follow_held(id, now);
                }
            }
            Kind::Output if job.seen || job.output_last || job.open_streams == Some(0) => {}
            Kind::Output => {
                job.held = Some(log);
                if job.over {
                    job.output_last = true;
                    self.follow_held(id, now);
                } else {
                    self.held.push_back((now + DOUBT, id));
                }
                return;
            }
            Kind::Exec => {}
        }
        self.stream_ended(id, kind);
    }

    fn tell(&mut self, now: Instant) {
        if let Some(text) = self.outage.news(now) {
            output::error_line(&format!("{}: {text}", self.program));
        }
    }

    fn reconnect(&mut self, lost: &str) -> Result<(), String> {
        let mut reason = lost.to_owned();
        loop {
            let pause = self.outage.begin(&reason, Instant::now())?;
            match resume::connect() {
                Ok(client) => {
                    self.client = client;
                    let logs = std::mem::take(&mut self.logs).into_values();
                    let logs: Vec<Of> = logs.chain(std::mem::take(&mut self.away)).collect();
                    for (id, kind, mut log) in logs {
                        log.follow(&self.client);
                        self.keep((id, kind, log));
                    }
                    return Ok(());
                }
                Err((why, true)) => return Err(format!("{lost}: {why}")),
                Err((why, false)) => reason = format!("{lost}: {why}"),
            }
            self.tell(Instant::now());
            std::thread::sleep(pause.min(Duration::from_secs(1)));
        }
    }

    /// Takes all that has arrived.
    pub(crate) fn take_ready(&mut self) {
        for tag in self.client.ready_tags() {
            self.take(tag);
        }
    }

    /// Takes what has arrived for a matchtag; false when it belongs to somebody else.
    pub(crate) fn take(&mut self, tag: u32) -> bool {
        let Some((id, kind, mut log)) = self.logs.remove(&tag) else { return false };
        let mut broken = false;
        while let Some(next) = log.next() {
            match next {
                Next::Entry(entry) => self.entry(id, kind, entry),
                Next::Away(error) => {
                    let now = Instant::now();
                    match self.outage.begin(&error.message(), now) {
                        Ok(pause) => log.follow_at(now + pause),
                        Err(_) => {
                            self.failed(id, kind, &error);
                            self.stream_ended(id, kind);
                            return true;
                        }
                    }
                }
                Next::Failed(error) => {
                    broken = true;
                    self.failed(id, kind, &error);
                }
            }
        }
        if log.was_alive()
            && let Some(text) = self.outage.end()
        {
            output::error_line(&format!("{}: {text}", self.program));
        }
        let wanted = self.jobs.get(&id).is_some_and(|job| !job.seen);
        if !wanted {
            self.stream_ended(id, kind);
        } else if log.is_ended() {
            self.log_ended(id, kind, log, broken);
        } else {
            self.keep((id, kind, log));
        }
        true
    }

    fn entry(&mut self, id: u64, kind: Kind, entry: EventlogEntry) {
        let Some(event) = entry.event.and_then(|line| Event::decode(&line).ok()) else { return };
        match kind {
            Kind::Job => self.job_event(id, &event),
            Kind::Exec => {
                let wanted = self.want.event.as_deref().and_then(|name| name.strip_prefix("exec."));
                if let (true, Some(job)) = (wanted == Some(&event.name), self.jobs.get_mut(&id)) {
                    job.seen = true;
                }
            }
            Kind::Output => self.output_event(id, &event),
        }
    }

    fn job_event(&mut self, id: u64, event: &Event) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match event.name.as_str() {
            "start" => {
                job.started = true;
                job.running = true;
                self.tally.running += 1;
            }
            "clean" => job.clean = true,
            "finish" => job.finish = event.get_i64("status").map(ending::status_of),
            "exception" => {
                let severity = event.get_i64("severity").unwrap_or(0);
                job.fatal |= severity == 0;
                let text = format!(
                    "{}: exception: type={} severity={severity} {}",
                    JobId(id),
                    event.get_str("type").unwrap_or_default(),
                    event.get_str("note").unwrap_or_default()
                );
                if severity == 0 || self.want.verbose {
                    job.sinks.write(true, format!("{}\n", text.trim_end()).as_bytes());
                }
            }
            _ => {}
        }
        job.seen |= self.want.event.as_deref() == Some(event.name.as_str());
    }

    fn output_event(&mut self, id: u64, event: &Event) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match StdioEvent::decode(event, job.header.as_ref()) {
            Ok(StdioEvent::Header(header)) => {
                let counts = header.count.iter().filter(|(name, _)| name.starts_with("std"));
                job.open_streams = Some(counts.map(|(_, count)| u64::from(*count)).sum());
                job.header = Some(header);
            }
            Ok(StdioEvent::Data(data)) => {
                if data.eof
                    && let Some(open) = &mut job.open_streams
                {
                    let ended = data.rank.parse::<flux_id::Idset>().map_or(1, |set| set.len());
                    *open = open.saturating_sub(ended);
                }
                let Some(bytes) = data.data else { return };
                let error = data.stream == "stderr";
                if self.want.label {
                    let mut text = Vec::new();
                    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                        text.extend_from_slice(
                            format!("{}: {}: ", JobId(id), data.rank).as_bytes(),
                        );
                        text.extend_from_slice(line);
                    }
                    job.sinks.write(error, &text);
                } else {
                    job.sinks.write(error, &bytes);
                }
            }
            Ok(StdioEvent::Log(log)) if log.level <= 4 => {
                let component = log.component.map(|c| format!("{c}: ")).unwrap_or_default();
                let text = format!("{}: {component}{}\n", JobId(id), log.message);
                job.sinks.write(true, text.as_bytes());
            }
            _ => {}
        }
    }

    fn failed(&mut self, id: u64, kind: Kind, error: &RpcError) {
        // Without output log a job had no output; without its own log there is no such job.
        if kind == Kind::Job {
            output::error_line(&format!("{}: {error}", JobId(id)));
            if let Some(job) = self.jobs.get_mut(&id) {
                job.fatal = true;
            }
        }
    }

    fn stream_ended(&mut self, id: u64, kind: Kind) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.open -= 1;
        let over = job.seen || (kind == Kind::Job && !job.started);
        if job.open > 0 && !over {
            return;
        }
        let Some(job) = self.jobs.remove(&id) else { return };
        // What else was asked for about this job is of no interest any more.
        for tag in job.tags.into_iter().flatten() {
            if self.logs.get(&tag).is_some_and(|(of, ..)| *of == id) {
                self.logs.remove(&tag);
            }
        }
        if job.running {
            self.tally.running -= 1;
        }
        let mut code = match job.finish {
            Some(status) => wait_status::exit_code(status),
            None => i32::from(job.fatal),
        };
        if let Some(name) = self.want.event.as_deref().filter(|_| !job.seen) {
            let text = format!("{}: event '{name}' never received\n", JobId(id));
            job.sinks.write(true, text.as_bytes());
            code = code.max(1);
        }
        self.tally.done += 1;
        if code == 0 {
            self.tally.completed += 1;
        } else {
            self.tally.failed += 1;
            if self.want.verbose
                && let Some(text) = job.finish.and_then(ending::describe)
            {
                job.sinks.write(true, format!("{}: {text}\n", JobId(id)).as_bytes());
            }
        }
        self.code = self.code.max(code);
    }
}
