//! The events journal.

use flux_proto::Errno;
use serde_json::{Value, json};

use super::bench::{Bench, jobspec, r};

fn names(item: &Value) -> Vec<&str> {
    item["events"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect()
}

fn denied(bench: &mut Bench, id: u64) {
    bench.submit(id);
    let alloc = bench.expect_alloc(id);
    bench.answer(&alloc, json!({"id": id, "type": 2}));
    bench.published();
}

#[test]
fn a_listener_gets_the_past_then_the_sentinel_then_each_event() {
    let mut bench = Bench::online();
    denied(&mut bench, 1);
    bench.submit(2);
    bench.run(2);
    let journal = bench.rig.stream("job-manager.events-journal", json!({"full": true}));
    bench.settle();
    let past = bench.rig.response(journal).unwrap();
    assert_eq!((&past["id"], past.get("R")), (&json!(1), None));
    assert_eq!(names(&past), ["submit", "validate", "depend", "priority", "exception", "clean"]);
    assert_eq!(past["jobspec"], jobspec(json!({})));
    let active = bench.rig.response(journal).unwrap();
    assert_eq!((&active["id"], &active["R"]), (&json!(2), &r()));
    assert_eq!(
        names(&active),
        ["submit", "validate", "depend", "priority", "alloc", "start", "annotations"]
    );
    assert_eq!(bench.rig.response(journal), Ok(json!({"id": -1, "events": []})));
    bench.submit(3);
    // What happens at once is told at once.
    let item = bench.rig.response(journal).unwrap();
    assert_eq!(names(&item), ["submit", "validate", "depend", "priority"]);
    assert_eq!(item["jobspec"], jobspec(json!({})));
    let alloc = bench.expect_alloc(3);
    bench.grant(&alloc, 3);
    assert_eq!(bench.rig.response(journal).unwrap()["R"], r());
    bench.expect("job-exec.start");
    bench.rig.request("job-manager.events-journal-cancel", json!({"matchtag": journal}));
    assert_eq!(bench.rig.response(journal).unwrap_err().errno, Errno::ENODATA);
    bench.finish();
}

#[test]
fn filters_pick_events() {
    let mut bench = Bench::online();
    bench.submit(1);
    bench.expect_alloc(1);
    let allow = bench.rig.stream("job-manager.events-journal", json!({"allow": {"depend": 1}}));
    let deny = bench
        .rig
        .stream("job-manager.events-journal", json!({"deny": {"submit": 1, "priority": 1}}));
    assert_eq!(names(&bench.rig.response(allow).unwrap()), ["depend"]);
    assert_eq!(names(&bench.rig.response(deny).unwrap()), ["validate", "depend"]);
    for tag in [allow, deny] {
        assert_eq!(bench.rig.response(tag), Ok(json!({"id": -1, "events": []})));
    }
    bench.submit(2);
    assert_eq!(names(&bench.rig.response(allow).unwrap()), ["depend"]);
    assert_eq!(names(&bench.rig.response(deny).unwrap()), ["validate", "depend"]);
    bench.expect_alloc(2);
    let bad = bench.rig.stream("job-manager.events-journal", json!({"allow": 1}));
    assert_eq!(
        bench.rig.response(bad).unwrap_err().message(),
        "job-manager.events allow should be an object"
    );
    // The client goes, and with it its streams.
    bench.rig.disconnect(bench.rig.owner(), "job-manager");
    bench.settle();
    for tag in [allow, deny] {
        drop(bench.rig.try_response(tag));
    }
    bench.finish();
}

#[test]
fn a_job_that_ends_while_the_past_is_read_is_not_missed() {
    let mut bench = Bench::online();
    denied(&mut bench, 1);
    bench.submit(2);
    let alloc = bench.expect_alloc(2);
    let journal = bench.rig.stream("job-manager.events-journal", json!({"full": true}));
    // The reads are under way; now job 2 ends, and its end is stored before they are answered.
    let reads: Vec<_> = bench.rig.requests.drain(..).collect();
    assert_eq!(reads.len(), 3);
    bench.answer(&alloc, json!({"id": 2, "type": 2}));
    bench.published();
    bench.rig.requests.extend(reads);
    bench.settle();
    let mut seen = Vec::new();
    while let Some(Ok(item)) = bench.rig.try_response(journal) {
        seen.push(item["id"].as_i64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [-1, 1, 2]);
    bench.rig.drain();
    bench.rig.response(journal).unwrap_err();
    bench.finish();
}
