//! Every key that the reference calls live: it is reloaded while an instance runs, and its effect is
//! seen. Keys that need several users or nodes are in `tests/cluster/live.py`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use flux_api::config::catalogue::KEYS;

/// Keys, and a script that reloads them and shows what they do.
struct Row {
    keys: &'static [&'static str],
    script: &'static str,
    shows: &'static str,
}

/// Begins each script: `reload TOML`, and `said FILE WORD`, which waits for a word in a file.
const WORDS: &str = r#"
reload() { printf '%s\n' "$1" >"$CONF/x.toml"; flux config reload; }
said() { until grep -qs "$2" "$1"; do sleep 0.05; done; }
stat() { flux module stats "$1" | tr -d ' "' | tr ',{}' '\n\n\n' | grep "^$2:"; }
"#;

const EXEC: &[Row] = &[
    Row {
        keys: &["exec.term-signal", "exec.kill-timeout", "exec.kill-signal"],
        script: r#"
            reload '[exec]
            term-signal = "SIGUSR1"
            kill-signal = "SIGUSR2"
            kill-timeout = "0.3s"'
            id=$(flux submit --output=$TMP/out sh -c '
                trap "echo first" USR1; trap "echo second; exit 7" USR2; trap "echo no" TERM
                echo up; while :; do sleep 0.05; done')
            said $TMP/out up; flux cancel $id; flux job wait-event -q $id clean
            grep -v signal $TMP/out"#,
        shows: "up\nfirst\nsecond\n",
    },
    Row {
        keys: &["exec.max-kill-count", "exec.max-kill-timeout", "exec.max-start-delay-percent"],
        script: r#"
            reload '[exec]
            max-kill-count = 3
            max-kill-timeout = "90s"
            max-start-delay-percent = 50'
            for key in max-kill-count max-kill-timeout max-start-delay-percent
            do stat job-exec $key; done"#,
        shows: "max-kill-count:3\nmax-kill-timeout:90.0\nmax-start-delay-percent:50\n",
    },
    Row {
        keys: &["exec.barrier-timeout", "exec.shell-exit-timeout"],
        script: r#"
            reload '[exec]
            barrier-timeout = "2m"
            shell-exit-timeout = "none"'
            stat job-exec barrier-timeout; stat job-exec shell-exit-timeout"#,
        shows: "barrier-timeout:120.0\nshell-exit-timeout:null\n",
    },
    Row {
        keys: &["exec.on-shutdown"],
        script: r#"
            # That jobs live or die is in rejoin.rs and on the cluster.
            for what in leave kill maybe; do
            reload "[exec]
            on-shutdown = '$what'" 2>&1 | sed -n 's,.*\(must be.*(\).*/,\1,p'; flux config get exec.on-shutdown
            done"#,
        shows: "\"leave\"\n\"kill\"\nmust be \"kill\" or \"leave\" (x.toml:2)\n\"kill\"\n",
    },
    Row {
        keys: &["exec.job-shell"],
        script: r#"
            reload '[exec]
            job-shell = "/bin/false"'
            flux run true 2>/dev/null; echo $?
            reload ''; flux run echo again"#,
        shows: "1\nagain\n",
    },
];

const TIMERS: &[Row] = &[
    Row {
        keys: &["heartbeat.period", "heartbeat.timeout", "heartbeat.warn_thresh"],
        script: r#"
            reload '[heartbeat]
            period = "0.1s"
            timeout = "1m"
            warn_thresh = 9'
            for key in period timeout warn_thresh; do stat heartbeat $key; done
            flux event sub -c 3 heartbeat.pulse | wc -l"#,
        shows: "period:0.1\ntimeout:60.0\nwarn_thresh:9\n3\n",
    },
    Row {
        keys: &["job-list.max_comparisons"],
        script: r#"
            for i in 1 2 3 4; do flux run true; done
            reload '[job-list]
            max_comparisons = 2'
            flux jobs -anf completed 2>&1 | grep -c 'Excessive comparisons'
            reload ''; flux jobs -ano '{name}' | uniq"#,
        shows: "1\ntrue\n",
    },
    Row {
        keys: &["resource.journal-max"],
        script: r#"
            for i in 1 2 3 4; do flux resource drain 0 x; flux resource undrain 0; done
            reload '[resource]
            journal-max = 4'
            flux resource eventlog -f json | wc -l; stat resource journal-max"#,
        shows: "4\njournal-max:4\n",
    },
    Row {
        keys: &["sched.policy", "sched.queue-depth"],
        script: r#"
            n=$(flux resource list -s free -no {ncores})
            # The first leaves one core, which the last could have: with fifo it waits.
            flux submit -n1 sleep 1000 >/dev/null
            reload '[sched]
            policy = "fifo"
            queue-depth = 2'
            stat sched policy; stat sched queue-depth
            flux submit -n$n -t 1m true >/dev/null
            flux submit -n1 -t 1s true >/dev/null; flux submit -n1 -t 1s true >/dev/null
            until [ $(stat sched pending_jobs) = pending_jobs:2 ]; do sleep 0.05; done
            reload ''
            flux cancel --all --quiet; flux queue drain; stat sched policy; stat sched queue-depth"#,
        shows: "policy:fifo\nqueue-depth:2\npolicy:easy\nqueue-depth:null\n",
    },
];

const STAGES: &[Row] = &[
    Row {
        keys: &[
            "job-manager.plugins",
            "job-manager.plugins.load",
            "job-manager.prolog.command",
            "job-manager.prolog.per-rank",
            "job-manager.epilog.command",
            "job-manager.epilog.per-rank",
            "job-manager.perilog.log-ignore",
        ],
        script: r#"
            flux run true; cat $TMP/marks 2>&1 | grep -c 'No such'
            reload '[job-manager]
            plugins = [ { load = "perilog.so" } ]
            [job-manager.prolog]
            per-rank = true
            command = [ "sh", "-c", "echo prolog >>'$TMP'/marks; echo quiet; echo loud" ]
            [job-manager.epilog]
            per-rank = true
            command = [ "sh", "-c", "echo epilog >>'$TMP'/marks" ]
            [job-manager.perilog]
            log-ignore = [ "^qu" ]'
            flux run true; flux queue drain; cat $TMP/marks
            flux dmesg | grep -o 'stdout: .*'
            reload ''; flux run true; wc -l <$TMP/marks"#,
        shows: "1\nprolog\nepilog\nstdout: loud\n2\n",
    },
    Row {
        keys: &[
            "job-manager.prolog.timeout",
            "job-manager.prolog.kill-timeout",
            "job-manager.prolog.cancel-on-exception",
            "job-manager.prolog.exit-on-first-error",
            "job-manager.epilog.timeout",
            "job-manager.epilog.kill-timeout",
            "job-manager.epilog.cancel-on-exception",
            "job-manager.epilog.exit-on-first-error",
        ],
        script: r#"
            for stage in prolog epilog; do
            reload "[job-manager]
            plugins = [ { load = 'perilog.so' } ]
            [job-manager.$stage]
            command = [ 'sleep', '1000' ]
            timeout = '0.2s'
            kill-timeout = 3
            cancel-on-exception = true
            exit-on-first-error = true"
            flux jobtap query perilog.so | tr -d ' "' | tr ',{}' '\n\n\n' |
                grep -E '^(timeout|kill-timeout|cancel_on)'
            id=$(flux submit true); flux job wait-event -q $id clean
            flux job eventlog $id | grep -o 'exception.*' | grep -o "$stage timed out"
            done"#,
        shows: "cancel_on_exception:true\ntimeout:0.2\nkill-timeout:3.0\nprolog timed out\n\
                cancel_on_exception:true\ntimeout:0.2\nkill-timeout:3.0\nepilog timed out\n",
    },
    Row {
        keys: &[
            "prolog.timeout",
            "prolog.kill-timeout",
            "prolog.cancel-on-exception",
            "prolog.command",
            "prolog.per-rank",
            "epilog.command",
            "epilog.per-rank",
            "epilog.timeout",
            "epilog.kill-timeout",
            "epilog.cancel-on-exception",
        ],
        script: r#"
            for stage in prolog epilog; do
            reload "[$stage]
            command = [ 'sleep', '1000' ]
            per-rank = false
            timeout = '0.2s'
            kill-timeout = 2
            cancel-on-exception = false"
            flux jobtap query perilog.so | tr -d ' "' | tr ',{}' '\n\n\n' |
                grep -E '^(timeout|kill-timeout|cancel_on)'
            id=$(flux submit true); flux job wait-event -q $id clean
            flux job eventlog $id | grep -o 'exception.*' | grep -o "$stage timed out"
            done"#,
        shows: "cancel_on_exception:false\ntimeout:0.2\nkill-timeout:2.0\nprolog timed out\n\
                cancel_on_exception:false\ntimeout:0.2\nkill-timeout:2.0\nepilog timed out\n",
    },
    Row {
        keys: &[
            "job-manager.housekeeping.command",
            "job-manager.housekeeping.release-after",
            "job-manager.housekeeping.exit-on-first-error",
        ],
        script: r#"
            reload '[job-manager.housekeeping]
            command = [ "sh", "-c", "echo $FLUX_JOB_RANKS >>'$TMP'/marks" ]
            release-after = "1m"
            exit-on-first-error = true'
            flux run true; said $TMP/marks 0; cat $TMP/marks
            flux module stats job-manager | grep -o '"release-after": *60'
            reload ''; flux run true; wc -l <$TMP/marks"#,
        shows: "0\n\"release-after\": 60\n1\n",
    },
    Row {
        keys: &["job-manager.inactive-num-limit", "job-manager.inactive-age-limit"],
        script: r#"
            for i in 1 2 3 4; do flux run true; done
            reload '[job-manager]
            inactive-num-limit = 2'
            until [ $(flux jobs -ano {id} | wc -l) = 2 ]; do sleep 0.1; done
            reload '[job-manager]
            inactive-age-limit = "0.1s"'
            until [ $(flux jobs -ano {id} | wc -l) = 0 ]; do sleep 0.1; done; echo gone"#,
        shows: "gone\n",
    },
    Row {
        keys: &["job-manager.plugins.remove", "job-manager.plugins.conf"],
        script: r#"
            reload '[job-manager]
            plugins = [ { remove = "perilog.so" } ]' 2>&1 | grep -c 'cannot be removed'
            reload '[job-manager]
            plugins = [ { load = "perilog.so", conf = { a = 1 } } ]'
            flux jobtap list"#,
        shows: "1\nperilog.so\n",
    },
];

const POLICY: &[Row] = &[
    Row {
        keys: &["ingest.validator.args"],
        script: r#"
            shape='slot/[core;ssd]'
            flux submit --resources-shape="$shape" true 2>&1 | grep -o 'expected 1, got 999'
            reload '[ingest.validator]
            args = ["--require-version=any"]'
            id=$(flux submit --resources-shape="$shape" true)
            flux job wait-event $id exception | grep -o 'no resource of type .*[a-z]'"#,
        shows: "expected 1, got 999\nno resource of type 'ssd\n",
    },
    Row {
        keys: &[
            "policy.limits.duration",
            "policy.limits.job-size.max.ncores",
            "policy.limits.job-size.max.ngpus",
            "policy.limits.job-size.max.nnodes",
            "policy.limits.job-size.min.ncores",
            "policy.limits.job-size.min.ngpus",
            "policy.limits.job-size.min.nnodes",
        ],
        script: r#"
            for key in max.nnodes max.ncores min.nnodes min.ncores min.ngpus; do
            case $key in max*) n=0;; *) n=2;; esac
            reload "[policy.limits]
            job-size.$key = $n"
            echo $key $(flux submit -N1 -n1 true 2>&1 | grep -c 'policy limit')
            done
            reload '[policy.limits]
            job-size.max.ngpus = 0'
            echo max.ngpus $(flux submit -n1 -g1 true 2>&1 | grep -c 'policy limit')
            reload '[policy.limits]
            duration = "1m"'
            echo duration $(flux submit -t 2m true 2>&1 | grep -c 'policy limit')
            reload ''; flux run -t 2m echo fine"#,
        shows: "max.nnodes 1\nmax.ncores 1\nmin.nnodes 1\nmin.ncores 1\nmin.ngpus 1\nmax.ngpus 1\n\
                duration 1\nfine\n",
    },
    Row {
        keys: &[
            "policy.jobspec.defaults.system.duration",
            "policy.jobspec.defaults.system.*",
            "policy.jobspec.defaults.system.queue",
        ],
        script: r#"
            reload '[policy.jobspec.defaults.system]
            duration = "90s"
            color = "red"
            queue = "q"
            [queues.q]'
            flux queue start --quiet --all
            id=$(flux submit true)
            flux job info $id jobspec | grep -oE '"(color|queue|duration)": ?"?[a-z0-9.]*' | sort"#,
        shows: "\"color\":\"red\n\"duration\":90.0\n\"queue\":\"q\n",
    },
    Row {
        keys: &[
            "queues.*.requires",
            "queues.*.parent",
            "queues.*.policy.jobspec.defaults.system.duration",
            "queues.*.policy.jobspec.defaults.system.*",
        ],
        script: r#"
            reload '[queues.a]
            [queues.a.policy.jobspec.defaults.system]
            duration = "80s"
            color = "blue"
            [queues.b]
            requires = [ "nosuch" ]'
            flux queue start --quiet --all
            id=$(flux submit -qa true)
            flux job info $id jobspec | grep -oE '"(color|duration)": ?"?[a-z0-9.]*' | sort
            flux run -qb true 2>&1 | grep -c unsatisfiable
            reload ''; flux run echo none"#,
        shows: "\"color\":\"blue\n\"duration\":80.0\n1\nnone\n",
    },
    Row {
        keys: &[
            "queues.*.policy.limits.duration",
            "queues.*.policy.limits.job-size.max.ncores",
            "queues.*.policy.limits.job-size.max.ngpus",
            "queues.*.policy.limits.job-size.max.nnodes",
            "queues.*.policy.limits.job-size.min.ncores",
            "queues.*.policy.limits.job-size.min.ngpus",
            "queues.*.policy.limits.job-size.min.nnodes",
        ],
        script: r#"
            for key in max.nnodes max.ncores min.nnodes min.ncores min.ngpus; do
            case $key in max*) n=0;; *) n=2;; esac
            reload "[queues.q.policy.limits]
            job-size.$key = $n"
            echo $key $(flux submit -qq -N1 -n1 true 2>&1 | grep -c 'policy limit')
            done
            reload '[queues.q.policy.limits]
            duration = "1m"
            job-size.max.ngpus = 0'
            echo $(flux submit -qq -n1 -g1 true 2>&1 | grep -c 'policy limit') \
                 $(flux submit -qq -t 2m true 2>&1 | grep -c 'policy limit')"#,
        shows: "max.nnodes 1\nmax.ncores 1\nmin.nnodes 1\nmin.ncores 1\nmin.ngpus 1\n1 1\n",
    },
];

