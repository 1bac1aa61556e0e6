//! The file, with and without its driver.

use super::*;

fn job(id: u64, userid: u32, ended: f64) -> ArchivedJob {
    serde_json::from_value(serde_json::json!({
        "id": id, "userid": userid, "urgency": 16, "priority": 16, "t_submit": ended - 5.0,
        "t_depend": ended - 4.9, "t_priority": ended - 4.8, "t_sched": ended - 4.7,
        "t_run": ended - 4.0, "t_cleanup": ended - 0.1, "t_inactive": ended, "result": 1,
        "waitstatus": 0, "started": true, "name": "sleep", "cwd": "/home/someone/project",
        "ntasks": 1, "ncores": 1, "nnodes": 1, "duration": 3600.0, "expiration": ended + 3600.0,
        "ranks": "0", "nodelist": "node17",
        "annotations": r#"{"sched":{"resource_summary":"rank0/core0"}}"#,
    }))
    .unwrap()
}

fn ids(jobs: &[ArchivedJob]) -> Vec<u64> {
    jobs.iter().map(|job| job.id).collect()
}

#[test]
fn jobs_come_back_as_they_were_put_after_a_reopen_without_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, note) = JobArchive::open(directory.path()).unwrap();
    assert_eq!(note, None);
    assert!(!archive.info().unwrap().complete);
    let mut bare = job(7, 1, 3.0);
    bare.priority = None;
    bare.t_run = None;
    bare.exception_type = Some("cancel".to_string());
    bare.exception_severity = Some(0);
    bare.fatal = true;
    let jobs = [job(1, 1, 1.0), job(u64::from(u32::MAX) + 9, 2, 2.0), bare];
    archive.put(&jobs).unwrap();
    archive.put(&jobs[..1]).unwrap();
    archive.set_complete().unwrap();
    std::mem::forget(archive);
    let (archive, _) = JobArchive::open(directory.path()).unwrap();
    let mut newest_first = jobs.to_vec();
    newest_first.reverse();
    assert_eq!(archive.list(None, 10).unwrap(), newest_first);
    assert_eq!(archive.get(&[7, 8]).unwrap(), [jobs[2].clone()]);
    let info = archive.info().unwrap();
    assert_eq!((info.count, info.max_id, info.complete), (3, u64::from(u32::MAX) + 9, true));
}

#[test]
fn a_job_that_was_forgotten_while_it_was_on_its_way_stays_away() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, _) = JobArchive::open(directory.path()).unwrap();
    archive.put(&[job(1, 1, 1.0)]).unwrap();
    archive.remove(&[1, 2]).unwrap();
    archive.put(&[job(1, 1, 1.0), job(2, 1, 2.0), job(3, 1, 3.0)]).unwrap();
    assert_eq!(archive.ids_above(0, 9).unwrap(), [3]);
    assert_eq!(archive.info().unwrap().count, 1);
    // It is remembered of so many.
    for first in (10..).step_by(1_000).take(REMOVED_MAX / 1_000 + 1) {
        archive.removed.add(&(first..first + 1_000).collect::<Vec<u64>>());
    }
    assert_eq!(
        (archive.removed.ids.len(), archive.removed.order.len()),
        (REMOVED_MAX, REMOVED_MAX)
    );
    assert!(!archive.removed.ids.contains(&1));
}

#[test]
fn the_list_goes_on_behind_its_cursor_and_jobs_of_one_moment_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, _) = JobArchive::open(directory.path()).unwrap();
    let jobs: Vec<ArchivedJob> = (1..=9).map(|id| job(id, 1, (id / 4) as f64)).collect();
    archive.put(&jobs).unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let chunk = archive.list(after.as_ref(), 2).unwrap();
        let Some(last) = chunk.last() else { break };
        after = Some(ArchiveCursor { t_inactive: last.t_inactive, id: last.id });
        seen.extend(ids(&chunk));
    }
    assert_eq!(seen, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(archive.ids_above(3, 4).unwrap(), [4, 5, 6, 7]);
    assert_eq!(archive.of_user(1, 3).unwrap(), [9, 8, 7]);
    assert!(archive.of_user(2, 3).unwrap().is_empty());
}

