//! Processes that outlive who started them: the launch driver with a real supervisor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flux_host::driver::{Driver, DriverHandle};
use flux_launch::{LaunchDriver, LaunchOptions, Supervised};
use flux_proto::{Cred, Errno, Message, Rolemask, RouteId};
use serde_json::{Value, json};
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(60);

/// A driver without a broker.
struct Rig {
    driver: LaunchDriver,
    back: DriverHandle,
    take: Box<dyn FnMut() -> Vec<Message>>,
    seen: Vec<Message>,
    tag: u32,
}

/// Runs a test on a loop of its own: the end of it is the death of a broker.
fn broker<T>(directory: &Path, grace: Option<f64>, test: impl AsyncFnOnce(&mut Rig) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = LocalSet::new();
    let result = set.block_on(&runtime, async {
        let (back, take) = DriverHandle::detached("launch");
        let keeper = Supervised {
            program: vec![env!("CARGO_BIN_EXE_flux").to_string(), "supervise".to_string()],
            directory: directory.to_path_buf(),
        };
        let env = [("PATH", "/bin:/usr/bin"), ("FLUX_URI", directory.to_str().unwrap())];
        let env = env.map(|(name, value)| (name.to_string(), value.to_string())).into();
        let driver = LaunchDriver::new(LaunchOptions { rank: 7, env, grace }, Box::new(keeper));
        let mut rig = Rig { driver, back, take: Box::new(take), seen: Vec::new(), tag: 0 };
        let result = test(&mut rig).await;
        drop(rig);
        result
    });
    drop(set);
    drop(flux_api::rpc::leaked_answers());
    result
}

impl Rig {
    fn send(&mut self, topic: &str, body: &Value) -> u32 {
        self.tag += 1;
        let mut message = Message::request(topic).with_json_text(&body.to_string());
        message.set_matchtag(self.tag);
        message.push_route(RouteId::from("me"));
        message.cred = Cred { userid: 0, rolemask: Rolemask(1 | 4) };
        if matches!(topic, "launch.start" | "launch.attach") {
            message.set_streaming();
        }
        self.driver.deliver(message, &self.back);
        self.tag
    }

    /// The next response to a request.
    async fn next(&mut self, tag: u32) -> Result<Value, Errno> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.seen.extend((self.take)());
            if let Some(at) = self.seen.iter().position(|message| message.matchtag() == tag) {
                let message = self.seen.remove(at);
                return match message.errnum() {
                    Errno::OK => Ok(message.json().unwrap_or(Value::Null)),
                    errno => Err(errno),
                };
            }
            assert!(Instant::now() < deadline, "no answer to request {tag}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn start(&mut self, id: u64, script: &str) -> u32 {
        let cmdline = ["sh", "-c", script];
        self.send("launch.start", &json!({"id": id, "userid": 0, "cmdline": cmdline}))
    }

    async fn pid(&mut self, tag: u32) -> i32 {
        let started = self.next(tag).await.unwrap();
        assert_eq!(started["type"], json!("started"), "{started}");
        i32::try_from(started["pid"].as_i64().unwrap()).unwrap()
    }

    /// Output and last item of a stream.
    async fn end(&mut self, tag: u32) -> (String, Value) {
        let mut text = String::new();
        loop {
            let item = self.next(tag).await.unwrap();
            match item["type"].as_str().unwrap() {
                "output" => text.push_str(item["data"].as_str().unwrap()),
                "started" => {}
                _ => {
                    assert_eq!(self.next(tag).await, Err(Errno::ENODATA));
                    return (text, item);
                }
            }
        }
    }

    async fn list(&mut self) -> Vec<Value> {
        let tag = self.send("launch.list", &json!({}));
        self.next(tag).await.unwrap()["jobs"].as_array().unwrap().clone()
    }
}

