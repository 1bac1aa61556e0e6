//! What many finished jobs cost.

use flux_model::job_event::JobResult;

use super::*;
use crate::finished::Finished;
use crate::view::{ExceptionView, JobView, Json};

/// A finished job with everything set; some strings differ from job to job.
fn finished(id: u64, with: impl FnOnce(&JobView<'_>)) {
    let t = 1e9 + id as f64;
    let ranks = format!("{}", id % 4096);
    let nodelist = format!("node{}", id % 4096);
    let annotations = format!("{{\"sched\":{{\"resource_summary\":\"rank{ranks}/core[0-63]\"}}}}");
    let name = format!("step-{}", id % 1000);
    with(&JobView {
        id,
        userid: 1000 + (id % 50) as u32,
        urgency: 16,
        priority: Some(16),
        t_submit: t,
        t_depend: Some(t),
        t_priority: Some(t),
        t_sched: Some(t),
        t_run: Some(t + 1.0),
        t_cleanup: Some(t + 2.0),
        t_inactive: Some(t + 3.0),
        state: JobState::Inactive,
        name: Some(&name),
        cwd: Some("/home/someone/project"),
        queue: Some("batch"),
        project: Some("physics"),
        bank: Some("lab"),
        ntasks: Some(64),
        ncores: Some(64),
        duration: Some(3600.0),
        nnodes: Some(1),
        ranks: Some(&ranks),
        nodelist: Some(&nodelist),
        result: Some(JobResult::Completed),
        exception: id.is_multiple_of(100).then_some(ExceptionView {
            kind: "exec",
            severity: 1,
            note: "task lost",
        }),
        expiration: Some(t + 3600.0),
        annotations: Some(Json::Text(&annotations)),
        waitstatus: Some(0),
        dependencies: None,
        started: true,
        fatal: false,
    });
}

#[test]
fn a_finished_job_keeps_few_bytes() {
    let mut jobs = Finished::default();
    for id in 0..100_000 {
        finished(id, |job| jobs.insert(job));
    }
    let each = jobs.footprint() / jobs.len();
    assert!(each <= 400, "{each} bytes per finished job");
    let text = |jobs: &Finished, id| {
        let mut text = String::new();
        let attrs = attrs::parse(&["all".to_string()]).unwrap();
        jobs.get(id).unwrap().write(&mut text, &attrs);
        text
    };
    finished(700, |job| {
        let mut expected = String::new();
        job.write(&mut expected, &attrs::parse(&["all".to_string()]).unwrap());
        assert_eq!(text(&jobs, 700), expected, "nothing is lost");
    });
    for id in 0..100_000 {
        jobs.remove(id);
    }
    assert!(jobs.is_empty());
}

#[test]
fn a_hundred_thousand_jobs_are_walked_as_far_as_wanted() {
    let mut store = Store::default();
    for id in 0..100_000 {
        finished(id, |job| store.finished.insert(job));
    }
    let mut seen = 0;
    let newest: Vec<u64> = store
        .walk(StateMask::ALL, 0.0)
        .inspect(|_| seen += 1)
        .filter(|job| job.userid == 1007)
        .map(|job| job.id)
        .take(10)
        .collect();
    assert_eq!((newest[0], newest.len(), seen), (99_957, 10, 493));
    assert_eq!(store.walk(StateMask::ACTIVE, 0.0).count(), 0);
    assert_eq!(store.walk(StateMask::ALL, 1e9 + 99_999.0).count(), 3);
}

#[test]
fn the_newest_of_many_jobs_are_found_without_a_scan() {
    let mut bench = Bench::new(json!({}));
    let spec = jobspec("app", 1, 1);
    let of = r("0", "n0");
    for id in 0..1_000 {
        let start = 1000.0 + id as f64;
        bench.job(id, &history(start, 7, 16, 0, "clean"), &spec, Some(&of));
    }
    bench.sentinel();
    let jobs = bench.list(json!({"max_entries": 10, "attrs": ["t_inactive"],
        "constraint": {"and": [{"userid": [7]}, {"states": ["inactive"]}]}}));
    assert_eq!(ids_of(&jobs), (990..1_000).rev().collect::<Vec<u64>>());
    assert_eq!(bench.rig.service().looked_at(), 10);
    assert!(bench.ids(json!({"states": ["active"]})).is_empty());
    assert_eq!(bench.rig.service().looked_at(), 10);
    let newest = 1000.0 + 999.0 + 9.0;
    let body = json!({"max_entries": 0, "attrs": [], "since": newest - 3.0});
    assert_eq!(ids_of(&bench.list(body)).len(), 3);
    assert_eq!(bench.rig.service().looked_at(), 13);
    bench.rig.finish();
}
