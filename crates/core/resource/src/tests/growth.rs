//! Hosts and resources that change while the instance runs.

use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use super::{Bench, done, r, settings};
use crate::{ResourceService, ResourceSettings};

fn config(hosts: &str, resource: Value) -> Map<String, Value> {
    let config = json!({ "bootstrap": { "hosts": [{ "host": hosts }] }, "resource": resource });
    config.as_object().unwrap().clone()
}

/// Rank 0 of two, online, with R from a file or as it was found.
fn running(resource: Value, from_file: bool) -> Bench {
    let settings =
        ResourceSettings { has_bootstrap: true, config_r: from_file.then(|| r(2)), ..settings(2) };
    let config = config("n[0-1]", resource);
    let mut rig = Rig::with(ResourceService::new(settings), 0, 2, &config);
    let topo = rig.expect("topo.get");
    rig.reply(&topo, json!({"hostname": "n0", "cores": "0-1", "gpus": ""}));
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOENT);
    }
    let online = rig.expect("groups.get");
    let torpid = rig.expect("groups.get");
    if !from_file {
        reduce(&mut rig, 1);
    }
    done(&mut rig);
    rig.reply(&online, json!({"members": "0-1"}));
    rig.reply(&torpid, json!({"members": ""}));
    rig
}

fn reduce(rig: &mut Bench, rank: u32) {
    let set = json!({"version": 1, "execution": {
        "R_lite": [{"rank": rank.to_string(), "children": {"core": "0-1"}}],
        "nodelist": [format!("n{rank}")], "starttime": 0.0, "expiration": 0.0}});
    let body = json!({"count": 1, "resource": set});
    let mut message = Message::request("resource.topo-reduce").with_json(&body);
    message.cred = rig.owner();
    message.set_no_response();
    rig.deliver(message);
}

fn reload(rig: &mut Bench, hosts: &str, resource: Value) -> Result<Value, String> {
    let tag = rig.request("resource.config-reload", Value::Object(config(hosts, resource)));
    rig.response(tag).map_err(|error| error.message())
}

#[test]
fn what_new_brokers_find_becomes_part_of_r_and_the_scheduler_hears_all_again() {
    let mut rig = running(json!({}), false);
    let acquire = rig.stream("resource.acquire", Value::Null);
    assert_eq!(rig.response(acquire).unwrap(), json!({"resources": r(2), "up": "0-1"}));
    // A rank that nobody has announced is none.
    reduce(&mut rig, 2);
    assert!(rig.requests.is_empty());
    let mut rig = running(json!({}), false);
    let acquire = rig.stream("resource.acquire", Value::Null);
    rig.response(acquire).unwrap();
    reload(&mut rig, "n[0-3]", json!({})).unwrap();
    assert!(rig.requests.is_empty(), "no resources have changed");
    // The second comes while the first is being stored.
    reduce(&mut rig, 2);
    reduce(&mut rig, 3);
    done(&mut rig);
    done(&mut rig);
    let mut last = Value::Null;
    while let Some(response) = rig.try_response(acquire) {
        last = response.unwrap();
    }
    assert_eq!(last, json!({"resources": r(4), "up": "0-1"}));
    reduce(&mut rig, 3);
    assert!(rig.requests.is_empty());
    assert_eq!(rig.events.len(), 2, "followers are told");
    rig.events.clear();
    rig.finish();
}

#[test]
fn the_file_with_r_is_read_again_at_a_reload() {
    let path = json!({"path": "/R", "exclude": "n0"});
    let mut rig = running(path.clone(), true);
    let acquire = rig.stream("resource.acquire", Value::Null);
    rig.response(acquire).unwrap();
    // A host may be excluded before it has resources.
    let exclude = json!({"path": "/R", "exclude": "n[0,2]"});
    reload(&mut rig, "n[0-2]", exclude).unwrap();
    let read = rig.expect("topo.read");
    assert_eq!(read.json::<Value>().unwrap()["path"], "/R");
    // Whoever asks for R now asks again.
    let get = rig.request("resource.get", json!({}));
    assert_eq!(rig.response(get).unwrap_err().errno, Errno::ENOENT);
    rig.reply(&read, json!({ "R": r(3) }));
    done(&mut rig);
    let told = rig.response(acquire).unwrap();
    assert_eq!((&told["resources"], &told["exclude"]), (&r(3), &json!("0,2")));
    // The same again, or a file that is none, changes nothing.
    reload(&mut rig, "n[0-2]", path).unwrap();
    let read = rig.expect("topo.read");
    rig.fail(&read, Errno::ENOENT);
    let get = rig.request("resource.get", json!({}));
    assert_eq!(rig.response(get).unwrap()["R"], r(3));
    rig.drain();
}

#[test]
fn a_host_that_is_online_cannot_be_taken_away_and_no_rank_becomes_another() {
    let mut rig = running(json!({}), false);
    let error = reload(&mut rig, "n0", json!({})).unwrap_err();
    assert!(error.contains("n1 (rank 1) is online"), "{error}");
    let error = reload(&mut rig, "n1,n0", json!({})).unwrap_err();
    assert!(error.contains("rank 0 is n0 and would become n1"), "{error}");
    rig.drain();
}

#[test]
fn a_follower_does_not_answer_with_an_r_that_was_replaced() {
    let mut rig = Rig::with(ResourceService::new(settings(2)), 1, 2, &Map::new());
    let topo = rig.expect("topo.get");
    rig.reply(&topo, json!({"hostname": "n1", "cores": "0-1", "gpus": ""}));
    let ask = rig.expect("resource.get");
    rig.reply(&ask, json!({"R": r(2), "method": "configuration"}));
    let get = |rig: &mut Bench| rig.request("resource.get", Value::Null);
    let known = get(&mut rig);
    assert_eq!(rig.response(known).unwrap()["R"], r(2));
    rig.event("resource.changed", json!({}));
    let waits = get(&mut rig);
    assert!(rig.try_response(waits).is_none());
    let ask = rig.expect("resource.get");
    rig.reply(&ask, json!({"R": r(1), "method": "reload"}));
    assert_eq!(rig.response(waits).unwrap()["R"], r(1));
    // Without a way to the new one nobody hears of the old one either.
    rig.event("resource.changed", json!({}));
    let ask = rig.expect("resource.get");
    let waits = get(&mut rig);
    rig.fail(&ask, Errno::EHOSTUNREACH);
    assert_eq!(rig.response(waits).unwrap_err().errno, Errno::EHOSTUNREACH);
    let later = get(&mut rig);
    rig.advance(200_000);
    let ask = rig.expect("resource.get");
    rig.reply(&ask, json!({"R": r(2), "method": "reload"}));
    assert_eq!(rig.response(later).unwrap()["R"], r(2));
    rig.finish();
}

#[test]
fn the_leader_tells_followers_when_r_is_another_one() {
    let mut rig = running(json!({"path": "R"}), true);
    let told = |rig: &mut Bench| {
        let events = std::mem::take(&mut rig.events);
        events.iter().filter(|event| event.topic() == "resource.changed").count()
    };
    assert_eq!(told(&mut rig), 0);
    let tag = rig.request("resource.expiration-update", json!({"expiration": 5e9}));
    done(&mut rig);
    rig.response(tag).unwrap();
    assert_eq!(told(&mut rig), 1);
}
