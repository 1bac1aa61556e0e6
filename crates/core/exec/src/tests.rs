//! Execution, by transcript.

use flux_svc::Rig;

use super::*;

mod away;
mod guests;
mod lost;
mod recall;
mod signals;

const ID: u64 = 0x0001_0000;

fn r(ranks: &str, hosts: &str) -> Value {
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": ranks, "children": {"core": "0"}}],
        "starttime": 0.0, "expiration": 0.0, "nodelist": [hosts]}})
}

fn rig() -> Rig<ExecService> {
    let settings = Settings::new(vec!["flux".into(), "shell".into()]);
    met(Rig::new(ExecService::new(settings)))
}

/// The manager knows the service, and has no job for it.
fn met(mut rig: Rig<ExecService>) -> Rig<ExecService> {
    rig.expect("groups.get");
    let hello = rig.expect("job-manager.exec-hello");
    rig.reply(&hello, Value::Null);
    rig.advance(0);
    rig
}

fn start(rig: &mut Rig<ExecService>, ranks: &str, hosts: &str, system: Value) -> u32 {
    let jobspec = json!({"attributes": {"system": system}});
    let body = json!({"id": ID, "userid": 1000, "jobspec": jobspec, "reattach": false, "R": r(ranks, hosts)});
    rig.request("job-exec.start", body)
}

/// Brings a job to the point where its shells are asked for.
fn launched(rig: &mut Rig<ExecService>, shells: usize) -> Vec<Message> {
    let namespace = rig.expect("kvs.namespace-create");
    rig.reply(&namespace, Value::Null);
    let link = rig.expect("kvs.commit");
    rig.reply(&link, json!({"rootref": "sha1-0", "rootseq": 1}));
    asked(rig, "launch.start", shells)
}

/// Requests for shells, after the nodes have said that nothing else runs there.
fn asked(rig: &mut Rig<ExecService>, topic: &str, shells: usize) -> Vec<Message> {
    let first = rig.requests.front().map(|message| message.topic().to_string());
    if first.as_deref() == Some("launch.list") {
        let lists: Vec<Message> = (0..shells).map(|_| rig.expect("launch.list")).collect();
        for list in lists {
            rig.reply(&list, json!({"rank": 0, "jobs": []}));
        }
    }
    (0..shells).map(|_| rig.expect(topic)).collect()
}

fn finish(rig: &mut Rig<ExecService>, tag: u32, status: i32) {
    let last = rig.expect("kvs.commit");
    assert_eq!(rig.response(tag).unwrap()["data"]["status"], json!(status));
    rig.reply(&last, json!({"rootref": "sha1-1", "rootseq": 2}));
    let graft = rig.expect("kvs.commit");
    let body = graft.json::<Value>().unwrap();
    assert_eq!(body["ops"][0]["dirent"]["data"], json!(["sha1-1"]));
    rig.reply(&graft, json!({"rootref": "sha1-2", "rootseq": 3}));
    let remove = rig.expect("kvs.namespace-remove");
    rig.reply(&remove, Value::Null);
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
    rig.advance(200_000);
    while rig.requests.front().is_some_and(|message| message.topic() == "launch.forget") {
        rig.expect("launch.forget");
    }
}

/// Word for shell `to` that shell `lost` is lost.
fn told_lost(rig: &mut Rig<ExecService>, lost: u32, to: u32) -> Message {
    let message = rig.expect(&format!("1000-shell-{}.exception", JobId(ID).f58plain()));
    assert_eq!(message.nodeid(), to);
    let body: Value = message.json().unwrap();
    assert_eq!((&body["type"], &body["shell_rank"]), (&json!("lost-shell"), &json!(lost)));
    message
}

type CommitView = flux_api::kvs::CommitRequest;

