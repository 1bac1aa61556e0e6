//! What a shell does while its broker is there.

use std::sync::Arc;

use flux_proto::{Cred, Message, Rolemask};
use serde_json::{Value, json};

use crate::fake::{ID, run, run_on_two, service};

#[test]
fn a_task_without_output_costs_six_requests() {
    let done = run(&["true"], 1, json!({})).finish();
    assert_eq!(done.code, 0);
    assert_eq!(done.names("exec.eventlog"), ["shell.init", "shell.start", "shell.task-exit"]);
    assert_eq!(done.names("output"), ["header", "data", "data"]);
    let init = &done.events("exec.eventlog")[0]["context"];
    assert_eq!((init["leader-rank"].as_u64(), init["size"].as_u64()), (Some(0), Some(1)));
    let map = &done.events("exec.eventlog")[1]["context"]["taskmap"];
    assert_eq!(*map, json!({"version": 1, "map": [[0, 1, 1, 1]]}));
    assert!(done.topics.len() <= 6, "{:?}", done.topics);
    assert!(!done.dir.path().join(format!("jobtmp-0-{}", flux_id::JobId(ID).f58())).exists());
}

#[test]
fn the_highest_exit_code_wins() {
    let script = "exit $((3 - FLUX_TASK_RANK))";
    let done = run(&["sh", "-c", script], 2, json!({})).finish();
    assert_eq!(done.code, 3);
    let exits: Vec<String> = done.names("exec.eventlog");
    assert_eq!(exits.iter().filter(|name| *name == "shell.task-exit").count(), 1);
}

#[test]
fn a_missing_command_is_127_and_ends_the_job() {
    let done = run(&["no-such-command"], 1, json!({})).finish();
    assert_eq!(done.code, 127);
    let text = "task 0 (host host3): start failed: no-such-command: No such file or directory";
    assert_eq!(done.raised[0]["note"], text);
    assert_eq!((&done.raised[0]["type"], &done.raised[0]["severity"]), (&json!("exec"), &json!(0)));
    let log = done.events("output").into_iter().find(|event| event["name"] == "log").unwrap();
    assert_eq!(log["context"]["message"], text);
    assert_eq!(done.names("exec.eventlog"), ["shell.init"]);
}

#[test]
fn a_file_that_is_no_program_is_126() {
    let done = run(&["/etc/passwd"], 1, json!({})).finish();
    assert_eq!(done.code, 126);
    assert!(done.raised[0]["note"].as_str().unwrap().ends_with("Permission denied"));
}

#[test]
fn both_streams_of_all_tasks_are_recorded() {
    let script = "echo out $FROM_JOB $FROM_SHELL; echo err >&2; printf '\\377'";
    let done = run(&["sh", "-c", script], 2, json!({})).finish();
    for rank in ["0", "1"] {
        assert!(done.data("stdout", rank).starts_with("out yes\n"), "{:?}", done.pieces);
        assert_eq!(done.data("stderr", rank), "err\n");
    }
    let base64 = done.events("output");
    let base64 = base64.iter().filter(|event| event["context"]["encoding"] == "base64");
    assert_eq!(base64.count(), 2);
    let eofs = done.events("output");
    assert_eq!(eofs.iter().filter(|event| event["context"]["eof"] == true).count(), 4);
}

#[test]
fn much_output_arrives_in_order() {
    let done = run(&["seq", "1", "200000"], 1, json!({})).finish();
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(done.data("stdout", "0") == expected);
}

#[test]
fn output_goes_to_files() {
    let options = json!({"output": {"stdout": {"type": "file", "path": "out-{{taskid}}"}}});
    let done = run(&["sh", "-c", "echo $FLUX_TASK_RANK"], 2, options).finish();
    let read = |name: &str| std::fs::read_to_string(done.dir.path().join(name)).unwrap();
    assert_eq!((read("out-0"), read("out-1")), ("0\n".to_string(), "1\n".to_string()));
    assert_eq!(done.names("output"), ["header", "redirect", "redirect"]);
}

