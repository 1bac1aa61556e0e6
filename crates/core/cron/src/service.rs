//! The service: entries come and go, runs start and end.

use std::collections::BTreeMap;

use flux_api::cron::{
    CalendarNext, CalendarNext_, Create, Cron, CronCreate, CronDelete, CronList, CronSync, Delete,
    Start, Stop, Sync,
};
use flux_api::kvs::{Commit, CommitRequest, Lookup, LookupRequest, Operation, PRIMARY};
use flux_api::rexec::{self, Command, Exec as Rexec, ExecRequest, Kill, KillRequest};
use flux_api::{Answer, Call, RpcError};
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service, To};
use serde_json::{Map, Value, json};

use crate::crontab;
use crate::entry::{Entry, Stats};
use crate::schedule::Schedule;
use crate::task::{State, Task};

/// Where entries are kept.
pub const KEY: &str = "cron.entries";
/// Most entries.
const ENTRIES_MAX: usize = 1000;
/// The event that runs wait for, unless told otherwise.
const SYNC: &str = "heartbeat.pulse";
/// Seconds after it in which a run need not wait for the next.
const EPSILON: f64 = 0.015;
/// The clock is looked at again after so many seconds, since it may be set.
const LOOK_AGAIN: f64 = 60.0;
const SIGTERM: i32 = 15;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The entries of a former life.
    Kept,
    /// Entries were stored.
    Stored,
    /// The first time of a new entry.
    First(u64),
    /// The next time of an entry.
    Next(u64),
    /// The time to run, or to look at the clock.
    Due(u64),
    /// The process of an entry.
    Task(u64),
    /// The time limit of a run, with the number of the run.
    TaskLate(u64, u64),
}

/// An answer that waits until the entries are stored.
enum Promise {
    Create(Answer<Create>, u64),
    Delete(Answer<Delete>, Map<String, Value>),
    Stop(Answer<Stop>, u64),
    Start(Answer<Start>, u64),
}

/// The `cron` service.
#[derive(Default)]
pub struct CronService {
    entries: BTreeMap<u64, Entry>,
    last_id: u64,
    /// New entries whose first time is asked for.
    creating: BTreeMap<u64, (Option<Answer<Create>>, Entry)>,
    /// Crontab files: name and text.
    files: Vec<(String, String)>,
    /// The sync event, if runs wait for one, and when it was last.
    sync: Option<String>,
    epsilon: f64,
    last_sync: f64,
    dirty: bool,
    promises: Vec<Promise>,
    /// Promises of the commit under way.
    flight: Option<Vec<Promise>>,
}

impl std::fmt::Debug for CronService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CronService").field("entries", &self.entries).finish_non_exhaustive()
    }
}

fn unknown(id: u64) -> RpcError {
    RpcError::new(Errno::ENOENT, format!("cron-{id} does not exist"))
}

impl CronService {
    /// A service that takes these crontab files too: names and texts.
    #[must_use]
    pub fn new(files: Vec<(String, String)>) -> Self {
        Self { files, epsilon: EPSILON, sync: Some(SYNC.to_string()), ..Self::default() }
    }

    fn kept(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<Lookup>() {
            Ok(found) => {
                let data = match Treeobj::from_value(&found.val) {
                    Ok(Treeobj::Val(data)) => data,
                    _ => Vec::new(),
                };
                match serde_json::from_slice::<Value>(&data) {
                    Ok(kept) => self.restore(cx, &kept),
                    Err(error) => cx.log(Level::Err, format!("{KEY}: {error}")),
                }
            }
            Err(error) if error.errno == Errno::ENOENT => {}
            Err(error) => return cx.fail(format!("cannot read {KEY}: {error}")),
        }
        for (name, text) in std::mem::take(&mut self.files) {
            for (number, line) in (1..).zip(text.lines()) {
                let entry = crontab::parse_line(line).and_then(|request| {
                    request
                        .map(|request| self.entry(cx.wall(), request, true))
                        .transpose()
                        .map_err(|error| error.message())
                });
                match entry {
                    Ok(Some(entry)) => self.add(cx, None, entry),
                    Ok(None) => {}
                    Err(text) => cx.log(Level::Err, format!("{name}:{number}: {text}")),
                }
            }
        }
        cx.ready();
    }

