//! `groups`: named sets of ranks, joined where the member is and reduced up the tree.

use std::collections::BTreeMap;

use flux_api::body::AnyObject;
use flux_api::lifecycle::{GroupChange, GroupGet, GroupMembers, GroupUpdate, GroupUpdate_, Groups};
use flux_api::overlay::{ChildChange, Monitor, RankRequest, Subtree, Topology};
use flux_api::{Answer, Empty, RpcError};
use flux_id::Idset;
use flux_proto::{Cred, Errno, Message, Rolemask, RouteId};
use flux_svc::{Cx, Reply, Service, To, Way};
use serde_json::{Map, Value};

/// How long changes are collected before they go to the parent, in microseconds.
const BATCH_US: u64 = 1_000;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Time to send what was collected.
    Flush,
    /// Children that come and go.
    Children,
    /// The ranks below a child that is gone.
    Lost,
    /// The ranks below a child that does not speak.
    Torpid(u32),
}

/// Brokers that nobody can reach though they are not lost.
const TORPID: &str = "broker.torpid";

/// The `groups` service.
#[derive(Debug, Default)]
pub struct GroupsService {
    members: BTreeMap<String, Idset>,
    joined: BTreeMap<String, (Option<RouteId>, Cred)>,
    pending: BTreeMap<String, Vec<GroupChange>>,
    flushing: bool,
    watchers: Vec<(String, Answer<GroupGet>)>,
    /// Children that do not speak, and who cannot be reached below each.
    torpid: BTreeMap<u32, Idset>,
    /// Ranks that are reached through each child, where the overlay tells (`tbon.reparent`).
    via: BTreeMap<u32, Idset>,
    /// The way to the leader is lost: above, nobody of this subtree is a member any more.
    cut: bool,
}

fn ranks(subtree: &Subtree, into: &mut Idset) {
    into.insert(subtree.rank);
    for child in &subtree.children {
        ranks(child, into);
    }
}

impl GroupsService {
    fn change(&mut self, cx: &mut Cx<'_, Wait>, name: &str, set: &Idset, join: bool) {
        let members = self.members.entry(name.to_string()).or_default();
        let set = &if join { set.difference(members) } else { set.intersection(members) };
        if set.is_empty() {
            return;
        }
        *members = if join { members.union(set) } else { members.difference(set) };
        if cx.rank() == 0 {
            let response = GroupMembers { members: members.to_string() };
            for (watched, watcher) in &self.watchers {
                if watched == name {
                    watcher.item(cx, &response);
                }
            }
            return;
        }
        let change = GroupChange { ranks: set.to_string(), set: join };
        self.pending.entry(name.to_string()).or_default().push(change);
        self.flush_soon(cx);
    }

    fn flush_soon(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.flushing {
            self.flushing = true;
            cx.timer(BATCH_US, Wait::Flush);
        }
    }

    fn local_only(message: &Message) -> Result<(), RpcError> {
        if message.cred.rolemask.contains(Rolemask::LOCAL) {
            return Ok(());
        }
        let text = format!("{} is restricted to the local broker", message.topic());
        Err(RpcError::new(Errno::EPROTO, text))
    }

    fn own(cx: &Cx<'_, Wait>) -> Idset {
        let mut set = Idset::new();
        set.insert(cx.rank());
        set
    }

    fn join(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        name: &str,
        head: &Message,
    ) -> Result<Empty, RpcError> {
        Self::local_only(head)?;
        if self.joined.contains_key(name) {
            let text = format!("rank {} is already a member of {name}", cx.rank());
            return Err(RpcError::new(Errno::EEXIST, text));
        }
        self.joined.insert(name.to_string(), (head.first_route().cloned(), head.cred));
        let own = Self::own(cx);
        self.change(cx, name, &own, true);
        Ok(Empty)
    }

    fn leave(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        name: &str,
        head: &Message,
    ) -> Result<Empty, RpcError> {
        Self::local_only(head)?;
        if self.joined.remove(name).is_none() {
            let text = format!("rank {} is not a member of {name}", cx.rank());
            return Err(RpcError::new(Errno::ENOENT, text));
        }
        let own = Self::own(cx);
        self.change(cx, name, &own, false);
        Ok(Empty)
    }

