//! The events journal: every event of every job, to those who listen (RFC 21).
//!
//! A listener first gets the past: finished jobs if it wants them, read from the KVS since their
//! logs are not kept here, then active jobs, then a sentinel. From then on every event as it comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use flux_api::archive::{ArchiveIds_, ArchiveIdsRequest};
use flux_api::job::manager::{Journal as JournalRpc, JournalCancel};
use flux_api::kvs::{Lookup, LookupRequest};
use flux_api::{Answer, Call, Outbox, RpcError};
use flux_id::JobId;
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Value;

use crate::job::Job;
use crate::service::{JobManager, Wait};

/// Finished jobs that are read at once for one listener.
const READS_MAX: usize = 32;
/// Ids that the archive is asked for at once.
const IDS_MAX: u64 = 1024;

/// A part of a finished job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Key `eventlog`.
    Log,
    /// Key `jobspec`.
    Jobspec,
    /// Key `R`, which not every job has.
    Resources,
}

impl Part {
    /// Name of the key in the job's directory.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Log => "eventlog",
            Self::Jobspec => "jobspec",
            Self::Resources => "R",
        }
    }
}

/// Asks for a part of a job.
pub(crate) fn lookup(cx: &mut Cx<'_, Wait>, id: u64, part: Part, wait: Wait) {
    let key = format!("{}.{}", JobId(id).kvs(), part.key());
    let request = LookupRequest {
        key,
        flags: 0,
        namespace: Some(flux_api::kvs::PRIMARY.to_string()),
        rootdir: None,
        rootseq: None,
        userid: None,
    };
    cx.call::<Lookup>(To::Any, &request, wait);
}

/// The text of a value that was looked up.
pub(crate) fn text_of(reply: &Reply) -> Result<String, RpcError> {
    let response = reply.decode::<Lookup>()?;
    let bad = |text: String| RpcError::new(Errno::EPROTO, text);
    match Treeobj::from_value(&response.val) {
        Ok(Treeobj::Val(data)) => String::from_utf8(data).map_err(|error| bad(error.to_string())),
        Ok(other) => Err(bad(format!("is a {}, not a value", other.type_name()))),
        Err(error) => Err(bad(error.to_string())),
    }
}

#[derive(Debug, Default)]
struct Read {
    log: Option<String>,
    jobspec: Option<String>,
    r: Option<String>,
    left: usize,
}

#[derive(Debug, Default)]
struct Backlog {
    todo: VecDeque<u64>,
    reads: BTreeMap<u64, Read>,
    full: bool,
    /// Archived jobs above this id are still to come.
    above: Option<u64>,
    /// The archive was asked for ids.
    asking: bool,
    /// Jobs that were not in the archive at first.
    seen: BTreeSet<u64>,
}

#[derive(Debug)]
struct Listener {
    answer: Answer<JournalRpc>,
    allow: Option<BTreeSet<String>>,
    deny: Option<BTreeSet<String>>,
    backlog: Option<Backlog>,
    /// What is to be said next.
    gathered: Option<Gathered>,
}

/// Events of one job that follow each other: one response tells them.
#[derive(Debug)]
struct Gathered {
    id: u64,
    events: String,
    jobspec: Option<Rc<str>>,
    r: Option<Rc<str>>,
}

impl Listener {
    fn takes(&self, name: &str) -> bool {
        self.allow.as_ref().is_none_or(|set| set.contains(name))
            && self.deny.as_ref().is_none_or(|set| !set.contains(name))
    }

    fn send(&self, out: &mut impl Outbox, text: &str) {
        out.send(Message::response_to(self.answer.head()).with_json_text(text));
    }

    /// Takes an event of a job; what was gathered of another job goes first.
    fn gather(&mut self, out: &mut impl Outbox, job: &Job, name: &str, line: &str) {
        if self.gathered.as_ref().is_some_and(|gathered| gathered.id != job.id) {
            self.flush(out);
        }
        let empty = || Gathered { id: job.id, events: String::new(), jobspec: None, r: None };
        let gathered = self.gathered.get_or_insert_with(empty);
        if !gathered.events.is_empty() {
            gathered.events.push(',');
        }
        gathered.events.push_str(line.trim_end());
        match name {
            "submit" => gathered.jobspec = Some(job.jobspec.clone()),
            "alloc" => gathered.r.clone_from(&job.r),
            _ => {}
        }
    }

    /// Says what was gathered.
    fn flush(&mut self, out: &mut impl Outbox) {
        if let Some(Gathered { id, events, jobspec, r }) = self.gathered.take() {
            self.send(out, &response(id, &events, jobspec.as_deref(), r.as_deref()));
        }
    }

