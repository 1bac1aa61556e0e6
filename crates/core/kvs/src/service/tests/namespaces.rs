use super::*;
use flux_proto::Cred;

fn create(store: &mut Store, rig: &mut Rig<KvsService>, name: &str, owner: i64) {
    let empty = HashAlg::Sha1.hash(b"{\"data\":{},\"type\":\"dir\",\"ver\":1}").to_string();
    let body = json!({ "namespace": name, "rootref": empty, "owner": owner, "flags": 0 });
    let tag = rig.request("kvs.namespace-create", body);
    assert!(rig.try_response(tag).is_none());
    store.serve(rig);
    rig.response(tag).unwrap();
    let event = rig.events.pop_back().unwrap();
    assert_eq!(event.topic(), format!("kvs.namespace-{name}-created"));
    assert_eq!(i64::from(event.cred.userid), if owner < 0 { 1000 } else { owner });
}

fn put_as(
    store: &mut Store,
    rig: &mut Rig<KvsService>,
    cred: Cred,
    namespace: &str,
    op: Value,
) -> Result<i64, Errno> {
    let body = json!({ "namespace": namespace, "flags": 0, "ops": [op] });
    let tag = rig.request_as(cred, "kvs.commit", body, false);
    store.serve(rig);
    rig.events.clear();
    rig.response(tag).map(|body| body["rootseq"].as_i64().unwrap()).map_err(|error| error.errno)
}

fn get_as(
    store: &mut Store,
    rig: &mut Rig<KvsService>,
    cred: Cred,
    namespace: &str,
    key: &str,
) -> Result<Value, Errno> {
    let body = json!({ "namespace": namespace, "flags": 0, "key": key });
    let tag = rig.request_as(cred, "kvs.lookup", body, false);
    store.serve(rig);
    rig.response(tag).map(|body| body["val"].clone()).map_err(|error| error.errno)
}

#[test]
fn namespaces_live_and_survive_a_crash_with_their_data() {
    let mut store = Store::default();
    let mut rig = store.start();
    let owner = rig.owner();
    for (name, user) in [("job-1", 5), ("a.b", -1), ("job-2", 6)] {
        create(&mut store, &mut rig, name, user);
    }
    assert_eq!(put_as(&mut store, &mut rig, owner, "job-1", put("k", "1")), Ok(1));
    assert_eq!(put_as(&mut store, &mut rig, owner, "a.b", put("k.l", "2")), Ok(1));
    assert_eq!(put_as(&mut store, &mut rig, owner, "job-1", put("k", "3")), Ok(2));
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "job-2" }));
    store.serve(&mut rig);
    rig.response(tag).unwrap();

    let mut rig = store.start();
    let tag = rig.request("kvs.namespace-list", json!({}));
    let list = rig.response(tag).unwrap();
    assert_eq!(
        list["namespaces"],
        json!([
            { "namespace": "a.b", "owner": 1000, "flags": 0 },
            { "namespace": "job-1", "owner": 5, "flags": 0 },
            { "namespace": "primary", "owner": 1000, "flags": 0 },
        ])
    );
    assert_eq!(get_as(&mut store, &mut rig, owner, "job-1", "k"), Ok(val("3")));
    assert_eq!(get_as(&mut store, &mut rig, owner, "a.b", "k.l"), Ok(val("2")));
    let tag = rig.request("kvs.getroot", json!({ "namespace": "job-1" }));
    assert_eq!(rig.response(tag).unwrap()["rootseq"], 2);
    assert_eq!(put_as(&mut store, &mut rig, owner, "job-1", put("k", "4")), Ok(3));
    for name in ["job-1", "a.b"] {
        let tag = rig.request("kvs.namespace-remove", json!({ "namespace": name }));
        store.serve(&mut rig);
        rig.response(tag).unwrap();
    }
    assert_eq!(store.checkpoint.as_ref().unwrap().namespaces, None);
    assert_eq!(get_as(&mut store, &mut rig, owner, "job-1", "k").unwrap_err(), Errno::EOPNOTSUPP);
}

