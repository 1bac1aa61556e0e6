//! The other requests: who may, what is refused, and with which words.

use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use serde_json::{Value, json};

use super::bench::{Bench, Store, jobspec, r};

fn refused(text: &str) -> Result<Value, String> {
    Err(text.to_string())
}

#[test]
fn guests_may_touch_their_own_jobs_only() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    let guest = bench.rig.guest(2000);
    for (topic, body, text) in [
        (
            "raise",
            json!({"id": 1, "severity": 0, "type": "cancel"}),
            "guests can only raise exceptions on their own jobs",
        ),
        (
            "raiseall",
            json!({"dry_run": true, "userid": -1, "states": 62, "severity": 0, "type": "cancel"}),
            "guests can only raise exceptions on their own jobs",
        ),
        ("kill", json!({"id": 1, "signum": 9}), "guests may only send signals to their own jobs"),
        (
            "killall",
            json!({"dry_run": true, "userid": 1000, "signum": 9}),
            "guests can only kill their own jobs",
        ),
        ("urgency", json!({"id": 1, "urgency": 0}), "guests can only reprioritize their own jobs"),
        (
            "memo",
            json!({"id": 1, "memo": {"a": 1}}),
            "guests can only add a memo to their own jobs",
        ),
        (
            "update",
            json!({"id": 1, "updates": {"attributes.system.duration": 1}}),
            "guests may only update their own jobs",
        ),
        ("purge", json!({}), "Request requires owner credentials"),
        ("drain", json!({}), "Request requires owner credentials"),
    ] {
        let answer = bench.call_as(guest, &format!("job-manager.{topic}"), body);
        assert_eq!(answer, refused(text), "{topic}");
    }
    bench.finish();
}

#[test]
fn guests_raise_urgency_up_to_the_default() {
    let mut bench = Bench::online();
    let tag = bench.announce_with(1, 2000, 0, 10, jobspec(json!({})));
    bench.settle();
    bench.rig.response(tag).unwrap();
    bench.expect_alloc(1);
    let guest = bench.rig.guest(2000);
    let answer = bench.call_as(guest, "job-manager.urgency", json!({"id": 1, "urgency": 17}));
    assert_eq!(answer, refused("guests can only adjust urgency <= default"));
    let answer = bench.call_as(guest, "job-manager.urgency", json!({"id": 1, "urgency": 16}));
    assert_eq!(answer, Ok(json!({"old_urgency": 10})));
    bench.expect("sched.prioritize");
    bench.finish();
}

