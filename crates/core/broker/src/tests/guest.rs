//! What guests try with messages of their own making.

use flux_proto::{Cred, Errno, Flags, Message, MsgType, NODEID_ANY, Rolemask, RouteId};
use serde_json::{Value, json};

use super::cluster::{Caller, Cluster, GUEST, OWNER, Shared, standard};
use crate::NodeConfig;

const OTHER: u32 = GUEST + 1;

fn events(cluster: &mut Cluster, client: Caller) -> Vec<String> {
    let events = cluster.received(client).into_iter().filter(|m| m.kind == MsgType::Event);
    events.map(|m| m.topic().to_string()).collect()
}

#[test]
fn events_of_guests_reach_no_service() {
    let mut cluster = Cluster::new("kary:2", 3);
    let (owner, guest) = (cluster.client(0, OWNER), cluster.client(2, GUEST));
    let watcher = cluster.client(1, OTHER);
    for client in [owner, watcher] {
        cluster.call(client, "event.subscribe", NODEID_ANY, json!({ "topic": "" })).unwrap();
    }
    cluster.ask(owner, "probe.subscribe", NODEID_ANY, json!({}));
    // Sent as an event, asked for by a call, and with the credentials of somebody else.
    cluster.send(guest, Message::event("test.sent"));
    let body = json!({ "topic": "test.asked", "flags": 0 });
    cluster.call(guest, "event.publish", 0, body).unwrap();
    let mut forged = Message::event("test.forged");
    forged.cred = Cred::new(OWNER, Rolemask::OWNER);
    cluster.send(guest, forged);
    cluster.send(owner, Message::event("test.owner"));
    let seen = |cluster: &Cluster| -> Vec<String> {
        let notes = cluster.notes[0].clone();
        notes.borrow().events.iter().map(|event| event.topic().to_string()).collect()
    };
    assert_eq!(seen(&cluster), ["test.owner"]);
    // Clients see all that is not private.
    let all = ["test.sent", "test.asked", "test.forged", "test.owner"];
    assert_eq!(events(&mut cluster, watcher), all);
    assert_eq!(events(&mut cluster, owner), all);
}

#[test]
fn private_events_reach_the_owner_and_their_user_only() {
    let mut cluster = Cluster::new("kary:2", 3);
    let clients = [cluster.client(1, OWNER), cluster.client(2, GUEST), cluster.client(0, OTHER)];
    for client in clients {
        cluster.call(client, "event.subscribe", NODEID_ANY, json!({ "topic": "" })).unwrap();
    }
    let mut message = Message::event("test.private");
    message.flags.insert(Flags::PRIVATE);
    let sender = cluster.client(0, GUEST);
    cluster.send(sender, message);
    let seen = clients.map(|client| events(&mut cluster, client).len());
    assert_eq!(seen, [1, 1, 0]);
}

#[test]
fn a_guest_cannot_answer_somebody_who_did_not_ask() {
    let mut cluster = Cluster::new("kary:2", 1);
    let (server, asker) = (cluster.client(0, GUEST), cluster.client(0, GUEST));
    let victim = cluster.client(0, OTHER);
    let name = format!("{GUEST}-x");
    cluster.call(server, "service.add", NODEID_ANY, json!({ "service": name })).unwrap();
    // The victim asks, so that the server learns its id; the asker's request has its own.
    let known = cluster.ask(victim, &format!("{name}.a"), NODEID_ANY, json!({}));
    let of_victim = cluster.received(server).remove(0);
    cluster.send(server, Message::response_to(&of_victim).with_json(&json!({ "n": 1 })));
    assert_eq!(cluster.answers(victim, known), [Ok(json!({ "n": 1 }))]);
    let tag = cluster.ask(asker, &format!("{name}.b"), NODEID_ANY, json!({}));
    let of_asker = cluster.received(server).remove(0);
    let mut forged = Message::response_to(&of_asker).with_json(&json!({ "n": 666 }));
    for at in 1..forged.routes.len() {
        let mut message = forged.clone();
        message.routes.truncate(at);
        message.routes.push(of_victim.routes[0].clone());
        cluster.send(server, message);
    }
    assert!(cluster.received(victim).is_empty());
    // The honest answer arrives still.
    forged = Message::response_to(&of_asker).with_json(&json!({ "n": 2 }));
    cluster.send(server, forged);
    assert_eq!(cluster.answers(asker, tag), [Ok(json!({ "n": 2 }))]);
}