fn there(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => !text.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The supervisor of a directory.
fn supervisor(directory: &Path) -> Option<i32> {
    let wanted = format!("supervise\0{}\0", directory.display());
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let found = String::from_utf8_lossy(&line).ends_with(&wanted);
        found.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs").join("7");
    (dir, path)
}

#[test]
fn a_shell_is_followed_from_its_start_to_its_end() {
    let (_dir, path) = place();
    broker(&path, Some(1.0), async |rig: &mut Rig| {
        assert!(rig.list().await.is_empty() && supervisor(&path).is_none());
        let tag = rig.start(1, "echo out; echo err >&2; pwd; exit 3");
        assert!(rig.pid(tag).await > 1);
        let (text, end) = rig.end(tag).await;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "err", "out"]);
        assert_eq!(end, json!({"type": "finished", "status": 768}));
        // A second start follows the first.
        let again = rig.start(1, "exit 0");
        assert_eq!(rig.end(again).await.1["status"], json!(768));
        let forget = rig.send("launch.forget", &json!({"ids": [1]}));
        rig.next(forget).await.unwrap();
        let attach = rig.send("launch.attach", &json!({"id": 1}));
        assert_eq!(rig.next(attach).await, Err(Errno::ENOENT));
        let missing =
            rig.send("launch.start", &json!({"id": 2, "userid": 0, "cmdline": ["/nonexistent"]}));
        assert_eq!(rig.next(missing).await, Err(Errno::ENOENT));
        assert!(rig.list().await.is_empty());
        let fed = json!({"id": 3, "userid": 0, "cmdline": ["cat"], "input": "fed", "cwd": "/tmp"});
        let fed = rig.send("launch.start", &fed);
        assert_eq!(rig.end(fed).await.0, "fed");
    });
    until("the supervisor ends", || supervisor(&path).is_none());
}

#[test]
fn a_node_that_goes_down_ends_its_shells_and_they_are_lost() {
    let (_dir, path) = place();
    let terminate = |pid: i32| {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    };
    let up = path.parent().unwrap().join("up");
    let stubborn = format!("trap '' TERM; sleep 1000 & touch {}; wait; wait", up.display());
    let (first, second) = broker(&path, None, async |rig: &mut Rig| {
        let first = rig.start(1, "sleep 1000");
        let first = rig.pid(first).await;
        // While there is a broker jobs are its affair.
        terminate(supervisor(&path).unwrap());
        assert_eq!(rig.list().await.len(), 1);
        let second = rig.start(2, &stubborn);
        (first, rig.pid(second).await)
    });
    until("the second shell is up", || up.exists());
    assert!(there(first) && there(second));
    // Until the loss of the broker is seen the signal says nothing.
    until("the supervisor ends", || {
        if let Some(pid) = supervisor(&path) {
            terminate(pid);
        }
        std::thread::sleep(Duration::from_millis(50));
        supervisor(&path).is_none()
    });
    assert!(!there(first) && !there(second));
    broker(&path, None, async |rig: &mut Rig| {
        for id in [1, 2] {
            let tag = rig.send("launch.attach", &json!({"id": id}));
            let (_, end) = rig.end(tag).await;
            assert_eq!(end, json!({"type": "lost", "note": "the node went down"}));
        }
    });
}

#[test]
fn a_shell_outlives_its_broker_and_is_found_again() {
    let (_dir, path) = place();
    let gate = path.parent().unwrap().join("gate");
    let script = format!(
        "echo one; while ! test -e {gate}; do sleep 0.01; done; echo two; exit 5",
        gate = gate.display()
    );
    let (first, ended) = broker(&path, None, async |rig: &mut Rig| {
        let tag = rig.start(1, &script);
        let pid = rig.pid(tag).await;
        assert_eq!(rig.next(tag).await.unwrap()["data"], json!("one\n"));
        let other = rig.start(2, "exit 9");
        (pid, rig.pid(other).await)
    });
    until("the other one ends while nobody is there", || !there(ended));
    assert!(there(first));
    broker(&path, None, async |rig: &mut Rig| {
        let list = rig.list().await;
        assert_eq!(list.len(), 2);
        let tag = rig.send("launch.attach", &json!({"id": 1, "stdout": 4}));
        assert_eq!(rig.pid(tag).await, first);
        std::fs::write(&gate, "").unwrap();
        let (text, end) = rig.end(tag).await;
        assert_eq!((text.as_str(), &end["status"]), ("two\n", &json!(1280)));
        let tag = rig.send("launch.attach", &json!({"id": 2}));
        assert_eq!(rig.end(tag).await.1["status"], json!(9 << 8));
    });
    until("the supervisor ends with the last shell", || supervisor(&path).is_none());
    // Even then the statuses are on record.
    broker(&path, None, async |rig: &mut Rig| {
        let tag = rig.start(1, "echo not again");
        let (text, end) = rig.end(tag).await;
        assert_eq!((text.as_str(), &end["status"]), ("", &json!(1280)));
    });
}