    fn update(&mut self, cx: &mut Cx<'_, Wait>, update: GroupUpdate) {
        let within = update.rank.and_then(|rank| self.via.get(&rank)).cloned();
        for (name, changes) in update.update {
            for change in changes {
                // A peer's idset that does not parse names no rank.
                if let Ok(mut set) = change.ranks.parse::<Idset>() {
                    if let Some(within) = &within {
                        set = set.intersection(within);
                    }
                    self.change(cx, &name, &set, change.set);
                }
            }
        }
    }

    fn child_changed(&mut self, cx: &mut Cx<'_, Wait>, change: &ChildChange) {
        let ChildChange { rank, ref status, torpid, .. } = *change;
        let mut child = Idset::new();
        child.insert(rank);
        if torpid && !self.torpid.contains_key(&rank) {
            self.torpid.insert(rank, child.clone());
            self.change(cx, TORPID, &child, true);
            if let Some(below) = &change.below {
                self.out_of_reach(cx, rank, &below.parse().unwrap_or_default());
            } else {
                let here = cx.rank();
                cx.call::<Topology>(To::Rank(here), &RankRequest { rank }, Wait::Torpid(rank));
            }
        } else if !torpid && let Some(below) = self.torpid.remove(&rank) {
            self.change(cx, TORPID, &below, false);
        }
        if let Some(below) = &change.below {
            let below: Idset = below.parse().unwrap_or_default();
            let former = self.via.insert(rank, below.clone()).unwrap_or_default();
            let gone = former.difference(&below);
            self.gone(cx, &gone);
        } else if matches!(status.as_str(), "lost" | "offline") {
            let here = cx.rank();
            cx.call::<Topology>(To::Rank(here), &RankRequest { rank }, Wait::Lost);
        }
    }

    /// Whoever is below a child that does not speak is as far away as that.
    fn out_of_reach(&mut self, cx: &mut Cx<'_, Wait>, rank: u32, below: &Idset) {
        let known = self.members.get(TORPID).cloned().unwrap_or_default();
        let Some(shaded) = self.torpid.get_mut(&rank) else { return };
        let more = below.difference(&known);
        *shaded = shaded.union(&more);
        self.change(cx, TORPID, &more, true);
    }

    fn lost(&mut self, cx: &mut Cx<'_, Wait>, subtree: &Subtree) {
        let mut gone = Idset::new();
        ranks(subtree, &mut gone);
        self.gone(cx, &gone);
    }

    /// Ranks that cannot be reached, or in another way.
    fn gone(&mut self, cx: &mut Cx<'_, Wait>, gone: &Idset) {
        if gone.is_empty() {
            return;
        }
        let names: Vec<(String, Idset)> = self
            .members
            .iter()
            .map(|(name, members)| (name.clone(), members.intersection(gone)))
            .filter(|(_, members)| !members.is_empty())
            .collect();
        for (name, members) in names {
            self.change(cx, &name, &members, false);
        }
        self.torpid.retain(|rank, _| !gone.contains(*rank));
    }
}

