//! What guests hear of the jobs of others, where jobs are private and where they are not.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use flux_client::Client;
use flux_multiuser::instance;
use flux_multiuser::{ALICE, BOB, FLUX, Instance, User};
use serde_json::Value;

const PRIVATE: &str = "allow-guest-user = true\nprivate-mode = true";

fn client(user: User) -> Client {
    nix::unistd::seteuid(user.id.into()).expect("root may");
    let client = Client::open(Some(instance::URI));
    nix::unistd::seteuid(0.into()).expect("root again");
    client.unwrap()
}

#[test]
#[ignore = "needs root and MUNGE"]
fn in_private_mode_no_command_tells_of_jobs_of_others() {
    let instance = Instance::start(PRIVATE);
    let secret = "--job-name=confidential";
    let words = ["submit", secret, "-n1", "sh", "-c", "echo classified; sleep 1000"];
    let running = instance.ok(ALICE, &words);
    let ended = instance.ok(ALICE, &["submit", "--wait", secret, "-n1", "true"]);
    let held = instance.ok(ALICE, &["submit", "--urgency=hold", secret, "-n1", "true"]);
    instance.ok(ALICE, &["job", "wait-event", "-p", "output", &running, "data"]);
    for id in [running.as_str(), &ended, &held] {
        for words in [
            &["jobs", "-A", "-a"][..],
            &["jobs", "-A", "-a", "-o", "{id} {name} {username} {ranks} {nodelist}"],
            &["jobs", "-a", "-o", "{name} {username}", id],
            &["jobs", "--json", "-A", "-a"],
            &["job", "list", "-A", "-a"],
            &["job", "list", "-u", "alice"],
            &["job", "list-ids", id],
            &["job", "list-inactive"],
            &["job", "eventlog", id],
            &["job", "eventlog", "-p", "exec", id],
            &["job", "eventlog", "-p", "output", id],
            &["job", "info", id, "eventlog"],
            &["job", "info", id, "jobspec"],
            &["job", "info", id, "J"],
            &["job", "info", id, "R"],
            &["job", "attach", "--read-only", id],
            &["job", "wait-event", "-t", "1", id, "submit"],
            &["job", "wait-event", "-t", "1", "-p", "output", id, "data"],
            &["job", "status", id],
            &["job", "last"],
            &["job", "timeleft", id],
            &["job", "taskmap", id],
            &["job", "hostpids", id],
            &["pgrep", "-A", "-a", "confid"],
            &["pstree", "-a", "-x"],
            &["uri", id],
            &["proxy", id, "true"],
            &["resource", "list", "-o", "{state} {nnodes} {nodelist}"],
            &["watch", id],
            &["exec", "-r", "0", "true"],
        ] {
            let said = instance.flux(BOB, words);
            let all = format!("{}{}", said.out, said.err);
            for word in ["confidential", "classified", "alice", "65001"] {
                // What was asked for is repeated.
                let asked = words.iter().any(|own| own.contains(word));
                assert!(asked || !all.contains(word), "{words:?}: {said:?}");
            }
            assert!(!said.out.contains(id) || words.contains(&"uri"), "{words:?}: {said:?}");
        }
    }
    // The owner sees all of it, and alice hers.
    for user in [FLUX, ALICE] {
        let said = instance.ok(user, &["jobs", "-A", "-a", "-no", "{name}"]);
        assert_eq!(said.lines().filter(|name| *name == "confidential").count(), 3, "{said}");
    }
    instance.ok(FLUX, &["cancel", "--user=alice"]);
}

#[test]
#[ignore = "needs root and MUNGE"]
fn no_event_tells_a_guest_of_jobs_of_others() {
    let instance = Instance::start(PRIVATE);
    let guest = client(BOB);
    guest.subscribe("").unwrap();
    let words = ["run", "--job-name=confidential", "-n2", "sh", "-c", "echo classified"];
    instance.ok(ALICE, &words);
    let id = instance.ok(ALICE, &["submit", "-n1", "sleep", "1000"]);
    let dec = instance.ok(ALICE, &["job", "id", "--to=dec", &id]);
    instance.ok(ALICE, &["job", "wait-event", &id, "start"]);
    instance.ok(ALICE, &["job", "kill", "-s", "CONT", &id]);
    instance.ok(ALICE, &["cancel", &id]);
    instance.ok(ALICE, &["job", "wait-event", "-t", "60", &id, "clean"]);
    // Its own shows that all before it have come.
    instance.ok(BOB, &["event", "pub", "the.end", "{}"]);
    let mut heard = Vec::new();
    loop {
        let event = guest.next_event(Some(Duration::from_secs(60))).expect("events come");
        let text = format!("{} {}", event.topic(), String::from_utf8_lossy(event.raw()));
        if event.topic() == "the.end" {
            break;
        }
        for word in ["confidential", "classified", "alice", "65001", dec.as_str(), &id] {
            assert!(!text.contains(word), "{text}");
        }
        heard.push(text);
    }
    assert!(!heard.iter().any(|text| text.contains("job-")), "{heard:?}");
}