#[test]
fn guests_reach_only_their_own_and_commit_only_plain_things() {
    let mut store = Store::default();
    let mut rig = store.start();
    create(&mut store, &mut rig, "g", 5);
    let (mine, other, owner) = (rig.guest(5), rig.guest(6), rig.owner());
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("k", "1")), Ok(1));
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", append("k", "2")), Ok(2));
    let link = || object("l", &Treeobj::symlink(Some("primary"), "secret"));
    let body = json!({ "namespace": "g", "flags": 0, "ops": [link()] });
    let tag = rig.request_as(mine, "kvs.commit", body, false);
    let error = rig.response(tag).unwrap_err();
    assert_eq!(error.errno, Errno::EPERM);
    assert!(error.text.unwrap().starts_with("guests may not commit "));
    let empty = object("d", &Treeobj::empty_dir());
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", empty), Ok(3));
    assert_eq!(get_as(&mut store, &mut rig, mine, "g", "k"), Ok(val("12")));
    assert_eq!(get_as(&mut store, &mut rig, other, "g", "k"), Err(Errno::EPERM));
    assert_eq!(get_as(&mut store, &mut rig, mine, "primary", "k"), Err(Errno::EPERM));
    assert_eq!(put_as(&mut store, &mut rig, mine, "primary", put("k", "1")), Err(Errno::EPERM));
    // A link does not lead further than the reader may go.
    assert_eq!(put_as(&mut store, &mut rig, owner, "g", link()), Ok(4));
    assert_eq!(put_as(&mut store, &mut rig, owner, "primary", put("secret", "s")), Ok(1));
    assert_eq!(get_as(&mut store, &mut rig, owner, "g", "l"), Ok(val("s")));
    assert_eq!(get_as(&mut store, &mut rig, mine, "g", "l"), Err(Errno::EPERM));
    let tag = rig.request_as(mine, "kvs.namespace-remove", json!({ "namespace": "g" }), false);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EPERM);
}

#[test]
fn guests_read_by_namespace_and_not_by_root() {
    let mut store = Store::default();
    let mut rig = store.start();
    create(&mut store, &mut rig, "g", 5);
    let (mine, owner) = (rig.guest(5), rig.owner());
    let link = object("l", &Treeobj::symlink(Some("primary"), "secret"));
    assert_eq!(put_as(&mut store, &mut rig, owner, "g", link), Ok(1));
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("k", "1")), Ok(2));
    assert_eq!(put_as(&mut store, &mut rig, owner, "primary", put("secret", "s")), Ok(1));
    let root = |store: &mut Store, rig: &mut Rig<KvsService>, name: &str| {
        let tag = rig.request("kvs.getroot", json!({ "namespace": name }));
        store.serve(rig);
        rig.response(tag).unwrap()["rootref"].clone()
    };
    let (primary, guest) = (root(&mut store, &mut rig, "primary"), root(&mut store, &mut rig, "g"));
    let mut read = |cred, topic: &str, root: &Value, key: &str, userid: Option<u32>| {
        let rootdir = json!({ "data": [root], "type": "dirref", "ver": 1 });
        let mut body = json!({ "key": key, "flags": 0, "namespace": "g", "rootdir": rootdir });
        if let Some(userid) = userid {
            body["userid"] = userid.into();
        }
        let tag = rig.request_as(cred, topic, body, false);
        store.serve(&mut rig);
        rig.response(tag).map_err(|error| error.errno)
    };
    for topic in ["kvs.lookup", "kvs.lookup-plus"] {
        for (root, key) in [(&primary, "secret"), (&guest, "k")] {
            for userid in [None, Some(5), Some(1000)] {
                assert_eq!(read(mine, topic, root, key, userid), Err(Errno::EPERM));
            }
            assert!(read(owner, topic, root, key, None).is_ok());
        }
        // In the name of a user the owner reads what that user may.
        assert!(read(owner, topic, &guest, "k", Some(5)).is_ok());
        assert!(read(owner, topic, &guest, "l", None).is_ok());
        assert_eq!(read(owner, topic, &guest, "l", Some(5)), Err(Errno::EPERM));
    }
}

#[test]
fn names_are_unique_and_primary_stays() {
    let mut store = Store::default();
    let mut rig = store.start();
    create(&mut store, &mut rig, "n", -1);
    let tag = rig.request("kvs.namespace-create", json!({ "namespace": "n", "owner": -1 }));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EEXIST);
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "primary" }));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EOPNOTSUPP);
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "unknown" }));
    assert_eq!(rig.response(tag), Ok(Value::Null));
    let body = json!({ "namespace": "n", "flags": 4, "ops": [] });
    let tag = rig.request("kvs.commit", body);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EINVAL);
    rig.finish();
}

