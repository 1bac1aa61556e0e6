//! Real instances with real processes: what a user types and what comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test, and the directory that puts it on the path.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flux"))
}

/// Runs a shell script as the initial program of an instance of `size` brokers.
fn instance(size: u32, script: &str) -> Output {
    instance_with(size, &[], script)
}

fn instance_with(size: u32, options: &[&str], script: &str) -> Output {
    let directory = program().parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    Command::new(program())
        .args(["start", "-s", &size.to_string()])
        .args(options)
        .args(["sh", "-c", script])
        .env("PATH", path)
        .env("FLUX_F58_FORCE_ASCII", "1")
        .env_remove("FLUX_URI")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a script that must succeed.
#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn a_job_on_four_nodes_prints_four_lines() {
    let lines = stdout(&instance(4, "flux run -N4 hostname"));
    assert_eq!(lines.lines().count(), 4, "{lines}");
}

#[test]
fn the_exit_code_of_the_initial_program_is_that_of_flux_start() {
    let output = instance(1, "exit 7");
    assert_eq!(output.status.code(), Some(7));
    let output = instance(3, "kill -9 $$");
    assert_eq!(output.status.code(), Some(137));
}

#[test]
fn a_hundred_jobs_all_succeed_and_are_waited_for() {
    let lines = stdout(&instance(1, "flux submit --cc=1-100 --wait true"));
    assert_eq!(lines.lines().count(), 100);
}

#[test]
fn exit_codes_follow_the_tasks() {
    let script = "
        flux run true; echo $?
        flux run sh -c 'exit 3' 2>/dev/null; echo $?
        flux run /nonexistent/program 2>/dev/null; echo $?
        flux run sh -c 'kill -SEGV $$' 2>/dev/null; echo $?
        flux run -t 1s sleep 30 2>/dev/null; echo $?
    ";
    let codes = stdout(&instance(1, script));
    assert_eq!(codes.split_whitespace().collect::<Vec<_>>(), ["0", "3", "127", "139", "142"]);
}

#[test]
fn a_running_job_that_is_canceled_ends_at_once_with_143() {
    let script = "
        id=$(flux submit sleep 1000)
        flux job wait-event -q $id start
        flux job raise $id
        flux job wait-event -q $id clean
        flux job eventlog $id | grep -o 'finish status=[0-9]*'
    ";
    assert_eq!(stdout(&instance(1, script)).trim(), "finish status=36608");
}

#[test]
fn streams_files_and_templates_arrive_whole() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}
        echo input | flux run cat
        flux run -n2 -l sh -c 'echo out $FLUX_TASK_RANK'
        flux run sh -c 'echo err >&2' 2>&1 >/dev/null
        flux run --output='job-{{{{id}}}}.out' echo filed 2>/dev/null
        cat job-*.out
        flux run seq 1 20000 | tail -1",
        directory.path().display()
    );
    let mut lines: Vec<String> =
        stdout(&instance(1, &script)).lines().map(str::to_string).collect();
    lines.sort();
    assert_eq!(lines, ["0: out 0", "1: out 1", "20000", "err", "filed", "input"]);
}

