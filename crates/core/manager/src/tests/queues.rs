//! Queues: stopped, started, disabled, virtual; limits.

use serde_json::{Value, json};

use super::bench::{Bench, Store, jobspec};

fn named() -> Value {
    json!({
        "queues": {"batch": {}, "debug": {}, "night": {"parent": "batch"}},
    })
}

fn in_queue(queue: &str) -> Value {
    jobspec(json!({ "queue": queue }))
}

fn status(bench: &mut Bench, name: &str) -> Value {
    bench.call("job-manager.queue-status", json!({ "name": name })).unwrap()
}

#[test]
fn a_stopped_queue_takes_its_requests_back() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    let stop = json!({"start": false, "all": true, "reason": "maintenance"});
    assert_eq!(bench.call("job-manager.queue-start", stop), Ok(Value::Null));
    bench.expect("sched.cancel");
    bench.answer(&alloc, json!({"id": 1, "type": 3}));
    bench.submit(2);
    bench.quiet();
    let status = bench.call("job-manager.queue-status", json!({})).unwrap();
    assert_eq!(status, json!({"enable": true, "start": false, "stop_reason": "maintenance"}));
    bench.call("job-manager.queue-start", json!({"start": true, "all": true})).unwrap();
    bench.expect_alloc(1);
    bench.expect_alloc(2);
    assert_eq!(bench.log(1), "submit validate depend priority");
    bench.finish();
}

#[test]
fn while_the_instance_ends_a_queue_that_is_started_waits_for_the_restart() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    let end = json!({"start": false, "all": true, "nocheckpoint": true, "ending": true,
        "reason": "the instance is shutting down"});
    assert_eq!(bench.call("job-manager.queue-start", end), Ok(Value::Null));
    bench.expect("sched.cancel");
    bench.answer(&alloc, json!({"id": 1, "type": 3}));
    let start = json!({"start": true, "all": true});
    assert_eq!(bench.call("job-manager.queue-start", start), Ok(Value::Null));
    bench.quiet();
    let status = bench.call("job-manager.queue-status", json!({})).unwrap();
    assert_eq!(
        status,
        json!({"enable": true, "start": false, "blocked": "shutdown",
            "stop_reason": "the instance is shutting down"})
    );
    // Nothing is on its way to the scheduler that would keep the instance from its end.
    assert_eq!(bench.call("job-manager.idle", json!({})), Ok(json!({"pending": 1})));
    let mut bench = Bench::with(&json!({}), bench.crash());
    bench.sched_online("unlimited", None);
    bench.expect_alloc(1);
    bench.finish();
}

#[test]
fn a_disabled_queue_refuses_jobs() {
    let mut bench = Bench::online();
    let disable = json!({"enable": false, "all": true});
    assert_eq!(
        bench.call("job-manager.queue-enable", disable),
        Err("reason is required for disable".to_string())
    );
    let disable = json!({"enable": false, "all": true, "reason": "full"});
    assert_eq!(bench.call("job-manager.queue-enable", disable), Ok(Value::Null));
    assert_eq!(
        bench.try_submit(1, jobspec(json!({}))).as_deref(),
        Some("job submission is disabled: full")
    );
    bench.finish();
}

#[test]
fn named_queues_begin_stopped_and_are_named_in_requests() {
    let mut bench = Bench::with(&named(), Store::new());
    bench.sched_online("unlimited", None);
    let queues = bench.call("job-manager.queue-list", json!({})).unwrap();
    assert_eq!(queues, json!({"queues": ["batch", "debug", "night"]}));
    for (spec, text) in [
        (jobspec(json!({})), "a named queue is required"),
        (in_queue("x"), "'x' is not a valid queue"),
    ] {
        assert_eq!(bench.try_submit(1, spec).as_deref(), Some(text));
    }
    for (topic, body, text) in [
        ("queue-start", json!({"start": true}), "Use --all to apply this command to all queues"),
        ("queue-start", json!({"start": true, "name": "x"}), "'x' is not a valid queue"),
        ("queue-status", json!({}), "a named queue is required"),
    ] {
        let answer = bench.call(&format!("job-manager.{topic}"), body);
        assert_eq!(answer, Err(text.to_string()));
    }
    bench.submit_spec(1, in_queue("batch"));
    bench.submit_spec(2, in_queue("debug"));
    bench.submit_spec(3, in_queue("night"));
    bench.quiet();
    bench.call("job-manager.queue-start", json!({"start": true, "name": "night"})).unwrap();
    bench.quiet();
    assert_eq!(
        status(&mut bench, "night"),
        json!({"enable": true, "start": false, "stop_reason": "parent queue 'batch' is stopped",
            "blocked": "parent", "parent": "batch"})
    );
    bench.call("job-manager.queue-start", json!({"start": true, "name": "batch"})).unwrap();
    bench.expect_alloc(1);
    bench.expect_alloc(3);
    bench.quiet();
    assert_eq!(status(&mut bench, "batch"), json!({"enable": true, "start": true}));
    let disable = json!({"enable": false, "name": "debug", "reason": "broken"});
    bench.call("job-manager.queue-enable", disable).unwrap();
    assert_eq!(
        bench.try_submit(4, in_queue("debug")).as_deref(),
        Some("job submission to debug is disabled: broken")
    );
    bench.finish();
}