    fn restore(&mut self, cx: &mut Cx<'_, Wait>, kept: &Value) {
        let last = kept["last_id"].as_u64().unwrap_or(0);
        for item in kept["entries"].as_array().into_iter().flatten() {
            let request = serde_json::from_value::<CronCreate>(item["request"].clone());
            let Ok(request) = request else {
                cx.log(Level::Err, format!("{KEY}: an entry cannot be read: {item}"));
                continue;
            };
            match self.entry(cx.wall(), request, false) {
                Ok(mut entry) => {
                    entry.id = item["id"].as_u64().unwrap_or(entry.id);
                    entry.stopped = item["stopped"].as_bool().unwrap_or(false);
                    self.last_id = self.last_id.max(entry.id);
                    self.add(cx, None, entry);
                }
                Err(error) => cx.log(Level::Err, format!("{KEY}: {error}")),
            }
        }
        self.last_id = self.last_id.max(last);
    }

    /// A new entry of a request.
    fn entry(&mut self, now: f64, request: CronCreate, from_file: bool) -> Result<Entry, RpcError> {
        if request.command.trim().is_empty() {
            return Err(RpcError::new(Errno::EINVAL, "cron: the command is empty"));
        }
        if self.entries.len() + self.creating.len() >= ENTRIES_MAX {
            let text = format!("cron: there are {ENTRIES_MAX} entries already: delete some");
            return Err(RpcError::new(Errno::ENOSPC, text));
        }
        let schedule = Schedule::parse(&request.kind, &request.args)?;
        self.last_id += 1;
        Ok(Entry {
            id: self.last_id,
            request,
            from_file,
            schedule,
            stopped: false,
            stats: Stats { ctime: now, starttime: now, ..Stats::default() },
            task: None,
            finished: std::collections::VecDeque::new(),
            timer: None,
        })
    }

    /// Takes an entry in; one of the calendar once its time is known.
    fn add(&mut self, cx: &mut Cx<'_, Wait>, answer: Option<Answer<Create>>, entry: Entry) {
        let id = entry.id;
        match entry.schedule.pattern() {
            Some(pattern) if !entry.stopped => {
                self.creating.insert(id, (answer, entry));
                let request = CalendarNext { pattern, after: cx.wall() };
                cx.call::<CalendarNext_>(To::Any, &request, Wait::First(id));
            }
            _ => self.added(cx, answer, entry),
        }
    }

    fn added(&mut self, cx: &mut Cx<'_, Wait>, answer: Option<Answer<Create>>, entry: Entry) {
        let id = entry.id;
        let stopped = entry.stopped;
        if let Schedule::Event { topic, .. } = &entry.schedule {
            cx.subscribe(topic);
        }
        self.entries.insert(id, entry);
        if !stopped {
            self.begin(cx, id);
        }
        if let Some(answer) = answer {
            self.promise(cx, Promise::Create(answer, id));
        }
    }

    fn first(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some((answer, mut entry)) = self.creating.remove(&id) else { return };
        match reply.decode::<CalendarNext_>() {
            Ok(found) => {
                entry.schedule.set_next(found.time);
                self.added(cx, answer, entry);
            }
            Err(error) => match answer {
                Some(answer) => answer.err(cx, error),
                None => cx.log(Level::Err, format!("cron-{id}: {}: {error}", entry.name())),
            },
        }
    }

    /// An entry begins to run at its times; that of a calendar entry is known.
    fn begin(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Schedule::Interval { after, next, .. } = &mut entry.schedule {
            *next = now + *after;
        }
        self.arm(cx, id);
    }

    fn arm(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(timer) = entry.timer.take() {
            cx.cancel_timer(timer);
        }
        let next = entry.schedule.next();
        if next > 0.0 && !entry.stopped {
            let wait = (next - now).clamp(0.0, LOOK_AGAIN);
            entry.timer = Some(cx.timer((wait * 1e6).ceil() as u64, Wait::Due(id)));
        }
    }

    fn due(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.timer = None;
        if entry.stopped {
            return;
        }
        if now + 1e-3 < entry.schedule.next() {
            return self.arm(cx, id);
        }
        if let Schedule::Interval { interval, next, .. } = &mut entry.schedule {
            // What was missed is not made up for.
            *next = (*next + *interval).max(now);
            self.arm(cx, id);
        } else if let Some(pattern) = entry.schedule.pattern() {
            let after = now.max(entry.schedule.next());
            entry.schedule.set_next(0.0);
            let request = CalendarNext { pattern, after };
            cx.call::<CalendarNext_>(To::Any, &request, Wait::Next(id));
        }
        self.run(cx, id);
    }

