use flux_proto::{Errno, Message, MsgType, NODEID_ANY};
use serde_json::json;

use super::cluster::{Cluster, GUEST, OWNER};

/// The conversation of the record `service-dynamic` of flux-core 0.88: a client on rank 0 of a
/// chain of four serves a request of a client on rank 3, then hears that this client is gone.
#[test]
fn a_client_serves_a_client_three_hops_away() {
    let mut cluster = Cluster::new("kary:1", 4);
    let server = cluster.client(0, OWNER);
    let mut add = Message::request("service.add").with_json(&json!({ "service": "golden" }));
    add.set_matchtag(1);
    cluster.send(server, add);
    let added = cluster.received(server).remove(0);
    assert_eq!(added.kind, MsgType::Response);
    assert_eq!((added.cred.userid, added.cred.rolemask.0), (u32::MAX, 1));
    assert_eq!((added.flags.0, added.errnum().0, added.matchtag()), (9, 0, 1));
    assert!(added.routes.is_empty());

    let caller = cluster.client(3, OWNER);
    let tag = cluster.ask(caller, "golden.ask", NODEID_ANY, json!({ "q": 1 }));
    let request = cluster.received(server).remove(0);
    assert_eq!((request.kind, request.topic()), (MsgType::Request, "golden.ask"));
    assert_eq!((request.flags.0, request.nodeid(), request.matchtag()), (11, NODEID_ANY, tag));
    assert_eq!((request.cred.userid, request.cred.rolemask.0), (OWNER, 1));
    let brokers: Vec<String> =
        request.routes.iter().map(|id| id.to_str_lossy().into_owned()).collect();
    assert_eq!(brokers.len(), 6);
    for (at, rank) in [(2, 3), (3, 2), (4, 1), (5, 0)] {
        assert!(brokers[at].starts_with(&format!("{rank:08x}")), "{brokers:?}");
    }

    let answer = Message::response_to(&request).with_json(&json!({ "answer": 42 }));
    cluster.send(server, answer);
    assert_eq!(cluster.answers(caller, tag), [Ok(json!({ "answer": 42 }))]);

    cluster.leave(caller);
    let farewell = cluster.received(server).remove(0);
    assert_eq!((farewell.kind, farewell.topic()), (MsgType::Request, "golden.disconnect"));
    assert_eq!((farewell.flags.0, farewell.nodeid()), (13, NODEID_ANY));
    assert_eq!((farewell.cred.userid, farewell.cred.rolemask.0), (OWNER, 1));
    assert_eq!(farewell.matchtag(), tag);
    assert_eq!(farewell.routes, request.routes);

    let name = json!({ "service": "golden" });
    assert!(cluster.call(server, "service.remove", NODEID_ANY, name.clone()).is_ok());
    let error = cluster.call(server, "service.remove", NODEID_ANY, name).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
}

#[test]
fn guests_take_only_names_that_carry_their_user_id() {
    let mut cluster = Cluster::new("kary:2", 1);
    let guest = cluster.client(0, GUEST);
    let add = |cluster: &mut Cluster, client, name: &str| {
        cluster.call(client, "service.add", NODEID_ANY, json!({ "service": name }))
    };
    assert_eq!(add(&mut cluster, guest, "mine").unwrap_err().errno, Errno::EPERM);
    assert_eq!(add(&mut cluster, guest, "1002-x").unwrap_err().errno, Errno::EPERM);
    assert_eq!(add(&mut cluster, guest, "1001-a.b").unwrap_err().errno, Errno::EINVAL);
    assert!(add(&mut cluster, guest, "1001-x").is_ok());
    assert_eq!(add(&mut cluster, guest, "1001-x").unwrap_err().errno, Errno::EEXIST);
    let owner = cluster.client(0, OWNER);
    assert_eq!(add(&mut cluster, owner, "probe").unwrap_err().errno, Errno::EEXIST);
    assert_eq!(add(&mut cluster, owner, "broker").unwrap_err().errno, Errno::EEXIST);
    let name = json!({ "service": "1001-x" });
    let error = cluster.call(owner, "service.remove", NODEID_ANY, name).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
}

