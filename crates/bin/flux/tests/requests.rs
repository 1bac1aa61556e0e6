//! Every request ends: those on their way to or from a broker that is cut off by request end at
//! once; and who owes an answer is named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use flux_api::kvs::{PRIMARY, WaitVersion, WaitVersion_};
use flux_client::{Client, Pending, To};
use flux_proto::Errno;
use nodes::{Nodes, PATIENCE};

/// Requests that wait, at a rank, for something that does not happen.
fn waiting(client: &Client, rank: u32, count: usize) -> Vec<Pending<WaitVersion_>> {
    let request = WaitVersion { namespace: PRIMARY.to_string(), rootseq: 1_000_000 };
    let pending = (0..count).map(|_| client.send::<WaitVersion_>(To::Rank(rank), &request));
    let pending = pending.collect();
    // A later one that was answered says that the others have arrived.
    client.rpc("broker.ping", To::Rank(rank), Some(&serde_json::json!({ "seq": 0 }))).unwrap();
    pending
}

#[test]
fn a_disconnect_ends_each_request_to_and_from_the_broker_at_once() {
    let mut nodes = Nodes::start(7, false, "");
    let at = |rank: usize| Client::open(Some(&nodes.uri(rank))).unwrap();
    // From above and from beside to what is cut off and to what is below that, and back.
    let (leader, other, router, leaf) = (at(0), at(5), at(1), at(3));
    let mut lost = Vec::new();
    for (client, rank) in [(&leader, 1), (&leader, 3), (&other, 4), (&router, 0), (&leaf, 6)] {
        lost.extend(waiting(client, rank, 50));
    }
    // These do not pass there.
    let mut kept = waiting(&leader, 2, 10);
    kept.extend(waiting(&other, 0, 10));
    nodes.text(0, &["overlay", "disconnect", "1"]);
    for request in lost {
        let error = request.wait_within(PATIENCE).unwrap_err();
        assert_eq!(error.errno, Errno::EHOSTUNREACH, "{error}");
    }
    assert!(kept.iter_mut().all(|request| request.try_take().is_none()));
    // It ends, to be started again; whoever is below waits for it.
    assert_eq!(nodes.ended(1), 1);
    nodes.boot(1);
    nodes.wait_for_all();
    nodes.use_all();
    assert!(kept.iter_mut().all(|request| request.try_take().is_none()));
}

#[test]
fn a_service_that_owes_answers_is_named_with_its_rank_and_queue() {
    let nodes = Nodes::start(3, false, "");
    nodes.text(0, &["module", "health", "-r", "all", "--older", "30s"]);
    let client = Client::open(Some(&nodes.uri(0))).unwrap();
    let _waiting = waiting(&client, 2, 3);
    let words = ["module", "health", "-r", "all", "--older", "1s"];
    let mut told = String::new();
    nodes.wait("service that is named", |nodes| {
        let output = nodes.run(1, &words);
        told = String::from_utf8(output.stdout).unwrap();
        !output.status.success() && told.contains("kvs.wait-version")
    });
    let line = told.lines().find(|line| line.contains("kvs.wait-version")).unwrap();
    assert!(line.starts_with("rank 2: kvs: kvs.wait-version waits for "), "{told}");
    assert!(line.ends_with(", 3 unanswered"), "{told}");
}
