//! Instances with an archive: restarts that read active jobs only, and finished jobs that are
//! asked for later.

use flux_id::JobId;
use flux_model::job_event::FLAG_WAITABLE;
use flux_proto::Errno;
use serde_json::{Value, json};

use super::bench::{Bench, Left, jobspec};
use crate::active_index::{KEY, Stored};

fn online(left: Left) -> Bench {
    let mut bench = Bench::archived(&json!({}), left);
    bench.sched_online("unlimited", None);
    bench.exec_online();
    bench.rig.events.clear();
    bench
}

/// Runs a job to its end; it is not in the archive.
fn finish(bench: &mut Bench, id: u64, status: i32) {
    bench.submit(id);
    let start = bench.run(id);
    bench.end(&start, id, status);
}

/// And into the archive.
fn archive(bench: &mut Bench, ids: &[u64]) {
    bench.put(ids);
    bench.tell_archived(ids);
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
}

fn indexed(bench: &Bench) -> Vec<u64> {
    Stored::parse(&bench.store[KEY]).unwrap().ids.into_iter().collect()
}

fn stats(bench: &mut Bench) -> (Value, Value) {
    let stats = bench.call("job-manager.stats-get", json!({})).unwrap();
    (stats["active_jobs"].clone(), stats["inactive_jobs"].clone())
}

#[test]
fn a_restart_reads_active_jobs_only() {
    let mut bench = online(Left::default());
    for id in 1..=5 {
        finish(&mut bench, id, 0);
    }
    bench.submit(6);
    let start = bench.run(6);
    bench.submit(7);
    bench.expect_alloc(7);
    archive(&mut bench, &[1, 2, 3, 4]);
    assert_eq!(indexed(&bench), [5, 6, 7]);
    assert_eq!(stats(&mut bench), (json!(2), json!(5)));
    drop(start);
    let mut bench = Bench::archived(&json!({}), bench.crash_archived());
    for id in 1..=4 {
        let key = JobId(id).kvs();
        assert!(!bench.lookups.iter().any(|read| read.starts_with(&key)), "job {id} was read");
    }
    assert!(!bench.lookups.contains(&"job".to_string()));
    assert_eq!(stats(&mut bench), (json!(2), json!(5)));
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 7})));
    bench.sched_online("unlimited", None);
    bench.expect_alloc(7);
    bench.finish();
}

#[test]
fn a_crash_between_any_two_steps_heals() {
    // In the archive, without the manager's knowing: it is told again.
    let mut bench = online(Left::default());
    finish(&mut bench, 1, 0);
    bench.put(&[1]);
    let mut bench = online(bench.crash_archived());
    assert_eq!(stats(&mut bench), (json!(0), json!(1)), "it is counted once");
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert!(indexed(&bench).is_empty());
    // Not in the archive: it is told again.
    finish(&mut bench, 3, 0);
    let mut bench = online(bench.crash_archived());
    let journal =
        bench.rig.stream("job-manager.events-journal", json!({"full": true, "unarchived": true}));
    bench.settle();
    assert_eq!(bench.rig.response(journal).unwrap()["id"], 3);
    assert_eq!(bench.rig.response(journal).unwrap()["id"], -1);
    archive(&mut bench, &[3]);
    assert!(indexed(&bench).is_empty());
    // The manager knows, but the index does not: the same.
    finish(&mut bench, 2, 0);
    bench.put(&[2]);
    bench.tell_archived(&[2]);
    assert_eq!(indexed(&bench), [2]);
    let mut left = bench.crash_archived();
    // In the index before it is in the KVS.
    left.store.get_mut(KEY).unwrap().push_str("+9\n");
    let mut bench = online(left);
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert!(indexed(&bench).is_empty());
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 9})));
    bench.rig.drain();
    bench.settle();
    bench.finish();
}

#[test]
fn an_archived_job_whose_last_event_was_lost_goes_on() {
    let mut bench = online(Left::default());
    bench.submit(1);
    let start = bench.run(1);
    bench.hold_commits = true;
    bench.end(&start, 1, 0);
    // job-list saw the end in the journal, and was faster than the store.
    bench.tell_archived(&[1]);
    assert_eq!(stats(&mut bench), (json!(1), json!(0)));
    bench.release_commits();
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert_eq!(stats(&mut bench), (json!(0), json!(1)));
    assert!(indexed(&bench).is_empty());
    bench.finish();
}

