//! Hosts that come and go while the instance runs.

use flux_proto::Errno;
use serde_json::{Value, json};

use super::cluster::{Cluster, OWNER, Shared, standard};
use crate::NodeConfig;

/// Brokers whose hosts are configured.
fn configured(uri: &'static str, size: u32) -> Cluster {
    let maker = move |mut cfg: NodeConfig, notes: &Shared| {
        if cfg.rank == 0 {
            cfg.instance = Some("one".to_string());
        }
        cfg.fixed_parent = true;
        cfg.topo_uri = Some(uri.to_string());
        standard(cfg, notes)
    };
    Cluster::with(uri, size, Box::new(maker))
}

/// Gives every broker that runs this list of hosts; the first refusal.
fn reload(cluster: &mut Cluster, hosts: &Value) -> Result<(), String> {
    for rank in 0..cluster.nodes.len() {
        if cluster.nodes[rank].is_none() {
            continue;
        }
        let rank = u32::try_from(rank).unwrap();
        let caller = cluster.client(rank, OWNER);
        let config = json!({ "bootstrap": { "hosts": hosts } });
        cluster
            .call(caller, "connector-local.config-reload", rank, config)
            .map_err(|error| error.message())?;
    }
    Ok(())
}

fn summary(cluster: &mut Cluster) -> (Value, String) {
    let root = cluster.client(0, OWNER);
    let tree = cluster.call(root, "overlay.topology", 0, json!({ "rank": 0 })).unwrap();
    let health = cluster.call(root, "overlay.health", 0, json!(null)).unwrap();
    (tree["size"].clone(), health["status"].as_str().unwrap().to_string())
}

#[test]
fn a_new_host_has_its_place_at_the_end_and_its_parent_begins_to_listen() {
    let mut cluster = configured("kary:2", 4);
    let root = cluster.client(0, OWNER);
    let error = cluster.call(root, "probe.echo", 4, json!({})).unwrap_err();
    assert_eq!(error.errno, Errno::EHOSTUNREACH);
    // Rank 4 is below rank 1, rank 5 below rank 2, which had no children.
    reload(&mut cluster, &json!([{ "host": "node[0-5]" }])).unwrap();
    assert_eq!(cluster.listening, [2]);
    assert_eq!(summary(&mut cluster), (json!(6), "partial".to_string()));
    assert!(cluster.logged(0, "new are node[4-5] (rank 4-5)"));
    cluster.grow(6);
    cluster.start(4);
    cluster.start(5);
    assert_eq!(summary(&mut cluster), (json!(6), "full".to_string()));
    for (from, to) in [(0, 4), (5, 4), (4, 5), (3, 5)] {
        let caller = cluster.client(from, OWNER);
        let body = cluster.call(caller, "probe.echo", to, json!({})).unwrap();
        assert_eq!(body["rank"], to);
    }
    // Again the same changes nothing.
    reload(&mut cluster, &json!([{ "host": "node[0-5]" }])).unwrap();
    assert_eq!(cluster.listening, [2]);
}

#[test]
fn a_host_at_the_end_or_one_that_is_marked_goes_when_its_broker_is_down() {
    let mut cluster = configured("kary:2", 5);
    let less = json!([{ "host": "node[0-3]" }]);
    let error = reload(&mut cluster, &less).unwrap_err();
    assert!(error.contains("node4 (rank 4) is online") || error.contains("this is"), "{error}");
    cluster.kill(4);
    reload(&mut cluster, &less).unwrap();
    assert_eq!(summary(&mut cluster), (json!(4), "full".to_string()));
    cluster.kill(3);
    let marked = json!([{ "host": "node[0-3]" }, { "host": "node3", "removed": true }]);
    reload(&mut cluster, &marked).unwrap();
    assert_eq!(summary(&mut cluster), (json!(3), "full".to_string()));
    // Its broker is not let in.
    cluster.shrink(4);
    cluster.start(3);
    cluster.advance(1_000_000);
    assert!(cluster.logged(1, "rank 3 is removed from this instance"));
    cluster.kill(3);
    reload(&mut cluster, &json!([{ "host": "node[0-3]" }])).unwrap();
    cluster.start(3);
    assert_eq!(summary(&mut cluster), (json!(4), "full".to_string()));
}