#[test]
fn a_guest_cannot_ask_in_the_name_of_another_client() {
    let mut cluster = Cluster::new("kary:2", 1);
    let (guest, victim) = (cluster.client(0, GUEST), cluster.client(0, OTHER));
    let name = format!("{GUEST}-x");
    cluster.call(guest, "service.add", NODEID_ANY, json!({ "service": name })).unwrap();
    cluster.ask(victim, &format!("{name}.a"), NODEID_ANY, json!({}));
    let id = cluster.received(guest).remove(0).routes[0].clone();
    let mut forged = Message::request("probe.disconnect").with_no_response();
    forged.push_route(id);
    cluster.send(guest, forged);
    let notes = cluster.notes[0].clone();
    assert!(notes.borrow().disconnects.is_empty());
    // What is behind a proxy has ids that mean nothing here.
    let mut behind = Message::request("probe.echo").with_json(&json!({}));
    behind.set_matchtag(5);
    behind.push_route(RouteId::from("behind"));
    cluster.send(guest, behind);
    let answer = cluster.received(guest).remove(0);
    assert_eq!((answer.matchtag(), answer.errnum()), (5, Errno(0)));
    assert_eq!(answer.routes, [RouteId::from("behind")]);
}

#[test]
fn guests_see_their_own_connections_only() {
    let mut cluster = Cluster::new("kary:2", 1);
    let (owner, guest) = (cluster.client(0, OWNER), cluster.client(0, GUEST));
    cluster.client(0, OTHER);
    let users = |cluster: &mut Cluster, client| -> Vec<Value> {
        let stats = cluster.any(client, "connector-local.stats-get").unwrap();
        let clients = stats["server"]["clients"].as_array().unwrap().clone();
        clients.into_iter().map(|client| client["userid"].clone()).collect()
    };
    assert_eq!(users(&mut cluster, owner).len(), 3);
    assert_eq!(users(&mut cluster, guest), [json!(GUEST)]);
}

#[test]
fn a_guests_requests_reach_no_driver() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.drivers = vec!["content-backing", "console"];
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:2", 1, Box::new(maker));
    let guest = cluster.client(0, GUEST);
    cluster.driven.clear();
    for topic in ["content-backing.load", "console.write", "console.read-config", "console.x"] {
        let error = cluster.any(guest, topic).unwrap_err();
        assert_eq!(error.errno, Errno::EPERM, "{topic}");
    }
    assert!(cluster.driven.is_empty());
}

#[test]
fn a_guest_cannot_speak_for_the_parent() {
    let mut cluster = Cluster::new("kary:1", 3);
    let guest = cluster.client(0, GUEST);
    let body = json!({ "instance": "forged", "open": false, "sequence": 1 });
    let tag = cluster.ask(guest, "overlay.way", 2, body);
    let answers = cluster.answers(guest, tag);
    assert_eq!(answers[0].as_ref().unwrap_err().errno, Errno::EPERM);
    assert!(!cluster.notes[2].borrow().orphaned);
    let owner = cluster.client(2, OWNER);
    cluster.call(owner, "probe.echo", 0, json!({})).unwrap();
}

#[test]
fn a_guest_has_so_many_open_requests_and_no_more() {
    use crate::switch::guest::OPEN;
    let mut cluster = Cluster::new("kary:2", 1);
    let (first, second) = (cluster.client(0, GUEST), cluster.client(0, GUEST));
    for at in 0..OPEN {
        let client = if at % 2 == 0 { first } else { second };
        cluster.ask(client, "probe.hold", NODEID_ANY, json!({}));
    }
    let error = cluster.any(first, "probe.echo").unwrap_err();
    assert_eq!(error.errno, Errno::EAGAIN);
    // Neither refusals nor subscriptions give a place free.
    cluster.call(first, "event.subscribe", NODEID_ANY, json!({ "topic": "x" })).unwrap();
    assert_eq!(cluster.any(second, "probe.echo").unwrap_err().errno, Errno::EAGAIN);
    // Others, and the owner, are served.
    for user in [OTHER, OWNER] {
        let client = cluster.client(0, user);
        cluster.any(client, "probe.echo").unwrap();
    }
    // An answer gives a place free, and so does a connection that ends.
    let held = cluster.notes[0].borrow_mut().held.pop().unwrap();
    cluster.notes[0].borrow_mut().late.push(Message::response_to(&held).with_json(&json!({})));
    let owner = cluster.client(0, OWNER);
    cluster.send(owner, Message::request("probe.release").with_no_response());
    cluster.any(first, "probe.echo").unwrap();
    cluster.leave(second);
    for _ in 0..100 {
        cluster.ask(first, "probe.hold", NODEID_ANY, json!({}));
    }
    cluster.any(first, "probe.echo").unwrap();
    cluster.notes[0].borrow_mut().held.clear();
}

