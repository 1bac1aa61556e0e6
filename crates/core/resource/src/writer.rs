//! Changes that must last: checked one after the other against what those before them will have
//! done, stored together, and effective when they are durable.

use flux_api::body::AnyObject;
use flux_api::kvs::{APPEND, Commit, CommitRequest, Operation, PRIMARY};
use flux_api::resource::{Drain, ExpirationUpdate, Reload, Undrain};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_id::Idset;
use flux_model::eventlog::{Context, Event};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, To};

use crate::drain::DrainState;
use crate::inventory::Inventory;
use crate::parts::{PartState, split};
use crate::service::{CHANGED, ResourceService, Wait};

/// How long to wait before a change that nobody else repeats is stored again, in microseconds.
const RETRY_US: u64 = 1_000_000;

/// A change that somebody wants.
#[derive(Debug)]
pub(crate) enum Change {
    Drain(Call<Drain>),
    Undrain(Call<Undrain>),
    /// Rank 0 found its own hardware wrong.
    SelfDrain(String),
    Expiration(Call<ExpirationUpdate>),
    Define(Inventory, Idset),
    /// Another inventory, on request.
    Reload(Box<Inventory>, Idset, Answer<Reload>),
    /// Ranks that are excluded now, and drained no more.
    Exclude(Idset),
}

#[derive(Debug)]
enum Promise {
    Drain(Answer<Drain>),
    Undrain(Answer<Undrain>),
    Expiration(Answer<ExpirationUpdate>),
    Reload(Answer<Reload>),
    /// Nobody waits; it is tried again.
    Again(Change),
}

#[derive(Debug, Default)]
struct Batch {
    events: Vec<Event>,
    promises: Vec<Promise>,
    drained: DrainState,
    parts: PartState,
    inventory: Option<Inventory>,
    excluded: Option<Idset>,
    expiration: Option<f64>,
}

/// Changes to be stored next, and those being stored.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    queue: Vec<Change>,
    flight: Option<Batch>,
}

impl Writer {
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none() && self.queue.is_empty()
    }
}

impl ResourceService {
    /// Wants a change.
    pub(crate) fn want(&mut self, cx: &mut Cx<'_, Wait>, change: Change) {
        self.writer.queue.push(change);
        self.write(cx);
    }

    /// Stores what is wanted, unless a commit is on its way or the state is not read yet.
    pub(crate) fn write(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.loaded || self.writer.flight.is_some() {
            return;
        }
        let mut batch = Batch {
            drained: self.drained.clone(),
            parts: self.parts.clone(),
            inventory: self.inventory.clone(),
            ..Batch::default()
        };
        let mut rewrite = false;
        let mut stores_r = false;
        for change in std::mem::take(&mut self.writer.queue) {
            match &change {
                Change::Define(..) | Change::Reload(..) => {
                    rewrite = self.history_len > super::service::COMPACT_AT;
                    stores_r = true;
                }
                Change::Expiration(_) => stores_r = true,
                _ => {}
            }
            self.plan(cx, change, &mut batch);
        }
        if batch.events.is_empty() {
            // Nothing is left to do for those whose change changes nothing.
            return finish(cx, batch.promises);
        }
        let mut ops = Vec::new();
        if let Some(inventory) = batch.inventory.as_ref().filter(|_| stores_r) {
            let r = inventory.r.to_value().to_string();
            let dirent = Treeobj::val(r).into();
            ops.push(Operation { key: "resource.R".to_string(), flags: 0, dirent });
        }
        let events = batch.events.iter().map(Event::encode);
        let (flags, text): (u32, String) = if rewrite {
            let mut old = self.drained.compact(&self.hosts);
            old.extend(self.parts.compact(&self.hosts));
            (0, old.iter().map(Event::encode).chain(events).collect())
        } else {
            (APPEND, events.collect())
        };
        let dirent = Treeobj::val(text).into();
        ops.push(Operation { key: "resource.eventlog".to_string(), flags, dirent });
        self.writer.flight = Some(batch);
        let request = CommitRequest { namespace: PRIMARY.to_string(), flags: 0, ops };
        cx.call::<Commit>(To::Any, &request, Wait::Commit);
    }

