//! What a commit is about to refer to, with collections in between.

use flux_api::content::HoldRequest;

use super::*;

/// A directory with a value in a directory below; their names, from above.
fn tree(text: &str) -> (Vec<Bytes>, [Blobref; 3]) {
    let name = |blob: &[u8]| HashAlg::Sha1.hash(blob);
    let value = text.repeat(30).into_bytes();
    let below = Treeobj::Dir([("v".to_string(), Treeobj::Valref(vec![name(&value)]))].into());
    let below = below.encode();
    let above = Treeobj::Dir([("d".to_string(), Treeobj::Dirref(name(&below)))].into()).encode();
    let names = [name(&above), name(&below), name(&value)];
    let blobs = vec![value.into(), below.into(), above.into()];
    (blobs, names)
}

fn commit(bench: &mut Bench, blobs: Vec<Bytes>, root: Blobref, sequence: i64) {
    let checkpoint = Checkpoint {
        version: 1,
        rootref: root.to_string(),
        sequence,
        timestamp: 1.0,
        namespaces: None,
    };
    bench.ask::<BackingCommit>(&BlobBatch { blobs, checkpoint: Some(checkpoint) });
    bench.answer::<Empty>().unwrap();
}

fn hold(bench: &mut Bench, dirs: &[Blobref], data: &[Blobref]) -> Result<(), RpcError> {
    let texts = |names: &[Blobref]| names.iter().map(Blobref::to_string).collect();
    bench.ask::<BackingHold>(&HoldRequest { dirs: texts(dirs), data: texts(data) });
    while !bench.server.holds.is_empty() {
        bench.server.hold_on();
    }
    bench.answer_to::<BackingHold>().map(|Empty| ())
}

/// A store whose root was one tree and is another one.
fn replaced() -> (tempfile::TempDir, Bench, [Blobref; 3], [Blobref; 3]) {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let (blobs, old) = tree("old ");
    commit(&mut bench, blobs, old[0], 1);
    let (blobs, new) = tree("new ");
    commit(&mut bench, blobs, new[0], 2);
    (directory, bench, old, new)
}

#[test]
fn what_was_collected_is_refused_by_name() {
    let (_directory, mut bench, old, new) = replaced();
    hold(&mut bench, &[old[0]], &[old[2]]).unwrap();
    // Held for a minute, not for ever: this one was begun anew.
    let path = bench.server.log.path().to_path_buf();
    drop(bench);
    let mut bench = Bench::open(&path);
    bench.collect();
    hold(&mut bench, &[new[0]], &[]).unwrap();
    assert_eq!(bench.collect().deleted, 3);
    for (dirs, data, missing) in [
        (vec![old[0]], vec![], old[0]),
        (vec![new[0], old[1]], vec![], old[1]),
        (vec![], vec![new[2], old[2]], old[2]),
    ] {
        let error = hold(&mut bench, &dirs, &data).unwrap_err();
        assert_eq!(error.errno, Errno::ENOENT);
        assert!(error.to_string().contains(&missing.to_string()), "{error}");
    }
    hold(&mut bench, &[new[0], new[1]], &[new[2]]).unwrap();
    // A value is no directory, alive or not: a collection could not go on.
    let error = hold(&mut bench, &[new[2]], &[]).unwrap_err();
    assert_eq!(error.errno, Errno::EINVAL);
}

#[test]
fn what_hangs_from_a_directory_that_is_there_has_to_be_there_too() {
    let (_directory, mut bench, old, _) = replaced();
    let row = bench.server.log.row_of(old[2].digest()).unwrap().unwrap();
    bench.server.log.change(|it| it.execute("DELETE FROM blobs WHERE id = ?1", [row])).unwrap();
    bench.server.log.index.remove(old[2].digest(), row);
    for _ in 0..2 {
        // That it was looked at once says nothing.
        let error = hold(&mut bench, &[old[0]], &[]).unwrap_err();
        assert_eq!(error.errno, Errno::ENOENT);
        assert!(error.to_string().contains(&old[2].to_string()), "{error}");
    }
}

#[test]
fn what_is_held_outlives_the_collections_until_the_commit_is_there() {
    for at in 0..40 {
        let (_directory, mut bench, old, new) = replaced();
        bench.collect();
        bench.ask::<BackingCollect>(&PASS);
        // In the middle of the pass that would delete it.
        for _ in 0..at {
            if bench.server.background.is_some() {
                bench.server.step();
            }
        }
        let held = hold(&mut bench, &[old[0]], &[]);
        bench.settle();
        bench.collect();
        bench.collect();
        if held.is_err() {
            // It was gone already.
            assert!(bench.server.log.row_of(old[0].digest()).unwrap().is_none());
            continue;
        }
        // A commit of which the old tree is a part again.
        let both = Treeobj::Dir(
            [("a", old[0]), ("b", new[0])]
                .map(|(name, root)| (name.to_string(), Treeobj::Dirref(root)))
                .into(),
        );
        let both = Bytes::from(both.encode());
        commit(&mut bench, vec![both.clone()], HashAlg::Sha1.hash(&both), 3);
        for _ in 0..3 {
            bench.collect();
        }
        for name in old.iter().chain(&new) {
            bench.server.log.load(name.digest()).unwrap();
        }
    }
}

#[test]
fn what_was_accepted_and_cannot_be_written_is_not_said_to_be_collected() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.server.log.limit_pages(20);
    let blob = noise(1, 400_000);
    let name = HashAlg::Sha1.hash(&blob);
    let batch = BlobBatch { blobs: vec![blob.into()], checkpoint: None };
    assert!(bench.server.ahead.accept(batch));
    bench.server.take(Work::Accepted);
    assert_eq!(hold(&mut bench, &[], &[name]).unwrap_err().errno, Errno::ENOSPC);
    bench.server.log.limit_pages(100_000);
    hold(&mut bench, &[], &[name]).unwrap();
}
