use flux_wire::CertError;
use serde_json::json;

use super::*;
use crate::boot::Tree;

fn parse(table: Value) -> Result<ConfigBootstrap, ConfigError> {
    ConfigBootstrap::parse(&table)
}

/// The whole tree is below rank 0, unless the table says otherwise.
fn flat(place: &Place) -> Result<Tree, String> {
    let default = (0..place.size).map(|rank| (rank > 0).then_some(0)).collect();
    let parents = place.parents.clone().unwrap_or(default);
    let children = (0..place.size).filter(|rank| parents[*rank as usize] == Some(place.rank));
    let (parent, children) = (parents[place.rank as usize], children.collect());
    Ok(Tree { parent, children, ..Tree::default() })
}

#[test]
fn each_broken_rule_has_its_text() {
    for (table, text) in [
        (json!({"hosts": [{"host": "a", "bind": "x"}]}), "invalid hosts[0]: x has no URI scheme"),
        (
            json!({"hosts": [{"host": "a"}, {"host": "b", "connect": "udp://x:1"}]}),
            "invalid hosts[1]: udp://x:1 URI scheme must be tcp or ipc",
        ),
        (
            json!({"hosts": [{"host": "a", "bind": "tcp://x:*"}]}),
            "invalid hosts[0]: tcp://x:* contains 0MQ port wildcard",
        ),
        (json!({"default_bind": "x", "hosts": [{"host": "a"}]}), "x has no URI scheme"),
        (json!({"default_port": 65536}), "default_port must be within the range 0..65535"),
        (json!({"default_port": -1}), "default_port must be within the range 0..65535"),
        (
            json!({"hosts": [{"host": "a", "parent": "a"}]}),
            "invalid hosts[0]: parent key refers to self",
        ),
        (
            json!({"hosts": [{"host": "a"}, {"host": "b", "parent": "c"}]}),
            "invalid hosts[1]: parent key refers to unknown host",
        ),
        (json!({"hosts": [{"host": "a_b"}]}), "invalid hosts[0]: a_b is not a valid host name"),
        (
            json!({"hosts": [{"host": "a[0-1]"}]}),
            "curve_cert is required when there is more than one host",
        ),
    ] {
        let expected = format!("Config file error [bootstrap]: {text}");
        assert_eq!(parse(table).unwrap_err().to_string(), expected);
    }
    for unknown in [json!({"curve": "x"}), json!({"hosts": [{"host": "a", "port": 1}]})] {
        assert!(parse(unknown).unwrap_err().to_string().contains("unknown field"));
    }
    assert!(parse(json!({"hosts": [{}]})).is_err());
    assert!(parse(json!({"hosts": 3})).is_err());
}

#[test]
fn names_and_ports_are_put_into_uris() {
    assert_eq!(substitute("tcp://%h:%p/%%/%x%", "n1", Some(80)), "tcp://n1:80/%/%x%");
    assert_eq!(substitute("tcp://%h:%p", "n1", None), "tcp://n1:%p");
    let config = parse(json!({
        "curve_cert": "/cert",
        "default_port": 8050,
        "default_bind": "tcp://eth0:%p",
        "default_connect": "tcp://%h-ib:%p",
        "hosts": [{"host": "n[0-2]"}, {"host": "n1", "connect": "ipc:///x%%"}],
    }))
    .unwrap();
    assert_eq!(config.size(), 3);
    assert_eq!(config.rank("n2"), Ok(2));
    assert_eq!(config.endpoint(1, "connect").unwrap().to_string(), "ipc:///x%");
    assert_eq!(config.endpoint(2, "connect").unwrap().to_string(), "tcp://n2-ib:8050");
    assert_eq!(config.endpoint(1, "bind").unwrap().to_string(), "tcp://eth0:8050");
    assert_eq!(
        config.rank("x").unwrap_err().to_string(),
        "Config file error [bootstrap]: x not found in hosts"
    );
}

#[test]
fn without_hosts_there_is_one_broker() {
    let boot = parse(json!({})).unwrap().boot("anything", &flat).unwrap();
    assert_eq!((boot.rank, boot.size, boot.method), (0, 1, "config"));
    assert_eq!(boot.attributes["broker.mapping"], "[[0,1,1,1]]");
}

#[test]
fn brokers_find_their_neighbours_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("curve.cert");
    Cert::generate().unwrap().save(&path).unwrap();
    let config = parse(json!({
        "curve_cert": path,
        "default_port": 8050,
        "default_bind": "tcp://lo:%p",
        "default_connect": "tcp://%h:%p",
        "hosts": [{"host": "n[0-3]"}, {"host": "n3", "parent": "n1"}],
    }))
    .unwrap();
    assert_eq!(config.parents(), Some(vec![None, Some(0), Some(0), Some(1)]));
    let boot = config.boot("n1", &flat).unwrap();
    assert_eq!(boot.attributes["tbon.endpoint"], "tcp://lo:8050");
    assert_eq!(boot.attributes["tbon.parent-endpoint"], "tcp://n0:8050");
    assert_eq!(boot.attributes["broker.mapping"], "[[0,4,1,1]]");
    assert_eq!(boot.hostlist.to_string(), "n[0-3]");
    assert!(boot.keys.is_some() && boot.bind.len() == 1);
    let leaf = config.boot("n2", &flat).unwrap();
    assert!(leaf.bind.is_empty() && leaf.endpoint.is_none());
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = config.boot("n2", &flat).unwrap_err();
    assert!(matches!(error, BootError::Cert(CertError::Readable { .. })));
    assert_eq!(error.to_string(), format!("{}: readable by group/other", path.display()));
}

#[test]
fn missing_endpoints_are_named() {
    let hosts = json!({"curve_cert": "/none", "hosts": [{"host": "n[0-1]"}]});
    let config = parse(hosts).unwrap();
    let error = config.boot("n0", &flat).unwrap_err().to_string();
    assert_eq!(error, "Config file error [bootstrap]: bind URI is undefined for rank 0");
    let error = config.boot("n1", &flat).unwrap_err().to_string();
    assert_eq!(error, "Config file error [bootstrap]: connect URI is undefined for rank 0");
}
