use flux_proto::{Errno, Message, MsgType, NODEID_ANY};
use flux_svc::engine::{Input, LinkId};
use serde_json::{Value, json};

use super::cluster::{Caller, Cluster, OWNER};

fn unreachable(cluster: &mut Cluster, caller: Caller, tag: u32, text: Option<&str>) {
    let answers = cluster.answers(caller, tag);
    let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1, "failures of request {tag}");
    assert_eq!(errors[0].errno, Errno::EHOSTUNREACH);
    assert_eq!(errors[0].text.as_deref(), text);
}

fn health(cluster: &mut Cluster, caller: Caller, rank: u32) -> Value {
    cluster.call(caller, "overlay.health", rank, json!(null)).unwrap()
}

#[test]
fn a_lost_child_ends_what_was_on_its_way_to_it_once() {
    let mut cluster = Cluster::new("kary:1", 4);
    let (root, mid) = (cluster.client(0, OWNER), cluster.client(1, OWNER));
    let held = cluster.ask(root, "probe.hold", 3, json!({}));
    let stream = cluster.stream(root, "probe.stream", 2, json!({}));
    let from_mid = cluster.ask(mid, "probe.hold", 2, json!({}));
    let done = cluster.ask(root, "probe.echo", 3, json!({}));
    assert_eq!(cluster.answers(root, done).len(), 1);
    cluster.kill(2);
    unreachable(&mut cluster, root, held, None);
    unreachable(&mut cluster, root, stream, None);
    unreachable(&mut cluster, mid, from_mid, None);
    assert!(cluster.logged(1, "node2 (rank 2) failed and severed contact with 1 other nodes"));
    // New requests are refused at once.
    let error = cluster.call(root, "broker.ping", 3, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::EHOSTUNREACH);
    let seen = health(&mut cluster, root, 1);
    assert_eq!(
        (&seen["status"], &seen["children"][0]["status"]),
        (&json!("degraded"), &json!("lost"))
    );
    assert_eq!(seen["children"][0]["error"], "lost connection");
    assert_eq!(health(&mut cluster, root, 0)["status"], "degraded");
    // Nothing is left behind.
    for rank in [0, 1] {
        assert_eq!(cluster.nodes[rank].as_ref().unwrap().tracked(), 0);
    }
    cluster.advance(60_000_000);
    assert!(cluster.received(root).is_empty());
}

#[test]
fn a_lost_parent_ends_what_was_on_its_way_up_once() {
    let mut cluster = Cluster::new("kary:1", 3);
    let leaf = cluster.client(2, OWNER);
    let held = cluster.ask(leaf, "probe.hold", 0, json!({}));
    let stream = cluster.stream(leaf, "probe.stream", 1, json!({}));
    let join = cluster.ask(leaf, "overlay.orphaned", NODEID_ANY, json!({}));
    cluster.kill(1);
    unreachable(&mut cluster, leaf, held, Some("overlay disconnect"));
    unreachable(&mut cluster, leaf, stream, Some("overlay disconnect"));
    assert_eq!(cluster.answers(leaf, join), [Ok(Value::Null)]);
    assert!(cluster.notes[2].borrow().orphaned);
    let error = cluster.call(leaf, "broker.ping", 0, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::EHOSTUNREACH);
    assert!(cluster.call(leaf, "probe.echo", 2, json!({})).is_ok());
}

#[test]
fn streams_of_a_lost_child_end_at_their_service() {
    let mut cluster = Cluster::new("kary:1", 3);
    let leaf = cluster.client(2, OWNER);
    cluster.stream(leaf, "probe.stream", 0, json!({}));
    cluster.kill(1);
    let notes = cluster.notes[0].borrow();
    assert_eq!(notes.disconnects.len(), 1);
    assert_eq!(notes.disconnects[0].first_route(), notes.held[0].first_route());
}

#[test]
fn a_subtree_is_disconnected_by_request() {
    let mut cluster = Cluster::new("kary:1", 3);
    let root = cluster.client(0, OWNER);
    let held = cluster.ask(root, "probe.hold", 2, json!({}));
    let error = cluster.call(root, "overlay.disconnect-subtree", 0, json!({ "rank": 2 }));
    assert_eq!(error.unwrap_err().errno, Errno::ENOENT);
    cluster.call(root, "overlay.disconnect-subtree", 0, json!({ "rank": 1 })).unwrap();
    unreachable(&mut cluster, root, held, None);
    assert!(cluster.logged(
        0,
        "node1 (rank 1) disconnected by request and severed contact with 1 other nodes"
    ));
    let seen = health(&mut cluster, root, 0);
    assert_eq!(seen["children"][0]["error"], "administrative disconnect");
    assert!(cluster.logged(1, "node0 (rank 0) sent disconnect control message"));
    assert!(cluster.notes[1].borrow().orphaned);
    let again = cluster.call(root, "overlay.disconnect-subtree", 0, json!({ "rank": 1 }));
    assert_eq!(again.unwrap_err().message(), "rank 1 is already lost");
}

