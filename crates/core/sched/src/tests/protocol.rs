//! The protocol by transcript.

use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use super::{nodes, r, slots};
use crate::{SchedService, SchedSettings};

type Bench = Rig<SchedService>;

/// A scheduler that takes requests.
fn ready(resources: Value, up: &str) -> (Bench, Message) {
    with_config(resources, up, &Map::new())
}

fn with_config(resources: Value, up: &str, config: &Map<String, Value>) -> (Bench, Message) {
    let mut rig = Rig::with(SchedService::new(SchedSettings::default()), 0, 1, config);
    let acquire = rig.expect("resource.acquire");
    assert!(acquire.is_streaming());
    rig.reply(&acquire, json!({"resources": resources, "up": up}));
    let hello = rig.expect("job-manager.sched-hello");
    assert_eq!(hello.json::<Value>().unwrap(), json!({"partial-ok": true}));
    rig.fail(&hello, Errno::ENODATA);
    let ready = rig.expect("job-manager.sched-ready");
    assert_eq!(ready.json::<Value>().unwrap(), json!({"mode": "unlimited"}));
    rig.reply(&ready, json!({"count": 0}));
    (rig, acquire)
}

fn alloc(rig: &mut Bench, id: u64, priority: u64, jobspec: Value) -> u32 {
    rig.request(
        "sched.alloc",
        json!({"id": id, "priority": priority, "userid": 1000, "t_submit": 1.0,
               "jobspec": jobspec}),
    )
}

fn free(rig: &mut Bench, id: u64, r: &Value, last: bool) {
    let mut message =
        Message::request("sched.free").with_json(&json!({"id": id, "R": r, "final": last}));
    message.cred = rig.owner();
    message.set_no_response();
    rig.deliver(message);
}

fn silent(rig: &mut Bench, topic: &str, body: &Value) {
    let mut message = Message::request(topic).with_json(body);
    message.cred = rig.owner();
    message.set_no_response();
    rig.deliver(message);
}

#[test]
fn success_comes_with_r_which_is_for_the_manager_to_store() {
    let (mut rig, _) = ready(r(2, 2, 0), "0-1");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 60.0));
    let two = alloc(&mut rig, 2, 16, slots(1, 1, 0.0));
    assert!(rig.requests.is_empty());
    let body = rig.response(one).unwrap();
    assert_eq!((&body["type"], &body["store"]), (&json!(0), &json!(true)));
    assert_eq!(body["annotations"], json!({"sched": {"resource_summary": "rank0/core0"}}));
    assert_eq!(body["R"]["execution"]["nslots"], 1);
    assert_eq!(body["R"]["execution"]["starttime"], 1_700_000_000.0);
    assert_eq!(body["R"]["execution"]["expiration"], 1_700_000_060.0);
    let body = rig.response(two).unwrap();
    assert_eq!(body["annotations"]["sched"]["resource_summary"], "rank1/core0");
    assert_eq!(body["R"]["execution"]["expiration"], 0.0);
    rig.finish();
}

#[test]
fn a_free_lets_the_next_job_run_and_part_of_r_can_come_first() {
    let (mut rig, _) = ready(r(2, 1, 0), "0-1");
    let one = alloc(&mut rig, 1, 16, nodes(json!(2), 1, 1, false, 0.0));
    let got = rig.response(one).unwrap();
    assert_eq!(got["annotations"]["sched"]["resource_summary"], "rank[0-1]/core0");
    let two = alloc(&mut rig, 2, 16, slots(1, 1, 0.0));
    assert!(rig.requests.is_empty());
    let mut part = r(2, 1, 0);
    part["execution"]["R_lite"][0]["rank"] = "1".into();
    part["execution"]["nodelist"] = json!(["n1"]);
    free(&mut rig, 1, &part, false);
    let said = |rig: &Bench, text: &str| rig.logs.iter().any(|(_, line)| line == text);
    assert!(rig.logs.iter().any(|(_, text)| text.ends_with(": rank1/core0")), "{:?}", rig.logs);
    let body = rig.response(two).unwrap();
    assert_eq!(body["annotations"]["sched"]["resource_summary"], "rank1/core0");
    let three = alloc(&mut rig, 3, 16, slots(1, 1, 0.0));
    free(&mut rig, 1, &r(1, 1, 0), true);
    assert!(said(&rig, "free: ƒ2: rank0/core0 (final)"));
    assert_eq!(rig.response(three).unwrap()["type"], 0);
    rig.finish();
}