#[test]
fn bad_requests_are_refused_in_known_words() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    bench.submit(2);
    let alloc = bench.expect_alloc(2);
    bench.answer(&alloc, json!({"id": 2, "type": 2}));
    bench.published();
    for (topic, body, text) in [
        ("raise", json!({"id": 1, "severity": 8, "type": "x"}), "invalid exception severity"),
        ("raise", json!({"id": 1, "severity": 0, "type": "a b"}), "invalid exception type"),
        ("raise", json!({"id": 9, "severity": 0, "type": "x"}), "unknown job id"),
        ("raise", json!({"id": 2, "severity": 0, "type": "x"}), "job is inactive"),
        ("kill", json!({"id": 1, "signum": 0}), "Invalid signal number"),
        ("kill", json!({"id": 9, "signum": 9}), "unknown job id"),
        ("kill", json!({"id": 2, "signum": 9}), "job is inactive"),
        ("kill", json!({"id": 1, "signum": 9}), "job is not running"),
        ("urgency", json!({"id": 1, "urgency": 32}), "urgency value is out of range"),
        ("urgency", json!({"id": 9, "urgency": 1}), "unknown job"),
        ("urgency", json!({"id": 2, "urgency": 1}), "job is inactive"),
        ("getattr", json!({"id": 9, "attrs": []}), "unknown job"),
        ("getattr", json!({"id": 1, "attrs": ["R"]}), "R is NULL"),
        ("getattr", json!({"id": 1, "attrs": ["x"]}), "unknown attr x"),
        ("memo", json!({"id": 2, "memo": {}}), "job is inactive"),
        ("update", json!({"id": 2, "updates": {"attributes.x": 1}}), "job is inactive"),
        (
            "update",
            json!({"id": 1, "updates": {"x": 1}}),
            "one or more jobspec updates are invalid",
        ),
        (
            "update",
            json!({"id": 1, "updates": {"attributes.system.cwd": "/"}}),
            "update of attributes.system.cwd not supported",
        ),
        ("wait", json!({"id": 1}), "job was not submitted with FLUX_JOB_WAITABLE"),
        ("wait", json!({"id": 2}), "invalid job id, or job may be inactive and not waitable"),
        ("wait", json!({"id": -1}), "there are no more waitable jobs"),
        ("jobtap", json!({"load": "x.so"}), "x.so: No such plugin found"),
        ("jobtap", json!({"load": ".history"}), ".history already loaded"),
        ("jobtap", json!({"remove": "x"}), "Failed to find plugin to remove"),
        ("purge-id", json!({"id": 1, "force": 1}), "cannot purge active job"),
        ("purge-id", json!({"id": 9, "force": 1}), "id not found"),
        (
            "purge",
            json!({"age_limit": -2.0, "num_limit": 0, "batch": 1, "force": false}),
            "if set, age limit must be >= 0",
        ),
        (
            "purge",
            json!({"age_limit": -1.0, "num_limit": -2, "batch": 1, "force": false}),
            "if set, num limit must be >= 0",
        ),
        (
            "purge",
            json!({"age_limit": -1.0, "num_limit": 0, "batch": 101, "force": false}),
            "batch must be >= 1 and <= 100",
        ),
    ] {
        let answer = bench.call(&format!("job-manager.{topic}"), body.clone());
        assert_eq!(answer, refused(text), "{topic} {body}");
    }
    bench.finish();
}

#[test]
fn a_signal_is_an_event_to_the_shells() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    let kill = |bench: &mut Bench, signum: i32| {
        bench.rig.request("job-manager.kill", json!({"id": 1, "signum": signum}))
    };
    let tag = kill(&mut bench, 15);
    let published = |bench: &mut Bench, signum: i32| {
        let event = bench.published().concat();
        let text = event.strip_prefix("shell-1.kill ").unwrap();
        let body: Value = serde_json::from_str(text).unwrap();
        assert_eq!(body["signum"], signum);
        body["n"].as_u64().unwrap()
    };
    let first = published(&mut bench, 15);
    assert!(bench.rig.try_response(tag).is_none(), "execution has not taken it");
    let (request, body) = bench.expect("job-exec.signal");
    assert_eq!(body, json!({"id": 1, "n": first, "signum": 15}));
    bench.rig.reply(&request, Value::Null);
    assert_eq!(bench.rig.response(tag), Ok(Value::Null));
    let all = json!({"dry_run": false, "userid": -1, "signum": 2});
    let tag = bench.rig.request("job-manager.killall", all);
    let (request, _) = bench.expect("job-exec.signal");
    bench.rig.reply(&request, Value::Null);
    assert_eq!(bench.rig.response(tag), Ok(json!({"count": 1, "errors": 0})));
    assert!(published(&mut bench, 2) != first, "each has a number of its own");
    let tag = kill(&mut bench, 9);
    let (request, _) = bench.expect("job-exec.signal");
    bench.rig.fail(&request, Errno::ENOSPC);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::ENOSPC);
    published(&mut bench, 9);
    bench.finish();
}

