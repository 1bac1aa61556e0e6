//! Where R comes from, and who is up.

use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use super::{Bench, Started, done, r, settings, started, stored, val};
use crate::{ResourceService, ResourceSettings};

/// Rank 0, after it has asked for its hardware and read what an earlier run left.
fn rank_0(settings: ResourceSettings, size: u32, stored: Option<&Value>) -> Bench {
    let mut rig = Rig::with(ResourceService::new(settings), 0, size, &Map::new());
    let topo = rig.expect("topo.get");
    rig.reply(&topo, json!({"hostname": "n0", "cores": "0-1", "gpus": ""}));
    let log = rig.expect("kvs.lookup");
    rig.fail(&log, Errno::ENOENT);
    let lookup = rig.expect("kvs.lookup");
    match stored {
        Some(set) => rig.reply(&lookup, val(&set.to_string())),
        None => rig.fail(&lookup, Errno::ENOENT),
    }
    rig.expect("groups.get");
    rig.expect("groups.get");
    rig
}

fn method(rig: &mut Bench) -> Value {
    let tag = rig.request("resource.get", json!({}));
    rig.response(tag).unwrap()["method"].clone()
}

fn reduce(rig: &mut Bench, count: u32, set: &Value) {
    let body = json!({"count": count, "resource": set});
    let mut message = Message::request("resource.topo-reduce").with_json(&body);
    message.cred = rig.owner();
    message.set_no_response();
    rig.deliver(message);
}

fn part(ranks: &str, hosts: &str) -> Value {
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": ranks, "children": {"core": "0-1"}}],
        "nodelist": [hosts], "starttime": 0.0, "expiration": 0.0}})
}

#[test]
fn r_is_what_all_ranks_find_when_nothing_else_says() {
    let mut rig = rank_0(settings(3), 3, None);
    let get = rig.request("resource.get", json!({}));
    assert_eq!(rig.response(get).unwrap_err().errno, Errno::ENOENT);
    let acquire = rig.stream("resource.acquire", Value::Null);
    assert!(rig.try_response(acquire).is_none());
    reduce(&mut rig, 2, &part("1-2", "n[1-2]"));
    let commit = done(&mut rig);
    let set: Value = serde_json::from_str(&stored(&commit, "resource.R").unwrap()).unwrap();
    assert_eq!(set, r(3));
    assert_eq!(method(&mut rig), "dynamic-discovery");
    assert_eq!(rig.response(acquire).unwrap(), json!({"resources": r(3), "up": ""}));
    rig.drain();
    let error = rig.response(acquire).unwrap_err();
    assert_eq!(error.errno, Errno::ECANCELED);
    rig.finish();
}

#[test]
fn r_of_an_earlier_run_comes_before_that_of_the_enclosing_job() {
    let inherited = Some(part("7-8", "n[0-1]"));
    let mut rig =
        rank_0(ResourceSettings { inherited: inherited.clone(), ..settings(2) }, 2, Some(&r(2)));
    done(&mut rig);
    assert_eq!(method(&mut rig), "kvs");
    rig.finish();
    let mut rig = rank_0(ResourceSettings { inherited, ..settings(2) }, 2, None);
    let commit = done(&mut rig);
    let set: Value = serde_json::from_str(&stored(&commit, "resource.R").unwrap()).unwrap();
    assert_eq!(set, r(2));
    assert_eq!(method(&mut rig), "job-info");
    rig.finish();
}

