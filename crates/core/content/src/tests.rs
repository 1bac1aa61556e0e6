//! The cache on rank 0 and on a follower, by transcript.

use flux_svc::Rig;

use super::*;

fn ask(rig: &mut Rig<ContentService>, topic: &str, tag: u32, body: &[u8]) {
    let mut message = Message::request(topic).with_raw(body.to_vec());
    message.cred = rig.owner();
    message.set_matchtag(tag);
    rig.deliver(message);
}

fn leader() -> Rig<ContentService> {
    Rig::new(ContentService::new(HashAlg::Sha1, CACHE_BYTES))
}

#[test]
fn a_store_is_answered_after_the_backing_store_and_then_loads_hit_the_cache() {
    let mut rig = leader();
    ask(&mut rig, "content.store", 1, b"blob");
    ask(&mut rig, "content.store", 2, b"blob");
    assert!(rig.responses.is_empty());
    let backing = rig.expect("content-backing.store");
    let digest = HashAlg::Sha1.hash(b"blob");
    rig.reply_raw(&backing, digest.digest().to_vec());
    for _ in 0..2 {
        assert_eq!(rig.responses.pop_front().unwrap().raw(), digest.digest());
    }
    ask(&mut rig, "content.load", 3, digest.digest());
    let load = rig.expect("content-backing.load");
    rig.reply_raw(&load, b"blob".to_vec());
    assert_eq!(rig.responses.pop_front().unwrap().raw(), b"blob");
    ask(&mut rig, "content.load", 4, digest.digest());
    assert_eq!(rig.responses.pop_front().unwrap().raw(), b"blob");
    rig.finish();
}

#[test]
fn a_full_disk_is_told_to_each_who_waits() {
    let mut rig = leader();
    ask(&mut rig, "content.store", 1, b"blob");
    let backing = rig.expect("content-backing.store");
    rig.fail(&backing, RpcError::new(Errno::ENOSPC, "no space"));
    assert_eq!(rig.response(1).unwrap_err().errno, Errno::ENOSPC);
    rig.finish();
}

#[test]
fn a_damaged_blob_is_never_given_out() {
    let mut rig = leader();
    let digest = HashAlg::Sha1.hash(b"blob");
    ask(&mut rig, "content.load", 1, digest.digest());
    let backing = rig.expect("content-backing.load");
    rig.reply_raw(&backing, b"blub".to_vec());
    assert_eq!(rig.response(1).unwrap_err().errno, Errno::EIO);
    ask(&mut rig, "content.load", 2, b"short");
    assert_eq!(rig.response(2).unwrap_err().errno, Errno::EPROTO);
    rig.finish();
}

#[test]
fn a_follower_asks_its_parent() {
    let service = ContentService::new(HashAlg::Sha1, CACHE_BYTES);
    let mut rig = Rig::with(service, 1, 2, &Map::new());
    let digest = HashAlg::Sha1.hash(b"");
    ask(&mut rig, "content.load", 1, digest.digest());
    let load = rig.expect("content.load");
    assert!(load.upstream());
    rig.reply(&load, Value::Null);
    assert_eq!(rig.responses.pop_front().unwrap().raw(), b"");
    rig.finish();
}

#[test]
fn a_commit_is_one_batch_and_fills_the_cache() {
    let mut rig = leader();
    let batch = BlobBatch {
        blobs: vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")],
        checkpoint: None,
    };
    let mut message = flux_api::rpc::request::<Commit>(&batch);
    message.cred = rig.owner();
    message.set_matchtag(5);
    rig.deliver(message);
    let backing = rig.expect("content-backing.commit");
    rig.reply(&backing, Value::Null);
    assert_eq!(rig.response(5), Ok(Value::Null));
    ask(&mut rig, "content.load", 6, HashAlg::Sha1.hash(b"b").digest());
    assert_eq!(rig.responses.pop_front().unwrap().raw(), b"b");
    rig.finish();
}

#[test]
fn at_the_end_everybody_is_answered() {
    let mut rig = leader();
    let digest = HashAlg::Sha1.hash(b"blob");
    ask(&mut rig, "content.store", 1, b"other");
    rig.expect("content-backing.store");
    ask(&mut rig, "content.load", 2, digest.digest());
    rig.expect("content-backing.load");
    rig.drain();
    for _ in 0..2 {
        assert_eq!(rig.responses.pop_front().unwrap().errnum(), Errno::ENOSYS);
    }
    assert!(rig.drained);
    rig.finish();
}

fn gc_leader(grace_us: u64) -> Rig<ContentService> {
    let settings = GcSettings { grace_us, growth: 1_000, ..GcSettings::default() };
    Rig::new(ContentService::new(HashAlg::Sha1, CACHE_BYTES).with_gc(settings))
}

fn commit(rig: &mut Rig<ContentService>, bytes: usize) {
    commit_batch(rig, &BlobBatch { blobs: vec![Bytes::from(vec![0; bytes])], checkpoint: None });
}

