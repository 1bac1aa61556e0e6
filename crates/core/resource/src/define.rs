//! Start on rank 0: what an earlier run left in the KVS, then what the inventory is.

use flux_api::RpcError;
use flux_api::kvs::{Lookup, LookupRequest};
use flux_id::Idset;
use flux_model::eventlog::{Context, Event};
use flux_model::resource_set::ResourceSet;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use crate::drain::Hosts;
use crate::inventory::{Inventory, choose, inherited};
use crate::service::{ResourceService, Wait};
use crate::writer::Change;

/// How long to wait for a peer that has not started, in microseconds.
pub(crate) const PEER_US: u64 = 10_000;

/// Key of the eventlog, or of R.
fn key(eventlog: bool) -> (&'static str, Wait) {
    if eventlog { ("resource.eventlog", Wait::Eventlog) } else { ("resource.R", Wait::StoredR) }
}

impl ResourceService {
    /// Reads what is stored.
    pub(crate) fn load(&mut self, cx: &mut Cx<'_, Wait>) {
        self.look_up(cx, true);
        self.look_up(cx, false);
    }

    /// Reads one of the two keys.
    pub(crate) fn look_up(&mut self, cx: &mut Cx<'_, Wait>, eventlog: bool) {
        let (key, wait) = key(eventlog);
        let request = LookupRequest {
            key: key.to_string(),
            flags: 0,
            namespace: Some(flux_api::kvs::PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        cx.call::<Lookup>(To::Any, &request, wait);
    }

    /// One of the two keys, or that it is not there.
    pub(crate) fn loaded(&mut self, cx: &mut Cx<'_, Wait>, eventlog: bool, reply: &Reply) {
        let (key, wait) = key(eventlog);
        match value(reply) {
            // The store starts beside this service.
            Err(error) if error.errno == Errno::ENOSYS => {
                cx.timer(PEER_US, wait);
                return;
            }
            Ok(text) if eventlog => self.eventlog = Some(text.unwrap_or_default()),
            Ok(text) => {
                self.stored_read = true;
                self.stored = match text.map(|text| ResourceSet::parse(&text)).transpose() {
                    Ok(set) => set,
                    Err(error) => {
                        cx.log(Level::Err, format!("{key}: {error}; it is made anew"));
                        None
                    }
                };
            }
            // Who is drained must be known before anything runs.
            Err(error) => return cx.fail(format!("cannot read {key}: {error}")),
        }
        if !self.stored_read || self.eventlog.is_none() {
            return;
        }
        self.set_hosts(cx.size());
        self.replay(cx);
        self.post_restart(cx);
        self.loaded = true;
        self.watch_groups(cx);
        match choose(&self.settings, &self.config, self.stored.take(), cx.size()) {
            Ok(Some(inventory)) => {
                let queues = inventory.r.check_queues(&self.config.queues, &self.settings.hosts);
                if let Err(text) = queues {
                    return cx.fail(text);
                }
                let r = inventory.r.with_queues(&self.config.queues);
                self.plan_define(cx, Inventory { r, ..inventory });
            }
            Ok(None) => {
                self.discovering = true;
                self.define(cx);
            }
            Err(error) => return cx.fail(error.message()),
        }
        self.write(cx);
    }

    /// Hosts of ranks: as the program says, else as R says.
    fn set_hosts(&mut self, size: u32) {
        let mut names = self.settings.hosts.clone();
        if names.len() < size as usize {
            let r = self.config.config.as_ref().or(self.stored.as_ref());
            for rank in u32::try_from(names.len()).unwrap_or(size)..size {
                let host = r.and_then(|r| r.host(rank)).unwrap_or("unknown");
                names.push(host.to_string());
            }
        }
        self.hosts = Hosts::new(names);
    }

    fn replay(&mut self, cx: &mut Cx<'_, Wait>) {
        let text = self.eventlog.take().unwrap_or_default();
        let mut bad = 0;
        for line in text.lines() {
            match Event::decode(line) {
                Ok(event) => {
                    self.history_len += 1;
                    self.drained.replay(&event, &self.hosts);
                    self.parts.replay(&event, &self.hosts);
                    self.journal.post(cx, event, None);
                }
                Err(_) => bad += 1,
            }
        }
        if bad > 0 {
            cx.log(Level::Err, format!("resource.eventlog: {bad} lines are no events"));
        }
        self.eventlog = Some(String::new());
    }

    fn post_restart(&mut self, cx: &mut Cx<'_, Wait>) {
        let size = if self.settings.monitor_force_up { self.brokers(cx.size()) } else { cx.size() };
        let ranks = Idset::first_n(size);
        let mut context = Context::new();
        context.insert("ranks".to_string(), ranks.to_string().into());
        context.insert("online".to_string(), self.online.to_string().into());
        context.insert("nodelist".to_string(), self.hosts.list(&ranks).into());
        let event = Event::new(cx.wall(), "restart").with_context(context);
        self.journal.post(cx, event, None);
    }

    /// Every rank has reported: what was found is R, if nothing else is.
    pub(crate) fn define(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.discovering {
            return;
        }
        let Some(mut r) = self.found.take() else { return };
        self.discovering = false;
        // The end of the enclosing job holds whatever the hardware.
        if let Ok(Some(outer)) = inherited(&self.settings)
            && r.set_times(0.0, outer.expiration).is_err()
        {
            cx.log(Level::Warning, "R of the enclosing job has no valid expiration");
        }
        if let Err(text) = r.check_queues(&self.config.queues, &self.settings.hosts) {
            return cx.fail(text);
        }
        let r = r.with_queues(&self.config.queues);
        self.plan_define(cx, Inventory { r, method: "dynamic-discovery" });
    }

    pub(crate) fn plan_define(&mut self, cx: &mut Cx<'_, Wait>, inventory: Inventory) {
        match exclusion(
            self.config.exclude.as_deref(),
            &inventory.r,
            self.brokers(cx.size()),
            &self.settings.hosts,
        ) {
            Ok(excluded) => self.want(cx, Change::Define(inventory, excluded)),
            Err(error) if self.inventory.is_none() => cx.fail(error.message()),
            Err(error) => {
                self.growth.wanted = None;
                cx.log(Level::Err, format!("{}; R stays as it is", error.message()));
            }
        }
    }

    /// Compares the hardware of rank 0 with R, when both are known.
    pub(crate) fn verify_rank_0(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(inventory) = &self.inventory else { return };
        if let Some(reason) = self.faults(&inventory.r, self.rules(inventory.method)) {
            self.want(cx, Change::SelfDrain(reason));
        }
    }
}

/// Ranks that `resource.exclude` names.
///
/// # Errors
/// EINVAL when it is neither an idset nor a list of hosts, or names a host or rank that there is not.
/// One of `hosts` may be without resources.
pub(crate) fn exclusion(
    text: Option<&str>,
    r: &ResourceSet,
    size: u32,
    hosts: &[String],
) -> Result<Idset, RpcError> {
    match text {
        None => Ok(Idset::new()),
        Some(text) => {
            let ranks = r.excluded_by(text, size, hosts);
            ranks.map_err(|text| RpcError::new(Errno::EINVAL, text))
        }
    }
}

/// A value of the KVS as text; `None` when there is none.
fn value(reply: &Reply) -> Result<Option<String>, RpcError> {
    let found = match reply.decode::<Lookup>() {
        Ok(found) => found,
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = |text: &str| RpcError::new(Errno::EIO, text);
    match Treeobj::from_value(&found.val) {
        Ok(Treeobj::Val(bytes)) => {
            String::from_utf8(bytes).map(Some).map_err(|_| damaged("it is not text"))
        }
        _ => Err(damaged("it is not a value")),
    }
}
