//! Drain, undrain, exclude, and what the scheduler hears of it.

use flux_proto::Errno;
use serde_json::{Value, json};

use super::{Bench, done, started, stored};

fn drain(rig: &mut Bench, targets: &str, mode: Option<&str>, reason: Option<&str>) -> u32 {
    let mut body = json!({"targets": targets});
    if let Some(mode) = mode {
        body["mode"] = mode.into();
    }
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    rig.request("resource.drain", body)
}

fn status(rig: &mut Bench) -> Value {
    let tag = rig.request("resource.status", json!({}));
    rig.response(tag).unwrap()
}

#[test]
fn a_drain_is_answered_when_it_is_durable_and_the_scheduler_hears_of_it() {
    let mut rig = started(4, json!({}), None).rig;
    let acquire = rig.stream("resource.acquire", Value::Null);
    let first = rig.response(acquire).unwrap();
    assert_eq!(first["up"], "0-3");
    let tag = drain(&mut rig, "n[1-2]", None, Some("bad fan"));
    assert!(rig.try_response(tag).is_none());
    assert_eq!(status(&mut rig)["drain"], json!({}));
    let commit = done(&mut rig);
    let line = stored(&commit, "resource.eventlog").unwrap();
    let event: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(
        event["context"],
        json!({"idset": "1-2", "nodelist": "n[1-2]", "reason": "bad fan", "overwrite": 0})
    );
    assert_eq!(rig.response(tag), Ok(Value::Null));
    assert_eq!(rig.response(acquire).unwrap(), json!({"down": "1-2"}));
    assert_eq!(
        status(&mut rig)["drain"],
        json!({"1-2": {"timestamp": 1_700_000_000.0, "reason": "bad fan"}})
    );
    let undrain = rig.request("resource.undrain", json!({"targets": "1"}));
    done(&mut rig);
    rig.response(undrain).unwrap();
    assert_eq!(rig.response(acquire).unwrap(), json!({"up": "1"}));
    rig.finish_with(acquire);
}

/// Ends a test in which a stream is open.
trait FinishWith {
    fn finish_with(self, stream: u32);
}

impl FinishWith for Bench {
    fn finish_with(mut self, stream: u32) {
        self.drain();
        assert!(self.response(stream).is_err());
        self.finish();
    }
}

#[test]
fn a_full_disk_refuses_a_drain_and_changes_nothing() {
    let mut rig = started(2, json!({}), None).rig;
    let tag = drain(&mut rig, "1", None, None);
    let later = drain(&mut rig, "1", None, None);
    let commit = rig.expect("kvs.commit");
    rig.fail(&commit, Errno::ENOSPC);
    assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENOSPC);
    assert_eq!(status(&mut rig)["drain"], json!({}));
    done(&mut rig);
    assert_eq!(rig.response(later), Ok(Value::Null));
    rig.finish();
}