#[test]
fn a_broker_leaves_its_parent_for_a_reason_and_joins_again() {
    let mut cluster = Cluster::new("kary:1", 3);
    let leaf = cluster.client(2, OWNER);
    let root = cluster.client(0, OWNER);
    let reason = json!({ "reason": "no heartbeat for 5m" });
    let silent = Message::with_no_response;
    cluster.ask_with(leaf, "overlay.disconnect-parent", 2, reason, silent);
    assert!(cluster.logged(2, "overlay.crit[2]: disconnecting: no heartbeat for 5m"));
    assert!(cluster.notes[2].borrow().orphaned);
    assert_eq!(health(&mut cluster, root, 1)["children"][0]["status"], "lost");
    let join = json!({ "topic": "overlay.join" });
    cluster.ask_with(leaf, "state-machine.do", 2, join, silent);
    assert_eq!(cluster.notes[2].borrow().joined.len(), 2);
    assert_eq!(health(&mut cluster, root, 1)["status"], "full");
    assert_eq!(health(&mut cluster, root, 0)["status"], "full");
    assert!(cluster.call(leaf, "broker.ping", 0, json!({})).is_ok());
    assert!(cluster.call(root, "probe.echo", 2, json!({})).is_ok());
}

#[test]
fn running_brokers_join_a_restarted_parent() {
    let mut cluster = Cluster::new("kary:1", 3);
    cluster.kill(1);
    let leaf = cluster.client(2, OWNER);
    let join = json!({ "topic": "overlay.join" });
    cluster.ask_with(leaf, "state-machine.do", 2, join, Message::with_no_response);
    cluster.advance(1_000_000);
    cluster.start(1);
    cluster.advance(3_000_000);
    let root = cluster.client(0, OWNER);
    assert_eq!(health(&mut cluster, root, 0)["status"], "full");
    assert!(cluster.call(leaf, "broker.ping", 0, json!({})).is_ok());
    // Events go on without a complaint about those it missed.
    cluster.call(leaf, "event.subscribe", NODEID_ANY, json!({ "topic": "x" })).unwrap();
    cluster.send(root, Message::event("x.1"));
    assert_eq!(cluster.received(leaf).len(), 1);
    assert!(!cluster.logged(2, "lost event"));
}

#[test]
fn a_child_that_says_hello_twice_was_lost_in_between() {
    let mut cluster = Cluster::new("kary:1", 2);
    let root = cluster.client(0, OWNER);
    let held = cluster.ask(root, "probe.hold", 1, json!({}));
    let hello = json!({ "rank": 1, "version": 88 << 8, "uuid": "again", "status": 1 });
    let mut message = Message::request("overlay.hello").with_json(&hello);
    message.cred.rolemask = flux_proto::Rolemask::OWNER;
    cluster.input(0, Input::LinkUp(LinkId(900)));
    cluster.input(0, Input::Link(LinkId(900), message));
    unreachable(&mut cluster, root, held, None);
    assert!(cluster.logged(0, "reconnected after crash, dropping old connection state"));
    assert_eq!(health(&mut cluster, root, 0)["status"], "full");
}

#[test]
fn strangers_and_bad_hellos_are_refused() {
    let mut cluster = Cluster::new("kary:1", 3);
    let mut link = 900;
    let mut hello = |body: Value, role: u32| {
        link += 1;
        cluster.input(0, Input::LinkUp(LinkId(link)));
        let mut message = Message::request("overlay.hello").with_json(&body);
        message.cred.rolemask = flux_proto::Rolemask(role);
        cluster.input(0, Input::Link(LinkId(link), message));
        cluster.stderr.last().unwrap().1.clone()
    };
    let body = |rank: u32| json!({ "rank": rank, "version": 88 << 8, "uuid": "u", "status": 1 });
    assert!(hello(json!({}), 1).contains("Protocol error"));
    assert!(hello(body(1), 2).contains("Operation not permitted"));
    let text = "rank 2 is not a child of rank 0: mismatched config?";
    assert!(hello(body(2), 1).contains(text));
    let root = cluster.client(0, OWNER);
    assert_eq!(health(&mut cluster, root, 0)["status"], "full");
}

