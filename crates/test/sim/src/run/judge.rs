//! When all faults are over: everything comes to its end, and is as was promised.

use std::collections::BTreeMap;

use flux_api::Body;
use flux_api::job::list::{List as JobListRpc, ListRequest as ListAll};
use flux_api::job::manager::{JournalResponse, List, ListRequest, ListResponse};
use flux_api::kvs::{Lookup, LookupRequest, PRIMARY};
use flux_api::lifecycle::{GroupGet, GroupMembers, GroupName};
use flux_api::resource::{DrainRequest, Undrain};
use flux_id::{Idset, JobId};
use flux_proto::{Errno, Message};
use serde_json::Value;

use super::load::{text_of, value_of};
use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::world::SEC;

/// Time between looks.
const LOOK: u64 = 5 * SEC;

/// Time that every broker must have lived before a run is judged.
const CALM: u64 = 20 * SEC;

impl Run {
    /// Looks whether everything has ended.
    pub(super) fn look(&mut self) {
        if self.phase == Phase::Load {
            self.world.heal();
            self.enter(Phase::Recovery);
        }
        if self.phase != Phase::Recovery {
            return;
        }
        self.ring(LOOK, Task::Look);
        let all = (0..self.scenario.size).all(|rank| self.world.is_alive(rank));
        if self.world.now < self.phase_began + CALM || !all {
            return;
        }
        let Some(caller) = self.auditor else { return };
        if self.purposes.iter().any(|((who, _), what)| *who == caller && *what == Purpose::Active) {
            return;
        }
        if !self.reviewed(caller) {
            return;
        }
        let targets = match self.scenario.size {
            1 => "0".to_string(),
            size => format!("0-{}", size - 1),
        };
        let request = DrainRequest { targets, reason: None, mode: Some("force".to_string()) };
        let tag = self.world.call::<Undrain>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), Purpose::Ignored);
        let name = "broker.online".to_string();
        let tag = self.world.call::<GroupGet>(caller, Some(0), &GroupName { name });
        self.purposes.insert((caller, tag), Purpose::Online);
        let tag = self.world.call::<List>(caller, Some(0), &ListRequest { max_entries: 100_000 });
        self.purposes.insert((caller, tag), Purpose::Active);
    }

    /// Looks whether everything that was set is as it was set, before it is set otherwise.
    fn reviewed(&mut self, caller: Caller) -> bool {
        if self.admin.reviewed || !self.scenario.faults.settings {
            return true;
        }
        if self.review == Some(caller) && self.seen_all() {
            self.admin.reviewed = true;
            return true;
        }
        let asking = |what: &Purpose| matches!(what, Purpose::Admin(_));
        if !self.purposes.iter().any(|((who, _), what)| *who == caller && asking(what)) {
            self.review = Some(caller);
            self.look_at_settings(caller);
        }
        false
    }

    /// Who is online: in the end, everybody.
    pub(super) fn online(&mut self, message: &Message) {
        let members = GroupMembers::take(message).map_or(String::new(), |group| group.members);
        let members: Idset = members.parse().unwrap_or_default();
        self.all_online = members.len() == u64::from(self.scenario.size);
    }

    pub(super) fn active(&mut self, caller: Caller, message: &Message) {
        if self.phase != Phase::Recovery {
            return;
        }
        let list = ListResponse::take(message).map(|list| list.jobs);
        if self.scenario.faults.settings
            && let Ok(jobs) = &list
            && !jobs.is_empty()
        {
            self.release(caller, jobs);
        }
        let idle = message.errnum() == Errno::OK && list.is_ok_and(|jobs| jobs.is_empty());
        let quiet = self.world.unanswered(u64::MAX).is_empty();
        self.calm = if idle && quiet && self.all_online { self.calm + 1 } else { 0 };
        // The last events of jobs that are over may still be on their way to the disk.
        if self.calm > 1 {
            self.enter(Phase::Judgement);
            self.ask();
        }
    }

    fn read_key(&mut self, caller: Caller, key: String, purpose: Purpose) {
        let request = LookupRequest {
            key,
            flags: 0,
            namespace: Some(PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        let tag = self.world.call::<Lookup>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), purpose);
        self.auditing += 1;
    }

    /// Asks for everything that was promised.
    fn ask(&mut self) {
        let Some(caller) = self.auditor else { return };
        let ids: Vec<u64> = self.oracle.jobs.keys().copied().collect();
        for id in ids {
            self.read_key(caller, format!("{}.eventlog", JobId(id).kvs()), Purpose::Log(id));
            self.read_key(caller, format!("{}.R", JobId(id).kvs()), Purpose::Resources(id));
        }
        let request = ListAll {
            max_entries: 0,
            attrs: vec!["state".to_string(), "result".to_string()],
            constraint: None,
            since: 0.0,
            userid: None,
            states: None,
            results: None,
            name: None,
            queue: None,
        };
        let tag = self.world.call::<JobListRpc>(caller, Some(0), &request);
        self.purposes.insert((caller, tag), Purpose::Listed);
        self.auditing += 1;
        if self.scenario.faults.reloads {
            self.ask_configurations(caller);
        }
        let keys: Vec<String> = self.oracle.keys.keys().cloned().collect();
        for key in keys {
            self.read_key(caller, key.clone(), Purpose::Key(key));
        }
    }

    /// Events as they happened: none illegal, and in the end the same as in the eventlog.
    pub(super) fn journal_says(&mut self, message: &Message) {
        let Ok(said) = JournalResponse::take(message) else { return };
        if let Ok(id) = u64::try_from(said.id) {
            self.journal.entry(id).or_default().extend(said.events);
        }
    }

    /// What `job-list` says of every job.
    pub(super) fn listed(&mut self, message: &Message) {
        let body: Value = message.json().unwrap_or_default();
        let jobs = body.get("jobs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let states: BTreeMap<u64, u64> = jobs
            .iter()
            .filter_map(|job| Some((job.get("id")?.as_u64()?, job.get("state")?.as_u64()?)))
            .collect();
        if states.len() != jobs.len() {
            let text = format!("job-list: {} rows of {} jobs", jobs.len(), states.len());
            self.world.violation(text);
        }
        self.janitor.listed = states;
        self.judged();
    }

    /// Replaying the eventlog gives what listeners saw live.
    fn compare(&self, id: u64, log: &str) -> Result<(), String> {
        let Ok(log) = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()
        else {
            return Err(format!("job {id}: eventlog is no JSON"));
        };
        let seen = self.journal.get(&id).map_or(&[][..], Vec::as_slice);
        // Some events are for listeners only.
        let durable: Vec<&Value> = seen.iter().filter(|event| log.contains(event)).collect();
        if durable.len() == log.len() && durable.into_iter().eq(log.iter()) {
            return Ok(());
        }
        let name = JobId(id).f58();
        Err(format!("job {name}: the journal had {seen:?}, the eventlog has {log:?}"))
    }

    pub(super) fn judge(&mut self, _caller: Caller, purpose: Purpose, message: &Message) {
        let errnum = message.errnum();
        let text = if errnum == Errno::OK { text_of(message) } else { None };
        self.world.trace.line(self.world.now, || format!("{purpose:?}: {text:?}"));
        let verdict = match purpose {
            Purpose::Log(id) => match text {
                Some(text) => {
                    self.logs.insert(id, text);
                    Ok(())
                }
                // Whether it was purged is judged when everything is known.
                None if errnum == Errno::ENOENT => Ok(()),
                None => {
                    let name = JobId(id).f58();
                    Err(format!("job {name} was acknowledged but is lost: {}", errnum.text()))
                }
            },
            Purpose::Resources(id) => match self.logs.get(&id) {
                Some(log) => {
                    let same = self.compare(id, log);
                    self.oracle.judge_job(id, log, text.as_deref()).and(same)
                }
                None => Ok(()),
            },
            Purpose::Key(key) => {
                let value = if errnum == Errno::OK { value_of(message) } else { None };
                self.judge_onlookers(&key, value);
                self.oracle
                    .judge_key(&key, value)
                    .and_then(|()| self.oracle.judge_twin(&key, value))
            }
            _ => Ok(()),
        };
        if let Err(text) = verdict {
            self.world.violation(text);
        }
        self.judged();
    }

    fn judged(&mut self) {
        self.auditing -= 1;
        if self.auditing == 0 {
            // Times of a clock that was set tell nothing; that processes share no core is seen
            // where they run.
            if !self.scenario.faults.clocks {
                for text in self.oracle.double_allocations() {
                    self.world.violation(text);
                }
                self.judge_order();
            }
            self.judge_presence();
            self.begin_shutdown();
        }
    }
}
