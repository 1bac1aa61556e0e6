//! Lookups and watches, by transcript.

use flux_api::job::info::WATCH_WAITCREATE;
use flux_svc::Rig;

use super::*;

const SUBMIT: &str = "{\"timestamp\":1.0,\"name\":\"submit\",\"context\":{\"userid\":1000}}\n";
const CLEAN: &str = "{\"timestamp\":2.0,\"name\":\"clean\"}\n";

fn val(text: &str) -> Value {
    json!({ "val": Treeobj::val(text.as_bytes().to_vec()).to_value() })
}

fn rig() -> Rig<InfoService> {
    Rig::new(InfoService::default())
}

fn event(rig: &mut Rig<InfoService>, tag: u32) -> String {
    rig.response(tag).unwrap()["event"].as_str().unwrap_or("<sentinel>").to_string()
}

/// The cancel of one stream of `kvs-watch`.
fn canceled(rig: &mut Rig<InfoService>) {
    rig.expect("kvs-watch.cancel");
}

#[test]
fn a_lookup_gives_keys_with_updates_applied() {
    let mut rig = rig();
    let tag = rig.request("job-info.lookup", json!({"id": 1, "keys": ["R"], "flags": 3}));
    let r = rig.expect("kvs.lookup");
    rig.reply(&r, val("{\"execution\":{\"expiration\":0.0}}"));
    let log = rig.expect("kvs.lookup");
    rig.reply(
        &log,
        val("{\"timestamp\":1.0,\"name\":\"resource-update\",\"context\":{\"expiration\":7.0}}\n"),
    );
    let body = rig.response(tag).unwrap();
    assert_eq!(body["R"]["execution"]["expiration"], json!(7.0));
    rig.finish();
}

#[test]
fn another_users_job_is_not_shown() {
    let mut rig = rig();
    let guest = rig.guest(2000);
    let tag = rig.request_as(
        guest,
        "job-info.lookup",
        json!({"id": 1, "keys": ["J"], "flags": 0}),
        false,
    );
    let log = rig.expect("kvs.lookup");
    rig.reply(&log, val(SUBMIT));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EPERM);
    let tag = rig.request_as(
        guest,
        "job-info.lookup",
        json!({"id": 1, "keys": ["J"], "flags": 0}),
        false,
    );
    let log = rig.expect("kvs.lookup");
    rig.fail(&log, Errno::ENOENT);
    assert_eq!(rig.response(tag).unwrap_err().message(), "invalid job id");
    rig.finish();
}

#[test]
fn the_main_eventlog_ends_at_clean() {
    let mut rig = rig();
    let body = json!({"id": 1, "path": "eventlog", "flags": 2});
    let tag = rig.stream("job-info.eventlog-watch", body);
    let watch = rig.expect("kvs-watch.lookup");
    rig.reply(&watch, val(SUBMIT));
    assert_eq!(event(&mut rig, tag), SUBMIT);
    assert_eq!(event(&mut rig, tag), "<sentinel>");
    rig.reply(&watch, val(CLEAN));
    assert_eq!(event(&mut rig, tag), CLEAN);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    canceled(&mut rig);
    rig.finish();
}

#[test]
fn a_guest_eventlog_goes_on_where_the_namespace_ended() {
    let mut rig = rig();
    let body = json!({"id": 1, "path": "guest.output", "flags": 0});
    let tag = rig.stream("job-info.eventlog-watch", body);
    let guest = rig.expect("kvs.lookup");
    rig.reply(&guest, json!({"val": {"ver": 1, "type": "symlink", "data": {"target": "."}}}));
    let space = rig.expect("kvs-watch.lookup");
    assert_eq!(space.json::<Value>().unwrap()["namespace"], json!("job-1"));
    let main = rig.expect("kvs-watch.lookup");
    rig.reply(&main, val(SUBMIT));
    rig.reply(&space, val(SUBMIT));
    assert_eq!(event(&mut rig, tag), SUBMIT);
    rig.fail(&space, Errno::ENOTSUP);
    let rest = rig.expect("kvs.lookup");
    rig.reply(&rest, val(&format!("{SUBMIT}{CLEAN}")));
    assert_eq!(event(&mut rig, tag), CLEAN);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    canceled(&mut rig);
    rig.finish();
}

