//! The tree as it is, where brokers go to their grandparent (`tbon.reparent`).
//!
//! A broker whose parent is lost is taken in by another of its configured ancestors, so that the
//! way from any broker to the leader is always a part of the configured one, and never a circle.
//! Each broker knows which ranks it reaches through which child: a child tells when it says hello
//! and whenever that changes. Who is the last to have told of a rank has it. Where two ways to a
//! rank meet, the older one is told to drop it.

use std::collections::BTreeMap;

use flux_api::Rpc;
use flux_api::overlay::{Drop_, Elsewhere, Members, Moved, Moved_};
use flux_api::rpc::request;
use flux_api::{Body, RpcError};
use flux_id::Idset;
use flux_proto::{Cred, Errno, Message, Rolemask, USERID_UNKNOWN};
use flux_svc::Level;
use flux_svc::engine::Output;

use crate::node::Node;
use crate::overlay::Child;
use crate::overlay::status::Status;

/// Who is below this broker at present.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// The child through which a rank is reached.
    via: BTreeMap<u32, u32>,
    /// The ranks of each child.
    sets: BTreeMap<u32, Idset>,
    /// Who has taken in a rank that is not below its configured parent.
    adopted: BTreeMap<u32, u32>,
}

impl Below {
    pub(crate) fn via(&self, rank: u32) -> Option<u32> {
        self.via.get(&rank).copied()
    }

    /// The ranks of a child.
    pub(crate) fn set(&self, child: u32) -> Idset {
        self.sets.get(&child).cloned().unwrap_or_default()
    }

    pub(crate) fn adopter(&self, rank: u32) -> Option<u32> {
        self.adopted.get(&rank).copied()
    }

    pub(crate) fn has_adopted(&self) -> bool {
        !self.adopted.is_empty()
    }

    fn all(&self) -> Idset {
        self.via.keys().copied().collect()
    }

    fn adopted_among(&self, set: &Idset) -> Vec<(u32, u32)> {
        let among = self.adopted.iter().filter(|(rank, _)| set.contains(**rank));
        among.map(|(rank, adopter)| (*rank, *adopter)).collect()
    }

    /// Takes ranks from whatever child they are reached through; the ranks by that child.
    fn take(&mut self, ranks: &Idset) -> BTreeMap<u32, Idset> {
        let mut taken: BTreeMap<u32, Idset> = BTreeMap::new();
        for rank in ranks.ids() {
            self.adopted.remove(&rank);
            if let Some(child) = self.via.remove(&rank) {
                taken.entry(child).or_default().insert(rank);
            }
        }
        for (child, ranks) in &taken {
            if let Some(set) = self.sets.get_mut(child) {
                set.remove_all(ranks);
            }
        }
        taken
    }

    fn put(&mut self, child: u32, ranks: &Idset) {
        for rank in ranks.ids() {
            self.via.insert(rank, child);
        }
        self.sets.entry(child).or_default().insert_all(ranks);
    }
}

fn neighbourly<R: Rpc>(body: &R::Request) -> Message {
    let cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::OWNER };
    request::<R>(body).with_no_response().with_cred(cred)
}

impl Node {
    /// The child through which a rank is reached.
    pub(crate) fn child_toward(&self, target: u32) -> Option<u32> {
        match &self.overlay.below {
            Some(below) => below.via(target),
            None => self.cfg.topology.child_toward(self.cfg.rank, target),
        }
    }

    /// Whether a broker that is no configured child may be taken in.
    pub(crate) fn may_adopt(&self, rank: u32) -> bool {
        self.overlay.below.is_some()
            && self.cfg.topology.child_toward(self.cfg.rank, rank).is_some()
    }

    /// What this broker says of its subtree.
    pub(crate) fn members(&self) -> Option<Members> {
        let below = self.overlay.below.as_ref()?;
        let mut ranks = below.all();
        ranks.insert(self.cfg.rank);
        let adopted = below.adopted.iter().map(|(rank, adopter)| (*rank, *adopter)).collect();
        Some(Members { ranks: ranks.to_string(), adopted })
    }

    /// Brokers below the link to a child, without itself.
    pub(crate) fn count_below(&self, child: u32) -> u64 {
        match &self.overlay.below {
            Some(below) => below.set(child).len().saturating_sub(1),
            None => u64::from(self.cfg.topology.descendants(child)),
        }
    }

    /// A place for a broker that is no configured child.
    pub(crate) fn adopt(&mut self, rank: u32) {
        if self.overlay.children.contains_key(&rank) {
            return;
        }
        let child = Child { since: self.clock.mono_us, adopted: true, ..Child::default() };
        self.overlay.count[child.status as usize] += 1;
        self.overlay.children.insert(rank, child);
    }

    /// One that was taken in has gone: it has its place elsewhere.
    pub(crate) fn forget_adopted(&mut self, rank: u32) {
        if self.overlay.children.get(&rank).is_some_and(|child| child.adopted)
            && let Some(child) = self.overlay.children.remove(&rank)
        {
            self.overlay.count[child.status as usize] -= 1;
            if let Some(face) = child.face.filter(|face| *face != self.cfg.uuid) {
                self.ids.remove(&face, crate::ids::Peer::Own);
            }
            self.rolled_up();
        }
    }

