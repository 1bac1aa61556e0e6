//! Submission, by transcript.

use flux_svc::Rig;

use super::*;

fn jobspec() -> Value {
    json!({
        "resources": [{"type": "slot", "count": 1, "with": [{"type": "core", "count": 1}], "label": "task"}],
        "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 0, "environment": {"SECRET": "1"}}},
        "version": 1
    })
}

fn signed(userid: u32) -> String {
    sign::wrap_none(jobspec().to_string().as_bytes(), userid)
}

fn rig() -> Rig<IngestService> {
    let mut rig = Rig::new(IngestService::default());
    let info = rig.expect("job-manager.getinfo");
    rig.reply(&info, json!({"max_jobid": 0}));
    assert!(rig.ready);
    rig
}

#[test]
fn jobs_that_come_together_go_together_and_get_ids_that_rise() {
    let mut rig = rig();
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    let tags: Vec<u32> = (0..3).map(|_| rig.request("job-ingest.submit", body.clone())).collect();
    let first = rig.expect("job-manager.submit");
    let jobs = first.json::<SubmitBatch>().unwrap().jobs;
    assert_eq!(jobs.len(), 1);
    assert!(jobs[0].jobspec.pointer("/attributes/system/environment").is_none());
    assert_eq!(jobs[0].j, signed(1000));
    rig.reply(&first, json!({"errors": []}));
    assert_eq!(rig.response(tags[0]), Ok(json!({"id": jobs[0].id})));
    let second = rig.expect("job-manager.submit");
    let jobs = second.json::<SubmitBatch>().unwrap().jobs;
    assert_eq!(jobs.len(), 2);
    assert!(jobs[0].id < jobs[1].id);
    rig.reply(&second, json!({"errors": [[jobs[0].id, "no"]]}));
    assert_eq!(rig.response(tags[1]).unwrap_err().message(), "no");
    assert_eq!(rig.response(tags[2]), Ok(json!({"id": jobs[1].id})));
    rig.finish();
}

#[test]
fn ids_go_on_above_the_highest_known() {
    let mut rig = Rig::new(IngestService::default());
    let early =
        rig.request("job-ingest.submit", json!({"J": signed(1000), "urgency": 16, "flags": 0}));
    let info = rig.expect("job-manager.getinfo");
    let max = (77_u64 << 24) | 5;
    rig.reply(&info, json!({"max_jobid": max}));
    let submit = rig.expect("job-manager.submit");
    let id = submit.json::<SubmitBatch>().unwrap().jobs[0].id;
    assert!(id > max);
    rig.reply(&submit, json!({"errors": []}));
    assert_eq!(rig.response(early), Ok(json!({"id": id})));
    rig.finish();
}

