//! Options and mistakes: what is accepted does something, and what is not is told in a sentence.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use instance::{flux, stdout};

/// Output, with the errors in their place, of a script in an instance of one broker.
#[track_caller]
fn check(script: &str, expected: &str) {
    let output = instance::instance(1, &[], &format!("exec 2>&1\n{script}"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{script}");
}

#[test]
fn the_parent_option_goes_up_as_often_as_it_is_given() {
    check(
        "level='getattr instance-level'
         flux -p $level
         flux alloc -n1 sh -c \"flux -p $level; flux -pp $level
             flux alloc -n1 sh -c 'flux $level; flux --parent $level; flux -p -p $level'
             flux -p kvs put up=1; flux kvs get up; true\"
         flux -p nosuch",
        "0\n0\n0\n2\n1\n0\nflux-kvs: up: No such file or directory\n\
         flux: `nosuch' is not a flux command.  See 'flux --help'\n",
    );
}

#[test]
fn the_program_tells_what_it_runs_and_helps() {
    check(
        "flux -v getattr rank 2>&1 | sed 's,local:.*,URI,'; flux -v nosuch 2>&1 | tail -2
         flux help job attach | sed -n '/^Usage/p'; flux help nosuch; flux python",
        "flux: FLUX_URI: URI\nflux: getattr: built in\n0\n\
         flux: nosuch: not found in FLUX_EXEC_PATH ''\n\
         flux: `nosuch' is not a flux command.  See 'flux --help'\n\
         Usage: flux job attach [OPTIONS] <ID>\n\
         flux: `nosuch' is not a flux command.  See 'flux --help'\n\
         flux: `python' is not a flux command.  See 'flux --help'\n\
         Ferroflux brings no Python: that of flux-core works with it\n",
    );
}

#[test]
fn nested_instances_are_listed_by_any_number_of_threads() {
    check(
        "for name in a b; do
             id=$(flux alloc --bg -n1 --job-name=$name)
             flux proxy $id flux submit --quiet --job-name=in-$name sleep inf
             flux proxy $id flux job wait-event -q $(flux proxy $id flux job last) start
         done
         for threads in 0 1 9; do
             flux jobs -R --threads=$threads --sort=name -no '{name}' | grep -v ƒ | xargs
         done
         flux jobs --threads=x 2>&1 | tail -1
         flux jobs -R --json --sort=name | grep -o '\"name\": \"[a-z-]*\"' | xargs
         flux jobs --sort=name -no '{name} {instance.stats.total}'
         flux cancel --all --quiet",
        "a b in-a in-b\na b in-a in-b\na b in-a in-b\n\
         flux jobs: error: argument --threads: invalid value: 'x'\n\
         name: a name: in-a name: b name: in-b\na 1\nb 1\n",
    );
}

#[test]
fn the_reason_for_waiting_is_told_in_lines_where_there_is_no_terminal() {
    check(
        "flux queue stop -m 'for a test' >/dev/null; id=$(flux submit true)
         status=$(mktemp); flux job attach --show-status $id 2>$status &
         until grep -q stopped $status; do :; done
         flux queue start; wait; sed \"s/$id/ID/\" $status | head -1; rm $status",
        "Scheduling is started\nID: scheduling is stopped: for a test\n",
    );
}

#[test]
fn what_is_refused_is_said_in_a_sentence() {
    check(
        "flux start --test-rundir-cleanup true; flux exec --setopt=x true
         flux pmi --libpmi-noflux barrier; flux ping -v 0; flux overlay status -r 7
         flux job taskmap f1; flux job hostpids f1; flux job list-ids f1
         flux job submit /nonexistent; flux start -c /nonexistent true
         flux batch -v --wrap -n1 --dry-run true >/dev/null; flux submit --list-plugins
         flux jobs --count=x",
        "flux-start: --test-rundir-cleanup only works with --test-size=N\n\
         flux-exec: --setopt: 'x' is not NAME=VALUE\n\
         flux-pmi: --libpmi-noflux: no libpmi.so is used here, the launcher is spoken with on PMI_FD\n\
         flux-ping: unrecognized option '-v'\nTry `flux-ping --help' for more information.\n\
         flux-overlay: rank 7 is not in this instance\n\
         flux-job: Unable to get job taskmap: no such job\n\
         flux-job: ƒ1: no such job\n\
         flux-job: ƒ1: No such job\n\
         flux-job: /nonexistent: No such file or directory\n\
         flux-broker: Config file error: /nonexistent: No such file or directory\n\
         flux-batch: true: options of the script: none\n\
         no plugins: the submission commands take none\n\
         Usage: flux jobs [OPTIONS] [JOBID]...\n\
         flux jobs: error: argument --count: invalid value: 'x'\n",
    );
}

#[test]
fn input_for_some_tasks_ends_for_all() {
    check(
        "printf 'a\\nb\\n' | flux run -n3 -l --input=1 cat | sort
         printf a | flux run -n2 --input=0-1 sh -c 'wc -c | tr -d \" \"'",
        "1: a\n1: b\n1\n1\n",
    );
}

#[test]
fn what_is_not_there_in_time_is_told() {
    check(
        "id=$(flux submit --urgency=hold true)
         flux job hostpids -t x $id
         flux job hostpids -t 0.1 $id 2>&1 >/dev/null | sed \"s/$id/ID/\"
         flux dmesg -Lalways -C; flux job eventlog -Lnever $id | sed 's/.* //' | tail -1
         flux cancel $id; flux job attach -w submit $id; echo $?",
        "flux-job: --timeout: invalid duration 'x'\n\
         flux-job: ID: it has no tasks yet\npriority=0\n0\n",
    );
}

#[test]
fn hosts_are_those_of_the_instance_and_of_jobs() {
    let script = "exec 2>&1
        id=$(flux submit -N2 sleep inf); flux job wait-event -q $id start
        flux hostlist $id; flux hostlist -e instance; flux hostlist -m inst $id
        flux run -n1 flux hostlist local; flux resource drain 3; flux hostlist avail
        flux update $id name=other; flux jobs -no '{name} {state}'; flux cancel $id";
    let output = instance::instance(4, &["--test-hosts=n[0-3]"], script);
    assert_eq!(stdout(&output), "n[0-1]\nn0 n1 n2 n3\nn[2-3]\nn2\nn[0-2]\nother RUN\n");
}

#[test]
fn an_instance_in_an_instance_of_this_host_is_reached_without_ssh() {
    check(
        "a=$(flux alloc --bg -n1); b=$(flux proxy $a flux alloc --bg -n1)
         flux proxy $a/$b flux getattr instance-level
         flux uri $a/f1; flux proxy $a/f1 true 2>&1 | sed \"s/$a/ID/\"; flux cancel $a",
        "2\nflux-uri: ERROR: jobid f1 not found\nflux-proxy: Unable to resolve ID/f1 to a URI\n",
    );
}

#[test]
fn without_an_instance_the_way_to_one_is_told() {
    let run = |uri: Option<&str>, words: &[&str]| {
        let mut command = flux();
        if let Some(uri) = uri {
            command.env("FLUX_URI", uri);
        }
        let output = command.args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        instance::stderr(&output)
    };
    let uri = "local:///nonexistent/local-0";
    assert_eq!(
        run(Some(uri), &["getattr", "rank"]),
        format!(
            "flux-getattr: flux_open: No such file or directory\n\
             FLUX_URI={uri}: that instance has ended, or is elsewhere\n"
        )
    );
    if !std::path::Path::new("/run/flux/local").exists() {
        assert_eq!(
            run(None, &["jobs"]),
            "flux-jobs: ERROR: Unable to connect to Flux: broker socket /run/flux/local was not found\n\
             flux-jobs: INFO: there is no instance here: flux start makes one\n"
        );
    }
}

#[test]
fn a_proxy_to_another_version_is_made_by_force_only() {
    // An instance of the same version: the option makes no difference.
    let output = instance::instance(
        1,
        &[],
        "flux proxy $FLUX_URI flux getattr rank; flux proxy -f $FLUX_URI flux getattr rank",
    );
    assert_eq!(stdout(&output), "0\n0\n");
}

#[test]
fn an_instance_ends_when_its_job_does_though_that_is_moved() {
    // Told to look away, it keeps the end it had.
    check(
        r#"end() { flux proxy $1 flux kvs get resource.R | grep -o '"expiration":[0-9]*' | cut -d: -f2; }
           on=$(flux alloc --bg -n1 -t 10m)
           off=$(flux alloc --bg -n1 -t 10m --conf=resource.no-update-watch=true)
           before=$(end $on); kept=$(end $off)
           for id in $on $off; do flux update $id duration=30m; done
           until test $(end $on) -eq $((before + 1200)); do sleep 0.05; done
           echo moved; test $(end $off) -eq $kept && echo kept
           flux cancel --all --quiet"#,
        "moved\nkept\n",
    );
}

#[test]
fn cpus_that_the_broker_may_not_use_count_where_nothing_is_restricted() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        return;
    }
    let script = r#"conf=$(mktemp -d); printf '[resource]\nnorestrict = true\n' >$conf/x.toml
        first=$(taskset -pc $$ | sed 's/.*: //; s/[-,].*//')
        count() { taskset -c $first flux start "$@" flux resource list -s all -no '{ncores}'; }
        test $(count) -eq 1 && echo one; test $(count -c $conf) -gt 1 && echo all
        rm -r $conf"#;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flux")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .env("PATH", path)
        .env_remove("FLUX_URI")
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "one\nall\n", "{output:?}");
}

