//! A disk that is full.

use super::*;

#[test]
fn what_cannot_be_written_is_kept_and_can_be_read_and_the_status_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.server.log.limit_pages(20);
    let blob = noise(1, 400_000);
    let batch = BlobBatch { blobs: vec![blob.clone().into()], checkpoint: None };
    assert!(bench.server.ahead.accept(batch));
    bench.server.take(Work::Accepted);
    bench.server.take_accepted();
    bench.server.store();
    assert!(bench.server.ahead.failing.load(Ordering::Acquire));
    let wanted = Raw(HashAlg::Sha1.hash(&blob).digest().to_vec().into());
    bench.ask::<BackingLoad>(&wanted);
    assert_eq!(bench.answer::<Raw>().unwrap().0, blob);
    bench.server.log.limit_pages(100_000);
    bench.ask::<BackingStatus>(&Default::default());
    assert_eq!(bench.answer::<StoreStatus>().unwrap().state, "ok");
    assert!(bench.server.accepted.is_empty());
    assert!(!bench.server.ahead.failing.load(Ordering::Acquire));
    assert_eq!(bench.server.ahead.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_full_disk_is_told_until_a_write_goes_through() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.server.log.limit_pages(20);
    bench.ask::<BackingStore>(&Raw(noise(1, 400_000).into()));
    assert_eq!(bench.answer::<Raw>().unwrap_err().errno, Errno::ENOSPC);
    bench.server.log.limit_pages(100_000);
    bench.ask::<BackingStore>(&Raw(noise(1, 400_000).into()));
    assert!(bench.answer::<Raw>().is_ok());
    bench.ask::<BackingStatus>(&Default::default());
    assert_eq!(bench.answer::<StoreStatus>().unwrap().state, "ok");
}