#[test]
fn a_job_that_never_ran_has_an_empty_guest_eventlog() {
    let mut rig = rig();
    let tag = rig.stream("job-info.eventlog-watch", json!({"id": 1, "path": "guest.output"}));
    let guest = rig.expect("kvs.lookup");
    rig.fail(&guest, Errno::ENOENT);
    rig.expect("kvs-watch.lookup");
    let main = rig.expect("kvs-watch.lookup");
    rig.reply(&main, val(&format!("{SUBMIT}{CLEAN}")));
    let rest = rig.expect("kvs.lookup");
    rig.fail(&rest, Errno::ENOENT);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    canceled(&mut rig);
    canceled(&mut rig);
    rig.finish();
}

#[test]
fn nobody_waits_for_the_guest_eventlog_of_an_unknown_job() {
    let mut rig = rig();
    let body = json!({"id": 1, "path": "guest.exec.eventlog", "flags": WATCH_WAITCREATE});
    let tag = rig.stream("job-info.eventlog-watch", body);
    let guest = rig.expect("kvs.lookup");
    rig.fail(&guest, Errno::ENOENT);
    rig.expect("kvs-watch.lookup");
    let main = rig.expect("kvs-watch.lookup");
    let flags = main.json::<Value>().unwrap()["flags"].as_u64().unwrap();
    assert_eq!(flags & u64::from(flux_api::kvs::WAITCREATE), 0);
    rig.fail(&main, Errno::ENOENT);
    let error = rig.response(tag).unwrap_err();
    assert_eq!((error.errno, error.message()), (Errno::ENOENT, "invalid job id".into()));
    canceled(&mut rig);
    rig.finish();
}

#[test]
fn a_job_that_ran_without_that_log_has_none() {
    let mut rig = rig();
    let tag = rig.stream("job-info.eventlog-watch", json!({"id": 1, "path": "guest.absent"}));
    let guest = rig.expect("kvs.lookup");
    rig.reply(&guest, json!({"val": {"ver": 1, "type": "dir", "data": {}}}));
    let rest = rig.expect("kvs.lookup");
    rig.fail(&rest, Errno::ENOENT);
    let error = rig.response(tag).unwrap_err();
    assert_eq!(
        (error.errno, error.message()),
        (Errno::ENOENT, "guest.absent: key not found".into())
    );
    rig.finish();
}

#[test]
fn a_watcher_that_leaves_is_forgotten() {
    let mut rig = rig();
    rig.stream("job-info.eventlog-watch", json!({"id": 1, "path": "eventlog"}));
    let watch = rig.expect("kvs-watch.lookup");
    rig.disconnect(rig.owner(), "job-info");
    canceled(&mut rig);
    rig.reply(&watch, val(SUBMIT));
    rig.finish();
}

#[test]
fn r_is_followed_through_updates() {
    let mut rig = rig();
    let tag = rig.stream("job-info.update-watch", json!({"id": 1, "key": "R", "flags": 0}));
    let watch = rig.expect("kvs-watch.lookup");
    let base = rig.expect("kvs.lookup");
    rig.reply(&watch, val(SUBMIT));
    rig.reply(&base, val("{\"execution\":{\"expiration\":0.0}}"));
    assert_eq!(rig.response(tag).unwrap()["R"]["execution"]["expiration"], json!(0.0));
    rig.reply(
        &watch,
        val("{\"timestamp\":1.0,\"name\":\"resource-update\",\"context\":{\"expiration\":7.0}}\n"),
    );
    assert_eq!(rig.response(tag).unwrap()["R"]["execution"]["expiration"], json!(7.0));
    rig.reply(&watch, val(CLEAN));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    canceled(&mut rig);
    rig.finish();
}

