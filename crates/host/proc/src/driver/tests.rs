use std::time::{Duration, Instant};

use flux_model::stdio::IoData;
use flux_proto::{Cred, RouteId};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::*;

const OWNER: Cred = Cred { userid: 1000, rolemask: Rolemask(1 | 4) };
const FAR: Cred = Cred { userid: 1000, rolemask: Rolemask(1) };

/// A driver without a broker, and what it has answered.
struct Rig {
    driver: RexecDriver,
    back: DriverHandle,
    take: Box<dyn FnMut() -> Vec<Message>>,
    seen: Vec<Message>,
    tag: u32,
}

/// What came of one request.
#[derive(Debug, Default)]
struct Outcome {
    pid: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    kinds: Vec<String>,
    status: Option<i32>,
    error: Option<(Errno, String)>,
}

fn run<T>(test: impl AsyncFnOnce(&mut Rig) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = LocalSet::new().block_on(&runtime, async {
        let (back, take) = DriverHandle::detached("rexec");
        let path = ("PATH".to_owned(), "/nonexistent:/bin:/usr/bin".to_owned());
        let given = [path, ("NOTIFY_SOCKET".to_owned(), "/x".to_owned())];
        let options = RexecOptions {
            rank: 3,
            local_uri: "local:///run/x".to_owned(),
            env: BTreeMap::from(given),
        };
        let driver = RexecDriver::new(options);
        let mut rig = Rig { driver, back, take: Box::new(take), seen: Vec::new(), tag: 0 };
        test(&mut rig).await
    });
    assert_eq!(flux_api::rpc::leaked_answers(), Vec::<String>::new());
    result
}

fn command(words: &[&str]) -> Value {
    json!({ "cmdline": words, "env": {}, "opts": {}, "channels": [] })
}

fn shell(script: &str) -> Value {
    command(&["sh", "-c", script])
}

impl Rig {
    fn send_as(
        &mut self,
        cred: Cred,
        client: &str,
        topic: &str,
        body: &Value,
        stream: bool,
    ) -> u32 {
        self.tag += 1;
        let mut message = Message::request(topic).with_json(body).with_cred(cred);
        message.set_matchtag(self.tag);
        message.push_route(RouteId::from(client));
        if stream {
            message.set_streaming();
        }
        self.driver.deliver(message, &self.back);
        self.tag
    }

    fn send(&mut self, topic: &str, body: &Value, stream: bool) -> u32 {
        self.send_as(OWNER, "me", topic, body, stream)
    }

    fn start(&mut self, cmd: &Value, flags: u32) -> u32 {
        self.send("rexec.exec", &json!({ "cmd": cmd, "flags": flags }), true)
    }

    fn notify(&mut self, topic: &str, body: &Value) {
        let mut message = Message::request(topic).with_json(body).with_cred(OWNER);
        message.push_route(RouteId::from("me"));
        message.set_no_response();
        self.driver.deliver(message, &self.back);
    }

    fn input(&mut self, tag: u32, io: Value) {
        self.notify("rexec.write", &json!({ "matchtag": tag, "io": io }));
    }

