//! Connections between a broker and its parent: in order, with delays, and they break.

use bytes::Bytes;
use flux_proto::Message;
use flux_svc::engine::{Input, LinkId};

use crate::world::{Due, SEC, World};

/// After so long without an answer a connection is given up.
const TIMEOUT: u64 = 20 * SEC;

/// The child's or the parent's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one who connected.
    Child,
    /// The one who accepted.
    Parent,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Child => Self::Parent,
            Self::Parent => Self::Child,
        }
    }

    fn at(self) -> usize {
        self as usize
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    rank: [u32; 2],
    incarnation: [u64; 2],
    link: [LinkId; 2],
    /// The end is in use.
    open: [bool; 2],
    /// When the newest message to each end arrives.
    newest: [u64; 2],
}

impl World {
    fn delay(&mut self) -> u64 {
        let (low, high) = self.pace.link;
        self.rng.range(low, high)
    }

    /// When the way between two ranks works again; now, if it does.
    fn reachable(&self, one: u32, other: u32) -> u64 {
        let until = |rank| self.slot(rank).map_or(0, |slot| slot.partitioned);
        until(one).max(until(other)).max(self.now)
    }

    /// When something sent now to this end of a wire arrives, after all that was sent before.
    fn arrival(&mut self, wire: u64, to: Side) -> Option<u64> {
        let delay = self.delay();
        let ranks = self.wires.get(&wire)?.rank;
        let from = self.reachable(ranks[0], ranks[1]);
        let wire = self.wires.get_mut(&wire)?;
        let at = (from + delay).max(wire.newest[to.at()]);
        wire.newest[to.at()] = at;
        Some(at)
    }

    fn end(&self, rank: u32, link: LinkId) -> Option<(u64, Side)> {
        let wire = *self.ends.get(&(rank, link))?;
        let side = if link == LinkId::PARENT { Side::Child } else { Side::Parent };
        Some((wire, side))
    }

    pub(crate) fn send_on_link(&mut self, rank: u32, link: LinkId, message: &Message) {
        let Some((wire, side)) = self.end(rank, link) else { return };
        // As bytes, so that nothing travels that bytes cannot carry.
        let bytes = flux_proto::codec::encode_body(message);
        if let Some(at) = self.arrival(wire, side.other()) {
            self.plan(at, 0, Due::Link(wire, side.other(), bytes));
        }
    }

    pub(crate) fn link_arrives(&mut self, wire: u64, side: Side, bytes: Bytes) {
        let Some((rank, link)) = self.open_end(wire, side) else { return };
        self.trace.number(u64::from(rank));
        self.trace.bytes(&bytes);
        match flux_proto::decode_body(bytes) {
            Ok(message) => {
                self.trace.line(self.now, || {
                    let kind = message.kind.name();
                    let (topic, number) = (message.topic(), message.aux1 as i32);
                    format!("rank {rank} <- {link:?}: {kind} {topic} {number}")
                });
                self.input(rank, Input::Link(link, message));
            }
            Err(error) => self.violation(format!("rank {rank} got an undecodable frame: {error}")),
        }
    }

    /// The rank of an end.
    pub(crate) fn rank_at(&self, wire: u64, side: Side) -> Option<u32> {
        self.wires.get(&wire).map(|wire| wire.rank[side.at()])
    }

    /// Rank and number of an end that is in use.
    fn open_end(&self, wire: u64, side: Side) -> Option<(u32, LinkId)> {
        let wire = self.wires.get(&wire)?;
        let at = side.at();
        let rank = wire.rank[at];
        let alive = self.incarnation(rank) == wire.incarnation[at] && wire.open[at];
        alive.then_some((rank, wire.link[at]))
    }

    pub(crate) fn connect_parent(&mut self, rank: u32, parent: u32) {
        self.close_link(rank, LinkId::PARENT);
        let incarnation = self.incarnation(rank);
        let reachable = self.reachable(rank, parent);
        let listening = self.slot(parent).is_some_and(|slot| slot.listening);
        let delay = self.delay();
        let refusal = if reachable > self.now + TIMEOUT {
            Some((self.now + TIMEOUT, "timed out"))
        } else if !listening {
            Some((reachable + delay, "connection refused"))
        } else {
            None
        };
        if let Some((at, reason)) = refusal {
            let down = Input::LinkDown(LinkId::PARENT, reason.to_string());
            return self.plan(at, incarnation, Due::Input(rank, down));
        }
        let number = self.number();
        let wire = Wire {
            rank: [rank, parent],
            incarnation: [incarnation, self.incarnation(parent)],
            link: [LinkId::PARENT, LinkId(number)],
            open: [false, false],
            newest: [self.now, self.now],
        };
        self.wires.insert(number, wire);
        self.ends.insert((rank, LinkId::PARENT), number);
        self.ends.insert((parent, LinkId(number)), number);
        if let Some(at) = self.arrival(number, Side::Parent) {
            self.plan(at, 0, Due::LinkUp(number, Side::Parent));
        }
    }

