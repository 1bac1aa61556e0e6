//! Events: one order for all, given by rank 0; down the tree; to whom has asked for them.

use std::collections::BTreeMap;

use flux_proto::{Errno, Message, subscription_matches};
use flux_svc::Level;
use flux_svc::engine::ClientId;

use crate::ids::Peer;
use crate::node::{Node, Work};

/// Subscriptions and the order of events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The last sequence number given (rank 0) or seen (others).
    pub(crate) sequence: u32,
    /// No event was seen since this broker joined its parent.
    pub(crate) fresh: bool,
    subscribers: BTreeMap<Peer, BTreeMap<String, u32>>,
}

impl Events {
    /// Adds one subscription.
    pub(crate) fn subscribe(&mut self, peer: Peer, prefix: &str) {
        *self.subscribers.entry(peer).or_default().entry(prefix.to_string()).or_insert(0) += 1;
    }

    /// Takes one subscription away. ENOENT when there is none.
    pub(crate) fn unsubscribe(&mut self, peer: Peer, prefix: &str) -> Result<(), Errno> {
        let prefixes = self.subscribers.get_mut(&peer).ok_or(Errno::ENOENT)?;
        let count = prefixes.get_mut(prefix).ok_or(Errno::ENOENT)?;
        *count -= 1;
        if *count == 0 {
            prefixes.remove(prefix);
            if prefixes.is_empty() {
                self.subscribers.remove(&peer);
            }
        }
        Ok(())
    }

    /// Takes all subscriptions of a peer away.
    pub(crate) fn drop_peer(&mut self, peer: Peer) {
        self.subscribers.remove(&peer);
    }

    /// How many different subscriptions a peer has.
    pub(crate) fn subscriptions(&self, peer: Peer) -> usize {
        self.subscribers.get(&peer).map_or(0, BTreeMap::len)
    }

    fn wanted_by(&self, topic: &str) -> Vec<Peer> {
        let wants = |prefixes: &BTreeMap<String, u32>| {
            prefixes.keys().any(|prefix| subscription_matches(prefix, topic))
        };
        self.subscribers
            .iter()
            .filter(|(_, prefixes)| wants(prefixes))
            .map(|(peer, _)| *peer)
            .collect()
    }
}

impl Node {
    /// Publishes an event of this broker or one below: rank 0 gives it its number, the others
    /// pass it up. Gives the number at rank 0.
    pub(crate) fn publish(&mut self, mut message: Message) -> u32 {
        if self.cfg.rank != 0 {
            message.set_sequence(0);
            self.event_up(message);
            return 0;
        }
        self.events.sequence = self.events.sequence.wrapping_add(1);
        message.set_sequence(self.events.sequence);
        message.routes.clear();
        self.distribute(message);
        self.events.sequence
    }

    /// An event from the parent.
    pub(crate) fn event_from_parent(&mut self, mut message: Message) {
        let sequence = message.sequence();
        let last = self.events.sequence;
        if std::mem::take(&mut self.events.fresh) {
            self.events.sequence = sequence;
        } else if sequence <= last {
            self.log("broker", Level::Debug, format!("duplicate event {sequence}"));
        } else {
            let (first, until) = (last.wrapping_add(1), sequence - 1);
            if first == until {
                self.log("broker", Level::Err, format!("lost event {first}"));
            } else if first < until {
                self.log("broker", Level::Err, format!("lost events {first}-{until}"));
            }
            self.events.sequence = sequence;
        }
        message.routes.clear();
        self.distribute(message);
    }

    /// Sends a numbered event to the children, then to the subscribers here.
    fn distribute(&mut self, message: Message) {
        self.event_down(&message);
        // Services act on events: a guest's may tell other clients something, but not them.
        let trusted = message.cred.is_owner();
        for peer in self.events.wanted_by(message.topic()) {
            match peer {
                Peer::Module(_) | Peer::Driver(_) if !trusted => {}
                Peer::Module(seat) => self.work.push_back(Work::Deliver(seat, message.clone())),
                Peer::Driver(at) => self.give_driver(at, message.clone()),
                Peer::Client(client) => self.event_to_client(client, &message),
                _ => {}
            }
        }
        if trusted && message.topic() == "heartbeat.pulse" {
            self.check_links();
        }
    }

    fn event_to_client(&mut self, id: ClientId, message: &Message) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        if message.is_private()
            && !client.cred.is_owner()
            && client.cred.userid != message.cred.userid
        {
            return;
        }
        let mut message = message.clone();
        message.push_route(self.cfg.uuid.clone());
        self.send_client(id, message);
    }
}
