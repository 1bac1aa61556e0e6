//! Housekeeping: the job is over, its resources are not yet free.

use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use super::bench::{Bench, Store};

fn with(settings: Value) -> Bench {
    let mut all = json!({"command": ["tidy"]});
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let mut bench = Bench::with(&json!({"job-manager": {"housekeeping": all}}), Store::new());
    bench.sched_online("unlimited", None);
    bench.exec_online();
    bench
}

/// A job on two nodes that has ended; the processes of its housekeeping.
fn ended(bench: &mut Bench) -> [Message; 2] {
    bench.submit(18);
    let alloc = bench.expect_alloc(18);
    let r = json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0-1"}}],
        "nodelist": ["host[0-1]"], "starttime": 0, "expiration": 0,
    }});
    bench.answer(&alloc, json!({"id": 18, "type": 0, "R": r}));
    let (start, _) = bench.expect("job-exec.start");
    bench.say(&start, 18, "start", json!({}));
    bench.say(&start, 18, "finish", json!({"status": 0}));
    bench.say(&start, 18, "release", json!({"ranks": "all", "final": true}));
    assert!(bench.log(18).ends_with("finish release free clean"));
    let [first, second] = [bench.expect("rexec.exec"), bench.expect("rexec.exec")];
    assert_eq!((first.0.nodeid(), second.0.nodeid()), (0, 1));
    bench.quiet();
    [first.0, second.0]
}

fn exits(bench: &mut Bench, process: &Message, status: i32) {
    bench.rig.reply(process, json!({"type": "finished", "status": status}));
    bench.rig.fail(process, Errno::ENODATA);
    bench.settle();
}

#[test]
fn resources_are_free_when_housekeeping_has_ended() {
    let mut bench = with(json!({}));
    let [first, second] = ended(&mut bench);
    let stats = bench.call("job-manager.stats-get", json!({}));
    if let Ok(stats) = stats {
        assert_eq!(stats["housekeeping"]["running"]["ƒK"]["pending"], "0-1");
    }
    exits(&mut bench, &first, 0);
    bench.quiet();
    exits(&mut bench, &second, 0);
    let (_, free) = bench.expect("sched.free");
    assert_eq!(free["final"], true);
    assert_eq!(free["R"]["execution"]["R_lite"][0]["rank"], "0-1");
    bench.finish();
}

#[test]
fn ranks_are_given_back_one_by_one_and_a_new_scheduler_knows() {
    let mut bench = with(json!({"release-after": "0"}));
    let [first, second] = ended(&mut bench);
    exits(&mut bench, &first, 0);
    bench.rig.advance(1);
    let (_, free) = bench.expect("sched.free");
    assert_eq!(free["final"], false);
    assert_eq!(free["R"]["execution"]["R_lite"][0]["rank"], "0");
    let jobs = bench.sched_online("unlimited", None);
    assert_eq!((&jobs[0]["id"], &jobs[0]["free"]), (&json!(18), &json!("0")));
    exits(&mut bench, &second, 256);
    let told = "(rank 1) ƒK: exited with code=1";
    assert!(bench.rig.logs.iter().any(|(_, text)| text.ends_with(told)), "{:?}", bench.rig.logs);
    let (_, free) = bench.expect("sched.free");
    assert_eq!(free["final"], true);
    assert_eq!(free["R"]["execution"]["R_lite"][0]["rank"], "1");
    bench.finish();
}

#[test]
fn housekeeping_can_be_killed() {
    let mut bench = with(json!({}));
    let [first, second] = ended(&mut bench);
    bench.rig.reply(&first, json!({"type": "started", "pid": 5}));
    bench.settle();
    let answer = bench.call("job-manager.housekeeping-kill", json!({"signum": 9, "jobid": 19}));
    assert_eq!(answer, Err("ƒL is not in housekeeping".to_string()));
    bench.call("job-manager.housekeeping-kill", json!({"signum": 9, "ranks": "0"})).unwrap();
    let (_, kill) = bench.expect("rexec.kill");
    assert_eq!((&kill["pid"], &kill["signum"]), (&json!(5), &json!(9)));
    exits(&mut bench, &second, 0);
    // The node is away: it is asked again, unless somebody does not want to wait.
    bench.rig.fail(&first, Errno::EHOSTUNREACH);
    bench.settle();
    bench.quiet();
    bench.rig.advance(1_000_000);
    bench.settle();
    let (again, _) = bench.expect("rexec.exec");
    assert_eq!(again.nodeid(), 0);
    bench.rig.fail(&again, Errno::EHOSTUNREACH);
    bench.settle();
    bench.call("job-manager.housekeeping-kill", json!({"signum": 9})).unwrap();
    bench.expect("sched.free");
    bench.finish();
}

#[test]
fn what_a_leader_leaves_in_housekeeping_is_taken_up_again() {
    let mut bench = with(json!({"release-after": "0"}));
    let [first, _] = ended(&mut bench);
    exits(&mut bench, &first, 0);
    bench.rig.advance(1);
    bench.settle();
    bench.expect("sched.free");
    let store = bench.crash();
    let config = json!({"job-manager": {"housekeeping": {"command": ["tidy"]}}});
    let mut bench = Bench::with(&config, store.clone());
    let (process, _) = bench.expect("rexec.exec");
    assert_eq!(process.nodeid(), 1);
    bench.quiet();
    let jobs = bench.sched_online("unlimited", None);
    assert_eq!((&jobs[0]["id"], &jobs[0]["free"]), (&json!(18), &json!("0")));
    // The followers are not yet back.
    bench.rig.fail(&process, Errno::EHOSTUNREACH);
    bench.settle();
    bench.rig.advance(1_000_000);
    bench.settle();
    let (process, _) = bench.expect("rexec.exec");
    exits(&mut bench, &process, 0);
    let (_, free) = bench.expect("sched.free");
    assert_eq!(
        (&free["final"], &free["R"]["execution"]["R_lite"][0]["rank"]),
        (&json!(true), &json!("1"))
    );
    bench.rig.advance(10_000);
    bench.settle();
    assert!(!bench.store.keys().any(|key| key.starts_with("checkpoint.housekeeping")));
    bench.finish();
    // Nobody wants it any more.
    let mut bench = Bench::with(&json!({}), store);
    assert_eq!(bench.sched_online("unlimited", None), Vec::<Value>::new());
    bench.quiet();
    bench.finish();
}
