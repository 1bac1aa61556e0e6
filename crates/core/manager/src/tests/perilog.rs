//! Prolog and epilog: when they run, what their failure does.

use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use super::bench::{Bench, Store, jobspec};

fn with(config: &Value) -> Bench {
    let mut bench = Bench::with(config, Store::new());
    bench.sched_online("unlimited", None);
    bench.exec_online();
    bench
}

fn both() -> Bench {
    with(&json!({"prolog": {"command": ["pro"]}, "epilog": {"command": ["epi"]}}))
}

/// The process that a procedure starts; checks its command.
fn process(bench: &mut Bench, command: &str) -> Message {
    let (message, body) = bench.expect("rexec.exec");
    let cmdline = body["cmd"]["cmdline"].as_array().unwrap();
    assert_eq!(cmdline[0], "env");
    assert_eq!(cmdline[1], "FLUX_JOB_ID=ƒK");
    assert_eq!(cmdline[2], "FLUX_JOB_USERID=1000");
    assert_eq!(cmdline[3], "FLUX_JOB_RANKS=0");
    assert_eq!(cmdline[4], command);
    bench.rig.reply(&message, json!({"type": "started", "pid": 77}));
    bench.settle();
    message
}

fn exits(bench: &mut Bench, process: &Message, status: i32) {
    bench.rig.reply(process, json!({"type": "finished", "status": status}));
    bench.rig.fail(process, Errno::ENODATA);
    bench.settle();
}

fn alloc(bench: &mut Bench) {
    bench.submit_spec(18, jobspec(json!({})));
    let alloc = bench.expect_alloc(18);
    bench.grant(&alloc, 18);
}

#[test]
fn a_job_starts_after_its_prolog_and_is_free_after_its_epilog() {
    let mut bench = both();
    alloc(&mut bench);
    let prolog = process(&mut bench, "pro");
    bench.quiet();
    let line =
        json!({"type": "output", "io": {"stream": "stdout", "rank": "0", "data": "hi\nyou"}});
    bench.rig.reply(&prolog, line);
    exits(&mut bench, &prolog, 0);
    assert_eq!(
        bench.event(18, "prolog-finish"),
        json!({"description": "job-manager.prolog", "status": 0})
    );
    let (start, _) = bench.expect("job-exec.start");
    bench.say(&start, 18, "start", json!({}));
    bench.say(&start, 18, "finish", json!({"status": 0}));
    bench.say(&start, 18, "release", json!({"ranks": "all", "final": true}));
    let epilog = process(&mut bench, "epi");
    bench.quiet();
    exits(&mut bench, &epilog, 0);
    bench.expect("sched.free");
    assert_eq!(
        bench.log(18),
        "submit validate depend priority alloc prolog-start prolog-finish start finish epilog-start \
         release epilog-finish free clean"
    );
    bench.published();
    bench.finish();
}

#[test]
fn a_prolog_that_fails_drains_its_nodes_and_ends_the_job() {
    let mut bench = both();
    alloc(&mut bench);
    let prolog = process(&mut bench, "pro");
    exits(&mut bench, &prolog, 256 * 3);
    let (drain, body) = bench.expect("resource.drain");
    assert_eq!(body["targets"], "0");
    assert_eq!(body["reason"], "prolog failed for job ƒK");
    bench.rig.reply(&drain, Value::Null);
    bench.settle();
    let note = "prolog exited with code=3 on host0 (rank 0)";
    assert_eq!(bench.event(18, "exception")["note"], note);
    // The epilog undoes what a prolog did, though no task ran.
    let epilog = process(&mut bench, "epi");
    exits(&mut bench, &epilog, 0);
    bench.expect("sched.free");
    assert_eq!(
        bench.log(18),
        "submit validate depend priority alloc prolog-start exception prolog-finish epilog-start \
         epilog-finish free clean"
    );
    bench.published();
    bench.finish();
}

