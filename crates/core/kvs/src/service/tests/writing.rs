use flux_api::kvs::WAIT_SPACE;

use super::*;

#[test]
fn a_commit_is_answered_seen_and_announced_only_when_durable() {
    let mut store = Store::default();
    let mut rig = store.start();
    let tag = send(&mut rig, &[put("a.b.c", "1")]);
    assert!(rig.try_response(tag).is_none() && rig.events.is_empty());
    let read =
        rig.request("kvs.lookup", json!({ "key": "a.b.c", "flags": 0, "namespace": "primary" }));
    assert_eq!(rig.response(read).unwrap_err().errno, Errno::ENOENT);
    store.serve(&mut rig);
    assert_eq!(rig.response(tag).unwrap()["rootseq"], 1);
    assert_eq!(rig.events.len(), 1);
}

#[test]
fn a_deep_small_key_costs_one_blob_per_directory() {
    let mut store = Store::default();
    let mut rig = store.start();
    assert_eq!(commit(&mut store, &mut rig, &[put("x", "0")]), Ok(1));
    send(&mut rig, &[put("a.b.c.d.e", "1")]);
    let request = rig.expect("content.commit");
    let batch = BlobBatch::take(&request).unwrap();
    assert_eq!(batch.blobs.len(), 5);
    let checkpoint = batch.checkpoint.clone().unwrap();
    assert_eq!((checkpoint.version, checkpoint.sequence, checkpoint.namespaces), (1, 2, None));
    let root = HashAlg::Sha1.hash(batch.blobs.last().unwrap()).to_string();
    assert_eq!(checkpoint.rootref, root);
    store.take(batch);
    rig.reply(&request, Value::Null);
    let event = rig.events.pop_back().unwrap();
    assert_eq!(event.topic(), "kvs.namespace-primary-setroot");
    assert!(event.is_private() && event.cred.userid == 1000);
    let body: Value = event.json().unwrap();
    assert_eq!(body["rootseq"], 2);
    assert_eq!(body["rootref"], root);
    assert_eq!(body["keys"], json!({ "a.b.c.d.e": null }));
    assert_eq!(lookup(&mut store, &mut rig, "a.b.c.d.e"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "x"), Ok("0".into()));
}

#[test]
fn commits_that_wait_share_one_version_and_one_failure_hurts_nobody_else() {
    let mut store = Store::default();
    let mut rig = store.start();
    let first = send(&mut rig, &[put("a", "1")]);
    let second = send(&mut rig, &[put("b", "2")]);
    let bad = send(&mut rig, &[put("d.e", "x"), append("d", "no")]);
    let third = send(&mut rig, &[put("c", "3")]);
    store.serve(&mut rig);
    assert_eq!(store.commits, 2);
    let order: Vec<u32> = rig.responses.iter().map(|message| message.matchtag()).collect();
    assert_eq!(order, [first, second, bad, third]);
    assert_eq!(rig.response(first).unwrap()["rootseq"], 1);
    assert_eq!(rig.response(second).unwrap()["rootseq"], 2);
    assert_eq!(rig.response(bad).unwrap_err().errno, Errno::EISDIR);
    assert_eq!(rig.response(third).unwrap()["rootseq"], 2);
    assert_eq!(lookup(&mut store, &mut rig, "c"), Ok("3".into()));
    assert_eq!(lookup_flags(&mut store, &mut rig, "d", 1).err(), Some(Errno::ENOENT));
    assert_eq!(rig.events.len(), 3);
}

