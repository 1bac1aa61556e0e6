//! One job from submit to inactive.

use super::*;

#[test]
fn attributes_appear_as_they_become_known() {
    let mut bench = Bench::synced();
    let submit = history(1.0, 7, 16, 0, "submit");
    bench.job(1, &submit, &jobspec("app", 2, 4), None);
    assert_eq!(bench.ids(json!({})), [0; 0], "a job is listed from DEPEND on");
    bench.tell(1, &[event(2.0, "validate", Value::Null)]);
    let job = bench.all(1);
    assert_eq!(
        keys_of(&job),
        [
            "id", "userid", "urgency", "t_submit", "t_depend", "state", "name", "cwd", "ntasks",
            "ncores", "duration", "nnodes"
        ]
    );
    assert_eq!(
        job,
        json!({"id": 1, "userid": 7, "urgency": 16, "t_submit": 1.0, "t_depend": 2.0, "state": 2,
            "name": "app", "cwd": "/home/u", "ntasks": 4, "ncores": 4, "duration": 60.0,
            "nnodes": 2})
    );
    bench.tell(1, &[event(3.0, "depend", Value::Null)]);
    assert_eq!(bench.all(1)["state"], json!(4));
    bench.tell(1, &[event(4.0, "priority", json!({"priority": 16}))]);
    assert_eq!(bench.all(1)["priority"], json!(16));
    let body = json!({"id": 1, "events": [event(5.0, "alloc", json!({"annotations":
        {"sched": {"resource_summary": "rank[0-1]/core[0-3]"}}}))], "R": r("0-1", "node[0-1]")});
    bench.rig.reply(&bench.journal.clone(), body);
    bench.tell(1, &[event(6.0, "memo", json!({"uri": "ssh://x"}))]);
    bench.tell(1, &[event(6.5, "resource-update", json!({"expiration": 90.5}))]);
    bench.tell(1, &[event(7.0, "start", Value::Null)]);
    let job = bench.all(1);
    assert_eq!((&job["nnodes"], &job["ncores"], &job["ntasks"]), (&json!(2), &json!(8), &json!(4)));
    assert_eq!((&job["ranks"], &job["nodelist"]), (&json!("0-1"), &json!("node[0-1]")));
    assert_eq!(job["expiration"], json!(90.5));
    assert_eq!(job["annotations"]["user"], json!({"uri": "ssh://x"}));
    assert!(job.get("result").is_none() && job.get("exception_occurred").is_none());
    bench.tell(1, &[event(8.0, "finish", json!({"status": 0}))]);
    bench.tell(1, &[event(9.0, "clean", Value::Null)]);
    assert_eq!(
        bench.all(1),
        json!({"id": 1, "userid": 7, "urgency": 16, "priority": 16, "t_submit": 1.0,
            "t_depend": 2.0, "t_priority": 3.0, "t_sched": 4.0, "t_run": 5.0, "t_cleanup": 8.0,
            "t_inactive": 9.0, "state": 64, "name": "app", "cwd": "/home/u", "ntasks": 4,
            "ncores": 8, "duration": 60.0, "nnodes": 2, "ranks": "0-1", "nodelist": "node[0-1]",
            "success": true, "exception_occurred": false, "result": 1, "expiration": 90.5,
            "annotations": {"sched": {"resource_summary": "rank[0-1]/core[0-3]"},
                "user": {"uri": "ssh://x"}},
            "waitstatus": 0})
    );
    bench.rig.finish();
}

#[test]
fn results_follow_status_and_the_worst_exception() {
    let mut bench = Bench::synced();
    let spec = jobspec("app", 1, 1);
    let cancel = json!({"type": "cancel", "severity": 0, "note": "no \"more\"", "userid": 7});
    let timeout = json!({"type": "timeout", "severity": 0, "note": ""});
    let mild = json!({"type": "epilog", "severity": 2, "note": "meh"});
    let cases = [
        (1, "finish", 0, None, 1),
        (2, "finish", 256, None, 2),
        (3, "priority", 0, Some(&cancel), 4),
        (4, "start", 0, Some(&timeout), 8),
        (5, "finish", 0, Some(&mild), 1),
        (6, "finish", 256, Some(&cancel), 4),
    ];
    for (id, last, status, exception, result) in cases {
        let mut events = history(10.0, 7, 16, status, last);
        events.extend(exception.map(|context| event(20.0, "exception", context.clone())));
        events.push(event(21.0, "clean", Value::Null));
        bench.job(id, &events, &spec, None);
        let job = bench.all(id);
        assert_eq!(job["result"], json!(result), "job {id}");
        assert_eq!(job["success"], json!(result == 1));
        assert_eq!(job["exception_occurred"], json!(exception.is_some()));
        if let Some(exception) = exception {
            assert_eq!(job["exception_type"], exception["type"]);
            assert_eq!(job["exception_severity"], exception["severity"]);
            assert_eq!(job["exception_note"], exception["note"]);
        }
    }
    assert_eq!(bench.all(3).get("waitstatus"), None);
    bench.rig.finish();
}