#[test]
fn waitable_jobs_are_waited_for_once() {
    let mut bench = Bench::online();
    for id in [1, 2, 3] {
        let tag = bench.announce(id, 1000, 4, jobspec(json!({})));
        bench.settle();
        bench.rig.response(tag).unwrap();
    }
    let any = bench.rig.request("job-manager.wait", json!({"id": -1}));
    let one = bench.rig.request("job-manager.wait", json!({"id": 2}));
    let twice = bench.call("job-manager.wait", json!({"id": 2}));
    assert_eq!(twice, refused("job id already has a waiter"));
    let denied = bench.expect_alloc(1);
    let mut starts = Vec::new();
    for id in [2, 3] {
        let alloc = bench.expect_alloc(id);
        starts.push((id, alloc));
    }
    bench.answer(&denied, json!({"id": 1, "type": 2, "note": "never"}));
    assert_eq!(
        bench.rig.response(any),
        Ok(json!({"id": 1, "success": false, "errstr": "Fatal exception type=alloc never"}))
    );
    for (id, alloc) in starts {
        bench.grant(&alloc, id);
        let (start, _) = bench.expect("job-exec.start");
        bench.say(&start, id, "start", json!({}));
        bench.end(&start, id, if id == 2 { 3 << 8 } else { 143 << 8 });
    }
    assert_eq!(
        bench.rig.response(one),
        Ok(json!({"id": 2, "success": false, "errstr": "task(s) exited with exit code 3"}))
    );
    assert_eq!(
        bench.call("job-manager.wait", json!({"id": -1})),
        Ok(json!({"id": 3, "success": false, "errstr": "task(s) Terminated"}))
    );
    bench.published();
    bench.finish();
}

#[test]
fn drain_waits_for_active_jobs_and_idle_for_running_ones() {
    let mut bench = Bench::online();
    assert_eq!(bench.call("job-manager.drain", json!({})), Ok(Value::Null));
    bench.submit(1);
    let start = bench.run(1);
    let held = bench.announce_with(2, 1000, 0, 0, jobspec(json!({})));
    bench.settle();
    bench.rig.response(held).unwrap();
    let drain = bench.rig.request("job-manager.drain", json!({}));
    let idle = bench.rig.request("job-manager.idle", json!({}));
    bench.settle();
    assert_eq!(bench.rig.try_response(idle), None);
    bench.end(&start, 1, 0);
    assert_eq!(bench.rig.response(idle), Ok(json!({"pending": 1})));
    assert_eq!(bench.rig.try_response(drain), None);
    bench.call("job-manager.raise", json!({"id": 2, "severity": 0, "type": "cancel"})).unwrap();
    assert_eq!(bench.rig.response(drain), Ok(Value::Null));
    bench.published();
    bench.finish();
}

#[test]
fn finished_jobs_are_purged() {
    let mut bench = Bench::online();
    for id in 1..=5 {
        bench.submit(id);
        let alloc = bench.expect_alloc(id);
        bench.answer(&alloc, json!({"id": id, "type": 2}));
        bench.rig.advance(10_000_000);
    }
    bench.published();
    let count = json!({"age_limit": -1.0, "num_limit": 2, "batch": 1, "force": false});
    assert_eq!(bench.call("job-manager.purge", count), Ok(json!({"count": 3, "errors": 0})));
    let purge = json!({"age_limit": -1.0, "num_limit": 2, "batch": 100, "force": true});
    assert_eq!(bench.call("job-manager.purge", purge), Ok(json!({"count": 3, "errors": 0})));
    assert_eq!(bench.published(), [r#"job-purge-inactive {"jobs":[1,2,3]}"#]);
    assert!(!bench.store.keys().any(|key| key.starts_with("job.0000.0000.0000.0003")));
    let purge = json!({"id": 5, "force": 1});
    assert_eq!(bench.call("job-manager.purge-id", purge), Ok(json!({"count": 1, "errors": 0})));
    bench.published();
    let history = bench.call("job-manager.history.get", json!({"slice": ":"}));
    assert_eq!(history, Ok(json!({"jobs": [4]})));
    // The highest id is not forgotten with its job.
    let store = bench.crash();
    let mut bench = Bench::with(&json!({"job-manager": {"inactive-num-limit": 0}}), store);
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 5})));
    bench.rig.advance(crate::purge::PERIOD_US);
    bench.settle();
    assert_eq!(bench.published(), [r#"job-purge-inactive {"jobs":[4]}"#]);
    bench.finish();
}

#[test]
fn memos_are_merged_into_annotations() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    bench.call("job-manager.memo", json!({"id": 1, "memo": {"a": 1, "b": 2}})).unwrap();
    let volatile = json!({"id": 1, "memo": {"a": null}, "volatile": true});
    bench.call("job-manager.memo", volatile).unwrap();
    let list = bench.call("job-manager.list", json!({"max_entries": 0})).unwrap();
    assert_eq!(list["jobs"][0]["annotations"], json!({"user": {"b": 2}}));
    assert_eq!(bench.log(1), "submit validate depend priority memo");
    bench.finish();
}

