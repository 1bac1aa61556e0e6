//! What the others hear of a shell that is lost.

use super::*;

fn two(rig: &mut Rig<ExecService>) -> (u32, Vec<Message>) {
    let tag = start(rig, "0-1", "a[0-1]", json!({}));
    let shells = launched(rig, 2);
    for shell in &shells {
        rig.reply(shell, json!({"type": "started", "pid": 9}));
    }
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    let barriers =
        [0, 1].map(|rank| rig.request("job-exec.shell-barrier", json!({"id": ID, "rank": rank})));
    assert!(barriers.into_iter().all(|barrier| rig.response(barrier).is_ok()));
    (tag, shells)
}

fn ended(rig: &mut Rig<ExecService>, shell: &Message, status: i32) {
    rig.reply(shell, json!({"type": "finished", "status": status}));
    rig.fail(shell, Errno::ENODATA);
}

#[test]
fn a_leader_hears_that_another_shell_was_killed_until_it_knows() {
    let mut rig = rig();
    let (tag, shells) = two(&mut rig);
    ended(&mut rig, &shells[1], 9);
    let told = told_lost(&mut rig, 1, 0);
    assert_eq!(told.json::<Value>().unwrap()["message"], json!("shell rank 1 (on a1): Killed"));
    // It has lost its broker and is not known there at the moment.
    rig.fail(&told, Errno::ENOSYS);
    assert!(rig.requests.is_empty());
    rig.advance(500_000);
    let told = told_lost(&mut rig, 1, 0);
    rig.reply(&told, Value::Null);
    rig.advance(500_000);
    assert!(rig.requests.is_empty() && rig.try_response(tag).is_none());
    ended(&mut rig, &shells[0], 0);
    finish(&mut rig, tag, 9);
    rig.finish();
}

#[test]
fn a_killed_leader_ends_its_job_at_once() {
    let mut rig = rig();
    let (tag, shells) = two(&mut rig);
    ended(&mut rig, &shells[0], 9);
    let exception = rig.response(tag).unwrap();
    assert_eq!(exception["data"]["note"], json!("shell rank 0 (on a0): Killed"));
    // The others need not keep what they have to say.
    let told = told_lost(&mut rig, 0, 1);
    rig.reply(&told, Value::Null);
    rig.event("job-exception", json!({"id": ID, "type": "exec", "severity": 0}));
    end_recorded(&mut rig);
    let term = rig.expect("launch.kill");
    rig.reply(&term, Value::Null);
    ended(&mut rig, &shells[1], 143 << 8);
    finish(&mut rig, tag, 143 << 8);
    rig.finish();
}

#[test]
fn a_leader_that_is_away_is_told_when_it_is_back() {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]).with_return();
    let mut rig = met(Rig::new(ExecService::new(settings)));
    let (tag, shells) = two(&mut rig);
    rig.fail(&shells[0], Errno::EHOSTUNREACH);
    ended(&mut rig, &shells[1], 9);
    assert!(rig.requests.is_empty());
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    rig.reply(&list, json!({"rank": 0, "jobs": [{"id": ID, "pid": 9, "state": "running"}]}));
    let attach = rig.expect("launch.attach");
    rig.reply(&attach, json!({"type": "started", "pid": 9}));
    let told = told_lost(&mut rig, 1, 0);
    rig.reply(&told, Value::Null);
    ended(&mut rig, &attach, 0);
    finish(&mut rig, tag, 9);
    rig.finish();
}

#[test]
fn a_job_that_is_to_end_waits_for_a_node_that_is_away_as_long_as_for_a_signal() {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]).with_return();
    let mut rig = met(Rig::new(ExecService::new(settings)));
    let (tag, shells) = two(&mut rig);
    rig.fail(&shells[1], Errno::EHOSTUNREACH);
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    end_recorded(&mut rig);
    let term = rig.expect("launch.kill");
    assert_eq!(term.nodeid(), 0);
    rig.reply(&term, Value::Null);
    for _ in 0..9 {
        rig.advance(500_000);
        let list = rig.expect("launch.list");
        rig.fail(&list, Errno::EHOSTUNREACH);
    }
    assert!(rig.requests.is_empty());
    // Five seconds: no exception but the one that there is.
    rig.advance(500_000);
    let mut topics = Vec::new();
    while let Some(message) = rig.requests.pop_front() {
        topics.push(message.topic().to_string());
        match message.topic() {
            "launch.list" => rig.fail(&message, Errno::EHOSTUNREACH),
            _ => rig.reply(&message, Value::Null),
        }
    }
    let exception = format!("1000-shell-{}.exception", JobId(ID).f58plain());
    assert!(topics.contains(&exception), "{topics:?}");
    assert!(rig.try_response(tag).is_none());
    ended(&mut rig, &shells[0], 143 << 8);
    finish(&mut rig, tag, 143 << 8);
    rig.finish();
}

#[test]
fn a_shell_whose_node_was_away_is_given_the_time_to_end_when_it_is_back() {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]).with_return();
    let mut rig = met(Rig::new(ExecService::new(settings)));
    let (tag, shells) = two(&mut rig);
    rig.fail(&shells[1], Errno::EHOSTUNREACH);
    // The leader has every word of it; it waits for a broker to know that it is heard.
    ended(&mut rig, &shells[0], 0);
    for _ in 0..80 {
        rig.advance(500_000);
        let list = rig.expect("launch.list");
        rig.fail(&list, Errno::EHOSTUNREACH);
    }
    rig.advance(500_000);
    let list = rig.expect("launch.list");
    rig.reply(&list, json!({"rank": 1, "jobs": [{"id": ID, "pid": 9, "state": "running"}]}));
    let attach = rig.expect("launch.attach");
    rig.reply(&attach, json!({"type": "started", "pid": 9}));
    rig.advance(29_000_000);
    assert!(rig.try_response(tag).is_none(), "it was late");
    ended(&mut rig, &attach, 0);
    finish(&mut rig, tag, 0);
    rig.finish();
}

#[test]
fn shells_that_outlive_the_leader_end_the_job() {
    let mut rig = rig();
    let (tag, shells) = two(&mut rig);
    ended(&mut rig, &shells[0], 0);
    rig.advance(30_000_000);
    let note = rig.response(tag).unwrap()["data"]["note"].as_str().unwrap().to_string();
    assert_eq!(note, "job shells still active on a1 (rank 1) 30s after leader shell exit");
    ended(&mut rig, &shells[1], 0);
    finish(&mut rig, tag, 0);
    rig.finish();
}
