//! Damaged files: found, said, and mended as far as that goes; never silently wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::serve::tests::{Tree, noise};

fn stored(path: &Path, trees: &[Tree]) {
    let mut log = BlobLog::open(path, HashAlg::Sha1, Durability::Synced).unwrap();
    for (n, tree) in trees.iter().enumerate() {
        let blobs = tree.blobs();
        let checkpoint = tree.checkpoint(i64::try_from(n).unwrap() + 1);
        let mut writes: Vec<Write<'_>> = blobs.iter().map(|blob| Write::Blob(blob)).collect();
        writes.push(Write::Checkpoint(&checkpoint));
        log.write(&writes).unwrap();
    }
}

fn sample() -> Tree {
    (0..60).fold(Tree::default(), |tree, n| tree.with(n, noise(n, 200 + 17 * n as usize)))
}

/// All values in reach, by key.
fn values(log: &BlobLog) -> Result<BTreeMap<String, Vec<u8>>, String> {
    use flux_model::treeobj::Treeobj;
    fn load(log: &BlobLog, name: &Blobref) -> Result<Vec<u8>, String> {
        log.load(name.digest()).map(|blob| blob.to_vec()).map_err(|error| error.to_string())
    }
    let checkpoint = log.checkpoints().map_err(|error| error.to_string())?.remove(0);
    let root: Blobref = checkpoint.rootref.parse().map_err(|_| "bad root".to_string())?;
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), Treeobj::Dirref(root))];
    while let Some((key, object)) = open.pop() {
        match object {
            Treeobj::Dirref(name) => {
                let dir = Treeobj::decode(&load(log, &name)?).map_err(|e| e.to_string())?;
                open.push((key, dir));
            }
            Treeobj::Dir(entries) => {
                open.extend(entries.into_iter().map(|(n, object)| (format!("{key}.{n}"), object)));
            }
            Treeobj::Valref(pieces) => {
                let mut value = Vec::new();
                for piece in &pieces {
                    value.extend(load(log, piece)?);
                }
                found.insert(key, value);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn expected(tree: &Tree) -> BTreeMap<String, Vec<u8>> {
    tree.values.iter().map(|(name, value)| (format!(".{name}.v"), value.clone())).collect()
}

#[test]
fn a_sound_file_has_no_problems() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    stored(&path, &[sample()]);
    let report = fsck(&path, false).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!((report.blobs, report.keys), (121, 60));
}

#[test]
fn a_lost_blob_is_taken_out_of_the_tree_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let tree = sample();
    stored(&path, std::slice::from_ref(&tree));
    let lost = HashAlg::Sha1.hash(&tree.values["7"]);
    let connection = Connection::open(&path).unwrap();
    connection.execute("DELETE FROM blobs WHERE digest = ?1", [lost.digest()]).unwrap();
    drop(connection);
    let report = fsck(&path, false).unwrap();
    assert_eq!(report.problems, ["7.v: 1 of 1 blobs are lost"]);
    assert!(report.repairs.is_empty());
    let report = fsck(&path, true).unwrap();
    assert_eq!(report.repairs, ["version 2 has what is left"]);
    assert!(fsck(&path, false).unwrap().problems.is_empty());
    let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
    let mut left = expected(&tree);
    left.remove(".7.v");
    assert_eq!(values(&log).unwrap(), left);
}

#[test]
fn a_flipped_digest_is_mended_without_loss() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let tree = sample();
    stored(&path, std::slice::from_ref(&tree));
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE blobs SET digest = zeroblob(20) WHERE id = 5", []).unwrap();
    drop(connection);
    assert!(!fsck(&path, false).unwrap().problems.is_empty());
    fsck(&path, true).unwrap();
    assert!(fsck(&path, false).unwrap().problems.is_empty());
    let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
    assert_eq!(values(&log).unwrap(), expected(&tree));
}

