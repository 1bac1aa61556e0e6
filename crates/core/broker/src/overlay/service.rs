//! The `overlay` service: health, topology, monitors, and the links at somebody's request.

use flux_api::overlay::{
    ChildChange, ChildHealth, Health, Joined, Overlay as Api, OverlayStats, Subtree,
};
use flux_api::rpc::Answer;
use flux_api::{Empty, Rpc, RpcError};
use flux_proto::{Errno, Message};
use flux_svc::engine::Output;

use crate::node::Node;
use crate::overlay::parent::Uplink;
use crate::overlay::status::Status;

impl Node {
    pub(crate) fn overlay_call(&mut self, call: Api) {
        match call {
            Api::Health_(call) => {
                let health = self.health();
                if call.answer.is_streaming() {
                    self.item(&call.answer, &health);
                    self.overlay.health.push(call.answer);
                } else {
                    self.reply(call.answer, Ok(health));
                }
            }
            Api::Topology(call) => {
                let result = self.subtree(call.request.rank);
                self.reply(call.answer, result);
            }
            Api::OverlayTrace(call) => self.trace_links(call),
            Api::Monitor(call) => {
                let ranks: Vec<u32> = self.overlay.children.keys().copied().collect();
                for rank in ranks {
                    if let Some(change) = self.child_change(rank)
                        && (change.status != Status::Offline.name() || change.torpid)
                    {
                        self.item(&call.answer, &change);
                    }
                }
                self.overlay.monitors.push(call.answer);
            }
            Api::DisconnectSubtree(call) => {
                let result = self.disconnect_child(call.request.rank);
                self.reply(call.answer, result.map(|()| Empty));
            }
            Api::DisconnectParent(call) => {
                call.answer.forget();
                self.disconnect_parent(&call.request.reason);
            }
            Api::Join(call) => match &self.overlay.parent.state {
                Uplink::Root => self.reply(call.answer, Ok(Joined { uuid: String::new() })),
                Uplink::Joined(joint) => {
                    let uuid = joint.uuid.clone();
                    self.reply(call.answer, Ok(Joined { uuid }));
                }
                _ => {
                    self.overlay.joins.push(call.answer);
                    self.connect_parent();
                }
            },
            Api::Rejoin(call) => match self.rejoin() {
                Some(result) => self.reply(call.answer, result),
                None => self.overlay.rejoins.push(call.answer),
            },
            Api::Orphaned(call) => {
                if matches!(self.overlay.parent.state, Uplink::Lost | Uplink::Barred(_)) {
                    self.reply(call.answer, Ok(Empty));
                } else {
                    self.overlay.orphans.push(call.answer);
                }
            }
            Api::Leave(call) => {
                if self.overlay.parent.is_joined() {
                    self.overlay.leaves.push(call.answer);
                    if self.overlay.leaves.len() == 1 {
                        self.say_goodbye();
                    }
                } else {
                    self.reply(call.answer, Ok(Empty));
                }
            }
            Api::Spurn(call) => {
                self.overlay.spurn = true;
                self.out.push_back(Output::StopListening);
                if call.request.release {
                    self.overlay.releasing = true;
                    self.release_children();
                }
                self.reply(call.answer, Ok(Empty));
            }
            Api::Stats(call) => {
                let stats = self.overlay_stats();
                self.reply(call.answer, Ok(stats));
            }
            Api::Hello_(call) => self.only_between_brokers(call.answer),
            Api::Way_(call) => self.only_between_brokers(call.answer),
            Api::Moved_(call) => self.only_between_brokers(call.answer),
            Api::Drop_(call) => self.only_between_brokers(call.answer),
            Api::Goodbye(call) => self.only_between_brokers(call.answer),
        }
    }

    fn only_between_brokers<R: Rpc>(&mut self, answer: Answer<R>) {
        let text = format!("{} is spoken between neighbour brokers only", R::TOPIC);
        self.reply(answer, Err(RpcError::new(Errno::EPROTO, text)));
    }

    /// A client went away: its streams end without a word.
    pub(crate) fn overlay_disconnect(&mut self, message: &Message) {
        fn without<R: Rpc>(answers: &mut Vec<Answer<R>>, message: &Message) {
            let gone = answers.extract_if(.., |answer| answer.same_sender(message));
            gone.for_each(Answer::forget);
        }
        if message.service() == "overlay" {
            without(&mut self.overlay.health, message);
            without(&mut self.overlay.monitors, message);
            without(&mut self.overlay.joins, message);
            without(&mut self.overlay.rejoins, message);
            without(&mut self.overlay.orphans, message);
            without(&mut self.overlay.leaves, message);
        }
    }

    fn since(&self, since: u64) -> f64 {
        self.clock.mono_us.saturating_sub(since) as f64 / 1e6
    }

