//! Which jobs are listed, in which order, and what is refused.

use super::*;

/// Jobs 1 to 6: depend, sched (priorities 5 and 9), run, inactive completed, inactive failed.
fn bench(config: Value) -> Bench {
    let mut bench = Bench::new(config);
    let mut spec = jobspec("app", 1, 1);
    bench.job(1, &history(10.0, 7, 0, 0, "validate"), &spec, None);
    spec["attributes"]["system"]["queue"] = json!("batch");
    bench.job(2, &history(20.0, 8, 5, 0, "priority"), &spec, None);
    spec["attributes"]["system"]["queue"] = json!("debug");
    bench.job(3, &history(30.0, 7, 9, 0, "priority"), &spec, None);
    let spec = jobspec("run", 2, 2);
    bench.job(4, &history(40.0, 7, 16, 0, "start"), &spec, Some(&r("0-1", "n[0-1]")));
    bench.job(5, &history(50.0, 9, 16, 0, "clean"), &spec, Some(&r("1", "n1")));
    bench.job(6, &history(60.0, 7, 16, 256, "clean"), &spec, Some(&r("3", "n3")));
    bench.sentinel();
    bench
}

#[test]
fn pending_by_priority_then_running_then_finished_newest_first() {
    let mut bench = bench(json!({}));
    bench.job(7, &history(41.0, 7, 1, 0, "start"), &jobspec("a", 1, 1), None);
    assert_eq!(bench.ids(json!({})), [3, 2, 1, 7, 4, 6, 5]);
    let body = json!({"max_entries": 4, "attrs": ["state"]});
    assert_eq!(ids_of(&bench.list(body)), [3, 2, 1, 7]);
    let body = json!({"max_entries": 0, "attrs": [], "since": 59.5});
    assert_eq!(ids_of(&bench.list(body)), [3, 2, 1, 7, 4, 6]);
    bench.rig.finish();
}

#[test]
fn every_operator_picks_its_jobs() {
    let mut bench = bench(json!({"queues": {"batch": {}, "debug": {"parent": "batch"}}}));
    let none: &[u64] = &[];
    let cases: [(Value, &[u64]); 34] = [
        (json!({}), &[3, 2, 1, 4, 6, 5]),
        (json!({"userid": [8, 9]}), &[2, 5]),
        (json!({"userid": [-1]}), &[3, 2, 1, 4, 6, 5]),
        (json!({"userid": []}), none),
        (json!({"name": ["run"]}), &[4, 6, 5]),
        (json!({"queue": ["debug"]}), &[3]),
        (json!({"queue": ["batch"]}), &[3, 2]),
        (json!({"states": ["sched"]}), &[3, 2]),
        (json!({"states": [8]}), &[3, 2]),
        (json!({"states": ["pending", "INACTIVE"]}), &[3, 2, 1, 6, 5]),
        (json!({"states": [0]}), none),
        (json!({"results": ["failed"]}), &[6]),
        (json!({"results": [3]}), &[6, 5]),
        (json!({"hostlist": ["n[1-2]"]}), &[4, 5]),
        (json!({"hostlist": ["n0", "n3"]}), &[4, 6]),
        (json!({"ranks": ["0"]}), &[4]),
        (json!({"ranks": ["1-9"]}), &[4, 6, 5]),
        (json!({"t_submit": [">=30"]}), &[3, 4, 6, 5]),
        (json!({"t_submit": [">30"]}), &[4, 6, 5]),
        (json!({"t_depend": ["<=21.0"]}), &[2, 1]),
        (json!({"t_priority": ["<32.0"]}), &[2]),
        (json!({"t_sched": ["> 33.0"]}), &[4, 6, 5]),
        (json!({"t_run": ["<50"]}), &[4]),
        (json!({"t_cleanup": [">0"]}), &[6, 5]),
        (json!({"t_inactive": ["<60"]}), &[5]),
        (json!({"and": [{"userid": [7]}, {"states": ["active"]}]}), &[3, 1, 4]),
        (json!({"or": [{"userid": [8]}, {"results": ["completed"]}]}), &[2, 5]),
        (json!({"not": [{"userid": [7]}]}), &[2, 5]),
        (json!({"not": [{"states": ["inactive"]}]}), &[3, 2, 1, 4]),
        (json!({"not": [{"or": [{"states": ["pending"]}, {"userid": [9]}]}]}), &[4, 6]),
        (json!({"and": []}), &[3, 2, 1, 4, 6, 5]),
        (json!({"or": []}), &[3, 2, 1, 4, 6, 5]),
        (json!({"not": []}), none),
        (json!({"and": [{"not": [{"results": [1]}]}, {"states": [64]}]}), &[6]),
    ];
    for (constraint, expected) in cases {
        assert_eq!(bench.ids(constraint.clone()), expected, "{constraint}");
    }
    bench.rig.finish();
}

#[test]
fn keys_of_former_versions_are_understood() {
    let mut bench = bench(json!({}));
    let cases: [(Value, &[u64]); 6] = [
        (json!({"userid": 7, "states": 62, "results": 0}), &[3, 1, 4]),
        (json!({"userid": 0xffff_ffff_u32, "states": 0}), &[3, 2, 1, 4, 6, 5]),
        (json!({"results": 2}), &[6]),
        (json!({"name": "run"}), &[4, 6, 5]),
        (json!({"queue": "debug"}), &[3]),
        (json!({"name": "run", "constraint": {"userid": [8]}}), &[2]),
    ];
    for (mut body, expected) in cases {
        body["max_entries"] = json!(0);
        body["attrs"] = json!([]);
        assert_eq!(ids_of(&bench.list(body.clone())), expected, "{body}");
    }
    bench.rig.finish();
}