    async fn until<T>(&mut self, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let new = (self.take)();
            self.seen.extend(new);
            if let Some(result) = found(self) {
                return result;
            }
            assert!(Instant::now() < limit, "nothing came: {:?}", self.seen);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    fn of(&self, tag: u32) -> impl Iterator<Item = &Message> {
        self.seen.iter().filter(move |message| message.matchtag() == tag)
    }

    async fn item(&mut self, tag: u32, kind: &str) -> ExecResponse {
        self.until(|rig| {
            let mut items = rig.of(tag).filter_map(|message| message.json::<ExecResponse>().ok());
            items.find(|item| item.kind == kind)
        })
        .await
    }

    async fn pid(&mut self, tag: u32) -> i32 {
        self.item(tag, "started").await.pid.unwrap()
    }

    async fn answer(&mut self, tag: u32) -> Result<Value, (Errno, String)> {
        let message = self.until(|rig| rig.of(tag).last().cloned()).await;
        match message.errnum() {
            Errno::OK => Ok(message.json().unwrap_or_default()),
            errno => Err((errno, message.error_text().to_owned())),
        }
    }

    async fn ask(&mut self, topic: &str, body: Value) -> Result<Value, (Errno, String)> {
        let tag = self.send(topic, &body, false);
        self.answer(tag).await
    }

    /// Everything up to the end of a stream.
    async fn outcome(&mut self, tag: u32) -> Outcome {
        self.until(|rig| rig.of(tag).any(|message| !message.errnum().is_ok()).then_some(())).await;
        let mut outcome = Outcome::default();
        for message in self.of(tag) {
            assert!(outcome.error.is_none(), "something after the end");
            if !message.errnum().is_ok() {
                outcome.error = Some((message.errnum(), message.error_text().to_owned()));
                continue;
            }
            let item: ExecResponse = message.json().unwrap();
            let mut kind = item.kind.clone();
            outcome.pid = outcome.pid.max(item.pid.unwrap_or(0));
            outcome.status = outcome.status.or(item.status);
            if let Some(io) = item.io {
                let io: IoData =
                    serde_json::from_value(serde_json::to_value(&io).unwrap()).unwrap();
                assert_eq!(io.rank, "3");
                let data = io.data.unwrap_or_default();
                match io.stream.as_str() {
                    "stderr" => outcome.stderr.extend(data),
                    _ => outcome.stdout.extend(data),
                }
                if io.eof {
                    kind = format!("eof {}", io.stream);
                }
            }
            if outcome.kinds.last() != Some(&kind) {
                outcome.kinds.push(kind);
            }
        }
        outcome
    }

    async fn output(&mut self, cmd: &Value) -> String {
        let tag = self.start(cmd, 3);
        let outcome = self.outcome(tag).await;
        assert_eq!(
            outcome.error.as_ref().map(|error| error.0),
            Some(Errno::ENODATA),
            "{outcome:?}"
        );
        String::from_utf8(outcome.stdout).unwrap()
    }

    async fn forgotten(&mut self) {
        let server = Rc::clone(&self.driver.server);
        self.until(|_| server.table.borrow().all().next().is_none().then_some(())).await;
    }
}

#[test]
fn statuses_are_those_of_wait() {
    run(async |rig| {
        for (script, status) in [
            ("true", 0),
            ("false", 1 << 8),
            ("exit 3", 3 << 8),
            ("kill -9 $$", 9),
            ("kill -15 $$", 15),
        ] {
            let tag = rig.start(&shell(script), 3);
            let outcome = rig.outcome(tag).await;
            assert_eq!(outcome.status, Some(status), "{script}");
            assert_eq!(outcome.error.unwrap().0, Errno::ENODATA);
            assert!(outcome.pid > 0);
            let mut kinds = outcome.kinds;
            kinds[1..3].sort();
            assert_eq!(kinds, ["started", "eof stderr", "eof stdout", "finished"]);
        }
        rig.forgotten().await;
    });
}

#[test]
fn a_program_that_cannot_run_is_an_error() {
    run(async |rig| {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let plain = plain.to_str().unwrap();
        for (cmd, errno, text) in [
            ("nonesuch-program", Errno::ENOENT, "No such file or directory"),
            ("/nonesuch", Errno::ENOENT, "No such file or directory"),
            (plain, Errno::EACCES, "Permission denied"),
            ("/", Errno::EACCES, "Permission denied"),
        ] {
            for stream in [true, false] {
                let body = json!({ "cmd": command(&[cmd]), "flags": 0 });
                let tag = rig.send("rexec.exec", &body, stream);
                let error = rig.answer(tag).await.unwrap_err();
                assert_eq!(error, (errno, format!("error launching process: {text}")), "{cmd}");
            }
        }
        rig.forgotten().await;
    });
}

#[test]
fn both_streams_are_sent() {
    run(async |rig| {
        let tag = rig.start(&shell("echo out; echo err >&2; printf '\\377'"), 3);
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.stdout, b"out\n\xff");
        assert_eq!(outcome.stderr, b"err\n");
        let tag = rig.start(&shell("echo out; echo err >&2"), 2);
        let outcome = rig.outcome(tag).await;
        assert_eq!(
            (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
            (&b""[..], &b"err\n"[..])
        );
        assert_eq!(outcome.kinds, ["started", "output", "eof stderr", "finished"]);
    });
}

#[test]
fn large_output_arrives_whole() {
    run(async |rig| {
        let script = "yes 'naïve — text' | head -c 10000000; exit 1";
        let tag = rig.start(&shell(script), 3);
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.stdout.len(), 10_000_000);
        assert_eq!(outcome.status, Some(1 << 8));
        let line = "naïve — text\n".as_bytes();
        assert!(outcome.stdout.chunks(line.len()).all(|chunk| line.starts_with(chunk)));
        // Cut between characters, so that nothing but the very end needs base64.
        let encoded = rig.of(tag).filter(|m| m.raw().windows(8).any(|w| w == b"encoding")).count();
        assert!(encoded <= 1);
    });
}

