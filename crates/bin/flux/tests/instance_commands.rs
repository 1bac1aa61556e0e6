//! The commands of an instance against real brokers: what is typed and what comes back.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::process::Command;

/// Runs a shell script as the initial program of an instance: its output, with the errors of the
/// commands in their place, and its exit status.
fn instance(size: u32, options: &[&str], script: &str) -> (String, i32) {
    let program = Path::new(env!("CARGO_BIN_EXE_flux"));
    let directory = program.parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(["start", "-s", &size.to_string()])
        .args(options)
        .args(["sh", "-c", &format!("exec 2>&1\n{script}")])
        .env("PATH", path)
        .env("TZ", "UTC")
        .env("NO_COLOR", "1")
        .env_remove("FLUX_URI")
        .env_remove("FLUX_KVS_NAMESPACE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output.status.code().unwrap_or(-1))
}

#[track_caller]
fn check(size: u32, script: &str, expected: &str) {
    let (text, _) = instance(size, &[], script);
    assert_eq!(text, expected, "{script}");
}

#[test]
fn attributes_are_read_and_set() {
    check(
        2,
        "flux getattr size; flux getattr nope; flux setattr rank 3
         flux setattr test.x 1 && flux getattr test.x",
        "2\nflux-getattr: nope: No such file or directory\n\
         flux-setattr: rank: attribute may not be updated\n1\n",
    );
}

#[test]
fn exec_runs_everywhere_and_its_status_is_the_highest() {
    check(
        3,
        "flux exec -l sh -c 'echo $(flux getattr rank)' | sort
         echo in | flux exec -r1-2 -l cat | sort
         flux exec sh -c 'exit $(flux getattr rank)'; echo $?
         flux exec -r1 sh -c 'kill -9 $$'; echo $?
         flux exec -r9 true; flux exec -r1 nosuchcmd; echo $?",
        "0: 0\n1: 1\n2: 2\n1: in\n2: in\n1: Exit 1\n2: Exit 2\n2\n1: Killed\n137\n\
         flux-exec: One or more invalid --ranks specified: 9\n\
         flux-exec: Error: rank 1: nosuchcmd: error launching process: No such file or directory\n\
         127\n",
    );
}

#[test]
fn exec_passes_much_input_on_and_interrupts_to_all() {
    check(
        2,
        "seq 1 100000 | flux exec cat | wc -l
         cd $(flux getattr rundir); : >out.$$
         flux exec sh -c 'trap \"exit 9\" INT; echo up; while :; do sleep 0.01; done' >out.$$ &
         pid=$!
         until test $(grep -c up out.$$) = 2; do sleep 0.01; done
         rm out.$$; kill -INT $pid; wait $pid; echo $?",
        "200000\nflux-exec: sending SIGINT to 2 running processes\n[0-1]: Exit 9\n9\n",
    );
}

#[test]
fn keys_are_put_listed_and_removed() {
    check(
        1,
        "flux kvs put a.b=1 c=2; flux kvs get a.b c; flux kvs get -l c; flux kvs dir -R a
         flux kvs link c l; flux kvs readlink l; flux kvs ls -F a l; flux kvs get a; flux kvs get x
         flux kvs unlink a; flux kvs unlink -R a; flux kvs move c d.e; flux kvs get d.e
         flux kvs put x; flux kvs namespace create n; flux kvs put -N n q=7; flux kvs get -N n q
         flux kvs eventlog append log e '{\"x\":1}'; flux kvs eventlog get -T offset log
         flux kvs eventlog wait-event -t 0.01s log z",
        "1\n2\nc=2\na.b = 1\nc\nl@\n\na:\nb\nflux-kvs: a: Is a directory\n\
         flux-kvs: x: No such file or directory\n\
         flux-kvs: cannot unlink 'a': Directory not empty\n2\n\
         flux-kvs: put: you must specify a value as key=value\n7\n0.000000 e x=1\n\
         flux-kvs: wait-event timeout on event 'z'\n",
    );
}

#[test]
fn nodes_are_drained_and_given_back() {
    let (text, code) = instance(
        2,
        &[],
        "flux resource drain 1 some reason; flux resource drain -no '{state} {ranks} {reason}'
         flux resource drain 1
         flux resource status -no '{state} {nnodes} {ranks}'
         flux resource list -no '{state} {nnodes} {ranks}'
         flux resource undrain 1; flux resource undrain 1; flux resource drain -no '{ranks}'",
    );
    assert_eq!(
        text,
        "drained 1 some reason\nflux-resource: ERROR: [Errno 17] rank 1 already drained\n\
         flux-resource: INFO: Use --force to overwrite existing drain reason\n\
         avail 1 0\ndrained 1 1\nfree 1 0\nallocated 0 \ndown 1 1\n\
         flux-resource: ERROR: rank 1 not drained\n"
    );
    assert_eq!(code, 0);
}

#[test]
fn a_core_is_drained_while_the_rest_of_the_node_is_in_use() {
    check(
        1,
        "n=$(flux resource list -s free -no {ncores})
         flux resource drain 0:core0 too hot
         flux resource drain 0:core0 2>&1 | sed s/$(hostname)/HOST/
         echo $((n - $(flux resource list -s free -no {ncores})))
         flux resource drain -no '{state} {ranks} {nodelist} {reason}' | sed s/$(hostname)/HOST/
         flux resource status -no '{state} {nnodes}'
         id=$(flux submit -n$n true); flux run true
         flux job info $(flux job last) R | grep -c '\"core\": *\"0\"'
         flux jobs -no {state} $id; flux resource undrain 0:core0
         flux job attach $id; flux resource drain -no {ranks}",
        "flux-resource: ERROR: [Errno 17] HOST:core0 already drained\n\
         flux-resource: INFO: Use --force to overwrite existing drain reason\n\
         1\ndrained 0 HOST:core0 too hot\navail 1\npartial 1\n0\nSCHED\n",
    );
}

#[test]
fn queues_stop_and_start() {
    check(
        1,
        "flux queue status; flux queue disable -m gone; flux queue enable; flux queue stop
         flux queue start; flux queue enable foo; flux queue drain; flux queue idle",
        "Job submission is enabled\nScheduling is started\nJob submission is disabled: gone\n\
         Job submission is enabled\nScheduling is stopped\nScheduling is started\n\
         flux-queue: ERROR: enable: 'foo' is not a valid queue\n0 jobs\n",
    );
}

#[test]
fn the_tree_is_drawn_and_a_cut_off_broker_is_lost() {
    let (text, _) = instance(
        4,
        &["-Stbon.topo=kary:2"],
        "host=$(flux getattr hostname); tree() { flux overlay status | sed \"s/$host/h/\"; }
         tree; flux overlay parentof 3; flux overlay disconnect 2 2>/dev/null; tree
         flux ping -c1 2 2>&1 | grep -v flux-start; true",
    );
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" 2026 ")).collect();
    let expected = "0 h: full\n├─ 1 h: full\n│  └─ 3 h: full\n└─ 2 h: full\n1\n\
                    0 h: degraded\n├─ 1 h: full\n│  └─ 3 h: full\n└─ 2 h: lost\n\
                    flux-ping: 2!broker.ping: No route to host";
    let shown: Vec<&str> = lines
        .into_iter()
        .filter(|line| line.contains(" h: ") || *line == "1" || line.starts_with("flux-ping"))
        .collect();
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn events_configuration_and_modules() {
    check(
        1,
        "flux event pub -l a.b '{\"x\":1}' && echo back
         printf '[foo]\\na = \"1m\"\\n' | flux config load; flux config get foo
         flux config get -t fsd-integer foo.a; flux config get bar
         flux module remove nosuch; flux module load nosuch; flux module list | head -1
         echo hello | flux content store
         flux content load sha1-f572d396fae9206628714fb2ce00f72e94f2258f",
        "back\n{\"a\":\"1m\"}\n60\nflux-config: bar is not set\n\
         flux-module: remove nosuch: No such file or directory\n\
         flux-module: load nosuch: module not found in search path\n\
         Module                    Idle  S Sendq Recvq Service\n\
         sha1-f572d396fae9206628714fb2ce00f72e94f2258f\nhello\n",
    );
}

