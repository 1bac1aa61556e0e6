//! What a crash leaves is taken up again.

use flux_id::JobId;
use serde_json::json;

use super::bench::{Bench, jobspec};

#[test]
fn pending_and_running_jobs_go_on() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    bench.submit(2);
    bench.expect_alloc(2);
    bench.submit(3);
    let third = bench.expect_alloc(3);
    bench.answer(&third, json!({"id": 3, "type": 2}));
    bench.submit_spec(
        4,
        jobspec(json!({"dependencies": [
        {"scheme": "afterok", "value": "1"}, {"scheme": "begin-time", "value": "1700000010"}]})),
    );
    let store = bench.crash();

    let mut bench = Bench::with(&json!({}), store);
    bench.quiet();
    assert_eq!(bench.log(2), "submit validate depend priority flux-restart priority");
    let hello = bench.sched_online("unlimited", None);
    assert_eq!(
        hello,
        [json!({"id": 1, "priority": 16, "userid": 1000, "t_submit": 1_700_000_000.0})]
    );
    bench.expect_alloc(2);
    bench.exec_online();
    let (start, body) = bench.expect("job-exec.start");
    assert_eq!((&body["id"], &body["reattach"]), (&json!(1), &json!(true)));
    assert_eq!(body["R"], super::bench::r());
    bench.say(&start, 1, "reattached", json!({}));
    bench.rig.advance(12_000_000);
    bench.quiet();
    bench.end(&start, 1, 0);
    assert_eq!(
        bench.log(1),
        "submit validate depend priority alloc start finish release free clean"
    );
    bench.expect_alloc(4);
    let stats = bench.call("job-manager.stats-get", json!({})).unwrap();
    assert_eq!((&stats["active_jobs"], &stats["inactive_jobs"]), (&json!(2), &json!(2)));
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 4})));
    bench.finish();
}

#[test]
fn a_canceled_job_whose_shells_may_live_is_given_to_execution() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    bench.call("job-manager.raise", json!({"id": 1, "severity": 0, "type": "cancel"})).unwrap();
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.sched_online("unlimited", None);
    bench.quiet();
    bench.exec_online();
    let (start, body) = bench.expect("job-exec.start");
    assert_eq!(body["reattach"], true);
    assert_eq!(bench.published(), [r#"job-exception {"id":1,"type":"cancel","severity":0}"#]);
    bench.end(&start, 1, 36608);
    assert_eq!(
        bench.log(1),
        "submit validate depend priority alloc start exception finish release free clean"
    );
    bench.finish();
}

#[test]
fn a_canceled_job_that_may_have_shells_before_its_start_is_on_record_is_asked_for() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    bench.grant(&alloc, 1);
    bench.expect("job-exec.start");
    bench.call("job-manager.raise", json!({"id": 1, "severity": 0, "type": "cancel"})).unwrap();
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.sched_online("unlimited", None);
    // The resources are not free before execution says so.
    bench.quiet();
    bench.exec_online();
    let (start, body) = bench.expect("job-exec.start");
    assert_eq!((&body["reattach"], &body["resume"]["started"]), (&json!(true), &json!(false)));
    assert!(body["resume"]["ended"].as_f64() > Some(0.0));
    bench.published();
    bench.say(&start, 1, "release", json!({"ranks": "all", "final": true}));
    assert_eq!(bench.log(1), "submit validate depend priority alloc exception release free clean");
}

#[test]
fn a_job_that_is_canceled_before_execution_is_back_keeps_its_resources_until_its_shells_are_found()
{
    for started in [true, false] {
        let mut bench = Bench::online();
        bench.submit(1);
        if started {
            bench.run(1);
        } else {
            let alloc = bench.expect_alloc(1);
            bench.grant(&alloc, 1);
            bench.expect("job-exec.start");
        }
        let store = bench.crash();
        let mut bench = Bench::with(&json!({}), store);
        bench.sched_online("unlimited", None);
        let cancel = json!({"id": 1, "severity": 0, "type": "cancel"});
        bench.call("job-manager.raise", cancel).unwrap();
        bench.quiet();
        let before = if started { "alloc start" } else { "alloc" };
        let log = format!("submit validate depend priority {before} exception");
        assert_eq!(bench.log(1), log);
        bench.exec_online();
        let (start, body) = bench.expect("job-exec.start");
        assert_eq!(
            (&body["reattach"], &body["resume"]["started"]),
            (&json!(true), &json!(started))
        );
        bench.published();
        bench.say(&start, 1, "release", json!({"ranks": "all", "final": true}));
        assert_eq!(bench.log(1), format!("{log} release free clean"));
    }
}