#[test]
fn output_waits_for_the_loop() {
    run(async |rig| {
        let tag = rig.start(&command(&["head", "-c", "40000000", "/dev/zero"]), 1);
        // While nobody takes messages, no more than so many are made.
        let pid = rig.pid(tag).await;
        let written = || std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let (mut last, mut same) = (written(), 0);
        while same < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = written();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        let new = (rig.take)();
        assert!((2..=129).contains(&new.len()), "{}", new.len());
        rig.seen.extend(new);
        assert_eq!(rig.outcome(tag).await.stdout.len(), 40_000_000);
    });
}

#[test]
fn input_is_written_and_gives_credit() {
    run(async |rig| {
        let tag = rig.start(&command(&["cat"]), 1 | 8);
        let first = rig.item(tag, "add-credit").await.channels.unwrap();
        assert_eq!(first["stdin"], json!(CREDIT));
        rig.input(tag, json!({ "stream": "stdin", "rank": "0", "data": "hello " }));
        rig.input(tag, json!({ "stream": "nonesuch", "rank": "0", "data": "x" }));
        rig.input(tag + 7, json!({ "stream": "stdin", "rank": "0", "data": "x" }));
        rig.input(
            tag,
            json!({ "stream": "stdin", "rank": "0", "data": "AP8=", "encoding": "base64" }),
        );
        let big = "x".repeat(1_000_000);
        rig.input(tag, json!({ "stream": "stdin", "rank": "0", "data": big }));
        rig.input(tag, json!({ "stream": "stdin", "rank": "0", "eof": true }));
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.stdout.len(), 1_000_008);
        assert_eq!(&outcome.stdout[..9], b"hello \0\xffx");
        assert_eq!(outcome.status, Some(0));
        let credit: u64 = rig
            .of(tag)
            .filter_map(|message| message.json::<ExecResponse>().ok()?.channels)
            .map(|channels| channels["stdin"].as_u64().unwrap())
            .sum();
        assert_eq!(credit, CREDIT as u64 + 1_000_008);
    });
}

#[test]
fn input_without_end_is_refused() {
    run(async |rig| {
        let tag = rig.start(&command(&["sleep", "1000"]), 0);
        let big = "x".repeat(3 << 20);
        for _ in 0..2 {
            rig.input(tag, json!({ "stream": "stdin", "rank": "0", "data": big }));
        }
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.status, Some(9));
        assert_eq!(outcome.error.unwrap().0, Errno::ENOSPC);
    });
}