    fn next(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match reply.decode::<CalendarNext_>() {
            Ok(found) => {
                entry.schedule.set_next(found.time);
                self.arm(cx, id);
            }
            // There is no such time any more: it has run for the last time.
            Err(error) if error.errno == Errno::ENOENT => entry.stopped = true,
            Err(error) => cx.log(Level::Err, format!("cron-{id}: {error}")),
        }
    }

    /// A run is due.
    fn run(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.task.is_some() {
            let text = format!("cron-{id}: a run is left out, since the last has not ended");
            return cx.log(Level::Info, text);
        }
        entry.task = Some(Task::new(entry.request.rank, now));
        if self.sync.is_some() && now - self.last_sync > self.epsilon {
            entry.stats.deferred += 1;
        } else {
            self.start_task(cx, id);
        }
    }

    fn start_task(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(task) = &mut entry.task else { return };
        task.state = State::Running;
        task.asked = Some(now);
        entry.stats.lastrun = now;
        entry.stats.count += 1;
        entry.stats.total += 1;
        let request = &entry.request;
        let exec = ExecRequest {
            cmd: Command {
                cmdline: vec!["/bin/sh".into(), "-c".into(), request.command.clone()],
                env: request.environ.clone().unwrap_or_default(),
                opts: Map::new(),
                channels: Vec::new(),
                cwd: request.cwd.clone(),
                label: None,
            },
            flags: rexec::STDOUT | rexec::STDERR,
            local_flags: 0,
        };
        cx.stream::<Rexec>(To::Rank(request.rank), &exec, Wait::Task(id));
        if let Some(seconds) = request.timeout.filter(|seconds| *seconds > 0.0) {
            cx.timer((seconds * 1e6) as u64, Wait::TaskLate(id, entry.stats.total));
        }
    }

    fn task_reply(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(task) = &mut entry.task else { return };
        match reply.decode::<Rexec>() {
            Ok(response) => match response.kind.as_str() {
                "started" => {
                    task.pid = response.pid.unwrap_or(0);
                    task.running = Some(now);
                }
                "output" => {
                    let Some(io) = response.io else { return };
                    let level = if io.stream == "stderr" { Level::Err } else { Level::Info };
                    for line in io.data.as_deref().unwrap_or_default().lines() {
                        let command = &entry.request.command;
                        let rank = entry.request.rank;
                        let text =
                            format!("cron-{id}: rank={rank}: command=\"{command}\": \"{line}\"");
                        cx.log(level, text);
                    }
                }
                "finished" => {
                    task.status = response.status.unwrap_or(1 << 8);
                    task.state = match (task.timed_out, task.status) {
                        (true, _) => State::Timeout,
                        (_, 0) => State::Exited,
                        _ => State::Failed,
                    };
                }
                _ => {}
            },
            Err(error) => {
                if !reply.is_end() {
                    task.state = State::RexecFailure;
                    task.errnum = Some(i32::try_from(error.errno.0).unwrap_or(0));
                    let rank = entry.request.rank;
                    cx.log(Level::Err, format!("cron-{id}: rank={rank}: cannot be run: {error}"));
                }
                self.task_ended(cx, id);
            }
        }
    }

