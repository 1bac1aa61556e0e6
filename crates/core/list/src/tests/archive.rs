//! Finished jobs go to the archive, and come back from it.

use flux_api::archive::ArchivedJob;

use super::*;
use crate::archive::{GATHER_US, RETRY_US};

fn archived(id: u64, ended: f64) -> Value {
    json!({"id": id, "userid": 7, "urgency": 16, "t_submit": 1.0, "t_inactive": ended,
        "result": 1, "name": "old"})
}

impl Bench {
    fn archiving() -> Self {
        let mut rig = Rig::with(ListService::with_archive(), 0, 1, &Default::default());
        let journal = rig.expect("job-manager.events-journal");
        assert_eq!(
            journal.json::<Value>().unwrap(),
            json!({"full": true, "unarchived": true}),
            "archived jobs come from the archive"
        );
        Self { rig, journal }
    }

    /// Gives jobs of the archive, and says that there are no more.
    fn load(&mut self, jobs: &[Value]) {
        if !jobs.is_empty() {
            let request = self.rig.expect("archive.list");
            self.rig.reply(&request, json!({ "jobs": jobs }));
        }
        let request = self.rig.expect("archive.list");
        self.rig.reply(&request, json!({"jobs": []}));
    }
}

#[test]
fn active_jobs_are_listed_before_finished_ones_are_read() {
    let mut bench = Bench::archiving();
    let body = json!({"max_entries": 0, "attrs": [], "constraint": {"states": ["pending"]}});
    let pending = bench.rig.request("job-list.list", body);
    let all = bench.rig.request("job-list.list", json!({"max_entries": 0, "attrs": []}));
    let old = bench.rig.request("job-list.list-id", json!({"id": 1, "attrs": ["name"]}));
    let numbers = bench.rig.request("job-list.job-stats", json!({}));
    bench.job(9, &history(1.0, 7, 16, 0, "priority"), &jobspec("a", 1, 1), None);
    bench.sentinel();
    assert_eq!(ids_of(&bench.rig.response(pending).unwrap()["jobs"]), [9]);
    assert!(bench.rig.try_response(all).is_none());
    // The archive may tell of a job that is active again: the journal is right.
    bench.load(&[archived(2, 5.0), archived(1, 4.0), archived(9, 3.0)]);
    assert_eq!(ids_of(&bench.rig.response(all).unwrap()["jobs"]), [9, 2, 1]);
    assert_eq!(bench.rig.response(old).unwrap()["job"]["name"], "old");
    assert_eq!(bench.rig.response(numbers).unwrap()["successful"], json!(2));
    bench.rig.finish();
}

#[test]
fn a_finished_job_is_put_and_then_told_to_the_manager() {
    let mut bench = Bench::archiving();
    bench.sentinel();
    bench.load(&[]);
    bench.job(1, &history(1.0, 7, 16, 256, "clean"), &jobspec("a", 1, 1), Some(&r("0", "n0")));
    assert!(bench.rig.requests.is_empty());
    bench.rig.advance(GATHER_US);
    let put = bench.rig.expect("archive.put");
    let body: Value = put.json().unwrap();
    let job: ArchivedJob = serde_json::from_value(body["jobs"][0].clone()).unwrap();
    assert_eq!((job.id, job.waitstatus, job.started, job.fatal), (1, Some(256), true, false));
    assert_eq!((job.nodelist.as_deref(), job.name.as_deref()), (Some("n0"), Some("a")));
    // One that ends meanwhile waits.
    bench.job(2, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    let before = bench.all(1);
    bench.rig.fail(&put, Errno::ENOSPC);
    assert!(bench.rig.logs.iter().any(|(_, text)| text.contains("cannot archive")));
    bench.rig.advance(RETRY_US);
    let put = bench.rig.expect("archive.put");
    assert_eq!(put.json::<Value>().unwrap()["jobs"].as_array().unwrap().len(), 2);
    bench.rig.reply(&put, Value::Null);
    let word = bench.rig.expect("job-manager.archived");
    assert_eq!(word.json::<Value>().unwrap(), json!({"ids": [1, 2]}));
    // What comes back is what was there.
    let mut again = Bench::archiving();
    again.sentinel();
    again.load(&[body["jobs"][0].clone()]);
    assert_eq!(again.all(1), before);
    again.rig.finish();
    bench.rig.finish();
}

#[test]
fn a_job_that_is_purged_on_its_way_does_not_come_back() {
    let mut bench = Bench::archiving();
    bench.sentinel();
    let purge = |bench: &mut Bench, id: u64| {
        bench.rig.event(crate::follow::PURGE_EVENT, json!({"jobs": [id]}));
    };
    purge(&mut bench, 4);
    bench.load(&[archived(4, 5.0), archived(3, 4.0)]);
    assert_eq!(bench.ids(Value::Null), [3]);
    for id in [1, 2] {
        bench.job(id, &history(1.0, 7, 16, 0, "clean"), &jobspec("a", 1, 1), None);
    }
    bench.rig.advance(GATHER_US);
    let put = bench.rig.expect("archive.put");
    purge(&mut bench, 1);
    bench.rig.reply(&put, Value::Null);
    let word = bench.rig.expect("job-manager.archived");
    assert_eq!(word.json::<Value>().unwrap(), json!({"ids": [2]}));
    let remove = bench.rig.expect("archive.remove");
    assert_eq!(remove.json::<Value>().unwrap(), json!({"ids": [1]}));
    bench.rig.reply(&remove, Value::Null);
    bench.rig.finish();
}