impl Service for GroupsService {
    type Api = Groups;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        let rank = cx.rank();
        cx.call::<Monitor>(To::Rank(rank), &Empty, Wait::Children);
        cx.ready();
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Groups) {
        match call {
            Groups::Join(call) => {
                let result = self.join(cx, &call.request.name, call.answer.head());
                call.answer.respond(cx, result);
            }
            Groups::Leave(call) => {
                let result = self.leave(cx, &call.request.name, call.answer.head());
                call.answer.respond(cx, result);
            }
            Groups::GroupGet(call) => {
                if cx.rank() > 0 {
                    let text = "this RPC is only available on rank 0";
                    return call.answer.err(cx, RpcError::new(Errno::EPROTO, text));
                }
                let name = call.request.name;
                let members = self.members.get(&name).map(ToString::to_string).unwrap_or_default();
                let response = GroupMembers { members };
                if call.answer.is_streaming() {
                    call.answer.item(cx, &response);
                    self.watchers.push((name, call.answer));
                } else {
                    call.answer.ok(cx, &response);
                }
            }
            Groups::GroupUpdate_(call) => {
                self.update(cx, call.request);
                call.answer.forget();
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Flush => {}
            Wait::Children => {
                if let Ok(change) = reply.decode::<Monitor>() {
                    self.child_changed(cx, &change);
                }
            }
            Wait::Torpid(rank) => {
                if let Ok(subtree) = reply.decode::<Topology>() {
                    let mut below = Idset::new();
                    ranks(&subtree, &mut below);
                    self.out_of_reach(cx, rank, &below);
                }
            }
            Wait::Lost => {
                if let Ok(subtree) = reply.decode::<Topology>() {
                    self.lost(cx, &subtree);
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, _wait: Wait) {
        self.flushing = false;
        if self.cut {
            return;
        }
        let update = std::mem::take(&mut self.pending);
        cx.notify::<GroupUpdate_>(To::Upstream, &GroupUpdate { update, rank: Some(cx.rank()) });
    }

    fn on_way(&mut self, cx: &mut Cx<'_, Wait>, way: Way) {
        self.cut = way == Way::Lost;
        self.pending.clear();
        if way == Way::Back {
            for (name, members) in self.members.iter().filter(|(_, members)| !members.is_empty()) {
                let change = GroupChange { ranks: members.to_string(), set: true };
                self.pending.insert(name.clone(), vec![change]);
            }
            self.flush_soon(cx);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Cx<'_, Wait>, message: &Message) {
        let mut kept = Vec::new();
        for (name, watcher) in self.watchers.drain(..) {
            if watcher.same_sender(message) {
                watcher.forget();
            } else {
                kept.push((name, watcher));
            }
        }
        self.watchers = kept;
        let client = message.first_route().cloned();
        let left: Vec<String> = self
            .joined
            .iter()
            .filter(|(_, (route, cred))| {
                *route == client
                    && (cred.userid == message.cred.userid
                        || message.cred.rolemask.contains(Rolemask::OWNER))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let own = Self::own(cx);
        for name in left {
            self.joined.remove(&name);
            self.change(cx, &name, &own, false);
        }
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        for (_, watcher) in self.watchers.drain(..) {
            watcher.end(cx);
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        let subtree: Map<String, Value> =
            self.members.iter().map(|(name, set)| (name.clone(), set.to_string().into())).collect();
        let mut stats = AnyObject::default();
        stats.0.insert("subtree".into(), Value::Object(subtree));
        Some(Value::Object(stats.0))
    }
}

#[cfg(test)]
mod tests {
    use flux_svc::Rig;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_join_leave_and_are_lost_with_their_subtree() {
        let mut rig = Rig::with(GroupsService::default(), 0, 4, &Map::new());
        let monitor = rig.expect("overlay.monitor");
        let watch = rig.stream("groups.get", json!({"name": "broker.online"}));
        assert_eq!(rig.response(watch), Ok(json!({"members": ""})));
        let join = rig.request("groups.join", json!({"name": "broker.online"}));
        assert_eq!(rig.response(join), Ok(json!(null)));
        assert_eq!(rig.response(watch), Ok(json!({"members": "0"})));
        let again = rig.request("groups.join", json!({"name": "broker.online"}));
        assert_eq!(
            rig.response(again).unwrap_err().message(),
            "rank 0 is already a member of broker.online"
        );
        rig.request(
            "groups.update",
            json!({"update": {"broker.online": [{"ranks": "1-3", "set": true}]}}),
        );
        assert_eq!(rig.response(watch), Ok(json!({"members": "0-3"})));
        rig.reply(&monitor, json!({"rank": 1, "status": "lost", "torpid": false}));
        let topology = rig.expect("overlay.topology");
        rig.reply(
            &topology,
            json!({"rank": 1, "size": 2, "children": [{"rank": 3, "size": 1, "children": []}]}),
        );
        assert_eq!(rig.response(watch), Ok(json!({"members": "0,2"})));
        rig.disconnect(rig.owner(), "groups");
        assert!(rig.responses.is_empty());
        rig.finish();
    }

    #[test]
    fn who_is_below_a_torpid_child_is_torpid_until_it_speaks_again() {
        let mut rig = Rig::with(GroupsService::default(), 0, 7, &Map::new());
        let monitor = rig.expect("overlay.monitor");
        let watch = rig.stream("groups.get", json!({"name": "broker.torpid"}));
        assert_eq!(rig.response(watch), Ok(json!({"members": ""})));
        // One of them was before, and will be after.
        let update = json!({"update": {"broker.torpid": [{"ranks": "4", "set": true}]}});
        rig.request("groups.update", update);
        assert_eq!(rig.response(watch), Ok(json!({"members": "4"})));
        rig.reply(&monitor, json!({"rank": 1, "status": "full", "torpid": true}));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1,4"})));
        let topology = rig.expect("overlay.topology");
        let leaf = |rank: u32| json!({"rank": rank, "size": 1, "children": []});
        let below = json!({"rank": 1, "size": 3, "children": [leaf(3), leaf(4)]});
        rig.reply(&topology, below);
        assert_eq!(rig.response(watch), Ok(json!({"members": "1,3-4"})));
        rig.reply(&monitor, json!({"rank": 1, "status": "full", "torpid": false}));
        assert_eq!(rig.response(watch), Ok(json!({"members": "4"})));
        rig.disconnect(rig.owner(), "groups");
        rig.finish();
    }

    #[test]
    fn a_follower_sends_its_changes_up_in_one_batch() {
        let mut rig = Rig::with(GroupsService::default(), 1, 4, &Map::new());
        rig.expect("overlay.monitor");
        for name in ["a", "b"] {
            let join = rig.request("groups.join", json!({"name": name}));
            assert_eq!(rig.response(join), Ok(json!(null)));
        }
        rig.advance(BATCH_US);
        let update = rig.expect("groups.update");
        assert_eq!(
            update.json::<Value>().unwrap(),
            json!({"update": {"a": [{"ranks": "1", "set": true}],
                              "b": [{"ranks": "1", "set": true}]}, "rank": 1})
        );
        rig.finish();
    }

    #[test]
    fn a_follower_tells_all_it_knows_when_the_way_up_is_back() {
        let mut rig = Rig::with(GroupsService::default(), 1, 4, &Map::new());
        rig.expect("overlay.monitor");
        let join = rig.request("groups.join", json!({"name": "a"}));
        assert_eq!(rig.response(join), Ok(json!(null)));
        let below = json!({"update": {"a": [{"ranks": "3", "set": true}]}});
        rig.request("groups.update", below.clone());
        rig.advance(BATCH_US);
        rig.expect("groups.update");
        rig.way(Way::Lost);
        rig.request("groups.update", json!({"update": {"b": [{"ranks": "3", "set": true}]}}));
        rig.advance(BATCH_US);
        assert!(rig.requests.is_empty());
        rig.way(Way::Back);
        rig.advance(BATCH_US);
        let update = rig.expect("groups.update");
        assert_eq!(
            update.json::<Value>().unwrap(),
            json!({"update": {"a": [{"ranks": "1,3", "set": true}],
                   "b": [{"ranks": "3", "set": true}]}, "rank": 1})
        );
        // What is known already is not told again.
        rig.request("groups.update", below);
        rig.advance(BATCH_US);
        rig.finish();
    }

    #[test]
    fn who_moves_to_another_child_is_no_concern_of_the_former() {
        let mut rig = Rig::with(GroupsService::default(), 0, 5, &Map::new());
        let monitor = rig.expect("overlay.monitor");
        let watch = rig.stream("groups.get", json!({"name": "broker.online"}));
        assert_eq!(rig.response(watch), Ok(json!({"members": ""})));
        let change = |rank: u32, below: &str| json!({"rank": rank, "status": "full", "torpid": false, "below": below});
        let update = |rank: u32, ranks: &str, set: bool| json!({"update": {"broker.online": [{"ranks": ranks, "set": set}]}, "rank": rank});
        rig.reply(&monitor, change(1, "1,3-4"));
        rig.reply(&monitor, change(2, "2"));
        rig.request("groups.update", update(1, "1,3-4", true));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1,3-4"})));
        // Rank 3 goes elsewhere with rank 4 below it.
        rig.reply(&monitor, change(1, "1"));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1"})));
        rig.reply(&monitor, change(3, "3-4"));
        rig.request("groups.update", update(3, "3-4", true));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1,3-4"})));
        // Its former parent finds out.
        rig.request("groups.update", update(1, "3-4", false));
        rig.request("groups.update", update(2, "2", true));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1-4"})));
        rig.reply(&monitor, json!({"rank": 3, "status": "lost", "torpid": false, "below": ""}));
        assert_eq!(rig.response(watch), Ok(json!({"members": "1-2"})));
        rig.finish();
    }
}
