use flux_svc::Way;

use super::*;

/// A follower that has asked for the root of primary, and the content of rank 0.
fn follower() -> (Store, Rig<KvsService>, Rig<KvsService>) {
    let mut store = Store::default();
    let mut leader = store.start();
    commit(&mut store, &mut leader, &[put("a.b", "1")]).unwrap();
    let rig = Rig::with(KvsService::new(HashAlg::Sha1), 3, 4, &serde_json::Map::new());
    assert!(rig.ready);
    (store, leader, rig)
}

/// Carries requests of the follower to rank 0 and events back.
fn run(store: &mut Store, leader: &mut Rig<KvsService>, rig: &mut Rig<KvsService>) {
    loop {
        store.serve(leader);
        store.serve(rig);
        if let Some(response) = leader.responses.pop_front() {
            rig.deliver(response);
        } else if let Some(event) = leader.events.pop_front() {
            rig.deliver(event);
        } else if let Some(request) = rig.requests.pop_front() {
            assert_eq!(request.nodeid(), 0);
            leader.deliver(request);
        } else {
            return;
        }
    }
}

fn ask(
    store: &mut Store,
    leader: &mut Rig<KvsService>,
    rig: &mut Rig<KvsService>,
    key: &str,
) -> Result<Value, Errno> {
    let tag = rig.request("kvs.lookup", json!({ "key": key, "flags": 0, "namespace": "primary" }));
    run(store, leader, rig);
    rig.response(tag).map(|body| body["val"].clone()).map_err(|error| error.errno)
}

#[test]
fn lookups_are_served_at_the_root_of_rank_0_with_its_blobs() {
    let (mut store, mut leader, mut rig) = follower();
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "none"), Err(Errno::ENOENT));
    let tag = send(&mut leader, &[put("a.b", "2")]);
    store.serve(&mut leader);
    leader.response(tag).unwrap();
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("2")));
    // What is known is answered without asking anybody.
    let tag = rig.request("kvs.getroot", json!({ "namespace": "primary" }));
    assert_eq!(rig.response(tag).unwrap()["rootseq"], 2);
}

#[test]
fn commits_are_relayed_and_read_back_at_once() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    let tag = send(&mut rig, &[put("a.c", "3")]);
    let relay = rig.expect("kvs.relaycommit");
    let body: Value = relay.json().unwrap();
    assert_eq!((body["userid"].as_u64(), body["rolemask"].as_u64()), (Some(1000), Some(5)));
    leader.deliver(relay);
    store.serve(&mut leader);
    // The answer overtakes the event: the root it names is the root here.
    leader.events.clear();
    rig.deliver(leader.responses.pop_front().unwrap());
    assert_eq!(rig.response(tag).unwrap()["rootseq"], 2);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.c"), Ok(val("3")));
}

#[test]
fn a_guest_stays_a_guest_at_rank_0() {
    let (mut store, mut leader, mut rig) = follower();
    let guest = rig.guest(7);
    let tag = rig.request_as(guest, "kvs.commit", transaction(&[put("x", "1")]), false);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EPERM);
}

#[test]
fn a_paused_follower_answers_its_commits_when_it_shows_their_root() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    let body = json!({ "namespace": "primary" });
    let tag = rig.request("kvs.setroot-pause", body.clone());
    rig.response(tag).unwrap();
    let sent = send(&mut rig, &[put("a.c", "3")]);
    run(&mut store, &mut leader, &mut rig);
    assert!(rig.try_response(sent).is_none());
    let tag = rig.request("kvs.setroot-unpause", body);
    rig.response(tag).unwrap();
    assert_eq!(rig.response(sent).unwrap()["rootseq"], 2);
}

#[test]
fn namespaces_are_made_at_rank_0_and_forgotten_when_removed() {
    let (mut store, mut leader, mut rig) = follower();
    let missing = rig.request("kvs.getroot", json!({ "namespace": "n" }));
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(missing).unwrap_err().errno, Errno::EOPNOTSUPP);
    let tag = rig.request("kvs.namespace-create", json!({ "namespace": "n", "owner": 5 }));
    run(&mut store, &mut leader, &mut rig);
    rig.response(tag).unwrap();
    let tag = rig.request("kvs.getroot", json!({ "namespace": "n" }));
    let wait = rig.request("kvs.wait-version", json!({ "namespace": "n", "rootseq": 9 }));
    let link = Treeobj::symlink(Some("n"), "k");
    let linked = send(&mut rig, &[object("far", &link)]);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(tag).unwrap()["owner"], 5);
    rig.response(linked).unwrap();
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "far"), Err(Errno::ENOENT));
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "n" }));
    run(&mut store, &mut leader, &mut rig);
    rig.response(tag).unwrap();
    assert_eq!(rig.response(wait).unwrap_err().errno, Errno::EOPNOTSUPP);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "far"), Err(Errno::EOPNOTSUPP));
    rig.finish();
}