#[test]
fn a_signal_for_a_job_whose_shells_are_to_be_found_is_kept_for_them() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.run(1);
    bench.submit(2);
    let alloc = bench.expect_alloc(2);
    bench.grant(&alloc, 2);
    bench.expect("job-exec.start");
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.sched_online("unlimited", None);
    let kill = |id: u64| json!({"id": id, "signum": 10});
    let tags = [1, 2].map(|id| bench.rig.request("job-manager.kill", kill(id)));
    bench.settle();
    assert!(tags.iter().all(|tag| bench.rig.try_response(*tag).is_none()));
    bench.quiet();
    bench.exec_online();
    for (id, tag) in [1, 2].into_iter().zip(tags) {
        let (_, body) = bench.expect("job-exec.start");
        assert_eq!(body["id"], id);
        let (signal, body) = bench.expect("job-exec.signal");
        assert_eq!((&body["id"], &body["signum"]), (&json!(id), &json!(10)));
        assert!(bench.rig.try_response(tag).is_none());
        bench.rig.reply(&signal, json!({}));
        assert!(bench.rig.response(tag).is_ok());
    }
}

#[test]
fn what_is_allocated_after_a_restart_starts_when_that_is_durable() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.sched_online("unlimited", None);
    bench.exec_online();
    let alloc = bench.expect_alloc(1);
    bench.hold_commits = true;
    bench.grant(&alloc, 1);
    bench.quiet();
    bench.release_commits();
    let (_, body) = bench.expect("job-exec.start");
    assert!(body.get("resume").is_none(), "it cannot have been started before: {body}");
}

#[test]
fn a_job_between_alloc_and_start_is_started_once() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    bench.grant(&alloc, 1);
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.exec_online();
    let (start, body) = bench.expect("job-exec.start");
    assert_eq!(body["reattach"], false);
    bench.say(&start, 1, "start", json!({}));
    bench.quiet();
    bench.finish();
}

#[test]
fn jobs_that_cannot_be_replayed_are_moved_aside() {
    let mut bench = Bench::online();
    bench.submit(1);
    let mut store = bench.crash();
    store.insert(format!("{}.eventlog", JobId(2).kvs()), "nonsense\n".to_string());
    store.insert(
        format!("{}.eventlog", JobId(3).kvs()),
        "{\"timestamp\":1.0,\"name\":\"submit\",\"context\":{\"userid\":1,\"urgency\":1,\
         \"flags\":0,\"version\":1}}\n"
            .to_string(),
    );
    let mut bench = Bench::with(&json!({}), store);
    assert!(bench.rig.logs.iter().any(|(_, text)| text.contains("job ƒ4 not replayed: still in")));
    assert!(bench.store.keys().any(|key| key.starts_with("job-lost+found.job.")));
    let stats = bench.call("job-manager.stats-get", json!({})).unwrap();
    assert_eq!(stats["active_jobs"], 1);
    bench.finish();
}

#[test]
fn calls_that_come_too_early_wait() {
    let mut rig = flux_svc::Rig::new(crate::JobManager::default());
    let tag = rig.request("job-manager.getinfo", json!({}));
    assert_eq!(rig.try_response(tag), None);
    let checkpoint = rig.expect("kvs.lookup");
    let held = rig.expect("kvs.lookup");
    let directory = rig.expect("kvs.lookup");
    rig.fail(&held, flux_proto::Errno::ENOENT);
    rig.fail(&directory, flux_proto::Errno::ENOENT);
    rig.fail(&checkpoint, flux_proto::Errno::ENOENT);
    assert!(rig.ready);
    assert_eq!(rig.response(tag), Ok(json!({"max_jobid": 0})));
    rig.expect("kvs-watch.lookup");
    rig.finish();
}

#[test]
fn updates_are_replayed() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    let update = json!({"id": 1, "updates": {"attributes.system.duration": 60.0}});
    bench.call("job-manager.update", update).unwrap();
    let store = bench.crash();
    let mut bench = Bench::with(&json!({}), store);
    bench.sched_online("unlimited", None);
    let (_, body) = bench.expect("sched.alloc");
    assert_eq!(body["jobspec"]["attributes"]["system"]["duration"], 60.0);
    bench.finish();
}

#[test]
fn calls_that_come_too_early_are_answered_at_the_end() {
    let mut rig = flux_svc::Rig::new(crate::JobManager::default());
    let tag = rig.request("job-manager.getinfo", json!({}));
    rig.drain();
    assert!(rig.drained);
    assert_eq!(rig.response(tag).unwrap_err().message(), "job-manager is unloading");
    rig.requests.clear();
    rig.finish();
}