/// Live keys whose effect nothing shows but a unit test, and which.
const ELSEWHERE: &[(&str, &str)] = &[
    ("access.roles.admin.groups", "broker: access::tests"),
    ("access.roles.admin.users", "broker: access::tests"),
    ("bootstrap.hosts", "hosts.rs; cluster: faults.py"),
    ("bootstrap.hosts.host", "hosts.rs; cluster: faults.py"),
    ("bootstrap.hosts.key", "hosts.rs"),
    ("bootstrap.hosts.removed", "hosts.rs; cluster: faults.py"),
    ("exec.sdexec-properties.*", "cluster: units.py"),
    ("exec.service", "cluster: units.py"),
    (
        "policy.access.allow-group",
        "manager: tests::access; multiuser: instance.rs; cluster: live.py",
    ),
    (
        "policy.access.allow-user",
        "manager: tests::access; multiuser: instance.rs; cluster: live.py",
    ),
    (
        "queues.*.policy.access.allow-group",
        "manager: tests::access; multiuser: instance.rs; cluster: live.py",
    ),
    (
        "queues.*.policy.access.allow-user",
        "manager: tests::access; multiuser: instance.rs; cluster: live.py",
    ),
    ("job-manager.guest-inactive-num-limit", "manager: tests::archive"),
    ("job-manager.guest-max-active-bytes", "manager: tests::access; multiuser: exhaustion.rs"),
    ("job-manager.guest-max-active-jobs", "manager: tests::access; multiuser: exhaustion.rs"),
    ("content.gc", "content: tests::settings_follow_the_configuration"),
    ("content.gc-grace", "content: tests::settings_follow_the_configuration"),
    ("kvs.guest-namespace-max", "kvs: service::tests::namespaces; multiuser: exhaustion.rs"),
    ("ingest.buffer-size", "ingest: tests; multiuser: exhaustion.rs"),
    ("kvs.transaction-merge", "kvs: service::tests::writing"),
    ("queues.*.hosts", "hosts.rs"),
    ("ingest.batch-count", "ingest: tests"),
    ("ingest.frobnicator.args", "ingest: tests"),
    ("ingest.frobnicator.disable", "ingest: tests"),
    ("ingest.frobnicator.plugins", "ingest: tests"),
    ("ingest.validator.disable", "ingest: tests"),
    ("ingest.validator.plugins", "ingest: tests"),
    ("ingest.validator.require-instance", "ingest: tests"),
];