#[test]
fn requests_that_can_never_be_met_are_denied_with_the_reason() {
    let (mut rig, _) = ready(r(2, 4, 1), "");
    let gpu = super::jobspec(
        json!({"type": "slot", "count": 3, "label": "task", "with": [
            {"type": "core", "count": 1}, {"type": "gpu", "count": 1}]}),
        0.0,
    );
    let mut no_duration = slots(1, 1, 0.0);
    no_duration["attributes"]["system"] = json!({});
    let mut no_system = slots(1, 1, 0.0);
    no_system["attributes"] = json!({});
    let mut nothing = slots(1, 1, 0.0);
    nothing["resources"] = json!([]);
    let stepped = nodes(json!("2,4"), 1, 1, false, 0.0);
    for (spec, note) in [
        (
            nodes(json!(3), 1, 1, true, 0.0),
            "unsatisfiable request: need 3 exclusive node(s), only 2 eligible",
        ),
        (
            nodes(json!(1), 5, 1, false, 0.0),
            "unsatisfiable request: need 1 node(s) with 5 cores each, only 0 eligible",
        ),
        (
            slots(5, 2, 0.0),
            "unsatisfiable request: need 5 slot(s) of 2 core(s), only 4 such slot(s) available \
             (total cores: 8)",
        ),
        (
            gpu,
            "unsatisfiable request: need 3 slot(s) with 1 GPU(s) each, only 2 available (total \
             GPUs: 2)",
        ),
        (no_duration, "cannot parse jobspec: getting duration: Object item not found: duration"),
        (no_system, "cannot parse jobspec: getting duration: Object item not found: system"),
        (nothing, "cannot parse jobspec: jobspec has no resources"),
        (
            stepped,
            "node count specifies discrete valid values that this scheduler does not support; \
             use a simple min-max range instead",
        ),
    ] {
        let tag = alloc(&mut rig, 1, 16, spec.clone());
        assert_eq!(rig.response(tag).unwrap(), json!({"id": 1, "type": 2, "note": note}));
        let check = rig.request("feasibility.check", json!({"jobspec": spec}));
        let error = rig.response(check).unwrap_err();
        assert_eq!((error.errno, error.message().as_str()), (Errno::EOVERFLOW, note));
    }
    // Down nodes count: it waits.
    let tag = alloc(&mut rig, 1, 16, slots(8, 1, 0.0));
    assert!(rig.try_response(tag).is_none());
    silent(&mut rig, "sched.cancel", &json!({"id": 1}));
    assert_eq!(rig.response(tag).unwrap(), json!({"id": 1, "type": 3}));
    rig.finish();
}

#[test]
fn only_nodes_that_are_up_are_used_and_those_that_are_gone_do_not_count() {
    let (mut rig, acquire) = ready(r(2, 1, 0), "");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 0.0));
    let two = alloc(&mut rig, 2, 16, slots(2, 1, 0.0));
    assert!(rig.requests.is_empty());
    rig.reply(&acquire, json!({"up": "1"}));
    let body = rig.response(one).unwrap();
    assert_eq!(body["annotations"]["sched"]["resource_summary"], "rank1/core0");
    rig.reply(&acquire, json!({"down": "1", "shrink": "1"}));
    let body = rig.response(two).unwrap();
    assert_eq!(body["type"], 2);
    free(&mut rig, 1, &body, true);
    rig.finish();
}