#[test]
fn an_epilog_that_fails_is_told_and_ends_nothing() {
    let mut bench = with(&json!({"epilog": {"command": ["epi"], "per-rank": false}}));
    alloc(&mut bench);
    let (start, _) = bench.expect("job-exec.start");
    bench.say(&start, 18, "start", json!({}));
    bench.say(&start, 18, "finish", json!({"status": 0}));
    let epilog = process(&mut bench, "epi");
    bench.say(&start, 18, "release", json!({"ranks": "all", "final": true}));
    exits(&mut bench, &epilog, 9);
    assert_eq!(bench.event(18, "exception")["severity"], 2);
    assert_eq!(bench.event(18, "exception")["note"], "epilog killed by signal 9 on host0 (rank 0)");
    bench.expect("sched.free");
    bench.published();
    bench.finish();
}

#[test]
fn a_cancel_stops_the_prolog_and_what_does_not_stop_is_drained() {
    let mut bench = both();
    alloc(&mut bench);
    process(&mut bench, "pro");
    let raise = json!({"id": 18, "severity": 0, "type": "cancel"});
    bench.call("job-manager.raise", raise).unwrap();
    let (_, kill) = bench.expect("rexec.kill");
    assert_eq!((&kill["pid"], &kill["signum"]), (&json!(77), &json!(15)));
    bench.rig.advance(60_000_000);
    let (drain, body) = bench.expect("resource.drain");
    assert_eq!(body["reason"], "prolog canceled then timed out for job ƒK");
    bench.rig.reply(&drain, Value::Null);
    bench.settle();
    let epilog = process(&mut bench, "epi");
    exits(&mut bench, &epilog, 0);
    bench.expect("sched.free");
    bench.published();
    bench.finish();
}

#[test]
fn a_prolog_that_takes_too_long_is_stopped() {
    let mut bench = with(&json!({"prolog": {"command": ["pro"], "timeout": "10s"}}));
    alloc(&mut bench);
    let prolog = process(&mut bench, "pro");
    bench.rig.advance(10_000_000);
    bench.expect("rexec.kill");
    exits(&mut bench, &prolog, 15);
    let (drain, body) = bench.expect("resource.drain");
    assert_eq!(body["reason"], "prolog timed out for job ƒK");
    bench.rig.reply(&drain, Value::Null);
    bench.settle();
    bench.expect("sched.free");
    assert_eq!(bench.event(18, "exception")["type"], "prolog");
    bench.published();
    bench.finish();
}

#[test]
fn a_restart_in_a_prolog_runs_it_again() {
    let config = json!({"prolog": {"command": ["pro"]}});
    let mut bench = with(&config);
    alloc(&mut bench);
    process(&mut bench, "pro");
    let store = bench.crash();
    let mut bench = Bench::with(&config, store);
    bench.sched_online("unlimited", None);
    bench.exec_online();
    let prolog = process(&mut bench, "pro");
    exits(&mut bench, &prolog, 0);
    bench.expect("job-exec.start");
    assert!(bench.log(18).ends_with("prolog-start prolog-finish"));
    bench.crash();
}

#[test]
fn the_plugin_must_be_asked_for_and_what_is_not_there_is_refused() {
    let silent = json!({"job-manager": {"prolog": {"command": ["pro"]}}});
    let mut bench = with(&silent);
    alloc(&mut bench);
    bench.expect("job-exec.start");
    bench.crash();
    let asked = json!({"job-manager": {
        "plugins": [{"load": "perilog.so"}], "prolog": {"command": ["pro"]},
    }});
    let mut bench = with(&asked);
    alloc(&mut bench);
    process(&mut bench, "pro");
    let answer = bench.call("job-manager.jobtap-query", json!({"name": "perilog.so"})).unwrap();
    assert_eq!(answer["procs"]["ƒK"]["state"], "running");
    assert_eq!(answer["conf"]["prolog"]["per_rank"], false);
    bench.crash();
    let missing = json!({"job-manager": {"plugins": [{"load": "mine.so"}]}});
    let error = crate::config::Settings::parse(missing.as_object().unwrap()).unwrap_err();
    assert!(error.message().contains("mine.so is not there"), "{error}");
}
