//! The exit criteria of durable state with 512 brokers: the leader is killed and started again.

use std::collections::BTreeMap;

use flux_api::Rpc;
use flux_api::job::FLAG_WAITABLE;
use flux_api::job::ingest::{Submit, SubmitRequest};
use flux_api::job::list::{List, ListRequest};
use flux_api::job::manager::{
    Drain as DrainQueue, QueueEnable, QueueEnable_, QueueName, QueueStatus_, Urgency,
    UrgencyRequest,
};
use flux_api::kvs::{Commit, CommitRequest, Operation, PRIMARY};
use flux_api::lifecycle::{GroupGet, GroupName};
use flux_api::resource::{Drain, DrainRequest, Status};
use flux_model::treeobj::Treeobj;
use serde_json::Value;

use super::*;
use crate::clients::Caller;

/// Somebody at the leader of an instance, who waits for each answer.
pub(super) struct Script {
    pub(super) world: World,
    pub(super) caller: Caller,
}

impl Script {
    /// Starts an instance of nodes with four cores each.
    pub(super) fn boot(topology: Topology, seed: u64) -> Self {
        let size = topology.size();
        let mut world = World::new(Shape::new(topology, 4), Pace::default(), seed);
        for rank in 0..size {
            world.start_after(u64::from(rank) * 1000, rank);
        }
        while !world.is_alive(0) {
            world.step();
        }
        let caller = world.connect(0).unwrap();
        let mut script = Self { world, caller };
        script.ask::<WaitRun>(&Default::default());
        script
    }

    pub(super) fn ask<R: Rpc>(&mut self, request: &R::Request) -> Value {
        let tag = self.world.call::<R>(self.caller, Some(0), request);
        answer(&mut self.world, tag).json().unwrap_or_default()
    }

    /// Lets so many microseconds go by.
    pub(super) fn pass(&mut self, us: u64) {
        let token = self.world.number();
        self.world.alarm(self.world.now + us, token);
        while !matches!(next(&mut self.world), Notice::Alarm(rung) if rung == token) {}
    }

    /// Kills the leader and starts it again; how long after its start all are back.
    pub(super) fn leader_dies(&mut self) -> u64 {
        self.world.kill(0);
        self.world.start_after(2 * SEC, 0);
        while !matches!(next(&mut self.world), Notice::Started(0)) {}
        let began = self.world.now;
        self.caller = self.world.connect(0).unwrap();
        self.ask::<WaitRun>(&Default::default());
        let all = match self.world.shape.size() {
            1 => "0".to_string(),
            size => format!("0-{}", size - 1),
        };
        let name = GroupName { name: "broker.online".to_string() };
        while self.ask::<GroupGet>(&name)["members"] != all {
            self.pass(10_000);
        }
        self.world.now - began
    }

    /// Submits a job that sleeps: on so many nodes, cores of each, for seconds of at most a limit.
    pub(super) fn submit(&mut self, nodes: u32, cores: u32, seconds: f64, system: &Value) -> u64 {
        let mut jobspec = json!({
            "version": 1,
            "resources": [{"type": "node", "count": nodes, "with": [{"type": "slot", "count": 1,
                "label": "task", "with": [{"type": "core", "count": cores}]}]}],
            "tasks": [{"command": ["sleep", format!("{seconds:.3}")], "slot": "task",
                "count": {"per_slot": 1}}],
            "attributes": {"system": {"duration": 0}},
        });
        for (key, value) in system.as_object().into_iter().flatten() {
            jobspec["attributes"]["system"][key] = value.clone();
        }
        let j = wrap_none(jobspec.to_string().as_bytes(), OWNER);
        let request = SubmitRequest { j, urgency: 16, flags: FLAG_WAITABLE };
        self.ask::<Submit>(&request)["id"].as_u64().unwrap()
    }

    /// Attributes of all jobs.
    pub(super) fn jobs(&mut self, attributes: &[&str]) -> BTreeMap<u64, Value> {
        let request = ListRequest {
            max_entries: 0,
            attrs: attributes.iter().map(ToString::to_string).collect(),
            constraint: None,
            since: 0.0,
            userid: None,
            states: None,
            results: None,
            name: None,
            queue: None,
        };
        let answer = self.ask::<List>(&request);
        let jobs = answer["jobs"].as_array().unwrap().clone();
        jobs.into_iter().map(|job| (job["id"].as_u64().unwrap(), job)).collect()
    }

