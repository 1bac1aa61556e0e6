//! The journal, requests that wait, numbers, purging.

use super::*;

fn stats(bench: &mut Bench) -> Value {
    let tag = bench.rig.request("job-list.job-stats", json!({}));
    bench.rig.response(tag).unwrap()
}

#[test]
fn requests_wait_for_the_past() {
    let mut bench = Bench::new(json!({}));
    assert!(bench.rig.ready);
    let list = bench.rig.request("job-list.list", json!({"max_entries": 0, "attrs": []}));
    let numbers = bench.rig.request("job-list.job-stats", json!({}));
    let one = bench.rig.request("job-list.list-id", json!({"id": 2, "attrs": []}));
    bench.job(1, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    assert!(bench.rig.try_response(list).is_none());
    bench.sentinel();
    assert_eq!(ids_of(&bench.rig.response(list).unwrap()["jobs"]), [1]);
    assert_eq!(bench.rig.response(numbers).unwrap()["successful"], json!(1));
    let lookup = bench.rig.expect("kvs.lookup");
    bench.rig.fail(&lookup, Errno::ENOENT);
    assert_eq!(bench.rig.response(one).unwrap_err().errno, Errno::ENOENT);
    bench.rig.finish();
}

#[test]
fn list_id_waits_for_a_job_and_for_its_state() {
    let mut bench = Bench::synced();
    let known = bench.rig.request("job-list.list-id", json!({"id": 1, "attrs": ["state"]}));
    let body = json!({"id": 1, "attrs": ["state"], "state": 16});
    let running = bench.rig.request("job-list.list-id", body);
    let body = json!({"id": 1, "attrs": ["state"], "state": 32});
    let ended = bench.rig.request("job-list.list-id", body);
    let lookup = bench.rig.expect("kvs.lookup");
    assert!(bench.rig.requests.is_empty(), "one look-up is enough");
    bench.rig.reply(&lookup, json!({"val": {}}));
    bench.job(1, &history(1.0, 7, 16, 0, "submit"), &jobspec("a", 1, 1), None);
    assert!(bench.rig.try_response(known).is_none());
    bench.tell(1, &[event(2.0, "validate", Value::Null)]);
    assert_eq!(bench.rig.response(known).unwrap(), json!({"job": {"id": 1, "state": 2}}));
    bench.tell(
        1,
        &[event(3.0, "depend", Value::Null), event(4.0, "priority", json!({"priority": 1}))],
    );
    assert!(bench.rig.try_response(running).is_none());
    bench.tell(1, &[event(5.0, "alloc", Value::Null)]);
    assert_eq!(bench.rig.response(running).unwrap()["job"]["state"], json!(16));
    bench.tell(1, &[event(6.0, "finish", json!({"status": 0}))]);
    assert_eq!(bench.rig.response(ended).unwrap()["job"]["state"], json!(32));
    let body = json!({"id": 1, "attrs": [], "state": 3});
    let tag = bench.rig.request("job-list.list-id", body);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::EPROTO);
    bench.rig.finish();
}

#[test]
fn a_job_that_skips_a_state_ends_the_wait_for_it() {
    let mut bench = Bench::synced();
    bench.job(1, &history(1.0, 7, 16, 0, "priority"), &jobspec("a", 1, 1), None);
    let body = json!({"id": 1, "attrs": ["state"], "state": 16});
    let tag = bench.rig.request("job-list.list-id", body);
    bench.tell(1, &[event(5.0, "exception", json!({"type": "cancel", "severity": 0}))]);
    assert_eq!(bench.rig.response(tag).unwrap()["job"]["state"], json!(32));
    bench.rig.finish();
}

#[test]
fn waits_end_when_the_job_is_refused_or_never_told() {
    let mut bench = Bench::synced();
    bench.job(1, &history(1.0, 7, 16, 0, "submit"), &jobspec("a", 1, 1), None);
    let tag = bench.rig.request("job-list.list-id", json!({"id": 1, "attrs": []}));
    bench.tell(1, &[event(2.0, "invalidate", Value::Null)]);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(stats(&mut bench)["job_states"]["total"], json!(0));
    let tag = bench.rig.request("job-list.list-id", json!({"id": 2, "attrs": []}));
    let lookup = bench.rig.expect("kvs.lookup");
    bench.rig.reply(&lookup, json!({"val": {}}));
    assert!(bench.rig.try_response(tag).is_none());
    bench.rig.advance(listing::TELL_WITHIN_US);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::ENOENT);
    bench.rig.finish();
}

#[test]
fn numbers_follow_states_results_and_queues() {
    let mut bench = Bench::synced();
    let mut spec = jobspec("a", 1, 1);
    bench.job(1, &history(1.0, 7, 16, 0, "clean"), &spec, None);
    spec["attributes"]["system"]["queue"] = json!("batch");
    bench.job(2, &history(2.0, 7, 16, 256, "clean"), &spec, None);
    bench.job(3, &history(3.0, 7, 16, 0, "priority"), &spec, None);
    let of_batch = json!({"name": "batch", "job_states": {"depend": 0, "priority": 0, "sched": 1,
        "run": 0, "cleanup": 0, "inactive": 1, "total": 2}, "successful": 0, "failed": 1,
        "canceled": 0, "timeout": 0, "inactive_purged": 0});
    assert_eq!(
        stats(&mut bench),
        json!({"job_states": {"depend": 0, "priority": 0, "sched": 1, "run": 0, "cleanup": 0,
            "inactive": 2, "total": 3}, "successful": 1, "failed": 1, "canceled": 0, "timeout": 0,
            "inactive_purged": 0, "queues": [of_batch]})
    );
    bench.tell(3, &[event(9.0, "jobspec-update", json!({"attributes.system.queue": "debug"}))]);
    let queues = stats(&mut bench)["queues"].clone();
    assert_eq!(queues[0]["job_states"]["total"], json!(1));
    assert_eq!(queues[1]["job_states"]["priority"], json!(1));
    bench.rig.event("job-purge-inactive", json!({"jobs": [2, 99, 3]}));
    let numbers = stats(&mut bench);
    assert_eq!((&numbers["inactive_purged"], &numbers["failed"]), (&json!(1), &json!(0)));
    assert_eq!(numbers["job_states"]["inactive"], json!(1));
    assert_eq!(bench.ids(json!({})), [3, 1]);
    bench.rig.finish();
}

