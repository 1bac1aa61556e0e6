//! Who may submit, and how much.

use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use super::bench::{Bench, Store, jobspec};
use crate::access::FRESH_US;

const AMY: u32 = 2001;
const BOB: u32 = 2002;
const OPS: u32 = 300;

/// Answers the `users` driver's part: amy and bob, and a group that bob is in.
fn look_up(bench: &mut Bench) -> usize {
    let mut asked = 0;
    loop {
        bench.settle();
        let is_users = |message: &Message| message.topic().starts_with("users.");
        let Some(at) = bench.out.iter().position(is_users) else { return asked };
        let request = bench.out.remove(at).unwrap();
        let body: Value = request.json().unwrap();
        asked += 1;
        let answer = match request.topic() {
            "users.numbers" => {
                let known = |names: &Value, all: &[(&str, u32)]| -> Value {
                    let names = names.as_array().unwrap();
                    let found = all.iter().filter(|(name, _)| names.contains(&json!(name)));
                    found
                        .map(|(name, number)| (name.to_string(), json!(number)))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                };
                json!({
                    "users": known(&body["users"], &[("amy", AMY), ("bob", BOB)]),
                    "groups": known(&body["groups"], &[("ops", OPS)]),
                })
            }
            _ if body["userid"] == AMY => json!({"name": "amy", "groups": [100]}),
            _ if body["userid"] == BOB => json!({"name": "bob", "groups": [100, OPS]}),
            _ => json!({"groups": []}),
        };
        bench.rig.reply(&request, answer);
    }
}

/// Submits for a user; number and text of the refusal.
fn submit(bench: &mut Bench, id: u64, userid: u32, spec: Value) -> Option<(Errno, String)> {
    let tag = bench.announce(id, userid, 0, spec);
    look_up(bench);
    let answer = bench.rig.response(tag).unwrap();
    let text = answer["errors"].get(0)?[1].as_str().unwrap().to_string();
    let errno = answer["errnums"].get(0).map_or(Errno::EINVAL, |pair| {
        assert_eq!(pair[0], id);
        Errno(u32::try_from(pair[1].as_u64().unwrap()).unwrap())
    });
    Some((errno, text))
}

fn may(bench: &mut Bench, id: u64, userid: u32) -> bool {
    match submit(bench, id, userid, jobspec(json!({}))) {
        None => true,
        Some((errno, text)) => {
            assert_eq!(errno, Errno::EPERM, "{text}");
            false
        }
    }
}

fn reload(bench: &mut Bench, config: Value) {
    bench.call("job-manager.config-reload", config).unwrap();
    look_up(bench);
}

#[test]
fn users_and_groups_that_are_named_may_submit_and_the_owner() {
    let mut bench = Bench::new();
    let stranger = 4711;
    assert!(may(&mut bench, 1, AMY) && may(&mut bench, 2, stranger));
    reload(&mut bench, json!({"policy": {"access": {"allow-user": ["amy"]}}}));
    assert!(may(&mut bench, 3, AMY) && !may(&mut bench, 4, BOB) && may(&mut bench, 5, 1000));
    let (errno, text) = submit(&mut bench, 6, BOB, jobspec(json!({}))).unwrap();
    assert_eq!(errno, Errno::EPERM);
    assert_eq!(text, "user bob is not allowed to submit jobs (policy.access)");
    reload(&mut bench, json!({"policy": {"access": {"allow-group": ["ops"]}}}));
    assert!(!may(&mut bench, 7, AMY) && may(&mut bench, 8, BOB) && !may(&mut bench, 9, stranger));
    let both = json!({"allow-user": ["amy"], "allow-group": ["ops"]});
    reload(&mut bench, json!({"policy": {"access": both}}));
    assert!(may(&mut bench, 10, AMY) && may(&mut bench, 11, BOB) && !may(&mut bench, 12, stranger));
    reload(&mut bench, json!({"policy": {"access": {"allow-user": []}}}));
    assert!(!may(&mut bench, 13, AMY) && may(&mut bench, 14, 1000));
    reload(&mut bench, json!({"policy": {"access": {}}}));
    assert!(may(&mut bench, 15, stranger));
    bench.crash();
}

#[test]
fn the_rule_of_a_queue_replaces_the_general_one() {
    let config = json!({
        "policy": {"access": {"allow-user": ["amy"]}},
        "queues": {
            "open": {},
            "ops": {"policy": {"access": {"allow-group": ["ops"]}}},
            "night": {"parent": "ops"},
            "day": {"parent": "ops", "policy": {"access": {"allow-user": ["amy", "bob"]}}},
        },
    });
    let mut bench = Bench::with(&config, Store::new());
    let mut id = 0;
    for (queue, who) in [
        ("open", [true, false]),
        ("ops", [false, true]),
        ("night", [false, true]),
        ("day", [true, true]),
    ] {
        for (userid, allowed) in [AMY, BOB].into_iter().zip(who) {
            id += 1;
            let refused = submit(&mut bench, id, userid, jobspec(json!({ "queue": queue })));
            assert_eq!(refused.is_none(), allowed, "{userid} in {queue}: {refused:?}");
        }
    }
    let (_, text) = submit(&mut bench, 20, AMY, jobspec(json!({"queue": "night"}))).unwrap();
    assert_eq!(
        text,
        "user amy is not allowed to submit jobs to queue night (queues.night.policy.access)"
    );
    // Nor may a job go there later, unless the owner moves it.
    let amy = bench.rig.guest(AMY);
    let update = json!({"id": 1, "updates": {"attributes.system.queue": "ops"}});
    let tag = bench.rig.request_as(amy, "job-manager.update", update.clone(), false);
    look_up(&mut bench);
    assert_eq!(bench.rig.response(tag).unwrap_err().errno, Errno::EPERM);
    let tag = bench.rig.request("job-manager.update", update);
    bench.settle();
    let asked = bench.out.iter().any(|message| message.topic() == "feasibility.check");
    assert!(asked, "the owner's update does not go on: {:?}", bench.rig.try_response(tag));
    bench.crash();
}

