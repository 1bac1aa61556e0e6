//! A short storm: brokers of every role are killed all the time, under a load of jobs.
//!
//! The long one is `cargo run --release -p flux-chaos -- --minutes 5`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use flux_chaos::Plan;
use flux_chaos::plan::Extra;

/// A storm of a quarter of a minute.
fn storm(mix: BTreeSet<Extra>) {
    let plan = Plan {
        time: Duration::from_secs(15),
        brokers: 5,
        jobs: 100,
        clients: 2,
        followers: 1,
        longest: Duration::from_secs(3),
        mix,
        ..Plan::new(env!("CARGO_BIN_EXE_flux").into())
    };
    let report = flux_chaos::run(&plan).unwrap();
    let told = [report.violations.clone(), report.stories].concat().join("\n");
    assert!(report.violations.is_empty(), "{told}\n{}", report.text);
}

#[test]
fn a_storm_of_kills_breaks_no_promise() {
    storm(BTreeSet::new());
}

#[test]
fn a_storm_of_kills_and_of_all_that_people_do_breaks_no_promise() {
    storm(Extra::ALL.iter().map(|(_, extra)| *extra).collect());
}
