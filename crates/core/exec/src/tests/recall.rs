//! Jobs that were started before a restart.

use super::*;

fn again(rig: &mut Rig<ExecService>, reattach: bool, resume: Value) -> u32 {
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": reattach,
        "R": r("0", "a"), "resume": resume});
    rig.request("job-exec.start", body)
}

fn log(names: &[(&str, Value)]) -> Value {
    let mut text = String::new();
    for (name, context) in names {
        let mut event = Event::new(1.0, *name);
        if let Value::Object(context) = context {
            event = event.with_context(context.clone());
        }
        text.push_str(&event.encode());
    }
    json!({"val": Treeobj::val(text.into_bytes()).to_value()})
}

fn names_of(commit: &Message) -> Vec<String> {
    let body = commit.json::<CommitView>().unwrap();
    let object = body.ops[0].dirent.clone().into_object();
    let Ok(Some(Treeobj::Val(text))) = object else { panic!() };
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.lines().map(|line| Event::decode(line).unwrap().name).collect()
}

fn reattached(rig: &mut Rig<ExecService>, reattach: bool, started: bool) -> (u32, Message) {
    let tag = again(rig, reattach, json!({"started": started, "since": 5.0}));
    let lookup = rig.expect("kvs.lookup");
    assert_eq!(lookup.json::<Value>().unwrap()["namespace"], json!(format!("job-{ID}")));
    rig.reply(&lookup, log(&[("init", Value::Null), ("starting", Value::Null)]));
    let events = rig.expect("kvs.commit");
    assert_eq!(names_of(&events), ["recoverable", "reattach"]);
    rig.reply(&events, json!({"rootref": "sha1-0", "rootseq": 1}));
    let link = rig.expect("kvs.commit");
    rig.reply(&link, json!({"rootref": "sha1-0", "rootseq": 1}));
    let topic = if started { "launch.attach" } else { "launch.start" };
    (tag, asked(rig, topic, 1).remove(0))
}

#[test]
fn a_running_job_is_found_again() {
    let mut rig = rig();
    let (tag, shell) = reattached(&mut rig, true, true);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("reattached"));
    rig.reply(&shell, json!({"type": "finished", "status": 256}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 256);
    rig.finish();
}

#[test]
fn a_job_whose_start_is_not_on_record_is_asked_for_again_and_started_once() {
    let mut rig = rig();
    let (tag, shell) = reattached(&mut rig, false, false);
    let body: Value = shell.json().unwrap();
    assert_eq!(body["since"], json!(1.0));
    assert!(body["age"].as_f64().unwrap() > 1e9, "{body}");
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    rig.reply(&shell, json!({"type": "finished", "status": 0}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 0);
    rig.finish();
}

#[test]
fn a_job_that_was_never_launched_starts_as_any() {
    let mut rig = rig();
    let tag = again(&mut rig, false, json!({"started": false, "since": 5.0}));
    for _ in 0..2 {
        let lookup = rig.expect("kvs.lookup");
        rig.fail(&lookup, Errno::ENOTSUP);
    }
    let shell = launched(&mut rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
}

#[test]
fn a_canceled_job_that_was_never_launched_is_released() {
    let mut rig = rig();
    let tag = again(&mut rig, true, json!({"started": false, "since": 5.0, "ended": 6.0}));
    let lookup = rig.expect("kvs.lookup");
    rig.fail(&lookup, Errno::ENOTSUP);
    let lookup = rig.expect("kvs.lookup");
    rig.fail(&lookup, Errno::ENOENT);
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
    rig.finish();
}

#[test]
fn an_end_that_is_on_record_is_told_again() {
    let mut rig = rig();
    let tag = again(&mut rig, true, json!({"started": true, "since": 5.0}));
    let lookup = rig.expect("kvs.lookup");
    rig.fail(&lookup, Errno::ENOTSUP);
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, log(&[("complete", json!({"status": 512})), ("done", Value::Null)]));
    assert_eq!(rig.response(tag).unwrap()["data"]["status"], json!(512));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
    rig.finish();
}

#[test]
fn an_end_in_the_namespace_is_grafted() {
    let mut rig = rig();
    let tag = again(&mut rig, true, json!({"started": true, "since": 5.0}));
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, log(&[("complete", json!({"status": 0})), ("done", Value::Null)]));
    let root = rig.expect("kvs.getroot");
    assert_eq!(rig.response(tag).unwrap()["type"], json!("finish"));
    rig.reply(&root, json!({"owner": 0, "rootseq": 3, "rootref": "sha1-1", "flags": 0}));
    let graft = rig.expect("kvs.commit");
    rig.reply(&graft, json!({"rootref": "sha1-2", "rootseq": 3}));
    let remove = rig.expect("kvs.namespace-remove");
    rig.reply(&remove, Value::Null);
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
}

