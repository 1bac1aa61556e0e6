//! Guests who send anything, to any rank: no law is broken, and others are served.
//!
//! `FLUX_HOSTILE_SEEDS` (3) says how many attacks, `FLUX_HOSTILE_SEED` (1) which is the first.

use flux_hostile::{Arsenal, Dice};

use super::*;

const GUESTS: [u32; 2] = [5001, 5002];
const MESSAGES: u32 = 6_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn attack(seed: u64) {
    let mut world = roles::running(3);
    let mut dice = Dice::new(seed);
    let mut arsenal = Arsenal::default();
    // Jobs of the owner and of guests, as far as ids can be guessed.
    arsenal.jobs.extend([16_777_216, 33_554_432, 1 << 40]);
    let spec = br#"{"version":1,"resources":[{"type":"slot","count":1,"label":"t","with":[{"type":"core","count":1}]}],"tasks":[{"command":["x"],"slot":"t","count":{"per_slot":1}}],"attributes":{"system":{"duration":1}}}"#;
    arsenal.signed.extend(GUESTS.map(|user| wrap_none(spec, user)));
    let mut callers = Vec::new();
    for sent in 0..MESSAGES {
        while callers.len() < 8 {
            let rank = u32::try_from(dice.below(3)).unwrap();
            callers.push(world.connect_hostile(rank, *dice.one(&GUESTS)).unwrap());
        }
        let at = dice.below(callers.len());
        let message = arsenal.message(&mut dice);
        // What the codec of a real connection would let through.
        if let Ok(message) = flux_proto::decode_body(flux_proto::encode_body(&message)) {
            world.throw(callers[at], message);
        }
        if dice.once_in(200) {
            world.hang_up_client(callers.swap_remove(at));
        }
        for _ in 0..dice.below(30) {
            world.step();
        }
        assert!(world.violations.is_empty(), "seed {seed}, message {sent}: {:?}", world.violations);
    }
    for caller in callers {
        world.hang_up_client(caller);
    }
    let until = world.now + 5 * SEC;
    while world.now < until && world.step() {}
    assert!(world.violations.is_empty(), "seed {seed}: {:?}", world.violations);
    for rank in 0..3 {
        let owner = world.connect(rank).unwrap();
        let tag = world.call::<WaitRun>(owner, Some(0), &Default::default());
        let late = world.now + 60 * SEC;
        loop {
            assert!(world.now < late, "seed {seed}, rank {rank}: {:?}", world.unanswered(late));
            match world.notices.pop_front() {
                Some(Notice::Response { tag: answered, message, .. }) if answered == tag => {
                    assert_eq!(message.errnum(), Errno::OK, "{}", message.error_text());
                    break;
                }
                Some(_) => {}
                None => assert!(world.step()),
            }
        }
    }
    drop(world);
    drop(flux_api::rpc::leaked_answers());
}

#[test]
fn whatever_guests_send_no_law_is_broken_and_the_owner_is_served() {
    let first = number("FLUX_HOSTILE_SEED", 1);
    for seed in first..first + number("FLUX_HOSTILE_SEEDS", 3) {
        attack(seed);
    }
}
