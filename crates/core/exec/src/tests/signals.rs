//! Signals for shells that cannot hear them at the moment.

use super::*;

fn patient() -> Rig<ExecService> {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]).with_return();
    met(Rig::new(ExecService::new(settings)))
}

/// Tells of a signal; the matchtag of the request.
fn signal(rig: &mut Rig<ExecService>, n: u64, signum: i32) -> u32 {
    rig.request("job-exec.signal", json!({"id": ID, "n": n, "signum": signum}))
}

/// The record of a signal in the execution log.
fn recorded(rig: &mut Rig<ExecService>, n: u64) {
    let commit = rig.expect("kvs.commit");
    let data = commit.json::<CommitView>().unwrap().ops.remove(0).dirent;
    let Ok(Some(Treeobj::Val(text))) = data.into_object() else { panic!() };
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"signal\"") && text.contains(&n.to_string()), "{text}");
    rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
}

/// What shell `rank` is told.
fn told(rig: &mut Rig<ExecService>, rank: u32) -> (Message, Value) {
    let message = rig.expect(&format!("1000-shell-{}.kill", JobId(ID).f58plain()));
    assert_eq!(message.nodeid(), rank);
    let body = message.json::<Value>().unwrap()["signals"].clone();
    (message, body)
}

fn one(rig: &mut Rig<ExecService>) -> (u32, Message) {
    let tag = start(rig, "0", "a", json!({}));
    let shell = launched(rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    (tag, shell)
}

fn returns(rig: &mut Rig<ExecService>) -> Message {
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    rig.reply(&list, json!({"rank": 0, "jobs": [{"id": ID, "pid": 9, "state": "running"}]}));
    let attach = rig.expect("launch.attach");
    rig.reply(&attach, json!({"type": "started", "pid": 9}));
    attach
}

#[test]
fn a_shell_that_has_just_started_is_told_until_it_hears() {
    let mut rig = patient();
    let (_, _shell) = one(&mut rig);
    signal(&mut rig, 7, 15);
    recorded(&mut rig, 7);
    let (message, body) = told(&mut rig, 0);
    assert_eq!(body, json!([{"n": 7, "signum": 15}]));
    // Not known to its broker yet.
    rig.fail(&message, Errno::ENOSYS);
    // The next one comes meanwhile.
    signal(&mut rig, 8, 10);
    recorded(&mut rig, 8);
    rig.advance(500_000);
    let (message, body) = told(&mut rig, 0);
    assert_eq!(body, json!([{"n": 7, "signum": 15}, {"n": 8, "signum": 10}]));
    rig.reply(&message, Value::Null);
    // From here on the events are enough.
    signal(&mut rig, 9, 15);
    assert!(rig.requests.is_empty());
}

#[test]
fn a_shell_whose_node_is_away_is_told_when_it_is_back() {
    let mut rig = patient();
    let (tag, shell) = one(&mut rig);
    let asked = signal(&mut rig, 1, 12);
    recorded(&mut rig, 1);
    assert_eq!(rig.response(asked), Ok(Value::Null));
    let (message, _) = told(&mut rig, 0);
    rig.reply(&message, Value::Null);
    rig.fail(&shell, Errno::EHOSTUNREACH);
    let asked = signal(&mut rig, 2, 15);
    recorded(&mut rig, 2);
    assert_eq!(rig.response(asked), Ok(Value::Null));
    assert!(rig.requests.is_empty());
    let attach = returns(&mut rig);
    // It may have missed both: it knows which it has taken.
    let (message, body) = told(&mut rig, 0);
    assert_eq!(body, json!([{"n": 1, "signum": 12}, {"n": 2, "signum": 15}]));
    rig.fail(&message, Errno::EAGAIN);
    rig.advance(500_000);
    let (message, _) = told(&mut rig, 0);
    rig.reply(&message, Value::Null);
    rig.reply(&attach, json!({"type": "finished", "status": 143 << 8}));
    rig.fail(&attach, Errno::ENODATA);
    finish(&mut rig, tag, 143 << 8);
    rig.finish();
}

#[test]
fn a_signal_is_answered_when_it_is_on_record() {
    let mut rig = patient();
    let (_, _shell) = one(&mut rig);
    let tag = signal(&mut rig, 7, 15);
    assert!(rig.try_response(tag).is_none());
    recorded(&mut rig, 7);
    assert_eq!(rig.response(tag), Ok(Value::Null));
    let (message, _) = told(&mut rig, 0);
    rig.reply(&message, Value::Null);
    // Who listens needs no record.
    let tag = signal(&mut rig, 8, 15);
    assert_eq!(rig.response(tag), Ok(Value::Null));
    assert!(rig.requests.is_empty());
}

#[test]
fn a_signal_that_cannot_be_recorded_is_refused() {
    let mut rig = patient();
    let (_, _shell) = one(&mut rig);
    let tag = signal(&mut rig, 7, 15);
    let commit = rig.expect("kvs.commit");
    rig.fail(&commit, Errno::ENOSPC);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOSPC);
}

#[test]
fn a_signal_that_comes_while_the_past_of_a_job_is_read_is_on_record_before_it_is_answered() {
    let mut rig = patient();
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": true,
        "R": r("0", "a"), "resume": {"started": true, "since": 5.0}});
    let tag = rig.request("job-exec.start", body);
    let lookup = rig.expect("kvs.lookup");
    let asked = signal(&mut rig, 7, 10);
    assert!(rig.try_response(asked).is_none());
    let text = Event::new(1.0, "starting").encode();
    rig.reply(&lookup, json!({"val": Treeobj::val(text.into_bytes()).to_value()}));
    for _ in 0..2 {
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
    }
    assert!(rig.try_response(asked).is_none());
    recorded(&mut rig, 7);
    assert!(rig.response(asked).is_ok());
    let list = rig.expect("launch.list");
    rig.reply(&list, json!({"rank": 0, "jobs": [{"id": ID, "pid": 9, "state": "running"}]}));
    let shell = rig.expect("launch.attach");
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("reattached"));
    let (message, body) = told(&mut rig, 0);
    assert_eq!(body, json!([{"n": 7, "signum": 10}]));
    rig.reply(&message, Value::Null);
    rig.finish();
}

#[test]
fn a_signal_that_is_not_on_record_when_the_service_stops_is_answered_by_the_broker() {
    let mut rig = patient();
    let _job = one(&mut rig);
    let tag = signal(&mut rig, 7, 15);
    rig.drain();
    assert!(rig.drained && rig.try_response(tag).is_none());
    rig.requests.clear();
    rig.finish();
}
