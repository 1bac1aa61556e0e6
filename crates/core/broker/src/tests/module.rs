use flux_proto::{Errno, Message, NODEID_ANY};
use flux_svc::Module;
use flux_svc::engine::{Engine, Input};
use serde_json::json;

use super::cluster::{Cluster, GUEST, Life, OWNER, Probe, Shared, standard};
use crate::{Node, NodeConfig};

fn probe(notes: &Shared, name: &'static str, broken: bool) -> Box<dyn Module> {
    let services: &'static [&'static str] = match name {
        "one" => &["one"],
        "two" => &["two"],
        "log" => &["log"],
        _ => &["three"],
    };
    Box::new(Probe { notes: notes.clone(), name, services, broken })
}

fn three(cfg: NodeConfig, notes: &Shared, broken: &'static str) -> Node {
    let life = Life { notes: notes.clone(), start_modules: true };
    let modules = ["one", "two", "three"].map(|name| probe(notes, name, name == broken));
    let notes = notes.clone();
    Node::new(cfg, vec![Box::new(life)], modules.into())
        .with_loader(Box::new(move |name, _| (name == "two").then(|| probe(&notes, "two", false))))
}

#[test]
fn modules_start_in_order_and_stop_in_reverse() {
    let mut cluster = Cluster::with("kary:2", 1, Box::new(|cfg, notes| three(cfg, notes, "none")));
    assert_eq!(cluster.notes[0].borrow().started, [Ok(())]);
    let client = cluster.client(0, OWNER);
    let list = cluster.any(client, "module.list").unwrap();
    let names: Vec<_> = list["mods"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["state-machine", "one", "two", "three"]);
    assert_eq!(list["mods"][1]["status"], json!(1));
    cluster.any(client, "broker.stop-modules").unwrap();
    let order = cluster.notes[0].borrow().order.clone();
    let expected =
        ["start one", "start two", "start three", "drain three", "drain two", "drain one"];
    assert_eq!(order, expected);
    assert_eq!(cluster.any(client, "one.echo").unwrap_err().errno, Errno::ENOSYS);
    cluster.ask_with(client, "broker.exit", 0, json!({ "code": 3 }), Message::with_no_response);
    assert_eq!(cluster.exits, [(0, 3)]);
}

#[test]
fn a_module_that_does_not_start_says_why_and_the_rest_stays_down() {
    let mut cluster = Cluster::with("kary:2", 1, Box::new(|cfg, notes| three(cfg, notes, "two")));
    let started = cluster.notes[0].borrow().started.clone();
    assert_eq!(started[0].as_ref().unwrap_err().message(), "two: broken");
    let client = cluster.client(0, OWNER);
    assert!(cluster.any(client, "one.echo").is_ok());
    assert_eq!(cluster.any(client, "three.echo").unwrap_err().errno, Errno::ENOSYS);
    assert!(cluster.notes[0].borrow().posts.is_empty());
}

#[test]
fn a_module_that_fails_later_is_a_panic() {
    let mut cluster = Cluster::new("kary:2", 1);
    let client = cluster.client(0, OWNER);
    cluster.ask_with(client, "probe.fail", 0, json!({}), Message::with_no_response);
    assert_eq!(cluster.notes[0].borrow().posts, [json!({ "event": "panic", "error": true })]);
    assert!(cluster.logged(0, "probe.crit[0]: module failed: no reason"));
}

#[test]
fn modules_are_removed_and_loaded() {
    let mut cluster = Cluster::with("kary:2", 1, Box::new(|cfg, notes| three(cfg, notes, "none")));
    let client = cluster.client(0, OWNER);
    let name = json!({ "name": "two" });
    cluster.call(client, "module.remove", NODEID_ANY, name.clone()).unwrap();
    assert_eq!(cluster.any(client, "two.echo").unwrap_err().errno, Errno::ENOSYS);
    let error = cluster.call(client, "module.remove", NODEID_ANY, name).unwrap_err();
    assert_eq!(error.errno, Errno::ENOENT);
    let load = |path: &str| json!({ "path": path, "args": [] });
    cluster.call(client, "module.load", NODEID_ANY, load("two")).unwrap();
    assert!(cluster.any(client, "two.echo").is_ok());
    let error = cluster.call(client, "module.load", NODEID_ANY, load("/x/two.so")).unwrap_err();
    assert_eq!(error.errno, Errno::EEXIST);
    let error = cluster.call(client, "module.load", NODEID_ANY, load("four")).unwrap_err();
    assert_eq!(error.message(), "four: module not found in search path");
}

#[test]
fn a_module_that_leaves_is_mourned_by_those_it_asked() {
    let mut cluster = Cluster::with("kary:2", 1, Box::new(|cfg, notes| three(cfg, notes, "none")));
    let client = cluster.client(0, OWNER);
    let ask = json!({ "topic": "two.hold", "rank": 0 });
    cluster.ask_with(client, "three.ask", 0, ask, Message::with_no_response);
    cluster.call(client, "module.remove", NODEID_ANY, json!({ "name": "three" })).unwrap();
    let notes = cluster.notes[0].borrow();
    assert_eq!(notes.disconnects.len(), 1);
    assert_eq!(notes.disconnects[0].topic(), "two.disconnect");
}

