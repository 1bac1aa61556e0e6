//! What a job leaves behind when it ends: nothing that runs, before its cores are another's.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::process::{Child, Command};

use flux_multiuser::instance;
use flux_multiuser::{ALICE, BOB, FLUX, Instance, ROOT, User, until};

const OPEN: &str = "allow-guest-user = true\nallow-root-owner = true";

/// Ways to get out of sight: another session, another parent, no environment, no signal, no name,
/// a child that appears when its parent is killed. All end by themselves in the end; their seconds
/// tell whose they are, since other tests run at the same time.
fn hide() -> String {
    "q='</dev/null >/dev/null 2>&1'
    eval \"setsid sleep D0 $q &\"
    eval \"(setsid sh -c 'setsid sleep D1 &' $q &)\"
    eval \"env -i setsid sh -c 'trap \\\"\\\" TERM HUP INT USR1; exec sleep D2' $q &\"
    eval \"(env -i perl -e '\\$0 = q(kworker/0:1); setpgrp; fork and exit; fork and exit; exec q(sleep), q(D3)' $q &)\"
    eval \"setsid sh -c 'for i in $(seq -s\\  2000); do sleep 0.01; setsid sleep D4 & done' $q &\"
    until [ $(pgrep -cf '^sleep D[0-4]$') -ge 5 ]; do sleep 0.01; done\n"
        .replace('D', &digits())
}

/// What their seconds begin with.
fn digits() -> String {
    format!("200.{}", std::process::id())
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().to_string()
}

fn hidden() -> Vec<String> {
    let said = ROOT.run(&["pgrep", "-f", &format!("^sleep {}[0-4]$", digits())]);
    said.out.lines().map(str::to_string).collect()
}

/// Submits a job on all cores, so that the next one needs what this one had.
fn submit(instance: &Instance, user: User, script: &str) -> String {
    instance.ok(user, &["submit", "-N1", "--exclusive", "sh", "-c", script])
}

#[test]
#[ignore = "needs root and MUNGE"]
fn what_a_job_leaves_behind_has_ended_before_its_cores_are_free() {
    let instance = Instance::start(OPEN);
    let hide = hide();
    let look = format!("ps -eo pid,ppid,pgid,sid,stat,user,args | grep '[ ]sleep {}'; :", digits());
    for (user, end) in [(ALICE, "exit 0"), (ALICE, "kill -9 $$"), (FLUX, "exit 3")] {
        let id = submit(&instance, user, &format!("{hide}{end}"));
        instance.ok(user, &["job", "wait-event", "-t", "60", &id, "start"]);
        // Another user's job gets the same cores as soon as they are free.
        let said = instance.ok(BOB, &["run", "-N1", "--exclusive", "sh", "-c", &look]);
        assert_eq!(said, "", "after {end} of {}", user.name);
        assert_eq!(hidden(), Vec::<String>::new());
        let log = instance.ok(FLUX, &["job", "eventlog", &id]);
        assert!(log.contains("free") && !log.contains("exception"), "{log}");
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn what_a_job_leaves_behind_is_its_own_though_other_jobs_run() {
    let instance = Instance::start(OPEN);
    let others: Vec<(User, String)> = [BOB, FLUX]
        .map(|user| (user, instance.ok(user, &["submit", "-n1", "sleep", "1000"])))
        .into();
    for (user, id) in &others {
        instance.ok(*user, &["job", "wait-event", "-t", "60", id, "start"]);
    }
    let hide = hide();
    for user in [FLUX, ALICE] {
        let id = instance.ok(user, &["submit", "-n1", "sh", "-c", &format!("{hide}exit 0")]);
        instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "free"]);
        assert_eq!(hidden(), Vec::<String>::new(), "{}", user.name);
    }
    for (user, id) in &others {
        assert_eq!(instance.ok(*user, &["jobs", "-no", "{state}", id]), "RUN");
        instance.ok(*user, &["cancel", id]);
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_canceled_job_leaves_nothing_behind_either() {
    let instance = Instance::start(OPEN);
    let hide = hide();
    for user in [ALICE, FLUX] {
        let id = submit(&instance, user, &format!("trap '' TERM\n{hide}sleep 1000; sleep 1000"));
        until("all of it runs", || hidden().len() >= 5);
        instance.ok(user, &["cancel", &id]);
        instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "free"]);
        assert_eq!(hidden(), Vec::<String>::new(), "{}", user.name);
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn nothing_is_left_when_the_kernel_kills_what_watches_a_job() {
    let instance = Instance::start(OPEN);
    // The IMP, what it guards with, the shell; another job's go on.
    let other =
        instance.ok(BOB, &["submit", "-n1", "sh", "-c", "echo $$ >$HOME/pid; exec sleep 1000"]);
    until("it runs", || fs::metadata("/home/bob/pid").is_ok_and(|file| file.len() > 0));
    let hide = hide();
    for depth in 0..3 {
        let id = instance.ok(
            ALICE,
            &["submit", "-n1", "sh", "-c", &format!("echo $PPID >$HOME/shell\n{hide}sleep 1000")],
        );
        until("all of it runs", || hidden().len() >= 5);
        let mut pid = fs::read_to_string("/home/alice/shell").unwrap().trim().to_string();
        for _ in depth..2 {
            pid = parent(&pid);
        }
        let said = ROOT.run(&["kill", "-KILL", &pid]);
        assert!(said.success, "depth {depth}: '{pid}' {said:?}");
        instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "free"]);
        assert_eq!(hidden(), Vec::<String>::new(), "depth {depth}\n{}", instance.log());
        instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "clean"]);
    }
    assert_eq!(instance.ok(BOB, &["jobs", "-no", "{state}", &other]), "RUN");
    let pid = fs::read_to_string("/home/bob/pid").unwrap().trim().to_string();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    instance.ok(BOB, &["cancel", &other]);
}