    /// Waits until jobs are as wanted.
    pub(super) fn wait_for(
        &mut self,
        attributes: &[&str],
        done: impl Fn(&BTreeMap<u64, Value>) -> bool,
    ) {
        loop {
            let jobs = self.jobs(attributes);
            if done(&jobs) {
                return;
            }
            self.pass(SEC);
        }
    }

    pub(super) fn urgency(&mut self, id: u64, urgency: i64) {
        self.ask::<Urgency>(&UrgencyRequest { id, urgency });
    }
}

const ATTRIBUTES: [&str; 8] =
    ["state", "urgency", "priority", "ranks", "t_submit", "t_run", "expiration", "dependencies"];

/// All that is to be after a restart as it was before.
fn state(script: &mut Script) -> Vec<Value> {
    let jobs = script.jobs(&ATTRIBUTES).into_values().collect();
    let drains = script.ask::<Status>(&Default::default())["drain"].clone();
    let queue = script.ask::<QueueStatus_>(&QueueName { name: None });
    vec![jobs, drains, queue]
}

const RUN: u64 = 16;
const INACTIVE: u64 = 64;

#[test]
fn a_killed_leader_of_512_finds_everything_as_it_was() {
    let size = 512;
    let mut script = Script::boot(Topology::kary(16, size).unwrap(), 5);
    let commit = CommitRequest {
        namespace: PRIMARY.to_string(),
        flags: 0,
        ops: vec![Operation {
            key: "acknowledged".to_string(),
            flags: 0,
            dirent: Treeobj::val("yes").into(),
        }],
    };
    script.ask::<Commit>(&commit);
    let none = json!({});
    let wide = script.submit(size, 1, 55.0, &json!({"duration": 300}));
    let narrow: Vec<u64> = (0..40).map(|n| script.submit(1 + n % 4, 2, 50.0, &none)).collect();
    let ran = [&[wide], &narrow[..]].concat();
    script.wait_for(&["state"], |jobs| jobs.values().all(|job| job["state"] == RUN));
    // A barrier later the shells run their tasks.
    script.pass(5 * SEC);
    let drain = |targets: &str, reason: &str| DrainRequest {
        targets: targets.to_string(),
        reason: Some(reason.to_string()),
        mode: None,
    };
    script.ask::<Drain>(&drain("7", "broken fan"));
    script.ask::<Drain>(&drain("100-103", "broken switch"));
    let whole = |script: &mut Script| script.submit(size - 5, 4, 1.0, &json!({}));
    let first = whole(&mut script);
    let second = whole(&mut script);
    let raised = whole(&mut script);
    script.urgency(raised, 25);
    let held = whole(&mut script);
    script.urgency(held, 0);
    let after = json!({"dependencies": [
        {"scheme": "afterok", "value": flux_id::JobId(second).f58()}]});
    let after = script.submit(1, 1, 1.0, &after);
    script.ask::<QueueEnable_>(&QueueEnable {
        name: None,
        enable: false,
        reason: Some("closed".to_string()),
        all: false,
    });
    script.pass(5 * SEC);

    let before = state(&mut script);
    let shells = script.world.running_shells();
    assert_eq!(shells.len(), 512 + (1 + 2 + 3 + 4) * 10);
    for _ in 0..2 {
        let took = script.leader_dies();
        assert!(took <= 5 * SEC, "all nodes are back after {} s", took as f64 / 1e6);
        // Shells are found again, and the scheduler knows what they use.
        script.pass(5 * SEC);
        assert_eq!(state(&mut script), before);
        assert_eq!(script.world.running_shells(), shells);
    }

    script.ask::<QueueEnable_>(&QueueEnable { name: None, enable: true, reason: None, all: false });
    script.wait_for(&["state"], |jobs| jobs[&after]["state"] == INACTIVE);
    script.urgency(held, 16);
    script.ask::<DrainQueue>(&Default::default());
    let jobs = script.jobs(&["result", "t_run", "ranks", "success"]);
    assert_eq!(jobs.len(), 46);
    for (id, job) in &jobs {
        assert_eq!(job["success"], true, "{id}: {job}");
    }
    let mut order = vec![first, second, raised, held, after];
    order.sort_by(|a, b| {
        let at = |id| jobs[id]["t_run"].as_f64().unwrap();
        at(a).total_cmp(&at(b))
    });
    assert_eq!(order, [raised, first, second, after, held]);
    for id in ran {
        assert!(!script.world.running_shells().iter().any(|(_, _, job)| *job == id));
    }
    let new = script.submit(1, 1, 1.0, &none);
    assert!(jobs.keys().all(|id| *id < new), "an id went back");
}
