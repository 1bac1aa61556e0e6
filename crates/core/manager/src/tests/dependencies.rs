//! Dependencies of every scheme.

use serde_json::{Value, json};

use super::bench::{Bench, jobspec};

fn depends(scheme: &str, value: &str) -> Value {
    jobspec(json!({"dependencies": [{"scheme": scheme, "value": value}]}))
}

fn named(name: &str, singleton: bool) -> Value {
    let mut system = json!({"job": {"name": name}});
    if singleton {
        system["dependencies"] = json!([{"scheme": "singleton", "value": ""}]);
    }
    jobspec(system)
}

const WAITS: &str = "submit dependency-add validate";

#[test]
fn afterok_waits_for_success() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.submit_spec(2, depends("afterok", "1"));
    let start = bench.run(1);
    assert_eq!(bench.log(2), WAITS);
    assert_eq!(bench.event(2, "dependency-add"), json!({"description": "after-success=1"}));
    let list = bench.call("job-manager.list", json!({"max_entries": 0})).unwrap();
    assert_eq!(list["jobs"][1]["dependencies"], json!(["after-success=1"]));
    bench.end(&start, 1, 0);
    assert_eq!(bench.log(2), "submit dependency-add validate dependency-remove depend priority");
    bench.expect_alloc(2);
    bench.finish();
}

#[test]
fn a_dependency_that_cannot_be_met_ends_the_job() {
    for (scheme, status, note) in [
        ("afterok", 256, "dependency after-success=1 can never be satisfied"),
        ("afternotok", 0, "dependency after-failure=1 can never be satisfied"),
        ("afterexcept", 0, "dependency after-except=1 can never be satisfied"),
    ] {
        let mut bench = Bench::online();
        bench.submit(1);
        bench.submit_spec(2, depends(scheme, "1"));
        let start = bench.run(1);
        bench.end(&start, 1, status);
        assert_eq!(bench.log(2), "submit dependency-add validate exception clean");
        assert_eq!(
            bench.event(2, "exception"),
            json!({"type": "dependency", "severity": 0, "note": note})
        );
        bench.published();
        bench.finish();
    }
}

#[test]
fn a_job_that_never_ran_meets_afterany_only() {
    let mut bench = Bench::online();
    bench.submit(1);
    for (id, scheme) in [(2, "afterstart"), (3, "afterany"), (4, "afternotok"), (5, "afterok")] {
        bench.submit_spec(id, depends(scheme, "1"));
    }
    let alloc = bench.expect_alloc(1);
    bench.answer(&alloc, json!({"id": 1, "type": 2, "note": "no"}));
    for (id, note) in [
        (2, "dependency after-start=1 job never started"),
        (4, "dependency after-failure=1 job never started"),
        (5, "dependency after-success=1 job never started"),
    ] {
        assert_eq!(bench.event(id, "exception")["note"], note);
    }
    bench.expect_alloc(3);
    bench.published();
    bench.finish();
}

#[test]
fn afterstart_goes_when_the_other_starts_and_after_is_deprecated() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.submit_spec(2, depends("afterstart", "ƒ2"));
    bench.submit_spec(3, depends("after", "0x1"));
    assert_eq!(bench.event(3, "exception")["severity"], 3);
    bench.run(1);
    bench.expect_alloc(2);
    bench.expect_alloc(3);
    // It is running: nothing to wait for.
    bench.submit_spec(4, depends("afterstart", "1"));
    bench.expect_alloc(4);
    assert_eq!(bench.log(4), "submit validate depend priority");
    bench.published();
    bench.finish();
}

#[test]
fn finished_jobs_decide_at_submission() {
    let mut bench = Bench::online();
    bench.submit(1);
    let start = bench.run(1);
    bench.end(&start, 1, 0);
    bench.submit_spec(2, depends("afterok", "1"));
    bench.expect_alloc(2);
    for (scheme, value, text) in [
        ("afternotok", "1", "dependency: afternotok: job 1 succeeded"),
        ("afterexcept", "1", "dependency: afterexcept: job 1: no exception"),
        ("afterok", "77", "dependency: afterok: id 77: job not found"),
        ("afterok", "x y", "dependency: afterok: \"x y\" is not a valid jobid"),
        ("string", "x", "dependency scheme \"string\" not supported"),
        ("begin-time", "soon", "Invalid begin-time=soon"),
        ("singleton", "", "singleton jobs require a job name"),
    ] {
        assert_eq!(bench.try_submit(9, depends(scheme, value)).as_deref(), Some(text));
    }
    bench.finish();
}

#[test]
fn guests_depend_on_their_own_jobs_only() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    let tag = bench.announce(2, 2000, 0, depends("afterany", "1"));
    let answer = bench.rig.response(tag).unwrap();
    assert_eq!(answer["errors"][0][1], "afterany: Permission denied for job 1");
    bench.finish();
}

#[test]
fn singletons_run_one_after_the_other() {
    let mut bench = Bench::online();
    bench.submit_spec(1, named("a", false));
    bench.submit_spec(2, named("a", true));
    bench.submit_spec(3, named("a", true));
    bench.submit_spec(4, named("b", true));
    let first = bench.expect_alloc(1);
    bench.expect_alloc(4);
    bench.quiet();
    bench.answer(&first, json!({"id": 1, "type": 2}));
    let second = bench.expect_alloc(2);
    bench.quiet();
    bench.answer(&second, json!({"id": 2, "type": 2}));
    bench.expect_alloc(3);
    bench.published();
    bench.finish();
}

#[test]
fn a_job_with_another_name_is_waited_for_no_longer() {
    let mut bench = Bench::online();
    let rename =
        |id: u64, name: Value| json!({"id": id, "updates": {"attributes.system.job.name": name}});
    bench.submit_spec(1, named("a", false));
    bench.run(1);
    bench.submit_spec(2, named("a", true));
    bench.submit_spec(3, named("b", true));
    bench.expect_alloc(3);
    bench.quiet();
    for (id, name, why) in [
        (1, json!(5), "job name must be a string that is not empty"),
        (1, json!(""), "job name must be a string that is not empty"),
        (2, json!("c"), "job waits for others of its name: it cannot be changed"),
    ] {
        assert_eq!(bench.call("job-manager.update", rename(id, name)), Err(why.to_string()));
    }
    assert_eq!(bench.call("job-manager.update", rename(1, json!("b"))), Ok(Value::Null));
    bench.expect_alloc(2);
    assert_eq!(bench.event(1, "jobspec-update"), json!({"attributes.system.job.name": "b"}));
    // Now those of the other name wait for it.
    bench.submit_spec(4, named("b", true));
    bench.quiet();
    bench.finish();
}

#[test]
fn begin_time_is_waited_for() {
    let mut bench = Bench::online();
    bench.submit_spec(1, depends("begin-time", "1700000130.5"));
    assert_eq!(
        bench.event(1, "dependency-add"),
        json!({"description": "begin-time=1700000130.500"})
    );
    bench.rig.advance(100_000_000);
    bench.quiet();
    bench.rig.advance(31_000_000);
    bench.expect_alloc(1);
    bench.finish();
}

#[test]
fn a_job_canceled_while_it_waits_is_forgotten() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.submit_spec(2, depends("afterok", "1"));
    bench.call("job-manager.raise", json!({"id": 2, "severity": 0, "type": "cancel"})).unwrap();
    assert_eq!(bench.log(2), "submit dependency-add validate exception clean");
    let start = bench.run(1);
    bench.end(&start, 1, 0);
    assert_eq!(bench.log(2), "submit dependency-add validate exception clean");
    bench.published();
    bench.finish();
}