#[test]
fn modes_decide_what_happens_to_ranks_that_are_drained_already() {
    let mut rig = started(3, json!({"exclude": "n2"}), None).rig;
    let tag = drain(&mut rig, "0", None, Some("one"));
    done(&mut rig);
    rig.response(tag).unwrap();
    let refused = |rig: &mut Bench, targets: &str, mode: Option<&str>| {
        let tag = drain(rig, targets, mode, Some("two"));
        let error = rig.response(tag).unwrap_err();
        (error.errno, error.message())
    };
    for (targets, mode, errno, text) in [
        ("0", None, Errno::EEXIST, "rank 0 already drained"),
        ("0,2", None, Errno::EEXIST, "ranks 0,2 already drained or excluded"),
        ("2", None, Errno::EINVAL, "rank 2 excluded"),
        ("2", Some("overwrite"), Errno::EINVAL, "rank 2 excluded"),
        ("", None, Errno::EINVAL, "idset is empty"),
        ("9", None, Errno::EINVAL, "idset is out of range"),
        ("x1", None, Errno::EINVAL, "invalid targets: invalid hosts: x1"),
        ("1", Some("odd"), Errno::EINVAL, "Invalid mode specified"),
    ] {
        assert_eq!(refused(&mut rig, targets, mode), (errno, text.to_string()));
    }
    rig.advance(5_000_000);
    let run = |rig: &mut Bench, targets: &str, mode: &str, reason: &str| {
        let tag = drain(rig, targets, Some(mode), Some(reason));
        if !rig.requests.is_empty() {
            done(rig);
        }
        rig.response(tag).unwrap();
        status(rig)["drain"].clone()
    };
    let at = |timestamp: f64, reason: &str| json!({"timestamp": timestamp, "reason": reason});
    let early = 1_700_000_000.0;
    assert_eq!(run(&mut rig, "0", "update", "two"), json!({"0": at(early, "one")}));
    assert_eq!(run(&mut rig, "0", "overwrite", "two"), json!({"0": at(early, "two")}));
    assert_eq!(
        run(&mut rig, "0-1", "force-overwrite", "three"),
        json!({"0-1": at(early + 5.0, "three")})
    );
    rig.finish();
}

#[test]
fn undrain_refuses_ranks_that_are_not_drained_unless_told_to_ignore_them() {
    let mut rig = started(2, json!({}), None).rig;
    let tag = rig.request("resource.undrain", json!({"targets": "0-1"}));
    assert_eq!(rig.response(tag).unwrap_err().message(), "ranks 0-1 not drained");
    let tag = rig.request("resource.undrain", json!({"targets": "0-1", "mode": "force"}));
    assert_eq!(rig.response(tag), Ok(Value::Null));
    rig.finish();
}

#[test]
fn drained_ranks_follow_their_hosts_over_a_restart_and_exclusion_ends_a_drain() {
    let log = concat!(
        r#"{"timestamp":5.0,"name":"drain","context":{"idset":"0-1","nodelist":"n[2,9]","#,
        r#""reason":"old","overwrite":0}}"#,
        "\n",
        r#"{"timestamp":6.0,"name":"drain","context":{"idset":"1","nodelist":"n1","overwrite":0}}"#,
        "\n",
    );
    let mut rig = started(3, json!({"exclude": "1"}), Some(log)).rig;
    let now = status(&mut rig);
    assert_eq!(now["drain"], json!({"2": {"timestamp": 5.0, "reason": "old"}}));
    assert_eq!((&now["exclude"], &now["online"]), (&json!("1"), &json!("0-2")));
    let journal = rig.stream("resource.journal", json!({}));
    let mut names = Vec::new();
    loop {
        let body = rig.response(journal).unwrap();
        let events = body["events"].as_array().unwrap().clone();
        if events.is_empty() {
            break;
        }
        assert_eq!(body.get("R").is_some(), events[0]["name"] == "resource-define");
        names.extend(events.iter().map(|event| event["name"].as_str().unwrap().to_string()));
    }
    let wanted = ["drain", "drain", "restart", "resource-define", "undrain", "online"];
    assert_eq!(names, wanted);
    rig.drain();
    rig.response(journal).unwrap_err();
    rig.finish();
}

