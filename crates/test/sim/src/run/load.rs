//! The load: sessions at random ranks that submit, cancel, watch, commit and read.

use flux_api::job::info::{EventlogWatch, EventlogWatch_, InfoLookup, Lookup as InfoLookupRpc};
use flux_api::job::ingest::{Submit, SubmitRequest, SubmitResponse};
use flux_api::job::list::{ListId, ListId_};
use flux_api::job::manager::{Kill, KillRequest, Raise, RaiseRequest, Urgency, UrgencyRequest};
use flux_api::kvs::{
    Commit, CommitRequest, Lookup, LookupRequest, LookupResponse, Operation, PRIMARY,
};
use flux_api::resource::{Drain, DrainRequest, Undrain};
use flux_api::{Body, RpcError};
use flux_id::JobId;
use flux_model::sign::{Mechanism, unsigned, wrap_none};
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use serde_json::json;

use super::order::Demand;
use super::{Phase, Purpose, Run, Task};
use crate::brokers::{GUEST, OWNER};
use crate::clients::Caller;
use crate::world::{MS, SEC};

/// Somebody at work.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) caller: Option<Caller>,
    /// It does not own the instance.
    guest: bool,
    /// The newest value sent for its key.
    value: u64,
}

/// State of jobs that have ended.
pub(super) const INACTIVE: u32 = 64;

/// Least pause between two actions of a session.
const PAUSE: u64 = 5 * MS;

impl Run {
    pub(super) fn begin_load(&mut self) {
        for at in 0..self.scenario.sessions as usize {
            if self.sessions.len() <= at {
                let guest = self.scenario.faults.guests && at % 2 == 1;
                self.sessions.push(Session { guest, ..Session::default() });
            }
            self.ring(0, Task::Session(at));
        }
    }

    /// A session's next action.
    pub(super) fn session(&mut self, at: usize) {
        if self.phase != Phase::Load {
            return;
        }
        let each = 2 * self.scenario.length() / u64::from(self.scenario.jobs + 20);
        let pause = self.rng.range(PAUSE, (each * u64::from(self.scenario.sessions)).max(SEC));
        self.ring(pause, Task::Session(at));
        let Some(session) = self.sessions.get(at) else { return };
        let Some(caller) = session.caller else {
            let guest = session.guest;
            let rank = self.rng.rank(0, self.scenario.size);
            let caller = if guest {
                self.world.connect_guest(rank, GUEST)
            } else {
                self.world.connect(rank)
            };
            if let Some(session) = self.sessions.get_mut(at) {
                session.caller = caller;
            }
            return;
        };
        let guest = session.guest;
        match self.rng.range(0, 100) {
            50..85 if guest => self.trespass(caller),
            0..50 => {
                let crowd = self.scenario.faults.crowd;
                let burst = if self.rng.chance(15) || crowd { 8 } else { 1 };
                for _ in 0..burst {
                    self.submit(at, caller);
                }
            }
            50..75 => self.commit(at, caller),
            75..85 => self.read(caller),
            85..92 => self.disturb(caller),
            92..96 => self.hang_up(at, caller),
            _ => self.watch_job(caller),
        }
    }

