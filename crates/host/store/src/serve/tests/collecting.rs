//! Collections: what is deleted, what is not, and what becomes of the file.

use super::*;

fn live(log: &BlobLog, blob: &[u8]) -> bool {
    log.validate(HashAlg::Sha1.hash(blob).digest()).is_ok()
}

#[test]
fn two_passes_delete_what_nothing_refers_to_and_the_file_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let mut bench = Bench::open(&path);
    let mut tree = Tree::default();
    for n in 0..300 {
        tree = tree.with(n, noise(n, 5_000));
    }
    bench.put(&tree, 1);
    let mut small = tree.clone();
    small.values.retain(|name, _| name.ends_with('7'));
    bench.put(&small, 2);
    let first = bench.collect();
    assert_eq!((first.deleted, first.live), (0, 61));
    let second = bench.collect();
    // 270 values, their directories, the old root.
    assert_eq!((second.deleted, second.live), (541, 61));
    small.check(&bench.server.log);
    assert!(!live(&bench.server.log, &noise(1, 5_000)));
    assert!(second.after * 5 < second.before, "{second:?}");
    assert!(second.after < 2 * second.live_bytes, "{second:?}");
    drop(bench);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), second.after);
    let bench = Bench::open(&path);
    assert_eq!(bench.server.log.len(), 61);
    small.check(&bench.server.log);
}

#[test]
fn what_was_stored_since_the_last_pass_began_stays_and_so_does_what_is_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let old = Tree::default().with("old", noise(1, 300));
    let new = Tree::default().with("new", noise(2, 300));
    bench.put(&old, 1);
    bench.put(&new, 2);
    bench.collect();
    bench.ask::<BackingStore>(&Raw(Bytes::from_static(b"fresh")));
    // It is not new, but somebody has just stored it again.
    bench.ask::<BackingStore>(&Raw(old.blobs()[0].clone()));
    let pinned = Tree::default().with("pinned", noise(3, 300));
    bench.put(&pinned, 3);
    bench.put(&new, 4);
    bench.collect();
    let log = &bench.server.log;
    assert!(live(log, b"fresh") && live(log, &noise(1, 300)) && !live(log, &old.blobs()[2]));
    let pins = vec![pinned.checkpoint(0).rootref];
    for _ in 0..2 {
        bench.ask::<BackingCollect>(&CollectPass { pins: pins.clone(), ..PASS });
        bench.answer::<Collected>().unwrap();
    }
    let log = &bench.server.log;
    assert!(!live(log, b"fresh") && !live(log, &noise(1, 300)));
    assert!(pinned.blobs().iter().all(|blob| live(log, blob)));
    new.check(log);
}

#[test]
fn a_damaged_tree_stops_a_collection_before_anything_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.put(&Tree::default().with("dead", noise(1, 300)), 1);
    let tree = Tree::default().with("a", noise(2, 300));
    bench.put(&tree, 2);
    bench.collect();
    let count = bench.server.log.len();
    let digest = HashAlg::Sha1.hash(&tree.blobs()[1]);
    let row = bench.server.log.row_of(digest.digest()).unwrap().unwrap();
    let connection = &bench.server.log.connection;
    connection.execute("UPDATE blobs SET object = x'00', size = -1 WHERE id = ?1", [row]).unwrap();
    bench.ask::<BackingCollect>(&PASS);
    let error = bench.answer::<Collected>().unwrap_err();
    assert_eq!(error.errno, Errno::EIO);
    assert!(error.message().contains(&digest.to_string()), "{error:?}");
    assert_eq!(bench.server.log.len(), count);
}

#[test]
fn after_a_crash_at_any_step_all_that_lives_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content.sqlite");
    let mut bench = Bench::open(&path);
    let mut tree = Tree::default();
    for n in 0..200 {
        tree = tree.with(n, noise(n, 700));
    }
    bench.put(&tree, 1);
    tree.values.retain(|name, _| name.ends_with(['1', '2', '3']));
    tree = tree.with("new", noise(1000, 700));
    bench.put(&tree, 2);
    bench.collect();
    bench.ask::<BackingCollect>(&PASS);
    let mut steps = 0;
    while bench.server.background.is_some() {
        bench.server.step();
        steps += 1;
        // What is on the disk now is what a crash would leave.
        let copy = directory.path().join(format!("{steps}.sqlite"));
        std::fs::copy(&path, &copy).unwrap();
        let (wal, wal_copy) =
            (crate::format::beside(&path, "-wal"), crate::format::beside(&copy, "-wal"));
        std::fs::copy(wal, wal_copy).unwrap();
        tree.check(&BlobLog::open(&copy, HashAlg::Sha1, Durability::Synced).unwrap());
    }
    assert!(steps > 10, "{steps}");
    tree.check(&bench.server.log);
}

