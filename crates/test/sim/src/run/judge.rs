//! When all faults are over: everything comes to its end, and is as was promised.

use flux_api::Body;
use flux_api::job::manager::{List, ListRequest, ListResponse};
use flux_api::kvs::{Lookup, LookupRequest, PRIMARY};
use flux_api::lifecycle::{GroupGet, GroupMembers, GroupName};
use flux_id::{Idset, JobId};
use flux_proto::{Errno, Message};

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
            self.world.disk.fails = None;
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
        let name = "broker.online".to_string();
        let tag = self.world.call::<GroupGet>(caller, Some(0), &GroupName { name });
        self.purposes.insert((caller, tag), Purpose::Online);
        let tag = self.world.call::<List>(caller, Some(0), &ListRequest { max_entries: 100_000 });
        self.purposes.insert((caller, tag), Purpose::Active);
    }

    /// Who is online: in the end, everybody.
    pub(super) fn online(&mut self, message: &Message) {
        let members = GroupMembers::take(message).map_or(String::new(), |group| group.members);
        let members: Idset = members.parse().unwrap_or_default();
        self.all_online = members.len() == u64::from(self.scenario.size);
    }

    pub(super) fn active(&mut self, message: &Message) {
        if self.phase != Phase::Recovery {
            return;
        }
        let idle = message.errnum() == Errno::OK
            && ListResponse::take(message).is_ok_and(|list| list.jobs.is_empty());
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
        let keys: Vec<String> = self.oracle.keys.keys().cloned().collect();
        for key in keys {
            self.read_key(caller, key.clone(), Purpose::Key(key));
        }
        if self.auditing == 0 {
            self.begin_shutdown();
        }
    }

    pub(super) fn judge(&mut self, _caller: Caller, purpose: Purpose, message: &Message) {
        self.auditing -= 1;
        let errnum = message.errnum();
        let text = if errnum == Errno::OK { text_of(message) } else { None };
        self.world.trace.line(self.world.now, || format!("{purpose:?}: {text:?}"));
        let verdict = match purpose {
            Purpose::Log(id) => match text {
                Some(text) => {
                    self.logs.insert(id, text);
                    Ok(())
                }
                None => {
                    let name = JobId(id).f58();
                    Err(format!("job {name} was acknowledged but is lost: {}", errnum.text()))
                }
            },
            Purpose::Resources(id) => match self.logs.get(&id) {
                Some(log) => self.oracle.judge_job(id, log, text.as_deref()),
                None => Ok(()),
            },
            Purpose::Key(key) => {
                let value = if errnum == Errno::OK { value_of(message) } else { None };
                self.oracle.judge_key(&key, value)
            }
            _ => Ok(()),
        };
        if let Err(text) = verdict {
            self.world.violation(text);
        }
        if self.auditing == 0 {
            for text in self.oracle.double_allocations() {
                self.world.violation(text);
            }
            self.begin_shutdown();
        }
    }
}