    /// Adds a change to a batch, or refuses it.
    fn plan(&mut self, cx: &mut Cx<'_, Wait>, change: Change, batch: &mut Batch) {
        let now = cx.wall();
        let excluded = batch.excluded.clone().unwrap_or_else(|| self.excluded.clone());
        match change {
            Change::Drain(call) if split(&call.request.targets).is_some() => {
                let r = batch.inventory.as_ref().map(|inventory| &inventory.r);
                match batch.parts.drain(&call.request, &self.hosts, r, &excluded, now) {
                    Ok(event) => {
                        batch.events.extend(event);
                        batch.promises.push(Promise::Drain(call.answer));
                    }
                    Err(error) => call.answer.err(cx, error),
                }
            }
            Change::Undrain(call) if split(&call.request.targets).is_some() => {
                let r = batch.inventory.as_ref().map(|inventory| &inventory.r);
                match batch.parts.undrain(&call.request, &self.hosts, r, now) {
                    Ok(event) => {
                        batch.events.extend(event);
                        batch.promises.push(Promise::Undrain(call.answer));
                    }
                    Err(error) => call.answer.err(cx, error),
                }
            }
            Change::Drain(call) => {
                match batch.drained.drain(&call.request, &self.hosts, &excluded, now) {
                    Ok(events) => {
                        batch.events.extend(events);
                        batch.promises.push(Promise::Drain(call.answer));
                    }
                    Err(error) => call.answer.err(cx, error),
                }
            }
            Change::Undrain(call) => {
                let partly = batch.parts.ranks();
                match batch.drained.undrain(&call.request, &self.hosts, &partly, now) {
                    Ok(events) => {
                        batch.events.extend(events);
                        // A node that is undrained is whole again.
                        if let Ok(ranks) = self.hosts.targets(&call.request.targets) {
                            let why = call.request.reason.as_deref();
                            batch.events.extend(batch.parts.clear(&ranks, &self.hosts, now, why));
                        }
                        batch.promises.push(Promise::Undrain(call.answer));
                    }
                    Err(error) => call.answer.err(cx, error),
                }
            }
            Change::SelfDrain(reason) => {
                let request = flux_api::resource::DrainRequest {
                    targets: "0".to_string(),
                    reason: Some(reason.clone()),
                    mode: Some("update".to_string()),
                };
                match batch.drained.drain(&request, &self.hosts, &excluded, now) {
                    Ok(events) => {
                        batch.events.extend(events);
                        batch.promises.push(Promise::Again(Change::SelfDrain(reason)));
                    }
                    Err(error) => cx.log(Level::Err, format!("cannot drain rank 0: {error}")),
                }
            }
            Change::Expiration(call) => {
                let expiration = call.request.expiration;
                let Some(inventory) = &mut batch.inventory else {
                    return call.answer.err(cx, RpcError::new(Errno::ENOENT, "R is not known yet"));
                };
                let start = inventory.r.starttime;
                if let Err(error) = inventory.r.set_times(start, expiration) {
                    return call.answer.err(cx, RpcError::new(Errno::EINVAL, error.to_string()));
                }
                batch.expiration = Some(expiration);
                let mut context = Context::new();
                context.insert("expiration".to_string(), expiration.into());
                batch.events.push(Event::new(now, "resource-update").with_context(context));
                batch.promises.push(Promise::Expiration(call.answer));
            }
            Change::Exclude(excluded) => {
                batch.events.extend(batch.drained.clear(&excluded, &self.hosts, now, None));
                batch.events.extend(batch.parts.clear(&excluded, &self.hosts, now, None));
                batch.promises.push(Promise::Again(Change::Exclude(excluded)));
            }
            Change::Define(inventory, excluded) => {
                self.plan_inventory(now, &inventory, &excluded, batch);
                batch.promises.push(Promise::Again(Change::Define(inventory, excluded)));
            }
            Change::Reload(inventory, excluded, answer) => {
                self.plan_inventory(now, &inventory, &excluded, batch);
                batch.promises.push(Promise::Reload(answer));
            }
        }
    }

    fn plan_inventory(&self, now: f64, inventory: &Inventory, excluded: &Idset, batch: &mut Batch) {
        let mut context = Context::new();
        context.insert("method".to_string(), inventory.method.into());
        batch.events.push(Event::new(now, "resource-define").with_context(context));
        batch.events.extend(batch.drained.clear(excluded, &self.hosts, now, None));
        batch.events.extend(batch.parts.clear(excluded, &self.hosts, now, None));
        batch.parts.keep_known(&inventory.r);
        batch.inventory = Some(inventory.clone());
        batch.excluded = Some(excluded.clone());
    }

    /// A commit came back.
    pub(crate) fn committed(&mut self, cx: &mut Cx<'_, Wait>, result: Result<(), RpcError>) {
        let Some(batch) = self.writer.flight.take() else { return };
        match result {
            Ok(()) => self.effect(cx, batch),
            Err(error) => self.refuse(cx, batch, &error),
        }
        self.write(cx);
        self.finish_drain(cx);
    }