#[test]
fn channels_go_both_ways() {
    run(async |rig| {
        let mut cmd = shell("read line <&$CHAN; echo got $line >&$CHAN; cat <&$CHAN >&$CHAN");
        cmd["channels"] = json!(["CHAN"]);
        cmd["cmdline"] = json!(["bash", "-c", cmd["cmdline"][2]]);
        let tag = rig.start(&cmd, 4 | 8);
        rig.input(tag, json!({ "stream": "CHAN", "rank": "0", "data": "it\nmore" }));
        rig.input(tag, json!({ "stream": "CHAN", "rank": "0", "eof": true }));
        let outcome = rig.outcome(tag).await;
        assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "got it\nmore");
        assert_eq!(outcome.kinds[0], "started");
        let last = outcome.kinds.len() - 2;
        assert_eq!(outcome.kinds[last..], ["eof CHAN", "finished"]);
    });
}

#[test]
fn a_process_group_is_killed() {
    run(async |rig| {
        let tag = rig.start(&shell("sleep 1000 & echo ready; wait"), 1);
        rig.item(tag, "output").await;
        let pid = rig.pid(tag).await;
        let none = rig.ask("rexec.kill", json!({ "pid": 1, "signum": 15 })).await.unwrap_err();
        assert_eq!(none, (Errno::ESRCH, "pid 1 does not belong to any subprocess".to_owned()));
        let bad = rig.ask("rexec.kill", json!({ "pid": pid, "signum": 1000 })).await.unwrap_err();
        assert_eq!(bad.0, Errno::EINVAL);
        // The pipe is open until the background sleep is gone as well.
        rig.ask("rexec.kill", json!({ "pid": pid, "signum": 15 })).await.unwrap();
        assert_eq!(rig.outcome(tag).await.status, Some(15));
    });
}

#[test]
fn a_stopped_process_is_reported() {
    run(async |rig| {
        let tag = rig.start(&command(&["sleep", "1000"]), 0);
        let pid = rig.pid(tag).await;
        rig.ask("rexec.kill", json!({ "pid": pid, "signum": 19 })).await.unwrap();
        rig.item(tag, "stopped").await;
        rig.ask("rexec.kill", json!({ "pid": pid, "signum": 9 })).await.unwrap();
        assert_eq!(rig.outcome(tag).await.status, Some(9));
    });
}

#[test]
fn background_processes_are_waited_for() {
    run(async |rig| {
        let mut cmd = shell("echo one; echo two >&2; cat; exit 4");
        cmd["label"] = json!("job");
        let body = json!({ "cmd": cmd, "flags": 16 });
        let pid = rig.ask("rexec.exec", body.clone()).await.unwrap()["pid"].as_i64().unwrap();
        let twice = rig.ask("rexec.exec", body).await.unwrap_err();
        assert_eq!(twice, (Errno::EINVAL, "command label is not unique".to_owned()));
        let server = Rc::clone(&rig.driver.server);
        rig.until(|_| server.table.borrow().all().all(|p| p.ended.get()).then_some(())).await;
        let list = rig.ask("rexec.list", json!({})).await.unwrap();
        assert_eq!(
            list,
            json!({ "rank": 3, "procs": [
            { "pid": pid, "cmd": "sh", "label": "job", "state": "Z" }] })
        );
        let status = rig.ask("rexec.wait", json!({ "pid": -1, "label": "job" })).await.unwrap();
        assert_eq!(status["status"], json!(4 << 8));
        let mut text: Vec<_> = status["output"]
            .as_array()
            .unwrap()
            .iter()
            .map(|io| io["data"].as_str().unwrap())
            .collect();
        text.sort_unstable();
        assert_eq!(text, ["one\n", "two\n"]);
        let gone = rig.ask("rexec.wait", json!({ "pid": pid, "label": "job" })).await.unwrap_err();
        assert_eq!(gone, (Errno::ESRCH, "label job does not belong to any subprocess".to_owned()));
    });
}