#[test]
fn without_scheduler_a_queue_is_blocked() {
    let mut bench = Bench::new();
    let status = bench.call("job-manager.queue-status", json!({})).unwrap();
    assert_eq!(
        status,
        json!({"enable": true, "start": false, "stop_reason": "Scheduler is offline",
            "blocked": "scheduler"})
    );
    bench.finish();
}

#[test]
fn queue_state_survives_a_crash_unless_told_otherwise() {
    let mut bench = Bench::with(&named(), Store::new());
    bench.sched_online("unlimited", None);
    bench.call("job-manager.queue-start", json!({"start": true, "all": true})).unwrap();
    let stop = json!({"start": false, "name": "debug", "nocheckpoint": true});
    bench.call("job-manager.queue-start", stop).unwrap();
    let disable = json!({"enable": false, "name": "batch", "reason": "why not"});
    bench.call("job-manager.queue-enable", disable).unwrap();
    let store = bench.crash();
    let mut bench = Bench::with(&named(), store);
    bench.sched_online("unlimited", None);
    assert_eq!(status(&mut bench, "debug"), json!({"enable": true, "start": true}));
    assert_eq!(
        status(&mut bench, "batch"),
        json!({"enable": false, "disable_reason": "why not", "start": true})
    );
    let store = bench.crash();
    let mut config = named();
    config["job-manager"] = json!({"stop-queues-on-restart": true});
    let mut bench = Bench::with(&config, store);
    assert_eq!(
        status(&mut bench, "debug"),
        json!({"enable": true, "start": false,
            "stop_reason": "Automatically stopped due to restart"})
    );
    bench.finish();
}

#[test]
fn limits_refuse_jobs() {
    let config = json!({
        "policy": {"limits": {"duration": "1h", "job-size": {"max": {"ncores": 1}}}},
        "queues": {
            "big": {"policy": {"limits": {"job-size": {"max": {"ncores": -1}, "min": {"ncores": 3}}}}},
            "small": {},
            "long": {"policy": {"limits": {"duration": "0", "job-size": {"max": {"ncores": 9}}}}},
        },
    });
    let mut bench = Bench::with(&config, Store::new());
    let spec = |queue: &str, duration: f64| jobspec(json!({"queue": queue, "duration": duration}));
    for (queue, duration, text) in [
        ("small", 0.0, "requested duration (unlimited) exceeds policy limit of 1h"),
        ("small", 5400.0, "requested duration (1.5h) exceeds policy limit of 1h"),
        ("small", 60.0, "requested ncores (2) exceeds policy limit of 1"),
        ("big", 60.0, "requested ncores (2) is under policy limit of 3 for queue big"),
    ] {
        assert_eq!(bench.try_submit(1, spec(queue, duration)).as_deref(), Some(text));
    }
    bench.submit_spec(1, spec("long", 0.0));
    bench.finish();
}

#[test]
fn bad_configuration_is_refused() {
    let mut bench = Bench::new();
    for (config, text) in [
        (
            json!({"queues": {"q": {"x": 1}}}),
            "error parsing [queues.q] config table: unknown key 'x'",
        ),
        (
            json!({"policy": {"limits": {"x": 1}}}),
            "error parsing [policy.limits] config table: unknown key 'x'",
        ),
        (
            json!({"policy": {"limits": {"duration": "x"}}}),
            "error parsing [policy.limits] config table: duration is not a valid FSD",
        ),
        (
            json!({"queues": {"q": {"parent": "p"}}}),
            "queue 'q': parent queue 'p' is not configured",
        ),
        (
            json!({"queues": {"q": {}},
                "policy": {"jobspec": {"defaults": {"system": {"queue": "d"}}}}}),
            "default queue 'd' must be in [queues]",
        ),
    ] {
        assert_eq!(bench.call("job-manager.config-reload", config), Err(text.to_string()));
    }
    bench.finish();
}
