//! What a shell does when its broker goes away: nothing is lost, nothing is doubled.

use std::time::Duration;

use flux_proto::{Errno, Message};
use serde_json::json;

use crate::fake::{Fate, ID, Run, Setting, run, run_on_two};

/// Until the shells have connected again, `times` in all.
fn wait_for_connections(run: &Run, shell: usize, times: usize) {
    drop(run.shared.wait("a connection", |state| state.connections[shell] >= times));
}

#[test]
fn a_commit_whose_answer_is_lost_counts_once() {
    for fate in [
        Fate::CutBefore,
        Fate::CutAfter,
        Fate::FailBefore(Errno::EHOSTUNREACH),
        Fate::FailAfter(Errno::EHOSTUNREACH),
        Fate::FailBefore(Errno::ENOSPC),
    ] {
        // Also for the second commit, which appends to what is there.
        for skip in [false, true] {
            let script = "echo one; sleep 0.05; echo two; sleep 0.05; echo three";
            let mut setting = Setting::new(&["sh", "-c", script]);
            setting.options = json!({"output": {"batch-timeout": 0.01}});
            if !skip {
                setting = setting.fate("kvs.commit", fate);
            }
            let run = setting.start();
            if skip {
                run.shared.wait_for_output("one");
                run.shared.state.lock().unwrap().fates.push(("kvs.commit".to_string(), fate));
            }
            let done = run.finish();
            assert_eq!(done.code, 0);
            assert_eq!(done.data("stdout", "0"), "one\ntwo\nthree\n", "{fate:?} {skip}");
            let names = done.names("exec.eventlog");
            assert_eq!(names, ["shell.init", "shell.start", "shell.task-exit"], "{fate:?} {skip}");
        }
    }
}

#[test]
fn a_broker_that_is_lost_while_the_shell_starts_is_waited_for() {
    for topic in ["job-info.lookup", "service.add", "attr.get"] {
        for fate in [Fate::CutBefore, Fate::FailBefore(Errno::EHOSTUNREACH)] {
            let done = Setting::new(&["echo", "hello"]).fate(topic, fate).start().finish();
            assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "hello\n"), "{topic}");
        }
    }
}

#[test]
fn one_of_several_shells_that_loses_its_broker_while_it_starts_waits_for_it() {
    // Whatever was asked last when the broker went.
    for topic in ["job-info.lookup", "attr.get jobid-path", "attr.get rank", "service.add"] {
        let setting = Setting::new(&["echo", "hello"]).fate(topic, Fate::CutBefore);
        let done = Setting { ntasks: 4, nshells: 2, ..setting }.start().finish();
        assert_eq!((done.code, done.raised.len()), (0, 0), "{topic}");
        assert_eq!(done.data("stdout", "3"), "hello\n", "{topic}");
    }
}

#[test]
fn a_job_without_broker_runs_on_and_tells_all_when_it_is_back() {
    let script = "echo before; while ! test -e go; do sleep 0.01; done; seq 1 1000; exit 3";
    let run = run(&["sh", "-c", script], 1, json!({}));
    run.shared.wait_for_output("before");
    run.kill_broker(0, "local");
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    // The task ends while nobody is there.
    std::thread::sleep(Duration::from_millis(300));
    run.broker(0, "local");
    let done = run.finish();
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!((done.code, done.data("stdout", "0")), (3, format!("before\n{expected}")));
    assert_eq!(done.names("exec.eventlog").last().unwrap(), "shell.task-exit");
}

#[test]
fn a_broker_that_comes_back_elsewhere_is_found() {
    let run =
        run(&["sh", "-c", "echo before; while ! test -e go; do sleep 0.01; done"], 1, json!({}));
    run.shared.wait_for_output("before");
    run.kill_broker(0, "local");
    run.broker(0, "other");
    run.announce(0, "other");
    wait_for_connections(&run, 0, 3);
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    assert_eq!(run.finish().code, 0);
}