/// Job 1 is archived, and its end was told before it was stored: a crash has lost it.
fn archived_and_active_again() -> Bench {
    let mut bench = online(Left::default());
    finish(&mut bench, 1, 0);
    bench.put(&[1]);
    let mut left = bench.crash_archived();
    let log = left.store.get_mut(&format!("{}.eventlog", JobId(1).kvs())).unwrap();
    *log = log.lines().take(6).flat_map(|line| [line, "\n"]).collect();
    Bench::archived(&json!({}), left)
}

#[test]
fn the_journal_tells_once_of_an_archived_job_that_is_active_again() {
    let mut bench = archived_and_active_again();
    assert_eq!(stats(&mut bench).0, json!(1));
    let journal = bench.rig.stream("job-manager.events-journal", json!({"full": true}));
    bench.settle();
    assert_eq!(bench.rig.response(journal).unwrap()["id"], 1);
    assert_eq!(bench.rig.response(journal).unwrap()["id"], -1);
    bench.rig.drain();
    bench.settle();
    bench.rig.response(journal).unwrap_err();
    bench.finish();
}

#[test]
fn an_instance_without_index_is_scanned_once() {
    let mut bench = Bench::online();
    for id in 1..=3 {
        bench.submit(id);
        let start = bench.run(id);
        bench.end(&start, id, 0);
    }
    bench.submit(4);
    bench.run(4);
    let store = bench.crash();
    let mut bench = Bench::archived(&json!({}), Left { store, ..Left::default() });
    assert!(bench.lookups.contains(&"job".to_string()));
    assert!(!bench.complete);
    // A crash in the middle of it: it is scanned again.
    bench.put(&[1, 2]);
    bench.tell_archived(&[1, 2]);
    let mut bench = Bench::archived(&json!({}), bench.crash_archived());
    assert!(bench.lookups.contains(&"job".to_string()));
    archive(&mut bench, &[1, 2, 3]);
    assert!(bench.complete);
    assert_eq!(indexed(&bench), [4]);
    let mut left = bench.crash_archived();
    let mut bench = Bench::archived(
        &json!({}),
        Left { store: left.store.clone(), archive: left.archive.clone(), complete: true },
    );
    assert!(!bench.lookups.contains(&"job".to_string()));
    assert_eq!(stats(&mut bench), (json!(1), json!(3)));
    bench.finish();
    // The archive is lost: everything is found again.
    left.archive.clear();
    left.complete = false;
    let mut bench = Bench::archived(&json!({}), left);
    assert_eq!(stats(&mut bench), (json!(1), json!(3)));
    bench.finish();
}

#[test]
fn finished_jobs_are_recalled_when_somebody_means_them() {
    let mut bench = online(Left::default());
    finish(&mut bench, 1, 0);
    finish(&mut bench, 2, 256);
    archive(&mut bench, &[1, 2]);
    for (topic, body, error) in [
        ("raise", json!({"id": 1, "severity": 0, "type": "cancel"}), "job is inactive"),
        ("kill", json!({"id": 1, "signum": 9}), "job is inactive"),
        ("urgency", json!({"id": 1, "urgency": 3}), "job is inactive"),
        ("memo", json!({"id": 1, "memo": {"a": 1}}), "job is inactive"),
        ("post-event.post", json!({"id": 1, "name": "x"}), "job is inactive"),
        ("raise", json!({"id": 77, "severity": 0, "type": "cancel"}), "unknown job id"),
        ("kill", json!({"id": 77, "signum": 9}), "unknown job id"),
    ] {
        let topic = format!("job-manager.{topic}");
        assert_eq!(bench.call(&topic, body.clone()), Err(error.to_string()), "{topic} {body}");
    }
    let guest = bench.rig.guest(5);
    let raise = json!({"id": 1, "severity": 0, "type": "cancel"});
    let error = bench.call_as(guest, "job-manager.raise", raise).unwrap_err();
    assert!(error.contains("their own jobs"), "{error}");
    let after = |scheme: &str, id: &str| {
        jobspec(json!({"dependencies": [{"scheme": scheme, "value": id}]}))
    };
    bench.submit_spec(3, after("afterok", "1"));
    bench.expect_alloc(3);
    bench.submit_spec(4, after("afternotok", "2"));
    bench.expect_alloc(4);
    let refused = bench.try_submit(5, after("afterok", "2")).unwrap();
    assert!(refused.contains("failed or was canceled"), "{refused}");
    let refused = bench.try_submit(6, after("afterok", "77")).unwrap();
    assert!(refused.contains("job not found"), "{refused}");
    bench.finish();
}