#[test]
fn dependencies_hold_until_they_are_met() {
    let script = "
        first=$(flux submit --urgency=hold false)
        second=$(flux submit --dependency=afterok:$first true)
        third=$(flux submit --dependency=afternotok:$first true)
        flux job urgency $first default
        flux job wait-event -q $second clean
        flux job wait-event -q $third clean
        flux job eventlog $second | grep -o 'type=\"dependency\"'
        flux job eventlog $third | grep -o 'finish status=0'
    ";
    assert_eq!(stdout(&instance(1, script)), "type=\"dependency\"\nfinish status=0\n");
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_leader() {
    let state = tempfile::tempdir().unwrap();
    let statedir = format!("-Sstatedir={}", state.path().display());
    let first = instance_with(
        1,
        &[&statedir],
        "flux submit --urgency=hold --cc=1-20 echo {cc}; flux kvs put a.b=42 || exit 5; \
         kill -9 $(flux getattr broker.pid)",
    );
    let ids = text(&first.stdout);
    assert_eq!(ids.lines().count(), 20, "{}", text(&first.stderr));
    let script = "
        flux kvs get a.b
        flux job list | wc -l
        for id in $(flux job list | sed 's/.*\"id\": *\\([0-9]*\\).*/\\1/'); do flux job urgency $id default; done
        flux queue drain
        flux submit true
    ";
    let second = stdout(&instance_with(1, &[&statedir], script));
    let lines: Vec<&str> = second.lines().collect();
    assert_eq!((lines[0], lines[1].trim()), ("42", "20"), "{second}");
    // Ids never go back.
    let number = |id: &str| id.parse::<flux_id::JobId>().unwrap().0;
    let last = ids.lines().map(number).max().unwrap();
    assert!(number(lines[2]) > last);
}

/// A program compiled with MPICH's compiler, if that is installed.
fn mpi_program(directory: &Path) -> Option<PathBuf> {
    let source = directory.join("ring.c");
    let binary = directory.join("ring");
    std::fs::write(&source, include_str!("ring.c")).unwrap();
    let status = Command::new("mpicc").arg("-o").arg(&binary).arg(&source).status().ok()?;
    status.success().then_some(binary)
}

#[test]
fn an_mpi_program_goes_round_the_ring_and_reduces() {
    let directory = tempfile::tempdir().unwrap();
    let Some(binary) = mpi_program(directory.path()) else {
        eprintln!("skipped: mpicc is not installed");
        return;
    };
    let binary = binary.display();
    let four = stdout(&instance(4, &format!("flux run -N4 -n8 {binary}")));
    assert_eq!(four.trim(), "ring of 8: 8 hops, sum 28");
    let one = stdout(&instance_with(
        1,
        &["-c", &many_cores(directory.path())],
        &format!("flux run -n16 {binary}"),
    ));
    assert_eq!(one.trim(), "ring of 16: 16 hops, sum 120");
}

/// A configuration with 16 cores, however many this host has.
fn many_cores(directory: &Path) -> String {
    let path = directory.join("conf.toml");
    let host = nix::unistd::gethostname().unwrap();
    let text = format!(
        "[resource]\nnoverify = true\n[[resource.config]]\nhosts = \"{}\"\ncores = \"0-15\"\n",
        host.to_string_lossy()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_shell_shows_its_own_words_and_whose_it_is() {
    let script = r#"flux run true
        flux run sh -c 'tr "\0" "\n" </proc/$PPID/cmdline; echo; tr "\0" "\n" </proc/$PPID/environ
            echo; for fd in /proc/$PPID/fd/*; do readlink $fd; done' | sed 's/^$/--/'"#;
    let lines = stdout(&instance(1, script));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[1], "shell", "{lines:#?}");
    let id = format!("FLUX_LAUNCH_ID={}", lines[2]);
    assert!(lines.contains(&id.as_str()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("FLUX_URI=local://")), "{lines:#?}");
    // Nothing that the supervisor has open is open here.
    assert!(!lines.iter().any(|line| line.ends_with("/journal")), "{lines:#?}");
}

#[test]
fn jobs_that_leave_nothing_behind_share_a_directory_one_after_the_other() {
    let script = "for n in 1 2; do flux run sh -c 'stat -c %i $FLUX_JOB_TMPDIR'; done
        flux run sh -c 'touch $FLUX_JOB_TMPDIR/x; ls $FLUX_JOB_TMPDIR'
        flux run sh -c 'ls -A $FLUX_JOB_TMPDIR | wc -l'";
    let lines = stdout(&instance(1, script));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], lines[1], "{lines:?}");
    assert_eq!(lines[2..], ["x", "0"]);
}