#[test]
fn a_lost_leader_is_said_and_asked_again() {
    let (mut store, mut leader, mut rig) = follower();
    let request = rig.expect("kvs.getroot");
    let tag =
        rig.request("kvs.lookup", json!({ "key": "a.b", "flags": 0, "namespace": "primary" }));
    rig.fail(&request, Errno::EHOSTUNREACH);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EHOSTUNREACH);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
}

#[test]
fn at_the_end_a_follower_answers_everybody() {
    let (_, _, mut rig) = follower();
    let relayed = send(&mut rig, &[put("a", "1")]);
    let parked = rig.request("kvs.lookup", json!({"key": "a.b", "namespace": "primary"}));
    let created = rig.request(
        "kvs.namespace-create",
        json!({"namespace": "x", "rootref": "", "owner": 1000, "flags": 0}),
    );
    assert!(rig.try_response(relayed).is_none());
    rig.drain();
    for tag in [relayed, parked, created] {
        assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOSYS);
    }
    assert!(rig.drained);
    rig.requests.clear();
    rig.finish();
}

/// Commits on rank 0 while its events do not get here.
fn unheard(store: &mut Store, leader: &mut Rig<KvsService>, value: &str) {
    commit(store, leader, &[put("a.b", value)]).unwrap();
    leader.events.clear();
}

#[test]
fn a_follower_that_missed_changes_catches_up_when_the_way_is_back() {
    let (mut store, mut leader, mut rig) = follower();
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
    rig.way(Way::Lost);
    let wait = rig.request("kvs.wait-version", json!({ "namespace": "primary", "rootseq": 3 }));
    unheard(&mut store, &mut leader, "2");
    unheard(&mut store, &mut leader, "3");
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
    rig.way(Way::Back);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(wait).unwrap()["rootseq"], 3);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("3")));
    rig.finish();
}

#[test]
fn a_commit_on_its_way_when_the_way_is_lost_is_answered() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    let tag = send(&mut rig, &[put("x", "1")]);
    let relay = rig.requests.pop_front().unwrap();
    rig.fail(&relay, Errno::EHOSTUNREACH);
    rig.way(Way::Lost);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EHOSTUNREACH);
    rig.way(Way::Back);
    run(&mut store, &mut leader, &mut rig);
    rig.finish();
}

#[test]
fn a_namespace_that_was_removed_meanwhile_is_forgotten() {
    let (mut store, mut leader, mut rig) = follower();
    let body = json!({ "namespace": "n", "owner": 1000, "flags": 0, "rootref": "" });
    let tag = leader.request("kvs.namespace-create", body);
    store.serve(&mut leader);
    leader.response(tag).unwrap();
    run(&mut store, &mut leader, &mut rig);
    let root = json!({ "namespace": "n" });
    let tag = rig.request("kvs.getroot", root.clone());
    run(&mut store, &mut leader, &mut rig);
    rig.response(tag).unwrap();
    let wait = rig.request("kvs.wait-version", json!({ "namespace": "n", "rootseq": 9 }));
    rig.way(Way::Lost);
    let tag = leader.request("kvs.namespace-remove", root);
    store.serve(&mut leader);
    leader.response(tag).unwrap();
    leader.events.clear();
    rig.way(Way::Back);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(wait).unwrap_err().errno, Errno::EOPNOTSUPP);
    rig.finish();
}

#[test]
fn a_leader_that_has_lost_what_was_shown_is_not_followed() {
    let (mut store, mut leader, mut rig) = follower();
    commit(&mut store, &mut leader, &[put("a.b", "2")]).unwrap();
    run(&mut store, &mut leader, &mut rig);
    rig.way(Way::Lost);
    rig.way(Way::Back);
    let root = rig.expect("kvs.getroot");
    rig.reply(
        &root,
        json!({ "namespace": "primary", "owner": 1000, "rootseq": 1, "flags": 0,
                "rootref": "sha1-1234567890123456789012345678901234567890" }),
    );
    assert!(rig.failed.as_ref().unwrap().contains("older than version 2"));
    rig.finish();
}