#[test]
fn updates_dependencies_urgency_and_restart_are_followed() {
    let mut bench = Bench::synced();
    let submit = history(1.0, 7, 16, 0, "submit");
    bench.job(1, &submit, &jobspec("app", 1, 1), None);
    bench.tell(
        1,
        &[
            event(1.1, "dependency-add", json!({"description": "after=2"})),
            event(1.2, "dependency-add", json!({"description": "after=3"})),
            event(1.3, "validate", Value::Null),
            event(1.4, "dependency-remove", json!({"description": "after=2"})),
        ],
    );
    assert_eq!(bench.all(1)["dependencies"], json!(["after=3"]));
    bench.tell(
        1,
        &[
            event(1.5, "dependency-remove", json!({"description": "after=3"})),
            event(2.0, "depend", Value::Null),
            event(3.0, "priority", json!({"priority": 16})),
        ],
    );
    assert_eq!(bench.all(1).get("dependencies"), None);
    let update = json!({"attributes.system.duration": 5.0, "attributes.system.queue": "debug",
        "attributes.system.job.name": "other"});
    bench.tell(1, &[event(4.0, "jobspec-update", update)]);
    let job = bench.all(1);
    assert_eq!((&job["state"], &job["duration"]), (&json!(4), &json!(5.0)));
    assert_eq!((&job["queue"], &job["name"]), (&json!("debug"), &json!("other")));
    bench.tell(1, &[event(5.0, "priority", json!({"priority": 16}))]);
    bench.tell(1, &[event(6.0, "urgency", json!({"urgency": 0, "userid": 7}))]);
    assert_eq!((&bench.all(1)["state"], &bench.all(1)["urgency"]), (&json!(4), &json!(0)));
    bench.tell(1, &[event(7.0, "priority", json!({"priority": 0}))]);
    bench.tell(1, &[event(8.0, "flux-restart", Value::Null)]);
    let job = bench.all(1);
    assert_eq!((&job["state"], &job["t_priority"]), (&json!(4), &json!(2.0)));
    bench.tell(1, &[event(9.0, "annotations", json!({"annotations": {"sched": {"t": 1}}}))]);
    assert_eq!(bench.all(1)["annotations"], json!({"sched": {"t": 1}}));
    bench.tell(1, &[event(9.5, "annotations", json!({"annotations": null}))]);
    assert_eq!(bench.all(1).get("annotations"), None);
    bench.rig.finish();
}

#[test]
fn only_wanted_attributes_are_given_in_the_order_asked() {
    let mut bench = Bench::synced();
    bench.job(5, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    let jobs = bench.list(json!({"max_entries": 1, "attrs": ["state", "id", "userid", "state"]}));
    assert_eq!(jobs[0].to_string(), r#"{"id":5,"state":64,"userid":7}"#);
    let error = bench.list_error(json!({"max_entries": 1, "attrs": ["nope"]}));
    assert_eq!(
        (error.errno, error.message().as_str()),
        (Errno::EINVAL, "nope is not a valid attribute")
    );
    let tag = bench.rig.request("job-list.list-attrs", json!({}));
    let attrs = bench.rig.response(tag).unwrap();
    let attrs = attrs["attrs"].as_array().unwrap();
    assert_eq!((attrs.len(), &attrs[0], &attrs[32]), (33, &json!("userid"), &json!("all")));
    bench.rig.finish();
}

#[test]
fn a_jobspec_that_is_not_valid_gives_what_can_be_read() {
    let mut bench = Bench::synced();
    let spec = json!({"attributes": {"system": {"job": {"name": "x"}}}, "resources": 1});
    bench.job(1, &history(1.0, 7, 16, 0, "priority"), &spec, None);
    let job = bench.all(1);
    assert_eq!(job["name"], json!("x"));
    assert_eq!(job.get("ntasks"), None);
    bench.rig.finish();
}