#[test]
fn a_job_runs_to_its_end() {
    let mut rig = rig();
    let tag = start(&mut rig, "0", "a", json!({}));
    let shell = launched(&mut rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    rig.reply(&shell, json!({"type": "finished", "status": 256}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 256);
    rig.finish();
}

/// A job of one shell that ran and was canceled: its start, its launch and the first signal.
fn canceled(rig: &mut Rig<ExecService>) -> (u32, Message, Message) {
    let tag = start(rig, "0", "a", json!({}));
    let shell = launched(rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    rig.response(tag).unwrap();
    rig.event("job-exception", json!({"id": ID, "type": "cancel", "severity": 0}));
    end_recorded(rig);
    let term = rig.expect("launch.kill");
    (tag, shell, term)
}

#[test]
fn a_cancel_terminates_then_kills() {
    let mut rig = rig();
    let (tag, shell, term) = canceled(&mut rig);
    assert_eq!(term.json::<Value>().unwrap(), json!({"id": ID, "signum": 15, "all": false}));
    rig.reply(&term, Value::Null);
    rig.advance(5_000_000);
    let kill = rig.expect("job-manager.kill");
    rig.reply(&kill, Value::Null);
    rig.reply(&shell, json!({"type": "finished", "status": 143 << 8}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 143 << 8);
    assert!(!rig.has_timer());
    rig.finish();
}

#[test]
fn a_barrier_waits_for_all_shells_and_fails_with_one() {
    let mut rig = rig();
    let tag = start(&mut rig, "0-1", "a[0-1]", json!({}));
    let shells = launched(&mut rig, 2);
    for shell in &shells {
        rig.reply(shell, json!({"type": "started", "pid": 9}));
    }
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    let first = rig.request("job-exec.shell-barrier", json!({"id": ID, "rank": 0}));
    assert!(rig.try_response(first).is_none());
    let second = rig.request("job-exec.shell-barrier", json!({"id": ID, "rank": 1}));
    assert!(rig.response(first).is_ok() && rig.response(second).is_ok());
    let third = rig.request("job-exec.shell-barrier", json!({"id": ID, "rank": 0}));
    rig.reply(&shells[1], json!({"type": "finished", "status": 256}));
    assert_eq!(rig.response(third).unwrap_err().errno, Errno::EIO);
    rig.reply(&shells[0], json!({"type": "finished", "status": 0}));
    for shell in &shells {
        rig.fail(shell, Errno::ENODATA);
    }
    finish(&mut rig, tag, 256);
    rig.finish();
}

#[test]
fn a_lost_node_ends_the_job_with_that_reason() {
    let mut rig = rig();
    let tag = start(&mut rig, "0-1", "a[0-1]", json!({}));
    let shells = launched(&mut rig, 2);
    for shell in &shells {
        rig.reply(shell, json!({"type": "started", "pid": 9}));
    }
    rig.response(tag).unwrap();
    rig.fail(&shells[1], Errno::EHOSTUNREACH);
    let exception = rig.response(tag).unwrap();
    assert_eq!(exception["data"]["type"], json!("node-failure"));
    assert_eq!(exception["data"]["note"], json!("node failure on a1 (rank 1)"));
    // The leader waits for its tasks no longer.
    let told = told_lost(&mut rig, 1, 0);
    rig.reply(&told, Value::Null);
    rig.event("job-exception", json!({"id": ID, "type": "node-failure", "severity": 0}));
    end_recorded(&mut rig);
    let term = rig.expect("launch.kill");
    rig.reply(&term, Value::Null);
    rig.reply(&shells[0], json!({"type": "finished", "status": 143 << 8}));
    rig.fail(&shells[0], Errno::ENODATA);
    finish(&mut rig, tag, 143 << 8);
    rig.finish();
}

/// How long the job has run until its end began is put on record.
fn end_recorded(rig: &mut Rig<ExecService>) {
    let commit = rig.expect("kvs.commit");
    assert!(commit.json::<CommitView>().unwrap().ops[0].key.ends_with("exec.eventlog"));
    rig.reply(&commit, json!({"rootref": "sha1-0", "rootseq": 1}));
}

/// A job of one shell that runs: its start and its launch.
fn running_on_one(rig: &mut Rig<ExecService>, r: &Value) -> (u32, Message) {
    let body = json!({"id": ID, "userid": 1000, "jobspec": {}, "reattach": false, "R": r});
    let tag = rig.request("job-exec.start", body);
    let shell = launched(rig, 1).remove(0);
    rig.reply(&shell, json!({"type": "started", "pid": 9}));
    rig.response(tag).unwrap();
    (tag, shell)
}

#[test]
fn a_time_limit_is_an_exception_of_its_own() {
    let mut rig = rig();
    let mut r = r("0", "a");
    r["execution"]["expiration"] = json!(1_700_000_010.0);
    let (tag, shell) = running_on_one(&mut rig, &r);
    rig.advance(10_000_000);
    let alarm = rig.expect("launch.kill");
    assert_eq!(alarm.json::<Value>().unwrap()["signum"], json!(14));
    rig.reply(&alarm, Value::Null);
    assert_eq!(rig.response(tag).unwrap()["data"]["type"], json!("timeout"));
    rig.reply(&shell, json!({"type": "finished", "status": 142 << 8}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 142 << 8);
    rig.finish();
}

#[test]
fn a_job_that_starts_late_gets_its_time_back() {
    for (allocated, percent, moved) in [(4.0, 25, true), (2.0, 25, false), (2.0, 10, true)] {
        let mut rig = rig();
        let tag = rig.request(
            "job-exec.config-reload",
            json!({"exec": {"max-start-delay-percent": percent}}),
        );
        rig.response(tag).unwrap();
        let mut r = r("0", "a");
        r["execution"]["starttime"] = json!(1_700_000_000.0 - allocated);
        r["execution"]["expiration"] = json!(1_700_000_010.0 - allocated);
        let (tag, shell) = running_on_one(&mut rig, &r);
        if moved {
            let update = rig.expect("job-manager.update");
            let duration = json!({"attributes.system.duration": 10.0 + allocated});
            assert_eq!(update.json::<Value>().unwrap()["updates"], duration);
            rig.reply(&update, Value::Null);
        }
        assert!(rig.requests.is_empty());
        rig.reply(&shell, json!({"type": "finished", "status": 0}));
        rig.fail(&shell, Errno::ENODATA);
        finish(&mut rig, tag, 0);
        rig.finish();
    }
}

#[test]
fn a_clock_that_was_set_back_gives_no_job_more_time() {
    let mut rig = rig();
    let mut r = r("0", "a");
    // The job was given its resources when the clock was an hour ahead.
    r["execution"]["starttime"] = json!(1_700_003_600.0);
    r["execution"]["expiration"] = json!(1_700_003_610.0);
    let (tag, shell) = running_on_one(&mut rig, &r);
    rig.advance(10_000_000);
    let alarm = rig.expect("launch.kill");
    rig.reply(&alarm, Value::Null);
    assert_eq!(rig.response(tag).unwrap()["data"]["type"], json!("timeout"));
    rig.reply(&shell, json!({"type": "finished", "status": 142 << 8}));
    rig.fail(&shell, Errno::ENODATA);
    finish(&mut rig, tag, 142 << 8);
    rig.finish();
}

#[test]
fn a_clock_that_is_set_while_a_job_runs_or_ends_changes_none_of_its_times() {
    for set in [3600.0, -3600.0] {
        let mut rig = rig();
        let spec = json!({"exec": {"test": {"run_duration": "100s"}}});
        let tag = start(&mut rig, "0", "a", spec);
        rig.response(tag).unwrap();
        rig.set_clock(set);
        rig.advance(99_000_000);
        assert!(rig.try_response(tag).is_none(), "{set}");
        rig.advance(1_000_000);
        assert_eq!(rig.response(tag).unwrap()["type"], json!("finish"), "{set}");
        let commit = rig.expect("kvs.commit");
        rig.reply(&commit, json!({"rootref": "sha1-2", "rootseq": 3}));
        assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
        rig.finish();

        let mut rig = self::rig();
        let (tag, shell, term) = canceled(&mut rig);
        rig.reply(&term, Value::Null);
        rig.set_clock(set);
        rig.advance(4_900_000);
        assert!(rig.requests.is_empty(), "{set}");
        rig.advance(100_000);
        let kill = rig.expect("job-manager.kill");
        rig.reply(&kill, Value::Null);
        rig.reply(&shell, json!({"type": "finished", "status": 137 << 8}));
        rig.fail(&shell, Errno::ENODATA);
        finish(&mut rig, tag, 137 << 8);
        rig.finish();
    }
}

#[test]
fn a_shell_that_cannot_be_launched_is_an_exception() {
    let mut rig = rig();
    let tag = start(&mut rig, "0", "a", json!({}));
    let shell = launched(&mut rig, 1).remove(0);
    rig.fail(&shell, RpcError::new(Errno::ENOENT, "error launching process: flux: No such file"));
    let exception = rig.response(tag).unwrap();
    assert!(
        exception["data"]["note"]
            .as_str()
            .unwrap()
            .starts_with("job shell exec error on broker a (rank 0)")
    );
    finish(&mut rig, tag, 126 << 8);
    rig.finish();
}

#[test]
fn a_mock_job_takes_one_commit() {
    let mut rig = rig();
    let tag = start(&mut rig, "0", "a", json!({"exec": {"test": {"run_duration": "0s"}}}));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("start"));
    assert_eq!(rig.response(tag).unwrap()["type"], json!("finish"));
    let commit = rig.expect("kvs.commit");
    rig.reply(&commit, json!({"rootref": "sha1-2", "rootseq": 3}));
    let remove = rig.requests.pop_front();
    assert!(remove.is_none());
    assert_eq!(rig.response(tag).unwrap()["type"], json!("release"));
    rig.finish();
}