#[test]
fn what_would_move_somebody_is_refused_and_changes_nothing() {
    let mut cluster = configured("kary:2", 5);
    for (hosts, why) in [
        (json!([{ "host": "node[0,2-5]" }]), "rank 1 is node1 and would become node2"),
        (json!([{ "host": "other,node[0-5]" }]), "rank 0 is node0 and would become other"),
        (
            json!([{ "host": "node[0-4]" }, { "host": "node1", "removed": true }]),
            "rank 1 (node1) cannot be removed: it is the parent of rank 3 (node3)",
        ),
        (json!([{ "host": "node[" }]), "bootstrap.hosts: 'node['"),
    ] {
        let error = reload(&mut cluster, &hosts).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(summary(&mut cluster), (json!(5), "full".to_string()));
    let mut cluster = configured("custom", 3);
    let hosts = json!([{ "host": "node[0-2]" }, { "host": "node2", "parent": "node1" }]);
    let error = reload(&mut cluster, &hosts).unwrap_err();
    assert!(error.contains("the parent of rank 2 (node2) would change from rank 0"), "{error}");
    // Where the tree is chosen by its size, it stays as it is until all start again.
    let mut cluster = configured("auto", 5);
    let error = reload(&mut cluster, &json!([{ "host": "node[0-1999]" }])).unwrap_err();
    assert!(error.contains("which needs a restart of all brokers"), "{error}");
    reload(&mut cluster, &json!([{ "host": "node[0-1023]" }])).unwrap();
    let mut cluster = configured("custom", 3);
    // A new one may be anywhere.
    let hosts = json!([{ "host": "node[0-3]" }, { "host": "node3", "parent": "node1" }]);
    reload(&mut cluster, &hosts).unwrap();
    assert_eq!(cluster.listening, [1]);
}

#[test]
fn a_key_that_is_not_listed_any_more_ends_its_link_at_once() {
    let mut cluster = configured("kary:1", 3);
    cluster.keys = (0..3).map(|rank| (rank, format!("k{rank}"))).collect();
    for rank in [2, 1, 0] {
        cluster.kill(rank);
    }
    for rank in 0..3 {
        cluster.start(rank);
    }
    let listed = |keys: [&str; 3]| {
        let entry =
            |(rank, key): (usize, &&str)| json!({ "host": format!("node{rank}"), "key": key });
        Value::Array(keys.iter().enumerate().map(entry).collect())
    };
    reload(&mut cluster, &listed(["k0", "k1", "k2"])).unwrap();
    assert_eq!(cluster.trusted.len(), 3);
    assert_eq!(summary(&mut cluster), (json!(3), "full".to_string()));
    // The leader would lock itself out.
    let error = reload(&mut cluster, &listed(["kx", "k1", "k2"])).unwrap_err();
    assert!(error.contains("the key of this host is not that which is listed"), "{error}");
    // Rank 2 is to have another key: its link to rank 1 goes.
    let root = cluster.client(0, OWNER);
    let held = cluster.ask(root, "probe.hold", 2, json!({}));
    reload(&mut cluster, &listed(["k0", "k1", "new"])).unwrap();
    assert_eq!(cluster.answers(root, held)[0].as_ref().unwrap_err().errno, Errno::EHOSTUNREACH);
    assert!(cluster.logged(1, "node2 (rank 2): its key is not listed any more"));
    // With the former key it is not let in again, with the new one it is.
    cluster.kill(2);
    cluster.start(2);
    assert!(cluster.logged(1, "the key of rank 2 is another one"));
    cluster.keys.insert(2, "new".to_string());
    cluster.kill(2);
    cluster.start(2);
    assert!(cluster.call(root, "probe.echo", 2, json!({})).is_ok());
}