#[test]
fn more_output_than_fits_into_memory_waits_on_disk() {
    let run = run(
        &[
            "sh",
            "-c",
            "echo before; while ! test -e go; do sleep 0.01; done; \
        seq 1 3000000; touch written",
        ],
        1,
        json!({}),
    );
    run.shared.wait_for_output("before");
    run.kill_broker(0, "local");
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    // The task is not held up: all of its 20 MB are taken, more than stays in memory.
    let written = run.dir.path().join("written");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !written.exists() {
        assert!(std::time::Instant::now() < until, "the task is held up");
        std::thread::sleep(Duration::from_millis(10));
    }
    run.broker(0, "local");
    let done = run.finish();
    let expected: String = (1..=3_000_000).map(|n| format!("{n}\n")).collect();
    assert!(done.data("stdout", "0") == format!("before\n{expected}"));
}

#[test]
fn signals_are_heard_again_after_a_loss() {
    let run = run(
        &["sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done"],
        1,
        json!({}),
    );
    run.shared.wait_for_output("ready");
    run.kill_broker(0, "local");
    run.broker(0, "local");
    // The subscription comes after the service.
    drop(run.shared.wait("subscription", |state| {
        state.topics.iter().filter(|topic| *topic == "event.subscribe").count() >= 2
    }));
    run.send(&Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 10})));
    assert_eq!(run.finish().code, 5);
}

#[test]
fn a_signal_that_was_missed_is_told_and_counts_once() {
    let run = run(
        &[
            "sh",
            "-c",
            "trap 'echo heard' USR1; echo ready; while ! test -e go; do sleep 0.01; done",
        ],
        1,
        json!({}),
    );
    run.shared.wait_for_output("ready");
    let event = |n: u64| {
        Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 10, "n": n}))
    };
    run.send(&event(5));
    run.shared.wait_for_output("heard");
    run.kill_broker(0, "local");
    run.broker(0, "local");
    drop(run.shared.wait("subscription", |state| {
        state.topics.iter().filter(|topic| *topic == "event.subscribe").count() >= 2
    }));
    // Until it is known to be subscribed it is told again.
    let signals = json!({"signals": [{"signum": 10, "n": 5}, {"signum": 10, "n": 6}]});
    let accepted = |tag: u32| {
        run.request("kill", &signals, tag);
        let answered = |state: &crate::fake::State| {
            state.responses.iter().any(|response| response.matchtag() == tag)
        };
        let state = run.shared.wait("answer", answered);
        let found = state.responses.iter().find(|response| response.matchtag() == tag);
        found.unwrap().errnum() == Errno(0)
    };
    let mut tag = 1;
    while !accepted(tag) {
        tag += 1;
        assert!(tag < 1000);
    }
    // The event may come late.
    run.send(&event(6));
    drop(run.shared.wait("the second", |state| state.log("output").matches("heard").count() >= 2));
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    let done = run.finish();
    assert_eq!(done.data("stdout", "0"), "ready\nheard\nheard\n");
}

#[test]
fn an_end_that_cannot_be_told_is_not_late() {
    // The exit timeout passes while the store, or a broker, is away.
    let options = json!({"exit-timeout": 0.2});
    let script = "echo begun; while ! test -e go$FLUX_TASK_RANK; do sleep 0.01; done";
    for lost in [0, 1] {
        let setting = Setting::new(&["sh", "-c", script]);
        let setting = Setting { ntasks: 2, nshells: 2, options: options.clone(), ..setting };
        let run = setting.start();
        drop(run.shared.wait("start", |state| state.log("output").matches("begun").count() == 2));
        run.kill_broker(lost, "local");
        for task in 0..2 {
            std::fs::write(run.dir.path().join(format!("go{task}")), "").unwrap();
        }
        std::thread::sleep(Duration::from_millis(1500));
        run.broker(lost, "local");
        let done = run.finish();
        assert_eq!((done.code, done.raised), (0, vec![]), "{lost}");
    }
    let run = run(&["true"], 1, options);
    run.shared.state.lock().unwrap().store_hangs = true;
    std::thread::sleep(Duration::from_millis(700));
    run.shared.state.lock().unwrap().store_hangs = false;
    run.shared.changed.notify_all();
    let done = run.finish();
    assert_eq!((done.code, done.raised), (0, vec![]));
}

