//! Transcripts: scripted calendar, store and processes around the service.

use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use flux_svc::Rig;
use serde_json::{Map, Value, json};

use crate::CronService;

struct Bench {
    rig: Rig<CronService>,
    kept: Option<String>,
}

impl Bench {
    fn new(kept: Option<String>, files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(n, t)| ((*n).to_string(), (*t).to_string())).collect();
        let rig = Rig::with(CronService::new(files), 0, 1, &Map::new());
        let mut bench = Self { rig, kept };
        bench.settle();
        assert!(bench.rig.ready);
        let tag = bench.rig.request("cron.sync", json!({"disable": true}));
        assert_eq!(bench.rig.response(tag), Ok(json!({"sync_disabled": true})));
        bench
    }

    /// Answers store and calendar; the next request to somebody else.
    fn settle(&mut self) -> Option<Message> {
        while let Some(message) = self.rig.requests.pop_front() {
            match message.topic() {
                "kvs.lookup" => match &self.kept {
                    Some(text) => {
                        let val = Treeobj::val(text.as_bytes()).to_value();
                        self.rig.reply(&message, json!({ "val": val }));
                    }
                    None => self.rig.fail(&message, Errno::ENOENT),
                },
                "kvs.commit" => {
                    let body: Value = message.json().unwrap();
                    let data = Treeobj::from_value(&body["ops"][0]["dirent"]).unwrap();
                    let Treeobj::Val(data) = data else { panic!("{data:?}") };
                    self.kept = Some(String::from_utf8(data).unwrap());
                    self.rig.reply(&message, json!({"rootref": "sha1-0", "rootseq": 1}));
                }
                "calendar.next" => {
                    let body: Value = message.json().unwrap();
                    if body["pattern"] == "0 61 * * * * *" {
                        self.rig.fail(&message, Errno::EINVAL);
                    } else {
                        let time = body["after"].as_f64().unwrap() + 100.0;
                        self.rig.reply(&message, json!({ "time": time }));
                    }
                }
                _ => return Some(message),
            }
        }
        None
    }

    fn call(&mut self, topic: &str, body: Value) -> Result<Value, Errno> {
        let tag = self.rig.request(&format!("cron.{topic}"), body);
        let other = self.settle();
        assert!(other.is_none(), "{other:?}");
        self.rig.response(tag).map_err(|error| error.errno)
    }

    fn entry(&mut self, id: usize) -> Value {
        self.call("list", json!({})).unwrap()["entries"][id - 1].clone()
    }

    /// Lets the next run happen and end.
    fn runs(&mut self, command: &str, status: i32) {
        let exec = self.settle().unwrap_or_else(|| panic!("no run of {command}"));
        let body: Value = exec.json().unwrap();
        assert_eq!(body["cmd"]["cmdline"], json!(["/bin/sh", "-c", command]));
        self.rig.reply(&exec, json!({"type": "started", "pid": 42}));
        self.rig.reply(&exec, json!({"type": "finished", "status": status}));
        self.rig.fail(&exec, Errno::ENODATA);
        assert!(self.settle().is_none());
    }
}

