use flux_proto::{Errno, Message, NODEID_ANY};
use serde_json::json;

use super::cluster::{Cluster, GUEST, OWNER};

#[test]
fn every_rank_answers_a_ping_from_every_rank() {
    for uri in ["kary:0", "kary:1", "kary:2", "mincrit:2", "binomial"] {
        let mut cluster = Cluster::new(uri, 8);
        for from in 0..8 {
            let client = cluster.client(from, OWNER);
            for to in 0..8 {
                let pong = cluster.call(client, "broker.ping", to, json!({ "seq": 1 })).unwrap();
                assert_eq!(pong["rank"], json!(to), "{uri} {from} to {to}");
                let echo = cluster.call(client, "probe.echo", to, json!({ "a": to })).unwrap();
                assert_eq!(echo["rank"], json!(to));
                assert_eq!(echo["body"]["a"], json!(to));
                // LOCAL does not cross brokers.
                assert_eq!(echo["rolemask"], json!(if from == to { 5 } else { 1 }));
            }
        }
        assert!(cluster.nodes.iter().flatten().all(|node| node.tracked() == 0));
    }
}

#[test]
fn the_route_of_a_ping_has_one_id_for_each_hop() {
    let mut cluster = Cluster::new("kary:1", 4);
    let client = cluster.client(3, OWNER);
    let pong = cluster.call(client, "broker.ping", 0, json!({ "seq": 1 })).unwrap();
    let route: Vec<_> = pong["route"].as_str().unwrap().split('!').collect();
    assert_eq!(route.len(), 6);
    assert_eq!(&route[2..], ["00000003", "00000002", "00000001", "00000000"]);
    let tag = cluster.ask_with(client, "broker.ping", 3, json!({ "seq": 1 }), |message| {
        message.with_upstream(3)
    });
    let pong = cluster.answers(client, tag).remove(0).unwrap();
    assert_eq!(pong["rank"], json!(2));
    assert_eq!(pong["route"].as_str().unwrap().split('!').count(), 4);
}

#[test]
fn what_cannot_be_reached_is_refused_with_its_errno() {
    let mut cluster = Cluster::new("kary:2", 3);
    let client = cluster.client(2, OWNER);
    let error = cluster.call(client, "broker.ping", 3, json!({})).unwrap_err();
    assert_eq!((error.errno, error.text), (Errno::EHOSTUNREACH, None));
    let error = cluster.any(client, "nobody.here").unwrap_err();
    assert_eq!(error.errno, Errno::ENOSYS);
    assert_eq!(error.message(), "No service matching nobody.here is registered");
    let error = cluster.call(client, "nobody.here", 1, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::ENOSYS);
    let error = cluster.any(client, "broker.nothing").unwrap_err();
    assert_eq!(error.message(), "Unknown service method 'broker.nothing'");
    let root = cluster.client(0, OWNER);
    let tag = cluster.ask_with(root, "broker.ping", 0, json!({}), |m| m.with_upstream(0));
    let error = cluster.answers(root, tag).remove(0).unwrap_err();
    assert_eq!((error.errno, error.text), (Errno::EHOSTUNREACH, None));
}

#[test]
fn the_owner_may_speak_for_others_and_guests_only_for_themselves() {
    let mut cluster = Cluster::new("kary:2", 1);
    let owner = cluster.client(0, OWNER);
    let echo = cluster.any(owner, "probe.echo").unwrap();
    assert_eq!((&echo["userid"], &echo["rolemask"]), (&json!(OWNER), &json!(5)));
    let speak = |mut message: Message| {
        message.cred = flux_proto::Cred { userid: 7, rolemask: flux_proto::Rolemask(2) };
        message
    };
    let tag = cluster.ask_with(owner, "probe.echo", NODEID_ANY, json!({}), speak);
    let echo = cluster.answers(owner, tag).remove(0).unwrap();
    assert_eq!((&echo["userid"], &echo["rolemask"]), (&json!(7), &json!(2)));
    let guest = cluster.client(0, GUEST);
    let claim = |mut message: Message| {
        message.cred = flux_proto::Cred { userid: OWNER, rolemask: flux_proto::Rolemask(1) };
        message
    };
    let tag = cluster.ask_with(guest, "probe.echo", NODEID_ANY, json!({}), claim);
    let echo = cluster.answers(guest, tag).remove(0).unwrap();
    assert_eq!((&echo["userid"], &echo["rolemask"]), (&json!(GUEST), &json!(6)));
    let error = cluster.any(guest, "broker.waits").unwrap_err();
    assert_eq!(error.message(), "Request requires owner credentials");
    assert!(cluster.any(guest, "broker.ping").is_ok());
}

#[test]
fn ids_of_the_client_stay_at_the_bottom() {
    let mut cluster = Cluster::new("kary:1", 2);
    let client = cluster.client(1, OWNER);
    let mut message = Message::request("probe.echo").with_nodeid(0);
    message.set_matchtag(1);
    message.push_route("mine".into());
    cluster.send(client, message);
    let answer = cluster.received(client).remove(0);
    assert_eq!(answer.routes, ["mine".into()]);
    assert_eq!(answer.cred.userid, OWNER);
    assert_eq!(answer.cred.rolemask.0, 1);
}

#[test]
fn odd_messages_of_clients_are_ignored() {
    let mut cluster = Cluster::new("kary:1", 1);
    let client = cluster.client(0, GUEST);
    cluster.send(client, Message::control(2, 0));
    let mut message = Message::request("x.y");
    message.set_topic(None);
    cluster.send(client, message);
    // A guest cannot answer what it was not asked.
    let held = cluster.client(0, OWNER);
    let tag = cluster.ask(held, "probe.hold", NODEID_ANY, json!({}));
    let request = cluster.notes[0].borrow_mut().held.remove(0);
    cluster.send(client, Message::response_to(&request));
    assert!(cluster.answers(held, tag).is_empty());
    assert!(cluster.received(client).is_empty());
}