#[test]
fn a_lookup_at_a_root_that_was_collected_begins_again_at_the_leaders() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    // While nobody told this rank, the root it knows was replaced and its objects collected.
    rig.way(Way::Lost);
    unheard(&mut store, &mut leader, "2");
    let tag =
        rig.request("kvs.lookup", json!({ "key": "a.b", "flags": 0, "namespace": "primary" }));
    let load = rig.expect("content.load");
    rig.fail(&load, Errno::ENOENT);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(tag).unwrap()["val"], val("2"));
    rig.finish();
}

#[test]
fn events_that_are_faster_than_the_leaders_answer_are_no_reason_to_start_again() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    rig.way(Way::Lost);
    rig.way(Way::Back);
    let getroot = rig.requests.pop_front().unwrap();
    leader.deliver(getroot);
    let answer = leader.responses.pop_front().unwrap();
    let tag = send(&mut leader, &[put("a.b", "2")]);
    store.serve(&mut leader);
    leader.response(tag).unwrap();
    run(&mut store, &mut leader, &mut rig);
    rig.deliver(answer);
    assert_eq!(rig.failed, None);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("2")));
    rig.finish();
}

#[test]
fn a_lookup_whose_pieces_were_collected_begins_again_at_the_leaders() {
    let (mut store, mut leader, mut rig) = follower();
    // A value of many pieces, which is replaced while they are read.
    let pieces: Vec<Blobref> = (0..100)
        .map(|number: u32| {
            let blob = Bytes::from(format!("{number}."));
            let blobref = HashAlg::Sha1.hash(&blob);
            store.blobs.insert(blobref, blob);
            blobref
        })
        .collect();
    let tag = send(&mut leader, &[object("a.b", &Treeobj::Valref(pieces))]);
    store.serve(&mut leader);
    leader.response(tag).unwrap();
    run(&mut store, &mut leader, &mut rig);
    let tag =
        rig.request("kvs.lookup", json!({ "key": "a.b", "flags": 0, "namespace": "primary" }));
    while rig.requests.len() < 2 {
        assert!(store.serve_one(&mut rig));
    }
    // Again and again: collections leave less time than a reader needs.
    for value in ["2", "3"] {
        unheard(&mut store, &mut leader, value);
        // The rest of what was asked for is late, and of no use any more.
        let load = rig.requests.pop_back().unwrap();
        assert_eq!(load.topic(), "content.load");
        rig.fail(&load, Errno::ENOENT);
        leader.deliver(rig.requests.pop_back().unwrap());
        rig.deliver(leader.responses.pop_front().unwrap());
    }
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(tag).unwrap()["val"], val("3"));
    rig.finish();
}

#[test]
fn what_is_missing_from_the_leaders_newest_version_is_said_at_once() {
    let (mut store, mut leader, mut rig) = follower();
    run(&mut store, &mut leader, &mut rig);
    let tag =
        rig.request("kvs.lookup", json!({ "key": "a.b", "flags": 0, "namespace": "primary" }));
    let load = rig.expect("content.load");
    rig.fail(&load, Errno::ENOENT);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOTRECOVERABLE);
    rig.finish();
}

/// Asks for a key of primary, and lets nothing else happen.
fn begin(rig: &mut Rig<KvsService>, key: &str) -> u32 {
    rig.request("kvs.lookup", json!({ "key": key, "flags": 0, "namespace": "primary" }))
}

#[test]
fn since_the_way_is_back_nothing_older_is_read_than_what_was_heard_of_since() {
    let (mut store, mut leader, mut rig) = follower();
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
    rig.way(Way::Lost);
    unheard(&mut store, &mut leader, "2");
    // Nothing comes from there: what is known is the newest that can be.
    let tag = begin(&mut rig, "a.b");
    assert_eq!(rig.response(tag).unwrap()["val"], val("1"));
    rig.way(Way::Back);
    // Whoever asks now may have heard what the change did, by an event that came first.
    let read = begin(&mut rig, "a.b");
    let root = rig.request("kvs.getroot", json!({ "namespace": "primary" }));
    let wait = rig.request("kvs.wait-version", json!({ "namespace": "primary", "rootseq": 1 }));
    assert!(rig.try_response(read).is_none() && rig.try_response(root).is_none());
    assert_eq!(rig.response(wait).unwrap()["rootseq"], 1);
    // One question for all of them.
    assert_eq!(rig.requests.len(), 1);
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(read).unwrap()["val"], val("2"));
    assert_eq!(rig.response(root).unwrap()["rootseq"], 2);
    let tag = begin(&mut rig, "a.b");
    assert_eq!(rig.response(tag).unwrap()["val"], val("2"));
    rig.finish();
}

