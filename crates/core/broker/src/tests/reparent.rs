//! Routers that are lost, whose subtrees go to the grandparent (`tbon.reparent`).

use flux_proto::{Errno, Message, NODEID_ANY};
use flux_svc::Way;
use serde_json::{Value, json};

use super::cluster::{Cluster, OWNER, Shared, standard};
use crate::NodeConfig;

/// The tree as the leader shows it: `0(1(3,4),2)`.
fn shape(cluster: &mut Cluster) -> String {
    fn text(tree: &Value) -> String {
        let children: Vec<String> = tree["children"].as_array().unwrap().iter().map(text).collect();
        let rank = &tree["rank"];
        if children.is_empty() {
            rank.to_string()
        } else {
            format!("{rank}({})", children.join(","))
        }
    }
    let root = cluster.client(0, OWNER);
    text(&cluster.call(root, "overlay.topology", 0, json!({ "rank": 0 })).unwrap())
}

/// Everybody of `there` reaches everybody of them, and nobody else.
fn all_talk(cluster: &mut Cluster, there: &[u32]) {
    for from in there {
        let caller = cluster.client(*from, OWNER);
        for to in 0..7 {
            let answer = cluster.call(caller, "probe.echo", to, json!({}));
            match answer {
                Ok(body) => assert_eq!(body["rank"], to),
                Err(error) => {
                    assert_eq!(error.errno, Errno::EHOSTUNREACH);
                    assert!(!there.contains(&to), "{from} to {to}: {error}");
                }
            }
        }
    }
    // And the events of the leader.
    let root = cluster.client(0, OWNER);
    for rank in there {
        let listener = cluster.client(*rank, OWNER);
        cluster.call(listener, "event.subscribe", NODEID_ANY, json!({ "topic": "x" })).unwrap();
        cluster.send(root, Message::event("x.1"));
        assert_eq!(cluster.received(listener).len(), 1, "events at rank {rank}");
    }
    for rank in there {
        let node = cluster.nodes[*rank as usize].as_ref().unwrap();
        assert_eq!(node.tracked(), 0, "requests tracked at rank {rank}");
    }
}

