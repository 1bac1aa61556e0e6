//! `list` and `list-id`.

use flux_api::job::list::{List, ListId_};
use flux_api::kvs::{self, LookupRequest};
use flux_api::{Call, RpcError};
use flux_id::JobId;
use flux_model::job_event::{JobState, StateMask};
use flux_proto::Errno;
use flux_svc::{Cx, Reply, To};

use crate::query::{Query, Setting, TARGETS_MAX};
use crate::waiters::{WAITERS_MAX, Waiter};
use crate::{Early, ListService, Wait, attrs, overloaded, send_text};

/// Time for the journal to tell of a job that the KVS has, in microseconds.
pub(crate) const TELL_WITHIN_US: u64 = 30_000_000;

impl ListService {
    /// `job-list.list`.
    pub(crate) fn list(&mut self, cx: &mut Cx<'_, Wait>, call: Call<List>) {
        let request = &call.request;
        let setting = Setting {
            targets_max: TARGETS_MAX.max(cx.size() as usize),
            parents: &self.settings.parents,
        };
        let checked = attrs::parse(&request.attrs).and_then(|attrs| {
            Ok((attrs, Query::of(request, setting, self.settings.max_comparisons)?))
        });
        let (attrs, mut query) = match checked {
            Ok(checked) => checked,
            Err(error) => return call.answer.err(cx, error),
        };
        // Active jobs are known first.
        let inactive = query.states().contains(JobState::Inactive);
        if !self.follow.is_synced() || (inactive && !self.is_complete()) {
            return self.hold(cx, Early::List(call));
        }
        let (request, answer) = (call.request, call.answer);
        let only = self.is_confined(answer.cred()).then(|| answer.cred().userid);
        let streaming = answer.is_streaming();
        let mut text = String::from("{\"jobs\":[");
        let mut found: u64 = 0;
        for job in self.store.walk(query.states(), request.since) {
            self.looked_at += 1;
            if only.is_some_and(|user| user != job.userid) {
                continue;
            }
            match query.matches(&job) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return answer.err(cx, error),
            }
            if streaming {
                text.clear();
                text.push_str(if found == 0 { "{\"version\":1,\"jobs\":[" } else { "{\"jobs\":[" });
                job.write(&mut text, &attrs);
                text.push_str("]}");
                send_text(cx, answer.head(), &text);
            } else {
                if found > 0 {
                    text.push(',');
                }
                job.write(&mut text, &attrs);
            }
            found += 1;
            if found == request.max_entries {
                break;
            }
        }
        if streaming {
            return answer.end(cx);
        }
        text.push_str("]}");
        send_text(cx, answer.head(), &text);
        answer.forget();
    }

    /// `job-list.list-id`.
    pub(crate) fn list_id(&mut self, cx: &mut Cx<'_, Wait>, call: Call<ListId_>) {
        let checked = attrs::parse(&call.request.attrs).and_then(|attrs| {
            let state = call.request.state.map(|bit| {
                let text = "invalid payload: state is not the number of a job state";
                JobState::from_bit(bit).ok_or_else(|| RpcError::new(Errno::EPROTO, text))
            });
            Ok((attrs, state.transpose()?))
        });
        let (attrs, state) = match checked {
            Ok(checked) => checked,
            Err(error) => return call.answer.err(cx, error),
        };
        let id = call.request.id;
        let waiter = Waiter { answer: call.answer, attrs, state };
        let Some(waiter) = self.try_answer(cx, id, waiter) else { return };
        if self.waiters.len() >= WAITERS_MAX {
            return waiter.answer.err(cx, overloaded("list-id requests that wait"));
        }
        self.waiters.add(id, waiter);
        // Before the past is known, and while the journal is paused, nothing can be said of it.
        if self.is_complete() && !self.follow.is_paused() && !self.store.knows(id) {
            self.ask_existence(cx, id);
        }
    }

    /// Answers, or gives the waiter back.
    fn try_answer(&self, cx: &mut Cx<'_, Wait>, id: u64, waiter: Waiter) -> Option<Waiter> {
        let Some(job) = self.store.get(id) else { return Some(waiter) };
        if self.is_confined(waiter.answer.cred()) && waiter.answer.cred().userid != job.userid {
            waiter.answer.err(cx, Errno::ENOENT);
            return None;
        }
        if waiter.state.is_some_and(|state| job.state < state) {
            return Some(waiter);
        }
        let mut text = String::from("{\"job\":");
        job.write(&mut text, &waiter.attrs);
        text.push('}');
        send_text(cx, waiter.answer.head(), &text);
        waiter.answer.forget();
        None
    }

    /// A job changed.
    pub(crate) fn wake(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if self.waiters.is_empty() {
            return;
        }
        for waiter in self.waiters.take(id) {
            if let Some(waiter) = self.try_answer(cx, id, waiter) {
                self.waiters.add(id, waiter);
            }
        }
    }

    /// There is no such job, or it is gone.
    pub(crate) fn absent(&mut self, cx: &mut Cx<'_, Wait>, id: u64, error: &RpcError) {
        for waiter in self.waiters.take(id) {
            waiter.answer.err(cx, error.clone());
        }
    }

    /// Asks the KVS whether it has a job that the journal has not told of (yet).
    pub(crate) fn ask_existence(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if !self.lookups.insert(id) {
            return;
        }
        let request = LookupRequest {
            key: format!("{}.eventlog", JobId(id).kvs()),
            flags: 0,
            namespace: Some(kvs::PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        cx.call::<kvs::Lookup>(To::Rank(cx.rank()), &request, Wait::Exists(id));
    }

    /// What the KVS said. If it has the job, the journal will tell of it soon, unless the manager
    /// cannot read it.
    pub(crate) fn existence(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        self.lookups.remove(&id);
        if self.store.knows(id) {
            return;
        }
        match reply.error() {
            Some(error) => self.absent(cx, id, error),
            None => drop(cx.timer(TELL_WITHIN_US, Wait::GiveUp(id))),
        }
    }

    /// The journal has had time enough to tell of a job.
    pub(crate) fn give_up(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let follows = self.follow.is_synced() && !self.follow.is_paused();
        if follows && !self.store.knows(id) {
            self.absent(cx, id, &Errno::ENOENT.into());
        }
    }

    /// Number of jobs in these states.
    #[must_use]
    pub fn count(&self, states: StateMask) -> u64 {
        self.store.counts.in_states(states)
    }
}
