//! What jobs of guests read, write and leave behind: as their user, and out of sight of others.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use flux_multiuser::instance::STATEDIR;
use flux_multiuser::world;
use flux_multiuser::{ALICE, BOB, FLUX, Instance, ROOT, until};

const OPEN: &str = "allow-guest-user = true\nallow-root-owner = true";

#[test]
#[ignore = "needs root and MUNGE"]
fn output_and_input_of_a_job_are_its_users() {
    let instance = Instance::start(OPEN);
    world::write("/home/bob/secret", "secret\n", 0o600);
    world::own("/home/bob/secret", BOB);
    world::write("/etc/flux/keep", "keep\n", 0o644);
    for (name, target) in [
        ("state", format!("{STATEDIR}/made")),
        ("rundir", "/run/flux/made".to_string()),
        ("site", "/etc/flux/keep".to_string()),
        ("bob", "/home/bob/secret".to_string()),
    ] {
        let link = format!("/home/alice/{name}");
        symlink(&target, &link).unwrap();
        for path in [&target, &link] {
            for option in ["--output", "--error"] {
                let option = format!("{option}={path}");
                let said =
                    instance.flux(ALICE, &["run", &option, "sh", "-c", "echo x; echo x >&2"]);
                assert!(!said.success, "{option}: {said:?}");
            }
            let input = format!("--input={path}");
            let said = instance.flux(ALICE, &["run", &input, "cat"]);
            assert!(!said.out.contains("secret"), "{input}: {said:?}");
        }
    }
    assert!(!fs::exists("/run/flux/made").unwrap());
    assert!(!fs::exists(format!("{STATEDIR}/made")).unwrap());
    assert_eq!(fs::read_to_string("/etc/flux/keep").unwrap(), "keep\n");
    assert_eq!(fs::read_to_string("/home/bob/secret").unwrap(), "secret\n");
    // Where the user may write, the file is the user's.
    instance.ok(ALICE, &["run", "--output=/home/alice/out", "echo", "x"]);
    assert_eq!(fs::metadata("/home/alice/out").unwrap().uid(), ALICE.id);
    assert_eq!(fs::read_to_string("/home/alice/out").unwrap(), "x\n");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn directory_script_and_environment_of_a_job_are_out_of_sight() {
    let instance = Instance::start(OPEN);
    let script = "/home/alice/script";
    let text = "#!/bin/sh\n# secret\necho $FLUX_JOB_TMPDIR >$HOME/where\necho $0 >>$HOME/where\n\
                until [ -e $HOME/go ]; do sleep 0.05; done\n";
    world::write(script, text, 0o700);
    world::own(script, ALICE);
    let id = instance.ok(ALICE, &["submit", "--env=TOKEN=secret", script]);
    until("the job runs", || {
        fs::read_to_string("/home/alice/where").is_ok_and(|text| text.lines().count() == 2)
    });
    let told = fs::read_to_string("/home/alice/where").unwrap();
    let directory = told.lines().next().unwrap();
    let found = fs::symlink_metadata(directory).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (ALICE.id, 0o700), "{directory}");
    assert!(found.is_dir());
    for user in [BOB, FLUX] {
        assert!(!user.run(&["ls", directory]).success, "{}", user.name);
        assert!(!user.run(&["touch", &format!("{directory}/x")]).success, "{}", user.name);
    }
    // Neither the directories of the instance nor the command lines show what the job is given.
    let said = BOB.run(&["grep", "-rs", "secret", "/run/flux", STATEDIR]);
    assert_eq!(said.out, "");
    let said = BOB.run(&[
        "sh",
        "-c",
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep ^TOKEN",
    ]);
    assert_eq!(said.out, "");
    world::write("/home/alice/go", "", 0o644);
    instance.ok(ALICE, &["job", "status", &id]);
    until("the directory is gone", || !fs::exists(directory).unwrap_or(true));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn the_environment_of_a_job_reaches_its_tasks_only() {
    let instance = Instance::start(OPEN);
    let variables = [
        "LD_PRELOAD=/home/alice/evil.so",
        "PATH=/home/alice/bin:/usr/bin:/bin",
        "FLUX_SHELL_RC_PATH=/home/alice",
        "FLUX_SECURITY_CONF_PATTERN=/home/alice/*.toml",
        "FLUX_IMP_CONFIG_PATTERN=/home/alice/*.toml",
        "FLUX_IMP_EXEC_HELPER=/home/alice/helper",
        "FLUX_URI=local:///home/alice/other",
        "FLUX_EXEC_PATH=/home/alice/bin",
        "BASH_ENV=/home/alice/env",
    ];
    let mut words = vec!["submit".to_string()];
    words.extend(variables.iter().map(|variable| format!("--env={variable}")));
    let wait = "until [ -e /home/alice/go ]; do sleep 0.05; done; env";
    words.extend(["sh", "-c", wait].map(str::to_string));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let id = instance.ok(ALICE, &words);
    instance.ok(ALICE, &["job", "wait-event", &id, "start"]);
    // The IMP and the shell were started with none of it; root can look.
    let said = ROOT.run(&[
        "sh",
        "-c",
        "for p in $(pgrep -x 'flux-imp|flux-shell'); do tr '\\0' '\\n' </proc/$p/environ; done",
    ]);
    assert!(said.out.contains("FLUX_URI=local:///run/flux/local"), "{said:?}");
    for variable in variables {
        let (name, _) = variable.split_once('=').unwrap();
        assert!(!said.out.contains("/home/alice/"), "{name}: {said:?}");
    }
    world::write("/home/alice/go", "", 0o644);
    let out = instance.ok(ALICE, &["job", "attach", &id]);
    assert!(out.contains("PATH=/home/alice/bin:"), "{out}");
    // Where its broker is, the shell knows better.
    assert!(out.contains("FLUX_URI=local:///run/flux/local"), "{out}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn names_of_jobs_mean_nothing_to_a_prolog() {
    let instance = Instance::start(OPEN);
    let text = "#!/bin/sh\nenv >/run/prolog.env\necho \"$@\" >/run/prolog.args\n";
    world::write(world::PROLOG, text, 0o755);
    let config = "/etc/flux/system/conf.d/system.toml";
    let more = format!(
        "{}\n[job-manager.prolog]\nper-rank = true\ncommand = [ \"{}\", \"run\", \"prolog\" ]\n\
         [job-manager]\nplugins = [ {{ load = \"perilog.so\" }} ]\n",
        fs::read_to_string(config).unwrap(),
        world::IMP
    );
    world::write(config, &more, 0o644);
    let said = instance.flux(FLUX, &["config", "reload"]);
    assert!(said.success, "{said:?}");
    let evil =
        "x\nLD_PRELOAD=/home/alice/evil.so\n$(touch /run/evil)`touch /run/evil`;touch /run/evil";
    let name = format!("--job-name={evil}");
    let said = instance.flux(
        ALICE,
        &["run", &name, "--setattr=system.shell.options.x=$(touch /run/evil)", "id", "-u"],
    );
    assert!(said.success, "{said:?} {}", instance.log());
    let env = fs::read_to_string("/run/prolog.env").unwrap();
    assert!(!env.contains("evil"), "{env}");
    assert!(env.contains(&format!("FLUX_JOB_USERID={}", ALICE.id)), "{env}");
    assert_eq!(fs::read_to_string("/run/prolog.args").unwrap().trim(), "");
    assert!(!fs::exists("/run/evil").unwrap());
}
