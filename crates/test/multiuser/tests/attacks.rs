//! Attacks on `flux-imp`: each is refused with a reason, and nothing is started.

use std::fs;
use std::os::unix::fs::symlink;

use flux_model::sign::{self, Mechanism};
use flux_multiuser::imp::{JOB, background, exec, exec_as, input, line, marked, refused, runs};
use flux_multiuser::user::{PHYSICS, finish};
use flux_multiuser::world::{self, IMP, PROBE, PROLOG};
use flux_multiuser::{ALICE, BOB, FLUX, MALLORY, ROOT, User, World, until};

#[test]
#[ignore = "needs root and MUNGE"]
fn a_signed_job_runs_as_who_has_signed_it_with_all_groups() {
    let _world = World::enter();
    let said = exec(&ALICE.signs("{}"));
    let id = ALICE.id;
    assert_eq!(line(&said, "uid "), format!("{id} gid {id} groups {id} {PHYSICS}"));
    assert_eq!(line(&said, "args "), format!("{PROBE} {JOB}"));
    assert!(line(&said, "pwd ").starts_with("/ umask 0022"), "{said:?}");
    assert_eq!(line(&said, "stdin"), "");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn only_listed_users_may_call() {
    let _world = World::enter();
    let j = ALICE.signs("{}");
    for user in [ALICE, BOB, MALLORY, ROOT] {
        refused(&exec_as(user, &j, &[]), "is not in exec.allowed-users");
        let run = user.run(&[IMP, "run", "prolog"]);
        refused(&run, "is not in run.prolog.allowed-users");
        refused(&user.run(&[IMP, "kill", "9", "1"]), "is not in exec.allowed-users");
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn forged_signatures_are_refused() {
    let mut world = World::enter();
    let genuine = ALICE.signs("{\"a\":1}");
    let parts: Vec<&str> = genuine.split('.').collect();
    // Payload or header replaced.
    let other = sign::unsigned(b"{\"a\":2}", ALICE.id, Mechanism::Munge);
    refused(&exec(&format!("{other}.{}", parts[2])), "changed after signing");
    let other = sign::unsigned(b"{\"a\":1}", BOB.id, Mechanism::Munge);
    refused(&exec(&format!("{other}.{}", parts[2])), "changed after signing");
    // Signed by somebody else.
    for user in [MALLORY, FLUX, ROOT] {
        refused(&exec(&user.signs_as(ALICE.id, "{}")), "the header claims");
    }
    // Not signed at all, by the name of the victim and of the caller.
    refused(&exec(&sign::wrap_none(b"{}", ALICE.id)), "'none' is not in sign.allowed-types");
    refused(&exec(&sign::wrap_none(b"{}", FLUX.id)), "'none' is not in sign.allowed-types");
    // With nothing, rubbish, or a part of a credential for a signature.
    let body = format!("{}.{}", parts[0], parts[1]);
    let half = &parts[2][..parts[2].len() / 2];
    for signature in ["none", "MUNGE:", "MUNGE:AwQ", half, "MUNGE:AAAA:"] {
        refused(&exec(&format!("{body}.{signature}")), "MUNGE");
    }
    // A genuine credential of the victim for something else.
    let something = ALICE.credential("something else", world::MUNGE_SOCKET);
    refused(&exec(&format!("{body}.{something}")), "changed after signing");
    // A credential made with another key.
    world.munge_directory("/run/forge");
    world.munged("/run/forge/socket", "/run/forge");
    let text = sign::unsigned(b"{}", ALICE.id, Mechanism::Munge);
    let credential = ALICE.credential(&text, "/run/forge/socket");
    refused(&exec(&format!("{text}.{credential}")), "MUNGE: Invalid credential");
    // The genuine one works, again and again.
    for _ in 0..2 {
        assert!(exec(&genuine).success);
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn mechanism_none_makes_nobody_but_the_caller() {
    let _world = World::enter();
    world::sign_conf("default-type = \"none\"\nallowed-types = [ \"none\", \"munge\" ]");
    refused(&exec(&sign::wrap_none(b"{}", ALICE.id)), "is not the real userid");
    refused(&exec(&sign::wrap_none(b"{}", 0)), "is not the real userid");
    let said = exec(&sign::wrap_none(b"{}", FLUX.id));
    assert!(line(&said, "uid ").starts_with(&FLUX.id.to_string()), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_request_older_than_the_ttl_is_refused() {
    let _world = World::enter();
    let j = ALICE.signs("{}");
    world::sign_conf("max-ttl = 1\ndefault-type = \"munge\"\nallowed-types = [ \"munge\" ]");
    let mut last = None;
    until("the request is too old", || {
        let said = exec(&j);
        let old = !said.success;
        last = Some(said);
        old
    });
    refused(&last.unwrap(), "sign.max-ttl allows 1s");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn nobody_becomes_root_or_a_stranger() {
    let _world = World::enter();
    refused(&exec(&ROOT.signs("{}")), "jobs do not run as root");
    let stranger = User { name: "stranger", id: 64_999 };
    refused(&exec(&stranger.signs("{}")), "is not a user of this node");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn malformed_and_oversized_input_is_refused() {
    let _world = World::enter();
    let attack = |bytes: &[u8]| FLUX.run_with(&[IMP, "exec", PROBE, JOB], bytes, &[]);
    let deep = "[".repeat(1 << 20);
    for text in ["", "{}", "[]", "{\"J\":7}", "{\"J\":\"x\"", "\0\0\0", deep.as_str()] {
        refused(&attack(text.as_bytes()), "input");
    }
    refused(&attack(&vec![b'{'; 40 << 20]), "input is larger");
    refused(&attack(b"{\"J\":\"\"}"), "HEADER.PAYLOAD.SIGNATURE");
    let huge = format!("{{\"J\":\"{}\"}}", "a".repeat((32 << 20) + 1));
    refused(&attack(huge.as_bytes()), "input is larger");
    let header = format!("{}.e30=.none", "A".repeat(200_000));
    refused(&exec(&header), "signature header");
    let contained = serde_json::json!({
        "J": ALICE.signs("{}"), "options": {"DeviceAllow": [["/dev/null", "rw"]]},
    });
    refused(&attack(contained.to_string().as_bytes()), "device containment");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn only_allowed_shells_run_and_only_where_none_but_root_can_change_them() {
    let _world = World::enter();
    let j = input(&ALICE.signs("{}"));
    let shell = |path: &str| FLUX.run_with(&[IMP, "exec", path, JOB], &j, &[]);
    symlink(PROBE, "/run/flux/link").unwrap();
    for path in ["/bin/sh", "probe", "/usr/libexec/flux/../flux/probe", "/run/flux/link", ""] {
        refused(&shell(path), "is not in exec.allowed-shells");
    }
    let id = FLUX.run_with(&[IMP, "exec", PROBE, "$(id)"], &j, &[]);
    refused(&id, "is not a job id");
    // The shell itself, then its directory, in the hands of the caller.
    world::own(PROBE, FLUX);
    refused(&shell(PROBE), "it must belong to root");
    world::own(PROBE, ROOT);
    world::mode(PROBE, 0o775);
    refused(&shell(PROBE), "lets others change it");
    world::mode(PROBE, 0o755);
    world::mode("/usr/libexec/flux", 0o777);
    refused(&shell(PROBE), "lets others change it");
    world::mode("/usr/libexec/flux", 0o755);
    fs::remove_file(PROBE).unwrap();
    symlink("/run/flux/evil", PROBE).unwrap();
    world::write("/run/flux/evil", "#!/bin/sh\nid\n", 0o755);
    refused(&shell(PROBE), "it must belong to root");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn configuration_that_others_can_change_is_refused() {
    let _world = World::enter();
    let j = ALICE.signs("{}");
    for (file, directory) in [
        ("/etc/flux/imp/conf.d/imp.toml", "/etc/flux/imp/conf.d"),
        ("/etc/flux/security/conf.d/sign.toml", "/etc/flux/security/conf.d"),
    ] {
        for mode in [0o664, 0o646, 0o666] {
            world::mode(file, mode);
            refused(&exec(&j), "lets others change it");
        }
        world::mode(file, 0o644);
        world::own(file, FLUX);
        refused(&exec(&j), "it must belong to root");
        world::own(file, ROOT);
        for path in [directory, "/etc/flux", "/etc"] {
            for mode in [0o775, 0o777, 0o1777] {
                world::mode(path, mode);
                refused(&exec(&j), "lets others change it");
            }
            world::mode(path, 0o755);
            world::own(path, FLUX);
            refused(&exec(&j), "it must belong to root");
            world::own(path, ROOT);
        }
        // A link of root to a file of somebody else, and a fifo.
        let text = fs::read_to_string(file).unwrap();
        fs::remove_file(file).unwrap();
        world::write("/run/flux/own.toml", &text, 0o644);
        world::own("/run/flux/own.toml", FLUX);
        symlink("/run/flux/own.toml", file).unwrap();
        refused(&exec(&j), "it must belong to root");
        fs::remove_file(file).unwrap();
        ROOT.output(&["mkfifo", file]);
        refused(&exec(&j), "not a regular file");
        fs::remove_file(file).unwrap();
        let gone = exec(&j);
        assert_eq!(gone.code, Some(1), "{gone:?}");
        world::write(file, &text, 0o644);
        assert!(exec(&j).success);
    }
    world::write("/etc/flux/imp/conf.d/z.toml", "[exec]\nallowed-user = []\n", 0o644);
    refused(&exec(&j), "exec.allowed-user: unknown key");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn the_environment_of_the_caller_changes_nothing() {
    let _world = World::enter();
    directory_of_flux();
    let loose = "[exec]\nallowed-users = [\"flux\"]\nallowed-shells = [\"/run/flux/x/evil\"]\n";
    world::write("/run/flux/x/imp.toml", loose, 0o644);
    let sign = "[sign]\ndefault-type = \"none\"\nallowed-types = [\"none\"]\n";
    world::write("/run/flux/x/sign.toml", sign, 0o644);
    world::write("/run/flux/x/evil", "#!/bin/sh\nid\n", 0o755);
    let env = [
        ("LD_PRELOAD", "/run/flux/x/evil.so"),
        ("LD_LIBRARY_PATH", "/run/flux/x"),
        ("LD_AUDIT", "/run/flux/x/evil.so"),
        ("GCONV_PATH", "/run/flux/x"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
        ("PATH", "/run/flux/x"),
        ("HOME", "/run/flux/x"),
        ("IFS", "/"),
        ("ENV", "/run/flux/x/evil"),
        ("BASH_ENV", "/run/flux/x/evil"),
        ("FLUX_IMP_CONFIG_PATTERN", "/run/flux/x/imp.toml"),
        ("FLUX_SECURITY_CONFIG_PATTERN", "/run/flux/x/sign.toml"),
        ("FLUX_SHELL_RC_PATH", "/run/flux/x"),
        ("FLUX_URI", "local:///run/flux/local"),
    ];
    refused(&exec_as(FLUX, &sign::wrap_none(b"{}", FLUX.id), &env), "not in sign.allowed-types");
    let evil =
        FLUX.run_with(&[IMP, "exec", "/run/flux/x/evil", JOB], &input(&ALICE.signs("{}")), &env);
    refused(&evil, "is not in exec.allowed-shells");
    let said = exec_as(FLUX, &ALICE.signs("{}"), &env);
    let mut names: Vec<&str> = said
        .out
        .lines()
        .filter_map(|line| line.strip_prefix("env ")?.split('=').next())
        .filter(|name| !matches!(*name, "_" | "PWD" | "OLDPWD" | "SHLVL"))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["FLUX_URI", "HOME", "LOGNAME", "PATH", "SHELL", "USER"], "{said:?}");
    assert!(!said.out.contains("/run/flux/x"), "{said:?}");
}

fn directory_of_flux() {
    world::directory("/run/flux/x", FLUX, 0o755);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn descriptors_signals_and_limits_of_the_caller_are_not_passed_on() {
    let _world = World::enter();
    let j = String::from_utf8(input(&ALICE.signs("{}"))).unwrap();
    world::write("/run/flux/j", &j, 0o644);
    world::write("/etc/secret", "secret", 0o600);
    let script = format!(
        "trap '' TERM INT HUP CHLD USR1; exec 7</etc/passwd 9>/run/flux/held 99</dev/null;
         exec {IMP} exec {PROBE} {JOB} </run/flux/j"
    );
    let said = FLUX.run(&["bash", "-c", &script]);
    for file in ["passwd", "held"] {
        assert!(!said.out.contains(file), "{said:?}");
    }
    assert_eq!(line(&said, "SigBlk:"), "0000000000000000");
    // Two are the C library's own.
    let ignored = u64::from_str_radix(line(&said, "SigIgn:"), 16).unwrap();
    assert_eq!(ignored & !0x1_8000_0000, 0, "{said:?}");
    // With everything closed it works all the same: nothing that is opened becomes stdout or stderr.
    world::write(PROBE, "#!/bin/sh\nreadlink /proc/$$/fd/* >$HOME/mark 2>&1\n", 0o755);
    let script = format!("exec {IMP} exec {PROBE} {JOB} </run/flux/j >&- 2>&-");
    FLUX.run(&["bash", "-c", &script]);
    let open = marked();
    let strange =
        |path: &&str| !["/dev/null", "/run/flux/j", PROBE, "/home/alice/mark"].contains(path);
    assert_eq!(open.lines().find(strange), None, "{open}");
    let said = FLUX.run(&["bash", "-c", &format!("exec {IMP} exec {PROBE} {JOB} <&-")]);
    refused(&said, "input");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn exit_codes_and_signals_of_the_shell_are_told() {
    let _world = World::enter();
    let j = ALICE.signs("{}");
    world::write(PROBE, "#!/bin/sh\nexit 37\n", 0o755);
    assert_eq!(exec(&j).code, Some(37));
    world::write(PROBE, "#!/bin/sh\nkill -9 $$\n", 0o755);
    assert_eq!(exec(&j).signal, Some(9));
    world::write(PROBE, "#!/bin/sh\nkill -TERM $$\n", 0o755);
    assert_eq!(exec(&j).signal, Some(15));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn signals_reach_the_shell_through_the_imp_only() {
    let _world = World::enter();
    let mut child = background(
        "#!/bin/sh\ntrap 'echo got >>$HOME/mark; exit 5' TERM\necho $$ >$HOME/mark\nwhile :; do sleep 0.05; done\n",
    );
    let (imp, shell) = (child.id().to_string(), marked());
    assert!(!FLUX.run(&["kill", "-TERM", &shell]).success, "the owner may not signal the guest");
    assert!(!BOB.run(&["kill", "-TERM", &imp]).success, "others may not signal the IMP");
    assert!(!ALICE.run(&["kill", "-TERM", &imp]).success, "nor may the guest");
    assert!(FLUX.run(&["kill", "-TERM", &imp]).success);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(marked().ends_with("got"));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn usr1_kills_the_whole_job_however_it_hides() {
    let _world = World::enter();
    let mut child = background(
        "#!/bin/sh\ntrap '' TERM INT HUP USR1\n\
         (setsid sh -c 'trap \"\" TERM; sleep 1000 & echo $! >>$HOME/deep; sleep 1000' &)\n\
         until [ -s $HOME/deep ]; do sleep 0.01; done\n\
         (while :; do sleep 0.01234 & sleep 0.01; done) &\n\
         echo $$ >$HOME/mark\nwait\n",
    );
    let shell = marked();
    let deep = fs::read_to_string("/home/alice/deep").unwrap().trim().to_string();
    assert!(runs(&deep));
    assert!(FLUX.run(&["kill", "-USR1", &child.id().to_string()]).success);
    assert!(!child.wait().unwrap().success());
    until("all is dead", || !runs(&shell) && !runs(&deep));
    until("nothing is left", || !ROOT.run(&["pgrep", "-f", "^sleep 0.01234"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn nothing_of_a_job_outlives_its_shell() {
    let _world = World::enter();
    let mut child = background(
        "#!/bin/sh\nsetsid sh -c 'trap \"\" TERM HUP; echo $$ >$HOME/mark; sleep 1000' &\n\
         until [ -s $HOME/mark ]; do sleep 0.01; done\nexit 0\n",
    );
    assert!(child.wait().unwrap().success());
    assert!(!runs(&marked()));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_killed_imp_takes_the_shell_with_it() {
    let _world = World::enter();
    let mut child = background("#!/bin/sh\necho $$ >$HOME/mark\nexec sleep 1000\n");
    assert!(FLUX.run(&["kill", "-KILL", &child.id().to_string()]).success);
    child.wait().unwrap();
    until("the shell is gone", || !runs(&marked()));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn the_imp_cannot_be_traced_or_read() {
    let _world = World::enter();
    let mut child = background("#!/bin/sh\necho $$ >$HOME/mark\nexec sleep 1000\n");
    let pid = child.id();
    for user in [FLUX, ALICE, MALLORY] {
        for file in ["mem", "environ", "maps", "auxv", "fd/0", "root", "cwd"] {
            let path = format!("/proc/{pid}/{file}");
            let said = user.run(&["head", "-c", "1", &path]);
            assert!(!said.success && said.err.contains("ermission"), "{} {said:?}", user.name);
        }
    }
    // The shell is the guest's, and not the owner's.
    let path = format!("/proc/{}/environ", marked());
    assert!(!FLUX.run(&["head", "-c", "1", &path]).success);
    assert!(ALICE.run(&["head", "-c", "1", &path]).success);
    FLUX.run(&["kill", "-USR1", &pid.to_string()]);
    child.wait().unwrap();
}

#[test]
#[ignore = "needs root and MUNGE"]
fn the_helper_has_only_the_rights_of_the_caller() {
    let _world = World::enter();
    let j = String::from_utf8(input(&ALICE.signs("{}"))).unwrap();
    world::write("/run/flux/j", &j, 0o644);
    let helper = "id -u >/run/flux/who; id -G >>/run/flux/who; cat /run/flux/j";
    let env = [("FLUX_IMP_EXEC_HELPER", helper), ("PATH", "/usr/bin:/bin")];
    let said = FLUX.run_with(&[IMP, "exec", PROBE, JOB], b"for the shell", &env);
    assert_eq!(line(&said, "stdin"), "for the shell");
    let id = FLUX.id;
    assert_eq!(fs::read_to_string("/run/flux/who").unwrap(), format!("{id}\n{id}\n"));
    let env = [("FLUX_IMP_EXEC_HELPER", "exit 3"), ("PATH", "/usr/bin:/bin")];
    refused(&FLUX.run_with(&[IMP, "exec", PROBE, JOB], b"", &env), "helper");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn programs_of_the_site_run_as_root_with_the_environment_of_the_guide() {
    let _world = World::enter();
    let env = [
        ("FLUX_JOB_ID", "f1"),
        ("FLUX_JOB_USERID", "65001"),
        ("FLUX_OWNER_USERID", "0"),
        ("FLUX_OTHER", "x"),
        ("LD_PRELOAD", "/run/flux/evil.so"),
        ("IFS", "/"),
    ];
    let said = FLUX.run_with(&[IMP, "run", "prolog"], b"text", &env);
    assert!(said.success, "{said:?}");
    let wanted = format!(
        "0\nFLUX_JOB_ID=f1\nFLUX_JOB_USERID=65001\nFLUX_OWNER_USERID={}\nHOME=/home/root\n\
         PATH=/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nUSER=root\nstdin text\n",
        FLUX.id
    );
    assert_eq!(said.out, wanted);
    world::imp_conf("allowed-environment = [ \"*\" ]");
    let said = FLUX.run_with(&[IMP, "run", "prolog"], b"", &env);
    assert!(said.out.contains("FLUX_OTHER=x") && !said.out.contains("LD_PRELOAD"), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn nothing_else_runs_as_root() {
    let _world = World::enter();
    refused(&FLUX.run(&[IMP, "run", "other"]), "'other' is not configured");
    refused(&FLUX.run(&[IMP, "run", PROLOG]), "is not configured");
    refused(&FLUX.run(&[IMP, "run", "../prolog"]), "is not configured");
    refused(&FLUX.run(&[IMP, "run", "prolog", "-x"]), "usage");
    for (name, value) in [
        ("FLUX_JOB_ID", "$(reboot)"),
        ("FLUX_JOB_ID", "../../etc"),
        ("FLUX_JOB_USERID", "0; id"),
        ("FLUX_JOB_USERID", "-1"),
    ] {
        refused(&FLUX.run_with(&[IMP, "run", "prolog"], b"", &[(name, value)]), "invalid value");
    }
    world::mode(PROLOG, 0o777);
    refused(&FLUX.run(&[IMP, "run", "prolog"]), "lets others change it");
    world::mode(PROLOG, 0o755);
    world::own(PROLOG, FLUX);
    refused(&FLUX.run(&[IMP, "run", "prolog"]), "it must belong to root");
    world::own(PROLOG, ROOT);
    world::mode("/etc/flux/system", 0o777);
    refused(&FLUX.run(&[IMP, "run", "prolog"]), "lets others change it");
    world::mode("/etc/flux/system", 0o755);
    world::mode(PROLOG, 0o644);
    refused(&FLUX.run(&[IMP, "run", "prolog"]), "not executable");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn kill_reaches_processes_of_own_jobs_only() {
    let _world = World::enter();
    let mut job = background("#!/bin/sh\nsleep 1000 &\necho $! >$HOME/mark\nwait $!\nexit 9\n");
    // A process of the guest that no job has started.
    let mut own = ALICE.command("sleep").arg("1000").spawn().unwrap();
    let kill = |user: User, pid: &str| user.run(&[IMP, "kill", "KILL", pid]);
    refused(&kill(FLUX, &own.id().to_string()), "does not belong to a job");
    refused(&kill(FLUX, "1"), "does not belong to a job");
    refused(&kill(FLUX, &std::process::id().to_string()), "does not belong to a job");
    refused(&kill(FLUX, "-1"), "is not a process id");
    refused(&kill(FLUX, "0"), "is not a process id");
    refused(&kill(MALLORY, &marked()), "is not in exec.allowed-users");
    assert!(runs(&marked()) && own.try_wait().unwrap().is_none());
    assert!(kill(FLUX, &marked()).success);
    assert_eq!(job.wait().unwrap().code(), Some(9));
    own.kill().unwrap();
    own.wait().unwrap();
}

#[test]
#[ignore = "needs root and MUNGE"]
fn another_caller_who_may_call_cannot_kill_jobs_of_the_first() {
    let _world = World::enter();
    let text = fs::read_to_string("/etc/flux/imp/conf.d/imp.toml").unwrap();
    let text = text.replacen("[ \"flux\" ]", "[ \"flux\", \"bob\" ]", 1);
    world::write("/etc/flux/imp/conf.d/imp.toml", &text, 0o644);
    let mut job = background("#!/bin/sh\necho $$ >$HOME/mark\nexec sleep 1000\n");
    refused(&BOB.run(&[IMP, "kill", "KILL", &marked()]), "does not belong to a job");
    assert!(FLUX.run(&[IMP, "kill", "KILL", &marked()]).success);
    job.wait().unwrap();
}

#[test]
#[ignore = "needs root and MUNGE"]
fn without_its_mode_or_munged_it_says_what_to_do() {
    let _world = World::without_munge();
    let j = "dmVyc2lvbgBpMQB1c2VyaWQAaTY1MDAxAG1lY2hhbmlzbQBzbXVuZ2UA.e30=.MUNGE:AA:";
    refused(&exec(j), "is munged running on this node?");
    world::mode(IMP, 0o755);
    refused(&exec(j), "install flux-imp with owner root and mode 4755");
    refused(&FLUX.run(&[IMP, "run", "prolog"]), "mode 4755");
    assert_eq!(FLUX.output(&[IMP, "whoami"]).split(' ').nth(1), Some("unprivileged"));
    world::mode(IMP, 0o4755);
    assert_eq!(MALLORY.output(&[IMP, "whoami"]).split(' ').nth(1), Some("privileged"));
    assert!(MALLORY.output(&[IMP, "version"]).starts_with("flux-imp v"));
    refused(&MALLORY.run(&[IMP]), "usage");
    refused(&MALLORY.run(&[IMP, "sh"]), "usage");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn without_privileges_one_may_be_oneself_where_that_is_configured() {
    let _world = World::enter();
    world::directory("/home/alice/conf", ALICE, 0o700);
    let text = format!("[exec]\nallowed-shells = [\"{PROBE}\"]\nallow-unprivileged-exec = true\n");
    world::write("/home/alice/conf/imp.toml", &text, 0o600);
    world::own("/home/alice/conf/imp.toml", ALICE);
    fs::copy(IMP, "/run/flux-imp").unwrap();
    world::mode("/run/flux-imp", 0o755);
    let run = |j: &str| {
        let mut command = ALICE.command("/run/flux-imp");
        command.args(["exec", PROBE, JOB]);
        command.env("FLUX_IMP_CONFIG_PATTERN", "/home/alice/conf/*.toml");
        finish(command, &input(j))
    };
    assert!(line(&run(&ALICE.signs("{}")), "uid ").starts_with("65001"));
    refused(&run(&BOB.signs("{}")), "without privileges");
}
