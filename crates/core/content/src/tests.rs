//! The cache on rank 0 and on a follower, by transcript.

use flux_svc::Rig;
use serde_json::Map;

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