#[test]
fn a_dependency_on_a_job_that_ended_before_the_restart_is_met() {
    let mut bench = online(Left::default());
    bench.submit(1);
    let start = bench.run(1);
    let spec = jobspec(json!({"dependencies": [{"scheme": "afterok", "value": "1"}]}));
    bench.submit_spec(2, spec);
    bench.end(&start, 1, 0);
    // What follows of the end of the first for the second was not stored.
    let mut bench = {
        bench.put(&[1]);
        let mut left = bench.crash_archived();
        let key = format!("{}.eventlog", JobId(2).kvs());
        let log = left.store.get_mut(&key).unwrap();
        let kept: Vec<&str> = log.lines().take(3).collect();
        *log = kept.join("\n") + "\n";
        left.store.get_mut(KEY).unwrap().push_str("-1\n");
        online(left)
    };
    bench.expect_alloc(2);
    assert!(bench.log(2).contains("dependency-add validate dependency-remove depend"));
    bench.finish();
}

#[test]
fn the_journal_tells_of_archived_jobs_too_when_it_shall_be_full() {
    let mut bench = online(Left::default());
    for id in 1..=4 {
        finish(&mut bench, id, 0);
    }
    archive(&mut bench, &[1, 3]);
    let mut ids = |body: Value| {
        let journal = bench.rig.stream("job-manager.events-journal", body);
        let mut ids = Vec::new();
        bench.settle();
        while let Some(item) = bench.rig.try_response(journal) {
            ids.push(item.unwrap()["id"].as_i64().unwrap());
        }
        assert_eq!(ids.pop(), Some(-1));
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(json!({"full": true})), [1, 2, 3, 4]);
    assert_eq!(ids(json!({"full": true, "unarchived": true})), [2, 4]);
    assert!(ids(json!({})).is_empty());
    bench.rig.drain();
}

#[test]
fn a_job_of_which_it_is_not_yet_said_that_it_is_archived_counts_once() {
    let mut bench = online(Left::default());
    for id in 1..=6 {
        finish(&mut bench, id, 0);
        bench.rig.advance(1_000_000);
    }
    archive(&mut bench, &[1, 2, 3, 4]);
    bench.put(&[5]);
    let purge = json!({"age_limit": -1.0, "num_limit": 3, "batch": 100, "force": true});
    assert_eq!(bench.call("job-manager.purge", purge.clone()).unwrap()["count"], 3);
    assert_eq!(bench.call("job-manager.purge", purge).unwrap()["count"], 0);
    assert_eq!(bench.archive.as_ref().unwrap().keys().collect::<Vec<_>>(), [&4, &5]);
    bench.rig.drain();
}

#[test]
fn an_archived_job_that_is_active_again_is_not_purged() {
    let mut bench = archived_and_active_again();
    let all = json!({"age_limit": -1.0, "num_limit": 0, "batch": 100, "force": true});
    assert_eq!(bench.call("job-manager.purge", all).unwrap()["count"], 0);
    assert!(bench.store.keys().any(|key| key.starts_with(&JobId(1).kvs())));
    let one = json!({"id": 1, "force": 1});
    let refused = bench.call("job-manager.purge-id", one);
    assert_eq!(refused, Err("cannot purge active job".to_string()));
    bench.rig.drain();
}

#[test]
fn archived_jobs_are_purged_oldest_first_and_ids_never_go_back() {
    let mut bench = online(Left::default());
    for id in 1..=6 {
        finish(&mut bench, id, 0);
        bench.rig.advance(1_000_000);
    }
    archive(&mut bench, &[1, 2, 3, 4]);
    let count = json!({"age_limit": -1.0, "num_limit": 1, "batch": 100, "force": false});
    assert_eq!(bench.call("job-manager.purge", count), Ok(json!({"count": 5, "errors": 0})));
    let purge = json!({"age_limit": -1.0, "num_limit": 3, "batch": 2, "force": true});
    assert_eq!(bench.call("job-manager.purge", purge.clone()).unwrap()["count"], 2);
    assert_eq!(bench.published(), [r#"job-purge-inactive {"jobs":[1,2]}"#]);
    assert_eq!(bench.call("job-manager.purge", purge.clone()).unwrap()["count"], 1);
    assert_eq!(bench.call("job-manager.purge", purge).unwrap()["count"], 0);
    assert_eq!(bench.archive.as_ref().unwrap().keys().collect::<Vec<_>>(), [&4]);
    assert!(!bench.store.keys().any(|key| key.starts_with(&JobId(1).kvs())));
    let one = json!({"id": 4, "force": 1});
    assert_eq!(bench.call("job-manager.purge-id", one.clone()).unwrap()["count"], 1);
    assert_eq!(bench.call("job-manager.purge-id", one), Err("id not found".to_string()));
    let all = json!({"age_limit": -1.0, "num_limit": 0, "batch": 100, "force": true});
    assert_eq!(bench.call("job-manager.purge", all).unwrap()["count"], 2);
    assert_eq!(stats(&mut bench), (json!(0), json!(0)));
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    let mut bench = online(bench.crash_archived());
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 6})));
    bench.finish();
}