#[test]
fn tasks_that_were_started_late_are_not_late() {
    // One shell hears long after the other that the first barrier was passed.
    let script = "test $FLUX_TASK_RANK = 0 || touch begun";
    let options = json!({"exit-timeout": 3});
    let setting = Setting {
        ntasks: 2,
        nshells: 2,
        slow: Some(1),
        options,
        ..Setting::new(&["sh", "-c", script])
    };
    let run = setting.start();
    drop(run.shared.wait("first task", |state| state.log("exec.eventlog").contains("task-exit")));
    std::thread::sleep(Duration::from_millis(3500));
    assert!(!run.dir.path().join("begun").exists());
    run.hurry();
    let done = run.finish();
    assert_eq!((done.code, done.raised.len()), (0, 0));
    assert!(done.dir.path().join("begun").exists());
}

#[test]
fn tasks_of_another_shell_that_run_on_are_late() {
    let script = "test $FLUX_TASK_RANK = 0 || sleep 1000";
    let setting = Setting::new(&["sh", "-c", script]);
    let options = json!({"exit-timeout": 0.2});
    let run = Setting { ntasks: 2, nshells: 2, options, ..setting }.start();
    let raised = run.shared.wait("exception", |state| !state.raised.is_empty()).raised.clone();
    let note = raised[0]["note"].as_str().unwrap();
    assert!(note.ends_with("exited (Exit 0) and exit-timeout=0.2s has expired"), "{note}");
    run.send(&Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 9})));
    assert_eq!(run.finish().raised.len(), 1);
}

#[test]
fn shells_whose_leader_is_lost_end_with_their_tasks() {
    let mut run = run_on_two(&["sh", "-c", "echo $FLUX_TASK_RANK; sleep 1000"], json!({}));
    for rank in 0..4 {
        run.shared.wait_for_output(&format!("{rank}\\n"));
    }
    run.kill_broker(0, "local");
    run.children[0].kill().unwrap();
    run.request_to(
        1,
        "exception",
        &json!({"type": "lost-shell", "severity": 0, "shell_rank": 0,
        "message": "node failure on host0 (rank 0)"}),
        1,
    );
    drop(run.shared.wait("answer", |state| !state.responses.is_empty()));
    run.send(&Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 15, "n": 1})));
    // It keeps no letters for a leader that nobody will hear of again.
    assert!(run.children[1].wait().unwrap().code().is_some());
}

#[test]
fn input_goes_on_after_a_loss_and_a_piece_sent_twice_counts_once() {
    let run = run(&["cat"], 1, json!({}));
    drop(run.shared.wait("start", |state| state.log("exec.eventlog").contains("shell.start")));
    let piece = |seq: u32, data: &str| json!({"stream": "stdin", "rank": "all", "data": data, "client": "c1", "seq": seq});
    run.request("stdin", &piece(1, "one\n"), 1);
    run.shared.wait_for_output("one");
    run.kill_broker(0, "local");
    run.broker(0, "local");
    drop(run.shared.wait("registration", |state| {
        state.topics.iter().filter(|topic| *topic == "service.add").count() >= 2
    }));
    run.request("stdin", &piece(1, "one\n"), 2);
    run.request("stdin", &piece(2, "two\n"), 3);
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "eof": true}), 4);
    let done = run.finish();
    assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "one\ntwo\n"));
}

#[test]
fn the_output_of_a_shell_whose_broker_is_lost_reaches_the_leader() {
    let script = "echo before $FLUX_TASK_RANK; while ! test -e go; do sleep 0.01; done; \
        seq 1 1000; exit $FLUX_TASK_RANK";
    // The broker of either, or of both.
    for lost in [vec![1], vec![0], vec![0, 1]] {
        let run = run_on_two(&["sh", "-c", script], json!({}));
        for rank in 0..4 {
            run.shared.wait_for_output(&format!("before {rank}"));
        }
        for shell in &lost {
            run.kill_broker(*shell, "local");
        }
        std::fs::write(run.dir.path().join("go"), "").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        for shell in &lost {
            run.broker(*shell, "local");
        }
        let done = run.finish();
        assert_eq!(done.code, 3, "{lost:?}");
        let numbers: String = (1..=1000).map(|n| format!("{n}\n")).collect();
        for rank in 0..4 {
            let expected = format!("before {rank}\n{numbers}");
            assert!(done.data("stdout", &rank.to_string()) == expected, "{lost:?} {rank}");
        }
        let exits = done.names("exec.eventlog");
        assert_eq!(exits.iter().filter(|name| *name == "shell.task-exit").count(), 1);
    }
}