#[test]
fn a_child_leaves_in_order() {
    let mut cluster = Cluster::new("kary:1", 3);
    let root = cluster.client(0, OWNER);
    let leaf = cluster.client(2, OWNER);
    let held = cluster.ask(root, "probe.hold", 2, json!({}));
    let watch = cluster.stream(root, "overlay.monitor", 1, json!({}));
    assert_eq!(
        cluster.answers(root, watch),
        [Ok(json!({ "rank": 2, "status": "full", "torpid": false }))]
    );
    cluster.call(leaf, "overlay.leave", 2, json!({})).unwrap();
    unreachable(&mut cluster, root, held, None);
    let seen = health(&mut cluster, root, 1);
    assert_eq!(
        (&seen["status"], &seen["children"][0]["status"]),
        (&json!("partial"), &json!("offline"))
    );
    assert_eq!(seen["children"][0]["error"], "administrative shutdown");
    assert_eq!(
        cluster.answers(root, watch),
        [Ok(json!({ "rank": 2, "status": "offline", "torpid": false }))]
    );
    cluster.kill(2);
    assert_eq!(health(&mut cluster, root, 1)["children"][0]["status"], "offline");
    assert!(!cluster.notes[2].borrow().orphaned);
    // At the root there is nothing to leave.
    cluster.call(root, "overlay.leave", 0, json!({})).unwrap();
}

#[test]
fn a_broker_that_goes_down_takes_no_new_children() {
    let mut cluster = Cluster::new("kary:1", 2);
    let root = cluster.client(0, OWNER);
    cluster.call(root, "overlay.spurn", 0, json!({})).unwrap();
    cluster.kill(1);
    cluster.start(1);
    cluster.advance(0);
    let joined = cluster.notes[1].borrow().joined.clone();
    assert!(joined[0].as_ref().unwrap_err().message().contains("disconnect control message"));
}

#[test]
fn a_silent_child_is_torpid_until_it_speaks() {
    let mut cluster = Cluster::new("kary:1", 2);
    let root = cluster.client(0, OWNER);
    let watch = cluster.stream(root, "overlay.monitor", 0, json!({}));
    cluster.advance(120_000_000);
    assert_eq!(cluster.answers(root, watch).len(), 1, "an idle child is not torpid");
    cluster.freeze(1);
    cluster.advance(36_000_000);
    assert!(cluster.logged(0, "broker on node1 (rank 1) has been unresponsive for 3"));
    assert_eq!(
        cluster.answers(root, watch),
        [Ok(json!({ "rank": 1, "status": "full", "torpid": true }))]
    );
    cluster.thaw(1);
    cluster.advance(11_000_000);
    assert!(cluster.logged(0, "broker on node1 (rank 1) is responsive now"));
    assert_eq!(
        cluster.answers(root, watch),
        [Ok(json!({ "rank": 1, "status": "full", "torpid": false }))]
    );
}

#[test]
fn health_streams_tell_of_changes_until_the_client_goes() {
    let mut cluster = Cluster::new("kary:2", 3);
    let root = cluster.client(0, OWNER);
    let tag = cluster.stream(root, "overlay.health", 0, json!(null));
    assert_eq!(cluster.answers(root, tag)[0].as_ref().unwrap()["status"], "full");
    cluster.kill(1);
    let now = cluster.answers(root, tag);
    assert_eq!(now[0].as_ref().unwrap()["status"], "degraded");
    cluster.leave(root);
    cluster.kill(2);
    assert!(cluster.received(root).is_empty());
}

#[test]
fn gaps_in_events_are_logged_and_nothing_is_withheld() {
    let mut cluster = Cluster::new("kary:1", 2);
    let leaf = cluster.client(1, OWNER);
    cluster.call(leaf, "event.subscribe", NODEID_ANY, json!({ "topic": "x" })).unwrap();
    for sequence in [5, 6, 8, 12, 12] {
        let mut event = Message::event("x.y");
        event.set_sequence(sequence);
        cluster.input(1, Input::Link(LinkId::PARENT, event));
    }
    let seen: Vec<_> = cluster.received(leaf).iter().map(Message::sequence).collect();
    assert_eq!(seen, [5, 6, 8, 12, 12]);
    assert!(cluster.logged(1, "lost event 7"));
    assert!(cluster.logged(1, "lost events 9-11"));
    assert!(cluster.logged(1, "duplicate event 12"));
}