    fn effect(&mut self, cx: &mut Cx<'_, Wait>, batch: Batch) {
        self.drained = batch.drained;
        self.parts = batch.parts;
        let of = |event: &Event| matches!(&*event.name, "resource-define" | "resource-update");
        if self.inventory.is_some() && batch.events.iter().any(of) {
            // Followers have a copy.
            cx.publish(CHANGED, &AnyObject::default(), true);
        }
        self.inventory = batch.inventory;
        if batch.events.iter().any(|event| event.name == "resource-define")
            && let Some(acquirer) = &mut self.acquirer
        {
            // The scheduler begins anew with what there is now.
            acquirer.start_anew();
        }
        if let Some(excluded) = batch.excluded {
            self.excluded = excluded;
        }
        let r = self.inventory.as_ref().map(|inventory| inventory.r.to_value());
        for event in batch.events {
            let defines = event.name == "resource-define";
            if matches!(&*event.name, "drain" | "undrain" | "drain-part" | "undrain-part") {
                cx.log(Level::Info, log_line(&event));
            }
            self.journal.post(cx, event, r.as_ref().filter(|_| defines));
            if defines {
                self.verify_rank_0(cx);
            }
        }
        finish(cx, batch.promises);
        self.tell_scheduler(cx, &Idset::new());
        if let Some(expiration) = batch.expiration {
            self.tell_expiration(cx, expiration);
        }
    }

    /// Nothing of it is stored, so nothing has changed.
    fn refuse(&mut self, cx: &mut Cx<'_, Wait>, batch: Batch, error: &RpcError) {
        cx.log(Level::Err, format!("cannot store resource events: {error}"));
        let text = format!("resource event cannot be stored: {error}");
        let told = RpcError::new(error.errno, text);
        for promise in batch.promises {
            match promise {
                Promise::Drain(answer) => answer.err(cx, told.clone()),
                Promise::Undrain(answer) => answer.err(cx, told.clone()),
                Promise::Expiration(answer) => answer.err(cx, told.clone()),
                Promise::Reload(answer) => answer.err(cx, told.clone()),
                Promise::Again(change) => {
                    self.postponed.push(change);
                    if self.postponed.len() == 1 {
                        cx.timer(RETRY_US, Wait::WriteAgain);
                    }
                }
            }
        }
    }

    /// Takes up what could not be stored.
    pub(crate) fn write_again(&mut self, cx: &mut Cx<'_, Wait>) {
        let postponed = std::mem::take(&mut self.postponed);
        self.writer.queue.splice(0..0, postponed);
        self.write(cx);
    }

    /// Answers what can no longer be stored: the broker goes down.
    pub(crate) fn abandon_changes(&mut self, cx: &mut Cx<'_, Wait>) {
        let error = RpcError::new(Errno::ECANCELED, "the resource module was unloaded");
        for change in std::mem::take(&mut self.writer.queue) {
            match change {
                Change::Drain(call) => call.answer.err(cx, error.clone()),
                Change::Undrain(call) => call.answer.err(cx, error.clone()),
                Change::Expiration(call) => call.answer.err(cx, error.clone()),
                Change::Reload(_, _, answer) => answer.err(cx, error.clone()),
                Change::SelfDrain(_) | Change::Define(..) | Change::Exclude(_) => {}
            }
        }
    }
}

fn finish(cx: &mut Cx<'_, Wait>, promises: Vec<Promise>) {
    for promise in promises {
        match promise {
            Promise::Drain(answer) => answer.ok(cx, &Empty),
            Promise::Undrain(answer) => answer.ok(cx, &Empty),
            Promise::Expiration(answer) => answer.ok(cx, &Empty),
            Promise::Reload(answer) => answer.ok(cx, &Empty),
            Promise::Again(_) => {}
        }
    }
}

fn log_line(event: &Event) -> String {
    let text = |key: &str| event.get_str(key).unwrap_or_default().to_string();
    let overwrite = event.get_i64("overwrite").unwrap_or_default();
    let part = ["cores", "gpus"].map(|key| match event.get_str(key) {
        Some(ids) if !ids.is_empty() => format!(" {key}={ids}"),
        _ => String::new(),
    });
    let reason = event.get_str("reason").map(|why| format!(" reason={why}")).unwrap_or_default();
    format!(
        "{} idset={} nodelist={}{} overwrite={overwrite}{reason}",
        event.name,
        text("idset"),
        text("nodelist"),
        part.concat()
    )
}