#[test]
fn cores_are_drained_while_the_rest_of_the_node_is_in_use() {
    let mut rig = started(3, json!({}), None).rig;
    let acquire = rig.stream("resource.acquire", Value::Null);
    assert!(rig.response(acquire).unwrap().get("hold").is_none());
    let refused = |rig: &mut Bench, targets: &str| {
        let tag = drain(rig, targets, None, None);
        let error = rig.response(tag).unwrap_err();
        (error.errno, error.message())
    };
    for (targets, text) in [
        ("n1:core2", "n1 has no core2"),
        ("n1:core[0-1],gpu0", "n1 has no gpu0"),
        ("n9:core0", "invalid targets: invalid hosts: n9"),
        ("n1:disk0", "invalid targets: 'disk0' is not like core[0-3],gpu0"),
        ("n1:core", "invalid targets: 'core' is not like core[0-3],gpu0"),
        ("n1:", "invalid targets: '' is not like core[0-3],gpu0"),
    ] {
        assert_eq!(refused(&mut rig, targets), (Errno::EINVAL, text.to_string()));
    }
    let tag = drain(&mut rig, "n[0-1]:core1", None, Some("hot"));
    let commit = done(&mut rig);
    let event: Value =
        serde_json::from_str(stored(&commit, "resource.eventlog").unwrap().trim()).unwrap();
    assert_eq!(event["name"], "drain-part");
    assert_eq!(
        event["context"],
        json!({"idset": "0-1", "nodelist": "n[0-1]", "cores": "1", "gpus": "", "reason": "hot",
               "overwrite": 0})
    );
    assert_eq!(rig.response(tag), Ok(Value::Null));
    let hold = json!({"hold": [{"ranks": "0-1", "cores": "1", "gpus": ""}]});
    assert_eq!(rig.response(acquire).unwrap(), hold);
    let now = status(&mut rig);
    assert_eq!(now["drain"], json!({}));
    assert_eq!(
        now["drain-parts"],
        json!([{"ranks": "0-1", "cores": "1", "gpus": "", "timestamp": 1_700_000_000.0,
                "reason": "hot"}])
    );
    assert_eq!(refused(&mut rig, "1/core0-1"), (Errno::EEXIST, "n1:core1 already drained".into()));
    // What is drained already stays as it is.
    let tag = drain(&mut rig, "1:core[0-1]", Some("update"), Some("new"));
    done(&mut rig);
    rig.response(tag).unwrap();
    rig.response(acquire).unwrap();
    assert_eq!(status(&mut rig)["drain-parts"].as_array().unwrap().len(), 2);
    let undrain = rig.request("resource.undrain", json!({"targets": "n0:core0"}));
    assert_eq!(rig.response(undrain).unwrap_err().message(), "n0:core0 not drained");
    let undrain = rig.request("resource.undrain", json!({"targets": "n0:core1"}));
    done(&mut rig);
    rig.response(undrain).unwrap();
    let hold = json!({"hold": [{"ranks": "1", "cores": "0-1", "gpus": ""}]});
    assert_eq!(rig.response(acquire).unwrap(), hold);
    // A node that is undrained is whole again.
    let undrain = rig.request("resource.undrain", json!({"targets": "n1"}));
    done(&mut rig);
    rig.response(undrain).unwrap();
    assert_eq!(rig.response(acquire).unwrap(), json!({"hold": []}));
    assert!(status(&mut rig).get("drain-parts").is_none());
    rig.finish_with(acquire);
}

#[test]
fn drained_cores_outlive_a_restart_unless_r_has_them_no_more_or_the_node_is_excluded() {
    let line = |host: &str, rank: u32, cores: &str| {
        format!(
            "{{\"timestamp\":5.0,\"name\":\"drain-part\",\"context\":{{\"idset\":\"{rank}\",\
             \"nodelist\":\"{host}\",\"cores\":\"{cores}\",\"gpus\":\"\",\"overwrite\":0}}}}\n"
        )
    };
    // n0 and n2 have changed places since; core 7 was taken out.
    let log = [line("n2", 0, "1,7"), line("n1", 1, "0")].concat();
    let mut rig = started(3, json!({"exclude": "n1"}), Some(&log)).rig;
    assert_eq!(
        status(&mut rig)["drain-parts"],
        json!([{"ranks": "2", "cores": "1", "gpus": "", "timestamp": 5.0, "reason": ""}])
    );
    let acquire = rig.stream("resource.acquire", Value::Null);
    let first = rig.response(acquire).unwrap();
    assert_eq!(first["hold"], json!([{"ranks": "2", "cores": "1", "gpus": ""}]));
    assert_eq!(first["up"], "0,2");
    rig.finish_with(acquire);
}