#[test]
fn a_module_that_leaves_or_fails_leaves_no_request_open() {
    for how in ["remove", "fail"] {
        let mut cluster =
            Cluster::with("kary:2", 3, Box::new(|cfg, notes| three(cfg, notes, "none")));
        let client = cluster.client(2, OWNER);
        let held = cluster.ask(client, "two.hold", 0, json!({}));
        let stream = cluster.stream(client, "two.stream", 0, json!({}));
        let done = cluster.ask(client, "two.echo", 0, json!({}));
        assert_eq!(cluster.answers(client, stream).len(), 1);
        assert_eq!(cluster.answers(client, done).len(), 1);
        if how == "fail" {
            cluster.ask_with(client, "two.fail", 0, json!({}), Message::with_no_response);
        } else {
            cluster.call(client, "module.remove", 0, json!({ "name": "two" })).unwrap();
        }
        for tag in [held, stream] {
            let answers = cluster.answers(client, tag);
            assert_eq!(answers.len(), 1);
            let error = answers[0].as_ref().unwrap_err();
            assert_eq!(
                (error.errno, error.message().as_str()),
                (Errno::EHOSTUNREACH, "module disconnect")
            );
        }
        assert!(cluster.answers(client, done).is_empty());
    }
}

#[test]
fn before_the_modules_are_up_only_those_who_wait_are_served() {
    let maker = |cfg: NodeConfig, notes: &Shared| {
        let life = Life { notes: notes.clone(), start_modules: false };
        Node::new(cfg, vec![Box::new(life)], vec![probe(notes, "one", false)])
    };
    let mut cluster = Cluster::with("kary:2", 1, Box::new(maker));
    let client = cluster.client(0, OWNER);
    let error = cluster.any(client, "broker.ping").unwrap_err();
    assert_eq!(error.errno, Errno::EAGAIN);
    assert_eq!(error.message(), "Upstream Flux broker is offline. Try again later.");
    assert_eq!(cluster.any(client, "attr.get").unwrap_err().errno, Errno::ENOSYS);
    let start = json!({ "topic": "broker.start-modules" });
    cluster.ask_with(client, "state-machine.do", 0, start, Message::with_no_response);
    assert!(cluster.any(client, "broker.ping").is_ok());
}

#[test]
fn log_lines_go_to_the_log_service_or_to_stderr() {
    let maker = |cfg: NodeConfig, notes: &Shared| {
        let life = Life { notes: notes.clone(), start_modules: true };
        Node::new(cfg, vec![Box::new(life)], vec![probe(notes, "one", false)])
    };
    let mut cluster = Cluster::with("kary:2", 1, Box::new(maker));
    let client = cluster.client(0, OWNER);
    cluster.ask_with(client, "one.log", 0, json!({}), Message::with_no_response);
    assert_eq!(cluster.stderr, [(0, "one.err[0]: said so".to_string())]);

    // `hold` keeps what it is given, so that the line can be read here.
    struct Sink(Shared);
    impl Module for Sink {
        fn name(&self) -> &'static str {
            "log"
        }
        fn services(&self) -> &'static [&'static str] {
            &["log"]
        }
        fn start(
            &mut self,
            port: &mut flux_svc::Port,
            _config: &serde_json::Map<String, serde_json::Value>,
        ) {
            port.out.push_back(flux_svc::Out::Ready);
        }
        fn deliver(&mut self, _port: &mut flux_svc::Port, message: Message) {
            self.0.borrow_mut().held.push(message);
        }
        fn tick(&mut self, _port: &mut flux_svc::Port) {}
        fn next_deadline(&self) -> Option<u64> {
            None
        }
        fn drain(&mut self, _port: &mut flux_svc::Port) {}
        fn waits(&self, _now: u64) -> Vec<String> {
            Vec::new()
        }
    }
    let maker = |cfg: NodeConfig, notes: &Shared| {
        let life = Life { notes: notes.clone(), start_modules: true };
        let log = Box::new(Sink(notes.clone()));
        Node::new(cfg, vec![Box::new(life), log], vec![probe(notes, "one", false)])
    };
    let mut cluster = Cluster::with("kary:2", 1, Box::new(maker));
    let client = cluster.client(0, OWNER);
    cluster.ask_with(client, "one.log", 0, json!({}), Message::with_no_response);
    let notes = cluster.notes[0].borrow();
    let line = &notes.held[0];
    assert_eq!((line.topic(), line.no_response()), ("log.append", true));
    let text = std::str::from_utf8(line.raw()).unwrap();
    assert_eq!(text, "<24>1 2023-11-14T22:13:20.000000Z 0 one - - - said so");
}