/// What `flux top` shows to a user, once a text is there.
fn top(instance: &Instance, user: User, text: &str) -> String {
    let script = format!(
        "cd; rm -f shown; (until grep -q '{text}' shown; do sleep 0.05; done; printf q) | \
         script -qefc 'flux top' shown >/dev/null; cat shown; rm shown"
    );
    let words = ["timeout", "60", "sh", "-c", &script];
    let env = [("FLUX_URI", instance::URI), ("TERM", "xterm"), ("LC_ALL", "C.UTF-8")];
    let said = user.run_with(&words, b"", &env);
    assert!(said.success, "{said:?}\n{}", instance.log());
    said.out
}

#[test]
#[ignore = "needs root and MUNGE"]
fn in_private_mode_guests_use_the_commands_that_show_and_enter_for_their_own_jobs() {
    let instance = Instance::start(PRIVATE);
    let ran = instance.ok(ALICE, &["submit", "--wait", "--job-name=confidential", "true"]);
    let theirs = instance.ok(ALICE, &["alloc", "--bg", "-n1", "--job-name=confidential"]);
    let held = ["submit", "--urgency=hold", "--job-name=confidential", "-n1", "--cc=1-7", "true"];
    instance.ok(ALICE, &held);
    let own = instance.ok(BOB, &["submit", "-t10m", "-n1", "--job-name=mine", "sleep", "1000"]);
    let sub = instance.ok(BOB, &["alloc", "--bg", "-n1", "--job-name=within"]);
    instance.ok(BOB, &["job", "wait-event", "-t", "60", &own, "start"]);
    for id in [&sub, &theirs] {
        let user = if *id == sub { BOB } else { ALICE };
        instance.ok(user, &["job", "wait-event", "-t", "60", id, "memo"]);
    }

    let left: f64 = instance.ok(BOB, &["job", "timeleft", &own]).parse().unwrap();
    assert!(left > 0.0 && left <= 600.0, "{left}");
    assert_eq!(instance.ok(BOB, &["pgrep", "mine"]), own);
    assert_eq!(instance.ok(BOB, &["pgrep", "-A", "-a", "confid|mine"]), own);
    assert!(instance.ok(BOB, &["pstree", "-a", "-x"]).contains("mine"));
    let within =
        instance.ok(BOB, &["proxy", &sub, "sh", "-c", "flux run id -un; flux getattr size"]);
    assert_eq!(within, "bob\n1");
    assert!(instance.ok(BOB, &["uri", &sub]).contains("://"));
    let uptime = instance.ok(BOB, &["proxy", &sub, "flux", "uptime"]);
    assert!(uptime.contains("owner bob"), "{uptime}");
    // Numbers, too, are of one's own jobs.
    for (user, sched, total) in [(BOB, 0, 2), (ALICE, 7, 9), (FLUX, 7, 11)] {
        let stats: Value = serde_json::from_str(&instance.ok(user, &["job", "stats"])).unwrap();
        let states = &stats["job_states"];
        assert_eq!((&states["sched"], &states["total"]), (&sched.into(), &total.into()), "{stats}");
    }

    let shown = top(&instance, BOB, "within");
    assert!(shown.contains("0 pending") && shown.contains("2 running"), "{shown}");
    assert!(shown.contains("mine") && !shown.contains("confidential"), "{shown}");
    for id in [&ran, &theirs] {
        for words in [&["proxy", id, "true"][..], &["uri", id], &["job", "timeleft", id]] {
            let said = instance.flux(BOB, words);
            let all = format!("{}{}", said.out, said.err);
            assert!(
                !said.success && !all.contains("confid") && !all.contains("alice"),
                "{words:?} {said:?}"
            );
        }
    }
    for id in [&theirs, &sub] {
        instance.ok(FLUX, &["cancel", id]);
    }
}
