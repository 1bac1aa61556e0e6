//! Whatever happens in whatever order: logs stay legal, every request is answered, nothing is
//! allocated or started twice, and when all is well again every job comes to its end.

use std::collections::{BTreeMap, BTreeSet};

use flux_model::eventlog::Eventlog;
use flux_model::job_event::check::legal_log;
use flux_proto::{Errno, Message};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::bench::{Bench, Store, jobspec, r};

/// The world around the service.
struct World {
    bench: Bench,
    /// Requests at the scheduler.
    asked: BTreeMap<u64, Message>,
    withdrawn: BTreeSet<u64>,
    allocated: BTreeSet<u64>,
    /// Jobs at execution, and how far they are.
    running: BTreeMap<u64, (Message, u8, bool)>,
    shells: BTreeSet<u64>,
    /// Jobs whose shells may live, also after a crash: execution was asked to start them, and has
    /// not released them.
    living: BTreeSet<u64>,
    tags: Vec<u32>,
    accepted: BTreeSet<u64>,
    submitted: BTreeMap<u32, u64>,
    next: u64,
    sched: bool,
    exec: bool,
}

impl World {
    fn new(store: Store) -> Self {
        Self {
            bench: Bench::with(&json!({}), store),
            asked: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            allocated: BTreeSet::new(),
            running: BTreeMap::new(),
            shells: BTreeSet::new(),
            living: BTreeSet::new(),
            tags: Vec::new(),
            accepted: BTreeSet::new(),
            submitted: BTreeMap::new(),
            next: 1,
            sched: false,
            exec: false,
        }
    }

    /// Takes in what the service wants of others.
    fn collect(&mut self) {
        self.bench.settle();
        while let Some(message) = self.bench.out.pop_front() {
            let body: Value = message.json().unwrap();
            let id = body["id"].as_u64().unwrap_or(0);
            match message.topic() {
                "sched.alloc" => {
                    assert!(!self.allocated.contains(&id), "{id} has resources and asks for more");
                    assert!(self.asked.insert(id, message).is_none(), "{id} asked twice");
                }
                "sched.cancel" => {
                    self.withdrawn.insert(id);
                }
                "sched.free" => {
                    assert!(self.allocated.remove(&id), "{id} freed twice");
                    assert!(!self.living.contains(&id), "{id} freed while its shells may live");
                }
                "sched.prioritize" => {}
                "job-exec.start" => {
                    assert!(self.allocated.contains(&id) || !self.sched, "{id} has nothing");
                    let reattach = body["reattach"].as_bool().unwrap();
                    assert!(self.shells.insert(id) || reattach, "{id} started twice");
                    self.living.insert(id);
                    self.running.insert(id, (message, 0, reattach));
                }
                other => panic!("unexpected request {other}"),
            }
        }
        self.bench.rig.events.clear();
        let tags = std::mem::take(&mut self.tags);
        for tag in tags {
            match self.bench.rig.try_response(tag) {
                None => self.tags.push(tag),
                Some(answer) => {
                    if let (Some(id), Ok(answer)) = (self.submitted.remove(&tag), answer)
                        && answer["errors"] == json!([])
                    {
                        // A promise: it must be there from now on.
                        self.accepted.insert(id);
                        assert!(self.bench.log(id).starts_with("submit"));
                    }
                }
            }
        }
    }

    fn request(&mut self, topic: &str, body: Value) {
        let tag = self.bench.rig.request(topic, body);
        self.tags.push(tag);
    }

    fn pick(&self, n: u8) -> u64 {
        1 + u64::from(n) % self.next
    }

    fn sched_hello(&mut self) {
        let hello = self.bench.rig.stream("job-manager.sched-hello", json!({}));
        self.asked.clear();
        self.withdrawn.clear();
        self.allocated.clear();
        while let Ok(job) = self.bench.rig.response(hello) {
            self.allocated.insert(job["id"].as_u64().unwrap());
        }
        self.sched = true;
        self.request("job-manager.sched-ready", json!({"mode": "limited", "limit": 3}));
    }

    fn exec_hello(&mut self) {
        self.running.clear();
        self.exec = true;
        self.request("job-manager.exec-hello", json!({"service": "job-exec"}));
    }

    fn sched_answers(&mut self, n: u8, kind: u8) {
        let ids: Vec<u64> = self.asked.keys().copied().collect();
        let Some(id) = ids.get(n as usize % ids.len().max(1)).copied() else { return };
        let Some(message) = self.asked.remove(&id) else { return };
        let withdrawn = self.withdrawn.remove(&id);
        let body = match kind {
            _ if withdrawn && kind != 0 => json!({"id": id, "type": 3}),
            0..=5 => {
                self.allocated.insert(id);
                let key = format!("{}.R", flux_id::JobId(id).kvs());
                self.bench.store.insert(key, r().to_string());
                json!({"id": id, "type": 0, "R": r(), "annotations": {"sched": {"x": n}}})
            }
            6 => json!({"id": id, "type": 2, "note": "no"}),
            _ => {
                self.asked.insert(id, message.clone());
                json!({"id": id, "type": 1, "annotations": {"sched": {"x": n}}})
            }
        };
        self.bench.rig.reply(&message, body);
    }

