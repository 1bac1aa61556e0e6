//! Somebody who changes what must outlive every leader: drained nodes, queues that take or start no
//! jobs, jobs that are held, urgencies; and who looks, after each restart and in the end, whether
//! everything is as the instance said.
//!
//! One request at a time, so that what was acknowledged has an order. A change without an answer
//! may have happened or not, and if it went through another rank it may come late.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::Body;
use flux_api::job::ingest::{Submit, SubmitRequest, SubmitResponse};
use flux_api::job::manager::{
    List, ListRequest, QueueEnable, QueueEnable_, QueueName, QueueStart, QueueStart_, QueueStatus,
    QueueStatus_, Urgency, UrgencyRequest,
};
use flux_api::resource::{Drain, DrainRequest, ResourceStatus, Status, Undrain};
use flux_id::{Idset, JobId};
use flux_model::sign::wrap_none;
use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use super::{Phase, Purpose, Run, Task};
use crate::brokers::OWNER;
use crate::clients::Caller;
use crate::world::SEC;

/// Something that can be set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// 0, or the number in the reason why the rank is drained.
    Drained(u32),
    /// 0, or the number in the reason why the queue takes no jobs.
    Disabled(&'static str),
    /// 0, or the number in the reason why the queue starts no jobs.
    Stopped(&'static str),
    /// The urgency of a job that cannot start.
    Urgency(u64),
}

/// What a request of the administrator was for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    /// The job that is held, and those that wait for it.
    Job,
    /// A change by its number, to this value.
    Change(Key, u64, u64),
    Drains,
    Queue(&'static str),
    Jobs,
}

/// What is known of a setting.
#[derive(Debug, Default)]
struct Setting {
    acknowledged: u64,
    /// Changes that may have happened, by their number: the value, and whether they may come late.
    open: BTreeMap<u64, (u64, bool)>,
}

/// The administrator.
#[derive(Debug, Default)]
pub(super) struct Admin {
    caller: Option<Caller>,
    settings: BTreeMap<Key, Setting>,
    /// The job that is held, then those that wait for it.
    pub(super) jobs: Vec<u64>,
    /// Number of the newest change.
    changes: u64,
    /// Answers that are missing of a look at everything.
    missing: BTreeSet<&'static str>,
    /// Everything was looked at when all faults were over.
    pub(super) reviewed: bool,
}

const QUEUES: [&str; 2] = ["batch", "debug"];

/// What stands for no reason: named queues start no jobs before they are told to (RFC 33).
const UNTOLD: u64 = u64::MAX;

/// Why a queue is stopped while the leader ends.
const SHUTTING_DOWN: &str = "the instance is shutting down";

/// Jobs that wait for the one that is held.
const WAITING: usize = 3;

/// Time between two actions.
const PAUSE: u64 = SEC;

fn number(reason: &str) -> Option<u64> {
    reason.strip_prefix("admin ")?.parse().ok()
}

impl Run {
    pub(super) fn begin_admin(&mut self) {
        if self.scenario.faults.settings {
            self.ring(PAUSE, Task::Admin);
        }
    }

    /// The next action.
    pub(super) fn administrate(&mut self) {
        if self.phase != Phase::Load {
            return;
        }
        self.ring(PAUSE, Task::Admin);
        let Some(caller) = self.admin.caller else {
            let leader = self.elsewhere.chance(70);
            let rank = if leader { 0 } else { self.elsewhere.rank(0, self.scenario.size) };
            self.admin.caller = self.world.connect(rank);
            return;
        };
        if self.purposes.keys().any(|(who, _)| *who == caller) {
            return;
        }
        if let Some(queue) = QUEUES.into_iter().find(|queue| !self.was_started(queue)) {
            return self.change(caller, &Key::Stopped(queue), 0);
        }
        if self.admin.jobs.len() <= WAITING {
            return self.submit_held(caller);
        }
        if self.elsewhere.chance(30) {
            return self.look_at_settings(caller);
        }
        if self.elsewhere.chance(5) {
            self.world.hang_up_client(caller);
            self.forget(caller);
            self.admin.caller = None;
            return;
        }
        self.change_something(caller);
    }

    pub(super) fn admin_gone(&mut self, caller: Caller) {
        if self.admin.caller == Some(caller) {
            self.admin.caller = None;
            self.admin.missing.clear();
        }
    }

    fn submit_held(&mut self, caller: Caller) {
        let mut system = json!({"duration": 0});
        if let Some(held) = self.admin.jobs.first() {
            let value = JobId(*held).f58();
            system["dependencies"] = json!([{"scheme": "afterany", "value": value}]);
        }
        let slot = json!([{"type": "slot", "count": 1, "label": "task",
            "with": [{"type": "core", "count": 1}]}]);
        let jobspec = json!({
            "version": 1,
            "resources": slot,
            "tasks": [{"command": ["sleep", "0.1"], "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": system},
        });
        let j = wrap_none(jobspec.to_string().as_bytes(), OWNER);
        let urgency = if self.admin.jobs.is_empty() { 0 } else { 16 };
        let tag = self.world.call::<Submit>(caller, None, &SubmitRequest { j, urgency, flags: 0 });
        self.purposes.insert((caller, tag), Purpose::Admin(Asked::Job));
    }

    fn was_started(&self, queue: &'static str) -> bool {
        let setting = self.admin.settings.get(&Key::Stopped(queue));
        setting.is_some_and(|setting| setting.acknowledged != UNTOLD)
    }

    fn change_something(&mut self, caller: Caller) {
        let queue = *self.elsewhere.pick(&QUEUES).unwrap_or(&"debug");
        let key = match self.elsewhere.range(0, 10) {
            0..4 => Key::Drained(self.elsewhere.rank(0, self.scenario.size)),
            4..6 => Key::Disabled(queue),
            6..8 => Key::Stopped(queue),
            _ => {
                let at = usize::try_from(self.elsewhere.range(1, WAITING as u64 + 1)).unwrap_or(1);
                let Some(id) = self.admin.jobs.get(at).copied() else { return };
                Key::Urgency(id)
            }
        };
        let value = match &key {
            Key::Urgency(_) => self.elsewhere.range(0, 32),
            // Half of the changes undo something.
            _ if self.elsewhere.chance(50) => 0,
            _ => self.admin.changes + 1,
        };
        self.change(caller, &key, value);
    }

    fn change(&mut self, caller: Caller, key: &Key, value: u64) {
        self.admin.changes += 1;
        let change = self.admin.changes;
        let reason = (value > 0).then(|| format!("admin {value}"));
        let tag = match *key {
            Key::Drained(rank) => {
                let targets = rank.to_string();
                if value > 0 {
                    let mode = Some("overwrite".to_string());
                    let request = DrainRequest { targets, reason, mode };
                    self.world.call::<Drain>(caller, None, &request)
                } else {
                    let mode = Some("force".to_string());
                    let request = DrainRequest { targets, reason, mode };
                    self.world.call::<Undrain>(caller, None, &request)
                }
            }
            Key::Disabled(queue) => {
                let name = Some(queue.to_string());
                let request = QueueEnable { name, enable: value == 0, reason, all: false };
                self.world.call::<QueueEnable_>(caller, None, &request)
            }
            Key::Stopped(queue) => {
                let (name, start) = (Some(queue.to_string()), value == 0);
                let request = QueueStart {
                    name,
                    start,
                    reason,
                    all: false,
                    nocheckpoint: false,
                    ending: false,
                };
                self.world.call::<QueueStart_>(caller, None, &request)
            }
            Key::Urgency(id) => {
                let request = UrgencyRequest { id, urgency: i64::try_from(value).unwrap_or(16) };
                self.world.call::<Urgency>(caller, None, &request)
            }
        };
        self.count("settings changed");
        let late = caller.rank != 0;
        let setting = self.admin.settings.entry(key.clone()).or_insert_with(|| first(key));
        setting.open.insert(change, (value, late));
        let asked = Asked::Change(key.clone(), change, value);
        self.purposes.insert((caller, tag), Purpose::Admin(asked));
    }

    /// Reads everything that can be set.
    pub(super) fn look_at_settings(&mut self, caller: Caller) {
        self.count("looks at settings");
        self.admin.missing = BTreeSet::from(["drains", "jobs", QUEUES[0], QUEUES[1]]);
        let tag = self.world.call::<Status>(caller, Some(0), &Default::default());
        self.purposes.insert((caller, tag), Purpose::Admin(Asked::Drains));
        for queue in QUEUES {
            let request = QueueName { name: Some(queue.to_string()) };
            let tag = self.world.call::<QueueStatus_>(caller, Some(0), &request);
            self.purposes.insert((caller, tag), Purpose::Admin(Asked::Queue(queue)));
        }
        let tag = self.world.call::<List>(caller, Some(0), &ListRequest { max_entries: 100_000 });
        self.purposes.insert((caller, tag), Purpose::Admin(Asked::Jobs));
    }

    pub(super) fn admin_hears(&mut self, asked: Asked, message: &Message) {
        let ok = message.errnum() == Errno::OK;
        match asked {
            Asked::Job => {
                if let Ok(SubmitResponse { id }) = SubmitResponse::take(message) {
                    if !self.admin.jobs.is_empty() {
                        let urgency = self.admin.settings.entry(Key::Urgency(id)).or_default();
                        urgency.acknowledged = 16;
                    }
                    self.admin.jobs.push(id);
                    self.oracle.jobs.insert(id, self.world.now);
                }
            }
            Asked::Change(key, change, value) => {
                let Some(setting) = self.admin.settings.get_mut(&key) else { return };
                if ok {
                    setting.acknowledged = value;
                    // What went to the same leader before has happened before.
                    setting.open.retain(|number, (_, late)| *number > change || *late);
                    setting.open.remove(&change);
                    self.count("settings acknowledged");
                } else if !matches!(
                    message.errnum(),
                    Errno::EHOSTUNREACH | Errno::EAGAIN | Errno::ENOSYS | Errno::ETIMEDOUT
                ) {
                    setting.open.remove(&change);
                }
            }
            Asked::Drains if ok => {
                self.admin.missing.remove("drains");
                self.see_drains(message);
            }
            Asked::Queue(queue) if ok => {
                self.admin.missing.remove(queue);
                let Ok(status) = QueueStatus::take(message) else { return };
                let disabled = match status.disable_reason {
                    _ if status.enable => Some(0),
                    text => reason(text.as_deref()),
                };
                // A queue that was started may still wait for a scheduler that starts.
                let started = status.start || status.blocked.is_some();
                let said = status.stop_reason;
                let stopped = if started { Some(0) } else { reason(said.as_deref()) };
                self.see(&Key::Disabled(queue), disabled);
                // The leader stops its queues before it ends, and does not remember it.
                let ending = !started && said.as_deref() == Some(SHUTTING_DOWN);
                if !(self.leaving && ending) {
                    self.see(&Key::Stopped(queue), stopped);
                }
            }
            Asked::Jobs if ok => {
                self.admin.missing.remove("jobs");
                self.see_jobs(message);
            }
            Asked::Drains | Asked::Queue(_) | Asked::Jobs => {}
        }
    }

    /// Whether a look has come to its end, each time without an error.
    pub(super) fn seen_all(&self) -> bool {
        self.admin.missing.is_empty()
    }

    fn see(&mut self, key: &Key, value: Option<u64>) {
        let nothing = first(key);
        let setting = self.admin.settings.get(key).unwrap_or(&nothing);
        let known = value == Some(setting.acknowledged)
            || setting.open.values().any(|(open, _)| value == Some(*open));
        if !known {
            let text = format!(
                "{key:?} is {value:?}, but {} was acknowledged (open: {:?})",
                setting.acknowledged, setting.open
            );
            self.world.violation(text);
        }
    }

    fn see_drains(&mut self, message: &Message) {
        let Ok(status) = ResourceStatus::take(message) else { return };
        let mut drained: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for (ranks, info) in &status.drain {
            let ranks: Idset = ranks.parse().unwrap_or_default();
            let reason = info.get("reason").and_then(Value::as_str).and_then(number);
            drained.extend(ranks.ids().map(|rank| (rank, reason)));
        }
        for rank in 0..self.scenario.size {
            self.see(&Key::Drained(rank), drained.get(&rank).copied().unwrap_or(Some(0)));
        }
    }

    fn see_jobs(&mut self, message: &Message) {
        let body: Value = message.json().unwrap_or_default();
        let jobs = body.get("jobs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let urgencies: BTreeMap<u64, u64> = jobs
            .iter()
            .filter_map(|job| Some((job.get("id")?.as_u64()?, job.get("urgency")?.as_u64()?)))
            .collect();
        for (at, id) in self.admin.jobs.clone().into_iter().enumerate() {
            match urgencies.get(&id) {
                None => {
                    let name = JobId(id).f58();
                    self.world.violation(format!("job {name} is held, but not among active jobs"));
                }
                Some(0) if at == 0 => {}
                Some(urgency) if at == 0 => {
                    self.world.violation(format!("the held job has urgency {urgency}"));
                }
                Some(urgency) => self.see(&Key::Urgency(id), Some(*urgency)),
            }
        }
    }

    /// Undoes everything, so that all jobs come to their end.
    pub(super) fn release(&mut self, caller: Caller, active: &[Value]) {
        for job in active {
            let id = job.get("id").and_then(Value::as_u64);
            if let (Some(id), Some(0)) = (id, job.get("urgency").and_then(Value::as_u64)) {
                let request = UrgencyRequest { id, urgency: 16 };
                let tag = self.world.call::<Urgency>(caller, Some(0), &request);
                self.purposes.insert((caller, tag), Purpose::Ignored);
            }
        }
        let request = QueueEnable { name: None, enable: true, reason: None, all: true };
        let tag = self.world.call::<QueueEnable_>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), Purpose::Ignored);
        let request = QueueStart {
            name: None,
            start: true,
            reason: None,
            all: true,
            nocheckpoint: false,
            ending: false,
        };
        let tag = self.world.call::<QueueStart_>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), Purpose::Ignored);
    }
}

/// A setting that nobody has changed.
fn first(key: &Key) -> Setting {
    let acknowledged = if matches!(key, Key::Stopped(_)) { UNTOLD } else { 0 };
    Setting { acknowledged, open: BTreeMap::new() }
}

fn reason(text: Option<&str>) -> Option<u64> {
    text.map_or(Some(UNTOLD), number)
}
