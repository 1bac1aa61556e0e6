//! Damaged logs: whatever was promised is found missing, and nothing else is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use flux_model::blobref::HashAlg;
use proptest::prelude::*;

use super::*;
use crate::StoreError;
use crate::fsck::fsck;
use crate::log::{BlobLog, Durability, Write};
use crate::serve::tests::{Tree, noise};

/// The files of a store whose broker was killed after so many commits of a value each, of which
/// the first half was written back.
fn killed(commits: u64) -> BTreeMap<&'static str, Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
    let mut tree = Tree::default();
    for n in 0..commits {
        tree = tree.with(n, noise(n, 400 + 700 * usize::try_from(n % 5).unwrap()));
        let (blobs, checkpoint) = (tree.blobs(), tree.checkpoint(i64::try_from(n).unwrap() + 1));
        let mut writes: Vec<Write<'_>> = blobs.iter().map(|blob| Write::Blob(blob)).collect();
        writes.push(Write::Checkpoint(&checkpoint));
        log.write(&writes).unwrap();
        if n == commits / 2 {
            crate::format::settle(&log.connection, &log.path).unwrap();
        }
    }
    // As the files are before the store is closed.
    ["", "-wal", "-promised"]
        .map(|suffix| (suffix, fs::read(beside(&path, suffix)).unwrap()))
        .into()
}

fn place(files: &BTreeMap<&'static str, Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    for (suffix, bytes) in files {
        fs::write(beside(&path, suffix), bytes).unwrap();
    }
    (directory, path)
}

/// The newest version there is.
fn newest(path: &Path) -> Result<i64, StoreError> {
    let log = BlobLog::open(path, HashAlg::Sha1, Durability::Synced)?;
    Ok(log.checkpoints()?[0].sequence)
}

#[test]
fn a_whole_log_has_no_damage() {
    let (_directory, path) = place(&killed(20));
    assert_eq!(damage(&path), None);
    assert_eq!(newest(&path).unwrap(), 20);
}

#[test]
fn a_bad_page_in_the_log_is_said_and_what_is_behind_it_saved() {
    let mut files = killed(20);
    let wal = files.get_mut("-wal").unwrap();
    // In the value of a blob, or near it.
    let at = HEAD + PAGE_HEAD + 4000;
    wal[at] ^= 4;
    let (_directory, path) = place(&files);
    let error = newest(&path).unwrap_err().to_string();
    assert!(error.contains("damaged: page 1 of its log is bad, with"), "{error}");
    assert!(error.contains("run flux fsck --repair --statedir="), "{error}");
    let report = fsck(&path, false).unwrap();
    assert!(report.problems[0].contains("page 1 of its log"), "{report:?}");
    // Nothing has been changed by looking.
    assert!(newest(&path).is_err());
    let report = fsck(&path, true).unwrap();
    assert!(report.repairs[0].contains("log"), "{report:?}");
    assert!(newest(&path).unwrap() >= 20, "{report:?}");
    assert!(fsck(&path, false).unwrap().problems.is_empty());
}

#[test]
fn a_bad_head_of_the_log_is_said_and_mended() {
    for at in [0, 5, 13, 17, 22, 30] {
        let mut files = killed(20);
        files.get_mut("-wal").unwrap()[at] ^= 16;
        let (_directory, path) = place(&files);
        let error = newest(&path).unwrap_err().to_string();
        assert!(error.contains("the head of its log is bad"), "{at}: {error}");
        fsck(&path, true).unwrap();
        assert_eq!(newest(&path).unwrap(), 20, "{at}");
        assert!(fsck(&path, false).unwrap().problems.is_empty());
    }
}