#[test]
fn configured_hosts_make_r_and_wrong_ones_are_refused() {
    let config = json!({"resource": {"config": [
        {"hosts": "n[0-2]", "cores": "0-1"},
        {"hosts": "n1", "gpus": "0", "properties": ["big"]}]}});
    let config = config.as_object().unwrap().clone();
    let mut rig = Rig::with(ResourceService::new(settings(3)), 0, 3, &config);
    rig.expect("topo.get");
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOENT);
    }
    rig.expect("groups.get");
    rig.expect("groups.get");
    done(&mut rig);
    let get = rig.request("resource.get", json!({}));
    let got = rig.response(get).unwrap();
    assert_eq!(got["method"], "configuration");
    assert_eq!(
        got["R"]["execution"]["R_lite"],
        json!([{"rank": "0,2", "children": {"core": "0-1"}},
               {"rank": "1", "children": {"core": "0-1", "gpu": "0"}}])
    );
    assert_eq!(got["R"]["execution"]["properties"], json!({"big": "1"}));
    rig.finish();
    for (table, text) in [
        (json!({"config": []}), "error parsing [resource.config] array: no hosts configured"),
        (
            json!({"config": [{"hosts": "a["}]}),
            "error parsing [resource.config] array: config[0]: invalid hostlist 'a['",
        ),
        (
            json!({"config": [{"hosts": "a", "cores": "x"}]}),
            "error parsing [resource.config] array: config[0]: invalid idset cores='x'",
        ),
        (
            json!({"config": [{"hosts": "a[1-2]"}]}),
            "error parsing [resource.config] array: resource.config: a[1-2] assigned no resources",
        ),
        (
            json!({"config": [{"hosts": "a", "cores": "0", "properties": ["x|y"]}]}),
            "error parsing [resource.config] array: config[0]: invalid property \"x|y\"",
        ),
        (
            json!({"scheduling": "x"}),
            "resource.scheduling requires resource.path or [resource.config]",
        ),
        (json!({"history": "x"}), "invalid history time"),
        (json!({"what": 1}), "error parsing [resource] configuration: what: unknown key"),
    ] {
        let config = json!({"resource": table}).as_object().unwrap().clone();
        let rig = Rig::with(ResourceService::new(settings(1)), 0, 1, &config);
        assert_eq!(rig.failed.as_deref(), Some(text));
    }
}

#[test]
fn a_rank_reports_its_subtree_once_and_drains_itself_when_its_hardware_is_wrong() {
    let settings = ResourceSettings { descendants: 1, ..settings(3) };
    let mut rig = Rig::with(ResourceService::new(settings), 1, 3, &Map::new());
    let topo = rig.expect("topo.get");
    rig.reply(&topo, json!({"hostname": "n1", "cores": "0", "gpus": ""}));
    let get = rig.expect("resource.get");
    reduce(&mut rig, 1, &part("2", "n2"));
    let report = rig.expect("resource.topo-reduce");
    assert_eq!(report.json::<Value>().unwrap()["count"], 2);
    rig.fail(&get, Errno::ENOENT);
    rig.advance(10_000_000);
    let get = rig.expect("resource.get");
    assert!(get.upstream());
    rig.reply(&get, json!({"R": r(3), "method": "configuration"}));
    let drain = rig.expect("resource.drain");
    let body: Value = drain.json().unwrap();
    assert_eq!(
        body,
        json!({"targets": "1", "mode": "update",
               "reason": "rank 1 (n1) missing resources: rank1/core1"})
    );
    rig.reply(&drain, Value::Null);
    let tag = rig.request("resource.status", json!({}));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EPROTO);
    assert_eq!(method(&mut rig), "configuration");
    rig.finish();
}

#[test]
fn hardware_is_compared_by_the_rules_that_come_with_r() {
    // Rank 0 is configured anew, and a rank that comes back still has the configuration from before.
    let strict = json!({"core": "strict", "hostname": "ignore", "gpu": "ignore"});
    for (own, given, drained) in [
        (json!({}), json!(false), false),
        (json!({"noverify": true}), strict, true),
        (json!({"noverify": true}), Value::Null, false),
        (json!({}), Value::Null, true),
    ] {
        let config = json!({"resource": own}).as_object().unwrap().clone();
        let leaf = ResourceSettings { descendants: 0, ..settings(2) };
        let mut rig = Rig::with(ResourceService::new(leaf), 1, 2, &config);
        let topo = rig.expect("topo.get");
        rig.reply(&topo, json!({"hostname": "n1", "cores": "0", "gpus": ""}));
        rig.expect("resource.topo-reduce");
        let get = rig.expect("resource.get");
        let mut answer = json!({"R": r(2), "method": "configuration"});
        if !given.is_null() {
            answer["verify"] = given.clone();
        }
        rig.reply(&get, answer);
        if drained {
            let drain = rig.expect("resource.drain");
            rig.reply(&drain, Value::Null);
        }
        rig.finish();
    }
    // And rank 0 says them.
    for (resource, rules) in [
        (json!({"noverify": true}), json!(false)),
        (json!({}), json!({"hostname": "strict", "core": "allow-extra", "gpu": "ignore"})),
    ] {
        let Started { mut rig, .. } = started(2, resource, None);
        let tag = rig.request("resource.get", json!({}));
        assert_eq!(rig.response(tag).unwrap()["verify"], rules);
    }
}