    fn health(&self) -> Health {
        let child = |(rank, child): (&u32, &crate::overlay::Child)| ChildHealth {
            rank: *rank,
            status: child.status.name().to_string(),
            duration: self.since(child.since),
            error: (!child.error.is_empty()).then(|| child.error.clone()),
        };
        Health {
            rank: self.cfg.rank,
            status: self.overlay.status.name().to_string(),
            duration: self.since(self.overlay.since),
            children: self.overlay.children.iter().map(child).collect(),
        }
    }

    fn subtree(&self, rank: u32) -> Result<Subtree, RpcError> {
        if rank != self.cfg.rank && !self.overlay.children.contains_key(&rank) {
            let text = "requested rank is not this broker or its direct child";
            return Err(RpcError::new(Errno::ENOENT, text));
        }
        // Children first, without recursion: a chain may be thousands deep.
        let tree = &self.cfg.topology;
        let moved = self.moved();
        let children = |rank: u32| match &moved {
            None => tree.children(rank),
            Some(moved) => moved.get(&rank).map(Vec::as_slice).unwrap_or_default(),
        };
        let mut order = vec![rank];
        let mut at = 0;
        while let Some(rank) = order.get(at) {
            let there = children(*rank).iter().copied();
            order.extend(there.filter(|rank| !self.cfg.removed.contains(*rank)));
            at += 1;
        }
        let mut done: std::collections::BTreeMap<u32, Subtree> = std::collections::BTreeMap::new();
        for rank in order.into_iter().rev() {
            let children = children(rank).iter().filter_map(|child| done.remove(child));
            let children: Vec<Subtree> = children.collect();
            let size = 1 + children.iter().map(|child| child.size).sum::<u32>();
            done.insert(rank, Subtree { rank, size, children });
        }
        done.remove(&rank).ok_or_else(|| RpcError::bare(Errno::ENOENT))
    }

    /// Children of each rank below this one, where they are not all at their configured place.
    /// Brokers that are not there count for where they belong.
    fn moved(&self) -> Option<std::collections::BTreeMap<u32, Vec<u32>>> {
        let below = self.overlay.below.as_ref().filter(|below| below.has_adopted())?;
        let tree = &self.cfg.topology;
        let mut children: std::collections::BTreeMap<u32, Vec<u32>> =
            std::collections::BTreeMap::new();
        let mut order = vec![self.cfg.rank];
        let mut at = 0;
        while let Some(&rank) = order.get(at) {
            at += 1;
            order.extend_from_slice(tree.children(rank));
            if rank != self.cfg.rank
                && let Some(parent) = below.adopter(rank).or(tree.parent(rank))
            {
                children.entry(parent).or_default().push(rank);
            }
        }
        children.values_mut().for_each(|ranks| ranks.sort_unstable());
        Some(children)
    }

    fn overlay_stats(&self) -> OverlayStats {
        let connected = self.overlay.children.values().filter(|child| child.link.is_some());
        OverlayStats {
            child_count: self.overlay.children.len() as u64,
            child_connected: connected.count() as u64,
            parent_count: u64::from(self.overlay.parent.is_joined()),
            parent_rpc: self.overlay.parent.traffic.sent.len() as u64,
            child_rpc: self.overlay.tracked_below() as u64,
        }
    }

    fn child_change(&self, rank: u32) -> Option<ChildChange> {
        let child = self.overlay.children.get(&rank)?;
        let below = self.overlay.below.as_ref().map(|below| below.set(rank).to_string());
        let status = child.status.name().to_string();
        Some(ChildChange { rank, status, torpid: child.torpid, below })
    }

    pub(crate) fn tell_monitors(&mut self, rank: u32) {
        let Some(change) = self.child_change(rank) else {
            return;
        };
        let monitors = std::mem::take(&mut self.overlay.monitors);
        for answer in &monitors {
            self.item(answer, &change);
        }
        self.overlay.monitors = monitors;
    }

    /// Notes the status of a child, and what follows from it.
    pub(crate) fn child_status(&mut self, rank: u32, status: Status) {
        let now = self.clock.mono_us;
        let Some(child) = self.overlay.children.get_mut(&rank) else {
            return;
        };
        if child.status == status {
            return;
        }
        self.overlay.count[child.status as usize] -= 1;
        self.overlay.count[status as usize] += 1;
        child.status = status;
        child.since = now;
        self.rolled_up();
        self.tell_monitors(rank);
        if !self.overlay.health.is_empty() {
            let health = self.health();
            let streams = std::mem::take(&mut self.overlay.health);
            for answer in &streams {
                self.item(answer, &health);
            }
            self.overlay.health = streams;
        }
    }

    /// The status of the whole follows from that of the children.
    pub(crate) fn rolled_up(&mut self) {
        let whole = Status::rollup(&self.overlay.count);
        if whole != self.overlay.status {
            self.overlay.status = whole;
            self.overlay.since = self.clock.mono_us;
            self.report_status();
        }
    }
}
