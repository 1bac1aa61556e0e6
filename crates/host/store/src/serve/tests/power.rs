//! Power cuts and failing syncs: whatever was promised is there.

use std::path::PathBuf;
use std::sync::Mutex;

use super::disk::{Disk, disk};
use super::*;

/// Commits, and collections in between, on this disk, of so many of whose syncs one fails; how
/// many commits went through.
fn work(path: &Path, disk: &Mutex<Disk>, commits: u64, fails: u64) -> u64 {
    let mut bench = Bench::with(BlobLog::open(path, HashAlg::Sha1, Durability::Synced).unwrap());
    disk.lock().unwrap().fails = fails;
    let mut tree = Tree::default();
    let mut through = 0;
    for n in 1..=commits {
        let sequence = i64::try_from(n).unwrap();
        let next = tree.clone().with(n % 12, noise(n, 100 + usize::try_from(n % 7).unwrap() * 900));
        let batch = BlobBatch { blobs: next.blobs(), checkpoint: Some(next.checkpoint(sequence)) };
        bench.ask::<BackingCommit>(&batch);
        let answer = (bench.taken)().into_iter().find(|m| m.topic() == "content-backing.commit");
        if answer.is_some_and(|answer| answer.errnum() == Errno::OK) {
            disk.lock().unwrap().promised = sequence;
            tree = next;
            through += 1;
        }
        if n % 9 == 0 {
            bench.ask::<BackingCollect>(&CollectPass::default());
        }
        // What a collection changes is not synced: parts of several steps may be lost together.
        for _ in 0..n % 6 {
            if bench.server.background.is_some() {
                bench.server.step();
            }
        }
    }
    through
}

/// Opens what every cut has left.
fn check(disk: &Mutex<Disk>) -> usize {
    let crashes = std::mem::take(&mut disk.lock().unwrap().crashes);
    let count = crashes.len();
    for (images, promised) in crashes {
        let directory = tempfile::tempdir().unwrap();
        for (path, image) in images {
            std::fs::write(directory.path().join(path.file_name().unwrap()), image).unwrap();
        }
        let path = directory.path().join("content.sqlite");
        let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
        let newest = match log.checkpoints() {
            Ok(checkpoints) => checkpoints[0].clone(),
            Err(StoreError::Missing { .. }) if promised == 0 => continue,
            Err(error) => panic!("{promised} commits were promised: {error}"),
        };
        assert!(newest.sequence >= promised, "{promised} > {newest:?}");
        drop(log);
        let report = crate::fsck::fsck(&path, false).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
    }
    count
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("content.sqlite");
    (directory, path)
}

#[test]
fn after_a_power_cut_at_any_write_every_promise_is_kept() {
    let mut cuts = 0;
    for seed in 1..6 {
        let (directory, path) = place();
        let disk = disk(path.parent().unwrap(), seed * 7919);
        disk.lock().unwrap().cuts = 40;
        assert_eq!(work(&path, &disk, 60, 0), 60);
        cuts += check(&disk);
        drop(directory);
    }
    assert!(cuts > 50, "{cuts}");
}

#[test]
fn a_failed_sync_is_never_taken_for_done_later() {
    let (mut cuts, mut failed) = (0, 0);
    for seed in 1..25 {
        let (directory, path) = place();
        let disk = disk(path.parent().unwrap(), seed * 104_729);
        disk.lock().unwrap().cuts = 40;
        assert!(work(&path, &disk, 60, 12) > 10);
        failed += disk.lock().unwrap().syncs.1;
        disk.lock().unwrap().fails = 0;
        cuts += check(&disk);
        drop(directory);
    }
    assert!(cuts > 50 && failed > 20, "{cuts} {failed}");
}
