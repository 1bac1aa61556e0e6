//! Hosts and resources that are added or taken away while the instance runs (RFC 28 knows no such
//! thing: the scheduler is told all resources again, and asks the job manager who holds what).

use flux_api::RpcError;
use flux_api::driver::{Read, ReadResources};
use flux_api::resource::ResourceGet;
use flux_id::Idset;
use flux_model::resource_set::ResourceSet;
use flux_model::roster::Roster;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, Value};

use crate::config::ResourceConfig;
use crate::drain::Hosts;
use crate::inventory::{Inventory, configured};
use crate::service::{ResourceService, Wait};
use crate::writer::Change;

/// So often a rank that is not in R asks its parent again whether it is by now.
const TRIES: u32 = 8;

/// What has changed since the start.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Ranks whose hosts are gone for good.
    pub(crate) removed: Idset,
    /// Ranks that came while the instance runs.
    added: Idset,
    /// The file with R is being read again.
    pub(crate) reading: bool,
    tries: u32,
    /// What R is to be when all that is wanted is stored.
    pub(crate) wanted: Option<Inventory>,
}

impl ResourceService {
    /// Number of brokers: that of the hosts, where it may change.
    pub(crate) fn brokers(&self, size: u32) -> u32 {
        size.max(u32::try_from(self.settings.hosts.len()).unwrap_or(u32::MAX))
    }

    /// The hosts of a configuration, where ranks follow them.
    ///
    /// # Errors
    /// EINVAL for a list that is none, or lacks a host that is online.
    pub(crate) fn next_hosts(
        &self,
        config: &Map<String, Value>,
    ) -> Result<Option<Roster>, RpcError> {
        if !self.settings.has_bootstrap {
            return Ok(None);
        }
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let roster = Roster::of(config).map_err(|error| invalid(error.to_string()))?;
        let Some(roster) = roster else { return Ok(None) };
        roster.follows(&self.settings.hosts).map_err(|error| invalid(error.to_string()))?;
        let former = u32::try_from(self.settings.hosts.len()).unwrap_or(u32::MAX);
        let here = roster.gone(former).intersection(&self.online);
        if here.is_empty() {
            return Ok(Some(roster));
        }
        let text = format!(
            "bootstrap.hosts: {} (rank {here}) is online: drain it and stop its broker before it \
             is removed",
            self.hosts.list(&here)
        );
        Err(invalid(text))
    }

    /// Whether the resources of a configuration can be used with these hosts.
    ///
    /// # Errors
    /// EINVAL with what is wrong.
    pub(crate) fn check_config(&self, set: &ResourceSet, names: &[String]) -> Result<(), RpcError> {
        let mut settings = self.settings.clone();
        settings.hosts = names.to_vec();
        let config = ResourceConfig { config: Some(set.clone()), ..ResourceConfig::default() };
        configured(&settings, &config).map(drop)
    }

    /// The hosts are these from now on, and R may be another one, too.
    pub(crate) fn take_hosts(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        roster: Option<Roster>,
        path: Option<String>,
    ) {
        if cx.rank() == 0
            && let Some(roster) = &roster
        {
            // Who takes that rank later is another node.
            let gone = roster.gone(self.brokers(0)).intersection(&self.drained.ranks());
            if !gone.is_empty() {
                self.want(cx, Change::Exclude(gone));
            }
        }
        let moved = self.note_hosts(roster);
        if cx.rank() > 0 {
            if moved {
                // The parent's R is another one soon, or is already.
                self.copy = None;
                self.ask_again_us = 0;
                self.growth.tries = 0;
                self.ask_parent(cx);
            }
            return;
        }
        if !self.loaded || self.inventory.is_none() {
            return;
        }
        match path {
            Some(path) if self.config.config.is_none() => {
                self.growth.reading = true;
                let request = ReadResources { path, xml: false };
                cx.call::<Read>(To::Rank(0), &request, Wait::File);
            }
            _ => self.compare(cx),
        }
    }