#[test]
fn without_its_root_the_version_before_is_used_and_the_loss_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let (old, new) = (sample(), sample().with("new", noise(99, 300)));
    stored(&path, &[old.clone(), new.clone()]);
    let root: Blobref = new.checkpoint(2).rootref.parse().unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute("DELETE FROM blobs WHERE digest = ?1", [root.digest()]).unwrap();
    drop(connection);
    let report = fsck(&path, true).unwrap();
    assert!(report.problems.iter().any(|text| text.contains("is lost")), "{report:?}");
    let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
    assert_eq!(values(&log).unwrap(), expected(&old));
    // Versions never go back.
    assert_eq!(log.checkpoints().unwrap()[0].sequence, 3);
}

#[test]
fn a_truncated_file_is_refused_with_the_next_step_and_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    stored(&path, &[sample()]);
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length - 3 * 8192).unwrap();
    let error = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap_err().to_string();
    assert!(
        error.contains("truncated") && error.contains("run flux fsck --repair --statedir="),
        "{error}"
    );
    let report = fsck(&path, true).unwrap();
    assert!(report.blobs < 121 && report.blobs > 20, "{report:#?}");
    let report = fsck(&path, false).unwrap();
    // The root was among what is lost: it is at the end.
    assert!(report.problems.iter().all(|text| text.contains("root")), "{report:?}");
}

#[test]
fn files_of_the_formats_before_are_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let formats: [(&[u8], usize, i64); 2] = [
        (include_bytes!("golden/format1.sqlite"), 5, 9),
        (include_bytes!("golden/format2.sqlite"), 1, 6),
    ];
    for (golden, count, newest) in formats {
        fs::write(&path, golden).unwrap();
        assert!(fsck(&path, false).unwrap().problems.is_empty());
        fs::write(&path, golden).unwrap();
        let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap();
        let checkpoints = log.checkpoints().unwrap();
        assert_eq!((checkpoints.len(), checkpoints[0].sequence), (count, newest));
        assert!(checkpoints[0].namespaces.is_some());
        let long = (1..=400).map(|n| n.to_string()).collect::<Vec<String>>().join(",");
        assert_eq!(values(&log).unwrap()[".long"], long.into_bytes());
        assert_eq!(format::version(&log.connection, &path).unwrap(), format::FORMAT);
    }
}

#[test]
fn later_formats_and_other_hashes_are_refused_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    stored(&path, &[sample()]);
    let error = BlobLog::open(&path, HashAlg::Sha256, Durability::Synced).unwrap_err();
    assert!(error.to_string().ends_with("holds sha1 blobs: start with content.hash=sha1"));
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(connection);
    let error = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }));
    let named = format!("format 99 is newer than this release knows ({})", crate::format::FORMAT);
    assert!(error.to_string().contains(&named), "{error}");
    assert!(error.to_string().contains("flux dump"), "{error}");
    assert!(matches!(fsck(&path, true), Err(StoreError::Newer { .. })));
}

/// A file, closed, as bytes.
fn image() -> Vec<u8> {
    static IMAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        stored(&path, &[sample()]);
        fs::read(&path).unwrap()
    };
    IMAGE.get_or_init(make).clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_flipped_bit_gives_a_wrong_value(
        at in any::<prop::sample::Index>(), bit in 0..8_u32, repair in any::<bool>(),
    ) {
        let mut bytes = image();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.sqlite");
        fs::write(&path, &bytes).unwrap();
        let all = expected(&sample());
        // Either the file is refused, or a blob is, or all is as it was.
        if let Ok(log) = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced)
            && let Ok(values) = values(&log)
        {
            prop_assert_eq!(&values, &all);
        }
        fs::remove_file(beside(&path, "-wal")).ok();
        fs::write(&path, &bytes).unwrap();
        if let Ok(report) = fsck(&path, repair) {
            let log = BlobLog::open(&path, HashAlg::Sha1, Durability::Synced);
            let now = log.map_err(|error| error.to_string()).and_then(|log| values(&log));
            match now {
                Ok(mut now) => {
                    now.retain(|key, _| !key.starts_with(".lost+found"));
                    for (key, value) in &now {
                        prop_assert_eq!(all.get(key), Some(value));
                    }
                    // What is missing was said.
                    prop_assert!(now.len() == all.len() || !report.problems.is_empty());
                }
                Err(text) => prop_assert!(!report.problems.is_empty(), "{}", text),
            }
        }
    }
}
