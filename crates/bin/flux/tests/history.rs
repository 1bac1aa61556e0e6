//! What a real instance remembers after its leader was killed: finished jobs, the order and the
//! settings of pending ones, queues and drained nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output};

/// Waits until every finished job is in the archive.
const ARCHIVED: &str =
    "until flux module stats job-list | grep -q '\"unarchived\": *0'; do sleep 0.05; done";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a shell script as the initial program of an instance with this state directory.
fn instance(statedir: &Path, options: &[&str], script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_flux"));
    let directory = program.parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    Command::new(program)
        .args(["start", "-s1", &format!("-Sstatedir={}", statedir.display())])
        .args(options)
        .args(["sh", "-c", script])
        .env("PATH", path)
        .env("FLUX_F58_FORCE_ASCII", "1")
        .env_remove("FLUX_URI")
        .output()
        .unwrap()
}

/// Standard output of a script that ends with the death of the leader.
fn killed(statedir: &Path, script: &str) -> String {
    let script = format!("{script}\nkill -9 $(flux getattr broker.pid)");
    let output = instance(statedir, &[], &script);
    text(&output.stdout)
}

#[track_caller]
fn stdout(output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{}: {}{errors}", output.status, text(&output.stdout));
    text(&output.stdout)
}

#[test]
fn finished_jobs_are_listed_after_a_restart_and_can_be_meant() {
    let state = tempfile::tempdir().unwrap();
    let first = killed(
        state.path(),
        "flux submit --cc=1-30 --quiet --wait true
         flux run --label-io false 2>/dev/null
         flux jobs -a --no-header -o '{id} {name} {result} {ranks} {nnodes} {t_run}' | sort",
    );
    assert_eq!(first.lines().count(), 31, "{first}");
    // The archive knows them all, or the index does: twice, so that both are seen.
    for _ in 0..2 {
        let script =
            "flux jobs -a --no-header -o '{id} {name} {result} {ranks} {nnodes} {t_run}' | sort";
        let again = killed(state.path(), &format!("{script}\n{ARCHIVED}"));
        assert_eq!(again, first);
    }
    let script = "
        good=$(flux jobs -a --no-header -f completed -o '{id}' | head -1)
        bad=$(flux jobs -a --no-header -f failed -o '{id}' | head -1)
        flux run --dependency=afterok:$good echo after good
        flux submit --dependency=afterok:$bad true 2>&1 | grep -c 'failed or was canceled'
        flux cancel $good 2>&1 | grep -c inactive
        flux job eventlog $good | grep -c clean
        flux job attach $bad >/dev/null 2>&1; echo $?
        flux job last '[0:3]' | wc -l
        flux job purge --force --num-limit=5 >/dev/null
        flux jobs -a --no-header | wc -l
        flux job eventlog $bad >/dev/null 2>&1 || echo gone
    ";
    let lines = stdout(&instance(state.path(), &[], script));
    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
    assert_eq!(lines[..6], ["after good", "1", "1", "1", "1", "3"], "{lines:?}");
    assert_eq!(lines[6], "5");
}

#[test]
fn ids_never_go_back_even_when_all_jobs_were_purged() {
    let state = tempfile::tempdir().unwrap();
    let last = |text: &str| {
        let id = text.split_whitespace().next().unwrap();
        id.parse::<flux_id::JobId>().unwrap().0
    };
    let first = killed(
        state.path(),
        "flux submit --wait true; flux job purge --force --num-limit=0 >/dev/null;
         flux jobs -a --no-header",
    );
    assert_eq!(first.lines().count(), 1, "{first}");
    let second = stdout(&instance(state.path(), &[], "flux submit true"));
    assert!(last(&second) > last(&first));
}

#[test]
fn pending_jobs_keep_their_order_and_everybody_his_settings() {
    let state = tempfile::tempdir().unwrap();
    let before = killed(
        state.path(),
        "flux queue stop --quiet
         a=$(flux submit true); b=$(flux submit --urgency=hold true); c=$(flux submit true)
         d=$(flux submit --urgency=20 true); e=$(flux submit --flags=waitable true)
         flux job urgency $c 25 2>/dev/null
         f=$(flux submit --flags=waitable --urgency=hold true)
         flux resource drain 0 broken fan; flux resource drain 0:core0 hot spot
         flux queue disable -m closed --quiet
         flux jobs --no-header -f pending -o '{id} {urgency} {state}'
         flux resource drain --no-header -o '{reason}'
         flux resource drain --no-header -o '{nodelist}' | tail -n 1
         flux queue status",
    );
    let script = "
        flux jobs --no-header -f pending -o '{id} {urgency} {state}'
        flux resource drain --no-header -o '{reason}'
        flux resource drain --no-header -o '{nodelist}' | tail -n 1
        flux queue status";
    let again = killed(state.path(), script);
    assert_eq!(again, before);
    assert!(before.contains(":core0") && before.contains("hot spot"), "{before}");
    assert!(before.contains("broken fan") && before.contains("closed"), "{before}");
    assert_eq!(before.lines().filter(|line| line.contains("SCHED")).count(), 6, "{before}");
    let script = "
        flux resource undrain 0; flux queue enable --quiet; flux queue start --quiet
        for id in $(flux jobs --no-header -f pending -o '{id} {urgency}' | awk '$2 == 0 {print $1}')
        do flux job urgency $id default 2>/dev/null; done
        flux queue drain
        flux job wait --all && flux job wait --all; echo $?
        flux jobs -a --no-header -o '{result}' | sort | uniq -c";
    let end = stdout(&instance(state.path(), &[], script));
    assert!(end.contains("6 COMPLETED"), "{end}");
}

#[test]
fn a_lost_archive_is_made_anew() {
    let state = tempfile::tempdir().unwrap();
    killed(
        state.path(),
        &format!(
            "flux submit --cc=1-5 --quiet --wait true; flux submit --quiet --urgency=hold true\n{ARCHIVED}"
        ),
    );
    for damage in [true, false] {
        let file = state.path().join("job-archive.sqlite");
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(state.path().join(format!("job-archive.sqlite{suffix}"))).ok();
        }
        if damage {
            std::fs::write(&file, vec![b'x'; 10_000]).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let lines = killed(state.path(), &format!("flux jobs -a --no-header | wc -l\n{ARCHIVED}"));
        assert_eq!(lines.trim(), "6");
    }
}