    fn exec_answers(&mut self, n: u8, fails: bool) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        let Some(id) = ids.get(n as usize % ids.len().max(1)).copied() else { return };
        let Some((message, step, reattach)) = self.running.get_mut(&id) else { return };
        let (kind, data) = match *step {
            _ if fails => ("exception", json!({"severity": n % 2, "type": "exec", "note": "x"})),
            0 if *reattach => ("reattached", json!({})),
            0 => ("start", json!({})),
            1 => ("finish", json!({"status": i32::from(n) << 8})),
            _ => ("release", json!({"ranks": "all", "final": true})),
        };
        if !fails {
            *step += 1;
        }
        let message = message.clone();
        if kind == "release" {
            self.running.remove(&id);
            self.living.remove(&id);
        }
        self.bench.rig.reply(&message, json!({"id": id, "type": kind, "data": data}));
    }

    fn submit(&mut self, n: u8) {
        let id = self.next;
        self.next += 1;
        let schemes = ["afterok", "afterany", "afternotok", "afterstart", "afterexcept"];
        let target = self.pick(n);
        let spec = match n % 16 {
            0..=4 if target != id => jobspec(json!({"dependencies": [
                {"scheme": schemes[n as usize % 16], "value": target.to_string()}]})),
            5 | 6 => jobspec(json!({"job": {"name": "a"}, "dependencies": [
                {"scheme": "singleton", "value": ""}]})),
            7 => jobspec(json!({"job": {"name": "a"}})),
            8 => jobspec(json!({"dependencies": [
                {"scheme": "begin-time", "value": "1700000000.5"}]})),
            _ => jobspec(json!({})),
        };
        let flags = if n.is_multiple_of(3) { 2 } else { 0 };
        let tag = self.bench.announce_with(id, 1000, flags, u32::from(n % 32), spec);
        self.submitted.insert(tag, id);
        self.tags.push(tag);
    }

    fn step(mut self, op: u8, n: u8) -> Self {
        match op {
            0..=3 => self.submit(n),
            4 | 5 => {
                let id = self.pick(n);
                let raise = json!({"id": id, "severity": n % 3, "type": "cancel"});
                self.request("job-manager.raise", raise);
            }
            6 | 7 => {
                let id = self.pick(n);
                self.request("job-manager.urgency", json!({"id": id, "urgency": n % 32}));
            }
            8..=12 => self.sched_answers(n, op - 8),
            13 => self.sched_answers(n, 6),
            14 => self.sched_answers(n, 7),
            15..=20 => self.exec_answers(n, false),
            21 => self.exec_answers(n, true),
            22 => {
                let start = n.is_multiple_of(2);
                self.request("job-manager.queue-start", json!({"start": start, "all": true}));
            }
            23 => self.bench.broken = n.is_multiple_of(3).then_some(Errno::ENOSPC),
            24 => self.sched_hello(),
            25 => self.exec_hello(),
            26 => self.bench.hold_commits = true,
            27 => self.bench.release_commits(),
            28 => {
                let id = self.pick(n);
                let update = json!({"attributes.system.duration": f64::from(n)});
                if self
                    .bench
                    .rig
                    .service()
                    .jobs
                    .get(&id)
                    .is_some_and(|job| job.state() != flux_model::job_event::JobState::Run)
                {
                    self.request("job-manager.update", json!({"id": id, "updates": update}));
                }
            }
            29 => self.bench.rig.advance(1_000_000),
            30 => {
                let id = self.pick(n);
                self.request("job-manager.memo", json!({"id": id, "memo": {"n": n}}));
            }
            _ if n.is_multiple_of(4) => return self.crash(),
            _ => self.request("job-manager.idle", json!({})),
        }
        self
    }

    /// Power loss: what was promised must still be there.
    fn crash(self) -> Self {
        let Self { bench, accepted, living, next, .. } = self;
        let mut world = Self::new(bench.crash());
        world.next = next;
        world.living = living;
        for id in &accepted {
            let service = world.bench.rig.service();
            assert!(
                service.jobs.contains_key(id) || service.inactive.get(*id).is_some(),
                "job {id} was lost"
            );
        }
        world.accepted = accepted;
        world
    }

    /// Everything works again: every job must end, every request be answered.
    fn heal(&mut self) {
        self.bench.broken = None;
        self.bench.release_commits();
        self.bench.rig.advance(2_000_000);
        self.collect();
        self.request("job-manager.queue-start", json!({"start": true, "all": true}));
        self.collect();
        self.sched_hello();
        self.exec_hello();
        for id in 1..self.next {
            self.request("job-manager.urgency", json!({"id": id, "urgency": 16}));
        }
        self.request("job-manager.drain", json!({}));
        for _ in 0..2000 {
            self.collect();
            if !self.asked.is_empty() {
                self.sched_answers(0, 1);
            } else if !self.running.is_empty() {
                self.exec_answers(0, false);
            } else if self.bench.rig.service().jobs.is_empty() {
                break;
            }
        }
        self.collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_is_kept(ops in prop::collection::vec((0u8..32, any::<u8>()), 1..80)) {
        // What a failed case before this one dropped is not of interest.
        drop(flux_api::rpc::leaked_answers());
        let mut world = World::new(Store::new());
        for (op, n) in ops {
            world = world.step(op, n);
            world.collect();
        }
        world.heal();
        let left: Vec<_> = world.bench.rig.service().jobs.values().collect();
        prop_assert!(left.is_empty(), "jobs left: {left:#?}");
        prop_assert!(world.tags.is_empty(), "{} requests unanswered", world.tags.len());
        prop_assert!(world.allocated.is_empty(), "not freed: {:?}", world.allocated);
        prop_assert_eq!(world.bench.rig.service().running, 0);
        for (key, text) in &world.bench.store {
            if key.ends_with(".eventlog") {
                let log = Eventlog::parse(text).unwrap();
                let status = legal_log(log.events())
                    .unwrap_or_else(|(at, why)| panic!("{key} event {at}: {why}\n{text}"));
                prop_assert!(status.is_inactive(), "{} is {}", key, status.state);
            }
        }
        world.bench.finish();
    }
}