#[test]
fn a_purge_that_a_crash_cut_off_before_the_archive_is_finished_by_the_restart() {
    let mut bench = online(Left::default());
    for id in 1..=3 {
        finish(&mut bench, id, 0);
    }
    archive(&mut bench, &[1, 2]);
    bench.put(&[3]);
    // The kvs has forgotten them; the leader is killed before the archive has.
    bench.archive_broken = true;
    let all = json!({"age_limit": -1.0, "num_limit": 0, "batch": 100, "force": true});
    bench.call("job-manager.purge", all).unwrap_err();
    assert!(!bench.store.keys().any(|key| key.starts_with("job.")), "{:?}", bench.store.keys());
    let left = bench.crash_archived();
    assert_eq!(left.archive.len(), 3);
    let mut bench = online(left);
    assert!(bench.archive.as_ref().unwrap().is_empty());
    assert_eq!(stats(&mut bench), (json!(0), json!(0)));
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert!(indexed(&bench).is_empty());
    assert_eq!(bench.call("job-manager.getinfo", json!({})), Ok(json!({"max_jobid": 3})));
    bench.finish();
}

#[test]
fn a_purge_goes_on_when_the_archive_can_be_changed_again() {
    let mut bench = online(Left::default());
    finish(&mut bench, 1, 0);
    finish(&mut bench, 2, 0);
    archive(&mut bench, &[1]);
    bench.archive_broken = true;
    let error = bench.call("job-manager.purge-id", json!({"id": 1, "force": 1})).unwrap_err();
    assert!(error.contains("from the archive"), "{error}");
    assert!(bench.published().is_empty());
    bench.rig.advance(crate::purge::RETRY_US);
    bench.settle();
    bench.archive_broken = false;
    bench.rig.advance(crate::purge::RETRY_US);
    bench.settle();
    assert_eq!(bench.published(), [r#"job-purge-inactive {"jobs":[1]}"#]);
    assert!(bench.archive.as_ref().unwrap().is_empty());
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert_eq!(indexed(&bench), [2]);
    bench.finish();
}

#[test]
fn configured_limits_purge_the_archive_in_batches() {
    let mut bench = online(Left::default());
    for id in 1..=3 {
        finish(&mut bench, id, 0);
    }
    archive(&mut bench, &[1, 2, 3]);
    let config = json!({"job-manager": {"inactive-num-limit": 1}});
    let mut bench = Bench::archived(&config, bench.crash_archived());
    bench.settle();
    assert_eq!(bench.archive.as_ref().unwrap().len(), 1);
    bench.rig.advance(crate::purge::PERIOD_US);
    bench.settle();
    assert_eq!(bench.archive.as_ref().unwrap().len(), 1);
    assert_eq!(bench.published(), [r#"job-purge-inactive {"jobs":[1,2]}"#]);
    bench.finish();
}

#[test]
fn waitable_jobs_stay_waitable() {
    let mut bench = online(Left::default());
    for id in 1..=3 {
        let tag = bench.announce(id, 1000, FLAG_WAITABLE, jobspec(json!({})));
        bench.settle();
        bench.rig.response(tag).unwrap();
        let start = bench.run(id);
        bench.end(&start, id, 0);
    }
    assert_eq!(bench.call("job-manager.wait", json!({"id": 1})).unwrap()["success"], true);
    archive(&mut bench, &[1, 2, 3]);
    assert_eq!(indexed(&bench), [2, 3]);
    let mut bench = online(bench.crash_archived());
    assert_eq!(bench.call("job-manager.wait", json!({"id": 2})).unwrap()["success"], true);
    archive(&mut bench, &[2, 3]);
    assert_eq!(indexed(&bench), [3]);
    let any = json!({"id": u64::MAX});
    assert_eq!(bench.call("job-manager.wait", any.clone()).unwrap()["id"], 3);
    assert!(bench.call("job-manager.wait", any).is_err());
    bench.rig.advance(crate::commits::INDEX_US);
    bench.settle();
    assert!(indexed(&bench).is_empty());
    bench.finish();
}

#[test]
fn history_is_whole() {
    let mut bench = online(Left::default());
    for id in 1..=4 {
        finish(&mut bench, id, 0);
    }
    archive(&mut bench, &[1, 2, 3]);
    for (slice, jobs) in [("[0]", json!([4])), (":2", json!([4, 3])), ("::-1", json!([1, 2, 3, 4]))]
    {
        let body = json!({ "slice": slice });
        assert_eq!(bench.call("job-manager.history.get", body).unwrap()["jobs"], jobs, "{slice}");
    }
    bench.finish();
}

#[test]
fn a_commit_that_failed_leaves_the_index_right() {
    let mut bench = online(Left::default());
    finish(&mut bench, 1, 0);
    bench.broken = Some(Errno::ENOSPC);
    assert!(bench.try_submit(2, jobspec(json!({}))).is_some());
    bench.tell_archived(&[1]);
    bench.broken = None;
    bench.rig.advance(crate::commits::RETRY_US);
    bench.settle();
    bench.submit(3);
    bench.expect_alloc(3);
    assert_eq!(indexed(&bench), [3]);
    bench.finish();
}

#[test]
fn large_submissions_are_stored_in_parts() {
    let mut bench = online(Left::default());
    let big = "x".repeat(crate::commits::BATCH_BYTES / 3);
    let jobs: Vec<Value> = (1..=9)
        .map(|id| {
            json!({"id": id, "userid": 1000, "urgency": 16, "t_submit": 1.0, "flags": 0,
                "jobspec": jobspec(json!({})), "J": big})
        })
        .collect();
    let before = bench.commits;
    let tag = bench.rig.request("job-manager.submit", json!({ "jobs": jobs }));
    bench.settle();
    assert_eq!(bench.rig.response(tag).unwrap()["errors"], json!([]));
    assert!(bench.commits - before >= 3);
    assert_eq!(indexed(&bench).len(), 9);
    bench.out.clear();
    bench.finish();
}

#[test]
fn of_a_guest_the_last_finished_jobs_are_kept_and_of_others_all() {
    let limit = |number: i64| json!({"job-manager": {"guest-inactive-num-limit": number}});
    for archived in [true, false] {
        let mut bench = match archived {
            true => Bench::archived(&limit(2), Left::default()),
            false => Bench::with(&limit(2), Left::default().store),
        };
        bench.sched_online("unlimited", None);
        bench.exec_online();
        bench.rig.events.clear();
        let end = |bench: &mut Bench, id: u64, user: u32| {
            let tag = bench.announce(id, user, 0, jobspec(json!({})));
            bench.settle();
            bench.rig.response(tag).unwrap();
            let start = bench.run(id);
            bench.end(&start, id, 0);
            // Jobs are archived in the order of their ends.
            if archived && id > 2 {
                archive(bench, &[id - 2]);
            }
        };
        // The owner, and two guests.
        for (id, user) in (1..=12).zip([1000, 5, 6].into_iter().cycle()) {
            end(&mut bench, id, user);
        }
        let purged = |bench: &mut Bench| {
            for _ in 0..10 {
                bench.rig.advance(crate::purge::PERIOD_US);
                bench.settle();
            }
            let mut ids: Vec<u64> = bench
                .published()
                .iter()
                .filter_map(|text| text.strip_prefix("job-purge-inactive "))
                .flat_map(|body| {
                    let body: Value = serde_json::from_str(body).unwrap();
                    body["jobs"].as_array().unwrap().clone()
                })
                .map(|id| id.as_u64().unwrap())
                .collect();
            ids.sort_unstable();
            bench.rig.events.clear();
            ids
        };
        assert_eq!(purged(&mut bench), [2, 3, 5, 6], "archived: {archived}");
        // Nothing ends, and nothing goes; then one more of one of them.
        assert!(purged(&mut bench).is_empty());
        end(&mut bench, 13, 6);
        assert_eq!(purged(&mut bench), [9]);
        bench.call("job-manager.config-reload", json!({})).unwrap();
        end(&mut bench, 14, 6);
        assert!(purged(&mut bench).is_empty());
        bench.call("job-manager.config-reload", limit(0)).unwrap();
        end(&mut bench, 15, 5);
        assert_eq!(purged(&mut bench), [8, 11, 15]);
        let error = bench.call("job-manager.config-reload", limit(-1)).unwrap_err();
        assert!(error.contains("guest-inactive-num-limit must be >= 0"), "{error}");
        bench.rig.drain();
    }
}