#[test]
fn an_event_that_never_comes_is_told_when_the_job_has_ended() {
    check(
        "flux run --wait-event=nosuch true; echo $?
         flux run --wait-event=nosuch sh -c 'exit 3'; echo $?
         flux run --wait-event=start sleep 0; echo $?
         flux submit --wait-event=nosuch true 2>&1 | grep -v '^ƒ[^:]*$' | sed 's/^[^:]*/ID/'
         flux submit --quiet --wait-event=exec.nosuch true 2>/dev/null; echo $?
         flux submit --quiet --wait-event=exec.shell.init true; echo $?
         flux bulksubmit --quiet --wait-event=nosuch true ::: 1 2>/dev/null; echo $?
         flux job attach -w nosuch $(flux job last); echo $?",
        "flux-job: event 'nosuch' never received\n1\n\
         flux-job: task(s) exited with exit code 3\n\
         flux-job: event 'nosuch' never received\n3\n\
         0\n\
         ID: event 'nosuch' never received\n1\n0\n1\n\
         flux-job: event 'nosuch' never received\n1\n",
    );
}

#[test]
fn the_archive_is_the_file_that_is_configured() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let conf = "[archive]\ndbpath = \"old.sqlite\"\nbusytimeout = \"1s\"\n[tbon]\nzmqdebug = 1\n";
    std::fs::write(path("x.toml"), conf).unwrap();
    std::fs::create_dir(path("state")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_flux"))
        .args(["start", "-c", &path("x.toml"), &format!("-Sstatedir={}", path("state"))])
        .args([env!("CARGO_BIN_EXE_flux"), "run", "true"])
        .env_remove("FLUX_URI")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    // A key that means nothing here is told with its place.
    assert!(text.contains("x.toml:5: tbon.zmqdebug: has no effect here"), "{text}");
    assert!(output.status.success(), "{output:?}");
    let there = |name: &str| std::path::Path::new(&path("state")).join(name).exists();
    assert!(there("old.sqlite") && !there("job-archive.sqlite"));
}