#[test]
fn requests_wait_for_names_and_fail_when_there_are_none() {
    let mut bench = Bench::new();
    bench
        .call("job-manager.config-reload", json!({"policy": {"access": {"allow-user": ["amy"]}}}))
        .unwrap();
    let (numbers, _) = bench.expect("users.numbers");
    let amy = bench.announce(1, AMY, 0, jobspec(json!({})));
    let owner = bench.announce(2, 1000, 0, jobspec(json!({})));
    bench.settle();
    // The owner waits for nobody.
    assert_eq!(bench.rig.response(owner).unwrap()["errors"], json!([]));
    let (person, body) = bench.expect("users.groups");
    assert_eq!(body, json!({ "userid": AMY }));
    bench.rig.reply(&person, json!({"name": "amy", "groups": []}));
    assert!(bench.rig.try_response(amy).is_none());
    bench.rig.fail(&numbers, Errno::EIO);
    bench.settle();
    let answer = bench.rig.response(amy).unwrap();
    assert_eq!(answer["errnums"], json!([[1, Errno::EAGAIN.0]]), "{answer}");
    // A failure is not believed for long.
    bench.rig.advance(1_500_000);
    assert!(may(&mut bench, 3, AMY));
    // A reload in between asks anew, and loses nobody.
    let bob = bench.announce(4, BOB, 0, jobspec(json!({})));
    bench.settle();
    reload(&mut bench, json!({"policy": {"access": {"allow-user": ["bob"]}}}));
    assert_eq!(bench.rig.response(bob).unwrap()["errors"], json!([]));
    bench.crash();
}

#[test]
fn what_is_known_of_users_is_remembered_for_a_while() {
    let config = json!({"policy": {"access": {"allow-group": ["ops"]}}});
    let mut bench = Bench::with(&config, Store::new());
    assert_eq!(look_up(&mut bench), 1);
    for (id, asked) in [(1, 1), (2, 0)] {
        bench.announce(id, BOB, 0, jobspec(json!({})));
        assert_eq!(look_up(&mut bench), asked);
    }
    bench.rig.advance(FRESH_US);
    bench.announce(3, BOB, 0, jobspec(json!({})));
    assert_eq!(look_up(&mut bench), 2);
    bench.crash();
}

#[test]
fn names_that_mean_nobody_are_told() {
    let names = json!({"allow-user": ["amy", "annie"], "allow-group": ["staff"]});
    let mut bench = Bench::with(&json!({"policy": {"access": names}}), Store::new());
    look_up(&mut bench);
    let said: Vec<&str> = bench.rig.logs.iter().map(|(_, text)| text.as_str()).collect();
    for text in [
        "policy.access.allow-user: there is no user 'annie'",
        "policy.access.allow-group: there is no group 'staff'",
    ] {
        assert!(said.contains(&text), "{said:?}");
    }
    assert!(!said.iter().any(|text| text.contains("'amy'")));
    bench.finish();
}

#[test]
fn a_guest_has_so_many_active_jobs_and_bytes_and_no_more() {
    let mut bench =
        Bench::with(&json!({"job-manager": {"guest-max-active-jobs": 2}}), Store::new());
    let spec = || jobspec(json!({}));
    assert_eq!(submit(&mut bench, 1, AMY, spec()), None);
    assert_eq!(submit(&mut bench, 2, AMY, spec()), None);
    let (errno, text) = submit(&mut bench, 3, AMY, spec()).unwrap();
    assert_eq!(errno, Errno::EDQUOT);
    assert_eq!(
        text,
        "you have 2 active jobs, and 2 are allowed (job-manager.guest-max-active-jobs)"
    );
    // Others are not concerned, nor is the owner.
    assert_eq!(submit(&mut bench, 4, BOB, spec()), None);
    for id in 5..9 {
        assert_eq!(submit(&mut bench, id, 1000, spec()), None);
    }
    // What has ended does not count, what a restart finds does.
    bench.call("job-manager.raise", json!({"id": 1, "severity": 0, "type": "cancel"})).unwrap();
    assert_eq!(submit(&mut bench, 10, AMY, spec()), None);
    let store = bench.crash();

    let mut bench = Bench::with(&json!({"job-manager": {"guest-max-active-jobs": 3}}), store);
    assert_eq!(submit(&mut bench, 11, AMY, spec()), None);
    assert_eq!(submit(&mut bench, 12, AMY, spec()).unwrap().0, Errno::EDQUOT);
    reload(
        &mut bench,
        json!({"job-manager": {"guest-max-active-jobs": -1, "guest-max-active-bytes": "1k"}}),
    );
    let (errno, text) = submit(&mut bench, 13, AMY, spec()).unwrap();
    assert_eq!(errno, Errno::EDQUOT);
    assert!(text.contains("1k are allowed (job-manager.guest-max-active-bytes)"), "{text}");
    assert_eq!(submit(&mut bench, 14, BOB, spec()), None);
    for (key, value) in
        [("guest-max-active-jobs", json!(-2)), ("guest-max-active-bytes", json!("x"))]
    {
        let bad = bench.call("job-manager.config-reload", json!({"job-manager": {key: value}}));
        assert!(bad.unwrap_err().contains(key));
    }
    bench.crash();
}