    fn task_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(mut task) = entry.task.take() else { return };
        task.ended = Some(now);
        if task.state == State::Exited {
            entry.stats.success += 1;
        } else {
            entry.stats.failure += 1;
            entry.stats.failcount += 1;
            let code = (task.status >> 8) & 0xff;
            let rank = entry.request.rank;
            let text = format!(
                "cron-{id}: rank={rank}: command=\"{}\" failed: {code}",
                entry.request.command
            );
            cx.log(Level::Err, text);
        }
        entry.remember(task);
        let limit = entry.request.stop_on_failure;
        let done = entry.request.repeat > 0 && entry.stats.count >= entry.request.repeat;
        if done || (limit > 0 && entry.stats.failcount >= limit) {
            self.halt(cx, id);
            self.dirty = true;
            self.store(cx);
        }
    }

    fn halt(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.stopped = true;
        entry.schedule.set_next(0.0);
        if let Some(timer) = entry.timer.take() {
            cx.cancel_timer(timer);
        }
        if entry.task.as_ref().is_some_and(|task| task.state == State::Deferred) {
            entry.task = None;
        }
    }

    fn kill(entry: &Entry, cx: &mut Cx<'_, Wait>) {
        if let Some(task) = &entry.task
            && task.pid > 0
        {
            let request = KillRequest { pid: task.pid, signum: SIGTERM, label: None };
            cx.notify::<Kill>(To::Rank(task.rank), &request);
        }
    }

    fn delete(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Delete>) {
        let CronDelete { id, kill } = call.request;
        let Some(entry) = self.entries.get(&id) else { return call.answer.err(cx, unknown(id)) };
        let running = entry.task.as_ref().is_some_and(|task| task.state == State::Running);
        if running && !kill {
            let text = format!("cron-{id} has a running process: kill it too, or wait");
            return call.answer.err(cx, RpcError::new(Errno::EBUSY, text));
        }
        Self::kill(entry, cx);
        let shown = entry.to_map();
        if let Schedule::Event { topic, .. } = &entry.schedule {
            cx.unsubscribe(topic);
        }
        self.halt(cx, id);
        self.entries.remove(&id);
        self.promise(cx, Promise::Delete(call.answer, shown));
    }

    fn stop(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Stop>) {
        let id = call.request.id;
        match self.entries.get(&id) {
            None => call.answer.err(cx, unknown(id)),
            Some(entry) if entry.stopped => {
                let text = format!("cron-{id} is stopped already");
                call.answer.err(cx, RpcError::new(Errno::EINVAL, text));
            }
            Some(_) => {
                self.halt(cx, id);
                self.promise(cx, Promise::Stop(call.answer, id));
            }
        }
    }

    fn restart(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Start>) {
        let id = call.request.id;
        let now = cx.wall();
        let Some(entry) = self.entries.get_mut(&id) else {
            return call.answer.err(cx, unknown(id));
        };
        if !entry.stopped {
            let text = format!("cron-{id} is not stopped");
            return call.answer.err(cx, RpcError::new(Errno::EINVAL, text));
        }
        entry.stopped = false;
        entry.stats.starttime = now;
        entry.stats.count = 0;
        entry.stats.failcount = 0;
        if let Schedule::Event { counter, .. } = &mut entry.schedule {
            *counter = 0;
        }
        if let Some(pattern) = entry.schedule.pattern() {
            let request = CalendarNext { pattern, after: now };
            cx.call::<CalendarNext_>(To::Any, &request, Wait::Next(id));
        } else {
            self.begin(cx, id);
        }
        self.promise(cx, Promise::Start(call.answer, id));
    }

    fn sync(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Sync>) {
        let CronSync { topic, disable, sync_epsilon } = call.request;
        if sync_epsilon.is_some_and(|seconds| !seconds.is_finite() || seconds < 0.0) {
            let error = RpcError::new(Errno::EINVAL, "cron: sync_epsilon must be a number from 0");
            return call.answer.err(cx, error);
        }
        if disable || topic.is_some() {
            if let Some(old) = self.sync.take() {
                cx.unsubscribe(&old);
            }
            if let Some(new) = topic.filter(|topic| !disable && !topic.is_empty()) {
                cx.subscribe(&new);
                self.sync = Some(new);
            }
            if self.sync.is_none() {
                self.start_deferred(cx);
            }
        }
        self.epsilon = sync_epsilon.unwrap_or(self.epsilon);
        let mut answer = Map::new();
        match &self.sync {
            Some(topic) => {
                answer.insert("sync_event".into(), topic.as_str().into());
                answer.insert("sync_epsilon".into(), self.epsilon.into());
            }
            None => drop(answer.insert("sync_disabled".into(), true.into())),
        }
        call.answer.ok(cx, &answer);
    }

    fn start_deferred(&mut self, cx: &mut Cx<'_, Wait>) {
        let deferred: Vec<u64> = self
            .entries
            .values()
            .filter(|entry| entry.task.as_ref().is_some_and(|task| task.state == State::Deferred))
            .map(|entry| entry.id)
            .collect();
        for id in deferred {
            self.start_task(cx, id);
        }
    }

    /// The change behind a promise is to be stored before it is answered.
    fn promise(&mut self, cx: &mut Cx<'_, Wait>, promise: Promise) {
        self.promises.push(promise);
        self.dirty = true;
        self.store(cx);
    }

    fn store(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.flight.is_some() || !self.dirty {
            return;
        }
        self.dirty = false;
        self.flight = Some(std::mem::take(&mut self.promises));
        let entries: Vec<Value> = self
            .entries
            .values()
            .filter(|entry| !entry.from_file)
            .map(
                |entry| json!({"id": entry.id, "stopped": entry.stopped, "request": entry.request}),
            )
            .collect();
        let text = json!({"version": 1, "last_id": self.last_id, "entries": entries}).to_string();
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            ops: vec![Operation {
                key: KEY.to_string(),
                flags: 0,
                dirent: Treeobj::val(text.into_bytes()).into(),
            }],
        };
        cx.call::<Commit>(To::Any, &request, Wait::Stored);
    }

    fn stored(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let promises = self.flight.take().unwrap_or_default();
        let failure = reply.error().map(|error| {
            let text = format!("cron: changed, but a restart will not know it: {error}");
            RpcError::new(error.errno, text)
        });
        for promise in promises {
            let shown = |id: &u64| self.entries.get(id).map(Entry::to_map).unwrap_or_default();
            match (promise, &failure) {
                (Promise::Create(answer, _), Some(error)) => answer.err(cx, error.clone()),
                (Promise::Delete(answer, _), Some(error)) => answer.err(cx, error.clone()),
                (Promise::Stop(answer, _), Some(error)) => answer.err(cx, error.clone()),
                (Promise::Start(answer, _), Some(error)) => answer.err(cx, error.clone()),
                (Promise::Create(answer, id), None) => answer.ok(cx, &shown(&id)),
                (Promise::Delete(answer, map), None) => answer.ok(cx, &map),
                (Promise::Stop(answer, id), None) => answer.ok(cx, &shown(&id)),
                (Promise::Start(answer, id), None) => answer.ok(cx, &shown(&id)),
            }
        }
        self.store(cx);
    }
}