#[test]
fn priority_decides_then_age_and_it_can_change() {
    let (mut rig, _) = ready(r(1, 1, 0), "0");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 0.0));
    rig.response(one).unwrap();
    let two = alloc(&mut rig, 2, 16, slots(1, 1, 0.0));
    let three = alloc(&mut rig, 3, 20, slots(1, 1, 0.0));
    let four = alloc(&mut rig, 4, 16, slots(1, 1, 0.0));
    silent(&mut rig, "sched.prioritize", &json!({"jobs": [[4, 30], [99, 1]]}));
    for (before, next) in [(1, four), (4, three), (3, two)] {
        free(&mut rig, before, &json!({}), true);
        assert_eq!(rig.response(next).unwrap()["type"], 0);
    }
    rig.finish();
}

#[test]
fn a_job_that_ends_in_time_may_pass_the_head_and_no_other_may() {
    let (mut rig, _) = ready(r(2, 1, 0), "0-1");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 100.0));
    rig.response(one).unwrap();
    let head = alloc(&mut rig, 2, 16, nodes(json!(2), 1, 1, false, 10.0));
    let long = alloc(&mut rig, 3, 16, slots(1, 1, 101.0));
    let endless = alloc(&mut rig, 4, 16, slots(1, 1, 0.0));
    assert!(rig.requests.is_empty());
    let short = alloc(&mut rig, 5, 16, slots(1, 1, 100.0));
    let body = rig.response(short).unwrap();
    assert_eq!(body["annotations"]["sched"]["backfill"], "ƒ3");
    rig.advance(1_000_000);
    let said = rig.response(head).unwrap();
    assert_eq!(
        said["annotations"]["sched"],
        json!({"t_estimate": 1_700_000_100.0, "reason_pending": "insufficient resources",
               "jobs_ahead": 0})
    );
    let said = rig.response(long).unwrap();
    assert_eq!(said["annotations"]["sched"]["jobs_ahead"], 1);
    rig.response(endless).unwrap();
    free(&mut rig, 1, &json!({}), true);
    free(&mut rig, 5, &json!({}), true);
    let body = rig.response(head).unwrap();
    assert_eq!(body["type"], 0);
    assert_eq!(body["annotations"]["sched"]["t_estimate"], Value::Null);
    for id in [3, 4] {
        silent(&mut rig, "sched.cancel", &json!({"id": id}));
    }
    rig.response(long).unwrap();
    rig.response(endless).unwrap();
    rig.finish();
}

#[test]
fn with_fifo_nobody_passes_the_head() {
    let config = json!({"sched": {"policy": "fifo"}}).as_object().unwrap().clone();
    let (mut rig, _) = with_config(r(2, 1, 0), "0-1", &config);
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 100.0));
    rig.response(one).unwrap();
    let head = alloc(&mut rig, 2, 16, nodes(json!(2), 1, 1, false, 10.0));
    let short = alloc(&mut rig, 3, 16, slots(1, 1, 1.0));
    assert!(rig.requests.is_empty());
    silent(&mut rig, "sched.cancel", &json!({"id": 2}));
    rig.response(head).unwrap();
    rig.response(short).unwrap();
    rig.finish();
}

#[test]
fn jobs_on_other_nodes_do_not_wait_for_the_head() {
    let mut set = r(2, 1, 0);
    set["execution"]["properties"] = json!({"batch": "0", "debug": "1"});
    let (mut rig, _) = ready(set, "0-1");
    let on = |name: &str| {
        let mut spec = slots(1, 1, 0.0);
        spec["attributes"]["system"]["constraints"] = json!({"properties": [name]});
        spec
    };
    let one = alloc(&mut rig, 1, 16, on("batch"));
    assert_eq!(rig.response(one).unwrap()["R"]["execution"]["properties"], json!({"batch": "0"}));
    let two = alloc(&mut rig, 2, 16, on("batch"));
    let three = alloc(&mut rig, 3, 16, on("debug"));
    assert_eq!(
        rig.response(three).unwrap()["annotations"]["sched"]["resource_summary"],
        "rank1/core0"
    );
    silent(&mut rig, "sched.cancel", &json!({"id": 2}));
    rig.response(two).unwrap();
    rig.finish();
}