/// A process of the owner with other files in `/run/flux`, and the same names in its environment.
fn aside(id: &str, prepare: &str, seconds: &str) -> Child {
    let script = format!(
        "mount -t tmpfs none /run/flux; {prepare}; exec setpriv --reuid={0} --regid={0} \
         --clear-groups sleep {seconds}",
        FLUX.id
    );
    let mut command = ROOT.command("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command.env("FLUX_URI", instance::URI).env("FLUX_JOB_ID", id).spawn().unwrap()
}

fn runs(seconds: &str) -> bool {
    ROOT.run(&["pgrep", "-f", &format!("^sleep {seconds}$")]).success
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_supervisor_ends_what_a_killed_one_has_left_and_nothing_of_another_instance_of_its_names() {
    let instance = Instance::start(OPEN);
    let id = instance.ok(FLUX, &["submit", "-n1", "sleep", &format!("{}5", digits())]);
    instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "start"]);
    until("it runs", || runs(&format!("{}5", digits())));
    // A container that shows its processes here, and a task that has hidden the socket from itself.
    let (theirs, ours) = (format!("{}6", digits()), format!("{}7", digits()));
    let mut other = aside(&id, "touch /run/flux/local", &theirs);
    let mut task = aside(&id, ":", &ours);
    until("both run", || runs(&theirs) && runs(&ours));
    // The parent of the shell, which is the parent of the task.
    let task_of_job = ROOT.output(&["pgrep", "-f", &format!("^sleep {}5$", digits())]);
    let supervisor = parent(&parent(task_of_job.trim()));
    let killed = ROOT.run(&["kill", "-KILL", &supervisor]);
    assert!(killed.success, "{killed:?}");
    instance.ok(FLUX, &["job", "wait-event", "-t", "60", &id, "clean"]);
    task.wait().unwrap();
    assert!(!runs(&ours) && !runs(&format!("{}5", digits())));
    assert!(runs(&theirs), "a process of another instance was killed");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
#[ignore = "needs root and MUNGE"]
fn jobs_of_a_broker_that_is_spared_are_not_spared_when_memory_is_short() {
    let instance = Instance::start(OPEN);
    if fs::write(format!("/proc/{}/oom_score_adj", instance.pid()), "-900").is_err() {
        println!("skipped: root may spare nobody here (no CAP_SYS_RESOURCE)");
        return;
    }
    for user in [ALICE, FLUX] {
        let script = "cat /proc/self/oom_score_adj";
        assert_eq!(instance.ok(user, &["run", "sh", "-c", script]), "0", "{}", user.name);
    }
    let said = Command::new("cat").arg(format!("/proc/{}/oom_score_adj", instance.pid())).output();
    assert_eq!(said.unwrap().stdout, b"-900\n");
}
