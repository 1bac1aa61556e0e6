//! Parents that are lost and come back, seen from below.

use flux_proto::{Errno, Message, NODEID_ANY};
use flux_svc::Way;
use flux_svc::engine::{Input, LinkId};
use serde_json::json;

use super::cluster::{Cluster, OWNER, Shared, standard};
use super::loss::Instance;
use crate::NodeConfig;

/// A chain whose leader keeps its state under the name in the cell.
fn durable(uri: &str, size: u32) -> (Cluster, Instance) {
    Cluster::durable(uri, size, |_| {})
}

#[test]
fn a_restarted_leader_gets_everybody_back_and_each_module_hears_of_it_once() {
    let (mut cluster, _) = durable("kary:1", 4);
    let leaf = cluster.client(3, OWNER);
    let held = cluster.ask(leaf, "probe.hold", 0, json!({}));
    cluster.kill(0);
    assert_eq!(cluster.answers(leaf, held)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    for rank in 1..4 {
        assert_eq!(cluster.ways(rank), [Way::Lost], "rank {rank}");
    }
    // Below the lost link they still have each other, and are told at once that nobody is above.
    assert!(cluster.call(leaf, "probe.echo", 1, json!({})).is_ok());
    let error = cluster.call(leaf, "probe.echo", 0, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::EHOSTUNREACH);
    cluster.rejoin(1);
    cluster.advance(5_000_000);
    assert!(cluster.rejoined(1).is_empty());
    cluster.start(0);
    cluster.advance(1_000_000);
    assert_eq!(cluster.rejoined(1), [Ok(())]);
    for rank in 1..4 {
        assert_eq!(cluster.ways(rank), [Way::Lost, Way::Back], "rank {rank}");
    }
    assert!(cluster.logged(3, "back after"));
    assert!(cluster.call(leaf, "probe.echo", 0, json!({})).is_ok());
    // Events begin with new numbers, and nobody complains.
    cluster.call(leaf, "event.subscribe", NODEID_ANY, json!({ "topic": "x" })).unwrap();
    let root = cluster.client(0, OWNER);
    cluster.send(root, Message::event("x.1"));
    assert_eq!(cluster.received(leaf).len(), 1);
    assert!(!cluster.logged(3, "duplicate event"));
    let health = cluster.call(root, "overlay.health", 0, json!(null)).unwrap();
    assert_eq!(health["status"], "full");
}

#[test]
fn a_restarted_router_takes_its_subtree_back() {
    let (mut cluster, _) = durable("kary:1", 4);
    let root = cluster.client(0, OWNER);
    cluster.kill(1);
    cluster.rejoin(2);
    cluster.advance(2_000_000);
    assert_eq!((cluster.ways(2), cluster.ways(3)), (vec![Way::Lost], vec![Way::Lost]));
    cluster.start(1);
    cluster.advance(2_000_000);
    assert_eq!(cluster.ways(3), [Way::Lost, Way::Back]);
    assert!(cluster.ways(1).is_empty(), "it has never been without a way");
    assert!(cluster.call(root, "probe.echo", 3, json!({})).is_ok());
    let health = cluster.call(root, "overlay.health", 0, json!(null)).unwrap();
    assert_eq!(health["status"], "full");
    assert!(!cluster.logged(3, "restarted"), "the leader is the same");
}

#[test]
fn what_does_not_outlive_its_leader_does_not_wait() {
    let mut cluster = Cluster::new("kary:1", 2);
    cluster.kill(0);
    cluster.rejoin(1);
    assert_eq!(cluster.rejoined(1), [Err(Errno::EHOSTUNREACH)]);
}

#[test]
fn a_parent_is_waited_for_only_as_long_as_is_configured() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.tbon.insert("rejoin-timeout".into(), json!("7s"));
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:1", 2, Box::new(maker));
    cluster.kill(0);
    cluster.rejoin(1);
    cluster.advance(6_000_000);
    assert!(cluster.rejoined(1).is_empty());
    cluster.advance(1_500_000);
    assert_eq!(cluster.rejoined(1), [Err(Errno::ETIMEDOUT)]);
}

#[test]
fn brokers_of_another_instance_have_to_start_again() {
    let (mut cluster, instance) = durable("kary:1", 3);
    cluster.kill(0);
    *instance.borrow_mut() = Some("two".to_string());
    cluster.start(0);
    cluster.rejoin(1);
    cluster.advance(1_000_000);
    assert_eq!(cluster.rejoined(1), [Err(Errno::ESTALE)]);
    assert!(cluster.logged(0, "rank 1 belongs to instance one, and this is instance two"));
    // One that came back to a router which knew nothing then hears of it from that.
    let news = json!({
        "open": true, "instance": "two", "durable": true, "leader": "x", "sequence": 1
    });
    let message = Message::request("overlay.way").with_json(&news).with_no_response();
    cluster.input(2, Input::Link(LinkId::PARENT, message));
    assert!(cluster.logged(2, "the leader runs another instance (two)"));
    cluster.rejoin(2);
    assert_eq!(cluster.rejoined(2), [Err(Errno::ESTALE)]);
}