#[test]
fn the_oldest_are_beyond_the_limits_first() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, _) = JobArchive::open(directory.path()).unwrap();
    let jobs: Vec<ArchivedJob> = (1..=6).map(|id| job(id, 1, 10.0 - id as f64)).collect();
    archive.put(&jobs).unwrap();
    let beyond = |archive: &JobArchive, ended_before, keep, max| {
        let limits = ArchiveLimits { ended_before, keep, max, except: Vec::new(), userid: None };
        let found = archive.beyond(&limits).unwrap();
        (found.count, found.ids)
    };
    assert_eq!(beyond(&archive, None, None, 2), (6, vec![6, 5]));
    assert_eq!(beyond(&archive, None, Some(4), 9), (2, vec![6, 5]));
    assert_eq!(beyond(&archive, Some(6.0), Some(4), 9), (3, vec![6, 5, 4]));
    assert_eq!(beyond(&archive, Some(6.0), None, 0), (3, vec![]));
    assert_eq!(beyond(&archive, None, Some(9), 9), (0, vec![]));
    let limits = ArchiveLimits {
        ended_before: Some(6.0),
        keep: Some(3),
        max: 9,
        except: vec![5, 1, 99],
        userid: None,
    };
    let found = archive.beyond(&limits).unwrap();
    assert_eq!((found.count, found.ids), (2, vec![6, 4]), "5 and 1 are somebody else's");
    archive.put(&[job(7, 2, 1.0), job(8, 2, 2.0), job(9, 2, 3.0)]).unwrap();
    let of_user = |ended_before, keep, except| {
        let userid = Some(2);
        let limits = ArchiveLimits { ended_before, keep, max: 9, except, userid };
        let found = archive.beyond(&limits).unwrap();
        (found.count, found.ids)
    };
    assert_eq!(of_user(None, Some(1), Vec::new()), (2, vec![7, 8]));
    assert_eq!(of_user(None, Some(1), vec![8, 1]), (1, vec![7]));
    assert_eq!(of_user(Some(2.5), None, Vec::new()), (2, vec![7, 8]));
    archive.remove(&[7, 8, 9]).unwrap();
    archive.remove(&[6, 5, 77]).unwrap();
    assert_eq!(archive.info().unwrap().count, 4);
    assert_eq!(beyond(&archive, None, Some(4), 9), (0, vec![]));
}

#[test]
fn a_job_takes_at_most_600_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, _) = JobArchive::open(directory.path()).unwrap();
    const JOBS: u64 = 5_000;
    let jobs: Vec<ArchivedJob> =
        (0..JOBS).map(|n| job(123_456_789_000 + n * 16_777_216, 1000, 1.7e9 + n as f64)).collect();
    for chunk in jobs.chunks(500) {
        archive.put(chunk).unwrap();
    }
    let each = archive.info().unwrap().bytes / JOBS;
    assert!(each <= 600, "{each} bytes per job");
}

#[test]
fn a_damaged_file_is_put_aside_and_a_later_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let (archive, note) = JobArchive::open(directory.path()).unwrap();
    assert!(note.unwrap().contains("put aside"));
    assert!(!archive.info().unwrap().complete);
    assert!(directory.path().join("job-archive.sqlite.damaged").exists());
    archive.connection.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(archive);
    let error = JobArchive::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn a_full_disk_leaves_no_half_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (mut archive, _) = JobArchive::open(directory.path()).unwrap();
    archive.connection.execute_batch("PRAGMA max_page_count = 24").unwrap();
    let jobs: Vec<ArchivedJob> = (1..=2000).map(|id| job(id, 1, id as f64)).collect();
    let error = archive.put(&jobs).unwrap_err();
    assert_eq!(error.errno(), flux_proto::Errno::ENOSPC, "{error}");
    assert_eq!((archive.info().unwrap().count, archive.list(None, 9).unwrap().len()), (0, 0));
    archive.connection.execute_batch("PRAGMA max_page_count = 100000").unwrap();
    archive.put(&jobs).unwrap();
    assert_eq!(archive.info().unwrap().count, 2000);
}