#[test]
fn a_wait_may_come_first() {
    run(async |rig| {
        let body = json!({ "cmd": command(&["sleep", "1000"]), "flags": 16 });
        let pid = rig.ask("rexec.exec", body).await.unwrap()["pid"].clone();
        let list = rig.ask("rexec.list", json!({})).await.unwrap();
        assert_eq!(list["procs"][0]["state"], json!("R"));
        let first = rig.send("rexec.wait", &json!({ "pid": pid }), false);
        let error = rig.ask("rexec.wait", json!({ "pid": pid })).await.unwrap_err();
        assert_eq!(error.1, "process is already being waited on");
        let attach = rig.send("rexec.attach", &json!({ "pid": pid, "flags": 3 }), true);
        let error = rig.answer(attach).await.unwrap_err();
        assert_eq!(error, (Errno::EBUSY, "subprocess is being waited on".to_owned()));
        rig.ask("rexec.kill", json!({ "pid": pid, "signum": 9 })).await.unwrap();
        assert_eq!(rig.answer(first).await.unwrap(), json!({ "status": 9 }));
    });
}

#[test]
fn a_background_process_can_be_attached_to() {
    run(async |rig| {
        let script = "echo early; until [ -e go ]; do sleep 0.01; done; echo late";
        let directory = tempfile::tempdir().unwrap();
        let mut cmd = shell(script);
        cmd["cwd"] = json!(directory.path());
        let body = json!({ "cmd": cmd, "flags": 0 });
        let pid = rig.ask("rexec.exec", body).await.unwrap()["pid"].clone();
        let error = rig.ask("rexec.attach", json!({ "pid": pid, "flags": 3 })).await.unwrap_err();
        assert_eq!(error, (Errno::EPROTO, "attach request is missing STREAMING flag".to_owned()));
        let error = rig.ask("rexec.wait", json!({ "pid": pid })).await.unwrap_err();
        assert_eq!(error, (Errno::EINVAL, "process is not waitable".to_owned()));
        let tag = rig.send("rexec.attach", &json!({ "pid": pid, "flags": 3 }), true);
        assert_eq!(rig.item(tag, "attached").await.cmd.unwrap()["cmdline"][2], json!(script));
        let second = rig.send("rexec.attach", &json!({ "pid": pid, "flags": 3 }), true);
        let error = rig.answer(second).await.unwrap_err();
        assert_eq!(error.1, "subprocess already has a client attached");
        let error = rig.send("rexec.attach", &json!({ "pid": 1, "flags": 3 }), true);
        assert_eq!(rig.answer(error).await.unwrap_err().0, Errno::ENOENT);
        rig.item(tag, "output").await;
        // The client leaves; the process goes on, and another may come.
        rig.notify("rexec.disconnect", &json!({}));
        let tag = rig.send("rexec.attach", &json!({ "pid": pid, "flags": 1 }), true);
        std::fs::write(directory.path().join("go"), "").unwrap();
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.stdout, b"late\n");
        assert_eq!(outcome.kinds, ["attached", "output", "eof stdout", "finished"]);
        rig.forgotten().await;
    });
}

#[test]
fn what_has_ended_can_be_attached_to_once() {
    run(async |rig| {
        let body = json!({ "cmd": command(&["false"]), "flags": 16 });
        let pid = rig.ask("rexec.exec", body).await.unwrap()["pid"].clone();
        let server = Rc::clone(&rig.driver.server);
        rig.until(|_| server.table.borrow().all().all(|p| p.ended.get()).then_some(())).await;
        let tag = rig.send("rexec.attach", &json!({ "pid": pid, "flags": 3 }), true);
        let outcome = rig.outcome(tag).await;
        assert_eq!(outcome.kinds, ["attached", "eof stdout", "eof stderr", "finished"]);
        assert_eq!(outcome.status, Some(1 << 8));
        assert_eq!(rig.ask("rexec.wait", json!({ "pid": pid })).await.unwrap_err().0, Errno::ESRCH);
    });
}

