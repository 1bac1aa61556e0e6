//! The job commands against a real instance of one broker.

use std::process::{Command, Output};

/// Runs a shell script as the initial program of an instance, with `flux` on its path.
fn instance(script: &str) -> Output {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flux"));
    let directory = program.parent().expect("a program is in a directory");
    let old = std::env::var("PATH").unwrap_or_default();
    Command::new(program)
        .args(["start", "-s1", "sh", "-c", script])
        .env("PATH", format!("{}:{old}", directory.display()))
        .env("FLUX_F58_FORCE_ASCII", "1")
        .env_remove("FLUX_URI")
        .output()
        .expect("flux starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn run_has_the_output_input_and_exit_status_of_the_job() {
    let output = instance(
        "echo data | flux run cat; echo $?; \
         flux run sh -c 'echo to-err >&2; exit 3'; echo $?; \
         flux run -n2 -l echo hi | sort; \
         flux run nosuchcommand; echo $?",
    );
    assert_eq!(out(&output), "data\n0\n3\n0: hi\n1: hi\n127\n");
    let errors = err(&output);
    assert!(errors.contains("to-err\nflux-job: task(s) exited with exit code 3\n"), "{errors}");
    assert!(errors.contains("nosuchcommand: No such file or directory"), "{errors}");
    assert!(errors.contains("flux-job: task(s) exited with exit code 127\n"), "{errors}");
}

#[test]
fn large_input_and_output_pass_unchanged() {
    let output = instance("seq 1 100000 | flux run cat | cksum; seq 1 100000 | cksum");
    let text = out(&output);
    let sums: Vec<&str> = text.lines().collect();
    assert_eq!(sums.len(), 2, "{text} {}", err(&output));
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn submissions_are_followed_and_refused() {
    let output = instance(
        "flux submit --cc=1-300 --wait --quiet true; echo $?; \
         flux submit --wait --quiet sh -c 'exit 4'; echo $?; \
         flux submit --quiet --watch --cc=7 sh -c 'echo $FLUX_JOB_CC'; \
         flux bulksubmit --quiet --watch echo {} ::: a b | sort; \
         flux submit -q foo true; echo $?; flux run -q foo true; echo $?",
    );
    assert_eq!(out(&output), "0\n4\n7\na\nb\n1\n1\n", "{}", err(&output));
    let errors = err(&output);
    assert!(errors.contains("[Errno 22] 'foo' is not a valid queue\n"), "{errors}");
    assert!(errors.contains("flux-run: ERROR: 'foo' is not a valid queue\n"), "{errors}");
}

#[test]
fn jobs_are_held_released_canceled_and_waited_for() {
    let output = instance(
        "id=$(flux submit --urgency=hold sleep 100); \
         flux job urgency -v $id default; \
         flux job wait-event -q $id start; \
         flux cancel $id; flux job attach $id; flux cancel $id; \
         id=$(flux submit --flags=waitable false); flux job wait $id >/dev/null; echo $?; \
         flux job wait; echo $?; \
         flux cancel --all; flux job attach f1; flux job eventlog f1; flux cancel; \
         flux job wait-event -t 0.1 $id nosuch; echo $?",
    );
    assert_eq!(out(&output), "1\n2\n1\n", "{}", err(&output));
    let errors = err(&output);
    for text in [
        "old urgency: 0 (job held)\n",
        " type=cancel severity=0\n",
        ": job is inactive\n",
        "flux-job: task(s) exited with exit code 1\n",
        "flux-job: there are no more waitable jobs\n",
        "flux-cancel: Matched 0 jobs\n",
        "flux-job: Failed to attach to f1: No such job\n",
        "flux-job: job f1 not found\n",
        "flux-cancel: ERROR: No target jobs were provided\n",
        "flux-job: event 'nosuch' never received\n",
    ] {
        assert!(errors.contains(text), "{text:?} is not in {errors}");
    }
}

#[test]
fn instances_nest() {
    let output = instance("flux alloc -n1 flux getattr instance-level </dev/null");
    assert_eq!(out(&output), "1\n", "{}", err(&output));
}

#[test]
fn jobs_are_listed_found_and_told_by_their_end() {
    let output = instance(
        "flux run true; flux run --job-name=three sh -c 'exit 3'; \
         id=$(flux submit --urgency=hold sleep 100); \
         flux job status $(flux job last '[1]'); echo $?; \
         flux jobs -no '{name} {status_abbrev} {contextual_info}'; \
         flux jobs -f failed -no '{name} {returncode} {inactive_reason}'; \
         flux jobs --stats-only; echo $?; \
         flux pgrep -ano '{name}' '^thr'; flux pgrep nosuch; echo $?; \
         flux jobs foo; flux jobs -f foo; flux pkill sleep",
    );
    assert_eq!(
        out(&output).lines().filter(|line| !line.contains("JOBID")).collect::<Vec<_>>(),
        [
            "3",
            "sleep S held",
            "three 3 Exit 3",
            "0 running, 1 completed, 1 failed, 1 pending, 0 inactive purged",
            "0",
            "three",
            "1",
        ],
        "{}",
        err(&output)
    );
    let errors = err(&output);
    for text in [
        "JobID foo unknown\n",
        "flux-jobs: ERROR: Invalid filter specified: foo\n",
        "flux-pkill: INFO: Canceled 1 job\n",
    ] {
        assert!(errors.contains(text), "{text:?} is not in {errors}");
    }
}