#[test]
fn drivers_are_asked_and_ask_like_modules() {
    let maker = |mut cfg: NodeConfig, notes: &Shared| {
        cfg.drivers = vec!["rexec", "console"];
        standard(cfg, notes)
    };
    let mut cluster = Cluster::with("kary:1", 2, Box::new(maker));
    let client = cluster.client(0, OWNER);
    let tag = cluster.stream(client, "rexec.exec", 1, json!({ "cmd": {} }));
    let (rank, name, request) = cluster.driven.remove(0);
    assert_eq!((rank, name, request.topic()), (1, "rexec", "rexec.exec"));
    for n in 0..2 {
        let item = Message::response_to(&request).with_json(&json!({ "n": n }));
        cluster.input(1, Input::Driver("rexec", item));
    }
    let end = Message::error_to(&request, Errno::ENODATA, None);
    cluster.input(1, Input::Driver("rexec", end));
    let answers = cluster.answers(client, tag);
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[2].as_ref().unwrap_err().errno, Errno::ENODATA);
    assert_eq!(cluster.nodes[0].as_ref().unwrap().tracked(), 0);

    let mut ask = Message::request("probe.echo").with_nodeid(0);
    ask.set_matchtag(5);
    cluster.input(1, Input::Driver("rexec", ask));
    let (rank, name, answer) = cluster.driven.remove(0);
    assert_eq!((rank, name, answer.matchtag()), (1, "rexec", 5));
    assert_eq!(answer.json::<serde_json::Value>().unwrap()["userid"], json!(OWNER));

    // Resource use of any service is that of the process.
    cluster.ask(client, "probe.rusage", 0, json!(null));
    let (_, name, request) = cluster.driven.remove(0);
    assert_eq!((name, request.topic()), ("console", "console.rusage"));
}

#[test]
fn policy_and_environment_change_while_running() {
    let mut cluster = Cluster::new("kary:2", 1);
    let client = cluster.client(0, OWNER);
    assert_eq!(cluster.nodes[0].as_ref().unwrap().admit(GUEST), Err(Errno::EPERM));
    let config = json!({ "access": { "allow-guest-user": true } });
    cluster.call(client, "broker.config-reload", 0, config).unwrap();
    assert!(cluster.nodes[0].as_ref().unwrap().admit(GUEST).is_ok());
    for bad in [json!({ "access": { "x": 1 } }), json!({ "tbon": { "torpid_max": "x" } })] {
        let error = cluster.call(client, "broker.config-reload", 0, bad).unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL);
    }
    assert!(cluster.nodes[0].as_ref().unwrap().admit(GUEST).is_ok());
    let env = json!({ "env": { "A": "1", "B": null } });
    cluster.call(client, "broker.setenv", 0, env).unwrap();
    let env = cluster.call(client, "broker.getenv", 0, json!({ "names": ["A", "B"] })).unwrap();
    assert_eq!(env, json!({ "env": { "A": "1" } }));
    let error = cluster.call(client, "broker.conf-builtin", 0, json!({ "keys": ["nix"] }));
    assert_eq!(error.unwrap_err().message(), "nix: invalid key");
    let waits = cluster.any(client, "broker.waits").unwrap();
    assert_eq!(waits["waits"]["probe"], json!(["probe waits"]));
}

#[test]
fn modules_start_with_the_configuration_of_the_request() {
    let maker = |cfg: NodeConfig, notes: &Shared| {
        let life = Life { notes: notes.clone(), start_modules: false };
        Node::new(cfg, vec![Box::new(life)], vec![probe(notes, "one", false)])
    };
    let mut cluster = Cluster::with("kary:2", 1, Box::new(maker));
    let client = cluster.client(0, OWNER);
    let start =
        |config: serde_json::Value| json!({ "topic": "broker.start-modules", "body": config });
    let silent = Message::with_no_response;
    let bad = start(json!({ "access": { "allow-guest-user": 1 } }));
    cluster.ask_with(client, "state-machine.do", 0, bad, silent);
    let errno = cluster.notes[0].borrow().started[0].as_ref().unwrap_err().errno;
    assert_eq!(errno, Errno::EINVAL);
    assert!(cluster.notes[0].borrow().order.is_empty());
    let good = start(json!({ "access": { "allow-guest-user": true } }));
    cluster.ask_with(client, "state-machine.do", 0, good, silent);
    assert_eq!(cluster.notes[0].borrow().started[1], Ok(()));
    assert_eq!(cluster.notes[0].borrow().config["access"]["allow-guest-user"], json!(true));
    assert!(cluster.nodes[0].as_ref().unwrap().admit(GUEST).is_ok());
}

#[test]
fn signals_are_for_the_state_machine() {
    let mut cluster = Cluster::new("kary:2", 1);
    cluster.input(0, Input::Signal(15));
    assert_eq!(cluster.notes[0].borrow().signals, [json!({ "signum": 15 })]);
}