#[test]
fn a_foreground_process_ends_with_its_client() {
    run(async |rig| {
        let mine = rig.start(&command(&["sleep", "1000"]), 3);
        let body = json!({ "cmd": command(&["sleep", "1000"]), "flags": 3 });
        let other = rig.send_as(OWNER, "other", "rexec.exec", &body, true);
        let background =
            rig.ask("rexec.exec", json!({ "cmd": command(&["sleep", "1000"]), "flags": 0 }));
        let background = background.await.unwrap()["pid"].clone();
        let (mine, kept) = (rig.pid(mine).await, rig.pid(other).await);
        rig.notify("rexec.disconnect", &json!({}));
        let server = Rc::clone(&rig.driver.server);
        rig.until(|_| server.table.borrow().all().all(|process| process.pid != mine).then_some(()))
            .await;
        let list = rig.ask("rexec.list", json!({})).await.unwrap();
        assert_eq!(list["procs"].as_array().unwrap().len(), 2);
        for pid in [json!(kept), background] {
            rig.ask("rexec.kill", json!({ "pid": pid, "signum": 9 })).await.unwrap();
        }
        rig.forgotten().await;
    });
}

#[test]
fn the_working_directory_is_where_it_says() {
    run(async |rig| {
        let directory = tempfile::tempdir().unwrap();
        let mut cmd = command(&["pwd"]);
        cmd["cwd"] = json!(directory.path().canonicalize().unwrap());
        let cwd = cmd["cwd"].as_str().unwrap().to_owned();
        assert_eq!(rig.output(&cmd).await.trim_end(), cwd);
        cmd["cwd"] = json!("/nonesuch");
        let tag = rig.start(&cmd, 3);
        let error = rig.answer(tag).await.unwrap_err();
        assert_eq!(error.0, Errno::ENOENT);
    });
}

#[test]
fn the_environment_is_the_given_or_the_base() {
    run(async |rig| {
        let base = rig.output(&command(&["env"])).await;
        let mut lines: Vec<_> = base.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["FLUX_URI=local:///run/x", "PATH=/nonexistent:/bin:/usr/bin"]);
        rig.driver.handle().setenv("A", "b");
        rig.driver.handle().unsetenv("PATH");
        let base = rig.output(&command(&["env"])).await;
        assert_eq!(base, "A=b\nFLUX_URI=local:///run/x\n");
        let mut cmd = command(&["env"]);
        cmd["env"] = json!({ "X": "y", "FLUX_URI": "other", "FLUX_PROXY_REMOTE": "r",
            "INVOCATION_ID": "i", "NOTIFY_SOCKET": "n" });
        assert_eq!(rig.output(&cmd).await, "X=y\nFLUX_URI=local:///run/x\n");
    });
}

/// Descriptors that this process was given by its parent, to be inherited by all.
fn inherited() -> Vec<i32> {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    numbers
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
        .filter(|fd| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
            let flags = info.ok().and_then(|info| {
                let line = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
                u32::from_str_radix(line, 8).ok()
            });
            flags.is_some_and(|flags| flags & OFlags::CLOEXEC.bits() == 0)
        })
        .collect()
}

#[test]
fn nothing_leaks_into_a_process() {
    run(async |rig| {
        let script = "echo /proc/$$/fd/*; grep -E 'Sig(Blk|Ign)' /proc/$$/status";
        // bash, since dash may ignore signals of its own.
        let text = rig.output(&command(&["bash", "-c", script])).await;
        let mut lines = text.lines();
        let held = lines.next().unwrap().split(' ').map(|path| path.rsplit('/').next().unwrap());
        let allowed = inherited();
        for fd in held.map(|fd| fd.parse::<i32>().unwrap()) {
            // bash reads the directory through one of its own.
            assert!(fd <= 3 || allowed.contains(&fd), "descriptor {fd} of {allowed:?}");
        }
        let mask = |line: &str| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        assert_eq!(mask(lines.next().unwrap()), 0);
        // Signals 32 and 33 belong to the C library.
        assert_eq!(mask(lines.next().unwrap()) & !0x1_8000_0000, 0);
    });
}

