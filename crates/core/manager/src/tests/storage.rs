//! When nothing can be stored.

use flux_proto::Errno;
use serde_json::{Value, json};

use super::bench::{Bench, jobspec, r};
use crate::commits::RETRY_US;

const FULL: &str = "job submission is disabled: cannot store job events: No space left on device";

#[test]
fn a_full_disk_refuses_new_jobs_and_keeps_the_old_ones_until_it_works_again() {
    let mut bench = Bench::online();
    bench.submit(1);
    let start = bench.run(1);
    bench.broken = Some(Errno::ENOSPC);
    // The first refusal comes from the commit itself, the next ones at once.
    for id in [2, 3] {
        assert_eq!(bench.try_submit(id, jobspec(json!({}))).as_deref(), Some(FULL));
    }
    assert!(!bench.store.keys().any(|key| key.contains("0000.0002")));
    let urgency = bench.call("job-manager.urgency", json!({"id": 1, "urgency": 3}));
    assert!(urgency.is_err());
    // A job can be stopped all the same: it may be the one that fills the disk.
    let raise = json!({"id": 1, "severity": 0, "type": "cancel"});
    for text in [
        "the exception is raised, but cannot store job events: No space left on device",
        "cannot store job events: No space left on device",
    ] {
        assert_eq!(bench.call("job-manager.raise", raise.clone()), Err(text.to_string()));
    }
    assert_eq!(bench.published().len(), 1);
    let stop = json!({"start": false, "all": true, "nocheckpoint": true});
    assert_eq!(bench.call("job-manager.queue-start", stop), Ok(Value::Null));
    let start_again = json!({"start": true, "all": true, "nocheckpoint": true});
    assert_eq!(bench.call("job-manager.queue-start", start_again), Ok(Value::Null));
    bench.end(&start, 1, 0);
    assert_eq!(bench.log(1), "submit validate depend priority alloc start");
    bench.rig.advance(3 * RETRY_US);
    bench.settle();
    assert_eq!(bench.log(1), "submit validate depend priority alloc start");
    bench.broken = None;
    bench.rig.advance(RETRY_US);
    bench.settle();
    assert_eq!(
        bench.log(1),
        "submit validate depend priority alloc start exception finish release free clean"
    );
    bench.submit(3);
    bench.expect_alloc(3);
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 3})));
    bench.finish();
}

#[test]
fn answers_wait_for_a_commit_that_is_tried_again() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    bench.broken = Some(Errno::EIO);
    let tag = bench.rig.request("job-manager.urgency", json!({"id": 1, "urgency": 3}));
    bench.settle();
    assert_eq!(bench.rig.try_response(tag), None);
    bench.broken = None;
    bench.rig.advance(RETRY_US);
    bench.settle();
    assert_eq!(bench.rig.response(tag), Ok(json!({"old_urgency": 16})));
    assert_eq!(bench.log(1), "submit validate depend priority urgency priority");
    bench.expect("sched.prioritize");
    bench.finish();
}

#[test]
fn at_the_end_what_cannot_be_stored_is_said_so() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    bench.broken = Some(Errno::EIO);
    let tag = bench.rig.request("job-manager.urgency", json!({"id": 1, "urgency": 3}));
    let drain = bench.rig.request("job-manager.drain", json!({}));
    bench.settle();
    bench.rig.drain();
    assert!(bench.rig.drained);
    assert!(bench.rig.response(tag).is_err());
    assert_eq!(bench.rig.response(drain).unwrap_err().message(), "job-manager is unloading");
    bench.out.clear();
    bench.finish();
}

#[test]
fn a_refused_job_is_taken_back_from_the_journal() {
    let mut bench = Bench::online();
    let journal = bench.rig.stream("job-manager.events-journal", json!({}));
    assert_eq!(bench.rig.response(journal), Ok(json!({"id": -1, "events": []})));
    bench.broken = Some(Errno::ENOSPC);
    bench.try_submit(1, jobspec(json!({}))).unwrap();
    let mut names = Vec::new();
    while let Some(Ok(item)) = bench.rig.try_response(journal) {
        names.push(item["events"][0]["name"].clone());
    }
    assert_eq!(names.first(), Some(&Value::from("submit")));
    assert_eq!(names.last(), Some(&Value::from("invalidate")));
    bench.rig.drain();
    bench.rig.response(journal).unwrap_err();
    bench.finish();
}

#[test]
fn resources_are_stored_with_the_event_that_tells_of_them() {
    let mut bench = Bench::online();
    bench.submit(1);
    let alloc = bench.expect_alloc(1);
    bench.hold_commits = true;
    let mut whole = r();
    whole["scheduling"] = json!({"graph": {}});
    bench.answer(&alloc, json!({"id": 1, "type": 0, "R": whole, "store": true}));
    assert_eq!(bench.stuck.len(), 1);
    // A scheduler that comes now would look for R: it hears of the job when that is there.
    let hello = bench.rig.stream("job-manager.sched-hello", json!({}));
    assert!(bench.rig.try_response(hello).is_none());
    bench.release_commits();
    assert_eq!(bench.rig.response(hello).unwrap()["id"], 1);
    assert_eq!(bench.rig.response(hello).unwrap_err().errno, Errno::ENODATA);
    assert!(bench.log(1).contains("alloc"));
    assert_eq!(bench.store["job.0000.0000.0000.0001.R"], whole.to_string());
    let (_, start) = bench.expect("job-exec.start");
    assert_eq!(start["R"], r());
    bench.finish();
}