    /// Sends the log of one job.
    fn send_log(&self, out: &mut impl Outbox, past: &Past<'_>) {
        let all = self.allow.is_none() && self.deny.is_none();
        let lines: Vec<&str> = past
            .log
            .lines()
            .chain(past.extra)
            .filter(|line| all || name_of(line).is_some_and(|name| self.takes(&name)))
            .collect();
        if !lines.is_empty() {
            self.send(out, &response(past.id, &lines.join(","), past.jobspec, past.r));
        }
    }
}

/// What a job has left behind.
struct Past<'a> {
    id: u64,
    log: &'a str,
    /// An event that is not in the log.
    extra: Option<&'a str>,
    jobspec: Option<&'a str>,
    r: Option<&'a str>,
}

fn name_of(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    event.get("name")?.as_str().map(str::to_string)
}

/// JSON text of one response; all parts are JSON texts already.
fn response(id: u64, events: &str, jobspec: Option<&str>, r: Option<&str>) -> String {
    let mut text = format!("{{\"id\":{id},\"events\":[{events}]");
    for (key, value) in [("jobspec", jobspec), ("R", r)] {
        if let Some(value) = value {
            text.push_str(&format!(",\"{key}\":{value}"));
        }
    }
    text.push('}');
    text
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Journal {
    listeners: BTreeMap<u64, Listener>,
    next: u64,
    events: u64,
}

impl Journal {
    /// An event of an active job, for everybody who has the past already: told with what follows
    /// at once, at the end of the input.
    pub(crate) fn event(&mut self, out: &mut impl Outbox, job: &Job, name: &str, line: &str) {
        self.events += 1;
        for listener in self.listeners.values_mut() {
            if listener.backlog.is_none() && listener.takes(name) {
                listener.gather(out, job, name, line);
            }
        }
    }

    /// Ends an input: tells what was gathered.
    pub(crate) fn flush(&mut self, out: &mut impl Outbox) {
        self.listeners.values_mut().for_each(|listener| listener.flush(out));
    }

    /// A job moved from the active ones to the finished ones while listeners read the past.
    pub(crate) fn retired(&mut self, id: u64) {
        for listener in self.listeners.values_mut() {
            if let Some(backlog) = &mut listener.backlog
                && backlog.seen.insert(id)
            {
                backlog.todo.push_back(id);
            }
        }
    }

    /// Listeners and events so far, for `stats-get`.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.listeners.len(), self.events)
    }

    /// The past of a listener, while it is being read.
    fn backlog(&mut self, listener: u64) -> Option<&mut Backlog> {
        self.listeners.get_mut(&listener)?.backlog.as_mut()
    }
}

fn filter(value: Option<&Value>, name: &str) -> Result<Option<BTreeSet<String>>, RpcError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(names)) => Ok(Some(names.keys().cloned().collect())),
        Some(_) => {
            let text = format!("job-manager.events {name} should be an object");
            Err(RpcError::new(Errno::EPROTO, text))
        }
    }
}

impl JobManager {
    /// `job-manager.events-journal`.
    pub(crate) fn journal_open(&mut self, cx: &mut Cx<'_, Wait>, call: Call<JournalRpc>) {
        let request = &call.request;
        let filters = filter(request.allow.as_ref(), "allow")
            .and_then(|allow| Ok((allow, filter(request.deny.as_ref(), "deny")?)));
        let (allow, deny) = match filters {
            Ok(filters) => filters,
            Err(error) => return call.answer.err(cx, error),
        };
        let full = request.full;
        let todo: VecDeque<u64> =
            if full { self.inactive.ids().collect() } else { VecDeque::new() };
        let above = (self.archive && full && !request.unarchived).then_some(0);
        // Only an archive may tell of a job again.
        let seen = if above.is_some() { todo.iter().copied().collect() } else { BTreeSet::new() };
        let backlog = Some(Backlog { todo, full, above, seen, ..Backlog::default() });
        let id = self.journal.next;
        self.journal.next += 1;
        let listener = Listener { answer: call.answer, allow, deny, backlog, gathered: None };
        self.journal.listeners.insert(id, listener);
        self.journal_work(cx);
    }