#[test]
fn a_barrier_that_was_half_answered_is_completed() {
    let mut rig = rig();
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": true,
        "R": r("0-1", "a[0-1]"), "resume": {"started": true, "since": 5.0}});
    rig.request("job-exec.start", body);
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, log(&[("init", Value::Null)]));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    for shell in asked(&mut rig, "launch.attach", 2) {
        rig.reply(&shell, json!({"type": "started", "pid": 9}));
    }
    let barrier = |rank: u32, passed: u32| json!({"id": ID, "rank": rank, "passed": passed});
    let first = rig.request("job-exec.shell-barrier", barrier(0, 0));
    assert!(rig.try_response(first).is_none());
    // The other is at the next one: it has passed this one.
    let second = rig.request("job-exec.shell-barrier", barrier(1, 1));
    assert!(rig.response(first).is_ok());
    let third = rig.request("job-exec.shell-barrier", barrier(0, 1));
    assert!(rig.response(second).is_ok() && rig.response(third).is_ok());
    // A shell that waits alone for a minute is the last one.
    let late = rig.request("job-exec.shell-barrier", barrier(0, 2));
    rig.advance(60_000_000);
    assert!(rig.response(late).is_ok());
}

#[test]
fn after_a_restart_nodes_are_given_time_to_come_even_without_grace() {
    let mut rig = rig();
    let tag = again(&mut rig, true, json!({"started": true, "since": 5.0}));
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, log(&[("init", Value::Null), ("starting", Value::Null)]));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    let mut tries = 0;
    while rig.try_response(tag).is_none() {
        let list = rig.expect("launch.list");
        rig.fail(&list, Errno::EHOSTUNREACH);
        tries += 1;
        rig.advance(500_000);
    }
    assert!((60..64).contains(&tries), "{tries}");
    rig.requests.clear();
}

/// A job of two nodes with a limit of 100 s is found again, when the clock of the leader has been set
/// by so much since it was started; one shell says that it has run for so long.
fn found_again(set: f64, age: Option<f64>) -> (Rig<ExecService>, u32) {
    let mut rig = rig();
    // By the clock of now it was given its nodes 12 s ago, and the shells were asked for 2 s later.
    let start = 1_700_000_000.0 - 12.0 - set;
    let mut r = r("0-1", "a[0-1]");
    r["execution"]["starttime"] = json!(start);
    r["execution"]["expiration"] = json!(start + 100.0);
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": true,
        "R": r, "resume": {"started": true, "since": start + 3.0}});
    let tag = rig.request("job-exec.start", body);
    let lookup = rig.expect("kvs.lookup");
    let text = Event::new(start + 2.0, "starting").encode();
    rig.reply(&lookup, json!({"val": Treeobj::val(text.into_bytes()).to_value()}));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    let shells = asked(&mut rig, "launch.attach", 2);
    rig.reply(&shells[0], json!({"type": "started", "pid": 9, "age": age}));
    // The other node is away for a while; its shell was started a moment later.
    rig.advance(5_000_000);
    rig.reply(&shells[1], json!({"type": "started", "pid": 9, "age": age.map(|age| age + 4.0)}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("reattached"));
    (rig, tag)
}

/// How long it goes on, in seconds.
fn time_left((mut rig, tag): (Rig<ExecService>, u32)) -> u64 {
    for second in 0.. {
        if let Some(answer) = rig.try_response(tag) {
            assert_eq!(answer.unwrap()["data"]["type"], json!("timeout"));
            rig.requests.clear();
            return second;
        }
        assert!(second < 4000, "no time limit");
        rig.advance(1_000_000);
    }
    0
}

#[test]
fn a_clock_that_was_set_while_the_leader_was_away_gives_and_takes_no_time() {
    for set in [0.0, 3600.0, -3600.0] {
        // 2 s until the shells were asked for, 10 s until the leader was back, 5 s since.
        assert_eq!(time_left(found_again(set, Some(10.0))), 83, "{set}");
    }
    // A node that cannot say how long leaves only the clock.
    assert_eq!(time_left(found_again(0.0, None)), 83);
    assert_eq!(time_left(found_again(-3600.0, None)), 100);
}

