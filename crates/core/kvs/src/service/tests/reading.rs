use super::*;

fn filled() -> (Store, Rig<KvsService>) {
    let mut store = Store::default();
    let mut rig = store.start();
    let ops = [
        put("d.v", "value"),
        put("long", &"x".repeat(100)),
        object("l", &Treeobj::symlink(None, "d.v")),
        object("ld", &Treeobj::symlink(None, "d")),
        object("root", &Treeobj::symlink(None, ".")),
        object("loop", &Treeobj::symlink(None, "loop")),
        object("else", &Treeobj::symlink(Some("nowhere"), "x")),
        object("empty", &Treeobj::empty_dir()),
    ];
    commit(&mut store, &mut rig, &ops).unwrap();
    (store, rig)
}

#[test]
fn every_lookup_has_its_documented_result() {
    let (mut store, warm) = filled();
    let cold = store.start();
    for mut rig in [warm, cold] {
        let mut get = |key: &str, flags| {
            lookup_flags(&mut store, &mut rig, key, flags)
                .map(|object| object.type_name())
                .map_err(Errno::name)
        };
        for (key, flags, expected) in [
            ("d.v", 0, Ok("val")),
            ("long", 0, Ok("val")),
            ("long", 16, Ok("valref")),
            ("long", 1 << 16, Ok("valref")),
            ("l", 0, Ok("val")),
            ("l", 2, Ok("symlink")),
            ("l", 16, Ok("symlink")),
            ("ld.v", 0, Ok("val")),
            ("ld", 1, Ok("dir")),
            ("root.root.d.v", 0, Ok("val")),
            ("root", 1, Ok("dir")),
            ("d", 1, Ok("dir")),
            ("d", 16, Ok("dirref")),
            ("empty", 1, Ok("dir")),
            (".", 1, Ok("dir")),
            (".", 16, Ok("dirref")),
            ("no", 0, Err("ENOENT")),
            ("no.such", 1, Err("ENOENT")),
            ("d.v.below", 0, Err("ENOENT")),
            ("d", 0, Err("EISDIR")),
            (".", 0, Err("EISDIR")),
            ("d.v", 1, Err("ENOTDIR")),
            ("long", 1, Err("ENOTDIR")),
            ("d.v", 2, Err("EINVAL")),
            ("", 0, Err("EINVAL")),
            ("else", 0, Err("EOPNOTSUPP")),
            ("loop", 0, Err("ELOOP")),
        ] {
            assert_eq!(get(key, flags), expected, "{key} {flags}");
        }
    }
}

#[test]
fn the_value_of_a_blob_is_inlined() {
    let (mut store, _) = filled();
    let mut rig = store.start();
    assert_eq!(lookup(&mut store, &mut rig, "long"), Ok("x".repeat(100)));
}

#[test]
fn lookup_plus_says_at_which_root_and_counts_a_missing_key_as_success() {
    let (mut store, mut rig) = filled();
    let ask = |rig: &mut Rig<KvsService>, key: &str| {
        let body = json!({ "key": key, "flags": 0, "namespace": "primary" });
        let tag = rig.request("kvs.lookup-plus", body);
        rig.response(tag)
    };
    let found = ask(&mut rig, "d.v").unwrap();
    assert_eq!(found["rootseq"], 1);
    assert_eq!(found["val"], val("value"));
    let missing = ask(&mut rig, "none").unwrap();
    assert_eq!(missing["errno"], 2);
    assert_eq!(missing["rootref"], found["rootref"]);
    assert_eq!(missing.get("val"), None);
    store.serve(&mut rig);
}

#[test]
fn a_lookup_at_a_future_version_waits_for_it() {
    let (mut store, mut rig) = filled();
    let body = json!({ "key": "new", "flags": 0, "namespace": "primary", "rootseq": 2 });
    let read = rig.request("kvs.lookup", body);
    let version = rig.request("kvs.wait-version", json!({ "namespace": "primary", "rootseq": 2 }));
    assert!(rig.try_response(read).is_none() && rig.try_response(version).is_none());
    commit(&mut store, &mut rig, &[put("new", "1")]).unwrap();
    assert_eq!(rig.response(read).unwrap()["val"], val("1"));
    assert_eq!(rig.response(version).unwrap()["rootseq"], 2);
    // A client that leaves is forgotten.
    rig.request("kvs.wait-version", json!({ "namespace": "primary", "rootseq": 9 }));
    rig.request(
        "kvs.lookup",
        json!({ "key": "new", "flags": 0, "namespace": "primary", "rootseq": 9 }),
    );
    rig.disconnect(rig.owner(), "kvs");
    let tag = rig.request("kvs.stats-get", Value::Null);
    let stats = rig.response(tag).unwrap();
    assert_eq!(stats["pending_requests"], 0);
    assert_eq!(stats["namespace"]["primary"]["#versionwaiters"], 1);
    assert_eq!(stats["namespace"]["primary"]["store revision"], 2);
    rig.finish();
}

#[test]
fn a_lookup_without_a_root_is_a_protocol_error() {
    let (_, mut rig) = filled();
    for (body, errno) in [
        (json!({ "key": "d", "flags": 0 }), Errno::EPROTO),
        (json!({ "flags": 0 }), Errno::EPROTO),
        (json!({ "key": "d", "flags": 0, "rootdir": val("x") }), Errno::EINVAL),
    ] {
        let tag = rig.request("kvs.lookup", body);
        assert_eq!(rig.response(tag).unwrap_err().errno, errno);
    }
}

#[test]
fn paused_roots_are_held_back() {
    let (mut store, mut rig) = filled();
    let body = json!({ "namespace": "primary" });
    let tag = rig.request("kvs.setroot-pause", body.clone());
    rig.response(tag).unwrap();
    commit(&mut store, &mut rig, &[put("new", "1")]).unwrap();
    assert_eq!(lookup(&mut store, &mut rig, "new"), Err(Errno::ENOENT));
    let tag = rig.request("kvs.setroot-unpause", body);
    rig.response(tag).unwrap();
    assert_eq!(lookup(&mut store, &mut rig, "new"), Ok("1".into()));
    rig.finish();
}

#[test]
fn a_lookup_of_the_leader_whose_version_was_collected_begins_again_at_the_newest() {
    let (mut store, _) = filled();
    // A leader that has nothing in its memory.
    let mut rig = store.start();
    let body = json!({ "key": "long", "flags": 0, "namespace": "primary" });
    let first = rig.request("kvs.lookup", body.clone());
    let second = rig.request("kvs.lookup", body);
    assert!(store.serve_one(&mut rig));
    let slow = rig.expect("content.load");
    assert_eq!(commit(&mut store, &mut rig, &[put("long", "new")]), Ok(2));
    rig.fail(&slow, Errno::ENOENT);
    for tag in [first, second] {
        assert_eq!(rig.response(tag).unwrap()["val"], val("new"));
    }
    // What is gone from the newest version is gone.
    commit(&mut store, &mut rig, &[put("long", &"y".repeat(100))]).unwrap();
    let mut rig = store.start();
    store.blobs.remove(&HashAlg::Sha1.hash("y".repeat(100).as_bytes()));
    assert_eq!(lookup(&mut store, &mut rig, "long"), Err(Errno::ENOTRECOVERABLE));
    rig.finish();
}