fn interval(extra: Value) -> Value {
    let mut body = json!({"type": "interval", "command": "job", "args": {"interval": 10.0}});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn an_interval_runs_again_and_again_until_its_count() {
    let mut bench = Bench::new(None, &[]);
    let entry = bench.call("create", interval(json!({"repeat": 2}))).unwrap();
    assert_eq!((&entry["id"], &entry["name"]), (&json!(1), &json!("job")));
    for _ in 0..2 {
        assert_eq!(bench.entry(1)["stopped"], false);
        bench.rig.advance(10_000_000);
        bench.runs("job", 0);
    }
    let entry = bench.entry(1);
    assert_eq!(entry["stopped"], true);
    assert_eq!(entry["stats"]["success"], 2);
    assert_eq!(entry["tasks"][0]["state"], "Exited");
    assert_eq!(entry["tasks"].as_array().unwrap().len(), 1);
    bench.rig.advance(60_000_000);
    assert!(bench.settle().is_none());
    bench.call("start", json!({"id": 1})).unwrap();
    bench.rig.advance(10_000_000);
    bench.runs("job", 256);
    assert_eq!(bench.entry(1)["stats"]["failcount"], 1);
    bench.rig.finish();
}

#[test]
fn events_are_counted() {
    let mut bench = Bench::new(None, &[]);
    let args = json!({"topic": "tick", "nth": 2, "after": 1});
    let body = json!({"type": "event", "command": "job", "args": args});
    bench.call("create", body).unwrap();
    for expected in [false, false, true, false, true] {
        bench.rig.deliver(Message::event("tick.tock"));
        if expected {
            bench.runs("job", 0);
        }
        assert!(bench.settle().is_none());
    }
    assert_eq!(bench.entry(1)["typedata"]["counter"], 5);
    bench.rig.finish();
}

#[test]
fn times_come_from_the_calendar_and_bad_ones_are_refused() {
    let mut bench = Bench::new(None, &[("tab", "# x\n5 * * * * job\nbad\n")]);
    assert!(bench.rig.logs.iter().any(|(_, text)| text.starts_with("tab:3: ")));
    assert_eq!(bench.entry(1)["typedata"]["minute"], "5");
    assert_eq!(bench.entry(1)["typedata"]["hour"], "0-23");
    bench.rig.advance(100_000_000);
    bench.runs("job", 0);
    bench.rig.advance(100_000_000);
    bench.runs("job", 0);
    let bad = json!({"type": "datetime", "command": "x", "args": {"second": "0", "minute": "61"}});
    assert_eq!(bench.call("create", bad), Err(Errno::EINVAL));
    let other = json!({"type": "moon", "command": "x"});
    assert_eq!(bench.call("create", other), Err(Errno::ENOSYS));
    assert_eq!(bench.call("delete", json!({"id": 9})), Err(Errno::ENOENT));
    assert_eq!(bench.call("start", json!({"id": 1})), Err(Errno::EINVAL));
    bench.rig.finish();
}

#[test]
fn a_restart_knows_what_was_created_and_reads_files_again() {
    let files = [("tab", "5 * * * * tabbed")];
    let mut bench = Bench::new(None, &files);
    bench.call("create", interval(json!({"name": "mine"}))).unwrap();
    bench.call("create", interval(json!({}))).unwrap();
    bench.call("stop", json!({"id": 3})).unwrap();
    assert_eq!(bench.call("stop", json!({"id": 3})), Err(Errno::EINVAL));
    let kept = bench.kept.clone();
    bench.rig.finish();
    let mut bench = Bench::new(kept, &files);
    let list = bench.call("list", json!({})).unwrap();
    let entries = list["entries"].as_array().unwrap();
    let shown: Vec<_> = entries
        .iter()
        .map(|e| (e["id"].clone(), e["name"].clone(), e["stopped"].clone()))
        .collect();
    let wanted = [
        (json!(2), json!("mine"), json!(false)),
        (json!(3), json!("job"), json!(true)),
        (json!(4), json!("tabbed"), json!(false)),
    ];
    assert_eq!(shown, wanted);
    bench.call("delete", json!({"id": 2})).unwrap();
    bench.rig.finish();
}

#[test]
fn runs_wait_for_the_sync_event_and_late_ones_are_ended() {
    let mut bench = Bench::new(None, &[]);
    let answer = bench.call("sync", json!({"topic": "beat", "sync_epsilon": 1.0})).unwrap();
    assert_eq!(answer, json!({"sync_event": "beat", "sync_epsilon": 1.0}));
    bench.call("create", interval(json!({"timeout": 5.0}))).unwrap();
    bench.rig.advance(10_000_000);
    assert!(bench.settle().is_none());
    assert_eq!(bench.entry(1)["tasks"][0]["state"], "Deferred");
    bench.rig.deliver(Message::event("beat"));
    let exec = bench.settle().unwrap();
    bench.rig.reply(&exec, json!({"type": "started", "pid": 42}));
    bench.rig.advance(5_000_000);
    let kill = bench.settle().unwrap();
    assert_eq!(kill.topic(), "rexec.kill");
    bench.rig.reply(&exec, json!({"type": "finished", "status": 15}));
    bench.rig.fail(&exec, Errno::ENODATA);
    assert_eq!(bench.entry(1)["tasks"][0]["state"], "Timeout");
    assert_eq!(bench.call("delete", json!({"id": 1})).map(|_| ()), Ok(()));
    bench.rig.finish();
}
