use base64::Engine as _;
use flux_proto::{Errno, Flags, Message, MsgType, NODEID_ANY};
use serde_json::json;

use super::cluster::{Caller, Cluster, GUEST, OWNER};

fn subscribe(cluster: &mut Cluster, client: Caller, prefix: &str) {
    cluster.call(client, "event.subscribe", NODEID_ANY, json!({ "topic": prefix })).unwrap();
}

fn events(cluster: &mut Cluster, client: Caller) -> Vec<(u32, String)> {
    let events = cluster.received(client).into_iter().filter(|m| m.kind == MsgType::Event);
    events.map(|m| (m.sequence(), m.topic().to_string())).collect()
}

#[test]
fn events_reach_all_ranks_in_one_order() {
    let mut cluster = Cluster::new("kary:2", 7);
    let clients: Vec<_> = (0..7).map(|rank| cluster.client(rank, OWNER)).collect();
    for client in &clients {
        subscribe(&mut cluster, *client, "test");
    }
    for n in 0..20 {
        cluster.send(clients[n % 7], Message::event(format!("test.{n}")));
    }
    let first = events(&mut cluster, clients[0]);
    let expected: Vec<_> = (0..20).map(|n| (n + 1, format!("test.{n}"))).collect();
    assert_eq!(first, expected);
    for client in &clients[1..] {
        assert_eq!(events(&mut cluster, *client), expected);
    }
    assert!(cluster.stderr.iter().all(|(_, line)| !line.contains("lost")));
}

#[test]
fn an_event_is_acknowledged_with_its_number() {
    let mut cluster = Cluster::new("kary:2", 3);
    let client = cluster.client(2, OWNER);
    subscribe(&mut cluster, client, "");
    let payload = base64::engine::general_purpose::STANDARD.encode(b"{\"a\":1}\0");
    let body = json!({ "topic": "x.y", "flags": 0, "payload": payload });
    let answer = cluster.call(client, "event.publish", 0, body).unwrap();
    assert_eq!(answer, json!({ "seq": 1 }));
    let event = cluster.received(client).remove(0);
    assert_eq!((event.topic(), event.sequence()), ("x.y", 1));
    assert_eq!(event.json::<serde_json::Value>().unwrap(), json!({ "a": 1 }));
    assert_eq!((event.cred.userid, event.cred.rolemask.0), (OWNER, 1));
    assert_eq!(event.routes.len(), 1);
    for (rank, body, text) in [
        (1, json!({ "topic": "x", "flags": 0 }), "this service is only available on rank 0"),
        (0, json!({ "topic": "x", "flags": 1 }), "flags"),
        (0, json!({ "topic": "x", "flags": 0, "payload": "%" }), "base64"),
    ] {
        let error = cluster.call(client, "event.publish", rank, body).unwrap_err();
        assert_eq!(error.errno, Errno::EPROTO);
        assert!(error.message().contains(text), "{error}");
    }
}

#[test]
fn subscriptions_are_counted_and_end_with_the_client() {
    let mut cluster = Cluster::new("kary:2", 1);
    let (client, publisher) = (cluster.client(0, OWNER), cluster.client(0, OWNER));
    subscribe(&mut cluster, client, "a");
    subscribe(&mut cluster, client, "a");
    subscribe(&mut cluster, client, "a.b");
    // Matched twice, delivered once.
    cluster.send(publisher, Message::event("a.b.c"));
    assert_eq!(events(&mut cluster, client).len(), 1);
    for _ in 0..2 {
        cluster.call(client, "event.unsubscribe", NODEID_ANY, json!({ "topic": "a" })).unwrap();
    }
    let again = cluster.call(client, "event.unsubscribe", NODEID_ANY, json!({ "topic": "a" }));
    assert_eq!(again.unwrap_err().errno, Errno::ENOENT);
    cluster.send(publisher, Message::event("a.x"));
    cluster.send(publisher, Message::event("a.b"));
    assert_eq!(events(&mut cluster, client), [(3, "a.b".to_string())]);
    let bad = cluster.call(client, "event.subscribe", NODEID_ANY, json!({}));
    assert_eq!(bad.unwrap_err().errno, Errno::EPROTO);
    cluster.leave(client);
    cluster.send(publisher, Message::event("a.b"));
    assert!(cluster.received(client).is_empty());
}

#[test]
fn private_events_are_for_their_user_and_the_owner() {
    let mut cluster = Cluster::new("kary:2", 3);
    let owner = cluster.client(1, OWNER);
    let (guest, other) = (cluster.client(2, GUEST), cluster.client(2, GUEST + 1));
    for client in [owner, guest, other] {
        subscribe(&mut cluster, client, "p");
    }
    let mut message = Message::event("p.x");
    message.flags.insert(Flags::PRIVATE);
    cluster.send(guest, message);
    assert_eq!(events(&mut cluster, owner).len(), 1);
    assert_eq!(events(&mut cluster, guest).len(), 1);
    assert_eq!(events(&mut cluster, other).len(), 0);
    cluster.send(guest, Message::event("p.y"));
    assert_eq!(events(&mut cluster, other).len(), 1);
}

#[test]
fn modules_subscribe_and_publish() {
    let mut cluster = Cluster::new("kary:1", 3);
    let client = cluster.client(2, OWNER);
    let silent = |m: Message| m.with_no_response();
    cluster.ask_with(client, "probe.subscribe", 0, json!({}), silent);
    cluster.ask_with(client, "probe.publish", 2, json!({}), silent);
    let notes = cluster.notes[0].borrow();
    assert_eq!(notes.events.len(), 1);
    assert_eq!(notes.events[0].topic(), "test.module");
    assert_eq!(notes.events[0].cred.userid, OWNER);
}
