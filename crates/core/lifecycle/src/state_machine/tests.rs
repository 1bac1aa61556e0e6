//! The life of one broker, by transcript.

use flux_svc::Rig;
use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings {
        program: Some(vec!["true".to_string()]),
        quorum: 1,
        shell: "/bin/sh".to_string(),
        hosts: vec!["a".to_string(), "b".to_string()],
        ..Settings::default()
    }
}

/// Drops what only people see.
fn quiet(rig: &mut Rig<StateMachineService>) {
    rig.requests.retain(|request| !request.topic().starts_with("console."));
}

fn to_run(rig: &mut Rig<StateMachineService>) -> Message {
    let children = rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({"resource": {}}));
    quiet(rig);
    let start = rig.expect("broker.start-modules");
    assert_eq!(start.json::<Value>().unwrap(), json!({"resource": {}}));
    rig.reply(&start, Value::Null);
    quiet(rig);
    let join = rig.expect("groups.join");
    rig.reply(&join, Value::Null);
    let online = rig.expect("groups.get");
    rig.reply(&online, json!({"members": "0"}));
    quiet(rig);
    children
}

fn through_cleanup(rig: &mut Rig<StateMachineService>) {
    for topic in ["job-manager.queue-start", "resource.acquire-mute", "job-manager.raiseall"] {
        quiet(rig);
        let step = rig.expect(topic);
        if topic == "job-manager.queue-start" {
            // Whatever is started meanwhile waits: nobody would cancel it any more.
            assert_eq!(step.json::<Value>().unwrap()["ending"], true);
        }
        rig.reply(&step, json!({"count": 0, "errors": 0}));
    }
    let idle = rig.expect("job-manager.idle");
    rig.reply(&idle, json!({"pending": 0}));
    quiet(rig);
}

fn to_exit(rig: &mut Rig<StateMachineService>) -> i32 {
    quiet(rig);
    let spurn = rig.expect("overlay.spurn");
    rig.reply(&spurn, Value::Null);
    let settle = rig.expect("broker.stop-modules");
    rig.reply(&settle, Value::Null);
    quiet(rig);
    let leave = rig.expect("overlay.leave");
    rig.reply(&leave, Value::Null);
    quiet(rig);
    let exit = rig.expect("broker.exit");
    exit.json::<ExitRequest>().unwrap().code
}

#[test]
fn the_initial_programs_exit_code_is_the_brokers() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    to_run(&mut rig);
    assert_eq!(rig.logs.first().unwrap().1, "start: none->load-builtins 0s");
    let exec = rig.expect("rexec.exec");
    rig.reply(&exec, json!({"type": "started", "pid": 7}));
    rig.reply(&exec, json!({"type": "finished", "status": 3 << 8}));
    rig.fail(&exec, Errno::ENODATA);
    through_cleanup(&mut rig);
    assert_eq!(to_exit(&mut rig), 3);
    rig.finish();
}

/// Whether the service manager was told by now.
fn is_ready(rig: &Rig<StateMachineService>) -> bool {
    rig.requests.iter().any(|request| request.text().is_ok_and(|text| text == "READY=1"))
}

#[test]
fn the_leader_is_ready_when_its_services_are_and_a_follower_while_its_parent_is_away() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    rig.expect("overlay.monitor");
    rig.advance(1);
    assert!(!is_ready(&rig));
    quiet(&mut rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    quiet(&mut rig);
    let start = rig.expect("broker.start-modules");
    assert!(!is_ready(&rig));
    rig.reply(&start, Value::Null);
    assert!(is_ready(&rig));

    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    rig.expect("overlay.monitor");
    rig.advance(1);
    assert!(is_ready(&rig));
}

#[test]
fn a_program_that_does_not_exist_is_127() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    to_run(&mut rig);
    let exec = rig.expect("rexec.exec");
    rig.fail(&exec, Errno::ENOENT);
    through_cleanup(&mut rig);
    assert_eq!(to_exit(&mut rig), 127);
    rig.finish();
}