    pub(crate) fn link_is_up(&mut self, wire: u64, side: Side) {
        let Some(state) = self.wires.get_mut(&wire) else { return };
        let (rank, link) = (state.rank[side.at()], state.link[side.at()]);
        let expected = state.incarnation[side.at()];
        if self.incarnation(rank) != expected {
            return self.hang_up(wire, side.other(), "connection refused");
        }
        if let Some(state) = self.wires.get_mut(&wire) {
            state.open[side.at()] = true;
        }
        if side == Side::Parent
            && let Some(at) = self.arrival(wire, Side::Child)
        {
            self.plan(at, 0, Due::LinkUp(wire, Side::Child));
        }
        if side == Side::Child {
            let parent = self.wires.get(&wire).map(|wire| wire.rank[Side::Parent.at()]);
            self.adoptions += u64::from(parent != self.shape.topology.parent(rank));
        }
        self.trace.line(self.now, || format!("rank {rank}: {link:?} up"));
        self.input(rank, Input::LinkUp(link));
    }

    /// One end learns, after what was sent before, that the other has gone.
    fn hang_up(&mut self, wire: u64, to: Side, reason: &'static str) {
        if let Some(at) = self.arrival(wire, to) {
            self.plan(at, 0, Due::LinkEnd(wire, to, reason));
        }
    }

    pub(crate) fn link_ends(&mut self, wire: u64, side: Side, reason: &'static str) {
        let Some(state) = self.wires.get_mut(&wire) else { return };
        let (rank, link) = (state.rank[side.at()], state.link[side.at()]);
        let expected = state.incarnation[side.at()];
        state.open[side.at()] = false;
        let ends = [0, 1].map(|at| (state.rank[at], state.link[at]));
        if self.ends.get(&(rank, link)) == Some(&wire) {
            self.ends.remove(&(rank, link));
            if self.incarnation(rank) == expected {
                self.trace.line(self.now, || format!("rank {rank}: {link:?} down: {reason}"));
                self.input(rank, Input::LinkDown(link, reason.to_string()));
            }
        }
        if ends.iter().all(|end| self.ends.get(end) != Some(&wire)) {
            self.wires.remove(&wire);
        }
    }

    /// A broker hangs up.
    pub(crate) fn close_link(&mut self, rank: u32, link: LinkId) {
        let Some((wire, side)) = self.end(rank, link) else { return };
        self.ends.remove(&(rank, link));
        if let Some(state) = self.wires.get_mut(&wire) {
            state.open[side.at()] = false;
        }
        self.hang_up(wire, side.other(), "connection closed");
    }

    /// A broker process is gone: its connections end.
    pub(crate) fn links_end(&mut self, rank: u32, reason: &'static str) {
        let links: Vec<LinkId> = self
            .ends
            .range((rank, LinkId(0))..=(rank, LinkId(u64::MAX)))
            .map(|((_, link), _)| *link)
            .collect();
        for link in links {
            if let Some((wire, side)) = self.end(rank, link) {
                self.ends.remove(&(rank, link));
                if let Some(state) = self.wires.get_mut(&wire) {
                    state.open[side.at()] = false;
                }
                self.hang_up(wire, side.other(), reason);
            }
        }
    }

    /// Breaks the connection of a rank to its parent: what is under way is lost, and each end
    /// learns it in its own time. False when there is none.
    pub fn break_uplink(&mut self, rank: u32) -> bool {
        let Some((wire, _)) = self.end(rank, LinkId::PARENT) else { return false };
        let Some(state) = self.wires.remove(&wire) else { return false };
        // A new wire without messages, which only ends.
        let number = self.number();
        let (ranks, links) = (state.rank, state.link);
        self.wires.insert(number, state);
        for at in [0, 1] {
            if let Some(end) = self.ends.get_mut(&(ranks[at], links[at])) {
                *end = number;
            }
        }
        for side in [Side::Child, Side::Parent] {
            let at = self.now + self.delay();
            self.plan(at, 0, Due::LinkEnd(number, side, "connection reset"));
        }
        true
    }

    /// Cuts a rank off for some time. Connections that wait longer than a timeout break.
    pub fn partition(&mut self, rank: u32, us: u64) {
        let until = self.now + us;
        let Some(slot) = self.slots.get_mut(rank as usize) else { return };
        slot.partitioned = until;
        self.disk.late_readers = true;
        if us <= TIMEOUT {
            return;
        }
        let wires: Vec<(u64, [u32; 2], [LinkId; 2])> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.rank.contains(&rank))
            .map(|(number, wire)| (*number, wire.rank, wire.link))
            .collect();
        for (old, ranks, links) in wires {
            let Some(state) = self.wires.remove(&old) else { continue };
            let number = self.number();
            self.wires.insert(number, state);
            for at in [0, 1] {
                if let Some(end) = self.ends.get_mut(&(ranks[at], links[at]))
                    && *end == old
                {
                    *end = number;
                }
            }
            for side in [Side::Child, Side::Parent] {
                let at = self.now + TIMEOUT;
                self.plan(at, 0, Due::LinkEnd(number, side, "timed out"));
            }
        }
    }
}
