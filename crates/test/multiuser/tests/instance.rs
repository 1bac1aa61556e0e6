//! Guests of a system instance: what they can do, and what they cannot.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use flux_api::Shape;
use flux_client::{Client, To};
use flux_multiuser::instance::{self, STATEDIR};
use flux_multiuser::user::Said;
use flux_multiuser::world::{self, MUNGE_SOCKET, SHELL};
use flux_multiuser::{ALICE, BOB, FLUX, Instance, MALLORY, ROOT, User, until};
use flux_proto::{Errno, Message, Rolemask};

const OPEN: &str = "allow-guest-user = true\nallow-root-owner = true";

#[track_caller]
fn denied(said: &Said, words: &str) {
    let all = format!("{}{}", said.out, said.err).to_lowercase();
    assert!(!said.success && all.contains(&words.to_lowercase()), "wanted '{words}': {said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn jobs_run_as_who_submits_them() {
    let instance = Instance::start(OPEN);
    for user in [ALICE, BOB] {
        assert_eq!(instance.ok(user, &["run", "id", "-u"]), user.id.to_string());
        assert_eq!(instance.ok(user, &["run", "sh", "-c", "echo $USER"]), user.name);
    }
    assert_eq!(instance.ok(FLUX, &["run", "id", "-u"]), FLUX.id.to_string());
    // All ways in: one by one, many, a script, an instance.
    let id = instance.ok(ALICE, &["submit", "-n1", "id", "-u"]);
    assert_eq!(instance.ok(ALICE, &["job", "attach", &id]), ALICE.id.to_string());
    let said = instance.ok(ALICE, &["submit", "--cc=1-3", "--wait", "true"]);
    assert_eq!(said.lines().count(), 3);
    let script = "/home/alice/script";
    world::write(
        script,
        "#!/bin/sh\nid -u >/home/alice/out\nflux run id -u >>/home/alice/out\n",
        0o755,
    );
    world::own(script, ALICE);
    let id = instance.ok(ALICE, &["batch", "-n1", "--output=none", script]);
    instance.ok(ALICE, &["job", "status", &id]);
    assert_eq!(fs::read_to_string("/home/alice/out").unwrap(), format!("{0}\n{0}\n", ALICE.id));
    // Long requests: a script of a megabyte.
    let long = format!("#!/bin/sh\nid -u >/home/alice/out\n# {}\n", "x".repeat(1 << 20));
    world::write(script, &long, 0o755);
    let id = instance.ok(ALICE, &["batch", "-n1", "--output=none", script]);
    instance.ok(ALICE, &["job", "status", &id]);
    assert_eq!(fs::read_to_string("/home/alice/out").unwrap(), format!("{}\n", ALICE.id));
    let said = instance.ok(BOB, &["alloc", "-n1", "flux", "run", "id", "-u"]);
    assert_eq!(said, BOB.id.to_string());
}

#[test]
#[ignore = "needs root and MUNGE"]
fn others_jobs_are_out_of_reach() {
    let instance = Instance::start(OPEN);
    let id = instance.ok(ALICE, &["submit", "sh", "-c", "echo secret; exec sleep 1000"]);
    instance.ok(ALICE, &["job", "wait-event", "-p", "output", &id, "data"]);
    let id = id.as_str();
    for words in [
        &["cancel", id][..],
        &["job", "kill", id],
        &["job", "raise", id],
        &["job", "urgency", id, "0"],
        &["job", "memo", id, "a=b"],
        &["update", id, "duration=1m"],
        &["job", "attach", id],
        &["job", "eventlog", id],
        &["job", "wait-event", id, "start"],
        &["job", "info", id, "J"],
        &["job", "info", id, "jobspec"],
        &["job", "info", id, "R"],
        &["job", "eventlog", "-p", "output", id],
        &["kvs", "dir", "--namespace", "job-1"],
        &["kvs", "ls"],
        &["kvs", "put", "a=1"],
        &["config", "reload"],
        &["setattr", "log-stderr-level", "7"],
        &["resource", "drain", "0"],
        &["queue", "stop"],
        &["exec", "id"],
        &["dmesg"],
        &["module", "remove", "sched-simple"],
        &["shutdown"],
    ] {
        let said = instance.flux(BOB, words);
        assert!(!said.success, "{words:?}: {said:?}");
        assert!(!said.out.contains("secret"), "{words:?}: {said:?}");
        let reasons = [
            "own jobs",
            "does not exist",
            "owner",
            "not permitted",
            "another user",
            "not supported",
        ];
        assert!(reasons.iter().any(|reason| said.err.contains(reason)), "{words:?}: {said:?}");
    }
    // The namespace of the job itself, by its right name.
    let dec = instance.ok(ALICE, &["job", "id", "--to=dec", id]);
    let space = format!("job-{dec}");
    let said = instance.flux(BOB, &["kvs", "get", "--namespace", &space, "output"]);
    denied(&said, "not permitted");
    // Events of a guest are no orders.
    for (topic, body) in [
        (format!("shell-{dec}.kill"), "{\"signum\":9}".to_string()),
        (
            "job-exception".to_string(),
            format!("{{\"id\":{dec},\"type\":\"cancel\",\"severity\":0}}"),
        ),
    ] {
        instance.ok(BOB, &["event", "pub", &topic, &body]);
    }
    // A guest may not speak for somebody else.
    let mut command = BOB.command(world::PROGRAM);
    command.args(["cancel", id]).env("FLUX_URI", instance::URI);
    command.env("FLUX_HANDLE_USERID", ALICE.id.to_string()).env("FLUX_HANDLE_ROLEMASK", "1");
    let said = flux_multiuser::user::finish(command, b"");
    assert!(!said.success, "{said:?}");
    // It runs still; its owner and the instance's may do all that.
    let said = instance.ok(ALICE, &["jobs", "-no", "{state}", id]);
    assert_eq!(said, "RUN");
    assert!(instance.ok(FLUX, &["job", "eventlog", "-p", "output", id]).contains("secret"));
    assert!(instance.ok(ROOT, &["job", "eventlog", id]).contains("start"));
    instance.ok(ALICE, &["cancel", id]);
    assert!(!instance.flux(ALICE, &["job", "status", id]).success);
    // Others see that there is a job, and whose.
    assert!(instance.ok(BOB, &["jobs", "-A", "-a", "-no", "{username}"]).contains("alice"));
}

/// Connects as somebody: the kernel tells the broker the effective user id.
fn connect(user: User) -> Result<Client, Errno> {
    nix::unistd::seteuid(user.id.into()).expect("root may");
    let client = Client::open(Some(instance::URI)).map_err(|error| error.errno());
    nix::unistd::seteuid(0.into()).expect("root again");
    client
}

#[test]
#[ignore = "needs root and MUNGE"]
fn every_rpc_of_the_owner_is_refused_to_guests_and_strangers() {
    let instance = Instance::start(OPEN);
    let mut refused = 0;
    for user in [ALICE, MALLORY] {
        let guest = connect(user).unwrap();
        for method in flux_api::catalogue::methods() {
            if method.role.allows(Rolemask::USER) {
                continue;
            }
            for to in [To::Any, To::Rank(0)] {
                let message = Message::request(method.topic).with_json(&serde_json::json!({}));
                let message = match method.shape {
                    Shape::Streaming => message.with_streaming(),
                    _ => message,
                };
                let deadline = Instant::now() + Duration::from_secs(60);
                let mut pending = guest.start(to, message);
                match pending.next_until(Some(deadline)) {
                    Err(error) if error.errno == Errno::EPERM => refused += 1,
                    // Not in a broker of one node without such a module.
                    Err(error) if error.errno == Errno::ENOSYS => {}
                    other => panic!("{} as {}: {other:?}", method.topic, user.name),
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
    instance.ok(FLUX, &["run", "true"]);
    // And where guests may not connect, nothing is asked at all.
    instance::configure("");
    instance.ok(FLUX, &["config", "reload"]);
    for user in [ALICE, MALLORY, ROOT] {
        assert_eq!(connect(user).map(drop), Err(Errno::EPERM));
    }
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_stubborn_job_of_a_guest_is_killed() {
    let instance = Instance::start(OPEN);
    let id = instance.ok(
        ALICE,
        &[
            "submit",
            "sh",
            "-c",
            "trap '' TERM INT HUP; setsid sleep 987654 & echo up; while :; do sleep 0.1; done",
        ],
    );
    instance.ok(ALICE, &["job", "wait-event", "-p", "output", &id, "data"]);
    instance.ok(ALICE, &["cancel", &id]);
    instance.ok(ALICE, &["job", "wait-event", "-t", "60", &id, "clean"]);
    until("nothing is left", || !ROOT.run(&["pgrep", "-f", "^sleep 987654"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn jobs_of_guests_outlive_the_broker() {
    let mut instance = Instance::start(OPEN);
    let script = "echo $$ >$HOME/pid; until [ -e $HOME/go ]; do sleep 0.05; done; echo $$; id -u";
    let id = instance.ok(ALICE, &["submit", "sh", "-c", script]);
    let stubborn = instance.ok(
        BOB,
        &["submit", "sh", "-c", "trap '' TERM; echo $$ >$HOME/pid; while :; do sleep 0.1; done"],
    );
    for user in ["alice", "bob"] {
        let path = format!("/home/{user}/pid");
        until("the job runs", || fs::metadata(&path).is_ok_and(|file| file.len() > 0));
    }
    instance.crash();
    let pid = fs::read_to_string("/home/alice/pid").unwrap().trim().to_string();
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == ALICE.id));
    denied(&instance.flux(BOB, &["cancel", &id]), "own jobs");
    world::write("/home/alice/go", "", 0o644);
    assert_eq!(instance.ok(ALICE, &["job", "attach", &id]), format!("{pid}\n{}", ALICE.id));
    // The new broker reaches what the former has started.
    let pid = fs::read_to_string("/home/bob/pid").unwrap().trim().to_string();
    instance.ok(BOB, &["cancel", &stubborn]);
    instance.ok(BOB, &["job", "wait-event", "-t", "60", &stubborn, "clean"]);
    until("the process is gone", || !fs::exists(format!("/proc/{pid}")).unwrap_or(true));
}

#[test]
#[ignore = "needs root and MUNGE"]
fn requests_are_taken_from_who_has_signed_them_only() {
    let instance = Instance::start(OPEN);
    let spec = instance.ok(ALICE, &["run", "--dry-run", "id", "-u"]);
    let submit = |user: User, j: &str| {
        world::write("/run/flux/signed", j, 0o644);
        instance.flux(user, &["job", "submit", "--flags=signed", "/run/flux/signed"])
    };
    let j = ALICE.signs(&spec);
    denied(&submit(BOB, &j), "signer=65001 != requestor=65002");
    denied(
        &submit(ALICE, &flux_model::sign::wrap_none(spec.as_bytes(), ALICE.id)),
        "sign-type=none",
    );
    denied(&submit(ALICE, &flux_model::sign::wrap_none(spec.as_bytes(), FLUX.id)), "signer=");
    // What ingest does not verify the IMP does: the job gets an exception, and runs as nobody.
    let (body, _) = j.rsplit_once('.').unwrap();
    let forged = format!("{body}.{}", MALLORY.credential("x", MUNGE_SOCKET));
    let said = submit(ALICE, &forged);
    assert!(said.success, "{said:?}");
    let id = said.out.trim().to_string();
    let ended = instance.flux(ALICE, &["job", "attach", "-vE", &id]);
    assert!(!ended.success && !ended.out.contains("65"), "{ended:?}");
    let log = instance.ok(ALICE, &["job", "eventlog", "-p", "exec", &id]);
    assert!(log.contains("changed after signing"), "{log}");
    // The genuine one runs.
    let id = submit(ALICE, &j).out.trim().to_string();
    assert_eq!(instance.ok(ALICE, &["job", "attach", &id]), ALICE.id.to_string());
    let said = instance.flux(ALICE, &["job", "submit", "-s", "none", "/dev/null"]);
    assert!(!said.success, "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn what_the_instance_says_about_a_job_does_not_count_against_its_signature() {
    let instance = Instance::start(OPEN);
    instance.ok(FLUX, &["queue", "stop"]);
    let id = instance.ok(ALICE, &["submit", "sh", "-c", "echo genuine"]);
    let path = instance.ok(FLUX, &["job", "id", "--to=kvs", &id]);
    // The owner of the instance changes the jobspec, then J itself.
    let spec = instance.ok(FLUX, &["kvs", "get", &format!("{path}.jobspec")]);
    let evil = spec.replace("genuine", "tampered");
    assert_ne!(spec, evil);
    instance.ok(FLUX, &["kvs", "put", "--raw", &format!("{path}.jobspec={evil}")]);
    instance.ok(FLUX, &["queue", "start"]);
    assert_eq!(instance.ok(ALICE, &["job", "attach", &id]), "genuine");
    instance.ok(FLUX, &["queue", "stop"]);
    let id = instance.ok(ALICE, &["submit", "sh", "-c", "echo genuine"]);
    let path = instance.ok(FLUX, &["job", "id", "--to=kvs", &id]);
    let j = instance.ok(FLUX, &["kvs", "get", &format!("{path}.J")]);
    let (body, signature) = j.rsplit_once('.').unwrap();
    let (header, _) = body.split_once('.').unwrap();
    let payload = flux_model::sign::wrap_none(evil.as_bytes(), ALICE.id);
    let payload = payload.split('.').nth(1).unwrap();
    let forged = format!("{path}.J={header}.{payload}.{signature}");
    instance.ok(FLUX, &["kvs", "put", "--raw", &forged]);
    instance.ok(FLUX, &["queue", "start"]);
    let said = instance.flux(ALICE, &["job", "attach", &id]);
    assert!(!said.success && !said.out.contains("tampered"), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn by_default_nobody_else_may_connect() {
    let instance = Instance::start("");
    for user in [ALICE, MALLORY, ROOT] {
        denied(&instance.flux(user, &["uptime"]), "not permitted");
        denied(&instance.flux(user, &["run", "id"]), "not permitted");
    }
    // What is allowed later holds for who connects then, and can be taken back.
    instance::configure("allow-guest-user = true");
    instance.ok(FLUX, &["config", "reload"]);
    assert_eq!(instance.ok(ALICE, &["run", "id", "-u"]), ALICE.id.to_string());
    // Root is a guest now, and root does not run jobs.
    denied(&instance.flux(ROOT, &["run", "id"]), "user root not supported");
    denied(&instance.flux(ROOT, &["queue", "stop"]), "credentials");
    instance::configure("");
    instance.ok(FLUX, &["config", "reload"]);
    denied(&instance.flux(ALICE, &["uptime"]), "not permitted");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn administrators_are_known_by_name_and_group() {
    let roles =
        "allow-guest-user = true\nroles.admin = { users = [\"bob\"], groups = [\"physics\"] }";
    let instance = Instance::start(roles);
    for (user, roles) in [(ALICE, "0xe"), (BOB, "0xe"), (MALLORY, "0x6")] {
        let said = instance.flux(user, &["ping", "-u", "-c1", "kvs"]);
        let mask = format!("rolemask={roles}");
        assert!(said.out.contains(&mask), "{}: {said:?}", user.name);
    }
}

/// Puts these lines in place of the last that were added to the configuration.
fn reload_with(instance: &Instance, lines: &str) {
    world::write("/etc/flux/system/conf.d/zz.toml", lines, 0o644);
    instance.ok(FLUX, &["config", "reload"]);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn who_may_submit_is_who_is_named_or_in_a_group_that_is() {
    let instance = Instance::start(OPEN);
    let may = |user: User, words: &[&str]| {
        let said = instance.flux(user, &[&["submit"], words, &["true"]].concat());
        if !said.success {
            denied(&said, "is not allowed to submit jobs");
        }
        said.success
    };
    // alice is in the group physics by a line of it, mallory in the one of her name since it is her
    // primary group.
    for (lines, who) in [
        ("allow-user = [\"bob\"]", [false, true, false]),
        ("allow-group = [\"physics\"]", [true, false, false]),
        ("allow-group = [\"mallory\"]", [false, false, true]),
        (
            "allow-user = [\"bob\", \"nobody here\"]\nallow-group = [\"physics\"]",
            [true, true, false],
        ),
        ("allow-user = []", [false, false, false]),
        ("", [true, true, true]),
    ] {
        reload_with(&instance, &format!("[policy.access]\n{lines}\n"));
        assert_eq!([ALICE, BOB, MALLORY].map(|user| may(user, &[])), who, "{lines}");
        instance.ok(FLUX, &["run", "true"]);
    }
    let told = "policy.access.allow-user: there is no user 'nobody here'";
    assert!(instance.log().contains(told) || instance.ok(FLUX, &["dmesg"]).contains(told));
    let queues = "[policy.access]\nallow-user = [\"bob\"]\n[queues.open]\n\
                  [queues.lab.policy.access]\nallow-group = [\"physics\"]\n";
    reload_with(&instance, queues);
    assert_eq!([ALICE, BOB, MALLORY].map(|user| may(user, &["-q", "open"])), [false, true, false]);
    assert_eq!([ALICE, BOB, MALLORY].map(|user| may(user, &["-q", "lab"])), [true, false, false]);
    // Nobody gets there by a detour.
    let id = instance.ok(BOB, &["submit", "-q", "open", "--urgency=hold", "true"]);
    let moved = instance.flux(BOB, &["update", &id, "queue=lab"]);
    denied(&moved, "user bob is not allowed to submit jobs to queue lab");
    instance.ok(FLUX, &["update", &id, "queue=lab"]);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn in_private_mode_jobs_of_others_are_invisible() {
    let instance = Instance::start("allow-guest-user = true\nprivate-mode = true");
    let id = instance.ok(ALICE, &["submit", "--wait", "true"]);
    assert_eq!(instance.ok(BOB, &["jobs", "-A", "-a", "-no", "{id}"]), "");
    assert!(!instance.flux(BOB, &["job", "list-ids", &id]).success);
    assert_eq!(instance.ok(ALICE, &["jobs", "-A", "-a", "-no", "{username}"]), "alice");
    assert_eq!(instance.ok(FLUX, &["jobs", "-A", "-a", "-no", "{username}"]), "alice");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn files_belong_to_who_should_read_them() {
    let instance = Instance::start(OPEN);
    instance.ok(ALICE, &["run", "true"]);
    let mode = |path: &str| {
        let found = fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        (found.uid(), found.mode() & 0o7777)
    };
    assert_eq!(mode("/run/flux"), (FLUX.id, 0o755));
    assert_eq!(mode("/run/flux/local"), (FLUX.id, 0o777));
    assert_eq!(mode(STATEDIR), (FLUX.id, 0o700));
    // Nothing below is writable by others, and nobody but the owner reads state.
    let mut open = vec!["/run/flux".to_string(), STATEDIR.to_string()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path().display().to_string();
            let found = entry.metadata().unwrap();
            if found.is_dir() {
                open.push(path.clone());
            }
            if path != "/run/flux/local" && !found.file_type().is_symlink() {
                assert_eq!(found.mode() & 0o022, 0, "{path} {:o}", found.mode());
            }
        }
    }
    for path in ["content.sqlite", ""] {
        let path = format!("{STATEDIR}/{path}");
        assert!(!ALICE.run(&["ls", &path]).success, "{path}");
        assert!(!ALICE.run(&["cat", &path]).success, "{path}");
    }
    assert!(!MALLORY.run(&["touch", "/run/flux/x"]).success);
    assert!(!MALLORY.run(&["rm", "-f", "/run/flux/local"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn without_an_imp_or_munge_guests_are_told_and_the_owner_works_on() {
    let instance = Instance::start(OPEN);
    let text = fs::read_to_string("/etc/flux/system/conf.d/system.toml").unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("imp")).collect();
    world::write("/etc/flux/system/conf.d/system.toml", &without.join("\n"), 0o644);
    instance.ok(FLUX, &["config", "reload"]);
    denied(&instance.flux(ALICE, &["run", "id"]), "exec.imp is not configured");
    assert_eq!(instance.ok(FLUX, &["run", "id", "-u"]), FLUX.id.to_string());
    fs::remove_file(MUNGE_SOCKET).unwrap();
    denied(&instance.flux(ALICE, &["run", "id"]), "is munged running on this node?");
    assert_eq!(instance.ok(FLUX, &["run", "id", "-u"]), FLUX.id.to_string());
    fs::remove_file("/etc/flux/security/conf.d/sign.toml").unwrap();
    denied(&instance.flux(ALICE, &["run", "id"]), "no [sign] table found");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn other_shells_are_refused_by_the_imp() {
    let instance = Instance::start(OPEN);
    let text = fs::read_to_string("/etc/flux/system/conf.d/system.toml").unwrap();
    world::write("/etc/flux/system/conf.d/system.toml", &text.replace(SHELL, "/bin/sh"), 0o644);
    instance.ok(FLUX, &["config", "reload"]);
    let id = instance.ok(ALICE, &["submit", "id"]);
    assert!(!instance.flux(ALICE, &["job", "attach", &id]).success);
    let log = instance.ok(ALICE, &["job", "eventlog", "-p", "exec", &id]);
    assert!(log.contains("is not in exec.allowed-shells"), "{log}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_job_may_name_its_shell_among_those_that_are_allowed() {
    let instance = Instance::start(OPEN);
    // A shell of the site beside the usual one, and one that nobody allowed.
    for name in ["/usr/libexec/flux/site-shell", "/usr/libexec/flux/other-shell"] {
        world::write(name, &format!("#!/bin/sh\nexec {SHELL} \"$@\"\n"), 0o755);
    }
    let path = "/etc/flux/imp/conf.d/imp.toml";
    let text = fs::read_to_string(path).unwrap();
    let listed = format!("\"{SHELL}\"");
    world::write(
        path,
        &text.replacen(&listed, &format!("{listed}, \"/usr/libexec/flux/site-shell\""), 1),
        0o644,
    );
    let run = |user: User, shell: &str, words: &[&str]| {
        let option = format!("--setattr=system.exec.job_shell={shell}");
        instance.flux(user, &[&["run", &option], words].concat())
    };
    let said = run(
        ALICE,
        "/usr/libexec/flux/site-shell",
        &["sh", "-c", "ps -o args= -p $PPID || cat /proc/$PPID/cmdline"],
    );
    assert!(said.success && said.out.contains("shell"), "{said:?}");
    denied(&run(ALICE, "/usr/libexec/flux/other-shell", &["id"]), "is not in exec.allowed-shells");
    denied(&run(ALICE, "sh", &["id"]), "is not in exec.allowed-shells");
    // The owner may have any: what it is shows in what it does.
    world::write(
        "/usr/libexec/flux/other-shell",
        "#!/bin/sh\necho $1 >/run/flux/mark-of-shell\n",
        0o755,
    );
    instance.flux(
        FLUX,
        &["run", "--setattr=system.exec.job_shell=/usr/libexec/flux/other-shell", "true"],
    );
    let id = instance.ok(FLUX, &["job", "last"]);
    let dec = instance.ok(FLUX, &["job", "id", "--to=dec", &id]);
    assert_eq!(fs::read_to_string("/run/flux/mark-of-shell").unwrap().trim(), dec);
}