    /// The ranks that a child names, those that cannot be below it left out.
    fn plausible(&self, child: u32, members: &Members) -> Result<Idset, RpcError> {
        let bad = |_| RpcError::new(Errno::EPROTO, "ranks of a subtree are no idset");
        let ranks: Idset = members.ranks.parse().map_err(bad)?;
        let known = Idset::first_n(self.cfg.size());
        let tree = &self.cfg.topology;
        let below = |rank: &u32| *rank == child || tree.child_toward(child, *rank).is_some();
        Ok(ranks.intersection(&known).ids().filter(below).collect())
    }

    /// A child that will not tell who is below it has all that are configured to be.
    pub(crate) fn child_brings_all(&mut self, child: u32) {
        let all =
            Members { ranks: Idset::first_n(self.cfg.size()).to_string(), ..Members::default() };
        if self.overlay.below.is_some()
            && let Ok(ranks) = self.plausible(child, &all)
        {
            self.gain(child, &ranks, &[]);
        }
    }

    /// Ranks are reached through a child from now on, and not another way any more.
    fn gain(&mut self, child: u32, ranks: &Idset, adopted: &[(u32, u32)]) {
        let here = self.cfg.rank;
        let taken_in = self.cfg.topology.parent(child) != Some(here) && ranks.contains(child);
        let Some(below) = &mut self.overlay.below else { return };
        let mut displaced = below.take(ranks);
        displaced.remove(&child);
        below.put(child, ranks);
        let known = adopted.iter().filter(|(rank, _)| ranks.contains(*rank));
        below.adopted.extend(known.copied());
        if taken_in {
            below.adopted.insert(child, here);
        }
        let adopted = below.adopted_among(ranks);
        for (former, ranks) in displaced {
            self.displace(former, &ranks);
        }
        let add = Members { ranks: ranks.to_string(), adopted };
        self.tell_moved(add, String::new());
    }

    /// Ranks that were reached through a child are elsewhere: it, or who has them there, is told.
    fn displace(&mut self, former: u32, ranks: &Idset) {
        let link = self.overlay.children.get(&former).and_then(|child| child.link);
        if ranks.contains(former) {
            let Some(link) = link else { return };
            let host = self.cfg.host(former);
            let text = format!("{host} (rank {former}) has another parent now");
            self.log("overlay", Level::Info, text);
            self.overlay.links.remove(&link);
            self.out.push_back(Output::CloseLink(link));
            return self.child_gone(former, Status::Lost, "has another parent");
        }
        if let Some(link) = link {
            let message = neighbourly::<Drop_>(&Elsewhere { ranks: ranks.to_string() });
            self.out.push_back(Output::Link(link, message));
        }
        self.tell_monitors(former);
    }

    /// The link to a child is lost: nobody is reached through it.
    pub(crate) fn lose_below(&mut self, child: u32) {
        let Some(below) = &mut self.overlay.below else { return };
        let Some(set) = below.sets.remove(&child) else { return };
        below.take(&set);
        if !set.is_empty() {
            self.tell_moved(Members::default(), set.to_string());
        }
    }

    pub(crate) fn tell_moved(&mut self, add: Members, remove: String) {
        if self.overlay.parent.is_joined() {
            self.send_up(neighbourly::<Moved_>(&Moved { add, remove }));
        }
    }

    /// A child tells of a change in its subtree.
    pub(crate) fn child_moved(&mut self, child: u32, message: &Message) {
        if self.overlay.below.is_none() {
            return;
        }
        let moved = Moved::take(message).map_err(|text| RpcError::new(Errno::EPROTO, text));
        let result = moved.and_then(|moved| {
            let add = self.plausible(child, &moved.add)?;
            let remove = moved.remove.parse::<Idset>().map_err(|error| {
                RpcError::new(Errno::EPROTO, format!("ranks that left: {error}"))
            })?;
            Ok((moved, add, remove))
        });
        let (moved, add, remove) = match result {
            Ok(parts) => parts,
            Err(error) => {
                return self.log("overlay", Level::Err, format!("overlay.moved: {error}"));
            }
        };
        if !add.is_empty() {
            self.gain(child, &add, &moved.add.adopted);
        }
        if let Some(below) = &mut self.overlay.below {
            // Another child may have told of some of them since.
            let gone = remove.intersection(&below.set(child));
            below.take(&gone);
            if !gone.is_empty() {
                self.tell_moved(Members::default(), gone.to_string());
            }
        }
        self.tell_monitors(child);
    }

    /// The parent tells that ranks of this subtree are elsewhere.
    pub(crate) fn dropped(&mut self, message: &Message) {
        let ranks = Elsewhere::take(message).ok().and_then(|body| body.ranks.parse::<Idset>().ok());
        let (Some(ranks), Some(below)) = (ranks, &mut self.overlay.below) else { return };
        for (child, ranks) in below.take(&ranks) {
            self.displace(child, &ranks);
        }
    }
}
