use serde_json::json;

use super::cluster::{Cluster, OWNER, Shared, standard};
use crate::{NodeConfig, Topology};

#[test]
fn sixty_four_brokers_become_one_full_tree() {
    let mut cluster = Cluster::new("kary:2", 64);
    for notes in &cluster.notes {
        let notes = notes.borrow();
        assert!(notes.joined[0].is_ok());
        assert_eq!(notes.started, [Ok(())]);
    }
    let client = cluster.client(63, OWNER);
    for rank in 0..64 {
        let health = cluster.call(client, "overlay.health", rank, json!(null)).unwrap();
        assert_eq!(health["status"], "full", "rank {rank}");
    }
    let tree = cluster.call(client, "overlay.topology", 0, json!({ "rank": 0 })).unwrap();
    assert_eq!(tree["size"], json!(64));
    assert_eq!(tree["children"][0]["size"], json!(32));
    assert_eq!(tree["children"][1]["children"][1]["rank"], json!(6));
    let stats = cluster.call(client, "overlay.stats-get", 1, json!(null)).unwrap();
    assert_eq!(stats["child-connected"], json!(2));
    assert_eq!(stats["parent-count"], json!(1));
}

#[test]
fn a_child_waits_for_its_parent_with_growing_patience() {
    let mut cluster = Cluster::new("kary:1", 2);
    cluster.kill(0);
    cluster.kill(1);
    cluster.start(1);
    assert!(cluster.notes[1].borrow().joined.is_empty());
    cluster.advance(60_000_000);
    let before = cluster.stderr.len();
    cluster.advance(20_000_000);
    let tries = cluster.stderr.len() - before;
    assert!((40..=80).contains(&tries), "{tries} tries in 20 s: {:?}", cluster.stderr);
    cluster.start(0);
    cluster.advance(2_000_000);
    let parent = cluster.config(0).uuid.to_str_lossy().into_owned();
    let joined = cluster.notes[1].borrow().joined.clone();
    assert_eq!(joined, [Ok(json!({ "uuid": parent }))]);
}

fn refused(change: fn(&mut NodeConfig)) -> (Cluster, flux_api::RpcError) {
    let maker = move |mut cfg: NodeConfig, notes: &Shared| {
        if cfg.rank == 1 {
            change(&mut cfg);
        }
        standard(cfg, notes)
    };
    let cluster = Cluster::with("kary:1", 3, Box::new(maker));
    let error = cluster.notes[1].borrow().joined[0].clone().unwrap_err();
    (cluster, error)
}

#[test]
fn a_child_of_another_version_is_turned_away_and_told_why() {
    let (mut cluster, error) = refused(|cfg| cfg.version = (0, 87, 1));
    let text = "client (0.87.1) version mismatched with server (0.88.0)";
    assert_eq!(error.message(), text);
    assert!(cluster.logged(1, &format!("overlay.err[1]: overlay.hello: {text}")));
    assert!(cluster.logged(0, text));
    let client = cluster.client(0, OWNER);
    let health = cluster.call(client, "overlay.health", 0, json!(null)).unwrap();
    assert_eq!(health["children"][0]["status"], "offline");
    assert_eq!(health["children"][0]["error"], text);
}

#[test]
fn a_child_of_another_host_or_size_is_turned_away_and_both_say_why() {
    let (cluster, error) = refused(|cfg| cfg.hostlist = vec!["x".into(), "y".into()].into());
    let text = "rank 1 is y where node1 is expected";
    assert_eq!(error.message(), text);
    assert!(cluster.logged(1, &format!("overlay.hello: {text}")) && cluster.logged(0, text));
    let (cluster, error) = refused(|cfg| cfg.topology = Topology::kary(1, 4).unwrap());
    let text = "rank 1 was started for an instance of 4 brokers, and this one has 3";
    assert!(error.message().starts_with(text), "{}", error.message());
    assert!(cluster.logged(1, &format!("overlay.hello: {text}")) && cluster.logged(0, text));
}

#[test]
fn neighbouring_releases_join_and_others_are_turned_away_and_told_why() {
    for release in [(1, 1, 7), (1, 2, 9), (1, 3, 0)] {
        let maker = move |mut cfg: NodeConfig, notes: &Shared| {
            cfg.release = if cfg.rank == 1 { release } else { (1, 2, 3) };
            standard(cfg, notes)
        };
        let cluster = Cluster::with("kary:1", 2, Box::new(maker));
        assert!(cluster.notes[1].borrow().joined[0].is_ok(), "{release:?}");
    }
    for (release, text) in [((1, 4, 0), "1.4.0"), ((1, 0, 9), "1.0.9"), ((2, 2, 3), "2.2.3")] {
        let maker = move |mut cfg: NodeConfig, notes: &Shared| {
            cfg.release = if cfg.rank == 1 { release } else { (1, 2, 3) };
            standard(cfg, notes)
        };
        let mut cluster = Cluster::with("kary:1", 2, Box::new(maker));
        let error = cluster.notes[1].borrow().joined[0].clone().unwrap_err();
        let text = format!("node1 (rank 1) has version {text} and its parent node0 (rank 0) 1.2.3");
        assert!(error.message().starts_with(&text), "{}", error.message());
        assert!(cluster.logged(0, &text) && cluster.logged(1, &text));
        let client = cluster.client(0, OWNER);
        let health = cluster.call(client, "overlay.health", 0, json!(null)).unwrap();
        assert!(health["children"][0]["error"].as_str().unwrap().starts_with(&text));
    }
}

#[test]
fn a_neighbour_patch_release_is_welcome() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.version = (0, 88, cfg.rank);
        standard(cfg, notes)
    };
    let cluster = Cluster::with("kary:1", 3, Box::new(maker));
    assert!(cluster.notes.iter().all(|notes| notes.borrow().joined[0].is_ok()));
}

#[test]
fn the_same_start_gives_the_same_ids() {
    let route = || {
        let mut cluster = Cluster::new("kary:2", 3);
        let client = cluster.client(2, OWNER);
        cluster.call(client, "broker.ping", 1, json!({})).unwrap()["route"].clone()
    };
    assert_eq!(route(), route());
}