#[test]
fn no_merge_has_a_version_of_its_own_in_the_same_batch() {
    let mut store = Store::default();
    let mut rig = store.start();
    let mut tags = vec![send(&mut rig, &[put("a", "1")])];
    for (flags, key) in [(0, "b"), (1, "c"), (0, "d"), (0, "e"), (4, "f")] {
        let body = json!({ "namespace": "primary", "flags": flags, "ops": [put(key, key)] });
        tags.push(rig.request("kvs.commit", body));
    }
    store.serve(&mut rig);
    assert_eq!(store.commits, 2);
    let seqs: Vec<i64> = tags
        .into_iter()
        .map(|tag| rig.response(tag).unwrap()["rootseq"].as_i64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 4, 5]);
    let roots: Vec<Value> = rig
        .events
        .drain(..)
        .map(|event| event.json::<Value>().unwrap()["rootref"].clone())
        .collect();
    // Every version can be read.
    let body = json!({
        "key": ".", "flags": 1, "rootdir": { "ver": 1, "type": "dirref", "data": [roots[2]] },
    });
    let tag = rig.request("kvs.lookup", body);
    store.serve(&mut rig);
    let dir = rig.response(tag).unwrap();
    let names: Vec<&String> = dir["val"]["data"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_full_disk_fails_its_transactions_and_nothing_later() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put("a", "1"), put("dir.x", "1")]).unwrap();
    let lost = send(&mut rig, &[put("a", "2"), put("dir.x", "2")]);
    let kept = send(&mut rig, &[append("dir.y", "3")]);
    store.broken = Some(Errno::ENOSPC);
    assert!(store.serve_one(&mut rig));
    let error = rig.response(lost).unwrap_err();
    assert_eq!(error.errno, Errno::ENOSPC);
    assert!(error.text.unwrap().contains("undone"));
    store.broken = None;
    store.serve(&mut rig);
    assert_eq!(rig.response(kept).unwrap()["rootseq"], 2);
    assert_eq!(lookup(&mut store, &mut rig, "a"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "dir.x"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "dir.y"), Ok("3".into()));
}

#[test]
fn what_may_wait_for_space_is_stored_when_there_is_some() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put("a", "1")]).unwrap();
    store.broken = Some(Errno::ENOSPC);
    let body =
        |ops: &[Value], flags: u32| json!({ "namespace": "primary", "flags": flags, "ops": ops });
    let first = rig.request("kvs.commit", body(&[append("log", "1")], WAIT_SPACE));
    let other = rig.request("kvs.commit", body(&[put("a", "2")], 0));
    assert!(store.serve_one(&mut rig));
    // It was built on what waits, and is applied again with it.
    let space = json!({ "namespace": "job-1", "rootref": "", "owner": -1, "flags": 0 });
    let space = rig.request("kvs.namespace-create", space);
    let second = rig.request("kvs.commit", body(&[append("log", "2")], WAIT_SPACE));
    // No try is made for this one: another waits.
    let refused = rig.request("kvs.commit", body(&[put("b", "1")], 0));
    assert_eq!(rig.response(refused).unwrap_err().errno, Errno::ENOSPC);
    for _ in 0..3 {
        rig.advance(500_000);
        store.serve(&mut rig);
    }
    assert!(rig.try_response(first).is_none() && rig.try_response(space).is_none());
    assert_eq!(rig.response(other).unwrap_err().errno, Errno::ENOSPC);
    store.broken = None;
    rig.advance(500_000);
    store.serve(&mut rig);
    for tag in [first, second, space] {
        assert!(rig.response(tag).is_ok());
    }
    assert_eq!(lookup(&mut store, &mut rig, "log"), Ok("12".into()));
    assert_eq!(lookup(&mut store, &mut rig, "a"), Ok("1".into()));
}

#[test]
fn append_makes_a_list_of_blobs() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[append("log", "a")]).unwrap();
    assert!(matches!(lookup_flags(&mut store, &mut rig, "log", 16), Ok(Treeobj::Val(_))));
    commit(&mut store, &mut rig, &[append("log", "b"), append("log", "c")]).unwrap();
    let Ok(Treeobj::Valref(refs)) = lookup_flags(&mut store, &mut rig, "log", 16) else {
        panic!("no valref")
    };
    let piece = |text: &str| HashAlg::Sha1.hash(text.as_bytes());
    assert_eq!(refs, [piece("a"), piece("b"), piece("c")]);
    assert_eq!(lookup(&mut store, &mut rig, "log"), Ok("abc".into()));
    // Without a cache as well.
    let mut rig = store.start();
    assert_eq!(lookup(&mut store, &mut rig, "log"), Ok("abc".into()));
}

