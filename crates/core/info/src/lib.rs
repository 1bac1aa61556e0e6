//! `job-info`: a job's data for its owner (RFC 41).
//!
//! Lookups read keys of the job's directory. A watch of the main eventlog follows it to `clean`. A
//! watch below `guest.` follows the job's namespace while it runs and then the directory that the
//! namespace became; it counts what it has sent, so that nothing is lost or doubled between them.
//!
//! Read first: [`InfoService`], [`watch::Watch`]. Must never: show a job to another user.

mod behind;
mod lookup;
pub mod updates;
pub mod watch;

use std::collections::BTreeMap;

use flux_api::job::info::{Info, UpdateWatch_};
use flux_api::kvs::{self, CancelRequest, LookupRequest};
use flux_api::{Answer, RpcError};
use flux_id::JobId;
use flux_model::treeobj::Treeobj;
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Reply, Service, Tag, To};
use serde_json::{Value, json};

pub use crate::behind::Missing;
use crate::lookup::{Lookup, Target};
use crate::watch::Watch;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The eventlog of a job, to know its owner.
    Owner(u64),
    /// One key of a lookup: in which attempt, and which.
    Key(u64, u32, usize),
    /// What a job's `guest` is now.
    Guest(u64),
    /// The main eventlog of a watch.
    Main(u64),
    /// The guest eventlog of a watch.
    Space(u64),
    /// The guest eventlog where it stays.
    Rest(u64),
    /// The object that an update watch follows.
    Base(u64),
    /// How far the leader is.
    Newest(u64, Missing),
    /// To be as far as the leader was.
    CaughtUp(u64, Missing),
    /// Word on a cancel.
    Ended,
}

/// The `job-info` service.
#[derive(Debug, Default)]
pub struct InfoService {
    lookups: BTreeMap<u64, Lookup>,
    watches: BTreeMap<u64, Watch>,
    next: u64,
}

/// Key of a job's directory entry.
fn key(id: u64, name: &str) -> String {
    format!("{}.{name}", JobId(id).kvs())
}

/// A lookup in the primary namespace.
fn primary(id: u64, name: &str, flags: u32) -> LookupRequest {
    LookupRequest {
        key: key(id, name),
        flags,
        namespace: Some(kvs::PRIMARY.to_string()),
        rootdir: None,
        rootseq: None,
        userid: None,
    }
}