#[test]
fn a_stream_of_numbers_tells_changes_now_and_then() {
    let mut bench = Bench::synced();
    let tag = bench.rig.stream("job-list.job-stats", json!({}));
    assert_eq!(bench.rig.response(tag).unwrap()["job_states"]["total"], json!(0));
    for id in 1..=5 {
        bench.job(id, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    }
    assert!(bench.rig.try_response(tag).is_none());
    bench.rig.advance(STATS_PERIOD_US);
    assert_eq!(bench.rig.response(tag).unwrap()["job_states"]["total"], json!(5));
    assert!(bench.rig.try_response(tag).is_none());
    assert!(!bench.rig.has_timer(), "nothing changes, nothing wakes");
    bench.rig.disconnect(bench.rig.owner(), "job-list");
    bench.tell(6, &history(1.0, 7, 16, 0, "clean"));
    assert!(!bench.rig.has_timer());
    bench.rig.finish();
}

#[test]
fn the_journal_is_read_again_when_it_ends() {
    let mut bench = Bench::synced();
    bench.job(1, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    bench.rig.event("job-purge-inactive", json!({"jobs": [1]}));
    bench.rig.fail(&bench.journal.clone(), Errno::ENODATA);
    let list = bench.rig.request("job-list.list", json!({"max_entries": 0, "attrs": []}));
    bench.rig.advance(20_000);
    let journal = bench.rig.expect("job-manager.events-journal");
    bench.rig.fail(&journal, Errno::ENOSYS);
    bench.rig.advance(40_000);
    bench.journal = bench.rig.expect("job-manager.events-journal");
    bench.job(2, &history(2.0, 7, 16, 0, "start"), &jobspec("a", 1, 1), None);
    bench.rig.event("job-purge-inactive", json!({"jobs": [3]}));
    bench.job(3, &history(2.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    bench.sentinel();
    assert_eq!(ids_of(&bench.rig.response(list).unwrap()["jobs"]), [2]);
    assert_eq!(stats(&mut bench)["inactive_purged"], json!(1));
    bench.tell(2, &[event(9.0, "finish", json!({"status": 0})), event(10.0, "clean", Value::Null)]);
    assert_eq!(bench.all(2)["result"], json!(1));
    bench.rig.finish();
}

#[test]
fn a_pause_holds_changes_back() {
    let mut bench = Bench::synced();
    let tag = bench.rig.request("job-list.job-state-pause", json!({}));
    bench.rig.response(tag).unwrap();
    bench.job(1, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    bench.job(2, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    bench.rig.event("job-purge-inactive", json!({"jobs": [1]}));
    assert!(bench.ids(json!({})).is_empty());
    let one = bench.rig.request("job-list.list-id", json!({"id": 2, "attrs": []}));
    assert!(bench.rig.try_response(one).is_none());
    let tag = bench.rig.request("job-list.job-state-unpause", json!({}));
    bench.rig.response(tag).unwrap();
    assert_eq!(bench.rig.response(one).unwrap()["job"], json!({"id": 2}));
    assert_eq!(bench.ids(json!({})), [2]);
    let guest = bench.rig.guest(7);
    let tag = bench.rig.request_as(guest, "job-list.job-state-pause", json!({}), false);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::EPERM);
    bench.rig.finish();
}

#[test]
fn everything_is_answered_before_the_end() {
    let mut bench = Bench::synced();
    let numbers = bench.rig.stream("job-list.job-stats", json!({}));
    bench.rig.response(numbers).unwrap();
    let one = bench.rig.request("job-list.list-id", json!({"id": 2, "attrs": []}));
    bench.rig.expect("kvs.lookup");
    bench.rig.drain();
    assert!(bench.rig.drained);
    assert_eq!(bench.rig.response(one).unwrap_err().errno, Errno::ENOSYS);
    assert_eq!(bench.rig.response(numbers).unwrap_err().errno, Errno::ENODATA);
    bench.rig.expect("job-manager.events-journal-cancel");
    bench.rig.finish();
}

#[test]
fn a_client_that_leaves_is_forgotten() {
    let mut bench = Bench::new(json!({}));
    bench.rig.request("job-list.list", json!({"max_entries": 0, "attrs": []}));
    bench.rig.request("job-list.list-id", json!({"id": 2, "attrs": []}));
    bench.rig.disconnect(bench.rig.owner(), "job-list");
    bench.sentinel();
    bench.rig.finish();
}

#[test]
fn nonsense_in_the_journal_is_logged_and_survived() {
    let mut bench = Bench::synced();
    bench.tell(1, &[event(1.0, "alloc", Value::Null)]);
    bench.tell(2, &[json!({"name": "submit"})]);
    bench.tell(3, &[json!(5)]);
    bench.tell(4, &[]);
    let mut events = history(1.0, 7, 16, 0, "validate");
    events.push(event(2.0, "dependency-add", Value::Null));
    bench.job(5, &events, &json!("x"), Some(&json!([])));
    assert_eq!(bench.rig.logs.len(), 5);
    assert_eq!(bench.ids(json!({})), [5]);
    bench.rig.finish();
}
