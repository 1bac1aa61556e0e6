//! The normal life of a job, and its abnormal ends.

use serde_json::{Value, json};

use super::bench::{Bench, jobspec};

const NORMAL: &str = "submit validate depend priority alloc start finish release free clean";

#[test]
fn a_normal_job_passes_every_state() {
    let mut bench = Bench::online();
    bench.submit(16);
    assert_eq!(bench.log(16), "submit validate depend priority");
    assert_eq!(
        bench.event(16, "submit"),
        json!({"userid": 1000, "urgency": 16, "flags": 0, "version": 1})
    );
    let start = bench.run(16);
    assert_eq!(
        bench.event(16, "alloc"),
        json!({"annotations": {"sched": {"resource_summary": "rank0/core[0-1]"}}})
    );
    let query = bench.call("job-manager.alloc-query", json!({})).unwrap();
    assert_eq!(query, json!({"queue_length": 0, "alloc_pending": 0, "running": 1}));
    bench.end(&start, 16, 0);
    assert_eq!(bench.log(16), NORMAL);
    assert_eq!(bench.event(16, "release"), json!({"ranks": "all", "final": true}));
    assert!(bench.rig.service().jobs.is_empty());
    assert_eq!(bench.rig.service().running, 0);
    assert!(bench.commits <= 6, "{} commits", bench.commits);
    bench.finish();
}

#[test]
fn nothing_is_answered_or_asked_before_it_is_durable() {
    let mut bench = Bench::online();
    bench.hold_commits = true;
    let tag = bench.announce(16, 1000, 0, jobspec(json!({})));
    bench.settle();
    assert_eq!(bench.rig.try_response(tag), None);
    bench.quiet();
    bench.release_commits();
    assert_eq!(bench.rig.response(tag), Ok(json!({"errors": []})));
    let alloc = bench.expect_alloc(16);
    bench.hold_commits = true;
    bench.grant(&alloc, 16);
    bench.quiet();
    bench.release_commits();
    let (start, _) = bench.expect("job-exec.start");
    bench.say(&start, 16, "start", json!({}));
    bench.end(&start, 16, 0);
    bench.finish();
}

#[test]
fn one_commit_carries_what_gathered_while_the_last_was_under_way() {
    let mut bench = Bench::online();
    bench.hold_commits = true;
    let tags: Vec<u32> =
        (1..=50).map(|id| bench.announce(id, 1000, 0, jobspec(json!({})))).collect();
    bench.settle();
    assert_eq!(bench.stuck.len(), 1);
    bench.release_commits();
    assert_eq!(bench.commits, 2);
    for tag in tags {
        bench.rig.response(tag).unwrap();
    }
    for id in 1..=50 {
        bench.expect_alloc(id);
    }
    bench.finish();
}