#[test]
fn a_way_that_is_lost_before_the_leader_answered_leaves_no_old_answer() {
    let (mut store, mut leader, mut rig) = follower();
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("1")));
    rig.way(Way::Lost);
    unheard(&mut store, &mut leader, "2");
    rig.way(Way::Back);
    let first = begin(&mut rig, "a.b");
    // Something was heard, then it breaks again.
    let getroot = rig.expect("kvs.getroot");
    rig.fail(&getroot, Errno::EHOSTUNREACH);
    rig.way(Way::Lost);
    assert_eq!(rig.response(first).unwrap_err().errno, Errno::EHOSTUNREACH);
    let second = begin(&mut rig, "a.b");
    let getroot = rig.expect("kvs.getroot");
    rig.fail(&getroot, Errno::EAGAIN);
    assert_eq!(rig.response(second).unwrap_err().errno, Errno::EAGAIN);
    rig.way(Way::Back);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "a.b"), Ok(val("2")));
    assert!(rig.requests.is_empty());
    rig.finish();
}

#[test]
fn a_link_leads_to_no_older_version_either() {
    let (mut store, mut leader, mut rig) = follower();
    let make = json!({ "namespace": "n", "owner": 1000, "flags": 0, "rootref": "" });
    let made = leader.request("kvs.namespace-create", make);
    store.serve(&mut leader);
    leader.response(made).unwrap();
    let link = Treeobj::symlink(Some("n"), "k");
    let linked = send(&mut leader, &[object("far", &link)]);
    store.serve(&mut leader);
    leader.response(linked).unwrap();
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(ask(&mut store, &mut leader, &mut rig, "far"), Err(Errno::ENOENT));
    rig.way(Way::Lost);
    let written = leader
        .request("kvs.commit", json!({ "namespace": "n", "flags": 0, "ops": [put("k", "1")] }));
    store.serve(&mut leader);
    leader.response(written).unwrap();
    leader.events.clear();
    rig.way(Way::Back);
    let read = begin(&mut rig, "far");
    // The answer for primary first, that for the other namespace later.
    let at = |rig: &Rig<KvsService>, name: &str| {
        let asks =
            |request: &flux_proto::Message| request.json::<Value>().unwrap()["namespace"] == name;
        rig.requests.iter().position(asks).unwrap()
    };
    let primary = rig.requests.remove(at(&rig, "primary")).unwrap();
    leader.deliver(primary);
    rig.deliver(leader.responses.pop_front().unwrap());
    assert!(rig.try_response(read).is_none());
    run(&mut store, &mut leader, &mut rig);
    assert_eq!(rig.response(read).unwrap()["val"], val("1"));
    rig.finish();
}

#[test]
fn who_waits_for_the_leader_is_answered_at_the_end_and_when_it_is_no_leader_to_follow() {
    let (mut store, mut leader, mut rig) = follower();
    commit(&mut store, &mut leader, &[put("a.b", "2")]).unwrap();
    run(&mut store, &mut leader, &mut rig);
    rig.way(Way::Lost);
    rig.way(Way::Back);
    let read = begin(&mut rig, "a.b");
    let root = rig.expect("kvs.getroot");
    rig.reply(
        &root,
        json!({ "namespace": "primary", "owner": 1000, "rootseq": 1, "flags": 0,
                "rootref": "sha1-1234567890123456789012345678901234567890" }),
    );
    assert!(rig.failed.is_some());
    assert_eq!(rig.response(read).unwrap_err().errno, Errno::ENOSYS);
    let read = begin(&mut rig, "a.b");
    assert!(rig.try_response(read).is_none());
    rig.drain();
    assert_eq!(rig.response(read).unwrap_err().errno, Errno::ENOSYS);
    rig.requests.clear();
    rig.finish();
}