#[test]
fn running_jobs_are_entered_from_the_kvs_and_one_that_clashes_is_told() {
    let mut rig = Rig::new(SchedService::new(SchedSettings::default()));
    let acquire = rig.expect("resource.acquire");
    rig.reply(&acquire, json!({"resources": r(2, 2, 0), "up": "0-1"}));
    let hello = rig.expect("job-manager.sched-hello");
    for (id, free) in [(7, Some("0")), (8, None)] {
        let mut job = json!({"id": id, "priority": 16, "userid": 1, "t_submit": 1.0});
        if let Some(free) = free {
            job["free"] = free.into();
        }
        rig.reply(&hello, job);
    }
    rig.fail(&hello, Errno::ENODATA);
    for key in ["job.0000.0000.0000.0007.R", "job.0000.0000.0000.0008.R"] {
        let lookup = rig.expect("kvs.lookup");
        assert_eq!(lookup.json::<Value>().unwrap()["key"], key);
        let data = flux_model::treeobj::Treeobj::val(r(2, 2, 0).to_string()).to_value();
        rig.reply(&lookup, json!({"val": data}));
    }
    let raise = rig.expect("job-manager.raise");
    let body: Value = raise.json().unwrap();
    assert_eq!((&body["id"], &body["type"]), (&json!(8), &json!("scheduler-restart")));
    assert_eq!(body["note"], "failed to reallocate R for running job");
    let announce = rig.expect("job-manager.sched-ready");
    rig.reply(&announce, json!({"count": 0}));
    let status = rig.request("sched.resource-status", json!({}));
    let body = rig.response(status).unwrap();
    assert_eq!(
        body["allocated"]["execution"]["R_lite"],
        json!([{"rank": "1", "children": {"core": "0-1"}}])
    );
    rig.finish();
}

#[test]
fn the_end_of_a_running_job_can_be_moved() {
    let (mut rig, _) = ready(r(1, 1, 0), "0");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 10.0));
    rig.response(one).unwrap();
    let set = rig.request("sched.expiration", json!({"id": 1, "expiration": 1_700_000_500.0}));
    assert_eq!(rig.response(set), Ok(Value::Null));
    let set = rig.request("sched.expiration", json!({"id": 2, "expiration": 1.0}));
    assert_eq!(rig.response(set).unwrap_err().errno, Errno::ENOENT);
    rig.finish();
}

#[test]
fn losing_the_resources_means_hello_again_and_requests_meanwhile_fail() {
    let (mut rig, acquire) = ready(r(1, 1, 0), "0");
    rig.fail(&acquire, Errno::EIO);
    let tag = alloc(&mut rig, 1, 16, slots(1, 1, 0.0));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EAGAIN);
    rig.advance(1_000_000);
    let acquire = rig.expect("resource.acquire");
    rig.reply(&acquire, json!({"resources": r(1, 1, 0), "up": "0"}));
    rig.expect("job-manager.sched-hello");
    rig.finish();
}

#[test]
fn what_was_granted_before_it_was_withdrawn_is_given_back_by_who_asked() {
    let (mut rig, _) = ready(r(1, 1, 0), "0");
    let one = alloc(&mut rig, 1, 16, slots(1, 1, 0.0));
    let two = alloc(&mut rig, 2, 16, slots(1, 1, 0.0));
    silent(&mut rig, "sched.cancel", &json!({"id": 2}));
    assert_eq!(rig.response(two).unwrap(), json!({"id": 2, "type": 3}));
    silent(&mut rig, "sched.cancel", &json!({"id": 1}));
    assert_eq!(rig.response(one).unwrap()["type"], 0);
    let allocated = |rig: &mut Bench| {
        let status = rig.request("sched.resource-status", json!({}));
        rig.response(status).unwrap()["allocated"]["execution"]["R_lite"].clone()
    };
    assert_eq!(allocated(&mut rig), json!([{"rank": "0", "children": {"core": "0"}}]));
    free(&mut rig, 1, &Value::Null, true);
    assert_eq!(allocated(&mut rig), json!([]));
    rig.finish();
}