/// A job whose end began 12 s after its shells did, and 7 s before the leader is back, is found again
/// when the clock was set by so much before its end, and by so much since. So many seconds later its
/// tasks are killed, and so many later its shells.
fn killed_again(before: f64, since: f64, recorded: bool, age: Option<f64>) -> (u64, u64) {
    let mut rig = rig();
    let began = 1_700_000_000.0 - 19.0 - before - since;
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": true,
        "R": r("0", "a"), "resume": {"started": true, "since": began,
        "ended": 1_700_000_000.0 - 7.0 - since}});
    let tag = rig.request("job-exec.start", body);
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    let lookup = rig.expect("kvs.lookup");
    let mut text = Event::new(began, "starting").encode();
    if recorded {
        let context = json!({ "ran": 12.0 }).as_object().unwrap().clone();
        text.push_str(&Event::new(1.0, "ending").with_context(context).encode());
    }
    rig.reply(&lookup, json!({"val": Treeobj::val(text.into_bytes()).to_value()}));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    let shell = asked(&mut rig, "launch.attach", 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9, "age": age}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("reattached"));
    let term = rig.expect("launch.kill");
    assert_eq!(term.json::<Value>().unwrap()["signum"], json!(15));
    rig.reply(&term, Value::Null);
    let mut killed = (None, None);
    for second in 0..200 {
        for request in std::mem::take(&mut rig.requests) {
            let body: Value = request.json().unwrap();
            assert_eq!(body["signum"], json!(9));
            match request.topic() {
                "job-manager.kill" => killed.0 = killed.0.or(Some(second)),
                _ => killed.1 = killed.1.or(Some(second)),
            }
            rig.reply(&request, Value::Null);
        }
        if let (Some(tasks), Some(shells)) = killed {
            rig.requests.clear();
            return (tasks, shells);
        }
        rig.advance(1_000_000);
    }
    panic!("{killed:?}")
}

#[test]
fn a_clock_that_was_set_makes_no_kill_come_sooner_or_later() {
    // SIGTERM, then five times SIGKILL to the tasks every five seconds, then to the shells: two
    // seconds of the second pause and four more pauses are left.
    for since in [0.0, 3600.0, -3600.0] {
        assert_eq!(killed_again(0.0, since, false, Some(19.0)), (3, 23), "{since}");
        for before in [0.0, 3600.0, -3600.0] {
            assert_eq!(killed_again(before, since, true, Some(19.0)), (3, 23), "{before} {since}");
        }
    }
    // A node that cannot say how long leaves only the clock.
    assert_eq!(killed_again(0.0, 0.0, false, None), (3, 23));
}

#[test]
fn when_an_end_began_is_on_record() {
    let mut rig = rig();
    let tag = start(&mut rig, "0", "a", json!({}));
    let shell = launched(&mut rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    rig.response(tag).unwrap();
    rig.advance(12_000_000);
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    let commit = rig.expect("kvs.commit");
    assert_eq!(names_of(&commit), ["ending"]);
    let body = commit.json::<CommitView>().unwrap();
    let object = body.ops[0].dirent.clone().into_object();
    let Ok(Some(Treeobj::Val(text))) = object else { panic!() };
    let past = String::from_utf8(text.to_vec()).unwrap();
    assert!(past.contains("\"ran\":12"), "{past}");
    rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    let term = rig.expect("launch.kill");
    rig.reply(&term, Value::Null);
    rig.reply(&shell, json!({"type": "finished", "status": 15}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 256);
    rig.finish();
}

#[test]
fn a_job_that_is_to_end_already_is_not_out_of_time_once_more() {
    let mut rig = rig();
    let mut r = r("0", "a");
    r["execution"]["starttime"] = json!(1_700_000_000.0 - 20.0);
    r["execution"]["expiration"] = json!(1_700_000_000.0 - 10.0);
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": true, "R": r,
        "resume": {"started": true, "since": 1_699_999_980.0, "ended": 1_699_999_990.0}});
    let tag = rig.request("job-exec.start", body);
    let lookup = rig.expect("kvs.lookup");
    rig.reply(&lookup, log(&[("init", Value::Null), ("starting", Value::Null)]));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    let shell = asked(&mut rig, "launch.attach", 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9, "age": 19.0}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("reattached"));
    rig.advance(3_000_000);
    assert!(rig.try_response(tag).is_none());
    rig.reply(&shell, json!({"type": "finished", "status": 142 << 8}));
    rig.fail(&shell, Errno::ENODATA);
    rig.requests.retain(|request| request.topic() != "launch.kill");
    finish(&mut rig, tag, 142 << 8);
    rig.requests.clear();
}