#[test]
fn requests_that_may_not_be_are_refused() {
    run(async |rig| {
        let cmd = command(&["true"]);
        let mut channels = cmd.clone();
        channels["channels"] = json!(["X"]);
        let mut unlabelled = cmd.clone();
        unlabelled["label"] = json!("");
        for (body, stream, errno, text) in [
            (
                json!({ "cmd": cmd, "flags": 8 }),
                false,
                Errno::EINVAL,
                "write-credit flag is not allowed in background mode",
            ),
            (
                json!({ "cmd": cmd, "flags": 0, "local_flags": 1 }),
                false,
                Errno::EINVAL,
                "stdio-fallthrough flag is not allowed in background mode",
            ),
            (
                json!({ "cmd": channels, "flags": 0 }),
                false,
                Errno::EINVAL,
                "auxiliary channels are not allowed in background mode",
            ),
            (
                json!({ "cmd": cmd, "flags": 16 }),
                true,
                Errno::EINVAL,
                "waitable flag only supported in background mode",
            ),
            (json!({ "cmd": {}, "flags": 0 }), true, Errno::EPROTO, "error parsing command string"),
            (
                json!({ "cmd": command(&[]), "flags": 0 }),
                true,
                Errno::EPROTO,
                "command string is empty",
            ),
            (
                json!({ "cmd": unlabelled, "flags": 0 }),
                true,
                Errno::EPROTO,
                "command label is empty",
            ),
            (
                json!({ "signature": "x" }),
                true,
                Errno::EPERM,
                "signed requests are not supported by this service",
            ),
        ] {
            let tag = rig.send("rexec.exec", &body, stream);
            assert_eq!(rig.answer(tag).await.unwrap_err(), (errno, text.to_owned()));
        }
        let error = rig.ask("rexec.exec", json!({})).await.unwrap_err();
        assert!(error.1.starts_with("failed to unpack request: "), "{error:?}");
        let body = json!({ "cmd": cmd, "flags": 0, "local_flags": 1 });
        let tag = rig.send_as(FAR, "far", "rexec.exec", &body, true);
        assert_eq!(rig.answer(tag).await.unwrap_err().0, Errno::EPERM);
        let guest = Cred { userid: 5, rolemask: Rolemask(2 | 4) };
        let tag = rig.send_as(guest, "guest", "rexec.list", &json!({}), false);
        let error = rig.answer(tag).await.unwrap_err();
        assert_eq!(error, (Errno::EPERM, "Request requires owner credentials".to_owned()));
        assert_eq!(rig.ask("rexec.nonesuch", json!({})).await.unwrap_err().0, Errno::ENOSYS);
        rig.driver.handle().shut_down();
        let error = rig.ask("rexec.exec", json!({ "cmd": cmd, "flags": 0 })).await.unwrap_err();
        assert_eq!(error, (Errno::ENOSYS, "subprocess server is shutting down".to_owned()));
    });
}

#[test]
fn inherited_streams_have_no_ends() {
    run(async |rig| {
        let body = json!({ "cmd": command(&["true"]), "flags": 0, "local_flags": 3 });
        let tag = rig.send("rexec.exec", &body, true);
        assert_eq!(rig.outcome(tag).await.kinds, ["started", "finished"]);
    });
}

#[test]
fn five_hundred_at_once() {
    run(async |rig| {
        let from = Instant::now();
        let tags: Vec<u32> = (0..500).map(|_| rig.start(&command(&["echo", "x"]), 3)).collect();
        let spawned = from.elapsed();
        for tag in tags {
            let outcome = rig.outcome(tag).await;
            assert_eq!((outcome.stdout.as_slice(), outcome.status), (&b"x\n"[..], Some(0)));
        }
        rig.forgotten().await;
        println!("500 spawned in {spawned:?}, ended in {:?}", from.elapsed());
    });
}