#[test]
fn a_log_that_was_cut_while_it_was_written_is_no_damage() {
    let mut files = killed(20);
    // What a power cut leaves of it says less.
    files.remove("-promised");
    let length = files["-wal"].len();
    for cut in (HEAD..length).step_by(3001) {
        let mut torn = files.clone();
        torn.get_mut("-wal").unwrap().truncate(cut);
        let (_directory, path) = place(&torn);
        assert_eq!(damage(&path), None, "{cut}");
        assert!(newest(&path).unwrap() >= 11);
    }
}

#[test]
fn a_log_that_was_cut_after_it_was_promised_is_damage() {
    let files = killed(20);
    let length = files["-wal"].len();
    let mut said = 0;
    for cut in (HEAD + 1..length).step_by(20_001).chain([length - 1]) {
        let mut torn = files.clone();
        torn.get_mut("-wal").unwrap().truncate(cut);
        let (_directory, path) = place(&torn);
        let error = newest(&path).unwrap_err().to_string();
        assert!(error.contains("of its log is bad or missing, of "), "{cut}: {error}");
        said += 1;
        let report = fsck(&path, true).unwrap();
        assert!(report.problems[0].contains("that were promised"), "{report:?}");
        assert!(newest(&path).unwrap() >= 11);
        assert!(fsck(&path, false).unwrap().problems.is_empty());
    }
    assert!(said > 3);
}

#[test]
fn a_promise_says_nothing_of_another_log() {
    // Both have logs of their own.
    let (files, others) = (killed(20), killed(24));
    let mut mixed = files.clone();
    mixed.insert("-promised", others["-promised"].clone());
    let length = files["-wal"].len();
    mixed.get_mut("-wal").unwrap().truncate(length - 9000);
    let (_directory, path) = place(&mixed);
    assert!(newest(&path).unwrap() < 20);
    // A log that was emptied, as by an older release, is none that was cut.
    let mut emptied = files;
    emptied.remove("-wal");
    let (_directory, path) = place(&emptied);
    assert!(newest(&path).unwrap() >= 11);
    let mut garbage = killed(20);
    garbage.insert("-promised", noise(1, 28));
    let (_directory, path) = place(&garbage);
    assert_eq!(newest(&path).unwrap(), 20);
}

#[test]
fn every_commit_is_promised_and_no_more_than_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let mut log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
    let mut last = Promise::default();
    let (mut grown, mut anew) = (0, 0);
    log.connection.execute_batch("PRAGMA wal_autocheckpoint = 40").unwrap();
    for n in 0..150_u64 {
        log.write(&[Write::Blob(&noise(n, 3_000 + 90 * usize::try_from(n).unwrap()))]).unwrap();
        if n % 7 == 0 {
            // A transaction that fails leaves pages behind.
            let failed = log.change(|connection| {
                connection.execute("UPDATE blobs SET epoch = ?1", [n.cast_signed()])?;
                connection.execute("no such thing", [])
            });
            failed.unwrap_err();
        }
        let promise = Promise::read(&path).unwrap();
        assert_eq!(read(&path).unwrap().found(), promise.pages as usize, "{n}");
        if promise.salt == last.salt {
            grown += 1;
        } else {
            anew += 1;
        };
        last = promise;
    }
    assert!(grown > 50 && anew > 5, "{grown} {anew}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_flipped_bit_in_the_log_takes_a_promise_back_in_silence(
        at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        static FILES: std::sync::OnceLock<BTreeMap<&'static str, Vec<u8>>> =
            std::sync::OnceLock::new();
        let mut files = FILES.get_or_init(|| killed(24)).clone();
        let wal = files.get_mut("-wal").unwrap();
        let at = at.index(wal.len());
        wal[at] ^= 1 << bit;
        let (_directory, path) = place(&files);
        if let Ok(found) = newest(&path) {
            prop_assert_eq!(found, 24);
        }
        fs::remove_file(beside(&path, "-wal")).ok();
        drop(path);
        let (_directory, path) = place(&files);
        if fsck(&path, true).is_ok() {
            prop_assert!(newest(&path).unwrap() >= 22);
        }
    }
}