#[test]
fn what_is_wrong_is_said() {
    let mut rig = rig();
    let owner = rig.owner();
    let guest = rig.guest(2000);
    let cases = [
        (owner, json!({"J": "junk", "urgency": 16, "flags": 0}), Errno::EINVAL, "could not unwrap"),
        (
            owner,
            json!({"J": signed(1000), "urgency": 32, "flags": 0}),
            Errno::EINVAL,
            "urgency range is [0:31]",
        ),
        (
            owner,
            json!({"J": signed(1000), "urgency": 16, "flags": 64}),
            Errno::EPROTO,
            "invalid job flags",
        ),
        (
            owner,
            json!({"J": signed(1), "urgency": 16, "flags": 0}),
            Errno::EPERM,
            "signer=1 != requestor=1000",
        ),
        (
            guest,
            json!({"J": signed(2000), "urgency": 16, "flags": 0}),
            Errno::EPERM,
            "sign-type=none",
        ),
        (
            guest,
            json!({"J": signed(2000), "urgency": 17, "flags": 0}),
            Errno::EINVAL,
            "urgency >16",
        ),
        (
            owner,
            json!({"J": sign::wrap_none(b"{}", 1000), "urgency": 16, "flags": 0}),
            Errno(1),
            "",
        ),
        (
            owner,
            json!({"J": sign::wrap_none(b"{", 1000), "urgency": 16, "flags": 0}),
            Errno::EINVAL,
            "invalid JSON",
        ),
    ];
    for (cred, body, errno, text) in cases {
        let tag = rig.request_as(cred, "job-ingest.submit", body, false);
        let error = rig.response(tag).unwrap_err();
        assert_eq!(error.errno, errno, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    rig.finish();
}

#[test]
fn at_the_end_the_managers_word_is_awaited_and_the_rest_refused() {
    let mut rig = rig();
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    let given = rig.request("job-ingest.submit", body.clone());
    let batch = rig.expect("job-manager.submit");
    let waiting = rig.request("job-ingest.submit", body);
    rig.drain();
    assert_eq!(rig.response(waiting).unwrap_err().errno, Errno::ENOSYS);
    assert!(!rig.drained);
    rig.reply(&batch, json!({"errors": []}));
    assert!(rig.response(given).is_ok());
    assert!(rig.drained);
    rig.finish();
}

#[test]
fn a_follower_asks_rank_0_for_ids() {
    let mut rig = Rig::with(IngestService::default(), 2, 3, &Map::new());
    let info = rig.expect("job-ingest.getinfo");
    rig.reply(&info, json!({"timestamp": 5}));
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    let tags: Vec<u32> = (0..3).map(|_| rig.request("job-ingest.submit", body.clone())).collect();
    let ask = rig.expect("job-ingest.ids");
    assert_eq!(ask.json::<Value>().unwrap(), json!({"count": 1}));
    rig.reply(&ask, json!({"ids": [77]}));
    let submit = rig.expect("job-manager.submit");
    assert_eq!(submit.json::<SubmitBatch>().unwrap().jobs[0].id, 77);
    rig.reply(&submit, json!({"errors": []}));
    assert_eq!(rig.response(tags[0]), Ok(json!({"id": 77})));
    // Fewer than wanted, then none for a while.
    let ask = rig.expect("job-ingest.ids");
    assert_eq!(ask.json::<Value>().unwrap(), json!({"count": 2}));
    rig.reply(&ask, json!({"ids": [78]}));
    let submit = rig.expect("job-manager.submit");
    rig.reply(&submit, json!({"errors": []}));
    assert_eq!(rig.response(tags[1]), Ok(json!({"id": 78})));
    let ask = rig.expect("job-ingest.ids");
    rig.reply(&ask, json!({"ids": []}));
    rig.advance(1000);
    let ask = rig.expect("job-ingest.ids");
    rig.fail(&ask, Errno::EHOSTUNREACH);
    assert_eq!(rig.response(tags[2]).unwrap_err().errno, Errno::EHOSTUNREACH);
    rig.finish();
}

#[test]
fn rank_0_gives_ids_to_followers() {
    let mut rig = rig();
    let tag = rig.request("job-ingest.ids", json!({"count": 3}));
    let ids: Vec<u64> = serde_json::from_value(rig.response(tag).unwrap()["ids"].clone()).unwrap();
    assert!(ids.len() == 3 && ids.is_sorted());
    let tag =
        rig.request("job-ingest.submit", json!({"J": signed(1000), "urgency": 16, "flags": 0}));
    let submit = rig.expect("job-manager.submit");
    assert!(submit.json::<SubmitBatch>().unwrap().jobs[0].id > ids[2]);
    rig.reply(&submit, json!({"errors": []}));
    assert!(rig.response(tag).is_ok());
    rig.finish();
}

#[test]
fn a_request_is_as_long_as_the_configuration_allows() {
    let mut rig = rig();
    let reload = |rig: &mut Rig<IngestService>, size: Value| {
        let tag = rig.request("job-ingest.config-reload", json!({"ingest": {"buffer-size": size}}));
        rig.response(tag).map(|_| ())
    };
    reload(&mut rig, json!("100")).unwrap();
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    let tag = rig.request("job-ingest.submit", body.clone());
    let error = rig.response(tag).unwrap_err();
    assert_eq!(error.errno, Errno::EMSGSIZE);
    let text = error.message();
    assert!(text.ends_with("bytes, and 100 are allowed (ingest.buffer-size)"), "{text}");
    assert!(reload(&mut rig, json!("many")).is_err());
    reload(&mut rig, json!(1_000_000)).unwrap();
    rig.request("job-ingest.submit", body);
    let submit = rig.expect("job-manager.submit");
    rig.reply(&submit, json!({"errors": []}));
}

#[test]
fn the_number_of_a_refusal_is_that_of_the_manager() {
    let mut rig = rig();
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    let tag = rig.request("job-ingest.submit", body);
    let submit = rig.expect("job-manager.submit");
    let id = submit.json::<SubmitBatch>().unwrap().jobs[0].id;
    let errnum = Errno::EDQUOT.0;
    rig.reply(&submit, json!({"errors": [[id, "no more"]], "errnums": [[id, errnum]]}));
    let error = rig.response(tag).unwrap_err();
    assert_eq!((error.errno, error.message().as_str()), (Errno::EDQUOT, "no more"));
    rig.finish();
}

#[test]
fn what_ingest_cannot_do_is_refused_and_batches_are_as_large_as_configured() {
    let mut rig = rig();
    let reload = |rig: &mut Rig<IngestService>, ingest: Value| {
        let tag = rig.request("job-ingest.config-reload", json!({ "ingest": ingest }));
        rig.response(tag).map(drop).map_err(|error| error.message())
    };
    for (ingest, why) in [
        (json!({"validator": {"disable": true}}), "every jobspec is validated"),
        (json!({"frobnicator": {"disable": true}}), "always applied"),
        (json!({"validator": {"plugins": ["jobspec", "feasibility"]}}), "feasibility is not there"),
        (json!({"frobnicator": {"args": ["--x"]}}), "no plugin takes arguments"),
        (json!({"validator": {"require-instance": {}}}), "there is no such validator"),
        (json!({"batch-count": -1}), "must be a number of jobs"),
    ] {
        let error = reload(&mut rig, ingest).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let fine = json!({"validator": {"disable": false, "plugins": ["jobspec"], "args": []},
        "frobnicator": {"plugins": ["defaults"]}, "batch-count": 2});
    reload(&mut rig, fine).unwrap();
    let body = json!({"J": signed(1000), "urgency": 16, "flags": 0});
    for _ in 0..4 {
        rig.request("job-ingest.submit", body.clone());
    }
    for count in [1, 2, 1] {
        let submit = rig.expect("job-manager.submit");
        assert_eq!(submit.json::<SubmitBatch>().unwrap().jobs.len(), count);
        rig.reply(&submit, json!({"errors": []}));
    }
}