fn commit_batch(rig: &mut Rig<ContentService>, batch: &BlobBatch) {
    let mut message = flux_api::rpc::request::<Commit>(batch);
    message.cred = rig.owner();
    message.set_matchtag(5);
    rig.deliver(message);
    let backing = rig.expect("content-backing.commit");
    rig.reply(&backing, Value::Null);
    assert_eq!(rig.response(5), Ok(Value::Null));
}

fn info(epoch: i64, file: u64, live: u64, added: u64) -> Value {
    json!({ "current_epoch": epoch, "high_water": 1, "file_bytes": file, "free_bytes": 0,
        "live_bytes": live, "added_bytes": added })
}

fn collected(deleted: u64) -> Value {
    json!({ "live": 1, "live_bytes": 10, "deleted": deleted, "before": 100, "after": 50 })
}

#[test]
fn a_store_that_has_grown_is_collected_and_passes_are_seconds_apart() {
    let mut rig = gc_leader(10_000_000);
    commit(&mut rig, 150);
    commit(&mut rig, 150);
    let look = rig.expect("content-backing.gc-info");
    rig.reply(&look, info(0, 900, 0, 300));
    assert!(!rig.has_timer());
    commit(&mut rig, 1000);
    let look = rig.expect("content-backing.gc-info");
    rig.reply(&look, info(0, 1300, 0, 1300));
    let pass = rig.expect("content-backing.collect");
    // The first pass since the start deletes nothing: a second one follows.
    rig.reply(&pass, collected(0));
    assert!(rig.has_timer());
    rig.advance(2_000_000);
    let pass = rig.expect("content-backing.collect");
    let asked = pass.json::<Value>().unwrap();
    assert_eq!((&asked["young"], &asked["grace_us"]), (&json!(true), &json!(10_000_000)));
    rig.reply(&pass, collected(7));
    assert!(!rig.has_timer());
    commit(&mut rig, 1000);
    let look = rig.expect("content-backing.gc-info");
    rig.reply(&look, info(2, 11_300, 10_200, 1000));
    assert!(!rig.has_timer());
    rig.finish();
}

/// A pass is asked for, of this kind, and finds nothing.
fn pass_made(rig: &mut Rig<ContentService>, young: bool) {
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["young"], json!(young));
    rig.reply(&pass, collected(0));
}

/// Makes the two passes after the start.
fn started(rig: &mut Rig<ContentService>) {
    commit(rig, 1000);
    let look = rig.expect("content-backing.gc-info");
    rig.reply(&look, info(0, 8000, 0, 8000));
    for _ in 0..2 {
        rig.advance(2_000_000);
        let pass = rig.expect("content-backing.collect");
        rig.reply(&pass, collected(0));
    }
}

#[test]
fn what_young_passes_leave_standing_is_looked_at_by_a_thorough_one_and_the_one_after_it() {
    let mut rig = gc_leader(10_000_000);
    started(&mut rig);
    commit(&mut rig, 1000);
    let look = rig.expect("content-backing.gc-info");
    let mut found = info(2, 11_000, 8000, 100);
    found["settled_bytes"] = json!(2000);
    rig.reply(&look, found);
    for young in [false, true] {
        rig.advance(2_000_000);
        pass_made(&mut rig, young);
    }
    assert!(!rig.has_timer());
    rig.finish();
}

#[test]
fn a_thorough_pass_comes_sooner_where_it_costs_little() {
    let mut rig = gc_leader(10_000_000);
    started(&mut rig);
    // Live data of 24,000: a sixth of it has not been left standing, a twentieth has.
    let left = |rig: &mut Rig<ContentService>| {
        commit(rig, 1000);
        let look = rig.expect("content-backing.gc-info");
        let mut found = info(2, 26_000, 24_000, 100);
        found["settled_bytes"] = json!(1200);
        rig.reply(&look, found);
        rig.advance(2_000_000);
    };
    left(&mut rig);
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["young"], json!(false));
    rig.advance(1_000_000);
    rig.reply(&pass, collected(0));
    rig.advance(2_000_000);
    pass_made(&mut rig, true);
    // It took three seconds.
    left(&mut rig);
    assert!(rig.requests.is_empty());
    rig.advance(55_000_000);
    left(&mut rig);
    pass_made(&mut rig, false);
    rig.advance(2_000_000);
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(0));
    rig.finish();
}

