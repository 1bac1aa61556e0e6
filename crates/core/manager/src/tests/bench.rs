//! The service with a KVS that remembers, and a scheduler and execution moved by hand.

use std::collections::{BTreeMap, VecDeque};

use flux_api::archive::ArchivedJob;
use flux_id::JobId;
use flux_model::eventlog::Eventlog;
use flux_model::job_event::check::legal_log;
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use crate::JobManager;

/// What is in the KVS: text by key.
pub(super) type Store = BTreeMap<String, String>;

/// What a crash leaves of an instance with an archive.
#[derive(Default)]
pub(super) struct Left {
    pub(super) store: Store,
    pub(super) archive: BTreeMap<u64, ArchivedJob>,
    pub(super) complete: bool,
}

pub(super) struct Bench {
    pub(super) rig: Rig<JobManager>,
    pub(super) store: Store,
    /// Requests to others than the KVS, oldest first.
    pub(super) out: VecDeque<Message>,
    /// Commits fail with this.
    pub(super) broken: Option<Errno>,
    /// Commits are left unanswered.
    pub(super) stuck: VecDeque<Message>,
    pub(super) hold_commits: bool,
    pub(super) commits: usize,
    /// The watch of the instance's resources.
    pub(super) watch: Option<Message>,
    /// The archive, if the instance has one, and whether it is complete.
    pub(super) archive: Option<BTreeMap<u64, ArchivedJob>>,
    pub(super) complete: bool,
    /// The archive cannot be changed.
    pub(super) archive_broken: bool,
    /// Keys that were looked up.
    pub(super) lookups: Vec<String>,
}

pub(super) fn jobspec(system: Value) -> Value {
    let mut all = json!({"duration": 0.0});
    if let (Some(all), Some(system)) = (all.as_object_mut(), system.as_object()) {
        all.extend(system.clone());
    }
    json!({
        "resources": [{"type": "slot", "count": 2, "label": "task",
            "with": [{"type": "core", "count": 1}]}],
        "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": all},
        "version": 1,
    })
}

