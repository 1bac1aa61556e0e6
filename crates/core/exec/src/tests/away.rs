//! Nodes that are away for a while, and what is found when they are back.

use super::*;

fn patient_rig() -> Rig<ExecService> {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]).with_return();
    met(Rig::new(ExecService::new(settings)))
}

fn running(
    rig: &mut Rig<ExecService>,
    ranks: &str,
    hosts: &str,
    count: usize,
) -> (u32, Vec<Message>) {
    let tag = start(rig, ranks, hosts, json!({}));
    let shells = launched(rig, count);
    for shell in &shells {
        rig.reply(shell, json!({"type": "started", "pid": 9}));
    }
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    (tag, shells)
}

#[test]
fn a_node_that_returns_in_time_has_its_shell_followed_again() {
    let mut rig = patient_rig();
    let (tag, shells) = running(&mut rig, "0", "a", 1);
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    assert!(rig.try_response(tag).is_none());
    // Away: the node is asked again and again.
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    // It is known to be offline: it may run anything all the same.
    rig.fail(&list, Errno::EAGAIN);
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    let record = json!({"id": ID, "pid": 9, "state": "running"});
    rig.reply(&list, json!({"rank": 0, "jobs": [record]}));
    let attach = rig.expect("launch.attach");
    rig.reply(&attach, json!({"type": "started", "pid": 9}));
    assert!(rig.try_response(tag).is_none(), "it started once");
    rig.reply(&attach, json!({"type": "finished", "status": 0}));
    rig.fail(&attach, Errno::ENODATA);
    finish(&mut rig, tag, 0);
    rig.finish();
}

/// The node stays away until patience is over; the seconds that took.
fn stay_away(rig: &mut Rig<ExecService>) -> f64 {
    let mut seconds = 0.0;
    loop {
        rig.advance(500_000);
        seconds += 0.5;
        if rig.requests.is_empty() {
            break;
        }
        let list = rig.requests.pop_front().unwrap();
        if list.topic() != "launch.list" {
            rig.requests.push_front(list);
            break;
        }
        rig.fail(&list, Errno::EHOSTUNREACH);
    }
    seconds
}

/// Starts another job on node 0, where a shell of the first is on record: it is killed before
/// anything is started there.
fn next_after_a_kill(rig: &mut Rig<ExecService>) {
    let body =
        json!({"id": ID + 1, "userid": 1000, "jobspec": {}, "reattach": false, "R": r("0", "a")});
    let next = rig.request("job-exec.start", body);
    let namespace = rig.expect("kvs.namespace-create");
    rig.reply(&namespace, Value::Null);
    let link = rig.expect("kvs.commit");
    rig.reply(&link, json!({"rootref": "sha1-0", "rootseq": 1}));
    let list = rig.expect("launch.list");
    let record = json!({"id": ID, "pid": 9, "state": "running"});
    rig.reply(&list, json!({"rank": 0, "jobs": [record]}));
    let kill = rig.expect("launch.kill");
    assert_eq!(kill.json::<Value>().unwrap(), json!({"id": ID, "signum": 9, "all": true}));
    rig.reply(&kill, Value::Null);
    let stray = rig.expect("launch.attach");
    rig.reply(&stray, json!({"type": "finished", "status": 9}));
    assert!(rig.requests.is_empty(), "not ready before the stream has ended");
    rig.fail(&stray, Errno::ENODATA);
    let shell = rig.expect("launch.start");
    rig.reply(&shell, json!({"type": "started", "pid": 10}));
    assert_eq!(rig.response(next).unwrap()["type"], json!("start"));
}

#[test]
fn a_node_that_stays_away_ends_the_job_after_the_grace_time() {
    let mut rig = patient_rig();
    let (tag, shells) = running(&mut rig, "0", "a", 1);
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    let seconds = stay_away(&mut rig);
    assert!((60.0..62.0).contains(&seconds), "{seconds}");
    let exception = rig.response(tag).unwrap();
    assert_eq!(exception["data"]["type"], json!("node-failure"));
    finish(&mut rig, tag, 9);
    next_after_a_kill(&mut rig);
}

#[test]
fn a_shell_that_was_given_up_is_killed_even_if_its_job_is_still_being_recorded() {
    let mut rig = patient_rig();
    let (_, shells) = running(&mut rig, "0", "a", 1);
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    stay_away(&mut rig);
    // The disk is slow.
    let _last = rig.expect("kvs.commit");
    next_after_a_kill(&mut rig);
}

#[test]
fn a_cancel_while_the_node_is_away_reaches_the_shell_when_it_is_back() {
    let mut rig = patient_rig();
    let (tag, shells) = running(&mut rig, "0", "a", 1);
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    end_recorded(&mut rig);
    assert!(rig.requests.is_empty());
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    rig.reply(&list, json!({"rank": 0, "jobs": [{"id": ID, "pid": 9, "state": "running"}]}));
    let attach = rig.expect("launch.attach");
    rig.reply(&attach, json!({"type": "started", "pid": 9}));
    let term = rig.expect("launch.kill");
    assert_eq!(term.json::<Value>().unwrap()["signum"], json!(15));
    rig.reply(&term, Value::Null);
    rig.reply(&attach, json!({"type": "finished", "status": 143 << 8}));
    rig.fail(&attach, Errno::ENODATA);
    finish(&mut rig, tag, 143 << 8);
    rig.finish();
}

#[test]
fn a_node_without_the_shell_is_one_exception() {
    let mut rig = patient_rig();
    let (tag, shells) = running(&mut rig, "0-1", "a[0-1]", 2);
    for shell in &shells {
        rig.fail(shell, Errno::EHOSTUNREACH);
    }
    rig.advance(500_000);
    for attach in asked(&mut rig, "launch.attach", 2) {
        rig.fail(&attach, Errno::ENOENT);
    }
    let exception = rig.response(tag).unwrap();
    assert_eq!(
        exception["data"]["note"],
        json!("the job shell on a0 (rank 0) is lost: it is not on record there")
    );
    finish(&mut rig, tag, 9);
    rig.finish();
}

#[test]
fn a_shell_that_may_not_have_been_launched_is_asked_for_with_the_time_of_that() {
    let mut rig = patient_rig();
    let tag = start(&mut rig, "0", "a", json!({}));
    let first = launched(&mut rig, 1).remove(0);
    assert!(first.json::<Value>().unwrap().get("since").is_none());
    rig.fail(&first, Errno::EHOSTUNREACH);
    rig.advance(500_000);
    let again = asked(&mut rig, "launch.start", 1).remove(0);
    let again_body: Value = again.json().unwrap();
    assert!(again_body["since"].as_f64().unwrap() > 0.0);
    // By a clock that nobody sets.
    assert_eq!(again_body["age"], json!(0.5));
    rig.reply(&again, json!({"type": "lost", "note": "the node was restarted"}));
    rig.fail(&again, Errno::ENODATA);
    let note = rig.response(tag).unwrap()["data"]["note"].as_str().unwrap().to_string();
    assert!(note.ends_with("is lost: the node was restarted"), "{note}");
    finish(&mut rig, tag, 9);
    rig.finish();
}

#[test]
fn brokers_that_go_with_a_stop_that_keeps_jobs_are_no_loss() {
    let mut rig = rig();
    let (tag, shells) = running(&mut rig, "0", "a", 1);
    let hold = rig.request("job-exec.hold", Value::Null);
    rig.response(hold).unwrap();
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    rig.advance(500_000);
    assert!(rig.try_response(tag).is_none(), "the node was given up");
    rig.requests.clear();
}