#[test]
fn a_proxy_carries_commands_to_another_instance() {
    check(
        1,
        "flux proxy $FLUX_URI sh -c 'test $FLUX_PROXY_REMOTE && flux getattr size; exit 4'; echo $?
         outer=$FLUX_URI; path=${outer#local://}
         printf '#!/bin/sh\\nshift\\nexec sh -c \"$*\"\\n' >ssh.$$; chmod +x ssh.$$
         FLUX_SSH=$PWD/ssh.$$ flux proxy ssh://elsewhere$path flux getattr rank; rm ssh.$$
         flux proxy foo true; flux uri --local ssh://x/y",
        "1\n4\n0\nflux-proxy: Unable to resolve foo to a URI\nlocal:///y\n",
    );
}

#[test]
fn shutdown_ends_the_instance() {
    let (_, code) = instance(2, &[], "flux shutdown --background; sleep 60");
    assert_eq!(code, 129, "the initial program is ended by SIGHUP");
}

#[test]
fn starts_are_logged_and_a_crash_is_told() {
    let state = tempfile::tempdir().unwrap();
    let statedir = format!("-Sstatedir={}", state.path().display());
    let run = |script: &str| instance(1, &[&statedir], script).0;
    let show = "flux startlog | sed 's/[0-9-]* [0-9]*:[0-9]*/TIME/g; s/(.*s)/(FSD)/'
                flux startlog --check --quiet; echo $?";
    assert_eq!(run(show), "TIME - running (FSD)\n0\n");
    let killed = "flux startlog -v | cut -d' ' -f1; kill -9 $(flux getattr broker.pid)";
    assert!(run(killed).starts_with("0.88.0\n0.88.0\n"));
    let after =
        instance(1, &[&statedir], &format!("flux dmesg | grep -c 'not shut down'\n{show}")).0;
    assert_eq!(after, "1\nTIME - TIME (FSD)\nTIME - crashed\nTIME - running (FSD)\n1\n");
    assert!(run(show).ends_with("TIME - TIME (FSD)\nTIME - running (FSD)\n0\n"));
}

#[test]
fn another_inventory_is_taken_when_no_scheduler_looks() {
    check(
        2,
        "cd $(mktemp -d)
         flux resource reload /nosuch 2>&1
         flux module remove sched-simple
         flux resource reload nosuch 2>&1 | sed 's,: /.*/,: ,'
         echo '{}' >bad; flux resource reload bad 2>&1 | sed 's,: /.*/,: ,'
         flux R encode -r0-2 -c0-9 -H 'a[0-2]' >R
         flux resource reload R 2>&1
         flux resource reload -f R; flux resource R | flux R decode --count=core
         flux R encode -r0-1 -c0-2 -H 'b[0-1]' -p fast:1 >R
         flux resource reload R
         flux module load sched-simple
         flux resource list -s all -no '{ncores} {nodelist}'
         flux resource eventlog | grep -c method=.reload
         flux run --requires=fast -n3 -N1 true && echo ran
         flux run -n7 true 2>&1 | grep -c unsatisfiable
         flux module remove sched-simple
         flux resource reload -x . 2>&1 | sed 's,: /.*: ,: ,'
         flux module load sched-simple",
        "flux-resource: ERROR: resources are busy (unload scheduler?)\n\
         flux-resource: ERROR: nosuch: No such file or directory\n\
         flux-resource: ERROR: bad: version: expected 1\n\
         flux-resource: ERROR: resource object contains ranks execeeding size=2 (override with \
         -f))\n30\n6 b[0-1]\n2\nran\n1\nflux-resource: ERROR: no files named RANK.xml\n",
    );
}

#[test]
fn modules_are_loaded_again_and_jobs_go_on() {
    check(
        2,
        "flux cron interval 1h true >/dev/null; cores=$(flux resource list -s all -no '{ncores}')
         long=$(flux submit sleep inf); flux job wait-event -q $long start
         for name in sched cron job-info resource heartbeat; do
             flux module reload $name || echo $name
             flux module list | grep -c \"^$name \"
         done
         until [ \"$(flux resource list -s free -no '{ncores}')\" = $((cores - 1)) ]; do :; done
         flux run -n$((cores - 1)) true && echo beside
         flux jobs -no '{state}' $long; flux cancel $long; flux job wait-event $long clean >/dev/null
         flux run -n$cores true && echo all; flux cron list | wc -l
         flux module load sched 2>&1; flux module remove broker 2>&1; flux module load nosuch 2>&1",
        "1\n1\n1\n1\n1\nbeside\nRUN\nall\n2\nflux-module: load sched: File exists\n\
         flux-module: remove broker: No such file or directory\n\
         flux-module: load nosuch: module not found in search path\n",
    );
}

#[test]
fn messages_are_shown_as_they_pass() {
    check(
        2,
        "cd $(mktemp -d)
         flux module trace -f -T 'kvs.look*' kvs >module & one=$!
         flux overlay trace -r1 -t request,response >links & two=$!
         exec 2>&1
         until flux kvs get nosuch >/dev/null 2>&1; grep -q nosuch module; do :; done
         until flux exec -r1 true; grep -q 'tx 1 request rexec.exec' links; do :; done
         grep -c 'request kvs.commit' module; flux module trace nosuch; flux overlay trace -t x
         flux overlay trace -r x; kill $one $two; flux run true; echo done",
        "0\nflux-module: nosuch: no such module\n\
         flux-overlay: --type: 'x' is no kind of message\n\
         flux-overlay: --rank: 'x' is not a number\ndone\n",
    );
}