fn run(row: &Row, size: &str) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("conf");
    std::fs::create_dir(&conf).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_flux"));
    let old = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(["start", size, "-c"])
        .arg(&conf)
        .args(["sh", "-c", &format!("{WORDS}\n{}", row.script)])
        .env("PATH", format!("{}:{old}", program.parent().unwrap().display()))
        .env("CONF", &conf)
        .env("TMP", directory.path())
        .env("NO_COLOR", "1")
        .env_remove("FLUX_URI")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn check(rows: &[Row], size: &str) {
    for row in rows {
        let (out, err) = run(row, size);
        assert_eq!(out, row.shows, "{:?}\n{err}", row.keys);
    }
}

#[test]
fn keys_of_execution_are_live() {
    check(EXEC, "-s1");
}

#[test]
fn keys_of_timers_and_bounds_are_live() {
    // One broker alone has no heartbeat.
    check(TIMERS, "-s2");
}

#[test]
fn keys_of_prolog_epilog_and_housekeeping_are_live() {
    check(STAGES, "-s1");
}

#[test]
fn keys_of_policies_and_queues_are_live() {
    check(POLICY, "-s1");
}

#[test]
fn every_live_key_is_checked_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap();
    let cluster = std::fs::read_to_string(root.join("tests/cluster/live.py")).unwrap();
    let listed = cluster.split("KEYS = [").nth(1).unwrap().split(']').next().unwrap();
    let mut seen: BTreeSet<&str> = listed.split('"').skip(1).step_by(2).collect();
    for row in [EXEC, TIMERS, STAGES, POLICY].concat_rows() {
        seen.extend(row.keys);
    }
    seen.extend(ELSEWHERE.iter().map(|(key, _)| *key));
    let live: BTreeSet<&str> = KEYS.iter().filter(|key| key.live).map(|key| key.name).collect();
    let missing: Vec<&&str> = live.difference(&seen).collect();
    assert!(missing.is_empty(), "live, and nobody looks: {missing:?}");
    let wrong: Vec<&&str> = seen.difference(&live).collect();
    assert!(wrong.is_empty(), "not live: {wrong:?}");
}

/// The rows of several tables.
trait Rows {
    fn concat_rows(&self) -> Vec<&'static Row>;
}

impl Rows for [&'static [Row]; 4] {
    fn concat_rows(&self) -> Vec<&'static Row> {
        self.iter().flat_map(|rows| rows.iter()).collect()
    }
}