#[test]
fn appending_to_what_is_no_value_fails() {
    let mut store = Store::default();
    let mut rig = store.start();
    let link = Treeobj::symlink(None, "x");
    commit(&mut store, &mut rig, &[object("l", &link), put("d.x", "1")]).unwrap();
    assert_eq!(commit(&mut store, &mut rig, &[append("l", "1")]), Err(Errno::EOPNOTSUPP));
    assert_eq!(commit(&mut store, &mut rig, &[append("d", "1")]), Err(Errno::EISDIR));
    let odd = json!({ "key": "a", "flags": 32, "dirent": link.to_value() });
    assert_eq!(commit(&mut store, &mut rig, &[odd]), Err(Errno::EPROTO));
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put("a.b", "1"), put("v", "1")]).unwrap();
    let bad =
        [put("a.b", "2"), unlink("a"), put("v.w.x", "3"), put("new.key", "4"), append("v.w", "5")];
    assert_eq!(commit(&mut store, &mut rig, &bad), Err(Errno::EISDIR));
    assert_eq!(commit(&mut store, &mut rig, &[]), Ok(2));
    assert_eq!(lookup(&mut store, &mut rig, "a.b"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "v"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "new.key"), Err(Errno::ENOENT));
}

#[test]
fn odd_transactions_have_the_documented_effect() {
    let mut store = Store::default();
    let mut rig = store.start();
    assert_eq!(commit(&mut store, &mut rig, &[]), Ok(1));
    assert_eq!(commit(&mut store, &mut rig, &[unlink("no.such")]), Ok(2));
    assert_eq!(commit(&mut store, &mut rig, &[put(".", "x")]), Err(Errno::EINVAL));
    commit(&mut store, &mut rig, &[put("v", "x")]).unwrap();
    commit(&mut store, &mut rig, &[put("v.below", "y")]).unwrap();
    assert_eq!(lookup(&mut store, &mut rig, "v.below"), Ok("y".into()));
    // Links in the path are followed, the last name is not.
    let links = [
        object("l", &Treeobj::symlink(None, "v")),
        object("far", &Treeobj::symlink(Some("other"), "v")),
        put("l.more", "z"),
    ];
    commit(&mut store, &mut rig, &links).unwrap();
    assert_eq!(lookup(&mut store, &mut rig, "v.more"), Ok("z".into()));
    assert_eq!(commit(&mut store, &mut rig, &[put("far.x", "1")]), Err(Errno::EINVAL));
    commit(&mut store, &mut rig, &[put("l", "plain")]).unwrap();
    assert_eq!(lookup(&mut store, &mut rig, "l"), Ok("plain".into()));
    let body = json!({ "namespace": "none", "flags": 0, "ops": [] });
    let tag = rig.request("kvs.commit", body);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EOPNOTSUPP);
    let body = json!({ "namespace": "primary", "flags": 0, "ops": [{ "key": "a", "flags": 0, "dirent": { "ver": 2 } }] });
    let tag = rig.request("kvs.commit", body);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EPROTO);
}

#[test]
fn a_transaction_waits_for_directories_that_are_not_in_memory() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put("a.b.c", "1"), put("d.e.f", "1")]).unwrap();
    let mut rig = store.start();
    let first = send(&mut rig, &[put("a.b.x", "2"), put("d.e.y", "2"), unlink("a.b.c")]);
    let second = send(&mut rig, &[put("z", "2")]);
    store.serve(&mut rig);
    assert_eq!(rig.response(first).unwrap()["rootseq"], 2);
    assert_eq!(rig.response(second).unwrap()["rootseq"], 2);
    assert_eq!(lookup(&mut store, &mut rig, "a.b.x"), Ok("2".into()));
    assert_eq!(lookup(&mut store, &mut rig, "d.e.f"), Ok("1".into()));
    assert_eq!(lookup(&mut store, &mut rig, "a.b.c"), Err(Errno::ENOENT));
}