#[test]
fn large_requests_and_events_of_guests_are_refused() {
    use crate::switch::guest::{EVENT, NAME, REQUEST};
    let mut cluster = Cluster::new("kary:2", 3);
    let (guest, owner) = (cluster.client(2, GUEST), cluster.client(0, OWNER));
    cluster.call(owner, "event.subscribe", NODEID_ANY, json!({ "topic": "" })).unwrap();
    let text = "x".repeat(REQUEST);
    let body = json!({ "text": text });
    let error = cluster.call(guest, "probe.echo", NODEID_ANY, body.clone()).unwrap_err();
    assert_eq!(error.errno, Errno::EMSGSIZE);
    cluster.call(owner, "probe.echo", NODEID_ANY, body.clone()).unwrap();
    // Jobs and their data may be large.
    let error = cluster.call(guest, "kvs.commit", NODEID_ANY, body).unwrap_err();
    assert_eq!(error.errno, Errno::ENOSYS);
    cluster.received(owner);
    let large = json!({ "text": "x".repeat(EVENT) });
    cluster.send(guest, Message::event("test.large").with_json(&large));
    cluster.send(guest, Message::event("x".repeat(NAME + 1)));
    let payload = "eHh4eHh4".repeat(EVENT / 6 + 1);
    let body = json!({ "topic": "test.asked", "flags": 0, "payload": payload });
    let error = cluster.call(guest, "event.publish", 0, body).unwrap_err();
    assert_eq!(error.errno, Errno::EMSGSIZE);
    cluster.send(owner, Message::event("test.owner").with_json(&large));
    assert_eq!(events(&mut cluster, owner), ["test.owner"]);
}

#[test]
fn subscriptions_services_and_places_of_guests_are_bounded() {
    use crate::switch::guest::{NAME, SERVICES, SUBSCRIPTIONS};
    let mut cluster = Cluster::new("kary:2", 1);
    let guest = cluster.client(0, GUEST);
    let mut subscribe = |topic: String| {
        cluster.call(guest, "event.subscribe", NODEID_ANY, json!({ "topic": topic })).map(drop)
    };
    for at in 0..SUBSCRIPTIONS {
        subscribe(format!("topic.{at}")).unwrap();
    }
    assert_eq!(subscribe("one.more".into()).unwrap_err().errno, Errno::ENOSPC);
    let guest = cluster.client(0, GUEST);
    let mut serve = |name: String| {
        cluster.call(guest, "service.add", NODEID_ANY, json!({ "service": name })).map(drop)
    };
    let long = format!("{GUEST}-{}", "x".repeat(NAME));
    assert_eq!(serve(long).unwrap_err().errno, Errno::ENOSPC);
    for at in 0..SERVICES {
        serve(format!("{GUEST}-{at}")).unwrap();
    }
    assert_eq!(serve(format!("{GUEST}-x")).unwrap_err().errno, Errno::ENOSPC);
    // Who could not be told of the end of this client is not asked.
    let guest = cluster.client(0, GUEST);
    for at in 0..4096 {
        cluster.ask(guest, &format!("nobody{at}.x"), NODEID_ANY, json!({}));
    }
    assert_eq!(cluster.any(guest, "probe.hold").unwrap_err().errno, Errno::EAGAIN);
}

#[test]
fn every_client_behind_a_guest_is_told_of_when_it_ends() {
    let mut cluster = Cluster::new("kary:2", 3);
    let guest = cluster.client(2, GUEST);
    for (tag, name) in ["a", "b"].into_iter().enumerate() {
        let mut behind = Message::request("probe.hold").with_nodeid(0).with_json(&json!({}));
        behind.set_matchtag(tag as u32 + 1);
        behind.push_route(RouteId::from(name));
        cluster.send(guest, behind);
    }
    cluster.leave(guest);
    let notes = cluster.notes[0].clone();
    let mut ends: Vec<String> = notes
        .borrow()
        .disconnects
        .iter()
        .map(|message| message.first_route().unwrap().to_string())
        .collect();
    ends.sort();
    assert_eq!(ends, [format!("{GUEST}/a"), format!("{GUEST}/b")]);
    notes.borrow_mut().held.clear();
}

#[test]
fn a_guest_cannot_name_a_client_of_another_broker() {
    let mut cluster = Cluster::new("kary:2", 3);
    let (guest, victim) = (cluster.client(2, GUEST), cluster.client(0, OTHER));
    cluster.ask(victim, "probe.hold", 0, json!({}));
    let id = cluster.notes[0].borrow().held[0].first_route().unwrap().clone();
    let mut forged = Message::request("probe.disconnect").with_nodeid(0).with_no_response();
    forged.push_route(id.clone());
    cluster.send(guest, forged);
    let notes = cluster.notes[0].clone();
    assert!(notes.borrow().disconnects.iter().all(|message| message.first_route() != Some(&id)));
    notes.borrow_mut().held.clear();
}