#[test]
fn a_letter_whose_answer_is_lost_counts_once() {
    for method in [".write", ".doom", ".tasks-complete"] {
        for fate in [Fate::CutAfter, Fate::CutBefore] {
            // At the end, the leader may have gone when the last letter is sent again.
            let setting = Setting::new(&["sh", "-c", "echo $FLUX_TASK_RANK"]).fate(method, fate);
            let done = Setting { ntasks: 4, nshells: 2, ..setting }.start().finish();
            assert_eq!(done.code, 0, "{method} {fate:?}");
            for rank in 0..4 {
                assert_eq!(done.data("stdout", &rank.to_string()), format!("{rank}\n"));
            }
        }
    }
}

#[test]
fn a_pmi_exchange_survives_the_loss_of_a_broker() {
    let script = r#"ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname'; kvs=${line##*kvsname=}; kvs=${kvs%% *}
        for round in 1 2; do
            ask "cmd=put kvsname=$kvs key=k$round.$PMI_RANK value=v$round.$PMI_RANK"
            ask "cmd=barrier_in"
            for i in 0 1 2 3; do
                ask "cmd=get kvsname=$kvs key=k$round.$i"; echo "${line##*value=}"
            done
        done
        ask 'cmd=finalize'"#;
    for fate in [Fate::CutAfter, Fate::CutBefore, Fate::FailBefore(Errno::ENOSYS)] {
        let setting = Setting::new(&["bash", "-c", script]).fate(".pmi-exchange", fate);
        let done = Setting { ntasks: 4, nshells: 2, ..setting }.start().finish();
        assert_eq!(done.code, 0, "{fate:?}");
        for rank in 0..4 {
            let text = done.data("stdout", &rank.to_string());
            let expected = "v1.0\nv1.1\nv1.2\nv1.3\nv2.0\nv2.1\nv2.2\nv2.3\n";
            assert_eq!(text, expected, "{fate:?}");
        }
    }
}

#[test]
fn a_pmi_exchange_waits_for_a_broker_that_is_away() {
    let script = r#"ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname'; kvs=${line##*kvsname=}; kvs=${kvs%% *}
        ask "cmd=put kvsname=$kvs key=k$PMI_RANK value=v$PMI_RANK"
        echo ready $PMI_RANK
        while ! test -e go; do sleep 0.01; done
        ask "cmd=barrier_in"
        for i in 0 1 2 3; do ask "cmd=get kvsname=$kvs key=k$i"; echo "${line##*value=}"; done
        ask 'cmd=finalize'"#;
    for lost in [0, 1] {
        let run = run_on_two(&["bash", "-c", script], json!({}));
        for rank in 0..4 {
            run.shared.wait_for_output(&format!("ready {rank}"));
        }
        run.kill_broker(lost, "local");
        std::fs::write(run.dir.path().join("go"), "").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        run.broker(lost, "local");
        let done = run.finish();
        assert_eq!(done.code, 0, "{lost}");
        for rank in 0..4 {
            let text = done.data("stdout", &rank.to_string());
            assert_eq!(text, format!("ready {rank}\nv0\nv1\nv2\nv3\n"));
        }
    }
}

#[test]
fn a_barrier_whose_answer_is_lost_is_entered_again() {
    for fate in [
        Fate::CutBefore,
        Fate::FailBefore(Errno::EHOSTUNREACH),
        // A leader that was restarted and does not know the job yet.
        Fate::FailBefore(Errno::ENOENT),
    ] {
        let setting = Setting::new(&["true"]).fate("job-exec.shell-barrier", fate);
        let done = Setting { ntasks: 4, nshells: 2, ..setting }.start().finish();
        assert_eq!(done.code, 0, "{fate:?}");
        assert!(done.names("exec.eventlog").contains(&"shell.start".to_string()));
    }
}

