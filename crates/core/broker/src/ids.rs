//! Route ids: who is behind which.

use std::collections::BTreeMap;

use flux_proto::RouteId;
use flux_svc::engine::ClientId;

/// A neighbour of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// This broker itself.
    Own,
    /// What joins the clients: the hop between a client and the switch.
    Connector,
    /// A module, by seat.
    Module(usize),
    /// A driver, by its place in the configuration.
    Driver(usize),
    /// A client.
    Client(ClientId),
    /// A child broker that is online.
    Child(u32),
    /// The parent broker.
    Parent,
}

/// Ids in use, and the source of new ones.
#[derive(Debug)]
pub(crate) struct Ids {
    peers: BTreeMap<RouteId, Peer>,
    seed: u64,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { peers: BTreeMap::new(), seed }
    }

    /// The next number of the broker's random sequence (split mix).
    pub(crate) fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A new id for `peer`.
    pub(crate) fn make(&mut self, peer: Peer) -> RouteId {
        let id = self.fresh();
        self.peers.insert(id.clone(), peer);
        id
    }

    /// A new id, in the form of a random UUID, that stands for nobody yet.
    pub(crate) fn fresh(&mut self) -> RouteId {
        let (a, b) = (self.random(), self.random());
        let text = format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            (b >> 48) & 0x3fff | 0x8000,
            b & 0xffff_ffff_ffff,
        );
        RouteId::from(text)
    }

    pub(crate) fn insert(&mut self, id: RouteId, peer: Peer) {
        self.peers.insert(id, peer);
    }

    /// Forgets an id, if it still stands for `peer`.
    pub(crate) fn remove(&mut self, id: &RouteId, peer: Peer) {
        if self.peers.get(id) == Some(&peer) {
            self.peers.remove(id);
        }
    }

    pub(crate) fn get(&self, id: &RouteId) -> Option<Peer> {
        self.peers.get(id).copied()
    }
}