#[test]
fn a_break_between_two_living_brokers_is_seen_by_both() {
    let mut cluster = Cluster::new("kary:1", 2);
    let (root, leaf) = (cluster.client(0, OWNER), cluster.client(1, OWNER));
    let down = cluster.ask(root, "probe.hold", 1, json!({}));
    let up = cluster.ask(leaf, "probe.hold", 0, json!({}));
    cluster.break_uplink(1);
    unreachable(&mut cluster, root, down, None);
    unreachable(&mut cluster, leaf, up, Some("overlay disconnect"));
    // Late answers of the services meet nobody.
    for (rank, caller) in [(0, leaf), (1, root)] {
        let request = cluster.notes[rank].borrow_mut().held.remove(0);
        assert_eq!(request.kind, MsgType::Request);
        let _ = cluster.now();
        assert!(cluster.received(caller).is_empty());
    }
}

/// Asks with a tag of the caller's own choice.
fn ask_tagged(cluster: &mut Cluster, caller: Caller, rank: u32, tag: u32) {
    let body = json!({ "from": caller.rank });
    cluster.ask_with(caller, "probe.hold", rank, body, |mut message| {
        message.set_matchtag(tag);
        message
    });
}

/// The service of a rank answers the oldest request that it keeps.
fn release(cluster: &mut Cluster, rank: u32) {
    let mut notes = cluster.notes[rank as usize].borrow_mut();
    let request = notes.held.remove(0);
    notes.late.push(Message::response_to(&request));
    drop(notes);
    let caller = cluster.client(rank, OWNER);
    cluster.send(caller, Message::request("probe.release").with_no_response());
}

fn join_again(cluster: &mut Cluster, rank: u32) {
    let caller = cluster.client(rank, OWNER);
    let join = json!({ "topic": "overlay.join" });
    cluster.ask_with(caller, "state-machine.do", rank, join, Message::with_no_response);
}

#[test]
fn a_late_answer_from_before_a_child_came_back_leaves_its_new_request_tracked() {
    // 4 and 2 are children of 0, and 3 is a child of 2.
    let mut cluster = Cluster::new("binomial", 6);
    let caller = cluster.client(4, OWNER);
    ask_tagged(&mut cluster, caller, 3, 1);
    cluster.break_uplink(4);
    unreachable(&mut cluster, caller, 1, Some("overlay disconnect"));
    // The tag is free again, and its next request goes over the same link of rank 0.
    join_again(&mut cluster, 4);
    ask_tagged(&mut cluster, caller, 2, 1);
    release(&mut cluster, 3);
    assert!(cluster.answers(caller, 1).is_empty(), "an answer to the request that has failed");
    cluster.break_uplink(2);
    unreachable(&mut cluster, caller, 1, None);
    for rank in [0, 2, 4] {
        assert_eq!(cluster.nodes[rank].as_ref().unwrap().tracked(), 0, "rank {rank}");
    }
}

#[test]
fn a_late_answer_from_before_a_parent_came_back_leaves_its_new_request_tracked() {
    let mut cluster = Cluster::new("kary:1", 3);
    let root = cluster.client(0, OWNER);
    ask_tagged(&mut cluster, root, 2, 1);
    cluster.break_uplink(1);
    unreachable(&mut cluster, root, 1, None);
    join_again(&mut cluster, 1);
    ask_tagged(&mut cluster, root, 2, 1);
    // Rank 1 now knows both; the first is answered, and nobody waits for that.
    release(&mut cluster, 2);
    assert!(cluster.answers(root, 1).is_empty(), "an answer to the request that has failed");
    cluster.kill(2);
    unreachable(&mut cluster, root, 1, None);
    for rank in [0, 1] {
        assert_eq!(cluster.nodes[rank].as_ref().unwrap().tracked(), 0, "rank {rank}");
    }
}

#[test]
fn a_module_that_fails_after_a_late_answer_still_ends_the_new_request() {
    let mut cluster = Cluster::new("kary:1", 2);
    let leaf = cluster.client(1, OWNER);
    ask_tagged(&mut cluster, leaf, 0, 1);
    cluster.break_uplink(1);
    unreachable(&mut cluster, leaf, 1, Some("overlay disconnect"));
    join_again(&mut cluster, 1);
    ask_tagged(&mut cluster, leaf, 0, 1);
    release(&mut cluster, 0);
    let root = cluster.client(0, OWNER);
    cluster.send(root, Message::request("probe.fail").with_no_response());
    unreachable(&mut cluster, leaf, 1, Some("module disconnect"));
}