#[test]
fn guests_fill_the_eventlog_of_their_job_up_to_a_bound() {
    for volatile in [false, true] {
        let mut bench = Bench::online();
        let tag = bench.announce_with(1, 2000, 16, 0, jobspec(json!({})));
        bench.settle();
        bench.rig.response(tag).unwrap();
        let guest = bench.rig.guest(2000);
        let text = "x".repeat(100_000);
        let memo = json!({"id": 1, "memo": {"a": text}, "volatile": volatile});
        let mut taken = 0;
        let error = loop {
            match bench.call_as(guest, "job-manager.memo", memo.clone()) {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!((10..12).contains(&taken), "{taken}");
        assert!(error.contains("eventlog") && error.contains("full"), "{error}");
        let raise =
            |severity: u32| json!({"id": 1, "severity": severity, "type": "test", "note": text});
        assert!(bench.call_as(guest, "job-manager.raise", raise(1)).is_err());
        let urgency = json!({"id": 1, "urgency": 1});
        assert!(bench.call_as(guest, "job-manager.urgency", urgency).is_err());
        // The owner may, and the user may still end it.
        bench.call("job-manager.memo", json!({"id": 1, "memo": {"b": 1}})).unwrap();
        bench.call_as(guest, "job-manager.raise", raise(0)).unwrap();
        bench.published();
        bench.finish();
    }
}

#[test]
fn private_mode_hides_the_instance_from_guests() {
    let mut bench = Bench::with(&json!({"access": {"private-mode": true}}), Store::new());
    let guest = bench.rig.guest(2000);
    let tag = bench.rig.request_as(guest, "job-manager.getinfo", json!({}), false);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::EPERM);
    bench.finish();
}

#[test]
fn the_duration_of_a_pending_job_is_updated() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    let update = json!({"id": 1, "updates": {"attributes.system.duration": 60.0}});
    assert_eq!(bench.call("job-manager.update", update), Ok(Value::Null));
    // What the scheduler has is out of date.
    bench.expect("sched.cancel");
    bench.answer(&alloc, json!({"id": 1, "type": 3}));
    let (_, body) = bench.expect("sched.alloc");
    assert_eq!(body["jobspec"]["attributes"]["system"]["duration"], 60.0);
    assert_eq!(bench.log(1), "submit validate depend priority jobspec-update priority");
    let update = json!({"id": 1, "updates": {"attributes.system.duration": -1}});
    let answer = bench.call("job-manager.update", update);
    assert_eq!(answer, refused("duration must not be negative"));
    bench.finish();
}

#[test]
fn the_end_of_a_running_job_moves_if_the_scheduler_agrees() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    let update = json!({"id": 1, "updates": {"attributes.system.duration": 600.0}});
    let tag = bench.rig.request("job-manager.update", update.clone());
    let (ask, body) = bench.expect("sched.expiration");
    assert_eq!(body, json!({"id": 1, "expiration": 1_700_000_600.0}));
    bench.rig.fail(&ask, Errno::EINVAL);
    let error = bench.rig.response(tag).unwrap_err();
    assert_eq!(error.message(), "scheduler refused expiration update");
    let tag = bench.rig.request("job-manager.update", update);
    let (ask, _) = bench.expect("sched.expiration");
    bench.rig.reply(&ask, Value::Null);
    bench.settle();
    assert_eq!(bench.rig.response(tag), Ok(Value::Null));
    let (tell, body) = bench.expect("job-exec.expiration");
    assert_eq!(body, json!({"id": 1, "expiration": 1_700_000_600.0}));
    bench.rig.reply(&tell, Value::Null);
    assert_eq!(bench.event(1, "resource-update"), json!({"expiration": 1_700_000_600.0}));
    let attrs = bench.call("job-manager.getattr", json!({"id": 1, "attrs": ["R"]})).unwrap();
    assert_eq!(attrs["R"]["execution"]["expiration"], 1_700_000_600.0);
    bench.finish();
}