pub(super) fn r() -> Value {
    json!({
        "version": 1,
        "execution": {
            "R_lite": [{"rank": "0", "children": {"core": "0-1"}}],
            "nodelist": ["host0"],
            "starttime": 1_700_000_000.0,
            "expiration": 0.0,
        },
    })
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(&json!({}), Store::new())
    }

    /// A restart with this configuration and KVS.
    pub(super) fn with(config: &Value, store: Store) -> Self {
        let config: &Map<String, Value> = config.as_object().unwrap();
        let mut bench = Self {
            rig: Rig::with(JobManager::default(), 0, 1, config),
            store,
            out: VecDeque::new(),
            broken: None,
            stuck: VecDeque::new(),
            hold_commits: false,
            commits: 0,
            watch: None,
            archive: None,
            complete: false,
            archive_broken: false,
            lookups: Vec::new(),
        };
        bench.settle();
        assert!(bench.rig.ready, "{:?}", bench.rig.failed);
        bench
    }

    /// A restart with this KVS and archive.
    pub(super) fn archived(config: &Value, left: Left) -> Self {
        let config: &Map<String, Value> = config.as_object().unwrap();
        let mut bench = Self {
            rig: Rig::with(JobManager::with_archive(), 0, 1, config),
            store: left.store,
            out: VecDeque::new(),
            broken: None,
            stuck: VecDeque::new(),
            hold_commits: false,
            commits: 0,
            watch: None,
            archive: Some(left.archive),
            complete: left.complete,
            archive_broken: false,
            lookups: Vec::new(),
        };
        bench.settle();
        assert!(bench.rig.ready, "{:?}", bench.rig.failed);
        bench
    }

    /// A crash of an instance with an archive.
    pub(super) fn crash_archived(self) -> Left {
        let Self { rig, store, archive, complete, .. } = self;
        std::mem::forget(rig);
        Left { store, archive: archive.unwrap(), complete }
    }

    /// What job-list does with jobs that are over: into the archive, then word of it.
    pub(super) fn put(&mut self, ids: &[u64]) {
        for id in ids {
            let text = &self.store[&format!("{}.eventlog", JobId(*id).kvs())];
            let log = Eventlog::parse(text).unwrap();
            let status = flux_model::job_event::JobStatus::replay(log.events()).unwrap();
            let job = ArchivedJob {
                started: status.started,
                fatal: status.fatal_exception.is_some(),
                t_run: status.t_run,
                result: status.result().unwrap().bit(),
                ..serde_json::from_value(json!({
                    "id": id, "userid": status.userid, "urgency": 16, "t_submit": status.t_submit,
                    "t_inactive": status.t_inactive, "result": 1}))
                .unwrap()
            };
            self.archive.as_mut().unwrap().insert(*id, job);
        }
    }

    /// Word that jobs are in the archive.
    pub(super) fn tell_archived(&mut self, ids: &[u64]) {
        let mut message =
            Message::request("job-manager.archived").with_json(&json!({ "ids": ids }));
        message.flags.insert(flux_proto::Flags::NORESPONSE);
        message.cred = self.rig.owner();
        self.rig.deliver(message);
        self.settle();
    }

    fn ask_archive(&mut self, message: &Message) {
        let Some(jobs) = &mut self.archive else {
            return self.rig.fail(message, Errno::ENOSYS);
        };
        if self.archive_broken && message.topic() == "archive.remove" {
            return self.rig.fail(message, Errno::ENOSPC);
        }
        let body: Value = message.json().unwrap();
        let ids = || -> Vec<u64> { serde_json::from_value(body["ids"].clone()).unwrap() };
        let answer = match message.topic() {
            "archive.info" => {
                let max = jobs.keys().next_back().copied().unwrap_or(0);
                json!({"count": jobs.len(), "max_id": max, "complete": self.complete, "bytes": 0})
            }
            "archive.complete" => {
                self.complete = true;
                Value::Null
            }
            "archive.get" => {
                let found: Vec<_> = ids().iter().filter_map(|id| jobs.get(id)).collect();
                json!({ "jobs": found })
            }
            "archive.remove" => {
                ids().iter().for_each(|id| drop(jobs.remove(id)));
                Value::Null
            }
            "archive.ids" => {
                let above = body["above"].as_u64().unwrap();
                let ids: Vec<u64> = jobs.range(above + 1..).map(|(id, _)| *id).collect();
                json!({ "ids": ids })
            }
            "archive.of-user" => {
                let ids: Vec<u64> = jobs
                    .values()
                    .rev()
                    .filter(|job| job.userid == body["userid"])
                    .map(|job| job.id)
                    .take(body["max"].as_u64().unwrap() as usize)
                    .collect();
                json!({ "ids": ids })
            }
            "archive.beyond" => {
                let mut all: Vec<(f64, u64)> = jobs
                    .values()
                    .filter(|job| {
                        body["userid"].as_u64().is_none_or(|user| user == u64::from(job.userid))
                    })
                    .map(|job| (job.t_inactive, job.id))
                    .collect();
                let except = body["except"].as_array().cloned().unwrap_or_default();
                all.retain(|(_, id)| !except.contains(&json!(id)));
                all.sort_by(|a, b| a.partial_cmp(b).unwrap());
                let keep =
                    body["keep"].as_u64().map(|keep| all.len().saturating_sub(keep as usize));
                let aged = body["ended_before"]
                    .as_f64()
                    .map(|time| all.iter().filter(|(ended, _)| *ended <= time).count());
                let count = keep.max(aged).unwrap_or(all.len());
                let max = count.min(body["max"].as_u64().unwrap() as usize);
                let ids: Vec<u64> = all[..max].iter().map(|(_, id)| *id).collect();
                json!({ "count": count, "ids": ids })
            }
            other => panic!("{other}"),
        };
        self.rig.reply(message, answer);
    }

    /// With scheduler and execution there.
    pub(super) fn online() -> Self {
        let mut bench = Self::new();
        bench.sched_online("unlimited", None);
        bench.exec_online();
        bench
    }

    pub(super) fn sched_online(&mut self, mode: &str, limit: Option<u32>) -> Vec<Value> {
        let hello = self.rig.stream("job-manager.sched-hello", json!({}));
        let mut jobs = Vec::new();
        loop {
            match self.rig.response(hello) {
                Ok(job) => jobs.push(job),
                Err(error) => {
                    assert_eq!(error.errno, Errno::ENODATA);
                    break;
                }
            }
        }
        let ready = match limit {
            None => json!({ "mode": mode }),
            Some(limit) => json!({ "mode": mode, "limit": limit }),
        };
        let ready = self.rig.request("job-manager.sched-ready", ready);
        self.rig.response(ready).unwrap();
        self.settle();
        jobs
    }

    pub(super) fn exec_online(&mut self) {
        let hello = self.rig.request("job-manager.exec-hello", json!({"service": "job-exec"}));
        assert_eq!(self.rig.response(hello), Ok(Value::Null));
        self.settle();
    }

    /// Lets the KVS answer, and time pass, until nothing more happens.
    pub(super) fn settle(&mut self) {
        loop {
            let Some(message) = self.rig.requests.pop_front() else {
                if self.rig.has_timer() && self.broken.is_none() {
                    let before = self.rig.requests.len();
                    self.rig.advance(crate::commits::GATHER_US);
                    if self.rig.requests.len() > before {
                        continue;
                    }
                }
                return;
            };
            match message.topic() {
                "kvs.commit" => {
                    if self.hold_commits {
                        self.stuck.push_back(message);
                        continue;
                    }
                    self.commit(&message);
                }
                "kvs-watch.lookup" => self.watch = Some(message),
                topic if topic.starts_with("archive.") => self.ask_archive(&message),
                "kvs.lookup" => self.lookup(&message),
                _ => self.out.push_back(message),
            }
        }
    }

    /// Answers the commits that were held.
    pub(super) fn release_commits(&mut self) {
        self.hold_commits = false;
        while let Some(message) = self.stuck.pop_front() {
            self.commit(&message);
        }
        self.settle();
    }

    pub(super) fn commit(&mut self, message: &Message) {
        if let Some(errno) = self.broken {
            return self.rig.fail(message, errno);
        }
        let body: Value = message.json().unwrap();
        assert_eq!(body["namespace"], "primary");
        for op in body["ops"].as_array().unwrap() {
            let key = op["key"].as_str().unwrap().to_string();
            if op["dirent"].is_null() {
                let below = format!("{key}.");
                self.store.retain(|known, _| *known != key && !known.starts_with(&below));
                continue;
            }
            let data = match Treeobj::from_value(&op["dirent"]).unwrap() {
                Treeobj::Val(data) => String::from_utf8(data).unwrap(),
                other => format!("{other:?}"),
            };
            if op["flags"] == 32 {
                self.store.entry(key).or_default().push_str(&data);
            } else {
                self.store.insert(key, data);
            }
        }
        self.commits += 1;
        self.rig.reply(message, json!({"rootref": "sha1-0", "rootseq": self.commits}));
    }

    fn lookup(&mut self, message: &Message) {
        let body: Value = message.json().unwrap();
        let key = body["key"].as_str().unwrap();
        self.lookups.push(key.to_string());
        let below = format!("{key}.");
        let children: BTreeMap<String, Treeobj> = self
            .store
            .keys()
            .filter_map(|known| known.strip_prefix(&below))
            .map(|rest| rest.split('.').next().unwrap().to_string())
            .map(|name| (name, Treeobj::empty_dir()))
            .collect();
        let found = match self.store.get(key) {
            Some(text) => Some(Treeobj::val(text.as_bytes())),
            None if !children.is_empty() => Some(Treeobj::Dir(children)),
            None => None,
        };
        match found {
            Some(object) => self.rig.reply(message, json!({"val": object.to_value()})),
            None => self.rig.fail(message, Errno::ENOENT),
        }
    }

    /// What ingest does: announces the job.
    pub(super) fn announce(&mut self, id: u64, userid: u32, flags: u32, spec: Value) -> u32 {
        self.announce_with(id, userid, flags, 16, spec)
    }

    pub(super) fn announce_with(
        &mut self,
        id: u64,
        userid: u32,
        flags: u32,
        urgency: u32,
        spec: Value,
    ) -> u32 {
        self.rig.request(
            "job-manager.submit",
            json!({"jobs": [{"id": id, "userid": userid, "urgency": urgency,
                "t_submit": 1_700_000_000.0, "flags": flags, "jobspec": spec,
                "J": "signed"}]}),
        )
    }

    /// Submits a job of the owner and waits for the answer.
    pub(super) fn submit(&mut self, id: u64) {
        self.submit_spec(id, jobspec(json!({})));
    }

    pub(super) fn submit_spec(&mut self, id: u64, spec: Value) {
        assert_eq!(self.try_submit(id, spec), None);
    }

    /// Submits; the refusal, if any.
    pub(super) fn try_submit(&mut self, id: u64, spec: Value) -> Option<String> {
        let tag = self.announce(id, 1000, 0, spec);
        self.settle();
        let answer = self.rig.response(tag).unwrap();
        let text = answer["errors"].get(0)?[1].as_str().unwrap().to_string();
        Some(text)
    }

    /// The next request to somebody else, which must have this topic; its body.
    pub(super) fn expect(&mut self, topic: &str) -> (Message, Value) {
        self.settle();
        let message = self.out.pop_front().unwrap_or_else(|| panic!("no request, wanted {topic}"));
        assert_eq!(message.topic(), topic);
        let body = message.json().unwrap_or(Value::Null);
        (message, body)
    }

    pub(super) fn quiet(&mut self) {
        self.settle();
        let topics: Vec<_> = self.out.iter().map(|m| m.topic().to_string()).collect();
        assert!(topics.is_empty(), "unexpected requests {topics:?}");
    }

    /// Answers a request without matchtag.
    pub(super) fn answer(&mut self, request: &Message, body: Value) {
        assert_eq!(request.matchtag(), 0);
        self.rig.reply(request, body);
        self.settle();
    }

    /// Takes the alloc request of a job.
    pub(super) fn expect_alloc(&mut self, id: u64) -> Message {
        let (message, body) = self.expect("sched.alloc");
        assert_eq!(body["id"], id);
        message
    }

    /// The scheduler's part: R in the KVS, then the answer.
    pub(super) fn grant(&mut self, request: &Message, id: u64) {
        self.store.insert(format!("{}.R", JobId(id).kvs()), r().to_string());
        self.answer(
            request,
            json!({"id": id, "type": 0, "R": r(),
                "annotations": {"sched": {"resource_summary": "rank0/core[0-1]"}}}),
        );
    }

    /// Allocates and starts a job; the start request.
    pub(super) fn run(&mut self, id: u64) -> Message {
        let alloc = self.expect_alloc(id);
        self.grant(&alloc, id);
        let (start, body) = self.expect("job-exec.start");
        assert_eq!((&body["id"], &body["reattach"]), (&json!(id), &json!(false)));
        self.say(&start, id, "start", json!({}));
        start
    }

    /// A response of execution.
    pub(super) fn say(&mut self, start: &Message, id: u64, kind: &str, data: Value) {
        self.answer(start, json!({"id": id, "type": kind, "data": data}));
    }

    /// Ends a running job.
    pub(super) fn end(&mut self, start: &Message, id: u64, status: i32) {
        self.say(start, id, "finish", json!({ "status": status }));
        self.say(start, id, "release", json!({"ranks": "all", "final": true}));
        let (_, free) = self.expect("sched.free");
        assert_eq!((&free["id"], &free["final"]), (&json!(id), &json!(true)));
    }

    /// Names of the events in the KVS; the log must be legal.
    pub(super) fn events(&self, id: u64) -> Vec<String> {
        let text = self.store.get(&format!("{}.eventlog", JobId(id).kvs())).unwrap();
        let log = Eventlog::parse(text).unwrap();
        legal_log(log.events()).unwrap();
        log.events().iter().map(|event| event.name.clone()).collect()
    }

    /// Names of the events in the KVS, as one text.
    pub(super) fn log(&self, id: u64) -> String {
        self.events(id).join(" ")
    }

    /// The context of the last event of this name.
    pub(super) fn event(&self, id: u64, name: &str) -> Value {
        let text = self.store.get(&format!("{}.eventlog", JobId(id).kvs())).unwrap();
        let log = Eventlog::parse(text).unwrap();
        let event = log.events().iter().rev().find(|event| event.name == name);
        event.unwrap_or_else(|| panic!("no {name} in {text}")).context.clone().into()
    }

    /// An RPC that is answered once everything has settled.
    pub(super) fn call(&mut self, topic: &str, body: Value) -> Result<Value, String> {
        self.call_as(self.rig.owner(), topic, body)
    }

    pub(super) fn call_as(
        &mut self,
        cred: flux_proto::Cred,
        topic: &str,
        body: Value,
    ) -> Result<Value, String> {
        let tag = self.rig.request_as(cred, topic, body, false);
        self.settle();
        self.rig.response(tag).map_err(|error| error.message())
    }

    /// The exceptions that were published, as `type severity`.
    pub(super) fn published(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(event) = self.rig.events.pop_front() {
            let body: Value = event.json().unwrap();
            seen.push(format!("{} {body}", event.topic()));
        }
        seen
    }

    /// The end of a test: nothing unread.
    pub(super) fn finish(mut self) {
        self.quiet();
        self.rig.finish();
    }

    /// A crash: only what is in the KVS stays.
    pub(super) fn crash(self) -> Store {
        let Self { rig, store, .. } = self;
        std::mem::forget(rig);
        store
    }
}
