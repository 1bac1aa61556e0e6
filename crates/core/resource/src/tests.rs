//! The service on rank 0 and on a follower, by transcript; the rules of drain by example.

mod drain;
mod growth;
mod start;

use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use super::*;

pub(crate) type Bench = Rig<ResourceService>;

/// R of nodes `n0`, `n1`, … with two cores each.
pub(crate) fn r(nodes: u32) -> Value {
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": format!("0-{}", nodes - 1), "children": {"core": "0-1"}}],
        "starttime": 0.0, "expiration": 0.0,
        "nodelist": [format!("n[0-{}]", nodes - 1)],
    }})
}

pub(crate) fn hosts(count: u32) -> Vec<String> {
    (0..count).map(|rank| format!("n{rank}")).collect()
}

pub(crate) fn settings(size: u32) -> ResourceSettings {
    ResourceSettings { hosts: hosts(size), descendants: size - 1, ..ResourceSettings::default() }
}

/// The streams and commits of a started service.
pub(crate) struct Started {
    pub(crate) rig: Bench,
    pub(crate) online: Message,
    pub(crate) torpid: Message,
}

pub(crate) fn val(text: &str) -> Value {
    json!({"val": flux_model::treeobj::Treeobj::val(text).to_value()})
}

/// Text that a commit's operation stores.
pub(crate) fn stored(commit: &Message, key: &str) -> Option<String> {
    let body: Value = commit.json().unwrap();
    let op = body["ops"].as_array().unwrap().iter().find(|op| op["key"] == key)?.clone();
    match flux_model::treeobj::Treeobj::from_value(&op["dirent"]) {
        Ok(flux_model::treeobj::Treeobj::Val(bytes)) => Some(String::from_utf8(bytes).unwrap()),
        _ => None,
    }
}

pub(crate) fn done(rig: &mut Bench) -> Message {
    let commit = rig.expect("kvs.commit");
    rig.reply(&commit, json!({"rootref": "x", "rootseq": 1}));
    commit
}

/// Rank 0 of `size` with R configured, everything online, after its first commit.
pub(crate) fn started(size: u32, resource: Value, eventlog: Option<&str>) -> Started {
    let settings = ResourceSettings { config_r: Some(r(size)), ..settings(size) };
    let mut config = Map::new();
    config.insert("resource".to_string(), resource);
    let mut rig = Rig::with(ResourceService::new(settings), 0, size, &config);
    let topo = rig.expect("topo.get");
    rig.reply(&topo, json!({"hostname": "n0", "cores": "0-1", "gpus": ""}));
    let log = rig.expect("kvs.lookup");
    match eventlog {
        Some(text) => rig.reply(&log, val(text)),
        None => rig.fail(&log, Errno::ENOENT),
    }
    let stored_r = rig.expect("kvs.lookup");
    rig.fail(&stored_r, Errno::ENOENT);
    let online = rig.expect("groups.get");
    let torpid = rig.expect("groups.get");
    let commit = done(&mut rig);
    assert!(stored(&commit, "resource.R").is_some());
    assert!(stored(&commit, "resource.eventlog").unwrap().contains("resource-define"));
    rig.reply(&online, json!({"members": format!("0-{}", size - 1)}));
    rig.reply(&torpid, json!({"members": ""}));
    Started { rig, online, torpid }
}