#[test]
fn the_subtree_of_a_lost_router_goes_to_its_grandparent() {
    let mut cluster = Cluster::movable("kary:2", 7);
    let leaf = cluster.client(3, OWNER);
    let held = cluster.ask(leaf, "probe.hold", 0, json!({}));
    let root = cluster.client(0, OWNER);
    let down = cluster.ask(root, "probe.hold", 4, json!({}));
    cluster.kill(1);
    assert_eq!(cluster.answers(leaf, held)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    assert_eq!(cluster.answers(root, down)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    cluster.rejoin(3);
    cluster.rejoin(4);
    cluster.advance(1_500_000);
    assert!(cluster.rejoined(3).is_empty(), "the parent may come back yet");
    cluster.advance(2_000_000);
    for rank in [3, 4] {
        assert_eq!(cluster.rejoined(rank), [Ok(())], "rank {rank}");
        assert_eq!(cluster.ways(rank), [Way::Lost, Way::Back]);
    }
    assert_eq!(shape(&mut cluster), "0(1,2(5,6),3,4)");
    all_talk(&mut cluster, &[0, 2, 3, 4, 5, 6]);
    let health = cluster.call(root, "overlay.health", 0, json!(null)).unwrap();
    let seen: Vec<String> = health["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| format!("{} {}", child["rank"], child["status"].as_str().unwrap()))
        .collect();
    assert_eq!(seen, ["1 lost", "2 full", "3 full", "4 full"]);
    assert_eq!(health["status"], "degraded");
}

#[test]
fn a_router_that_returns_has_no_children_until_they_come_home() {
    let mut cluster = Cluster::movable("kary:2", 7);
    cluster.kill(1);
    for rank in [3, 4] {
        cluster.rejoin(rank);
    }
    cluster.advance(4_000_000);
    cluster.start(1);
    cluster.advance(2_000_000);
    assert_eq!(shape(&mut cluster), "0(1,2(5,6),3,4)");
    all_talk(&mut cluster, &[0, 1, 2, 3, 4, 5, 6]);
    // Its adopter is lost to it: it looks for its own parent first.
    cluster.break_uplink(3);
    cluster.rejoin(3);
    cluster.advance(1_000_000);
    assert_eq!(shape(&mut cluster), "0(1(3),2(5,6),4)");
    all_talk(&mut cluster, &[0, 1, 2, 3, 4, 5, 6]);
    // The same when somebody sends it there.
    let caller = cluster.client(4, OWNER);
    let body = json!({ "reason": "by request" });
    cluster.ask_with(caller, "overlay.disconnect-parent", 4, body, Message::with_no_response);
    cluster.rejoin(4);
    cluster.advance(1_000_000);
    assert_eq!(shape(&mut cluster), "0(1(3,4),2(5,6))");
    all_talk(&mut cluster, &[0, 1, 2, 3, 4, 5, 6]);
    let root = cluster.client(0, OWNER);
    let health = cluster.call(root, "overlay.health", 0, json!(null)).unwrap();
    assert_eq!(health["status"], "full");
    assert_eq!(health["children"].as_array().unwrap().len(), 2);
}

#[test]
fn when_two_levels_are_lost_the_next_above_takes_the_subtree() {
    let mut cluster = Cluster::movable("kary:1", 7);
    cluster.kill(2);
    cluster.kill(1);
    cluster.rejoin(3);
    cluster.advance(3_000_000);
    assert!(cluster.rejoined(3).is_empty());
    cluster.advance(4_000_000);
    assert_eq!(cluster.rejoined(3), [Ok(())]);
    assert_eq!(cluster.ways(6), [Way::Lost, Way::Back]);
    assert_eq!(shape(&mut cluster), "0(1(2),3(4(5(6))))");
    all_talk(&mut cluster, &[0, 3, 4, 5, 6]);
    // Routers that return stand beside it.
    cluster.start(1);
    cluster.start(2);
    cluster.advance(1_000_000);
    assert_eq!(shape(&mut cluster), "0(1(2),3(4(5(6))))");
    all_talk(&mut cluster, &[0, 1, 2, 3, 4, 5, 6]);
    // One of the adopted is lost, and its subtree goes to it that was adopted.
    cluster.kill(4);
    cluster.rejoin(5);
    cluster.advance(4_000_000);
    assert_eq!(shape(&mut cluster), "0(1(2),3(4,5(6)))");
    all_talk(&mut cluster, &[0, 1, 2, 3, 5, 6]);
}

#[test]
fn of_two_ways_to_a_broker_the_newer_one_holds() {
    let mut cluster = Cluster::movable("kary:1", 4);
    let all = |cluster: &mut Cluster| all_talk(cluster, &[0, 1, 2, 3]);
    // Rank 2 has lost rank 1, which stands still and does not know.
    cluster.freeze(1);
    cluster.break_uplink(2);
    cluster.rejoin(2);
    cluster.advance(15_000_000);
    assert_eq!(cluster.rejoined(2), [Ok(())]);
    assert_eq!(shape(&mut cluster), "0(1,2(3))");
    let root = cluster.client(0, OWNER);
    assert!(cluster.call(root, "probe.echo", 3, json!({})).is_ok());
    cluster.thaw(1);
    cluster.advance(1_000_000);
    all(&mut cluster);
    assert_eq!(shape(&mut cluster), "0(1,2(3))");
    // It goes home over a link whose end the leader has not seen.
    cluster.break_uplink_unseen(2);
    cluster.rejoin(2);
    cluster.advance(1_000_000);
    assert_eq!(shape(&mut cluster), "0(1(2(3)))");
    all(&mut cluster);
}

#[test]
fn who_starts_without_its_router_is_patient_first() {
    let mut cluster = Cluster::movable("kary:1", 3);
    cluster.kill(2);
    cluster.kill(1);
    cluster.start(2);
    cluster.advance(20_000_000);
    assert!(cluster.notes[2].borrow().joined.is_empty());
    cluster.advance(15_000_000);
    assert_eq!(cluster.notes[2].borrow().joined.len(), 1);
    assert_eq!(shape(&mut cluster), "0(1,2)");
}

#[test]
fn without_state_only_the_loss_of_the_leader_is_the_end() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.reparent = Some(2.0);
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:1", 3, Box::new(maker));
    cluster.kill(1);
    cluster.rejoin(2);
    cluster.advance(4_000_000);
    assert_eq!(cluster.rejoined(2), [Ok(())]);
    cluster.kill(0);
    cluster.rejoin(2);
    assert_eq!(cluster.rejoined(2), [Ok(()), Err(Errno::EHOSTUNREACH)]);
    // A router that went down with the leader is not waited for without end.
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.reparent = Some(2.0);
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:1", 3, Box::new(maker));
    cluster.kill(0);
    cluster.kill(1);
    cluster.rejoin(2);
    cluster.advance(20_000_000);
    assert_eq!(cluster.rejoined(2), [Err(Errno::ETIMEDOUT)]);
}

#[test]
fn nobody_takes_in_who_is_not_below() {
    let mut cluster = Cluster::movable("kary:2", 7);
    let hello = |rank: u32| {
        json!({ "rank": rank, "version": 0x58_00, "uuid": "somebody", "status": 1,
            "tells": true })
    };
    use flux_svc::engine::{Input, LinkId};
    for rank in [5, 2, 0, 9] {
        let link = LinkId(1000 + u64::from(rank));
        cluster.input(1, Input::LinkUp(link));
        let message = Message::request("overlay.hello").with_json(&hello(rank));
        let cred = flux_proto::Cred {
            userid: flux_proto::USERID_UNKNOWN,
            rolemask: flux_proto::Rolemask::OWNER,
        };
        cluster.input(1, Input::Link(link, message.with_cred(cred)));
        assert!(cluster.logged(1, &format!("rank {rank} is not a child of rank 1")));
    }
    assert_eq!(shape(&mut cluster), "0(1(3,4),2(5,6))");
    all_talk(&mut cluster, &[0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn who_is_taken_in_again_brings_no_answers_from_before() {
    let mut cluster = Cluster::movable("kary:1", 4);
    let root = cluster.client(0, OWNER);
    let ask = |cluster: &mut Cluster| {
        cluster.ask_with(root, "probe.hold", 2, json!({}), |mut message| {
            message.set_matchtag(1);
            message
        })
    };
    cluster.kill(1);
    cluster.rejoin(2);
    cluster.advance(4_000_000);
    assert_eq!(shape(&mut cluster), "0(1,2(3))");
    ask(&mut cluster);
    cluster.break_uplink(2);
    assert_eq!(cluster.answers(root, 1)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    cluster.rejoin(2);
    cluster.advance(15_000_000);
    assert_eq!(shape(&mut cluster), "0(1,2(3))");
    // The tag is used again; the answer to its first request has nowhere to go.
    ask(&mut cluster);
    let poke = Message::request("probe.release").with_no_response();
    for text in ["first", "second"] {
        let request = cluster.notes[2].borrow_mut().held.remove(0);
        let answer = Message::response_to(&request).with_json(&json!({ "is": text }));
        cluster.notes[2].borrow_mut().late.push(answer);
        let caller = cluster.client(2, OWNER);
        cluster.send(caller, poke.clone());
    }
    assert_eq!(cluster.answers(root, 1), [Ok(json!({ "is": "second" }))]);
}
