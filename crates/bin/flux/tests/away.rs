//! What was asked for while a broker was away, and what was to end meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::time::{Duration, Instant};

use nodes::Nodes;
use serde_json::Value;

fn event(nodes: &Nodes, id: &str, name: &str) -> Option<Value> {
    let output = nodes.run(0, &["job", "eventlog", "-f", "json", id]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.find(|event| event["name"] == name)
}

fn time(nodes: &Nodes, id: &str, name: &str) -> f64 {
    let mut found = None;
    nodes.wait(name, |nodes| {
        found = event(nodes, id, name);
        found.is_some()
    });
    found.unwrap()["timestamp"].as_f64().unwrap()
}

fn wall() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Submits a script, and waits until it has written the file `NAME.up`, once per task.
fn submit(nodes: &Nodes, name: &str, options: &[&str], script: &str) -> String {
    let up = nodes.path(&format!("{name}.up"));
    let before = fs::read_to_string(&up).unwrap_or_default().lines().count();
    let script = script.replace("UP", &format!("echo $$ >>{}", up.display()));
    let words: Vec<&str> =
        [&["submit"], options, &["sh", "-c", &script]].into_iter().flatten().copied().collect();
    let id = nodes.text(0, &words).trim().to_string();
    let count = nodes.text(0, &["jobs", "-no", "{ntasks}", &id]).trim().parse::<usize>().unwrap();
    nodes.wait("start", |_| {
        fs::read_to_string(&up).unwrap_or_default().lines().count() == before + count
    });
    id
}

#[test]
fn a_signal_that_is_sent_while_a_broker_is_away_is_heard_when_it_is_back() {
    let mut nodes = Nodes::start(3, false, "");
    let heard = nodes.path("heard");
    let script = format!(
        "trap 'echo $FLUX_TASK_RANK >>{}' USR1; UP; while ! test -e {}; do sleep 0.05; done",
        heard.display(),
        nodes.path("go").display()
    );
    let id = submit(&nodes, "job", &["-N2", "-n2", "--requires=ranks:1-2"], &script);
    let ranks = || {
        let text = fs::read_to_string(&heard).unwrap_or_default();
        let mut ranks: Vec<String> = text.lines().map(str::to_string).collect();
        ranks.sort();
        ranks.concat()
    };
    nodes.kill(2);
    nodes.wait("loss", |nodes| nodes.nodes("offline") == "n2");
    nodes.text(0, &["job", "kill", "-s", "USR1", &id]);
    nodes.wait("signal", |_| ranks() == "0");
    // Whom it was acknowledged to may rely on it: a leader that is restarted remembers it.
    nodes.kill(0);
    nodes.boot(0);
    nodes.boot(2);
    nodes.wait("signal", |_| ranks() == "01");
    nodes.wait_for_all();
    // The next one is heard by both, and none twice.
    nodes.text(0, &["job", "kill", "-s", "USR1", &id]);
    nodes.wait("signal", |_| ranks() == "0011");
    fs::write(nodes.path("go"), "").unwrap();
    nodes.text(0, &["job", "wait-event", "-q", "-t", "60", &id, "clean"]);
    assert_eq!(ranks(), "0011");
    assert_eq!(event(&nodes, &id, "finish").unwrap()["context"]["status"], 0);
}

#[test]
fn a_job_that_is_canceled_while_a_node_is_away_ends_soon() {
    let mut nodes = Nodes::start(3, false, "");
    // The leader of the job, and another of its shells.
    for lost in [1, 2] {
        let options = ["-N2", "-n2", "--requires=ranks:1-2"];
        let id = submit(&nodes, &format!("job{lost}"), &options, "UP; sleep 1000");
        let up = fs::read_to_string(nodes.path(&format!("job{lost}.up"))).unwrap();
        nodes.kill(lost);
        nodes.wait("loss", |nodes| nodes.nodes("offline") == format!("n{lost}"));
        nodes.text(0, &["cancel", &id]);
        let took = time(&nodes, &id, "clean") - time(&nodes, &id, "exception");
        assert!(took < 20.0, "the node is waited for for 5 s, but it took {took} s");
        // What runs there ends before anything else begins.
        nodes.boot(lost);
        nodes.wait_for_all();
        let requires = format!("--requires=rank:{lost}");
        nodes.text(0, &["run", &requires, "true"]);
        for pid in up.lines() {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
        }
    }
}

#[test]
fn a_job_whose_node_is_lost_for_good_ends_soon() {
    let mut nodes = Nodes::start(3, false, "[exec]\nlost-node-grace = \"1s\"");
    // The leader of the job, and another of its shells.
    for lost in [1, 2] {
        let options = ["-N2", "-n2", "--requires=ranks:1-2"];
        let id = submit(&nodes, &format!("job{lost}"), &options, "UP; sleep 1000");
        nodes.kill(lost);
        let failed = time(&nodes, &id, "exception");
        let exception = event(&nodes, &id, "exception").unwrap();
        assert_eq!(exception["context"]["type"], "node-failure", "{exception}");
        // The other shell ends with its tasks: nobody has to kill it.
        let took = time(&nodes, &id, "clean") - failed;
        assert!(took < 15.0, "{took} s");
        nodes.boot(lost);
        nodes.wait_for_all();
    }
}

#[test]
fn timers_go_on_from_the_true_start_when_the_leader_is_restarted() {
    let config = "[exec]\nkill-timeout = \"20s\"";
    let mut nodes = Nodes::start(2, false, config);
    let limited = submit(&nodes, "limited", &["-t", "20s"], "UP; sleep 1000");
    let stubborn = submit(&nodes, "stubborn", &[], "trap '' TERM; UP; while :; do sleep 1; done");
    nodes.text(0, &["cancel", &stubborn]);
    let began = time(&nodes, &limited, "start");
    let canceled = time(&nodes, &stubborn, "exception");
    nodes.kill(0);
    // Most of the time passes without it.
    let until = Instant::now() + Duration::from_secs_f64((canceled + 16.0 - wall()).max(0.0));
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    nodes.boot(0);
    nodes.wait_for_all();
    let ended = time(&nodes, &limited, "exception") - began;
    assert!((19.5..35.0).contains(&ended), "the limit was 20 s, it ended after {ended} s");
    assert_eq!(event(&nodes, &limited, "exception").unwrap()["context"]["type"], "timeout");
    let killed = time(&nodes, &stubborn, "finish") - canceled;
    assert!((19.5..35.0).contains(&killed), "the kill was due after 20 s, came after {killed} s");
    for id in [limited, stubborn] {
        time(&nodes, &id, "clean");
    }
}
