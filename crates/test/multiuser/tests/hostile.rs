//! Guests who send anything that they can think of: the broker goes on, and so do others.
//!
//! `FLUX_HOSTILE_SECONDS` (5) and `FLUX_HOSTILE_SEED` (1) choose a longer attack, or another.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flux_client::{Client, To};
use flux_multiuser::instance;
use flux_multiuser::world;
use flux_multiuser::{ALICE, BOB, FLUX, Instance, MALLORY};

const OPEN: &str = "allow-guest-user = true\nallow-root-owner = true";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Memory of the broker in KiB: that of a line of `/proc/PID/status`.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Asks the broker something small all the time; how long each answer took.
fn pings(over: &AtomicBool) -> Vec<Duration> {
    let client = Client::open(Some(instance::URI)).unwrap();
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let body = serde_json::json!({ "name": "size" });
        client.rpc("attr.get", To::Rank(0), Some(&body)).unwrap();
        took.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(3));
    }
    took.sort_unstable();
    took
}

#[test]
#[ignore = "needs root and MUNGE"]
fn whatever_guests_send_the_broker_lives_and_others_go_on() {
    let (seconds, seed) = (number("FLUX_HOSTILE_SECONDS", 5), number("FLUX_HOSTILE_SEED", 1));
    let instance = Instance::start(OPEN);
    let program = "/usr/libexec/flux/hostile";
    fs::copy(env!("CARGO_BIN_EXE_hostile"), program).unwrap();
    world::mode(program, 0o755);
    let mut jobs = Vec::new();
    for user in [ALICE, BOB, MALLORY] {
        for command in [&["sleep", "1000"][..], &["true"]] {
            let id = instance.ok(user, &[&["submit", "-n1"], command].concat());
            jobs.push(instance.ok(user, &["job", "id", "--to=dec", &id]));
        }
    }
    for command in [&["true"][..], &["--urgency=hold", "true"], &["-n2", "sh", "-c", "echo x"]] {
        let spec = instance.ok(ALICE, &[&["submit", "--dry-run"], command].concat());
        jobs.push(ALICE.signs(&spec));
    }
    let before = memory(instance.pid(), "VmRSS:");
    let over = AtomicBool::new(false);
    let (took, said) = std::thread::scope(|scope| {
        let pings = scope.spawn(|| pings(&over));
        let guests: Vec<_> = [ALICE, ALICE, MALLORY]
            .into_iter()
            .zip(seed * 100..)
            .map(|(user, seed)| {
                let mut command = user.command(program);
                command.args(["/run/flux/local", &seconds.to_string(), &seed.to_string()]);
                command.args(&jobs).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let said: Vec<_> =
            guests.into_iter().map(|guest| guest.wait_with_output().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        (pings.join().unwrap(), said)
    });
    for output in &said {
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        assert!(output.status.success(), "{output:?}\n{}", instance.log());
    }
    let p99 = took[took.len() * 99 / 100];
    let (now, most) = (memory(instance.pid(), "VmRSS:"), memory(instance.pid(), "VmHWM:"));
    println!(
        "{} pings of the owner: median {:?}, p99 {p99:?}, longest {:?}; broker {before} KiB before, \
         {now} after, {most} at most",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    let log = instance.log();
    assert!(!log.contains("panicked"), "{log}");
    // With room for a machine that is busy with other tests, and a program without optimization.
    assert!(p99 < Duration::from_secs(2), "{p99:?}");
    assert!(most < 900_000, "{most} KiB");
    // Nothing of others was touched, and everything works still.
    assert_eq!(instance.ok(BOB, &["run", "-n1", "id", "-u"]), BOB.id.to_string());
    let state = instance.ok(BOB, &["jobs", "-no", "{state}", &jobs[2]]);
    assert_eq!(state, "RUN");
    instance.ok(FLUX, &["run", "-n1", "true"]);
    instance.ok(FLUX, &["kvs", "put", "a=1"]);
    instance.ok(FLUX, &["cancel", "--user=all"]);
    instance.ok(FLUX, &["queue", "drain", "--timeout=60s"]);
}
