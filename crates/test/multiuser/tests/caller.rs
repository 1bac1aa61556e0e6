//! Attacks on `flux-imp` by who may call it: by what a process leaves to the program that it becomes,
//! and by ending a part of it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::process::Command;

use flux_multiuser::imp::{JOB, background, exec, input, line, marked, refused, runs};
use flux_multiuser::user::{Said, finish};
use flux_multiuser::world::{self, IMP, PROBE, PROLOG};
use flux_multiuser::{ALICE, FLUX, MALLORY, ROOT, World, until};

/// `flux-imp exec` of the probe, at the end of a command line of root that makes the caller.
fn exec_by(words: &[&str]) -> Said {
    let mut command = ROOT.command(words[0]);
    command.args(&words[1..]).args([IMP, "exec", PROBE, JOB]);
    finish(command, &input(&ALICE.signs("{}")))
}

fn probe(text: &str) {
    world::write(PROBE, &format!("#!/bin/sh\nread -r line\n{text}\n"), 0o755);
}

/// The process below another.
fn child_of(pid: &str) -> String {
    ROOT.output(&["pgrep", "-P", pid]).trim().to_string()
}

#[test]
#[ignore = "needs root and MUNGE"]
fn limits_that_a_caller_has_lowered_stop_nothing_of_root() {
    let _world = World::enter();
    let limits = "ulimit -f; ulimit -t; ulimit -v; ulimit -d";
    world::write(
        PROLOG,
        &format!(
            "#!/bin/sh\n{limits}\nulimit -n\nulimit -s\nhead -c 100000 /dev/zero >/run/written\n"
        ),
        0o755,
    );
    let lowered = |hard: &str| {
        [
            "prlimit".to_string(),
            format!("--fsize=4096:{hard}"),
            format!("--cpu=7:{hard}"),
            format!("--as=1000000000:{hard}"),
            format!("--data=1000000000:{hard}"),
            format!("--stack=1000000:{hard}"),
            "--nofile=64:4096".to_string(),
        ]
    };
    let soft = lowered("unlimited");
    let words: Vec<&str> = soft.iter().map(String::as_str).chain([IMP, "run", "prolog"]).collect();
    let said = FLUX.run(&words);
    assert!(said.success, "{said:?}");
    let told: Vec<&str> = said.out.lines().collect();
    assert_eq!(told[..4], ["unlimited"; 4], "{said:?}");
    assert!(told[4].parse::<u64>().unwrap() >= 1024 && told[5].parse::<u64>().unwrap() >= 8192);
    assert_eq!(fs::metadata("/run/written").unwrap().len(), 100_000);
    // What was lowered for good is raised, or, where root is not allowed to, nothing is started.
    fs::remove_file("/run/written").unwrap();
    for limit in ["--fsize=4096", "--cpu=7", "--as=1000000000", "--nofile=64", "--stack=1000000"] {
        let said = FLUX.run(&["prlimit", limit, IMP, "run", "prolog"]);
        if said.success {
            assert_eq!(fs::metadata("/run/written").unwrap().len(), 100_000);
        } else {
            assert!(said.err.contains("cannot be raised") && said.out.is_empty(), "{said:?}");
        }
    }
    // A user's processes have what the caller has.
    probe(limits);
    let mut command = FLUX.command(&soft[0]);
    command.args(&soft[1..]).args([IMP, "exec", PROBE, JOB]);
    let said = finish(command, &input(&ALICE.signs("{}")));
    assert_eq!(said.out, "8\n7\n976562\n976562\n", "{said:?}");
    // Without a descriptor to spare nothing begins.
    let said = FLUX.run(&["prlimit", "--nofile=2", IMP, "run", "prolog"]);
    assert!(!said.success && said.out.is_empty(), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn keys_and_terminal_of_the_caller_are_out_of_reach() {
    let _world = World::enter();
    let text = "cat /proc/keys; echo pid $$ session $(cut -d' ' -f6 /proc/$$/stat)";
    probe(text);
    // keyctl(KEYCTL_JOIN_SESSION_KEYRING), add_key in it.
    let add = "my ($type, $name, $text) = ('user', 'hidden:token', 'x');
        syscall(250, 1, 0) >= 0 or die $!;
        syscall(248, $type, $name, $text, 1, -3) >= 0 or die $!;
        exec @ARGV";
    let mut command = FLUX.command("perl");
    command.args(["-e", add, "sh", "-c", "cat /proc/keys"]);
    assert!(finish(command, b"").out.contains("hidden:token"));
    for call in [&["exec", PROBE, JOB][..], &["run", "prolog"]] {
        world::write(PROLOG, &format!("#!/bin/sh\n{text}\n"), 0o755);
        let mut command = FLUX.command("perl");
        command.args(["-e", add, IMP]).args(call);
        let said = finish(command, &input(&ALICE.signs("{}")));
        assert!(said.success, "{said:?}");
        let session: Vec<&str> = line(&said, "pid ").split(" session ").collect();
        assert_eq!(session[0], session[1], "{said:?}");
        let keys = said.out.lines().find(|line| line.contains("hidden:token"));
        // Root sees that there is one, in whose keyring ever; a user must not.
        assert!(call[0] == "run" || keys.is_none(), "{said:?}");
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn no_capability_of_the_caller_reaches_a_job() {
    let _world = World::enter();
    probe("grep ^Cap[IPEA] /proc/self/status");
    let (uid, gid) = (format!("--reuid={}", FLUX.id), format!("--regid={}", FLUX.id));
    let ids = [uid.as_str(), gid.as_str(), "--clear-groups"];
    for more in [
        &["--inh-caps=+sys_admin,+net_admin", "--ambient-caps=+sys_admin"][..],
        &["--inh-caps=+chown,+kill,+setuid,+dac_override"],
        &["--securebits=+no_setuid_fixup"],
        &["--securebits=+no_setuid_fixup,+no_setuid_fixup_locked", "--inh-caps=+kill,+setuid"],
    ] {
        let said = exec_by(&[&["setpriv"][..], &ids, more].concat());
        assert!(said.success, "{more:?}: {said:?}");
        for text in said.out.lines() {
            assert!(text.ends_with("0000000000000000"), "{more:?}: {said:?}");
        }
        assert_eq!(said.out.lines().count(), 4, "{said:?}");
    }
    // Where root is a user like others, there is nothing to start with.
    let said = exec_by(&[&["setpriv"][..], &ids, &["--securebits=+noroot"]].concat());
    assert!(!said.success && !said.out.contains("Cap"), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_job_is_not_spared_when_memory_is_short() {
    let _world = World::enter();
    probe("cat /proc/self/oom_score_adj");
    let ids = format!("--reuid={0} --regid={0} --clear-groups", FLUX.id);
    // Where root may spare nobody (no CAP_SYS_RESOURCE), there is nothing to take back.
    for (own, wanted) in [("-900", "0\n"), ("300", "300\n")] {
        let text =
            format!("echo {own} >/proc/self/oom_score_adj; exec setpriv {ids} \"$0\" \"$@\"");
        let said = exec_by(&["sh", "-c", &text]);
        assert_eq!(said.out, wanted, "{said:?}");
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn namespaces_of_the_caller_give_no_rights() {
    let _world = World::enter();
    let said = FLUX.run(&["setpriv", "--no-new-privs", IMP, "run", "prolog"]);
    refused(&said, "mode 4755");
    // Root of a namespace of users, where that is allowed, with a configuration of the caller's.
    world::directory("/home/flux/conf.d", FLUX, 0o755);
    let text = format!(
        "[exec]\nallowed-users = [\"root\", \"flux\"]\nallowed-shells = [\"{PROBE}\"]\n\
         [run.prolog]\nallowed-users = [\"root\", \"flux\"]\npath = \"{PROBE}\"\n"
    );
    world::write("/home/flux/conf.d/imp.toml", &text, 0o644);
    world::own("/home/flux/conf.d/imp.toml", FLUX);
    world::write("/run/flux/j", &String::from_utf8(input(&ALICE.signs("{}"))).unwrap(), 0o644);
    world::write("/etc/secret", "hidden", 0o600);
    world::write(PROBE, "#!/bin/sh\nid; cat /etc/secret; touch /home/alice/x /etc/x\n", 0o755);
    for call in [format!("exec {PROBE} {JOB}"), "run prolog".to_string()] {
        let text = format!(
            "mount --bind /home/flux/conf.d /etc/flux/imp/conf.d && exec {IMP} {call} </run/flux/j"
        );
        let said = FLUX.run(&["unshare", "-Urm", "sh", "-c", &text]);
        assert!(!said.out.contains("hidden") && !said.out.contains("65001"), "{said:?}");
        assert!(!fs::exists("/home/alice/x").unwrap() && !fs::exists("/etc/x").unwrap());
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn empty_and_endless_command_lines_are_refused() {
    let _world = World::enter();
    // execve(IMP, NULL, NULL): not even a name.
    let mut command = FLUX.command("perl");
    command.args(["-e", "my $path = shift; syscall(59, $path, 0, 0); exit 9", IMP]);
    refused(&finish(command, b""), "usage");
    let long = "x".repeat(120_000);
    refused(&FLUX.run(&[IMP, "exec", &long, JOB]), "is not in exec.allowed-shells");
    refused(&FLUX.run(&[IMP, "exec", PROBE, &long]), "is not a job id");
    refused(&FLUX.run(&[IMP, "run", &long]), "is not configured");
    refused(&FLUX.run(&[IMP, "kill", &long, "1"]), "is not a signal");
    refused(&FLUX.run(&[IMP, "kill", "9", &long]), "is not a process id");
    let many: Vec<&str> =
        std::iter::once(IMP).chain(std::iter::repeat_n("exec", 100_000)).collect();
    refused(&FLUX.run(&many), "usage");
    let mut command = FLUX.command("perl");
    command.args(["-e", "exec(shift, \"exec\", \"\\xff\\xfe\", \"1\")", IMP]);
    refused(&finish(command, b""), "usage");
}

/// A job of a shell, a task that hears no signal, and one in a session of its own.
const STUBBORN: &str = "#!/bin/sh\ntrap '' TERM INT HUP USR1\n\
    (setsid sh -c 'trap \"\" TERM HUP; echo $$ >>$HOME/deep; exec sleep 1000' &)\n\
    until [ -s $HOME/deep ]; do sleep 0.01; done\n\
    echo $$ >$HOME/mark\nwhile :; do sleep 0.01; done\n";

#[test]
#[ignore = "needs root and MUNGE"]
fn whatever_part_of_the_imp_is_killed_nothing_of_the_job_is_left() {
    let _world = World::enter();
    for part in ["the first process", "the guard"] {
        fs::remove_file("/home/alice/deep").ok();
        let mut child = background(STUBBORN);
        let imp = child.id().to_string();
        let guard = child_of(&imp);
        let deep = fs::read_to_string("/home/alice/deep").unwrap().trim().to_string();
        let shell = marked();
        assert!(runs(&deep) && runs(&shell));
        // The guard is nobody's but root's.
        for user in [FLUX, ALICE, MALLORY] {
            assert!(!user.run(&["kill", "-KILL", &guard]).success, "{}", user.name);
            assert!(!user.run(&["head", "-c", "1", &format!("/proc/{guard}/environ")]).success);
        }
        refused(&FLUX.run(&[IMP, "kill", "KILL", &guard]), "does not belong to a job");
        if part == "the guard" {
            // As the kernel may when memory is short.
            assert!(ROOT.run(&["kill", "-KILL", &guard]).success);
        } else {
            assert!(FLUX.run(&["kill", "-KILL", &imp]).success);
        }
        child.wait().unwrap();
        until("all has ended", || [&guard, &deep, &shell].iter().all(|pid| !runs(pid)));
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn programs_of_root_end_with_their_imp_and_by_no_other_signal() {
    let _world = World::enter();
    world::write(PROLOG, "#!/bin/sh\necho $$ >/run/prolog.pid\nexec sleep 1000\n", 0o755);
    for end in ["TERM", "KILL"] {
        fs::remove_file("/run/prolog.pid").ok();
        let mut imp = FLUX.command(IMP).args(["run", "prolog"]).spawn().unwrap();
        let pid = || fs::read_to_string("/run/prolog.pid").unwrap_or_default().trim().to_string();
        until("the prolog runs", || !pid().is_empty() && runs(&pid()));
        refused(&FLUX.run(&[IMP, "kill", "KILL", &pid()]), "does not belong to a job");
        assert!(!FLUX.run(&["kill", "-KILL", &pid()]).success);
        assert!(runs(&pid()));
        assert!(FLUX.run(&["kill", &format!("-{end}"), &imp.id().to_string()]).success);
        imp.wait().unwrap();
        until("it has ended", || !runs(&pid()));
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn many_at_once_are_told_apart() {
    let _world = World::enter();
    let seconds = format!("200.{}", std::process::id());
    world::write(PROBE, &format!("#!/bin/sh\nsetsid sleep {seconds} &\nexit 7\n"), 0o755);
    world::write("/run/flux/j", &String::from_utf8(input(&ALICE.signs("{}"))).unwrap(), 0o644);
    let started: Vec<_> = (0..20)
        .map(|_| {
            let mut command: Command = FLUX.command(IMP);
            command.args(["exec", PROBE, JOB]).stdin(fs::File::open("/run/flux/j").unwrap());
            command.spawn().unwrap()
        })
        .collect();
    for mut imp in started {
        assert_eq!(imp.wait().unwrap().code(), Some(7));
    }
    let left = ROOT.run(&["pgrep", "-f", &format!("^sleep {seconds}$")]);
    assert!(!left.success, "{left:?}");
    assert_eq!(exec(&ALICE.signs("{}")).code, Some(7));
}
