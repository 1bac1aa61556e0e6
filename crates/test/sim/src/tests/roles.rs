//! Every RPC of the catalogue, called by somebody who owns nothing.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::catalogue;
use flux_api::rpc::Method;
use flux_proto::Rolemask;
use serde_json::json;

use super::*;

const GUEST: u32 = 5001;

pub(super) fn running(size: u32) -> World {
    let mut world = World::new(Shape::new(Topology::kary(2, size).unwrap(), 4), Pace::default(), 4);
    for rank in 0..size {
        world.start_after(0, rank);
    }
    while !world.is_alive(0) {
        world.step();
    }
    let caller = world.connect(0).unwrap();
    let tag = world.call::<WaitRun>(caller, Some(0), &Default::default());
    answer(&mut world, tag);
    world
}

/// What a guest of one rank hears when it calls everything there is: errno and text by topic.
fn heard(rank: u32, to: Option<u32>) -> BTreeMap<&'static str, (Errno, String)> {
    let mut world = running(3);
    let guest = world.connect_guest(rank, GUEST).unwrap();
    let mut asked: BTreeMap<u32, &'static Method> = BTreeMap::new();
    for method in catalogue::methods() {
        asked.insert(world.ask(guest, to, method, &json!({})), method);
    }
    let mut heard = BTreeMap::new();
    let until = world.now + 5 * SEC;
    while world.now < until && world.step() {
        assert!(world.violations.is_empty(), "{:?}", world.violations);
        while let Some(notice) = world.notices.pop_front() {
            if let Notice::Response { caller, tag, message, .. } = notice
                && caller == guest
            {
                let topic = asked[&tag].topic;
                heard.entry(topic).or_insert((message.errnum(), message.error_text().to_string()));
            }
        }
    }
    // All that has changed nothing: the instance serves its owner.
    let owner = world.connect(0).unwrap();
    let tag = world.call::<WaitRun>(owner, Some(0), &Default::default());
    answer(&mut world, tag);
    drop(world);
    // What waited in it waits no more.
    drop(flux_api::rpc::leaked_answers());
    heard
}

#[test]
fn a_guest_is_refused_what_is_the_owners_on_every_rank() {
    let mut refused = BTreeSet::new();
    for (rank, to) in [(0, None), (0, Some(0)), (2, None), (2, Some(2)), (2, Some(0)), (0, Some(1))]
    {
        let heard = heard(rank, to);
        for method in catalogue::methods() {
            let topic = method.topic;
            let owners = !method.role.allows(Rolemask::USER);
            match heard.get(topic) {
                Some((Errno::EPERM, text)) => {
                    let by_role = text.contains("credentials") || text.contains("privilege");
                    assert_eq!(owners, by_role || owners, "{topic} on {to:?}: {text}");
                    if owners {
                        refused.insert(topic);
                    }
                }
                // Not served there, or by no service of the simulator.
                Some((Errno::ENOSYS, _)) if owners => {}
                other => assert!(!owners, "{topic} of rank {rank} on {to:?}: {other:?}"),
            }
        }
    }
    let owners = catalogue::methods().filter(|method| !method.role.allows(Rolemask::USER));
    let never: Vec<&str> =
        owners.map(|method| method.topic).filter(|topic| !refused.contains(topic)).collect();
    // What only real hosts serve is tried with a real broker.
    let absent = |topic: &&str| {
        let drivers = ["archive.", "calendar.", "launch.", "users."];
        !drivers.iter().any(|it| topic.starts_with(it))
    };
    assert!(!never.iter().any(absent), "never refused: {never:?}");
}