/// The text of a looked-up value.
fn text_of(val: &Value) -> Result<String, RpcError> {
    let bad = |text: String| RpcError::new(Errno::EPROTO, text);
    match Treeobj::from_value(val) {
        Ok(Treeobj::Val(data)) => {
            String::from_utf8(data).map_err(|_| bad("the value is not UTF-8".to_string()))
        }
        Ok(_) => Err(RpcError::bare(Errno::EISDIR)),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// The user of a job, from the `submit` event that begins its eventlog.
fn owner_of(eventlog: &str) -> Option<u32> {
    let first = eventlog.lines().next()?;
    let event = flux_model::eventlog::Event::decode(first).ok()?;
    if event.name != "submit" {
        return None;
    }
    event.get_i64("userid").and_then(|userid| u32::try_from(userid).ok())
}

fn may_see(cred: Cred, eventlog: &str) -> Result<(), RpcError> {
    if cred.rolemask.contains(Rolemask::OWNER) || owner_of(eventlog) == Some(cred.userid) {
        return Ok(());
    }
    Err(RpcError::new(Errno::EPERM, "access is restricted to job/instance owner"))
}

fn no_job() -> RpcError {
    RpcError::new(Errno::ENOENT, "invalid job id")
}

impl InfoService {
    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Asks for the eventlog of a job to learn its owner, unless the owner of the instance asks.
    fn ask_owner(cx: &mut Cx<'_, Wait>, ticket: u64, id: u64) {
        cx.call::<kvs::Lookup>(
            To::Rank(cx.rank()),
            &primary(id, "eventlog", 0),
            Wait::Owner(ticket),
        );
    }

    fn owner_known(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        if let Some(error) = reply.error()
            && self.look_again(cx, ticket, Missing::Owner, error)
        {
            return;
        }
        let eventlog = reply
            .decode::<kvs::Lookup>()
            .map_err(|error| if error.errno == Errno::ENOENT { no_job() } else { error })
            .and_then(|response| text_of(&response.val));
        if let Some(lookup) = self.lookups.get(&ticket) {
            match eventlog.and_then(|text| may_see(lookup.cred(), &text)) {
                Ok(()) => self.read_keys(cx, ticket),
                Err(error) => self.fail_lookup(cx, ticket, &error),
            }
            return;
        }
        if let Some(watch) = self.watches.get(&ticket) {
            match eventlog.and_then(|text| may_see(watch.cred(), &text)) {
                Ok(()) => self.begin_watch(cx, ticket),
                Err(error) => self.end_watch(cx, ticket, Err(error)),
            }
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_, Wait>, request: &CancelRequest, head: &Message) {
        let found = self
            .watches
            .iter()
            .find(|(_, watch)| watch.is_of(request.matchtag, head))
            .map(|(ticket, _)| *ticket);
        if let Some(ticket) = found {
            self.end_watch(cx, ticket, Ok(()));
        }
    }

    /// Ends a stream of `kvs-watch` that is no longer wanted.
    fn end_stream(cx: &mut Cx<'_, Wait>, tag: Tag) {
        cx.forget(tag);
        let here = To::Rank(cx.rank());
        cx.notify::<kvs::WatchCancel>(here, &CancelRequest { matchtag: tag });
    }

    fn legacy_lookup(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        name: String,
        answer: Answer<flux_api::job::info::UpdateLookup>,
    ) {
        let flags = flux_api::job::info::JSON_DECODE | flux_api::job::info::CURRENT;
        self.look_up(cx, id, vec![name], flags, Target::Update(answer));
    }

    fn update_watch(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        key: &str,
        answer: Answer<UpdateWatch_>,
    ) {
        if !matches!(key, "R" | "jobspec") {
            let text = "update-watch unsupported key specified";
            return answer.err(cx, RpcError::new(Errno::EINVAL, text));
        }
        let ticket = self.ticket();
        self.watches.insert(ticket, Watch::update(id, key, answer));
        self.admit_watch(cx, ticket);
    }

    fn admit_watch(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(watch) = self.watches.get(&ticket) else { return };
        if watch.cred().rolemask.contains(Rolemask::OWNER) {
            self.begin_watch(cx, ticket);
        } else {
            Self::ask_owner(cx, ticket, watch.id());
        }
    }
}

impl Service for InfoService {
    type Api = Info;
    type Wait = Wait;

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Info) {
        match call {
            Info::Lookup(call) => {
                let request = call.request;
                self.look_up(
                    cx,
                    request.id,
                    request.keys,
                    request.flags,
                    Target::Info(call.answer),
                );
            }
            Info::EventlogWatch_(call) => {
                let ticket = self.ticket();
                self.watches.insert(ticket, Watch::eventlog(&call.request, call.answer));
                self.admit_watch(cx, ticket);
            }
            Info::EventlogCancel(call) => {
                self.cancel(cx, &call.request, call.answer.head());
                call.answer.forget();
            }
            Info::UpdateWatch_(call) => {
                self.update_watch(cx, call.request.id, &call.request.key, call.answer);
            }
            Info::UpdateCancel(call) => {
                self.cancel(cx, &call.request, call.answer.head());
                call.answer.forget();
            }
            Info::UpdateLookup(call) => {
                self.legacy_lookup(cx, call.request.id, call.request.key, call.answer);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Owner(ticket) => self.owner_known(cx, ticket, &reply),
            Wait::Key(ticket, attempt, at) => self.key_read(cx, (ticket, attempt, at), &reply),
            Wait::Guest(ticket) => self.guest_known(cx, ticket, &reply),
            Wait::Main(ticket) => self.main_log(cx, ticket, &reply),
            Wait::Space(ticket) => self.guest_log(cx, ticket, &reply),
            Wait::Rest(ticket) => self.rest_read(cx, ticket, &reply),
            Wait::Base(ticket) => self.base_read(cx, ticket, &reply),
            Wait::Newest(ticket, what) => self.newest_known(cx, ticket, what, &reply),
            Wait::CaughtUp(ticket, what) => self.caught_up(cx, ticket, what, &reply),
            Wait::Ended => {}
        }
    }

    fn on_timer(&mut self, _cx: &mut Cx<'_, Wait>, _wait: Wait) {}

    fn on_disconnect(&mut self, cx: &mut Cx<'_, Wait>, message: &Message) {
        let gone: Vec<u64> = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.sent_by(message))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in gone {
            self.drop_watch(cx, ticket);
        }
        self.lookups.retain(|_, lookup| !lookup.drop_if(message));
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        let error = RpcError::new(Errno::ENOSYS, "job-info is shutting down");
        let watches: Vec<u64> = self.watches.keys().copied().collect();
        for ticket in watches {
            self.end_watch(cx, ticket, Err(error.clone()));
        }
        let lookups: Vec<u64> = self.lookups.keys().copied().collect();
        for ticket in lookups {
            self.fail_lookup(cx, ticket, &error);
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        let guests = self.watches.values().filter(|watch| watch.is_guest()).count();
        let updates = self.watches.values().filter(|watch| watch.is_update()).count();
        Some(json!({
            "lookups": self.lookups.len(),
            "watchers": self.watches.len() - guests - updates,
            "guest_watchers": guests,
            "update_lookups": 0,
            "update_watchers": updates,
        }))
    }
}

#[cfg(test)]
mod tests;