#[test]
fn the_scheduler_hears_who_comes_and_goes_after_mute_too() {
    let Started { mut rig, online, torpid } = started(4, json!({"exclude": "3"}), None);
    let acquire = rig.stream("resource.acquire", Value::Null);
    let first = rig.response(acquire).unwrap();
    assert_eq!(first["up"], "0-2");
    assert_eq!(first["resources"], r(4), "what is excluded may come back");
    assert_eq!(first["exclude"], "3");
    let second = rig.stream("resource.acquire", Value::Null);
    assert_eq!(rig.response(second).unwrap_err().errno, Errno::EBUSY);
    let waitup = rig.request("resource.monitor-waitup", json!({"up": 3}));
    rig.reply(&online, json!({"members": "0-1,3"}));
    assert_eq!(rig.response(waitup), Ok(Value::Null));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "2"}));
    rig.reply(&torpid, json!({"members": "1"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1"}));
    rig.reply(&torpid, json!({"members": ""}));
    rig.reply(&online, json!({"members": "0-3"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "1"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "2"}));
    let update = rig.request("resource.expiration-update", json!({"expiration": 99.5}));
    done(&mut rig);
    rig.response(update).unwrap();
    assert_eq!(rig.response(acquire).unwrap(), json!({"expiration": 99.5}));
    let mute = rig.request("resource.acquire-mute", Value::Null);
    rig.response(mute).unwrap();
    rig.reply(&online, json!({"members": "0"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1-2"}));
    rig.reply(&online, json!({"members": "0,2"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "2"}));
    rig.drain();
    rig.response(acquire).unwrap_err();
    assert!(rig.drained);
    rig.events.clear();
    rig.finish();
}

#[test]
fn exclusion_changes_while_the_scheduler_runs() {
    let Started { mut rig, .. } = started(4, json!({"exclude": "3"}), None);
    let acquire = rig.stream("resource.acquire", Value::Null);
    rig.response(acquire).unwrap();
    let drain = rig.request("resource.drain", json!({"targets": "1", "reason": "x"}));
    done(&mut rig);
    rig.response(drain).unwrap();
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1"}));
    let reload = rig.request("resource.config-reload", json!({"resource": {"exclude": "0-1"}}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "3", "down": "0", "exclude": "0-1"}));
    assert_eq!(rig.response(reload), Ok(Value::Null));
    let commit = done(&mut rig);
    assert!(stored(&commit, "resource.eventlog").unwrap().contains("undrain"));
    let tag = rig.request("resource.status", json!({}));
    assert_eq!(rig.response(tag).unwrap()["exclude"], "0-1");
    let wrong = rig.request("resource.config-reload", json!({"resource": {"exclude": "nobody"}}));
    assert_eq!(rig.response(wrong).unwrap_err().errno, Errno::EINVAL);
    let reload = rig.request("resource.config-reload", json!({"resource": {}}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "0-1", "exclude": ""}));
    assert_eq!(rig.response(reload), Ok(Value::Null));
    rig.drain();
    rig.response(acquire).unwrap_err();
    rig.finish();
}

/// Rank 0 of two that has no configuration, with both online: the service, the stream of who is
/// online, and the scheduler's.
fn two_without_configuration() -> (Bench, Message, u32) {
    let mut rig = Rig::with(ResourceService::new(settings(2)), 0, 2, &Map::new());
    rig.expect("topo.get");
    let log = rig.expect("kvs.lookup");
    rig.fail(&log, Errno::ENOENT);
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, val(&r(2).to_string()));
    let online = rig.expect("groups.get");
    rig.expect("groups.get");
    done(&mut rig);
    let acquire = rig.stream("resource.acquire", Value::Null);
    rig.response(acquire).unwrap();
    rig.reply(&online, json!({"members": "0-1"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "0-1"}));
    (rig, online, acquire)
}

#[test]
fn without_a_configuration_a_rank_that_leaves_is_gone_for_good() {
    let (mut rig, online, acquire) = two_without_configuration();
    rig.reply(&online, json!({"members": "0"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1", "shrink": "1"}));
    rig.reply(&online, json!({"members": "0-1"}));
    assert!(rig.try_response(acquire).is_none());
    let status = rig.request("resource.sched-status", json!({}));
    let ask = rig.expect("sched.resource-status");
    rig.fail(&ask, Errno::ENOSYS);
    let body = rig.response(status).unwrap();
    assert_eq!(body["all"]["execution"]["nodelist"], json!(["n0"]));
    assert_eq!(body["allocated"]["execution"]["nodelist"], json!([""]));
    rig.drain();
    rig.response(acquire).unwrap_err();
    rig.finish();
}

#[test]
fn while_the_instance_stops_a_rank_that_leaves_is_down_but_not_gone_for_good() {
    let (mut rig, online, acquire) = two_without_configuration();
    let mute = rig.request("resource.acquire-mute", Value::Null);
    rig.response(mute).unwrap();
    rig.reply(&online, json!({"members": "0"}));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1"}));
    rig.drain();
    rig.response(acquire).unwrap_err();
    rig.finish();
}

#[test]
fn topology_is_passed_on_from_the_host() {
    let mut rig = started(1, json!({}), None).rig;
    let tag = rig.request("resource.topo-get", json!({}));
    let xml = rig.expect("topo.xml");
    rig.deliver(Message::response_to(&xml).with_text("<topology/>"));
    let response = rig.responses.pop_front().unwrap();
    assert_eq!((response.matchtag(), response.text().unwrap()), (tag, "<topology/>"));
    rig.finish();
}

#[test]
fn rank_0_drains_itself_when_its_hardware_is_wrong_and_tries_until_that_is_stored() {
    let settings = ResourceSettings { config_r: Some(r(1)), ..settings(1) };
    let mut rig = Rig::with(ResourceService::new(settings), 0, 1, &Map::new());
    let topo = rig.expect("topo.get");
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOENT);
    }
    rig.expect("groups.get");
    rig.expect("groups.get");
    done(&mut rig);
    rig.reply(&topo, json!({"hostname": "other", "cores": "0-1", "gpus": ""}));
    let commit = rig.expect("kvs.commit");
    rig.fail(&commit, Errno::ENOSPC);
    assert!(rig.requests.is_empty());
    rig.advance(1_000_000);
    let commit = done(&mut rig);
    let line = stored(&commit, "resource.eventlog").unwrap();
    assert!(line.contains("rank 0 got hostname 'other', expected 'n0'"), "{line}");
    rig.finish();
}

#[test]
fn a_long_log_is_written_anew_and_damaged_lines_do_not_hide_the_rest() {
    let mut log = "not an event\n".to_string();
    for round in 0..600 {
        for name in ["drain", "undrain"] {
            let context = json!({"idset": "0", "nodelist": "n0", "overwrite": 0});
            let event = json!({"timestamp": 5.0 + f64::from(round), "name": name,
                               "context": context});
            log.push_str(&format!("{event}\n"));
        }
    }
    let last = json!({"timestamp": 9.5, "name": "drain",
        "context": {"idset": "1", "nodelist": "n1", "reason": "kept", "overwrite": 0}});
    log.push_str(&format!("{last}\n"));
    let settings = ResourceSettings { config_r: Some(r(2)), ..settings(2) };
    let mut rig = Rig::with(ResourceService::new(settings), 0, 2, &Map::new());
    rig.expect("topo.get");
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, val(&log));
    let lookup = rig.expect("kvs.lookup");
    rig.fail(&lookup, Errno::ENOENT);
    rig.expect("groups.get");
    rig.expect("groups.get");
    let commit = done(&mut rig);
    let body: Value = commit.json().unwrap();
    assert_eq!(body["ops"][1]["flags"], 0);
    let text = stored(&commit, "resource.eventlog").unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().next().unwrap().contains("\"timestamp\":9.5"));
    rig.finish();
}

#[test]
fn a_state_that_cannot_be_read_stops_the_broker_rather_than_forget_who_is_drained() {
    let mut rig = Rig::with(ResourceService::new(settings(1)), 0, 1, &Map::new());
    rig.expect("topo.get");
    let lookup = rig.expect("kvs.lookup");
    rig.fail(&lookup, Errno::EIO);
    assert!(rig.failed.as_deref().is_some_and(|why| why.contains("resource.eventlog")));
    rig.expect("kvs.lookup");
    rig.finish();
}

#[test]
fn peers_that_start_later_are_asked_again() {
    let settings = ResourceSettings { config_r: Some(r(1)), ..settings(1) };
    let mut rig = Rig::with(ResourceService::new(settings), 0, 1, &Map::new());
    rig.expect("topo.get");
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOSYS);
    }
    assert!(rig.failed.is_none());
    rig.advance(10_000);
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOENT);
    }
    let online = rig.expect("groups.get");
    rig.expect("groups.get");
    done(&mut rig);
    rig.fail(&online, Errno::ENOSYS);
    rig.advance(10_000);
    let online = rig.expect("groups.get");
    rig.reply(&online, json!({"members": "0"}));
    let tag = rig.request("resource.status", json!({}));
    assert_eq!(rig.response(tag).unwrap()["online"], "0");
    rig.finish();
}