#[test]
fn commits_during_a_collection_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let mut tree = Tree::default();
    let mut number = 0;
    for round in 0..12_u64 {
        bench.ask::<BackingCollect>(&CollectPass { young: round % 5 > 1, ..PASS });
        let mut running = bench.server.background.is_some();
        while running {
            bench.server.step();
            number += 1;
            tree =
                tree.with(number % 40, noise(number, 400 + usize::try_from(number % 900).unwrap()));
            if number % 3 == round % 3 {
                tree.values.remove(&((number * 7) % 40).to_string());
            }
            let batch = BlobBatch {
                blobs: tree.blobs(),
                checkpoint: Some(tree.checkpoint(i64::try_from(number).unwrap())),
            };
            bench.ask::<BackingCommit>(&batch);
            running = bench.server.background.is_some();
            assert!(number < 100_000);
        }
        tree.check(&bench.server.log);
    }
    for _ in 0..2 {
        bench.collect();
    }
    tree.check(&bench.server.log);
    assert_eq!(bench.server.log.len(), tree.blobs().len());
}

#[test]
fn young_passes_delete_what_is_new_and_dead_and_thorough_ones_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let mut tree = Tree::default();
    for n in 0..300 {
        tree = tree.with(n, noise(n, 500));
    }
    bench.put(&tree, 1);
    for _ in 0..3 {
        bench.collect_young();
    }
    assert_eq!(bench.server.log.len(), 601);
    // The value that is removed is old; the roots that follow are not.
    tree.values.remove("7");
    for n in 0..20 {
        bench.put(&tree.clone().with("new", noise(1_000 + n, 500)), 2);
    }
    bench.put(&tree, 3);
    let one = bench.collect_young();
    let two = bench.collect_young();
    // Values, their directories, roots; not those of the old tree.
    assert_eq!((one.deleted, two.deleted), (0, 60));
    assert!(two.live < 300, "what is old is not looked at: {two:?}");
    assert_eq!(bench.server.log.len(), tree.blobs().len() + 3);
    for _ in 0..3 {
        bench.collect_young();
    }
    assert_eq!(bench.server.log.len(), tree.blobs().len() + 3);
    bench.collect();
    bench.collect_young();
    assert_eq!(bench.server.log.len(), tree.blobs().len());
    tree.check(&bench.server.log);
}

#[test]
fn what_is_old_and_referred_to_again_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let old = Tree::default().with("a", noise(1, 500)).with("b", noise(2, 500));
    bench.put(&old, 1);
    for _ in 0..3 {
        bench.collect_young();
    }
    bench.put(&Tree::default().with("c", noise(3, 500)), 2);
    bench.collect_young();
    bench.collect();
    // Nothing refers to it since two passes: a commit that brings only the root finds the rest.
    let root =
        BlobBatch { blobs: vec![old.blobs().pop().unwrap()], checkpoint: Some(old.checkpoint(3)) };
    bench.ask::<BackingCommit>(&root);
    for young in [true, true, false, true, true] {
        if young {
            bench.collect_young()
        } else {
            bench.collect()
        };
        old.check(&bench.server.log);
    }
}

#[test]
fn what_was_stored_by_itself_waits_for_its_commit() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.put(&Tree::default().with("a", noise(1, 300)), 1);
    bench.ask::<BackingStore>(&Raw(Bytes::from_static(b"waits")));
    let pass = |grace_us, young| CollectPass { grace_us, young, ..PASS };
    for young in [false, true, true, false, true, true] {
        bench.ask::<BackingCollect>(&pass(Some(3_600_000_000), young));
        bench.answer::<Collected>().unwrap();
    }
    for _ in 0..3 {
        bench.ask::<BackingCollect>(&pass(None, false));
        bench.answer::<Collected>().unwrap();
    }
    assert!(live(&bench.server.log, b"waits"));
    for _ in 0..2 {
        bench.collect();
    }
    assert!(!live(&bench.server.log, b"waits"));
}

#[test]
fn with_purge_the_file_stays_within_twice_its_live_data() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    let mut tree = Tree::default();
    let mut largest = 0.0_f64;
    for n in 0..1_600_u64 {
        // The parts of a job that prints something.
        let size = [350, 4_600, 900, 350][usize::try_from(n % 4).unwrap()];
        tree = tree.with(n % 400, noise(n, size));
        if n % 10 == 9 {
            bench.put(&tree, i64::try_from(n).unwrap());
        }
        let log = &bench.server.log;
        // As the content service decides.
        let account = log.account;
        if n % 10 == 9 && (account.live == 0 || account.added[0] * 10 > account.live) {
            let old = account.settled() * 6 > account.live;
            let done = if old { bench.collect() } else { bench.collect_young() };
            if old {
                bench.collect_young();
            }
            if n > 900 {
                let live: usize = tree.blobs().iter().map(|blob| blob.len() + 32).sum();
                largest = largest.max(done.before as f64 / live as f64);
            }
        }
    }
    assert!(largest > 1.0 && largest < 2.0, "{largest}");
    tree.check(&bench.server.log);
}

#[test]
fn only_one_thing_goes_on_in_the_background() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(&directory.path().join("content.sqlite"));
    bench.put(&Tree::default().with("a", noise(1, 300)), 1);
    bench.ask::<BackingCollect>(&PASS);
    bench.ask::<BackingCollect>(&PASS);
    let answers = bench.settle();
    let errors: Vec<Errno> = answers.iter().map(Message::errnum).collect();
    assert_eq!(errors, [Errno::EBUSY, Errno::OK]);
}
