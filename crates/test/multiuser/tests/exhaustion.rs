//! A guest who wants more than there is: others go on, and the broker stays small.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use flux_client::{Client, To};
use flux_multiuser::{ALICE, BOB, FLUX, Instance, User, until};
use flux_multiuser::{instance, world};
use flux_proto::{Errno, Message, encode};
use serde_json::json;

const OPEN: &str = "allow-guest-user = true\nallow-root-owner = true";

/// Does something with the user id that the kernel then tells the broker.
fn as_user<T>(user: User, act: impl FnOnce() -> T) -> T {
    nix::unistd::seteuid(user.id.into()).expect("root may");
    let done = act();
    nix::unistd::seteuid(0.into()).expect("root again");
    done
}

fn socket(user: User) -> Result<UnixStream, u8> {
    let mut stream = as_user(user, || UnixStream::connect("/run/flux/local")).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    if byte[0] == 0 { Ok(stream) } else { Err(byte[0]) }
}

fn client(user: User) -> Client {
    as_user(user, || Client::open(Some(instance::URI))).unwrap()
}

/// Memory of the broker, in KiB.
fn resident(instance: &Instance) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn others_work(instance: &Instance) {
    assert_eq!(instance.ok(BOB, &["run", "id", "-u"]), BOB.id.to_string());
    instance.ok(FLUX, &["run", "true"]);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn connections_of_one_guest_leave_room_for_others() {
    let instance = Instance::start_with_files(OPEN, 512);
    let mut held = Vec::new();
    let refused = loop {
        match socket(ALICE) {
            Ok(stream) => held.push(stream),
            Err(byte) => break byte,
        }
    };
    assert_eq!((held.len(), Errno(refused.into())), (64, Errno::EAGAIN));
    others_work(&instance);
    assert!(instance.log().contains(&format!("user {} is refused", ALICE.id)));
    drop(held);
    until("there is room", || instance.flux(ALICE, &["uptime"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn what_a_guest_does_not_read_or_finish_is_bounded() {
    let instance = Instance::start(OPEN);
    let before = resident(&instance);
    // Many who want every event, and read none; and one who makes them.
    let deaf: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = socket(ALICE).unwrap();
            let body = json!({ "topic": "" });
            let mut subscribe = Message::request("event.subscribe").with_json(&body);
            subscribe.set_matchtag(1);
            stream.write_all(&encode(&subscribe)).unwrap();
            stream
        })
        .collect();
    let mut loud = socket(ALICE).unwrap();
    let event = encode(&Message::event("noise").with_raw(vec![7_u8; 60_000]));
    for _ in 0..2000 {
        loud.write_all(&event).unwrap();
    }
    others_work(&instance);
    // 4.8 GB in all. 256 MiB may wait, in buffers that grow by doubling; what was closed goes a
    // little later.
    let unread = resident(&instance);
    assert!(unread < before + 1_500_000, "{unread} KiB");
    assert!(instance.log().contains(&format!("user {} is disconnected", ALICE.id)));
    drop(deaf);
    // Messages that do not end, and one that is announced too long.
    let begun = encode(&Message::request("kvs.commit").with_raw(vec![0; 60 << 20]));
    let mut halves: Vec<UnixStream> = (0..32).map(|_| socket(ALICE).unwrap()).collect();
    for half in &mut halves {
        drop(half.write_all(&begun[..50 << 20]));
    }
    others_work(&instance);
    // 1.6 GB in all.
    assert!(resident(&instance) < unread + 700_000, "{} KiB", resident(&instance));
    drop(halves);
    let mut long = socket(ALICE).unwrap();
    let announced = [&begun[..4], &(1_u32 << 30).to_be_bytes()].concat();
    drop(long.write_all(&announced));
    assert_eq!(long.read(&mut [0]).unwrap_or(0), 0);
    others_work(&instance);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn requests_that_wait_forever_are_bounded() {
    let instance = Instance::start(OPEN);
    let guest = client(ALICE);
    let dec = "12345678901234";
    let body = json!({ "id": dec.parse::<u64>().unwrap(), "attrs": ["id"] });
    let mut refused = None;
    let mut held = Vec::new();
    while refused.is_none() && held.len() < 40_000 {
        let ask = Message::request("job-list.list-id").with_json(&body);
        let mut pending = guest.start(To::Any, ask);
        if let Some(Err(error)) = pending.try_next() {
            refused = Some(error);
        }
        held.push(pending);
    }
    // Each was answered, or waits within the bound; and nobody else is hindered.
    others_work(&instance);
    assert!(resident(&instance) < 500_000, "{} KiB", resident(&instance));
    drop(held);
    drop(guest);
    until("the guest is served again", || instance.flux(ALICE, &["jobs"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_guest_fills_neither_the_eventlog_nor_every_broker() {
    let instance = Instance::start(OPEN);
    let id = instance.ok(ALICE, &["submit", "sleep", "1000"]);
    let dec: u64 = instance.ok(ALICE, &["job", "id", "--to=dec", &id]).parse().unwrap();
    let guest = client(ALICE);
    let ask = |topic: &str, body| guest.rpc(topic, To::Any, Some(&body));
    let text = "x".repeat(200_000);
    let full = (0..50)
        .find_map(|_| ask("job-manager.memo", json!({ "id": dec, "memo": { "a": text } })).err());
    assert_eq!(full.unwrap().errno, Errno::EDQUOT);
    let text = "x".repeat(2 << 20);
    let error = ask("job-manager.memo", json!({ "id": dec, "memo": { "a": text } })).unwrap_err();
    assert_eq!(error.errno, Errno::EMSGSIZE);
    instance.ok(ALICE, &["cancel", &id]);
    others_work(&instance);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_guest_reads_nothing_by_its_hash() {
    let instance = Instance::start(OPEN);
    let id = instance.ok(BOB, &["submit", "--wait", "echo", "secret"]);
    let path = instance.ok(FLUX, &["job", "id", "--to=kvs", &id]);
    let root = instance.ok(FLUX, &["kvs", "getroot"]);
    let root: serde_json::Value = serde_json::from_str(&root).unwrap();
    let guest = client(ALICE);
    let owner = client(FLUX);
    for topic in ["kvs.lookup", "kvs.lookup-plus"] {
        let body = json!({ "key": format!("{path}.J"), "flags": 0, "rootdir": root });
        owner.rpc(topic, To::Any, Some(&body)).unwrap();
        let mut bodies = vec![body];
        for (key, value) in [("namespace", json!("primary")), ("userid", json!(FLUX.id))] {
            let mut body = bodies[0].clone();
            body[key] = value;
            bodies.push(body);
        }
        for body in bodies {
            let error = guest.rpc(topic, To::Any, Some(&body)).unwrap_err();
            assert_eq!(error.errno, Errno::EPERM, "{topic} {body}");
        }
    }
    let said = instance.flux(ALICE, &["kvs", "get", "--at", &root.to_string(), &path]);
    assert!(!said.success && !said.out.contains("secret"), "{said:?}");
    // What job-info and the watchers of one's own job read goes on.
    assert_eq!(instance.ok(BOB, &["job", "attach", &id]), "secret");
}

/// Puts these lines in place of the last that were added to the configuration.
fn reload_with(instance: &Instance, lines: &str) {
    world::write("/etc/flux/system/conf.d/zz.toml", lines, 0o644);
    instance.ok(FLUX, &["config", "reload"]);
}

#[track_caller]
fn refused(instance: &Instance, words: &[&str], text: &str) {
    let said = instance.flux(ALICE, words);
    assert!(!said.success && said.err.contains(text), "{said:?}");
}

#[test]
#[ignore = "needs root and MUNGE"]
fn a_guest_holds_so_many_jobs_and_so_large_ones_and_no_more() {
    let instance = Instance::start(OPEN);
    reload_with(
        &instance,
        "[job-manager]\nguest-max-active-jobs = 3\nguest-max-active-bytes = \"300k\"\n\
         [ingest]\nbuffer-size = \"200k\"\n",
    );
    fs::write("/run/large", "x".repeat(100_000)).unwrap();
    fs::write("/run/huge", "x".repeat(200_000)).unwrap();
    let held = ["submit", "--urgency=hold"];
    let submit = |file: &'static str| [&held[..], &[file, "true"]].concat();
    refused(&instance, &submit("--add-file=/run/huge"), "are allowed (ingest.buffer-size)");
    instance.ok(ALICE, &submit("--add-file=/run/large"));
    refused(
        &instance,
        &submit("--add-file=/run/large"),
        "300k are allowed (job-manager.guest-max-active-bytes)",
    );
    instance.ok(ALICE, &submit("--quiet"));
    instance.ok(ALICE, &submit("--quiet"));
    let text = "you have 3 active jobs, and 3 are allowed (job-manager.guest-max-active-jobs)";
    refused(&instance, &submit("--quiet"), text);
    others_work(&instance);
    for _ in 0..5 {
        instance.ok(FLUX, &submit("--quiet"));
    }
    instance.ok(ALICE, &["cancel", "--all"]);
    until("alice may submit again", || instance.flux(ALICE, &["run", "true"]).success);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn what_a_guest_puts_into_the_kvs_is_bounded() {
    let instance = Instance::start(OPEN);
    reload_with(&instance, "[kvs]\nguest-namespace-max = \"1M\"\n");
    // By output, whatever limit the job gives itself: it ends, and says why.
    let said = instance.flux(
        ALICE,
        &[
            "run",
            "-o",
            "output.limit=1G",
            "sh",
            "-c",
            "head -c 4000000 /dev/zero | tr '\\0' x; sleep 60",
        ],
    );
    assert!(!said.success && said.err.contains("(kvs.guest-namespace-max)"), "{}", said.err);
    // By hand.
    let id = instance.ok(ALICE, &["submit", "sleep", "60"]);
    instance.ok(ALICE, &["job", "wait-event", &id, "start"]);
    let name = instance.ok(ALICE, &["job", "namespace", &id]);
    let namespace = format!("--namespace={name}");
    let value = format!("k={}", "x".repeat(100_000));
    let put = || instance.flux(ALICE, &["kvs", "put", &namespace, &value]);
    let many = (0..20).map(|_| put()).find(|said| !said.success).expect("a bound");
    assert!(many.err.contains("(kvs.guest-namespace-max)"), "{}", many.err);
    others_work(&instance);
    instance.ok(ALICE, &["cancel", &id]);
    instance.ok(FLUX, &["job", "wait-event", "-t", "30", &id, "clean"]);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn of_a_guest_so_many_finished_jobs_are_kept_as_configured() {
    let instance =
        Instance::start("allow-guest-user = true\n[job-manager]\nguest-inactive-num-limit = 3");
    let count = |user: User| {
        let found = instance.ok(FLUX, &["jobs", "-a", "-n", "-o", "{id}", "-u", user.name]);
        found.lines().count()
    };
    let first = instance.ok(BOB, &["submit", "--wait", "true"]);
    let owners = instance.ok(FLUX, &["submit", "--cc=1-6", "true"]);
    let ids = instance.ok(ALICE, &["submit", "--cc=1-150", "-n1", "true"]);
    instance.ok(FLUX, &["queue", "drain"]);
    until("the others are purged", || count(ALICE) == 3);
    assert_eq!((count(BOB), count(FLUX)), (1, owners.lines().count()));
    let kept = instance.ok(FLUX, &["jobs", "-a", "-n", "-o", "{id}", "-u", "alice"]);
    let gone = ids.lines().find(|id| !kept.contains(*id)).unwrap();
    let said = instance.flux(ALICE, &["job", "info", gone, "jobspec"]);
    assert!(!said.success, "{said:?}");
    instance.ok(BOB, &["job", "info", &first, "jobspec"]);
}
