//! Backups and relocation while serving.

use super::*;
use crate::format::beside;

fn large() -> Tree {
    (0..400).fold(Tree::default(), |tree, n| tree.with(n, noise(n, 3_000)))
}

#[test]
fn a_backup_is_the_store_at_one_instant() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let mut tree = large();
    bench.put(&tree, 1);
    let target = directory.path().join("backup.sqlite");
    bench.ask::<BackingBackup>(&CopyRequest { path: target.display().to_string() });
    let mut sequence = 1;
    while bench.server.background.is_some() {
        bench.server.step();
        sequence += 1;
        tree = tree.with("new", noise(10_000 + sequence, 500));
        let number = i64::try_from(sequence).unwrap();
        let batch = BlobBatch { blobs: tree.blobs(), checkpoint: Some(tree.checkpoint(number)) };
        bench.ask::<BackingCommit>(&batch);
    }
    let copied = bench.answer_to::<BackingBackup>().unwrap();
    assert!(copied.blobs > 800 && copied.bytes > 1_000_000, "{copied:?}");
    let copy = BlobLog::open(&target, HashAlg::Sha1, Durability::Synced).unwrap();
    let newest = copy.checkpoints().unwrap().remove(0);
    // Whatever it was then is whole.
    let sequence = u64::try_from(newest.sequence).unwrap();
    let then =
        if sequence == 1 { large() } else { large().with("new", noise(10_000 + sequence, 500)) };
    then.check(&copy);
    assert!(!beside(&target, ".part").exists());
}

#[test]
fn a_backup_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let error = bench.copy::<BackingBackup>(&directory.path().join("content.sqlite")).unwrap_err();
    assert_eq!(error.errno, Errno::EINVAL);
    assert!(error.message().contains("is there already"), "{error:?}");
    assert!(bench.copy::<BackingBackup>(Path::new("relative")).is_err());
    assert!(bench.copy::<BackingBackup>(&directory.path().join("no/where")).is_err());
}

#[test]
fn a_relocated_store_goes_on_in_its_new_place_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("content.sqlite");
    let mut bench = Bench::open(&name);
    let instance = bench.server.log.instance().unwrap();
    let mut tree = large();
    bench.put(&tree, 1);
    for place in ["first", "second"] {
        let target = directory.path().join(format!("{place}.sqlite"));
        bench.ask::<BackingRelocate>(&CopyRequest { path: target.display().to_string() });
        let mut number = 1;
        while bench.server.background.is_some() {
            bench.server.step();
            number += 1;
            tree = tree.with(place, noise(20_000 + number, 500));
            let blobs = tree.blobs();
            let batch = BlobBatch { blobs, checkpoint: Some(tree.checkpoint(1)) };
            bench.ask::<BackingCommit>(&batch);
        }
        bench.answer_to::<BackingRelocate>().unwrap();
        tree.check(&bench.server.log);
        tree = tree.with("later", noise(7, 500));
        bench.put(&tree, 2);
        assert_eq!(bench.server.log.path(), target);
    }
    bench.collect();
    drop(bench);
    // Left by a crash in the middle of a move.
    std::fs::write(beside(&name, "-wal"), "stale").unwrap();
    let log = BlobLog::open(&name, HashAlg::Sha1, Durability::Synced).unwrap();
    tree.check(&log);
    assert_eq!(log.instance().unwrap(), instance);
    let mut left: Vec<String> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    left.retain(|file| !file.contains("second"));
    assert_eq!(left, ["content.sqlite"]);
    drop(log);
    std::fs::remove_file(directory.path().join("second.sqlite")).unwrap();
    let error = BlobLog::open(&name, HashAlg::Sha1, Durability::Synced).unwrap_err();
    assert!(matches!(error, StoreError::Gone { .. }), "{error}");
}