#[test]
fn nothing_of_a_job_is_left_when_its_end_is_told() {
    let (_dir, path) = place();
    broker(&path, Some(1.0), async |rig: &mut Rig| {
        let script = "setsid sleep 1001 & echo $!; sleep 1002 & echo $!; exit 0";
        let tag = rig.start(1, script);
        let (text, end) = rig.end(tag).await;
        assert_eq!(end, json!({"type": "finished", "status": 0}));
        let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        assert!(pids.into_iter().all(|pid| !there(pid)));
        // A signal to all reaches what has left the process group.
        let script = "setsid sh -c 'echo $$; sleep 1003' & echo $!; trap '' TERM; wait; sleep 1004";
        let tag = rig.start(2, script);
        rig.pid(tag).await;
        let mut text = String::new();
        while text.lines().count() < 2 {
            text.push_str(rig.next(tag).await.unwrap()["data"].as_str().unwrap());
        }
        let kill = rig.send("launch.kill", &json!({"id": 2, "signum": 9, "all": true}));
        rig.next(kill).await.unwrap();
        assert_eq!(rig.end(tag).await.1["status"], json!(9));
        assert!(text.lines().all(|line| !there(line.parse().unwrap())));
        let kill = rig.send("launch.kill", &json!({"id": 2, "signum": 9}));
        assert_eq!(rig.next(kill).await, Err(Errno::ESRCH));
    });
}

#[test]
fn without_a_way_back_shells_end_with_their_broker() {
    let (_dir, path) = place();
    let pid = broker(&path, Some(60.0), async |rig: &mut Rig| {
        let tag = rig.start(1, "sleep 1000");
        rig.pid(tag).await
    });
    // The end of the driver waited for it.
    assert!(!there(pid));
    until("the supervisor ends", || supervisor(&path).is_none());
}

#[test]
fn a_killed_supervisor_is_told_as_lost_shells_that_are_ended() {
    let (_dir, path) = place();
    broker(&path, None, async |rig: &mut Rig| {
        let tag = rig.start(1, "sleep 1000 & echo $!; wait");
        let pid = rig.pid(tag).await;
        let child: i32 =
            rig.next(tag).await.unwrap()["data"].as_str().unwrap().trim().parse().unwrap();
        let victim = supervisor(&path).unwrap();
        let victim = rustix::process::Pid::from_raw(victim).unwrap();
        rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
        let (_, end) = rig.end(tag).await;
        assert_eq!(end["type"], json!("lost"));
        assert!(end["note"].as_str().unwrap().contains("killed"), "{end}");
        assert!(!there(pid) && !there(child));
        // It serves as before.
        let tag = rig.start(2, "exit 0");
        assert_eq!(rig.end(tag).await.1["status"], json!(0));
    });
}

#[test]
fn many_shells_at_once_all_end() {
    let (_dir, path) = place();
    broker(&path, Some(1.0), async |rig: &mut Rig| {
        let tags: Vec<u32> = (0..200).map(|id| rig.start(id, "exit 1")).collect();
        for tag in tags {
            assert_eq!(rig.end(tag).await.1["status"], json!(256));
        }
        let forget = rig.send("launch.forget", &json!({"ids": (0..200).collect::<Vec<u64>>()}));
        rig.next(forget).await.unwrap();
        assert!(rig.list().await.is_empty());
    });
}