#[test]
fn whoever_was_disconnected_by_request_has_to_start_again() {
    let (mut cluster, _) = durable("kary:1", 3);
    let root = cluster.client(0, OWNER);
    let held = cluster.ask(root, "probe.hold", 2, json!({}));
    cluster.call(root, "overlay.disconnect-subtree", 0, json!({ "rank": 1 })).unwrap();
    assert_eq!(cluster.answers(root, held)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    cluster.rejoin(1);
    assert_eq!(cluster.rejoined(1), [Err(Errno::ESTALE)]);
    assert_eq!(cluster.ways(2), [Way::Lost]);
}

#[test]
fn a_broker_that_stops_alone_lets_its_children_wait_for_it() {
    let (mut cluster, _) = durable("kary:1", 3);
    cluster.input(1, Input::Signal(15));
    assert_eq!(cluster.notes[1].borrow().signals, [json!({ "signum": 15, "alone": true })]);
    let router = cluster.client(1, OWNER);
    cluster.call(router, "overlay.spurn", 1, json!({ "release": true })).unwrap();
    assert_eq!(cluster.ways(2), [Way::Lost]);
    cluster.rejoin(2);
    cluster.advance(1_000_000);
    assert!(cluster.rejoined(2).is_empty(), "it is not told to go down");
    cluster.kill(1);
    cluster.start(1);
    cluster.advance(2_000_000);
    assert_eq!(cluster.rejoined(2), [Ok(())]);
    assert_eq!(cluster.ways(2), [Way::Lost, Way::Back]);
}

#[test]
fn whoever_comes_back_to_a_parent_that_goes_down_goes_down_too() {
    let (mut cluster, _) = durable("kary:1", 2);
    let root = cluster.client(0, OWNER);
    cluster.call(root, "overlay.spurn", 0, json!({})).unwrap();
    cluster.break_uplink(1);
    cluster.rejoin(1);
    cluster.advance(1_000_000);
    assert_eq!(cluster.rejoined(1), [Err(Errno::ESHUTDOWN)]);
}

#[test]
fn a_parent_that_does_not_answer_the_hello_is_tried_again() {
    let (mut cluster, _) = durable("kary:1", 2);
    cluster.break_uplink(1);
    cluster.freeze(0);
    cluster.rejoin(1);
    cluster.advance(15_000_000);
    assert!(cluster.logged(1, "no answer to hello"));
    cluster.thaw(0);
    cluster.advance(15_000_000);
    assert_eq!(cluster.rejoined(1), [Ok(())]);
}

#[test]
fn a_child_that_runs_already_finds_all_services_of_its_parent_or_none() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.instance = Some("one".to_string());
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:1", 2, Box::new(maker));
    // Its leader has not started its services: as if it were still in JOIN.
    cluster.kill(0);
    let late = move |mut cfg: NodeConfig, notes: &Shared| {
        cfg.instance = Some("one".to_string());
        super::cluster::without_modules(cfg, notes)
    };
    cluster.remake(0, Box::new(late));
    cluster.rejoin(1);
    cluster.advance(1_000_000);
    assert_eq!(cluster.rejoined(1), [Ok(())]);
    assert_eq!(cluster.ways(1), [Way::Lost]);
    let leaf = cluster.client(1, OWNER);
    let error = cluster.call(leaf, "probe.echo", 0, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::EAGAIN);
    // The services are up.
    let root = cluster.client(0, OWNER);
    let start = json!({ "topic": "broker.start-modules", "body": {} });
    cluster.ask_with(root, "state-machine.do", 0, start, Message::with_no_response);
    assert_eq!(cluster.ways(1), [Way::Lost, Way::Back]);
    assert!(cluster.call(leaf, "probe.echo", 0, json!({})).is_ok());
}

#[test]
fn a_broker_that_has_never_had_a_way_hears_when_it_opens() {
    let (mut cluster, _) = durable("kary:1", 3);
    // Both start while nobody is above; then the router is another one.
    for rank in [0, 2, 1] {
        cluster.kill(rank);
    }
    cluster.start(1);
    cluster.start(2);
    assert!(cluster.ways(2).is_empty());
    cluster.kill(1);
    assert_eq!(cluster.ways(2), [Way::Lost]);
    cluster.rejoin(2);
    cluster.start(1);
    cluster.advance(2_000_000);
    assert_eq!(cluster.ways(2), [Way::Lost]);
    cluster.start(0);
    cluster.advance(2_000_000);
    assert_eq!(cluster.ways(2), [Way::Lost, Way::Back]);
}