#[test]
fn a_lost_directory_fails_only_the_transactions_that_need_it() {
    let mut store = Store::default();
    let mut rig = store.start();
    commit(&mut store, &mut rig, &[put("a.b", "1"), put("c", "1")]).unwrap();
    let Ok(Treeobj::Dirref(lost)) = lookup_flags(&mut store, &mut rig, "a", 16) else { panic!() };
    store.blobs.remove(&lost);
    let mut rig = store.start();
    assert_eq!(commit(&mut store, &mut rig, &[put("a.x", "2")]), Err(Errno::ENOTRECOVERABLE));
    assert_eq!(commit(&mut store, &mut rig, &[put("c", "2")]), Ok(2));
    assert_eq!(lookup(&mut store, &mut rig, "a.b"), Err(Errno::ENOTRECOVERABLE));
    assert_eq!(commit(&mut store, &mut rig, &[unlink("a")]), Ok(3));
}

#[test]
fn draining_settles_commits_and_takes_no_new_ones() {
    let mut store = Store::default();
    let mut rig = store.start();
    let first = send(&mut rig, &[put("a", "1")]);
    let second = send(&mut rig, &[put("b", "1")]);
    rig.drain();
    assert!(!rig.drained);
    let late = send(&mut rig, &[put("c", "1")]);
    assert_eq!(rig.response(late).unwrap_err().errno, Errno::ENOSYS);
    store.serve(&mut rig);
    assert!(rig.drained);
    rig.response(first).unwrap();
    rig.response(second).unwrap();
    rig.events.clear();
    rig.finish();
}

#[test]
fn one_directory_of_many_entries_is_encoded_once_per_batch() {
    let mut store = Store::default();
    let mut rig = store.start();
    let ops: Vec<Value> = (0..5000).map(|i| put(&format!("d.k{i:05}"), "v")).collect();
    commit(&mut store, &mut rig, &ops).unwrap();
    let blobs = store.blobs.len();
    let tags: Vec<u32> =
        (0..1000).map(|i| send(&mut rig, &[put(&format!("d.k{i:05}"), "w")])).collect();
    store.serve(&mut rig);
    for tag in tags {
        rig.response(tag).unwrap();
    }
    // The first commit went out alone, the others together: two directories and two roots.
    assert_eq!(store.blobs.len(), blobs + 4);
}

#[test]
fn pruning_takes_empty_directories_along_and_a_failure_brings_them_back() {
    let prune = |key: &str| json!({ "key": key, "flags": flux_api::kvs::PRUNE, "dirent": null });
    let mut store = Store::default();
    let mut rig = store.start();
    let keys = ["job.a.b.c", "job.a.b.d", "job.e.f.g", "other"];
    let ops: Vec<Value> = keys.iter().map(|key| put(key, "1")).collect();
    commit(&mut store, &mut rig, &ops).unwrap();
    let failed = commit(&mut store, &mut rig, &[prune("job.e.f.g"), append("job.a", "no")]);
    assert_eq!(failed, Err(Errno::EISDIR));
    assert_eq!(lookup(&mut store, &mut rig, "job.e.f.g"), Ok("1".into()));
    let mut there = |ops: &[Value], key: &str| {
        commit(&mut store, &mut rig, ops).unwrap();
        lookup_flags(&mut store, &mut rig, key, 1).is_ok()
    };
    assert!(there(&[prune("job.a.b.c"), prune("job.nothing.here")], "job.a.b"));
    assert!(!there(&[prune("job.a.b.d")], "job.a"));
    assert!(there(&[], "job.e.f"));
    assert!(there(&[prune("job.e.f.g")], "job"), "the first level stays");
    assert!(!there(&[put("x", "1")], "job.e"));
}

#[test]
fn commits_that_wait_have_versions_of_their_own_where_merging_is_off() {
    let mut store = Store::default();
    let mut rig = store.start();
    let reload = json!({"kvs": {"transaction-merge": false}});
    let tag = rig.request("kvs.config-reload", reload);
    rig.response(tag).unwrap();
    let tags: Vec<u32> = ["a", "b", "c"].map(|key| send(&mut rig, &[put(key, "1")])).to_vec();
    store.serve(&mut rig);
    let seqs: Vec<Value> =
        tags.into_iter().map(|tag| rig.response(tag).unwrap()["rootseq"].clone()).collect();
    assert_eq!(seqs, [1, 2, 3]);
}
