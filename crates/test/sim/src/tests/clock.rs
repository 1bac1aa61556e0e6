//! Wall clocks that are set by an hour, in both directions, while an instance works.

use super::criteria::Script;
use super::*;

const HOUR: f64 = 3600.0;
const INACTIVE: u64 = 64;

/// A clock is set while jobs run, wait for a time, and are limited; then the leader is killed.
fn a_clock_is_set(ranks: &[u32], wrong: f64) {
    let mut script = Script::boot(Topology::kary(2, 4).unwrap(), 9);
    let none = json!({});
    let limited = script.submit(4, 1, 30.0, &json!({"duration": 60}));
    let endless = script.submit(1, 1, 3_000_000.0, &json!({"duration": 20}));
    let begin = script.world.clock(0).wall + 1800.0;
    let begin = json!({"dependencies": [{"scheme": "begin-time", "value": begin.to_string()}]});
    let timed = script.submit(1, 1, 1.0, &begin);
    script.pass(5 * SEC);
    let shells = script.world.running_shells();
    assert_eq!(shells.len(), 5);
    for rank in ranks {
        script.world.set_clock(*rank, wrong);
    }
    // Nobody is taken for dead, nothing ends, and work goes on.
    let quick = script.submit(4, 1, 1.0, &none);
    script.pass(8 * SEC);
    let running: Vec<_> = shells.iter().map(|(_, _, job)| *job).collect();
    assert!(running.contains(&limited) && running.contains(&endless));
    assert_eq!(script.jobs(&["state"])[&quick]["state"], INACTIVE);
    let still = script.world.running_shells();
    assert!(shells.iter().all(|shell| still.contains(shell)), "{shells:?} {still:?}");
    for rank in 0..4 {
        assert!(script.world.is_alive(rank));
    }
    // Limits are of the time that went by.
    script.pass(30 * SEC);
    let jobs = script.jobs(&["state", "success", "result"]);
    assert_eq!(jobs[&limited]["success"], true, "{jobs:?}");
    assert_eq!((&jobs[&endless]["state"], &jobs[&endless]["result"]), (&json!(64), &json!(8)));
    // A time of day is what the leader's clock says.
    let ahead = wrong > 0.0 && ranks.contains(&0);
    script.pass(60 * SEC);
    assert_eq!(script.jobs(&["state"])[&timed]["state"] == INACTIVE, ahead);
    // Ids never go back, and nothing is forgotten, by a leader that starts with the new time.
    let before = script.jobs(&["state", "t_submit", "t_run"]);
    script.leader_dies();
    script.pass(3 * SEC);
    assert_eq!(script.jobs(&["state", "t_submit", "t_run"]), before);
    let new = script.submit(4, 4, 1.0, &none);
    assert!(before.keys().all(|id| *id < new), "an id went back");
    script.wait_for(&["state"], |jobs| jobs[&new]["state"] == INACTIVE);
}

#[test]
fn all_clocks_go_an_hour_forward() {
    a_clock_is_set(&[0, 1, 2, 3], HOUR);
}

#[test]
fn all_clocks_go_an_hour_back() {
    a_clock_is_set(&[0, 1, 2, 3], -HOUR);
}

#[test]
fn the_clock_of_the_leader_goes_an_hour_forward() {
    a_clock_is_set(&[0], HOUR);
}

#[test]
fn the_clock_of_the_leader_goes_an_hour_back() {
    a_clock_is_set(&[0], -HOUR);
}

#[test]
fn the_clocks_of_followers_go_an_hour_forward() {
    a_clock_is_set(&[1, 2], HOUR);
}

#[test]
fn the_clock_of_a_follower_goes_an_hour_back() {
    a_clock_is_set(&[3], -HOUR);
}