#[test]
fn removal_ends_what_waits_and_a_failed_removal_changes_nothing() {
    let mut store = Store::default();
    let mut rig = store.start();
    create(&mut store, &mut rig, "n", -1);
    let wait = rig.request("kvs.wait-version", json!({ "namespace": "n", "rootseq": 7 }));
    store.broken = Some(Errno::EIO);
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "n" }));
    store.serve(&mut rig);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EIO);
    store.broken = None;
    let owner = rig.owner();
    assert_eq!(put_as(&mut store, &mut rig, owner, "n", put("k", "1")), Ok(1));
    let tag = rig.request("kvs.namespace-remove", json!({ "namespace": "n" }));
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    assert_eq!(rig.events.pop_back().unwrap().topic(), "kvs.namespace-n-removed");
    assert_eq!(rig.response(wait).unwrap_err().errno, Errno::EOPNOTSUPP);
    rig.finish();
}

#[test]
fn a_failed_creation_leaves_no_namespace() {
    let mut store = Store::default();
    let mut rig = store.start();
    store.broken = Some(Errno::EIO);
    let tag = rig.request("kvs.namespace-create", json!({ "namespace": "n", "owner": -1 }));
    store.serve(&mut rig);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EIO);
    store.broken = None;
    create(&mut store, &mut rig, "n", -1);
    let mut rig = store.start();
    let tag = rig.request("kvs.getroot", json!({ "namespace": "n" }));
    assert_eq!(rig.response(tag).unwrap()["rootseq"], 0);
}

#[test]
fn a_failed_commit_of_several_namespaces_leaves_each_at_its_durable_root() {
    let mut store = Store::default();
    let mut rig = store.start();
    let owner = rig.owner();
    for name in ["m", "n"] {
        create(&mut store, &mut rig, name, -1);
        assert_eq!(put_as(&mut store, &mut rig, owner, name, put("k.l", "1")), Ok(1));
    }
    let send_to = |rig: &mut Rig<KvsService>, namespace: &str, value: &str| {
        let ops = [put("k.l", value)];
        rig.request("kvs.commit", json!({ "namespace": namespace, "flags": 0, "ops": ops }))
    };
    let first = send_to(&mut rig, "primary", "2");
    let lost = [send_to(&mut rig, "m", "2"), send_to(&mut rig, "n", "2")];
    assert!(store.serve_one(&mut rig));
    let kept = send_to(&mut rig, "m", "3");
    store.broken = Some(Errno::ENOSPC);
    assert!(store.serve_one(&mut rig));
    store.broken = None;
    store.serve(&mut rig);
    rig.response(first).unwrap();
    for tag in lost {
        assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOSPC);
    }
    assert_eq!(rig.response(kept).unwrap()["rootseq"], 2);
    for mut rig in [rig, store.start()] {
        for (name, value) in [("m", "3"), ("n", "1"), ("primary", "2")] {
            assert_eq!(get_as(&mut store, &mut rig, owner, name, "k.l"), Ok(val(value)));
        }
    }
}

#[test]
fn a_guest_puts_so_much_into_a_namespace_and_no_more() {
    let mut store = Store::default();
    let mut rig = store.start();
    create(&mut store, &mut rig, "g", 5);
    let (mine, owner) = (rig.guest(5), rig.owner());
    let reload = |rig: &mut Rig<KvsService>, max: Value| {
        let tag = rig.request("kvs.config-reload", json!({"kvs": {"guest-namespace-max": max}}));
        rig.response(tag).map(|_| ())
    };
    reload(&mut rig, json!("1k")).unwrap();
    let (long, short) = ("x".repeat(400), "x".repeat(80));
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("a", &long)), Ok(1));
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", append("a", &long)), Ok(2));
    // What was put counts, though it is replaced, and after a restart.
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("a", &short)), Ok(3));
    let mut rig = store.start();
    reload(&mut rig, json!(1024)).unwrap();
    let body = json!({ "namespace": "g", "flags": 0, "ops": [append("a", &long)] });
    let tag = rig.request_as(mine, "kvs.commit", body, false);
    let error = rig.response(tag).unwrap_err();
    assert_eq!(error.errno, Errno::EDQUOT);
    let text = "kvs: namespace 'g' may get 1k from its user (kvs.guest-namespace-max)";
    assert_eq!(error.message(), text);
    // Less fits; taking away always does, and the owner is not counted.
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("b", &short)), Ok(4));
    assert_eq!(put_as(&mut store, &mut rig, owner, "g", put("c", &"x".repeat(4096))), Ok(5));
    let remove = json!({ "key": "k".repeat(900), "flags": 0, "dirent": null });
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", remove), Ok(6));
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("d", "1")), Err(Errno::EDQUOT));
    reload(&mut rig, json!("1M")).unwrap();
    assert_eq!(put_as(&mut store, &mut rig, mine, "g", put("d", "1")), Ok(7));
    assert!(reload(&mut rig, json!("x")).is_err());
}