#[test]
fn what_is_wrong_with_a_constraint_is_said() {
    let mut bench = bench(json!({}));
    for (constraint, text) in [
        (json!({"x": []}), "unknown constraint operator: x"),
        (json!({"userid": ["a"]}), "userid value must be an integer"),
        (json!({"userid": 1}), "constraint operator userid requires an array of values"),
        (json!({"states": ["x"]}), "invalid states value \"x\" specified"),
        (json!({"states": [128]}), "invalid states value 128 specified"),
        (json!({"results": [{}]}), "results value must be a string or integer"),
        (json!({"hostlist": ["n[0-1024]"]}), "too many hosts specified"),
        (json!({"ranks": ["0-1000", "2000-3000"]}), "too many ranks specified"),
        (json!({"t_run": ["5"]}), "timestamp comparison operator not specified"),
        (json!({"t_run": [">x"]}), "invalid timestamp value specified"),
        (json!({"t_run": [">NaN"]}), "invalid timestamp value specified"),
        (json!({"t_run": []}), "t_run requires one timestamp"),
    ] {
        let error =
            bench.list_error(json!({"max_entries": 0, "attrs": [], "constraint": constraint}));
        assert_eq!(error.errno, Errno::EPROTO);
        let expected = format!("invalid payload: constraint object invalid: {text}");
        assert_eq!(error.message(), expected);
    }
    bench.rig.finish();
}

#[test]
fn a_request_may_not_check_too_often() {
    let mut bench = bench(json!({"job-list": {"max_comparisons": 3}}));
    assert_eq!(bench.ids(json!({"and": [{"states": [64]}]})), [6, 5]);
    let constraint = json!({"userid": [7]});
    let error = bench.list_error(json!({"max_entries": 0, "attrs": [], "constraint": constraint}));
    let text = "Excessive comparisons made, limit search via states or since";
    assert_eq!((error.errno, error.message().as_str()), (Errno::EINVAL, text));
    let tag =
        bench.rig.request("job-list.config-reload", json!({"job-list": {"max_comparisons": 0}}));
    bench.rig.response(tag).unwrap();
    assert_eq!(bench.ids(constraint), [3, 1, 4, 6]);
    let tag =
        bench.rig.request("job-list.config-reload", json!({"job-list": {"max_comparisons": -1}}));
    let error = bench.rig.response(tag).unwrap_err();
    assert_eq!(error.message(), "job-list.max_comparisons must be >= 0");
    bench.rig.finish();
}

#[test]
fn in_private_mode_guests_see_their_own_jobs_only() {
    let mut bench = bench(json!({"access": {"private-mode": true}}));
    let guest = bench.rig.guest(9);
    let body = json!({"max_entries": 0, "attrs": [], "constraint": {"userid": [7, 9]}});
    let tag = bench.rig.request_as(guest, "job-list.list", body, false);
    assert_eq!(ids_of(&bench.rig.response(tag).unwrap()["jobs"]), [5]);
    let tag = bench.rig.request_as(guest, "job-list.list-id", json!({"id": 6, "attrs": []}), false);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::ENOENT);
    let tag = bench.rig.request_as(guest, "job-list.list-id", json!({"id": 5, "attrs": []}), false);
    assert_eq!(bench.rig.response(tag).unwrap(), json!({"job": {"id": 5}}));
    let tag = bench.rig.request_as(guest, "job-list.stats-get", json!({}), false);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::EPERM);
    let mut numbers = |who, topic| {
        let tag = bench.rig.request_as(who, topic, json!({}), false);
        bench.rig.response(tag).unwrap()["job_states"]["total"].clone()
    };
    assert_eq!(numbers(guest, "job-list.job-stats"), 1);
    let stranger = Cred { userid: 77, ..guest };
    assert_eq!(numbers(stranger, "job-list.job-stats"), 0);
    let owner = Cred { rolemask: flux_proto::Rolemask::OWNER, ..guest };
    assert_eq!(numbers(owner, "job-list.job-stats"), 6);
    let stream = bench.rig.request_as(guest, "job-list.job-stats", json!({}), true);
    assert_eq!(bench.rig.response(stream).unwrap()["job_states"]["total"], 1);
    let tag = bench.rig.request("job-list.stats-get", json!({}));
    assert_eq!(
        bench.rig.response(tag).unwrap()["jobs"],
        json!({"pending": 3, "running": 1, "inactive": 2})
    );
    bench.rig.finish();
}

#[test]
fn a_stream_has_one_job_per_response() {
    let mut bench = bench(json!({}));
    let tag = bench.rig.stream("job-list.list", json!({"max_entries": 2, "attrs": ["userid"]}));
    let first = bench.rig.response(tag).unwrap();
    assert_eq!(first, json!({"version": 1, "jobs": [{"id": 3, "userid": 7}]}));
    assert_eq!(bench.rig.response(tag).unwrap(), json!({"jobs": [{"id": 2, "userid": 8}]}));
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    bench.rig.finish();
}