#[test]
fn at_the_end_everybody_is_answered() {
    let mut rig = rig();
    let lookup = rig.request("job-info.lookup", json!({"id": 1, "keys": ["J"], "flags": 0}));
    rig.expect("kvs.lookup");
    let body = json!({"id": 1, "path": "eventlog", "flags": 0});
    let watch = rig.stream("job-info.eventlog-watch", body);
    rig.expect("kvs-watch.lookup");
    rig.drain();
    canceled(&mut rig);
    assert_eq!(rig.response(lookup).unwrap_err().errno, Errno::ENOSYS);
    assert_eq!(rig.response(watch).unwrap_err().errno, Errno::ENOSYS);
    assert!(rig.drained);
    rig.finish();
}

/// A follower that has not heard of the last commits.
fn follower() -> Rig<InfoService> {
    Rig::with(InfoService::default(), 3, 4, &serde_json::Map::new())
}

/// The leader is asked how far it is, and this follower waits until it is as far.
fn catches_up(rig: &mut Rig<InfoService>) {
    let newest = rig.expect("kvs.getroot");
    assert_eq!(newest.nodeid(), 0);
    let root = json!({"owner": 0, "rootseq": 7, "rootref": "sha1-0", "namespace": "primary"});
    rig.reply(&newest, root);
    let wait = rig.expect("kvs.wait-version");
    assert_eq!(wait.json::<Value>().unwrap(), json!({"rootseq": 7, "namespace": "primary"}));
    rig.reply(&wait, json!({"rootseq": 7, "rootref": "sha1-0"}));
}

#[test]
fn what_a_follower_does_not_know_yet_is_found() {
    let mut rig = follower();
    let tag = rig.stream("job-info.eventlog-watch", json!({"id": 1, "path": "eventlog"}));
    let watch = rig.expect("kvs-watch.lookup");
    rig.fail(&watch, Errno::ENOENT);
    catches_up(&mut rig);
    let watch = rig.expect("kvs-watch.lookup");
    rig.reply(&watch, val(&format!("{SUBMIT}{CLEAN}")));
    assert_eq!(event(&mut rig, tag), SUBMIT);
    assert_eq!(event(&mut rig, tag), CLEAN);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
    canceled(&mut rig);

    let body = json!({"id": 1, "keys": ["jobspec", "R"], "flags": 0});
    let tag = rig.request("job-info.lookup", body);
    let (jobspec, r) = (rig.expect("kvs.lookup"), rig.expect("kvs.lookup"));
    rig.fail(&r, Errno::ENOENT);
    rig.reply(&jobspec, val("old"));
    catches_up(&mut rig);
    let (jobspec, r) = (rig.expect("kvs.lookup"), rig.expect("kvs.lookup"));
    rig.reply(&r, val("r"));
    rig.reply(&jobspec, val("new"));
    let found = rig.response(tag).unwrap();
    assert_eq!((&found["jobspec"], &found["R"]), (&json!("new"), &json!("r")));
    rig.finish();
}

#[test]
fn what_is_nowhere_is_looked_for_twice() {
    let mut rig = follower();
    let tag = rig.stream("job-info.eventlog-watch", json!({"id": 1, "path": "eventlog"}));
    for again in [true, false] {
        let watch = rig.expect("kvs-watch.lookup");
        rig.fail(&watch, Errno::ENOENT);
        if again {
            catches_up(&mut rig);
        }
    }
    assert_eq!(rig.response(tag).unwrap_err().message(), "invalid job id");
    // Without the leader nobody can tell.
    let tag = rig.request("job-info.lookup", json!({"id": 1, "keys": ["R"], "flags": 0}));
    let r = rig.expect("kvs.lookup");
    rig.fail(&r, Errno::ENOENT);
    let newest = rig.expect("kvs.getroot");
    rig.fail(&newest, Errno::EHOSTUNREACH);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EHOSTUNREACH);
    rig.finish();
}
