//! Recovery mode: the state of an instance that ended is looked into and mended, and nothing runs.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use instance::{flux, stderr, stdout};

#[test]
fn the_state_of_a_dead_instance_is_read_and_changed_and_no_job_runs() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().display().to_string();
    let statedir = format!("-Sstatedir={directory}");
    let killed = instance::instance(
        3,
        &[&statedir, "--test-exit-timeout=0.1s"],
        "flux run true; flux submit --quiet --urgency=hold --job-name=waits true
         flux resource drain 1 bad; flux kvs put a=1; flux queue stop --quiet
         flux submit --quiet -N3 --job-name=wide true
         kill -9 $(flux getattr broker.pid)",
    );
    assert!(!killed.status.success());
    let output = flux()
        .args(["start", &format!("--recovery={directory}"), "sh", "-c"])
        .arg(
            "flux getattr size; flux kvs get a; flux kvs put a=2; flux startlog | cut -c18-
             flux jobs -a --sort=name -no '{name} {status}'
             flux resource drain -no '{reason}'
             flux queue start >/dev/null; flux job urgency $(flux pgrep waits) default
             flux jobs -no '{name} {state} {urgency}' --sort=name",
        )
        .output()
        .unwrap();
    assert_eq!(
        stdout(&output),
        "1\n1\n- crashed\ntrue COMPLETED\nwaits SCHED\nwide SCHED\nbad\n\
         waits SCHED 16\nwide SCHED 16\n"
    );
    // Back in order: what was changed is so, and jobs run.
    let after = instance::instance(
        3,
        &[&statedir],
        "flux kvs get a; flux resource undrain 1; flux queue drain
         flux jobs -a --sort=name -no '{name} {status}'",
    );
    assert_eq!(stdout(&after), "2\ntrue COMPLETED\nwaits COMPLETED\nwide COMPLETED\n");
    assert!(stderr(&after).contains("not shut down in order before"), "{}", stderr(&after));
}

#[test]
fn what_cannot_be_recovered_is_told() {
    let empty = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| {
        let output = flux().arg("start").args(words).arg("true").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        stderr(&output)
    };
    assert_eq!(
        refused(&["--recovery=/nonexistent"]),
        "flux-start: --recovery: /nonexistent: No such file or directory\n"
    );
    let directory = empty.path().display();
    assert_eq!(
        refused(&[&format!("--recovery={directory}")]),
        format!("flux-start: --recovery: {directory}: content.sqlite: No such file or directory\n")
    );
    assert_eq!(
        refused(&["--recovery=x", "-s2"]),
        "flux-start: --recovery and --test-size exclude each other\n"
    );
}