impl Service for CronService {
    type Api = Cron;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        if let Some(topic) = &self.sync {
            cx.subscribe(topic);
        }
        let request = LookupRequest {
            key: KEY.to_string(),
            flags: 0,
            namespace: Some(PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        cx.call::<Lookup>(To::Any, &request, Wait::Kept);
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Cron) {
        match call {
            Cron::Create(call) => {
                let entry = self.entry(cx.wall(), call.request, false);
                match entry {
                    Ok(entry) => self.add(cx, Some(call.answer), entry),
                    Err(error) => call.answer.err(cx, error),
                }
            }
            Cron::List(call) => {
                let entries = self.entries.values().map(|entry| entry.to_map().into()).collect();
                call.answer.ok(cx, &CronList { entries });
            }
            Cron::Delete(call) => self.delete(cx, call),
            Cron::Stop(call) => self.stop(cx, call),
            Cron::Start(call) => self.restart(cx, call),
            Cron::Sync(call) => self.sync(cx, call),
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Kept => self.kept(cx, &reply),
            Wait::Stored => self.stored(cx, &reply),
            Wait::First(id) => self.first(cx, id, &reply),
            Wait::Next(id) => self.next(cx, id, &reply),
            Wait::Task(id) => self.task_reply(cx, id, &reply),
            Wait::Due(_) | Wait::TaskLate(..) => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Due(id) => self.due(cx, id),
            Wait::TaskLate(id, run) => {
                if let Some(entry) = self.entries.get_mut(&id)
                    && entry.stats.total == run
                    && let Some(task) = &mut entry.task
                {
                    task.timed_out = true;
                    Self::kill(entry, cx);
                }
            }
            _ => {}
        }
    }

    fn on_event(&mut self, cx: &mut Cx<'_, Wait>, event: &Message) {
        let now = cx.wall();
        if self.sync.as_deref().is_some_and(|topic| event.topic().starts_with(topic)) {
            self.last_sync = now;
            self.start_deferred(cx);
        }
        let due: Vec<u64> = self
            .entries
            .values_mut()
            .filter(|entry| !entry.stopped)
            .filter_map(|entry| {
                let lastrun = entry.stats.lastrun;
                entry.schedule.counts(event.topic(), now, lastrun).then_some(entry.id)
            })
            .collect();
        for id in due {
            self.run(cx, id);
        }
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        let gone = || RpcError::new(Errno::ENOSYS, "cron is unloading");
        for (_, (answer, _)) in std::mem::take(&mut self.creating) {
            if let Some(answer) = answer {
                answer.err(cx, gone());
            }
        }
        let flight = self.flight.take().unwrap_or_default();
        for promise in flight.into_iter().chain(std::mem::take(&mut self.promises)) {
            match promise {
                Promise::Create(answer, _) => answer.err(cx, gone()),
                Promise::Delete(answer, _) => answer.err(cx, gone()),
                Promise::Stop(answer, _) => answer.err(cx, gone()),
                Promise::Start(answer, _) => answer.err(cx, gone()),
            }
        }
        cx.drained();
    }
}