    fn submit(&mut self, at: usize, caller: Caller) {
        if self.submitted >= self.scenario.jobs {
            return;
        }
        self.submitted += 1;
        let nodes = self.rng.range(1, u64::from(self.scenario.size.min(4)) + 1);
        let cores = self.rng.range(1, u64::from(self.scenario.cores) + 1);
        let milliseconds = match self.rng.range(0, 4) {
            0 => self.rng.range(0, 50),
            1..=2 => self.rng.range(50, 5_000),
            _ => self.rng.range(1_000, 30_000),
        };
        let whole = self.rng.chance(50);
        let (nodes, cores, milliseconds, whole) = if self.scenario.faults.crowd {
            // Each wants so much, for long enough that others wait.
            let nodes = u64::from(self.scenario.size.min(4));
            (nodes, u64::from(self.scenario.cores), 500 + milliseconds / 4, true)
        } else {
            (nodes, cores, milliseconds, whole)
        };
        let slot = json!({"type": "slot", "count": 1, "label": "task",
            "with": [{"type": "core", "count": cores}]});
        let resources = if whole {
            json!([{"type": "node", "count": nodes, "with": [slot]}])
        } else {
            json!([slot])
        };
        let duration = if self.rng.chance(20) { 1.5 } else { 0.0 };
        let demand = (if whole { nodes } else { 0 }, cores, duration > 0.0);
        let mut system = json!({"duration": duration});
        let guest = self.sessions.get(at).is_some_and(|session| session.guest);
        let known = self.jobs_of(guest);
        match self.rng.range(0, 10) {
            0 => {
                let time = format!("{:.3}", self.world.true_wall() + 3.0);
                system["dependencies"] = json!([{"scheme": "begin-time", "value": time}]);
            }
            1 => {
                if let Some(id) = self.rng.pick(&known).copied() {
                    let schemes = ["afterany", "afterok", "afterstart", "afternotok"];
                    let scheme = *self.rng.pick(&schemes).unwrap_or(&"afterany");
                    let value = JobId(id).f58();
                    system["dependencies"] = json!([{"scheme": scheme, "value": value}]);
                }
            }
            _ => {}
        }
        let jobspec = json!({
            "version": 1,
            "resources": resources,
            "tasks": [{"command": ["sleep", format!("{:.3}", milliseconds as f64 / 1e3)],
                "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": system},
        });
        let payload = jobspec.to_string();
        let most = if guest { 17 } else { 32 };
        let urgency = i64::try_from(self.rng.range(1, most)).unwrap_or(16);
        let j = if guest {
            // The instance does not verify it: that is the shell's.
            format!("{}.MUNGE:sim:", unsigned(payload.as_bytes(), GUEST, Mechanism::Munge))
        } else {
            wrap_none(payload.as_bytes(), OWNER)
        };
        if guest {
            self.count("jobs of guests submitted");
        }
        let request = SubmitRequest { j, urgency, flags: 0 };
        let tag = self.world.call::<Submit>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Submit(demand));
        self.count("jobs submitted");
    }

    fn key(at: usize) -> String {
        format!("test.session{at}.value")
    }

    fn twin(at: usize) -> String {
        format!("twin.session{at}")
    }