#[test]
fn a_signal_in_run_hangs_up_the_program() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    to_run(&mut rig);
    let exec = rig.expect("rexec.exec");
    rig.reply(&exec, json!({"type": "started", "pid": 7}));
    rig.request("state-machine.signal", json!({"signum": 15}));
    let kill = rig.expect("rexec.kill");
    assert_eq!(kill.json::<Value>().unwrap(), json!({"pid": 7, "signum": 1}));
    rig.reply(&kill, Value::Null);
    rig.reply(&exec, json!({"type": "finished", "status": 1}));
    rig.fail(&exec, Errno::ENODATA);
    through_cleanup(&mut rig);
    assert_eq!(to_exit(&mut rig), 129);
    rig.responses.clear();
    rig.finish();
}

#[test]
fn a_shutdown_waits_for_the_status_of_the_program() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    to_run(&mut rig);
    let exec = rig.expect("rexec.exec");
    rig.reply(&exec, json!({"type": "started", "pid": 7}));
    let tag = rig.request("shutdown.start", json!({}));
    rig.response(tag).unwrap();
    let kill = rig.expect("rexec.kill");
    rig.reply(&kill, Value::Null);
    quiet(&mut rig);
    assert!(rig.requests.is_empty(), "{:?}", rig.requests);
    rig.reply(&exec, json!({"type": "finished", "status": 1}));
    rig.fail(&exec, Errno::ENODATA);
    through_cleanup(&mut rig);
    assert_eq!(to_exit(&mut rig), 129);
    rig.finish();
}

#[test]
fn a_shutdown_does_not_wait_for_a_program_that_does_not_end() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    to_run(&mut rig);
    let exec = rig.expect("rexec.exec");
    rig.reply(&exec, json!({"type": "started", "pid": 7}));
    let tag = rig.request("shutdown.start", json!({}));
    rig.response(tag).unwrap();
    let kill = rig.expect("rexec.kill");
    rig.reply(&kill, Value::Null);
    rig.advance((PROGRAM_PATIENCE * 1e6) as u64);
    through_cleanup(&mut rig);
    assert_eq!(to_exit(&mut rig), 0);
    rig.finish();
}

#[test]
fn children_are_waited_for() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 0, 2, &Map::new());
    let children = to_run(&mut rig);
    rig.reply(&children, json!({"rank": 1, "status": "full", "torpid": false}));
    let exec = rig.expect("rexec.exec");
    rig.reply(&exec, json!({"type": "finished", "status": 0}));
    rig.fail(&exec, Errno::ENODATA);
    through_cleanup(&mut rig);
    rig.expect("overlay.spurn");
    assert!(rig.requests.is_empty());
    rig.reply(&children, json!({"rank": 1, "status": "offline", "torpid": false}));
    quiet(&mut rig);
    rig.expect("broker.stop-modules");
    rig.finish();
}

#[test]
fn waiting_for_run_ends_when_run_is_past() {
    let mut rig = Rig::new(StateMachineService::new(settings()));
    let wait = rig.request("state-machine.wait", json!({}));
    assert!(rig.try_response(wait).is_none());
    to_run(&mut rig);
    assert_eq!(rig.response(wait), Ok(Value::Null));
    rig.expect("rexec.exec");
    rig.finish();
}