#[test]
fn a_pending_job_is_canceled() {
    let mut bench = Bench::online();
    bench.submit(16);
    let alloc = bench.expect_alloc(16);
    let raise = json!({"id": 16, "severity": 0, "type": "cancel"});
    assert_eq!(bench.call("job-manager.raise", raise), Ok(Value::Null));
    let (cancel, body) = bench.expect("sched.cancel");
    assert!(cancel.no_response());
    assert_eq!(body, json!({"id": 16}));
    assert_eq!(bench.log(16), "submit validate depend priority exception");
    bench.answer(&alloc, json!({"id": 16, "type": 3}));
    assert_eq!(bench.log(16), "submit validate depend priority exception clean");
    assert_eq!(
        bench.event(16, "exception"),
        json!({"type": "cancel", "severity": 0, "userid": 1000, "note": ""})
    );
    assert_eq!(bench.published(), [r#"job-exception {"id":16,"type":"cancel","severity":0}"#]);
    bench.finish();
}

#[test]
fn resources_that_come_after_a_cancel_go_back() {
    let mut bench = Bench::online();
    bench.submit(16);
    let alloc = bench.expect_alloc(16);
    bench.call("job-manager.raise", json!({"id": 16, "severity": 0, "type": "cancel"})).unwrap();
    bench.expect("sched.cancel");
    bench.grant(&alloc, 16);
    let (_, free) = bench.expect("sched.free");
    assert_eq!((&free["id"], &free["final"]), (&json!(16), &json!(true)));
    assert_eq!(bench.log(16), "submit validate depend priority exception clean");
    bench.published();
    bench.finish();
}

#[test]
fn a_running_job_is_canceled() {
    let mut bench = Bench::online();
    bench.submit(16);
    let start = bench.run(16);
    bench.call("job-manager.raise", json!({"id": 16, "severity": 0, "type": "cancel"})).unwrap();
    bench.quiet();
    bench.end(&start, 16, 36608);
    assert_eq!(
        bench.log(16),
        "submit validate depend priority alloc start exception finish release free clean"
    );
    bench.published();
    bench.finish();
}

#[test]
fn the_scheduler_denies_a_job() {
    let mut bench = Bench::online();
    bench.submit(16);
    let alloc = bench.expect_alloc(16);
    bench.answer(&alloc, json!({"id": 16, "type": 2, "note": "unsatisfiable request"}));
    assert_eq!(bench.log(16), "submit validate depend priority exception clean");
    assert_eq!(
        bench.event(16, "exception"),
        json!({"type": "alloc", "severity": 0, "note": "unsatisfiable request"})
    );
    bench.published();
    bench.finish();
}

#[test]
fn execution_cannot_start_a_job() {
    let mut bench = Bench::online();
    bench.submit(16);
    let alloc = bench.expect_alloc(16);
    bench.grant(&alloc, 16);
    let (start, body) = bench.expect("job-exec.start");
    assert!(start.is_streaming());
    assert_eq!(body["R"], super::bench::r());
    assert_eq!(body["jobspec"], jobspec(json!({})));
    bench.say(&start, 16, "exception", json!({"severity": 0, "type": "exec", "note": "no shell"}));
    bench.quiet();
    bench.say(&start, 16, "release", json!({"ranks": "all", "final": true}));
    bench.expect("sched.free");
    assert_eq!(bench.log(16), "submit validate depend priority alloc exception release free clean");
    bench.published();
    bench.finish();
}

#[test]
fn held_jobs_wait_and_expedited_ones_come_first() {
    let mut bench = Bench::online();
    let tag = bench.announce_with(16, 1000, 0, 0, jobspec(json!({})));
    bench.settle();
    bench.rig.response(tag).unwrap();
    assert_eq!(bench.event(16, "priority"), json!({"priority": 0}));
    bench.quiet();
    let old = bench.call("job-manager.urgency", json!({"id": 16, "urgency": 31}));
    assert_eq!(old, Ok(json!({"old_urgency": 0})));
    let (alloc, body) = bench.expect("sched.alloc");
    assert_eq!(body["priority"], 4_294_967_295_u64);
    // A change of priority follows the request.
    bench.call("job-manager.urgency", json!({"id": 16, "urgency": 20})).unwrap();
    let (_, body) = bench.expect("sched.prioritize");
    assert_eq!(body, json!({"jobs": [[16, 20]]}));
    // Held again: the request comes back.
    bench.call("job-manager.urgency", json!({"id": 16, "urgency": 0})).unwrap();
    bench.expect("sched.cancel");
    bench.answer(&alloc, json!({"id": 16, "type": 3}));
    bench.quiet();
    bench.call("job-manager.urgency", json!({"id": 16, "urgency": 16})).unwrap();
    bench.expect_alloc(16);
    assert_eq!(
        bench.log(16),
        "submit validate depend priority urgency priority urgency priority urgency priority \
         urgency priority"
    );
    bench.finish();
}

#[test]
fn limited_mode_sends_the_best_jobs_only() {
    let mut bench = Bench::new();
    bench.exec_online();
    bench.sched_online("limited", Some(1));
    bench.submit(1);
    let first = bench.expect_alloc(1);
    bench.submit(2);
    bench.quiet();
    let tag = bench.announce_with(3, 1000, 0, 31, jobspec(json!({})));
    bench.settle();
    bench.rig.response(tag).unwrap();
    let (_, cancel) = bench.expect("sched.cancel");
    assert_eq!(cancel, json!({"id": 1}));
    bench.quiet();
    bench.answer(&first, json!({"id": 1, "type": 3}));
    let third = bench.expect_alloc(3);
    bench.grant(&third, 3);
    bench.expect_alloc(1);
    bench.expect("job-exec.start");
    bench.finish();
}

#[test]
fn annotations_come_and_go_with_the_request() {
    let mut bench = Bench::online();
    bench.submit(16);
    let alloc = bench.expect_alloc(16);
    bench.answer(
        &alloc,
        json!({"id": 16, "type": 1, "annotations": {"sched": {"reason_pending": "busy"}}}),
    );
    let list = bench.call("job-manager.list", json!({"max_entries": 0})).unwrap();
    assert_eq!(list["jobs"][0]["annotations"], json!({"sched": {"reason_pending": "busy"}}));
    // The scheduler dies: so does what it said.
    bench.rig.fail(&alloc, flux_proto::Errno::ENOSYS);
    bench.settle();
    let list = bench.call("job-manager.list", json!({"max_entries": 0})).unwrap();
    assert_eq!(list["jobs"][0].get("annotations"), None);
    bench.quiet();
    bench.sched_online("unlimited", None);
    bench.expect_alloc(16);
    assert_eq!(bench.log(16), "submit validate depend priority");
    bench.finish();
}

#[test]
fn a_new_execution_service_finds_the_shells_of_the_old_one() {
    let mut bench = Bench::online();
    bench.submit(16);
    bench.run(16);
    bench.exec_online();
    let (start, body) = bench.expect("job-exec.start");
    assert_eq!(body["reattach"], true);
    bench.say(&start, 16, "reattached", json!({}));
    bench.end(&start, 16, 0);
    assert_eq!(bench.log(16), NORMAL);
    bench.finish();
}

#[test]
fn debug_jobs_tell_more() {
    let mut bench = Bench::online();
    let tag = bench.announce(16, 1000, 2, jobspec(json!({})));
    bench.settle();
    bench.rig.response(tag).unwrap();
    let start = bench.run(16);
    bench.end(&start, 16, 0);
    assert_eq!(
        bench.log(16),
        "submit validate depend priority debug.alloc-request alloc debug.start-request start \
         finish release free clean"
    );
    bench.finish();
}

#[test]
fn cost_per_job_does_not_grow_with_history() {
    // Counted, not timed: messages in and out for one job among many finished ones.
    let mut bench = Bench::online();
    let mut sent = Vec::new();
    for id in 1..=300 {
        let before = bench.commits;
        bench.submit(id);
        let start = bench.run(id);
        bench.end(&start, id, 0);
        sent.push(bench.commits - before);
    }
    assert_eq!(sent.first(), sent.last());
    let service = bench.rig.service();
    assert!(service.jobs.is_empty());
    assert_eq!(service.inactive.len(), 300);
    bench.finish();
}