#[test]
fn while_there_are_commits_everything_is_looked_at_each_minute() {
    let mut rig = gc_leader(10_000_000);
    started(&mut rig);
    let checkpoint = serde_json::from_value(json!({
        "version": 1, "rootref": "sha1-0", "sequence": 1, "timestamp": 1.0
    }));
    let batch = BlobBatch { blobs: Vec::new(), checkpoint: Some(checkpoint.unwrap()) };
    commit_batch(&mut rig, &batch);
    rig.advance(60_000_000);
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["young"], json!(false));
    // It took a second, so that the next one is not in a minute.
    rig.advance(1_000_000);
    rig.reply(&pass, collected(3));
    rig.advance(1_000_000);
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(4));
    assert!(!rig.has_timer());
    commit_batch(&mut rig, &batch);
    rig.advance(97_000_000);
    assert!(rig.requests.is_empty());
    rig.advance(1_000_000);
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(0));
    rig.advance(2_000_000);
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(0));
    rig.finish();
}

#[test]
fn who_asks_for_a_thorough_collection_is_answered_after_two_passes() {
    let mut rig = gc_leader(2_000_000);
    let tag = rig.request("content.collect", json!({ "thorough": true }));
    let first = rig.expect("content-backing.collect");
    // This one came too late for the pass that goes on.
    let late = rig.request("content.collect", json!({}));
    rig.reply(&first, collected(1));
    rig.advance(2_000_000);
    let second = rig.expect("content-backing.collect");
    rig.reply(&second, collected(2));
    let done = rig.response(tag).unwrap();
    assert_eq!((&done["deleted"], &done["before"]), (&json!(3), &json!(100)));
    assert_eq!(rig.response(late).unwrap()["deleted"], json!(2));
    rig.finish();
}

#[test]
fn roots_of_readers_are_kept_while_they_are_connected() {
    let mut rig = gc_leader(0);
    let root = HashAlg::Sha1.hash(b"root").to_string();
    let pin = rig.stream("content.pin", json!({ "rootref": root }));
    assert!(rig.response(pin).is_ok());
    let tag = rig.request("content.collect", json!({}));
    let pass = rig.expect("content-backing.collect");
    let asked = pass.json::<Value>().unwrap();
    assert_eq!((&asked["pins"], &asked["grace_us"]), (&json!([root]), &json!(0)));
    rig.fail(&pass, RpcError::new(Errno::EIO, "blob x is missing"));
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::EIO);
    let owner = rig.owner();
    rig.disconnect(owner, "content");
    let tag = rig.request("content.collect", json!({}));
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["pins"], json!([]));
    rig.reply(&pass, collected(1));
    assert!(rig.response(tag).is_ok());
    // The second pass since the start.
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(0));
    rig.finish();
}

#[test]
fn who_stores_before_a_commit_may_take_its_time() {
    let mut rig = gc_leader(2_000_000);
    let hold = rig.stream("content.pin", json!({ "rootref": "" }));
    assert!(rig.response(hold).is_ok());
    let tag = rig.request("content.collect", json!({}));
    let pass = rig.expect("content-backing.collect");
    let asked = pass.json::<Value>().unwrap();
    assert_eq!((&asked["pins"], &asked["grace_us"]), (&json!([]), &Value::Null));
    rig.reply(&pass, collected(0));
    assert!(rig.response(tag).is_ok());
    let wrong = rig.stream("content.pin", json!({ "rootref": "x" }));
    assert_eq!(rig.response(wrong).unwrap_err().errno, Errno::EPROTO);
    let owner = rig.owner();
    rig.disconnect(owner, "content");
    rig.advance(2_000_000);
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["grace_us"], json!(2_000_000));
    rig.reply(&pass, collected(0));
    rig.finish();
}

#[test]
fn a_blob_in_the_cache_is_stored_again() {
    let mut rig = leader();
    for tag in 1..3 {
        ask(&mut rig, "content.store", tag, b"blob");
        let backing = rig.expect("content-backing.store");
        rig.reply_raw(&backing, HashAlg::Sha1.hash(b"blob").digest().to_vec());
        assert_eq!(rig.responses.pop_front().unwrap().errnum(), Errno::OK);
    }
    rig.finish();
}

#[test]
fn settings_follow_the_configuration() {
    let mut rig = gc_leader(10_000_000);
    let set = |rig: &mut Rig<ContentService>, config: Value| {
        let tag = rig.request("content.config-reload", config);
        rig.response(tag).is_ok()
    };
    assert!(set(&mut rig, json!({ "content": { "gc": false, "gc-grace": "1m" } })));
    commit(&mut rig, 4000);
    let tag = rig.request("content.collect", json!({}));
    let pass = rig.expect("content-backing.collect");
    assert_eq!(pass.json::<Value>().unwrap()["grace_us"], json!(60_000_000));
    rig.reply(&pass, collected(0));
    assert!(rig.response(tag).is_ok());
    assert!(!rig.has_timer());
    for wrong in [json!({ "gc": 1 }), json!({ "gc-grace": "soon" })] {
        assert!(!set(&mut rig, json!({ "content": wrong })));
    }
    assert!(set(&mut rig, json!({})));
    commit(&mut rig, 4000);
    rig.advance(2_000_000);
    let pass = rig.expect("content-backing.collect");
    rig.reply(&pass, collected(0));
    rig.finish();
}