#[test]
fn a_follower_whose_parent_is_lost_while_its_modules_start_gives_up() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(&mut rig);
    let join = rig.expect("overlay.join");
    rig.reply(&join, json!({"uuid": "parent"}));
    quiet(&mut rig);
    let parent = rig.expect("state-machine.monitor");
    rig.reply(&parent, json!({"state": State::Run as i32}));
    quiet(&mut rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    rig.expect("broker.start-modules");
    rig.fail(&parent, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    let rejoin = rig.expect("overlay.rejoin");
    rig.fail(&rejoin, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    rig.expect("overlay.spurn");
    rig.expect("broker.stop-modules");
    rig.finish();
}

/// A follower in RUN, and the stream of its parent's states.
fn follower_in_run(rig: &mut Rig<StateMachineService>) -> Message {
    rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(rig);
    let join = rig.expect("overlay.join");
    rig.reply(&join, json!({"uuid": "parent"}));
    quiet(rig);
    let parent = rig.expect("state-machine.monitor");
    rig.reply(&parent, json!({"state": State::Run as i32}));
    quiet(rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    let start = rig.expect("broker.start-modules");
    rig.reply(&start, Value::Null);
    quiet(rig);
    let group = rig.expect("groups.join");
    rig.reply(&group, Value::Null);
    quiet(rig);
    assert_eq!(rig.service().state(), State::Run);
    parent
}

#[test]
fn a_follower_runs_on_while_its_parent_is_away() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    let parent = follower_in_run(&mut rig);
    rig.fail(&parent, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    let rejoin = rig.expect("overlay.rejoin");
    rig.advance(3_600_000_000);
    assert_eq!(rig.service().state(), State::Run);
    rig.reply(&rejoin, json!({"uuid": "parent again"}));
    quiet(&mut rig);
    let parent = rig.expect("state-machine.monitor");
    // The leader starts, which is no reason to do anything here.
    for state in [State::Join, State::Init, State::Quorum, State::Run] {
        rig.reply(&parent, json!({"state": state as i32}));
    }
    assert_eq!(rig.service().state(), State::Run);
    quiet(&mut rig);
    rig.finish();
}

#[test]
fn a_follower_that_cannot_join_again_ends_with_an_error() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    let parent = follower_in_run(&mut rig);
    rig.fail(&parent, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    let rejoin = rig.expect("overlay.rejoin");
    rig.fail(&rejoin, RpcError::new(Errno::ESTALE, "another instance"));
    quiet(&mut rig);
    assert_eq!(to_exit(&mut rig), 1);
    rig.finish();
}

#[test]
fn a_follower_goes_down_with_a_parent_that_went_down_meanwhile() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    let parent = follower_in_run(&mut rig);
    rig.fail(&parent, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    let rejoin = rig.expect("overlay.rejoin");
    rig.fail(&rejoin, Errno::ESHUTDOWN);
    quiet(&mut rig);
    assert_eq!(to_exit(&mut rig), 0);
    rig.finish();
}

#[test]
fn the_configuration_is_asked_for_again_when_the_parent_was_away() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 2, &Map::new());
    rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(&mut rig);
    let join = rig.expect("overlay.join");
    rig.reply(&join, json!({"uuid": "parent"}));
    quiet(&mut rig);
    let parent = rig.expect("state-machine.monitor");
    rig.reply(&parent, json!({"state": State::Run as i32}));
    quiet(&mut rig);
    let sync = rig.expect("config.get");
    rig.fail(&sync, Errno::EHOSTUNREACH);
    rig.fail(&parent, Errno::EHOSTUNREACH);
    quiet(&mut rig);
    let rejoin = rig.expect("overlay.rejoin");
    rig.reply(&rejoin, json!({"uuid": "parent again"}));
    quiet(&mut rig);
    let parent = rig.expect("state-machine.monitor");
    rig.reply(&parent, json!({"state": State::Init as i32}));
    quiet(&mut rig);
    assert!(rig.requests.is_empty());
    rig.reply(&parent, json!({"state": State::Quorum as i32}));
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    rig.expect("broker.start-modules");
    rig.finish();
}

#[test]
fn a_follower_that_stops_alone_does_not_take_its_children_along() {
    let mut rig = Rig::with(StateMachineService::new(settings()), 1, 4, &Map::new());
    follower_in_run(&mut rig);
    let child = rig.stream("state-machine.monitor", json!({"final": 7}));
    assert_eq!(rig.response(child), Ok(json!({"state": State::Run as i32})));
    rig.request("state-machine.signal", json!({"signum": 15, "alone": true}));
    quiet(&mut rig);
    let spurn = rig.expect("overlay.spurn");
    assert_eq!(spurn.json::<Value>().unwrap(), json!({"release": true}));
    rig.expect("broker.stop-modules");
    assert!(rig.try_response(child).is_none());
    rig.disconnect(rig.owner(), "state-machine");
    rig.finish();
}

fn logging() -> Rig<StateMachineService> {
    Rig::new(StateMachineService::new(Settings {
        startlog: Some("1.2.3".to_string()),
        program: None,
        ..settings()
    }))
}

/// The events that a commit of the log of starts appends.
fn appended(commit: &Message) -> String {
    let body = commit.json::<Value>().unwrap();
    assert_eq!(body["ops"][0]["key"], "admin.eventlog");
    assert_eq!(body["ops"][0]["flags"], flux_api::kvs::APPEND);
    let object = flux_model::treeobj::Treeobj::from_value(&body["ops"][0]["dirent"]).unwrap();
    let flux_model::treeobj::Treeobj::Val(text) = object else { panic!("{object:?}") };
    String::from_utf8(text).unwrap()
}

fn to_finalize(rig: &mut Rig<StateMachineService>) {
    let tag = rig.request("shutdown.start", json!({}));
    rig.response(tag).unwrap();
    through_cleanup(rig);
    let spurn = rig.expect("overlay.spurn");
    rig.reply(&spurn, Value::Null);
    quiet(rig);
}

/// Up to the question for the log so far.
fn to_startlog(rig: &mut Rig<StateMachineService>) -> Message {
    rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    quiet(rig);
    let start = rig.expect("broker.start-modules");
    rig.reply(&start, Value::Null);
    quiet(rig);
    let read = rig.expect("kvs.lookup");
    assert!(rig.requests.is_empty(), "{:?}", rig.requests);
    read
}

fn from_init_to_run(rig: &mut Rig<StateMachineService>) {
    quiet(rig);
    let join = rig.expect("groups.join");
    rig.reply(&join, Value::Null);
    let online = rig.expect("groups.get");
    rig.reply(&online, json!({"members": "0"}));
    quiet(rig);
}

fn warned(rig: &Rig<StateMachineService>) -> bool {
    rig.logs.iter().any(|(_, text)| text.contains("not shut down in order"))
}

#[test]
fn start_and_end_are_logged_and_a_crash_is_told() {
    let mut rig = logging();
    let read = to_startlog(&mut rig);
    let before = "{\"timestamp\":1.0,\"name\":\"start\"}\n";
    let object = flux_model::treeobj::Treeobj::val(before.as_bytes().to_vec()).to_value();
    rig.reply(&read, json!({ "val": object }));
    assert!(warned(&rig), "{:?}", rig.logs);
    let start = rig.expect("kvs.commit");
    let text = appended(&start);
    assert!(text.contains("\"name\":\"start\",\"context\":{\"core_version\":\"1.2.3\"}"), "{text}");
    rig.reply(&start, json!({"rootref": "x", "rootseq": 1}));
    from_init_to_run(&mut rig);
    to_finalize(&mut rig);
    let finish = rig.expect("kvs.commit");
    assert!(appended(&finish).contains("\"name\":\"finish\"}"), "{}", appended(&finish));
    assert!(rig.requests.is_empty(), "{:?}", rig.requests);
    rig.fail(&finish, Errno::ENOSPC);
    rig.expect("broker.stop-modules");
    rig.finish();
}

#[test]
fn a_log_that_cannot_be_written_holds_nothing_up() {
    let mut rig = logging();
    let read = to_startlog(&mut rig);
    rig.fail(&read, Errno::ENOENT);
    assert!(!warned(&rig), "{:?}", rig.logs);
    let start = rig.expect("kvs.commit");
    rig.advance(10_000_000);
    from_init_to_run(&mut rig);
    // Too late to matter.
    rig.reply(&start, json!({"rootref": "x", "rootseq": 1}));
    to_finalize(&mut rig);
    rig.expect("broker.stop-modules");
    rig.finish();
}

#[test]
fn an_end_that_cannot_be_logged_is_not_waited_for_for_ever() {
    let mut rig = logging();
    let read = to_startlog(&mut rig);
    rig.fail(&read, Errno::ENOENT);
    let start = rig.expect("kvs.commit");
    rig.reply(&start, json!({"rootref": "x", "rootseq": 1}));
    from_init_to_run(&mut rig);
    to_finalize(&mut rig);
    rig.expect("kvs.commit");
    assert!(rig.requests.is_empty(), "{:?}", rig.requests);
    rig.advance(10_000_000);
    rig.expect("broker.stop-modules");
    rig.finish();
}

#[test]
fn a_signal_before_rc1_begins_ends_the_start() {
    let mut rig = logging();
    let read = to_startlog(&mut rig);
    rig.request("state-machine.signal", json!({"signum": 15}));
    rig.fail(&read, Errno::ENOENT);
    let start = rig.expect("kvs.commit");
    rig.reply(&start, json!({"rootref": "x", "rootseq": 1}));
    assert!(rig.service().state() > State::Run, "{:?}", rig.service().state());
    rig.responses.clear();
    rig.requests.clear();
    rig.finish();
}

#[test]
fn in_recovery_mode_failures_of_the_start_are_ignored() {
    let recovery = Settings {
        recovery: true,
        rc1: vec![vec!["false".to_string()]],
        program: None,
        ..settings()
    };
    let mut rig = Rig::new(StateMachineService::new(recovery));
    rig.expect("overlay.monitor");
    rig.advance(1);
    quiet(&mut rig);
    let sync = rig.expect("config.get");
    rig.reply(&sync, json!({}));
    quiet(&mut rig);
    let start = rig.expect("broker.start-modules");
    rig.reply(&start, Value::Null);
    quiet(&mut rig);
    let rc1 = rig.expect("rexec.exec");
    rig.reply(&rc1, json!({"type": "finished", "status": 1 << 8}));
    rig.fail(&rc1, Errno::ENODATA);
    from_init_to_run(&mut rig);
    assert_eq!(rig.service().state(), State::Run);
    to_finalize(&mut rig);
    let settle = rig.expect("broker.stop-modules");
    rig.reply(&settle, Value::Null);
    quiet(&mut rig);
    let leave = rig.expect("overlay.leave");
    rig.reply(&leave, Value::Null);
    quiet(&mut rig);
    assert_eq!(rig.expect("broker.exit").json::<ExitRequest>().unwrap().code, 0);
    rig.finish();
}

#[test]
fn a_leader_that_stops_alone_ends_no_job_and_no_follower() {
    let quiet_leader = Settings { program: None, can_return: true, ..settings() };
    let config = json!({"exec": {"on-shutdown": "leave"}});
    let mut rig =
        Rig::with(StateMachineService::new(quiet_leader), 0, 2, config.as_object().unwrap());
    let children = to_run(&mut rig);
    rig.reply(&children, json!({"rank": 1, "status": "full", "torpid": false}));
    let child = rig.stream("state-machine.monitor", json!({"final": 7}));
    assert_eq!(rig.response(child), Ok(json!({"state": State::Run as i32})));
    rig.request("state-machine.signal", json!({"signum": 15, "alone": true}));
    held(&mut rig);
    let spurn = rig.expect("overlay.spurn");
    assert_eq!(spurn.json::<Value>().unwrap(), json!({"release": true}));
    rig.reply(&children, json!({"rank": 1, "status": "lost", "torpid": false}));
    rig.expect("broker.stop-modules");
    assert!(rig.try_response(child).is_none());
    rig.disconnect(rig.owner(), "state-machine");
    rig.finish();
}

/// The execution service is told that jobs stay.
fn held(rig: &mut Rig<StateMachineService>) {
    quiet(rig);
    let hold = rig.expect("job-exec.hold");
    rig.reply(&hold, Value::Null);
    quiet(rig);
}

/// A leader without initial program, in RUN, with one child, and the stream of its states.
fn serving(settings: Settings) -> (Rig<StateMachineService>, Message, u32) {
    let quiet_leader = Settings { program: None, can_return: true, ..settings };
    let mut rig = Rig::with(StateMachineService::new(quiet_leader), 0, 2, &Map::new());
    let children = to_run(&mut rig);
    rig.reply(&children, json!({"rank": 1, "status": "full", "torpid": false}));
    let child = rig.stream("state-machine.monitor", json!({"final": 7}));
    assert_eq!(rig.response(child), Ok(json!({"state": State::Run as i32})));
    (rig, children, child)
}

/// The child hears that it has to go, and does.
fn takes_the_child_along(rig: &mut Rig<StateMachineService>, children: &Message, child: u32) {
    let spurn = rig.expect("overlay.spurn");
    assert_eq!(spurn.json::<Value>().unwrap(), json!({}));
    assert_eq!(rig.response(child), Ok(json!({"state": State::Cleanup as i32})));
    assert_eq!(rig.response(child), Ok(json!({"state": State::Shutdown as i32})));
    rig.responses.clear();
    rig.reply(&spurn, Value::Null);
    rig.reply(children, json!({"rank": 1, "status": "offline", "torpid": false}));
    let settle = rig.expect("broker.stop-modules");
    rig.reply(&settle, Value::Null);
    quiet(rig);
    let leave = rig.expect("overlay.leave");
    rig.reply(&leave, Value::Null);
    quiet(rig);
}

fn exit_code(rig: &mut Rig<StateMachineService>) -> i32 {
    rig.expect("broker.exit").json::<ExitRequest>().unwrap().code
}

#[test]
fn a_leader_that_is_told_to_stop_ends_jobs_then_followers() {
    let (mut rig, children, child) = serving(settings());
    rig.request("state-machine.signal", json!({"signum": 15, "alone": true}));
    through_cleanup(&mut rig);
    takes_the_child_along(&mut rig, &children, child);
    assert_eq!(exit_code(&mut rig), 0);
    rig.finish();
}

#[test]
fn jobs_that_do_not_end_after_a_signal_are_left_in_the_end() {
    let (mut rig, children, child) =
        serving(Settings { cleanup_timeout: Some(45.0), ..settings() });
    rig.request("state-machine.signal", json!({"signum": 15, "alone": true}));
    for topic in ["job-manager.queue-start", "resource.acquire-mute", "job-manager.raiseall"] {
        quiet(&mut rig);
        let step = rig.expect(topic);
        rig.reply(&step, json!({"count": 1, "errors": 0}));
    }
    let idle = rig.expect("job-manager.idle");
    rig.advance(44_000_000);
    assert_eq!(rig.service().state(), State::Cleanup);
    rig.advance(2_000_000);
    held(&mut rig);
    // Too late to matter.
    rig.reply(&idle, json!({"pending": 0}));
    takes_the_child_along(&mut rig, &children, child);
    assert_eq!(exit_code(&mut rig), 1);
    rig.finish();
}

#[test]
fn a_shutdown_that_keeps_jobs_ends_every_broker_and_no_job() {
    let (mut rig, children, child) = serving(Settings { exit_norestart: Some(42), ..settings() });
    let tag = rig.request("shutdown.start", json!({"keep_jobs": true}));
    rig.response(tag).unwrap();
    for topic in ["job-manager.queue-start", "resource.acquire-mute"] {
        quiet(&mut rig);
        let step = rig.expect(topic);
        rig.reply(&step, Value::Null);
    }
    held(&mut rig);
    takes_the_child_along(&mut rig, &children, child);
    assert_eq!(exit_code(&mut rig), 42);
    rig.finish();
}

#[test]
fn a_broker_that_is_shut_down_alone_is_to_be_started_again() {
    let (mut rig, children, child) = serving(Settings { exit_norestart: Some(42), ..settings() });
    let tag = rig.request("shutdown.start", json!({"alone": true}));
    rig.response(tag).unwrap();
    // The service manager goes on as if nobody had said anything.
    rig.request("state-machine.signal", json!({"signum": 15, "alone": true}));
    held(&mut rig);
    let spurn = rig.expect("overlay.spurn");
    assert_eq!(spurn.json::<Value>().unwrap(), json!({"release": true}));
    rig.reply(&spurn, Value::Null);
    rig.reply(&children, json!({"rank": 1, "status": "lost", "torpid": false}));
    let settle = rig.expect("broker.stop-modules");
    assert!(rig.try_response(child).is_none());
    rig.reply(&settle, Value::Null);
    quiet(&mut rig);
    let leave = rig.expect("overlay.leave");
    rig.reply(&leave, Value::Null);
    quiet(&mut rig);
    assert_eq!(exit_code(&mut rig), 0);
    rig.disconnect(rig.owner(), "state-machine");
    rig.finish();
}

#[test]
fn what_cannot_come_back_keeps_no_jobs() {
    let mut rig = Rig::new(StateMachineService::new(Settings { program: None, ..settings() }));
    to_run(&mut rig);
    for body in [json!({"keep_jobs": true}), json!({"alone": true})] {
        let tag = rig.request("shutdown.start", body);
        let error = rig.response(tag).unwrap_err();
        assert!(error.message().contains("no job can be kept"), "{error}");
    }
    assert_eq!(rig.service().state(), State::Run);
    rig.finish();
}