#[test]
fn the_queue_of_a_job_is_updated_with_its_constraints() {
    let config = json!({"queues": {"a": {"requires": ["a"]}, "b": {"requires": ["b"]}}});
    let mut bench = Bench::with(&config, Store::new());
    bench.submit_spec(1, jobspec(json!({"queue": "a", "constraints": {"properties": ["a"]}})));
    let update = |queue: &str| json!({"id": 1, "updates": {"attributes.system.queue": queue}});
    let answer = bench.call("job-manager.update", update("a"));
    assert_eq!(answer, refused("job queue is already set to a"));
    let tag = bench.rig.request("job-manager.update", update("b"));
    let (check, body) = bench.expect("feasibility.check");
    let system = &body["jobspec"]["attributes"]["system"];
    assert_eq!(system["constraints"], json!({"properties": ["b"]}));
    bench.rig.fail(&check, Errno::ENOSYS);
    bench.settle();
    assert_eq!(bench.rig.response(tag), Ok(Value::Null));
    assert_eq!(
        bench.event(1, "jobspec-update"),
        json!({"attributes.system.queue": "b",
            "attributes.system.constraints": {"properties": ["b"]}})
    );
    bench.finish();
}

#[test]
fn the_service_says_what_it_holds() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    let status = bench.call("job-manager.resource-status", json!({})).unwrap();
    assert_eq!(status["allocated"]["execution"]["R_lite"][0]["rank"], "0");
    let stats = bench.call("job-manager.stats-get", json!({})).unwrap();
    assert_eq!((&stats["active_jobs"], &stats["inactive_jobs"]), (&json!(1), &json!(0)));
    bench.rig.drain();
    assert!(bench.rig.drained);
    bench.finish();
}

#[test]
fn jobs_end_with_their_instance() {
    let mut bench = Bench::online();
    let watch = bench.watch.take().unwrap();
    let mut resources = r();
    let mut tell = |bench: &mut Bench, expiration: f64| {
        resources["execution"]["expiration"] = expiration.into();
        let object = Treeobj::val(resources.to_string().into_bytes());
        bench.rig.reply(&watch, json!({"val": object.to_value()}));
        bench.settle();
    };
    tell(&mut bench, 1_700_003_600.0);
    assert_eq!(
        bench.try_submit(1, jobspec(json!({"duration": 7200.0}))).as_deref(),
        Some("job duration (2h) exceeds remaining instance lifetime (1h)")
    );
    bench.submit(1);
    bench.submit_spec(2, jobspec(json!({"duration": 60.0})));
    for id in [1, 2] {
        let alloc = bench.expect_alloc(id);
        let mut given = r();
        given["execution"]["expiration"] = 1_700_003_600.0.into();
        bench.answer(&alloc, json!({"id": id, "type": 0, "R": given}));
        if id == 1 {
            let second = bench.out.pop_front().unwrap();
            bench.expect("job-exec.start");
            bench.out.push_front(second);
        } else {
            bench.expect("job-exec.start");
        }
    }
    tell(&mut bench, 1_700_007_200.0);
    let (told, body) = bench.expect("job-exec.expiration");
    assert_eq!(body, json!({"id": 1, "expiration": 1_700_007_200.0}));
    bench.rig.reply(&told, Value::Null);
    assert_eq!(bench.event(1, "resource-update"), json!({"expiration": 1_700_007_200.0}));
    bench.finish();
}
