//! Test instances of real processes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_bootstrap::{
    ExitMode, InstanceError, PmiEnv, PmiOptions, StartMode, TestInstance, Tree, test_instance,
};
use flux_proto::{Decoder, Errno, Message, encode};
use serde_json::{Value, json};

fn shells(scripts: &[&str], dir: &tempfile::TempDir) -> TestInstance {
    let command = |script: &&str| vec!["/bin/sh".into(), "-c".into(), (*script).to_string()];
    TestInstance::new(scripts.iter().map(command).collect(), dir.path().to_path_buf())
}

#[test]
fn the_largest_code_counts_or_the_leaders() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(test_instance(shells(&["exit 1", "exit 3", "exit 2"], &dir)).unwrap(), 3);
    let mut instance = shells(&["exit 1", "exit 3"], &dir);
    instance.exit_mode = ExitMode::Leader;
    assert_eq!(test_instance(instance).unwrap(), 1);
    assert!(!dir.path().join("start").exists());
    assert_eq!(test_instance(shells(&["kill -9 $$"], &dir)).unwrap(), 137);
}

#[test]
fn brokers_that_do_not_end_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = shells(&["exit 0", "exec sleep 100"], &dir);
    instance.exit_timeout = Some(Duration::from_millis(50));
    assert_eq!(test_instance(instance).unwrap(), 137);
}

#[test]
fn a_program_that_cannot_be_started_is_an_exit_of_127() {
    let dir = tempfile::tempdir().unwrap();
    let instance = TestInstance::new(vec![vec!["/nonexistent".into()]], dir.path().to_path_buf());
    assert_eq!(test_instance(instance).unwrap(), 127);
    let nothing = TestInstance::new(Vec::new(), dir.path().to_path_buf());
    assert!(matches!(test_instance(nothing), Err(InstanceError::Size { .. })));
}

#[test]
fn brokers_get_their_environment() {
    let dir = tempfile::tempdir().unwrap();
    let script = "test \"$PMI_SIZE $FLUX_START_URI $X\" = \"2 $0 y\" && test -e /dev/fd/$PMI_FD \
                  && exit $((40 + PMI_RANK))";
    let mut instance = shells(&[script, script], &dir);
    let uri = instance.start_uri();
    instance.commands.iter_mut().for_each(|command| command.push(uri.clone()));
    instance.env.push(("X".into(), "y".into()));
    assert_eq!(test_instance(instance).unwrap(), 41);
}

struct Caller {
    socket: UnixStream,
    decoder: Decoder,
    buf: BytesMut,
}

impl Caller {
    fn connect(dir: &Path) -> Self {
        let start = Instant::now();
        let mut socket = loop {
            match UnixStream::connect(dir.join("start")) {
                Ok(socket) => break socket,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut byte = [1];
        socket.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
        Self { socket, decoder: Decoder::new(), buf: BytesMut::new() }
    }

    fn call(&mut self, topic: &str, body: &Value) -> Message {
        let request = Message::request(topic).with_json(body);
        self.socket.write_all(&encode(&request)).unwrap();
        loop {
            if let Some(message) = self.decoder.next(&mut self.buf).unwrap() {
                return message;
            }
            let mut piece = [0; 4096];
            let got = self.socket.read(&mut piece).unwrap();
            assert!(got > 0);
            self.buf.extend_from_slice(&piece[..got]);
        }
    }
}

fn begin(instance: TestInstance) -> JoinHandle<i32> {
    std::thread::spawn(move || test_instance(instance).unwrap())
}

#[test]
fn the_start_socket_tells_kills_waits_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = shells(&["exec sleep 100", "exec sleep 100"], &dir);
    instance.start_mode = StartMode::Leader;
    instance.exit_timeout = None;
    let running = begin(instance);
    let mut caller = Caller::connect(dir.path());
    let status: Value = caller.call("start.status", &json!({})).json().unwrap();
    assert!(status["procs"][0]["pid"].as_i64().unwrap() > 0);
    assert_eq!(status["procs"][1]["pid"], -1);
    assert_eq!(caller.call("start.run", &json!({"rank": 0})).errnum(), Errno::EEXIST);
    assert_eq!(caller.call("start.run", &json!({"rank": 1})).errnum(), Errno::OK);
    let kill = |rank: u32| json!({"rank": rank, "signum": 15});
    assert_eq!(caller.call("start.kill", &kill(1)).errnum(), Errno::OK);
    let gone: Value = caller.call("start.wait", &json!({"rank": 1})).json().unwrap();
    assert_eq!(gone, json!({"exit_rc": 143}));
    assert_eq!(caller.call("start.kill", &kill(1)).errnum(), Errno::ENOENT);
    assert_eq!(caller.call("start.kill", &kill(7)).errnum(), Errno::ENOENT);
    assert_eq!(caller.call("start.else", &kill(7)).errnum(), Errno::ENOSYS);
    assert_eq!(caller.call("start.kill", &json!({})).errnum(), Errno::EPROTO);
    assert_eq!(caller.call("start.kill", &kill(0)).errnum(), Errno::OK);
    assert_eq!(running.join().unwrap(), 143);
}

/// Not a test by itself: a broker of the instance below.
#[test]
#[ignore = "run by another test"]
fn a_broker_bootstraps() {
    let Some(env) = PmiEnv::from_env(|name| std::env::var(name).ok()).unwrap() else {
        return;
    };
    let options = PmiOptions {
        hostname: "localhost".into(),
        rundir: std::env::var_os("RUNDIR").unwrap().into(),
        prefer_tcp: false,
        interface_hint: None,
    };
    let boot = env
        .boot(&options, &|place| {
            let children = if place.rank == 0 { (1..place.size).collect() } else { Vec::new() };
            Ok(Tree { parent: (place.rank > 0).then_some(0), children, ..Tree::default() })
        })
        .unwrap();
    assert_eq!((boot.size, boot.hostlist.len()), (4, 4));
    assert_eq!(boot.parent.is_some(), boot.rank > 0);
    std::fs::write(options.rundir.join(format!("done-{}", boot.rank)), "").unwrap();
}

#[test]
fn brokers_of_an_instance_bootstrap_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap().display().to_string();
    let args = ["--exact", "a_broker_bootstraps", "--ignored", "-q"];
    let command: Vec<String> =
        std::iter::once(program.as_str()).chain(args).map(ToString::to_string).collect();
    let mut instance = TestInstance::new(vec![command; 4], dir.path().to_path_buf());
    instance.env.push(("RUNDIR".into(), dir.path().display().to_string()));
    assert_eq!(test_instance(instance).unwrap(), 0);
    for rank in 0..4 {
        assert!(dir.path().join(format!("done-{rank}")).exists());
    }
}