#[test]
fn a_kill_event_of_another_guest_is_not_obeyed() {
    let run = run(&["sh", "-c", "echo ready; sleep 60"], 1, json!({}));
    run.shared.wait_for_output("ready");
    let mut event = Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 9}));
    event.cred = flux_proto::Cred { userid: 5001, rolemask: flux_proto::Rolemask::USER };
    run.send(&event);
    run.send(&Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 15})));
    assert_eq!(run.finish().code, 143);
}

#[test]
fn a_kill_event_reaches_the_tasks() {
    let run = run(&["sh", "-c", "echo ready; sleep 60"], 1, json!({}));
    run.shared.wait_for_output("ready");
    let event = Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 15}));
    run.send(&event);
    let done = run.finish();
    assert_eq!(done.code, 143);
    let exit = &done.events("exec.eventlog")[2]["context"];
    assert_eq!((&exit["signaled"], &exit["wait_status"]), (&json!(15), &json!(15)));
}

#[test]
fn a_signal_to_the_shell_reaches_the_tasks() {
    let run = run(
        &["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"],
        1,
        json!({}),
    );
    run.shared.wait_for_output("ready");
    let pid = rustix::process::Pid::from_child(&run.children[0]);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.finish().code, 5);
}

#[test]
fn stdin_is_recorded_and_reaches_the_task() {
    let run = run(&["cat"], 1, json!({}));
    drop(run.shared.wait("start", |state| state.log("exec.eventlog").contains("shell.start")));
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "data": "hello\n"}), 1);
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "eof": true}), 2);
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "data": "late"}), 3);
    let shared = Arc::clone(&run.shared);
    let done = run.finish();
    assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "hello\n"));
    assert_eq!(done.names("input"), ["header", "data", "data"]);
    let state = shared.state.lock().unwrap();
    let errors: Vec<u32> = state.responses.iter().map(|response| response.errnum().0).collect();
    assert!(errors.starts_with(&[0, 0]) && errors.get(2).is_none_or(|errno| *errno == 32));
}

#[test]
fn a_late_task_is_ended_when_the_exit_timeout_is_over() {
    let script = "test $FLUX_TASK_RANK = 0 && exit 1; sleep 60";
    let run = run(&["sh", "-c", script], 2, json!({"exit-timeout": "50ms"}));
    drop(run.shared.wait("exception", |state| !state.raised.is_empty()));
    let event = Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 9}));
    run.send(&event);
    let done = run.finish();
    let text = "sh: task rank 0 on host host3 exited (Exit 1) and exit-timeout=0.05s has expired";
    assert_eq!((done.code, &done.raised[0]["note"]), (137, &json!(text)));
    assert_eq!(done.raised[0]["wait_status"], 256);
}

#[test]
fn pmi_is_served() {
    // A client of a few lines: it asks for the level of the instance.
    let script = r#"eval "exec 9<>/dev/fd/$PMI_FD" 2>/dev/null || :
        ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; echo "$line"; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname' >/dev/null
        ask "cmd=barrier_in"
        ask 'cmd=finalize'"#;
    let done = run(&["bash", "-c", script], 2, json!({})).finish();
    for rank in ["0", "1"] {
        let text = done.data("stdout", rank);
        assert!(text.contains("cmd=barrier_out rc=0"), "{text}");
        assert!(text.contains("cmd=finalize_ack"), "{text}");
    }
}

#[test]
fn a_terminal_is_captured() {
    let done = run(&["sh", "-c", "test -t 0 && tty; echo hi"], 1, json!({"pty": 1})).finish();
    assert_eq!(done.code, 0);
    let text = done.data("stdout", "0");
    assert!(text.starts_with("/dev/pts/") && text.ends_with("hi\r\n"), "{text:?}");
}