/// Makes a namespace with a first operation; its answer.
fn begin(store: &mut Store, rig: &mut Rig<KvsService>, name: &str, op: Value) -> Result<(), Errno> {
    let body = json!({ "namespace": name, "rootref": "", "owner": 1000, "ops": [op] });
    let tag = rig.request("kvs.namespace-create", body);
    store.serve(rig);
    rig.events.clear();
    rig.response(tag).map(drop).map_err(|error| error.errno)
}

#[test]
fn a_namespace_and_its_first_operations_are_there_together_or_not_at_all() {
    let mut store = Store::default();
    let mut rig = store.start();
    let owner = rig.owner();
    let commits = store.commits;
    begin(&mut store, &mut rig, "job-1", append("log", "first\n")).unwrap();
    assert_eq!(store.commits, commits + 1);
    assert!(get_as(&mut store, &mut rig, owner, "job-1", "log").is_ok());
    assert_eq!(put_as(&mut store, &mut rig, owner, "job-1", append("log", "second\n")), Ok(2));
    let mut rig = store.start();
    let log = get_as(&mut store, &mut rig, owner, "job-1", "log").unwrap();
    assert_eq!(Treeobj::from_value(&log).unwrap(), Treeobj::val("first\nsecond\n"));
    assert_eq!(begin(&mut store, &mut rig, "job-1", put("k", "x")), Err(Errno::EEXIST));
    store.broken = Some(Errno::EIO);
    assert_eq!(begin(&mut store, &mut rig, "job-2", put("k", "x")), Err(Errno::EIO));
    store.broken = None;
    assert_eq!(get_as(&mut store, &mut rig, owner, "job-2", "k"), Err(Errno::EOPNOTSUPP));
    // While the disk is full it waits, and nothing of it is lost.
    store.broken = Some(Errno::ENOSPC);
    let body = json!({ "namespace": "job-3", "owner": 1000, "ops": [put("k", "x")] });
    let tag = rig.request("kvs.namespace-create", body);
    store.serve(&mut rig);
    assert!(rig.try_response(tag).is_none());
    store.broken = None;
    rig.advance(1_000_000);
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    assert_eq!(get_as(&mut store, &mut rig, owner, "job-3", "k"), Ok(val("x")));
    rig.events.clear();
    rig.finish();
}

#[test]
fn a_directory_that_is_in_two_namespaces_stays_known_when_one_changes() {
    let mut store = Store::default();
    let mut rig = store.start();
    let owner = rig.owner();
    for name in ["job-1", "job-2"] {
        begin(&mut store, &mut rig, name, put("d.k", "same")).unwrap();
    }
    for name in ["job-1", "job-2"] {
        let body = json!({ "namespace": name, "flags": 0, "ops": [put("d.l", name)] });
        let tag = rig.request_as(owner, "kvs.commit", body, false);
        let topics: Vec<_> = rig.requests.iter().map(|message| message.topic()).collect();
        assert_eq!(topics, ["content.commit"], "nothing is loaded again");
        store.serve(&mut rig);
        rig.response(tag).unwrap();
    }
    rig.events.clear();
    rig.finish();
}

#[test]
fn what_nobody_waits_for_goes_with_the_next_commit_or_soon() {
    let mut store = Store::default();
    let mut rig = store.start();
    let lazy =
        json!({ "namespace": "primary", "flags": flux_api::kvs::LAZY, "ops": [put("a", "1")] });
    let first = rig.request("kvs.commit", lazy.clone());
    assert!(rig.requests.is_empty());
    let second = send(&mut rig, &[put("b", "2")]);
    let commits = store.commits;
    store.serve(&mut rig);
    assert_eq!(store.commits, commits + 1);
    assert_eq!(rig.response(first).unwrap(), rig.response(second).unwrap());
    let alone = rig.request("kvs.commit", lazy);
    rig.advance(2_000);
    store.serve(&mut rig);
    rig.response(alone).unwrap();
    rig.events.clear();
    rig.finish();
}
