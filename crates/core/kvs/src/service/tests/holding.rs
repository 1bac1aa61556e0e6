//! Commits that refer to what their clients have read before.

use super::*;

/// A store in which `key` has a value of its own blob, and what it is as an object.
fn with_value(key: &str) -> (Store, Rig<KvsService>, Treeobj) {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put(key, &"long ".repeat(40))]).unwrap();
    let object = lookup_flags(&mut store, &mut rig, key, flux_api::kvs::TREEOBJ).unwrap();
    (store, rig, object)
}

fn refused(store: &mut Store, rig: &mut Rig<KvsService>, ops: &[Value]) -> RpcError {
    let tag = send(rig, ops);
    store.serve(rig);
    rig.response(tag).unwrap_err()
}

#[test]
fn what_was_collected_since_it_was_read_is_not_put() {
    let (mut store, mut rig, value) = with_value("d.v");
    let dir = lookup_flags(&mut store, &mut rig, "d", flux_api::kvs::TREEOBJ).unwrap();
    assert!(matches!((&dir, &value), (Treeobj::Dirref(_), Treeobj::Valref(_))));
    // While it is there it can be put.
    assert_eq!(commit(&mut store, &mut rig, &[object("again", &dir)]), Ok(2));
    assert_eq!(commit(&mut store, &mut rig, &[object("value", &value)]), Ok(3));
    assert_eq!(store.holds, 2);
    assert_eq!(lookup(&mut store, &mut rig, "again.v"), Ok("long ".repeat(40)));
    let before = store.commits;
    for (object, nested) in [(&dir, false), (&value, false), (&dir, true)] {
        let mut store = store.clone();
        let name = match object {
            Treeobj::Dirref(name) => *name,
            Treeobj::Valref(names) => names[0],
            _ => unreachable!(),
        };
        store.blobs.remove(&name);
        let whole = match nested {
            true => Treeobj::Dir([("in".to_string(), object.clone())].into()),
            false => object.clone(),
        };
        // All of the transaction, or none.
        let ops = [put("other", "1"), super::object("late", &whole)];
        let error = refused(&mut store, &mut rig, &ops);
        assert_eq!(error.errno, Errno::ENOENT);
        let text = error.to_string();
        assert!(text.contains("'late'") && text.contains(&name.to_string()), "{text}");
        assert_eq!(store.commits, before);
        rig.events.clear();
    }
    assert_eq!(lookup(&mut store, &mut rig, "other"), Err(Errno::ENOENT));
    assert_eq!(lookup(&mut store, &mut rig, "late"), Err(Errno::ENOENT));
    assert_eq!(commit(&mut store, &mut rig, &[put("other", "2")]), Ok(4));
    rig.finish();
}

#[test]
fn transactions_that_come_later_wait_and_go_through() {
    let (mut store, mut rig, value) = with_value("v");
    let Treeobj::Valref(names) = &value else { panic!() };
    store.blobs.remove(&names[0]);
    let late = send(&mut rig, &[object("late", &value)]);
    let next = send(&mut rig, &[put("late", "new")]);
    assert!(rig.try_response(next).is_none());
    store.serve(&mut rig);
    assert_eq!(rig.response(late).unwrap_err().errno, Errno::ENOENT);
    rig.response(next).unwrap();
    rig.events.clear();
    assert_eq!(lookup(&mut store, &mut rig, "late"), Ok("new".to_string()));
    rig.finish();
}

#[test]
fn what_waits_for_space_is_looked_for_again_whenever_it_is_tried() {
    let (mut store, mut rig, value) = with_value("v");
    let Treeobj::Valref(names) = &value else { panic!() };
    store.broken = Some(Errno::ENOSPC);
    let mut body = transaction(&[object("late", &value)]);
    body["flags"] = json!(flux_api::kvs::WAIT_SPACE);
    let tag = rig.request("kvs.commit", body);
    store.serve(&mut rig);
    for holds in 2..5 {
        assert_eq!(store.holds, holds);
        assert!(rig.try_response(tag).is_none());
        rig.advance(500_000);
        store.serve(&mut rig);
    }
    // In the end it is not there any more when there is space.
    store.blobs.remove(&names[0]);
    rig.advance(500_000);
    store.serve(&mut rig);
    store.broken = None;
    rig.advance(500_000);
    store.serve(&mut rig);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOENT);
    rig.events.clear();
    rig.finish();
}

#[test]
fn the_newest_root_of_a_namespace_can_be_put_without_a_look() {
    let mut store = Store::default();
    let mut rig = store.start();
    let make = |name: &str, rootref: &str| json!({ "namespace": name, "rootref": rootref, "owner": 5, "flags": 0 });
    let tag = rig.request("kvs.namespace-create", make("job-1", ""));
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    let body = json!({ "namespace": "job-1", "flags": 0, "ops": [put("a", "1")] });
    let tag = rig.request("kvs.commit", body);
    store.serve(&mut rig);
    let root = rig.response(tag).unwrap()["rootref"].as_str().unwrap().to_string();
    let dirref = Treeobj::Dirref(root.parse().unwrap());
    rig.events.clear();
    commit(&mut store, &mut rig, &[object("guest", &dirref)]).unwrap();
    // The empty directory needs none either, and is stored.
    let empty = HashAlg::Sha1.hash(&Treeobj::empty_dir().encode());
    store.blobs.remove(&empty);
    commit(&mut store, &mut rig, &[object("empty", &Treeobj::Dirref(empty))]).unwrap();
    assert_eq!(store.holds, 0);
    assert!(store.blobs.contains_key(&empty));
    // A root that the namespace had before is looked for.
    let later = json!({ "namespace": "job-1", "flags": 0, "ops": [put("a", "2")] });
    let tag = rig.request("kvs.commit", later);
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    rig.events.clear();
    commit(&mut store, &mut rig, &[object("former", &dirref)]).unwrap();
    assert_eq!(store.holds, 1);
    // So is what another namespace shall begin with.
    let tag = rig.request("kvs.namespace-create", make("copy", &root));
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    assert_eq!(store.holds, 2);
    store.blobs.remove(&root.parse().unwrap());
    let tag = rig.request("kvs.namespace-create", make("late", &root));
    store.serve(&mut rig);
    let error = rig.response(tag).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
    assert!(error.to_string().contains("'late'"), "{error}");
    rig.events.clear();
    rig.finish();
}

#[test]
fn a_look_that_is_not_answered_holds_up_the_end() {
    let (mut store, mut rig, value) = with_value("v");
    let tag = send(&mut rig, &[object("late", &value)]);
    let root = json!({ "namespace": "n", "rootref": HashAlg::Sha1.hash(b"x").to_string(), "owner": 5, "flags": 0 });
    let create = rig.request("kvs.namespace-create", root);
    rig.drain();
    assert!(!rig.drained);
    store.serve(&mut rig);
    rig.response(tag).unwrap();
    rig.response(create).unwrap_err();
    assert!(rig.drained);
}