    /// Whether the hosts are others than before.
    fn note_hosts(&mut self, roster: Option<Roster>) -> bool {
        let Some(roster) = roster else { return false };
        if roster.names == self.settings.hosts && roster.removed == self.growth.removed {
            return false;
        }
        let former = u32::try_from(self.settings.hosts.len()).unwrap_or(u32::MAX);
        let size = roster.size();
        if size > former {
            self.growth.added.insert_range(former..=size - 1);
        }
        self.growth.added.remove_all(&roster.gone(former));
        self.growth.removed = roster.removed;
        self.hosts = Hosts::new(roster.names.clone());
        self.settings.hosts = roster.names;
        true
    }

    /// The file with R.
    pub(crate) fn file_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        self.growth.reading = false;
        match reply.decode::<Read>() {
            Ok(read) => {
                if read.r.is_some() {
                    self.settings.config_r = read.r;
                }
                self.compare(cx);
            }
            Err(error) => cx.log(Level::Err, format!("resource.path: {error}; R stays as it is")),
        }
    }

    /// Defines R anew, if it is another one than before.
    fn compare(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(inventory) = self.latest() else { return };
        let next = match configured(&self.settings, &self.config) {
            Ok(Some(r)) => Inventory { r, method: "configuration" },
            Ok(None) => {
                let known = if self.settings.has_bootstrap {
                    Idset::first_n(self.brokers(0)).difference(&self.growth.removed)
                } else {
                    inventory.r.ranks()
                };
                let gone = inventory.r.ranks().difference(&known);
                Inventory { r: inventory.r.without_ranks(&gone), ..inventory.clone() }
            }
            Err(error) => {
                return cx.log(Level::Err, format!("{}; R stays as it is", error.message()));
            }
        };
        self.redefine(cx, next);
    }

    /// R as it will be: a change may be on its way to the disk.
    fn latest(&self) -> Option<&Inventory> {
        let wanted = self.growth.wanted.as_ref();
        wanted.or(self.inventory.as_ref()).filter(|_| self.inventory.is_some())
    }

    fn redefine(&mut self, cx: &mut Cx<'_, Wait>, next: Inventory) {
        let Some(former) = &self.inventory else { return };
        let mut next = Inventory { r: next.r.with_queues(&self.config.queues), ..next };
        if next.r.set_times(former.r.starttime, former.r.expiration).is_err() {
            cx.log(Level::Warning, "the times of R are not valid");
        }
        if self.latest().is_some_and(|latest| next.r.to_value() == latest.r.to_value()) {
            return;
        }
        self.growth.wanted = Some(next.clone());
        cx.log(Level::Info, format!("resources are defined anew: {}", next.r.summary()));
        self.plan_define(cx, next);
    }

    /// Hardware that a broker has found which came while the instance runs.
    pub(crate) fn found_more(&mut self, cx: &mut Cx<'_, Wait>, set: ResourceSet) {
        let Some(inventory) = self.latest() else { return };
        let new = set.ranks().intersection(&self.growth.added).difference(&inventory.r.ranks());
        if inventory.method == "configuration" || new.is_empty() {
            return;
        }
        match ResourceSet::union_all([inventory.r.clone(), set.copy_ranks(&new)]) {
            Ok(r) => {
                let next = Inventory { r, ..inventory.clone() };
                self.redefine(cx, next);
            }
            Err(error) => cx.log(Level::Err, format!("hardware of rank {new}: {error}")),
        }
    }

    /// Whether this rank is not in R yet: it has come before R was defined anew, and asks again.
    pub(crate) fn is_missing(&mut self, cx: &mut Cx<'_, Wait>, got: &ResourceGet) -> bool {
        let Ok(r) = ResourceSet::from_value(&got.r) else { return false };
        if !self.settings.has_bootstrap
            || r.children(cx.rank()).is_some()
            || self.growth.tries >= TRIES
        {
            return false;
        }
        self.growth.tries += 1;
        self.ask_later(cx);
        true
    }
}