    fn commit(&mut self, at: usize, caller: Caller) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        session.value += 1;
        let value = session.value;
        let key = Self::key(at);
        self.world.trace.line(self.world.now, || {
            format!(
                "session {at} commits {value} as client {} on rank {}",
                caller.id.0, caller.rank
            )
        });
        self.oracle.sent(&key, value);
        self.oracle.sent(&Self::twin(at), value);
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            // Two keys that always change together.
            ops: [key.clone(), Self::twin(at)]
                .map(|key| Operation {
                    key,
                    flags: 0,
                    dirent: Treeobj::val(value.to_string().into_bytes()).into(),
                })
                .to_vec(),
        };
        let tag = self.world.call::<Commit>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Commit(key, value));
        self.count("commits");
    }

    pub(super) fn lookup(&mut self, caller: Caller, key: String, purpose: Purpose) {
        let request = LookupRequest {
            key,
            flags: 0,
            namespace: Some(PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        let tag = self.world.call::<Lookup>(caller, None, &request);
        self.purposes.insert((caller, tag), purpose);
    }

    /// Reads the key of some session, which may be behind.
    fn read(&mut self, caller: Caller) {
        let at = usize::try_from(self.rng.range(0, self.sessions.len() as u64)).unwrap_or(0);
        let key = Self::key(at);
        self.lookup(caller, key.clone(), Purpose::Lookup(key, 0));
    }

    /// Cancels a job, or changes its urgency.
    fn disturb(&mut self, caller: Caller) {
        let guest = self.world.is_guest(caller);
        let ids = self.jobs_of(guest);
        let Some(id) = self.rng.pick(&ids).copied() else { return };
        let faults = self.scenario.faults;
        // One person drains, or several do.
        let drains = faults.drains && !faults.settings && !guest;
        let tag = if drains && self.rng.chance(30) {
            let rank = self.rng.rank(0, self.scenario.size);
            let mode = Some("overwrite".to_string());
            let reason = Some("sim".to_string());
            let request = DrainRequest { targets: rank.to_string(), reason, mode };
            self.count("drains");
            if self.rng.chance(50) {
                self.world.call::<Drain>(caller, None, &request)
            } else {
                let request = DrainRequest { reason: None, mode: None, ..request };
                self.world.call::<Undrain>(caller, None, &request)
            }
        } else if self.scenario.faults.cancels && self.rng.chance(20) {
            let signum = if self.rng.chance(50) { 9 } else { 15 };
            self.count("signals");
            self.world.call::<Kill>(caller, None, &KillRequest { id, signum })
        } else if self.scenario.faults.cancels && self.rng.chance(60) {
            let request = RaiseRequest {
                id,
                severity: 0,
                kind: "cancel".to_string(),
                note: None,
                wait_status: None,
            };
            self.count("cancels");
            self.world.call::<Raise>(caller, None, &request)
        } else {
            let most = if guest { 17 } else { 32 };
            let urgency = i64::try_from(self.rng.range(1, most)).unwrap_or(16);
            self.world.call::<Urgency>(caller, None, &UrgencyRequest { id, urgency })
        };
        self.purposes.insert((caller, tag), Purpose::Ignored);
    }

    /// Jobs of a guest, or of the owner, without those that the administrator keeps.
    fn jobs_of(&self, guest: bool) -> Vec<u64> {
        let jobs = self.oracle.jobs.keys().copied();
        jobs.filter(|id| self.guests.contains(id) == guest && !self.admin.jobs.contains(id))
            .collect()
    }

    /// Somebody tries what only the owner may do; or does what everybody may do with a job that
    /// is their own.
    fn trespass(&mut self, caller: Caller) {
        let ids = self.jobs_of(false);
        let id = self.rng.pick(&ids).copied().unwrap_or(1);
        let (what, tag) = match self.rng.range(0, 9) {
            0 => {
                let keys = vec!["eventlog".to_string()];
                let request = InfoLookup { id, keys, flags: 0 };
                ("job-info.lookup", self.world.call::<InfoLookupRpc>(caller, None, &request))
            }
            1 => {
                let request = EventlogWatch { id, path: "eventlog".to_string(), flags: 0 };
                let tag = self.world.stream::<EventlogWatch_>(caller, None, &request);
                ("job-info.eventlog-watch", tag)
            }
            2 => {
                let request = RaiseRequest {
                    id,
                    severity: 0,
                    kind: "cancel".to_string(),
                    note: None,
                    wait_status: None,
                };
                ("job-manager.raise", self.world.call::<Raise>(caller, None, &request))
            }
            3 => {
                let request = KillRequest { id, signum: 9 };
                ("job-manager.kill", self.world.call::<Kill>(caller, None, &request))
            }
            4 => {
                let request = UrgencyRequest { id, urgency: 0 };
                ("job-manager.urgency", self.world.call::<Urgency>(caller, None, &request))
            }
            5 => {
                let targets = "0".to_string();
                let request = DrainRequest { targets, reason: None, mode: None };
                ("resource.drain", self.world.call::<Drain>(caller, None, &request))
            }
            6 => {
                let request = CommitRequest {
                    namespace: PRIMARY.to_string(),
                    flags: 0,
                    ops: vec![Operation {
                        key: Self::key(0),
                        flags: 0,
                        dirent: Treeobj::val(b"0".to_vec()).into(),
                    }],
                };
                ("kvs.commit", self.world.call::<Commit>(caller, None, &request))
            }
            _ => return self.disturb(caller),
        };
        self.count("trespasses");
        self.purposes.insert((caller, tag), Purpose::Forbidden(what));
    }

    fn watch_job(&mut self, caller: Caller) {
        let ids = self.jobs_of(self.world.is_guest(caller));
        let Some(id) = self.rng.pick(&ids).copied() else { return };
        if self.rng.chance(50) {
            let attrs = vec!["state".to_string()];
            let request = ListId { id, attrs, state: Some(INACTIVE) };
            let tag = self.world.call::<ListId_>(caller, None, &request);
            self.purposes.insert((caller, tag), Purpose::Ended(id));
            return self.count("waits for an end");
        }
        let request = EventlogWatch { id, path: "eventlog".to_string(), flags: 0 };
        let tag = self.world.stream::<EventlogWatch_>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Watch);
        self.count("watches");
    }

    fn hang_up(&mut self, at: usize, caller: Caller) {
        if self.scenario.faults.clients {
            self.world.hang_up_client(caller);
            self.forget(caller);
            self.count("client disconnects");
            if let Some(session) = self.sessions.get_mut(at) {
                session.caller = None;
            }
        }
    }

    pub(super) fn load_answered(&mut self, caller: Caller, purpose: Purpose, message: &Message) {
        let ok = message.errnum() == Errno::OK;
        match purpose {
            Purpose::Submit(demand) if ok => self.submitted_as(caller, demand, message),
            Purpose::Submit(_) => {
                self.count("submissions refused");
                self.note_error(message);
            }
            Purpose::Forbidden(what) if ok => {
                self.world.violation(format!("a guest may do {what} with what is the owner's"));
            }
            Purpose::Known(id) if message.errnum() == Errno::ENOENT => {
                self.not_known(id);
            }
            Purpose::Ended(id) if ok => {
                let job: serde_json::Value = message.json().unwrap_or_default();
                if job.pointer("/job/state").and_then(serde_json::Value::as_u64)
                    != Some(u64::from(INACTIVE))
                {
                    self.world.violation(format!("job-list says that {id} has ended: {job}"));
                }
            }
            Purpose::Commit(key, value) if ok => {
                self.oracle.acknowledged(&key, value);
                self.count("commits acknowledged");
                // Where a commit was acknowledged it can be read.
                self.lookup(caller, key.clone(), Purpose::Lookup(key, value));
            }
            Purpose::Commit(key, value) => {
                // Of these the leader says that the commit was undone.
                if matches!(message.errnum(), Errno::ENOSPC | Errno::EIO) {
                    self.oracle.refused(&key, value);
                }
                self.note_error(message);
            }
            Purpose::Lookup(key, at_least) => {
                let value = if ok { value_of(message) } else { None };
                let known = ok || message.errnum() == Errno::ENOENT;
                if known && !self.oracle.may_be(&key, value.unwrap_or(0), at_least) {
                    let text = format!(
                        "{key} reads as {value:?} where {at_least} was acknowledged before"
                    );
                    self.world.violation(text);
                }
            }
            _ => {}
        }
    }

    fn note_error(&mut self, message: &Message) {
        if let Some(error) = RpcError::of(message) {
            self.world.trace.line(self.world.now, || format!("{}: {error}", message.topic()));
        }
    }

    fn submitted_as(&mut self, caller: Caller, demand: Demand, message: &Message) {
        match SubmitResponse::take(message) {
            Ok(SubmitResponse { id }) => {
                if self.oracle.jobs.insert(id, self.world.now).is_some() {
                    self.world.violation(format!("job id {id} was given twice"));
                }
                self.order.demands.insert(id, demand);
                if self.world.is_guest(caller) {
                    self.guests.insert(id);
                }
                let keys = vec!["jobspec".to_string()];
                let request = InfoLookup { id, keys, flags: 0 };
                let tag = self.world.call::<InfoLookupRpc>(caller, None, &request);
                self.purposes.insert((caller, tag), Purpose::Known(id));
            }
            Err(error) => self.world.violation(format!("job-ingest.submit: {error}")),
        }
    }
}

/// The number in the response to a lookup.
pub(super) fn value_of(message: &Message) -> Option<u64> {
    text_of(message)?.parse().ok()
}

/// The text in the response to a lookup.
pub(super) fn text_of(message: &Message) -> Option<String> {
    let response = LookupResponse::take(message).ok()?;
    match Treeobj::from_value(&response.val).ok()? {
        Treeobj::Val(data) => String::from_utf8(data).ok(),
        _ => None,
    }
}