#[test]
fn a_cluster_of_sixteen_thousand_nodes_stays_quick_with_a_long_queue() {
    let (mut rig, _) = ready(r(16_384, 2, 0), "0-16383");
    // More than fits, so that there is a head, and others behind it.
    let jobs = 40_000_u64;
    let mut answered = 0;
    for id in 1..=jobs {
        alloc(&mut rig, id, 16, slots(1, 1, 60.0));
    }
    let mut ended = 0;
    while ended < jobs {
        let ids: Vec<u64> = rig
            .responses
            .drain(..)
            .map(|message| message.json::<Value>().unwrap()["id"].as_u64().unwrap())
            .collect();
        answered += ids.len();
        assert!(!ids.is_empty(), "{ended} of {jobs} ended, then nothing happened");
        for id in ids {
            free(&mut rig, id, &Value::Null, true);
            ended += 1;
        }
    }
    assert_eq!(answered as u64, jobs);
    // Each job cost the one node it got.
    assert_eq!(rig.service().pool().examined, jobs);
    rig.finish();
}

#[test]
fn a_check_that_comes_before_the_resources_are_known_waits_for_them() {
    let mut rig = Rig::new(SchedService::new(SchedSettings::default()));
    let acquire = rig.expect("resource.acquire");
    let guest = rig.guest(5);
    let body = json!({"jobspec": slots(1, 1, 0.0)});
    let tag = rig.request_as(guest, "feasibility.check", body, false);
    assert!(rig.try_response(tag).is_none());
    rig.reply(&acquire, json!({"resources": r(1, 1, 0), "up": ""}));
    assert_eq!(rig.response(tag), Ok(Value::Null));
    rig.expect("job-manager.sched-hello");
    rig.finish();
}

#[test]
fn a_job_that_needs_nodes_that_are_down_holds_nobody_up() {
    let (mut rig, acquire) = ready(r(2, 1, 0), "0");
    let big = alloc(&mut rig, 1, 16, nodes(json!(2), 1, 1, false, 0.0));
    let small = alloc(&mut rig, 2, 16, slots(1, 1, 0.0));
    rig.response(small).unwrap();
    rig.advance(1_000_000);
    let said = rig.response(big).unwrap();
    assert_eq!(said["annotations"]["sched"]["reason_pending"], "nodes are down");
    // It is first again when they come up.
    rig.reply(&acquire, json!({"up": "1"}));
    let next = alloc(&mut rig, 3, 16, slots(1, 1, 0.0));
    assert!(rig.requests.is_empty());
    free(&mut rig, 2, &Value::Null, true);
    assert_eq!(rig.response(big).unwrap()["type"], 0);
    silent(&mut rig, "sched.cancel", &json!({"id": 3}));
    rig.response(next).unwrap();
    rig.finish();
}

#[test]
fn ranks_that_are_excluded_do_not_count_until_they_come_back() {
    let (mut rig, acquire) = ready(r(3, 1, 0), "0-2");
    let ask = |rig: &mut Bench, count: u64| {
        let check = json!({"jobspec": nodes(json!(count), 1, 1, false, 0.0)});
        let tag = rig.request("feasibility.check", check);
        rig.response(tag).is_ok()
    };
    assert!(ask(&mut rig, 3));
    rig.reply(&acquire, json!({"down": "2", "exclude": "2"}));
    assert!(ask(&mut rig, 2) && !ask(&mut rig, 3));
    rig.reply(&acquire, json!({"down": "1", "up": "2", "exclude": "1"}));
    assert!(ask(&mut rig, 2) && !ask(&mut rig, 3));
    rig.reply(&acquire, json!({"up": "1", "exclude": ""}));
    assert!(ask(&mut rig, 3));
    rig.finish();
}
