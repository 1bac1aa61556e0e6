//! Hosts that are added to `bootstrap.hosts`, or taken away, while the instance runs.
//!
//! A rank keeps its host and its parent. New ranks come at the end of the list, and have the place
//! in the tree that the topology gives them; where that is below a broker which had no children
//! yet, it begins to listen. Ranks go at the end, or are marked as removed: their brokers must be
//! down.

use flux_api::RpcError;
use flux_id::{Hostlist, Idset};
use flux_model::roster::Roster;
use flux_proto::Errno;
use flux_svc::Level;
use flux_svc::engine::Output;
use serde_json::{Map, Value};

use crate::node::Node;
use crate::overlay::Child;
use crate::topology::Topology;

fn refused(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

impl Node {
    /// The roster and tree that a configuration asks for, where they are not those in use.
    ///
    /// # Errors
    /// EINVAL with what cannot be done while the instance runs.
    pub(crate) fn plan_growth(
        &self,
        config: &Map<String, Value>,
    ) -> Result<Option<(Roster, Topology)>, RpcError> {
        let Some(uri) = self.cfg.topo_uri.as_deref() else { return Ok(None) };
        let roster = Roster::of(config).map_err(|error| refused(error.to_string()))?;
        let Some(roster) = roster else { return Ok(None) };
        let (old, size) = (&self.cfg.topology, roster.size());
        let topology = Topology::parse(uri, size, &roster.parents)
            .map_err(|error| refused(format!("bootstrap.hosts: {error}")))?;
        if roster.names[..] == self.cfg.hostlist[..]
            && roster.removed == self.cfg.removed
            && self.same_keys(&roster)
            && topology == *old
        {
            return Ok(None);
        }
        if let Some(own) = self.cfg.own_key.as_ref().filter(|_| self.cfg.rank == 0)
            && roster.listed_keys().next().is_some()
            && roster.keys.first().and_then(Option::as_ref) != Some(own)
        {
            return Err(refused(
                "bootstrap.hosts: the key of this host is not that which is listed",
            ));
        }
        roster.follows(&self.cfg.hostlist).map_err(|error| refused(error.to_string()))?;
        for rank in 1..size.min(old.size()) {
            let (was, is) = (old.parent(rank).unwrap_or(0), topology.parent(rank).unwrap_or(0));
            if was != is {
                let text = format!(
                    "bootstrap.hosts: the parent of rank {rank} ({}) would change from rank {was} \
                     to rank {is}, which needs a restart of all brokers",
                    self.cfg.host(rank)
                );
                return Err(refused(text));
            }
        }
        if size <= self.cfg.rank || roster.removed.contains(self.cfg.rank) {
            return Err(refused(format!("bootstrap.hosts: this is rank {}", self.cfg.rank)));
        }
        let gone = roster.gone(old.size());
        for rank in 0..size {
            let parent = topology.parent(rank);
            if let Some(parent) = parent.filter(|parent| gone.contains(*parent))
                && !gone.contains(rank)
            {
                let text = format!(
                    "bootstrap.hosts: rank {parent} ({}) cannot be removed: it is the parent of \
                     rank {rank} ({})",
                    self.cfg.host(parent),
                    self.cfg.host(rank)
                );
                return Err(refused(text));
            }
        }
        for rank in gone.ids() {
            if self.overlay.children.get(&rank).is_some_and(|child| child.link.is_some()) {
                let text = format!(
                    "bootstrap.hosts: {} (rank {rank}) is online: drain it and stop its broker \
                     before it is removed",
                    self.cfg.host(rank)
                );
                return Err(refused(text));
            }
        }
        Ok(Some((roster, topology)))
    }

    fn same_keys(&self, roster: &Roster) -> bool {
        let none = |keys: &[Option<String>]| keys.iter().all(Option::is_none);
        roster.keys == self.cfg.keys || (none(&roster.keys) && none(&self.cfg.keys))
    }

    /// The instance has these brokers from now on.
    pub(crate) fn grow(&mut self, roster: Roster, topology: Topology) {
        let former = self.cfg.size();
        let size = roster.size();
        let names = |ranks: &Idset, from: &[String]| {
            let hosts = ranks.ids().filter_map(|rank| from.get(rank as usize));
            Hostlist::from_hosts(hosts).map(|list| list.to_string()).unwrap_or_default()
        };
        let mut added = self.cfg.removed.difference(&roster.removed);
        if size > former {
            added.insert_range(former..=size - 1);
        }
        added.remove_all(&roster.removed);
        let gone = roster.gone(former).difference(&self.cfg.removed);
        let mut text = format!("bootstrap.hosts has changed: {size} brokers");
        if !added.is_empty() {
            text += &format!(", new are {} (rank {added})", names(&added, &roster.names));
        }
        if !gone.is_empty() {
            text += &format!(", gone are {} (rank {gone})", names(&gone, &self.cfg.hostlist));
        }
        self.log("overlay", Level::Info, text);
        self.cfg.topology = topology;
        self.cfg.hostlist = roster.names.into();
        self.cfg.removed = roster.removed;
        self.take_keys(roster.keys);
        for seat in &mut self.seats {
            seat.port.size = size;
        }
        for rank in gone.ids() {
            if let Some(child) = self.overlay.children.remove(&rank) {
                self.overlay.count[child.status as usize] -= 1;
            }
        }
        let mut first = self.overlay.children.is_empty();
        for rank in self.cfg.topology.children(self.cfg.rank).to_vec() {
            if self.cfg.removed.contains(rank) || self.overlay.children.contains_key(&rank) {
                continue;
            }
            let child = Child { since: self.clock.mono_us, ..Child::default() };
            self.overlay.count[child.status as usize] += 1;
            self.overlay.children.insert(rank, child);
            if std::mem::take(&mut first) {
                self.out.push_back(Output::Adopt);
            }
        }
        self.rolled_up();
    }
}