#[test]
fn an_interactive_terminal_waits_for_its_client() {
    let run = run(&["cat"], 1, json!({"pty": {"interactive": 1}}));
    drop(run.shared.wait("start", |state| state.log("exec.eventlog").contains("shell.start")));
    let service = service();
    let attach = json!({"type": "attach", "mode": "rw", "winsize": {"rows": 24, "cols": 80}});
    let mut message =
        Message::request(format!("{service}.terminus.0")).with_json(&attach).with_streaming();
    message.set_matchtag(1);
    message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
    run.send(&message);
    run.request("terminus.0", &json!({"type": "data", "data": "abc\n\u{4}"}), 2);
    let shared = Arc::clone(&run.shared);
    let done = run.finish();
    assert_eq!(done.code, 0);
    assert_eq!(done.events("exec.eventlog")[0]["context"]["pty"], "terminus.0");
    assert_eq!(done.data("stdout", "0"), "", "not captured");
    let state = shared.state.lock().unwrap();
    let bodies: Vec<Value> = state.responses.iter().filter_map(|m| m.json().ok()).collect();
    let kinds: Vec<&str> = bodies.iter().filter_map(|body| body["type"].as_str()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"attach"), Some(&"exit")));
    let text: String = bodies.iter().filter_map(|body| body["data"].as_str()).collect();
    assert!(text.contains("abc\r\nabc\r\n"), "{text:?}");
}

#[test]
fn two_shells_record_through_the_leader() {
    let script = "echo task $FLUX_TASK_RANK of $FLUX_JOB_SIZE; exit $FLUX_TASK_RANK";
    let done = run_on_two(&["sh", "-c", script], json!({})).finish();
    assert_eq!(done.code, 3);
    for rank in 0..4 {
        let text = done.data("stdout", &rank.to_string());
        assert_eq!(text, format!("task {rank} of 4\n"), "{:?}", done.pieces);
    }
    let names = done.names("exec.eventlog");
    for name in ["shell.init", "shell.start", "shell.task-exit"] {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{names:?}");
    }
    let eofs = done.events("output");
    assert_eq!(eofs.iter().filter(|event| event["context"]["eof"] == true).count(), 8);
}

#[test]
fn two_shells_exchange_pmi_keys() {
    let script = r#"ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname'; kvs=${line##*kvsname=}; kvs=${kvs%% *}
        ask "cmd=put kvsname=$kvs key=k$PMI_RANK value=v$PMI_RANK"
        ask "cmd=barrier_in"
        for i in 0 1 2 3; do ask "cmd=get kvsname=$kvs key=k$i"; echo "${line##*value=}"; done
        ask 'cmd=finalize'"#;
    let done = run_on_two(&["bash", "-c", script], json!({})).finish();
    assert_eq!(done.code, 0);
    for rank in 0..4 {
        assert_eq!(done.data("stdout", &rank.to_string()), "v0\nv1\nv2\nv3\n");
    }
}

#[test]
fn input_reaches_the_tasks_of_all_shells() {
    let run = run_on_two(&["cat"], json!({}));
    drop(run.shared.wait("start", |state| state.log("exec.eventlog").contains("shell.start")));
    run.request("stdin", &json!({"stream": "stdin", "rank": "3", "data": "three\n"}), 1);
    let all = json!({"stream": "stdin", "rank": "all", "data": "all\n", "eof": true});
    run.request("stdin", &all, 2);
    let done = run.finish();
    assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "all\n"));
    assert_eq!(done.data("stdout", "3"), "three\nall\n");
}

#[test]
fn what_a_job_cannot_do_without_and_is_not_there_ends_it_before_its_tasks_start() {
    let options = json!({"stage-in": {"names": "main"}});
    let done = run(&["touch", "ran"], 1, options).finish();
    assert_eq!(
        (done.code, &done.raised[0]["note"]),
        (1, &json!("option stage-in is not served by this shell"))
    );
    assert!(!done.dir.path().join("ran").exists());
    // What only measures is left out, with a word.
    let done = run(&["touch", "ran"], 1, json!({"sysmon": 1})).finish();
    assert_eq!(done.code, 0);
    let said = "option sysmon is not served by this shell";
    assert!(done.events("output").iter().any(|event| event["context"]["message"] == said));
}