    /// Reads on for listeners that want the past, and lets those go live that have it.
    pub(crate) fn journal_work(&mut self, cx: &mut Cx<'_, Wait>) {
        for (&key, listener) in &mut self.journal.listeners {
            let Some(backlog) = &mut listener.backlog else { continue };
            if !backlog.full {
                backlog.todo.clear();
            }
            while backlog.reads.len() < READS_MAX {
                let Some(id) = backlog.todo.pop_front() else { break };
                backlog.reads.insert(id, Read { left: 3, ..Read::default() });
                for part in [Part::Log, Part::Jobspec, Part::Resources] {
                    lookup(cx, id, part, Wait::Backlog { listener: key, id, part });
                }
            }
            let dry = backlog.reads.len() < READS_MAX;
            if let Some(above) = backlog.above.filter(|_| dry && !backlog.asking) {
                backlog.asking = true;
                let request = ArchiveIdsRequest { above, max: IDS_MAX };
                cx.call::<ArchiveIds_>(To::Any, &request, Wait::BacklogIds(key));
            }
            if !backlog.reads.is_empty() || backlog.asking {
                continue;
            }
            listener.backlog = None;
            for job in self.jobs.values() {
                let annotations = (!job.status.annotations.is_empty()).then(|| {
                    let mut event = flux_model::eventlog::Event::new(cx.wall(), "annotations");
                    event.context = crate::life::context(
                        serde_json::json!({ "annotations": job.status.annotations }),
                    );
                    event.encode()
                });
                listener.send_log(
                    cx,
                    &Past {
                        id: job.id,
                        log: &job.log,
                        extra: annotations.as_deref().map(str::trim_end),
                        jobspec: Some(&job.jobspec),
                        r: job.r.as_deref(),
                    },
                );
            }
            listener.send(cx, "{\"id\":-1,\"events\":[]}");
        }
    }

    /// Ids of archived jobs for a listener.
    pub(crate) fn backlog_ids(&mut self, cx: &mut Cx<'_, Wait>, listener: u64, reply: &Reply) {
        let Some(backlog) = self.journal.backlog(listener) else { return };
        backlog.asking = false;
        match reply.decode::<ArchiveIds_>() {
            Ok(found) => {
                let more = found.ids.len() as u64 == IDS_MAX;
                backlog.above = found.ids.last().copied().filter(|_| more);
                // A job may be archived before its last events are on disk; if they were lost with
                // the broker it is active again, and is told of with the active ones.
                let (seen, jobs) = (&backlog.seen, &self.jobs);
                let past = |id: &u64| !seen.contains(id) && !jobs.contains_key(id);
                backlog.todo.extend(found.ids.into_iter().filter(past));
            }
            Err(error) => {
                backlog.above = None;
                cx.log(Level::Err, format!("journal: archived jobs are left out: {error}"));
            }
        }
        self.journal_work(cx);
    }

    /// A part of a finished job for a listener.
    pub(crate) fn backlog_read(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (listener, id, part): (u64, u64, Part),
        reply: &Reply,
    ) {
        let Some(backlog) = self.journal.backlog(listener) else { return };
        let Some(read) = backlog.reads.get_mut(&id) else { return };
        read.left -= 1;
        match (text_of(reply), part) {
            (Ok(text), Part::Log) => read.log = Some(text),
            (Ok(text), Part::Jobspec) => read.jobspec = Some(text),
            (Ok(text), Part::Resources) => read.r = Some(text),
            (Err(error), _) if error.errno == Errno::ENOENT => {}
            (Err(error), _) => {
                let text = format!("journal: {}.{}: {error}", JobId(id).kvs(), part.key());
                cx.log(Level::Err, text);
            }
        }
        if read.left > 0 {
            return;
        }
        let read = backlog.reads.remove(&id);
        if let Some(read) = read
            && let Some(log) = &read.log
            && let Some(listener) = self.journal.listeners.get(&listener)
        {
            let (jobspec, r) = (read.jobspec.as_deref(), read.r.as_deref());
            listener.send_log(cx, &Past { id, log, extra: None, jobspec, r });
        }
        self.journal_work(cx);
    }

    /// `job-manager.events-journal-cancel`: ends that stream of the same client.
    pub(crate) fn journal_cancel(&mut self, cx: &mut Cx<'_, Wait>, call: Call<JournalCancel>) {
        let head = call.answer.head().clone();
        let tag = call.request.matchtag;
        call.answer.forget();
        self.journal_end(cx, |answer| answer.matchtag() == tag && answer.same_sender(&head));
    }

    /// Ends the streams that `which` picks.
    pub(crate) fn journal_end(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        which: impl Fn(&Answer<JournalRpc>) -> bool,
    ) {
        let gone: Vec<u64> = self
            .journal
            .listeners
            .iter()
            .filter(|(_, listener)| which(&listener.answer))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            if let Some(mut listener) = self.journal.listeners.remove(&key) {
                listener.flush(cx);
                listener.answer.end(cx);
            }
        }
    }
}