#[test]
fn a_barrier_that_the_others_have_passed_is_passed_at_once() {
    let setting = Setting::new(&["sh", "-c", "while ! test -e go; do sleep 0.01; done"]);
    let run = Setting { ntasks: 4, nshells: 2, slow: Some(1), ..setting }.start();
    let entered = |state: &crate::fake::State| {
        state.topics.iter().filter(|topic| *topic == "job-exec.shell-barrier").count()
    };
    // The answer of either barrier is lost with the broker of the second shell, which is the only
    // one that asks again.
    for count in [2, 5] {
        drop(run.shared.wait("barrier", |state| entered(state) >= count));
        run.kill_broker(1, "local");
        run.broker(1, "local");
        drop(run.shared.wait("barrier again", |state| entered(state) > count));
    }
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    let done = run.finish();
    assert_eq!((done.code, done.raised.len()), (0, 0));
    assert!(done.names("exec.eventlog").contains(&"shell.start".to_string()));
}

#[test]
fn the_second_barrier_ends_no_job() {
    // Another shell has ended, and the answer that was for this one was lost with rank 0.
    let run = run_on_two(&["sh", "-c", "while ! test -e go; do sleep 0.01; done"], json!({}));
    let barrier = |state: &crate::fake::State| {
        state.topics.iter().filter(|topic| *topic == "job-exec.shell-barrier").count()
    };
    drop(run.shared.wait("first barrier", |state| barrier(state) >= 2));
    let eio = Fate::FailBefore(Errno::EIO);
    let both = vec![("shell-barrier".to_string(), eio), ("shell-barrier".to_string(), eio)];
    run.shared.state.lock().unwrap().fates = both;
    drop(run.shared.wait("second barrier", |state| barrier(state) >= 4));
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    let done = run.finish();
    assert_eq!((done.code, done.raised.len()), (0, 0));
}

#[test]
fn a_broker_that_never_comes_back_ends_the_job_after_a_while() {
    let run = Setting {
        patience: "300ms",
        ..Setting::new(&[
            "sh",
            "-c",
            "trap '' TERM; echo $$ > pid; echo up; sleep 1000 & wait; sleep 1000",
        ])
    }
    .start();
    run.shared.wait_for_output("up");
    let pid = std::fs::read_to_string(run.dir.path().join("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    run.kill_broker(0, "local");
    assert_eq!(run.finish().code, 137);
    // Nothing is left of its process group, once the system has cleared it away.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while rustix::process::test_kill_process_group(pid).is_ok() {
        assert!(std::time::Instant::now() < until, "processes are left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_end_that_nobody_can_be_told_is_not_told_for_ever() {
    let run = Setting {
        patience: "300ms",
        ..Setting::new(&["sh", "-c", "echo up; while ! test -e go; do sleep 0.01; done"])
    }
    .start();
    run.shared.wait_for_output("up");
    run.kill_broker(0, "local");
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    assert_eq!(run.finish().code, 1);
}

#[test]
fn a_store_that_hangs_holds_no_task_up() {
    let run = run(
        &[
            "sh",
            "-c",
            "echo before; while ! test -e go; do sleep 0.01; done; \
        seq 1 2000000; touch written",
        ],
        1,
        json!({}),
    );
    run.shared.wait_for_output("before");
    run.shared.state.lock().unwrap().store_hangs = true;
    std::fs::write(run.dir.path().join("go"), "").unwrap();
    let written = run.dir.path().join("written");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !written.exists() {
        assert!(std::time::Instant::now() < until, "the task is held up");
        std::thread::sleep(Duration::from_millis(10));
    }
    run.shared.state.lock().unwrap().store_hangs = false;
    run.shared.changed.notify_all();
    let done = run.finish();
    let expected: String = (1..=2_000_000).map(|n| format!("{n}\n")).collect();
    assert!(done.data("stdout", "0") == format!("before\n{expected}"));
}