#[test]
fn a_server_that_goes_away_leaves_no_request_open() {
    let mut cluster = Cluster::new("kary:1", 2);
    let server = cluster.client(0, OWNER);
    let name = json!({ "service": "brief" });
    cluster.call(server, "service.add", NODEID_ANY, name).unwrap();
    let caller = cluster.client(1, GUEST);
    let one = cluster.ask(caller, "brief.one", NODEID_ANY, json!({}));
    let two = cluster.stream(caller, "brief.two", NODEID_ANY, json!({}));
    assert_eq!(cluster.received(server).len(), 2);
    cluster.leave(server);
    for tag in [one, two] {
        let answers = cluster.answers(caller, tag);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].as_ref().unwrap_err().errno, Errno::ENOSYS);
    }
    let late = cluster.any(caller, "brief.three").unwrap_err();
    assert_eq!(late.errno, Errno::ENOSYS, "the same as before it left");
}

#[test]
fn the_local_socket_counts_its_clients() {
    let mut cluster = Cluster::new("kary:2", 1);
    let first = cluster.client(0, OWNER);
    cluster.leave(first);
    let client = cluster.client(0, GUEST);
    cluster.call(client, "broker.ping", NODEID_ANY, json!({})).unwrap();
    let ask =
        |cluster: &mut Cluster, topic| cluster.call(client, topic, NODEID_ANY, json!({})).unwrap();
    let stats = ask(&mut cluster, "connector-local.stats-get");
    assert_eq!(stats["server"]["connects"], json!(2));
    let clients = stats["server"]["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients[0]["userid"], json!(GUEST));
    assert_eq!((&clients[0]["rxcount"], &clients[0]["txcount"]), (&json!(2), &json!(1)));
    assert_eq!(stats["allow_root_owner"], json!(false));
    assert_eq!(ask(&mut cluster, "broker.stats-get")["clients"], json!(1));
}

#[test]
fn services_hear_of_clients_that_go_away() {
    let mut cluster = Cluster::new("kary:1", 3);
    let caller = cluster.client(2, GUEST);
    cluster.ask(caller, "probe.hold", 0, json!({}));
    cluster.ask(caller, "probe.echo", 0, json!({}));
    cluster.ask(caller, "probe.echo", 1, json!({}));
    cluster.ask_with(caller, "probe.log", 2, json!({}), Message::with_no_response);
    cluster.leave(caller);
    let count = |rank: usize| cluster.notes[rank].borrow().disconnects.len();
    assert_eq!([count(0), count(1), count(2)], [1, 1, 0]);
    let notes = cluster.notes[0].borrow();
    assert_eq!(notes.disconnects[0].first_route(), notes.held[0].first_route());
    assert_eq!(notes.disconnects[0].cred.userid, GUEST);
    assert_eq!(cluster.nodes[2].as_ref().unwrap().tracked(), 0);
}

#[test]
fn a_service_that_owes_an_answer_for_long_is_named_with_its_queue() {
    let mut cluster = Cluster::new("kary:1", 2);
    let client = cluster.client(1, OWNER);
    cluster.ask(client, "probe.hold", 1, json!({}));
    cluster.ask(client, "probe.hold", 1, json!({}));
    cluster.stream(client, "probe.stream", 1, json!({}));
    let ask = |cluster: &mut Cluster, older: f64| {
        let caller = cluster.client(0, OWNER);
        cluster.call(caller, "module.health", 1, json!({ "older": older })).unwrap()
    };
    assert_eq!(ask(&mut cluster, 5.0), json!({ "rank": 1, "services": [] }));
    cluster.advance(8_000_000);
    let report = ask(&mut cluster, 5.0);
    assert_eq!(report["services"][0]["name"], "probe");
    assert_eq!(report["services"][0]["topic"], "probe.hold");
    assert_eq!(report["services"][0]["depth"], 3);
    assert!(report["services"][0]["oldest"].as_f64().unwrap() >= 8.0);
    // Those that only stream owe nothing.
    let held: Vec<Message> = cluster.notes[1].borrow_mut().held.drain(..).collect();
    for request in held.iter().filter(|request| !request.is_streaming()) {
        cluster.notes[1].borrow_mut().late.push(Message::response_to(request));
    }
    let silent = Message::with_no_response;
    cluster.ask_with(client, "probe.release", 1, json!({}), silent);
    assert_eq!(ask(&mut cluster, 5.0)["services"], json!([]));
}
