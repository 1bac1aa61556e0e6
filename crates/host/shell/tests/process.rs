//! A shell process against a broker of a few lines.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_model::treeobj::Treeobj;
use flux_proto::{Cred, Decoder, Message, MsgType, Rolemask, encode};
use serde_json::{Value, json};

const ID: u64 = 4242;

/// Becomes a shell when the test runs itself again.
#[test]
fn shell_process() {
    if std::env::var_os("FLUX_TEST_SHELL").is_some() {
        std::process::exit(flux_shell::main(&[ID.to_string()]));
    }
}

#[derive(Default)]
struct State {
    /// What was appended to each key.
    logs: BTreeMap<String, String>,
    topics: Vec<String>,
    raised: Vec<Value>,
    /// The connections of shells; the first two are those of ranks 0 and 1.
    sockets: Vec<UnixStream>,
    /// Requests that one shell made of another: who made it, and its own tag, by the tag here.
    forwarded: BTreeMap<u32, (usize, u32)>,
    /// Requests in the barrier.
    barrier: Vec<(usize, Message)>,
    /// Responses to requests that the test made, by tag.
    responses: Vec<Message>,
    /// The connection is cut when this request comes, instead of answering it; afterwards it was
    /// applied or not.
    cut: Option<(String, bool)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn wait(&self, what: &str, f: impl Fn(&State) -> bool) -> std::sync::MutexGuard<'_, State> {
        let until = Instant::now() + Duration::from_secs(20);
        let mut state = self.state.lock().unwrap();
        while !f(&state) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come: {:?} {:?}", state.logs, state.topics);
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        state
    }
}

fn apply(state: &mut State, request: &Message) {
    let body: Value = request.json().unwrap();
    assert_eq!(body["namespace"], format!("job-{ID}"));
    for op in body["ops"].as_array().unwrap() {
        assert_eq!(op["flags"], 32, "only appends");
        let Treeobj::Val(data) = Treeobj::from_value(&op["dirent"]).unwrap() else { panic!() };
        let log = state.logs.entry(op["key"].as_str().unwrap().to_string()).or_default();
        log.push_str(std::str::from_utf8(&data).unwrap());
    }
}

fn write(state: &State, to: usize, message: &Message) {
    (&state.sockets[to]).write_all(&encode(message)).unwrap();
}

/// Handles a request of shell `from`; false cuts the connection.
fn answer(state: &mut State, job: &Value, nshells: usize, from: usize, request: &Message) -> bool {
    let topic = request.topic().to_string();
    state.topics.push(topic.clone());
    if let Some((cut, applied)) = state.cut.clone()
        && cut == topic
    {
        state.cut = None;
        if applied {
            apply(state, request);
        }
        return false;
    }
    let ok = Message::response_to(request);
    let response = match topic.as_str() {
        "job-info.lookup" => ok.with_json(job),
        "attr.get" => {
            let body: Value = request.json().unwrap();
            let value = if body["name"] == "rank" { from.to_string() } else { "/".to_string() };
            ok.with_json(&json!({"value": value, "flags": 1}))
        }
        "kvs.commit" => {
            apply(state, request);
            ok.with_json(&json!({"rootref": "sha1-0", "rootseq": 1}))
        }
        "kvs.lookup" => {
            let body: Value = request.json().unwrap();
            let content = state.logs.get(body["key"].as_str().unwrap()).cloned();
            let val = Treeobj::val(content.unwrap_or_default()).to_value();
            ok.with_json(&json!({ "val": val }))
        }
        "job-manager.raise" => {
            state.raised.push(request.json().unwrap());
            ok
        }
        "job-exec.shell-barrier" => {
            state.barrier.push((from, request.clone()));
            if state.barrier.len() == nshells {
                for (to, request) in std::mem::take(&mut state.barrier) {
                    write(state, to, &Message::response_to(&request));
                }
            }
            return true;
        }
        "service.add" | "event.subscribe" => ok,
        other if other.contains("-shell-") => {
            let tag = 1000 + u32::try_from(state.forwarded.len()).unwrap();
            state.forwarded.insert(tag, (from, request.matchtag()));
            let mut message = request.clone();
            message.set_matchtag(tag);
            message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
            write(state, request.nodeid() as usize, &message);
            return true;
        }
        other => panic!("unexpected request {other}"),
    };
    write(state, from, &response);
    true
}

fn connection(mut socket: UnixStream, from: usize, shared: &Shared, job: &Value, nshells: usize) {
    let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
    let mut buffer = [0; 65536];
    loop {
        let count = socket.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            return;
        }
        input.extend_from_slice(&buffer[..count]);
        while let Ok(Some(mut message)) = decoder.next(&mut input) {
            let mut state = shared.state.lock().unwrap();
            let goes_on = if message.kind == MsgType::Response {
                match state.forwarded.get(&message.matchtag()).copied() {
                    Some((to, tag)) => {
                        message.set_matchtag(tag);
                        write(&state, to, &message);
                    }
                    None => state.responses.push(message),
                }
                true
            } else {
                answer(&mut state, job, nshells, from, &message)
            };
            shared.changed.notify_all();
            if !goes_on {
                socket.shutdown(std::net::Shutdown::Both).unwrap();
                return;
            }
        }
    }
}

fn serve(listener: &UnixListener, shared: &Arc<Shared>, job: &Value, nshells: usize) {
    while let Ok((mut socket, _)) = listener.accept() {
        if socket.write_all(&[0]).is_err() {
            continue;
        }
        let from = {
            let mut state = shared.state.lock().unwrap();
            state.sockets.push(socket.try_clone().unwrap());
            state.sockets.len() - 1
        };
        let (shared, job) = (Arc::clone(shared), job.clone());
        std::thread::spawn(move || connection(socket, from, &shared, &job, nshells));
    }
}

struct Run {
    child: Child,
    others: Vec<Child>,
    shared: Arc<Shared>,
    dir: tempfile::TempDir,
}

/// One shell on rank 3 with `ntasks` tasks.
fn run_with(command: &[&str], ntasks: u32, options: Value, cut: Option<(&str, bool)>) -> Run {
    let cores = if ntasks == 1 { "0".to_string() } else { format!("0-{}", ntasks - 1) };
    let r = json!({"version": 1, "execution": {
        "R_lite": [{"rank": "3", "children": {"core": cores}}],
        "nodelist": ["host3"], "starttime": 0, "expiration": 0}});
    start(command, ntasks, options, &r, 1, cut)
}

/// Two shells with two tasks each.
fn run_on_two(command: &[&str], options: Value) -> Run {
    let r = json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0-1"}}],
        "nodelist": ["host[0-1]"], "starttime": 0, "expiration": 0}});
    start(command, 4, options, &r, 2, None)
}

fn start(
    command: &[&str],
    ntasks: u32,
    options: Value,
    r: &Value,
    nshells: usize,
    cut: Option<(&str, bool)>,
) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local");
    let listener = UnixListener::bind(&path).unwrap();
    let spec = |environment: Value| {
        json!({
            "version": 1,
            "resources": [{"type": "slot", "count": ntasks, "label": "task",
                "with": [{"type": "core", "count": 1}]}],
            "tasks": [{"command": command, "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {"system": {"duration": 0, "cwd": dir.path(), "environment": environment,
                "shell": {"options": options}}},
        })
    };
    let env = json!({"PATH": "/bin:/usr/bin", "FROM_JOB": "yes"});
    let signed = flux_model::sign::wrap_none(spec(env).to_string().as_bytes(), 0);
    let job = json!({"id": ID, "jobspec": spec(json!({})), "R": r, "J": signed});
    let shared = Arc::new(Shared::default());
    shared.state.lock().unwrap().cut = cut.map(|(topic, applied)| (topic.to_string(), applied));
    let serving = Arc::clone(&shared);
    std::thread::spawn(move || serve(&listener, &serving, &job, nshells));
    // The shell wants signals for itself, and the test harness has other threads.
    let spawn = || {
        Command::new("env")
            .arg("--block-signal=TERM")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "shell_process", "--nocapture"])
            .env("FLUX_TEST_SHELL", "1")
            .env("FLUX_URI", format!("local://{}", path.display()))
            .env("FROM_SHELL", "no")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let child = spawn();
    let others = (1..nshells).map(|_| spawn()).collect();
    Run { child, others, shared, dir }
}

fn run(command: &[&str], ntasks: u32, options: Value) -> Run {
    run_with(command, ntasks, options, None)
}

struct Done {
    code: i32,
    logs: BTreeMap<String, String>,
    topics: Vec<String>,
    raised: Vec<Value>,
    dir: tempfile::TempDir,
}

impl Run {
    fn finish(mut self) -> Done {
        let mut code = self.child.wait().unwrap().code().unwrap();
        for other in &mut self.others {
            code = code.max(other.wait().unwrap().code().unwrap());
        }
        let state = self.shared.state.lock().unwrap();
        Done {
            code,
            logs: state.logs.clone(),
            topics: state.topics.clone(),
            raised: state.raised.clone(),
            dir: self.dir,
        }
    }

    fn send(&self, message: &Message) {
        let state = self.shared.state.lock().unwrap();
        for socket in &mut state.sockets.iter() {
            let mut socket: &UnixStream = socket;
            socket.write_all(&encode(message)).unwrap();
        }
    }

    fn request(&self, method: &str, body: &Value, tag: u32) {
        let service = format!("{}-shell-{}", rustix::process::getuid().as_raw(), plain());
        let mut message = Message::request(format!("{service}.{method}")).with_json(body);
        message.set_matchtag(tag);
        message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
        self.send(&message);
    }
}

fn plain() -> String {
    flux_id::JobId(ID).f58plain()
}

impl Done {
    fn events(&self, log: &str) -> Vec<Value> {
        let text = self.logs.get(log).map_or("", String::as_str);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn names(&self, log: &str) -> Vec<String> {
        let name = |event: &Value| event["name"].as_str().unwrap().to_string();
        self.events(log).iter().map(name).collect()
    }

    fn data(&self, stream: &str, rank: &str) -> String {
        self.events("output")
            .iter()
            .filter(|event| event["name"] == "data")
            .map(|event| &event["context"])
            .filter(|context| context["stream"] == stream && context["rank"] == rank)
            .filter_map(|context| context["data"].as_str())
            .collect()
    }
}

#[test]
fn a_task_without_output_costs_six_requests() {
    let done = run(&["true"], 1, json!({})).finish();
    assert_eq!(done.code, 0);
    assert_eq!(done.names("exec.eventlog"), ["shell.init", "shell.start", "shell.task-exit"]);
    assert_eq!(done.names("output"), ["header", "data", "data"]);
    let init = &done.events("exec.eventlog")[0]["context"];
    assert_eq!((init["leader-rank"].as_u64(), init["size"].as_u64()), (Some(3), Some(1)));
    let map = &done.events("exec.eventlog")[1]["context"]["taskmap"];
    assert_eq!(*map, json!({"version": 1, "map": [[0, 1, 1, 1]]}));
    assert!(done.topics.len() <= 6, "{:?}", done.topics);
    assert!(!done.dir.path().join(format!("jobtmp-0-{}", flux_id::JobId(ID).f58())).exists());
}

#[test]
fn the_highest_exit_code_wins() {
    let script = "exit $((3 - FLUX_TASK_RANK))";
    let done = run(&["sh", "-c", script], 2, json!({})).finish();
    assert_eq!(done.code, 3);
    let exits: Vec<String> = done.names("exec.eventlog");
    assert_eq!(exits.iter().filter(|name| *name == "shell.task-exit").count(), 1);
}

#[test]
fn a_missing_command_is_127_and_ends_the_job() {
    let done = run(&["no-such-command"], 1, json!({})).finish();
    assert_eq!(done.code, 127);
    let text = "task 0 (host host3): start failed: no-such-command: No such file or directory";
    assert_eq!(done.raised[0]["note"], text);
    assert_eq!((&done.raised[0]["type"], &done.raised[0]["severity"]), (&json!("exec"), &json!(0)));
    let log = done.events("output").into_iter().find(|event| event["name"] == "log").unwrap();
    assert_eq!(log["context"]["message"], text);
    assert_eq!(done.names("exec.eventlog"), ["shell.init"]);
}

#[test]
fn a_file_that_is_no_program_is_126() {
    let done = run(&["/etc/passwd"], 1, json!({})).finish();
    assert_eq!(done.code, 126);
    assert!(done.raised[0]["note"].as_str().unwrap().ends_with("Permission denied"));
}

#[test]
fn both_streams_of_all_tasks_are_recorded() {
    let script = "echo out $FROM_JOB $FROM_SHELL; echo err >&2; printf '\\377'";
    let done = run(&["sh", "-c", script], 2, json!({})).finish();
    for rank in ["0", "1"] {
        assert!(done.data("stdout", rank).starts_with("out yes\n"), "{:?}", done.logs);
        assert_eq!(done.data("stderr", rank), "err\n");
    }
    let base64 = done.events("output");
    let base64 = base64.iter().filter(|event| event["context"]["encoding"] == "base64");
    assert_eq!(base64.count(), 2);
    let eofs = done.events("output");
    assert_eq!(eofs.iter().filter(|event| event["context"]["eof"] == true).count(), 4);
}

#[test]
fn much_output_arrives_in_order() {
    let done = run(&["seq", "1", "200000"], 1, json!({})).finish();
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(done.data("stdout", "0") == expected);
}

#[test]
fn output_goes_to_files() {
    let options = json!({"output": {"stdout": {"type": "file", "path": "out-{{taskid}}"}}});
    let done = run(&["sh", "-c", "echo $FLUX_TASK_RANK"], 2, options).finish();
    let read = |name: &str| std::fs::read_to_string(done.dir.path().join(name)).unwrap();
    assert_eq!((read("out-0"), read("out-1")), ("0\n".to_string(), "1\n".to_string()));
    assert_eq!(done.names("output"), ["header", "redirect", "redirect"]);
}

#[test]
fn a_kill_event_reaches_the_tasks() {
    let run = run(&["sh", "-c", "echo ready; sleep 60"], 1, json!({}));
    drop(
        run.shared.wait("output", |state| {
            state.logs.get("output").is_some_and(|log| log.contains("ready"))
        }),
    );
    let event = Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 15}));
    run.send(&event);
    let done = run.finish();
    assert_eq!(done.code, 143);
    let exit = &done.events("exec.eventlog")[2]["context"];
    assert_eq!((&exit["signaled"], &exit["wait_status"]), (&json!(15), &json!(15)));
}

#[test]
fn a_signal_to_the_shell_reaches_the_tasks() {
    let run = run(
        &["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"],
        1,
        json!({}),
    );
    drop(
        run.shared.wait("output", |state| {
            state.logs.get("output").is_some_and(|log| log.contains("ready"))
        }),
    );
    let pid = rustix::process::Pid::from_child(&run.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.finish().code, 5);
}

#[test]
fn stdin_is_recorded_and_reaches_the_task() {
    let run = run(&["cat"], 1, json!({}));
    drop(run.shared.wait("start", |state| {
        state.logs.get("exec.eventlog").is_some_and(|log| log.contains("shell.start"))
    }));
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "data": "hello\n"}), 1);
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "eof": true}), 2);
    run.request("stdin", &json!({"stream": "stdin", "rank": "all", "data": "late"}), 3);
    let shared = Arc::clone(&run.shared);
    let done = run.finish();
    assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "hello\n"));
    assert_eq!(done.names("input"), ["header", "data", "data"]);
    let state = shared.state.lock().unwrap();
    let errors: Vec<u32> = state.responses.iter().map(|response| response.errnum().0).collect();
    assert!(errors.starts_with(&[0, 0]) && errors.get(2).is_none_or(|errno| *errno == 32));
}

#[test]
fn a_broker_that_goes_away_costs_no_output_and_doubles_none() {
    for applied in [false, true] {
        let script = "echo one; sleep 0.05; echo two";
        let cut = Some(("kvs.commit", applied));
        let done = run_with(&["sh", "-c", script], 1, json!({}), cut).finish();
        assert_eq!(done.code, 0);
        assert_eq!(done.data("stdout", "0"), "one\ntwo\n", "applied: {applied}");
        let names = done.names("exec.eventlog");
        assert_eq!(names, ["shell.init", "shell.start", "shell.task-exit"], "applied: {applied}");
    }
}

#[test]
fn a_late_task_is_ended_when_the_exit_timeout_is_over() {
    let script = "test $FLUX_TASK_RANK = 0 && exit 1; sleep 60";
    let run = run(&["sh", "-c", script], 2, json!({"exit-timeout": "50ms"}));
    drop(run.shared.wait("exception", |state| !state.raised.is_empty()));
    let event = Message::event(format!("shell-{ID}.kill")).with_json(&json!({"signum": 9}));
    run.send(&event);
    let done = run.finish();
    let text = "sh: task rank 0 on host host3 exited (Exit 1) and exit-timeout=0.05s has expired";
    assert_eq!((done.code, &done.raised[0]["note"]), (137, &json!(text)));
    assert_eq!(done.raised[0]["wait_status"], 256);
}

#[test]
fn pmi_is_served() {
    // A client of a few lines: it asks for the level of the instance.
    let script = r#"eval "exec 9<>/dev/fd/$PMI_FD" 2>/dev/null || :
        ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; echo "$line"; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname' >/dev/null
        ask "cmd=barrier_in"
        ask 'cmd=finalize'"#;
    let done = run(&["bash", "-c", script], 2, json!({})).finish();
    for rank in ["0", "1"] {
        let text = done.data("stdout", rank);
        assert!(text.contains("cmd=barrier_out rc=0"), "{text}");
        assert!(text.contains("cmd=finalize_ack"), "{text}");
    }
}

#[test]
fn a_terminal_is_captured() {
    let done = run(&["sh", "-c", "test -t 0 && tty; echo hi"], 1, json!({"pty": 1})).finish();
    assert_eq!(done.code, 0);
    let text = done.data("stdout", "0");
    assert!(text.starts_with("/dev/pts/") && text.ends_with("hi\r\n"), "{text:?}");
}

#[test]
fn an_interactive_terminal_waits_for_its_client() {
    let run = run(&["cat"], 1, json!({"pty": {"interactive": 1}}));
    drop(run.shared.wait("start", |state| {
        state.logs.get("exec.eventlog").is_some_and(|log| log.contains("shell.start"))
    }));
    let service = format!("{}-shell-{}", rustix::process::getuid().as_raw(), plain());
    let attach = json!({"type": "attach", "mode": "rw", "winsize": {"rows": 24, "cols": 80}});
    let mut message =
        Message::request(format!("{service}.terminus.0")).with_json(&attach).with_streaming();
    message.set_matchtag(1);
    message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
    run.send(&message);
    run.request("terminus.0", &json!({"type": "data", "data": "abc\n\u{4}"}), 2);
    let shared = Arc::clone(&run.shared);
    let done = run.finish();
    assert_eq!(done.code, 0);
    assert_eq!(done.events("exec.eventlog")[0]["context"]["pty"], "terminus.0");
    assert_eq!(done.data("stdout", "0"), "", "not captured");
    let state = shared.state.lock().unwrap();
    let bodies: Vec<Value> = state.responses.iter().filter_map(|m| m.json().ok()).collect();
    let kinds: Vec<&str> = bodies.iter().filter_map(|body| body["type"].as_str()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"attach"), Some(&"exit")));
    let text: String = bodies.iter().filter_map(|body| body["data"].as_str()).collect();
    assert!(text.contains("abc\r\nabc\r\n"), "{text:?}");
}

#[test]
fn two_shells_record_through_the_leader() {
    let script = "echo task $FLUX_TASK_RANK of $FLUX_JOB_SIZE; exit $FLUX_TASK_RANK";
    let done = run_on_two(&["sh", "-c", script], json!({})).finish();
    assert_eq!(done.code, 3);
    for rank in 0..4 {
        let text = done.data("stdout", &rank.to_string());
        assert_eq!(text, format!("task {rank} of 4\n"), "{:?}", done.logs);
    }
    let names = done.names("exec.eventlog");
    for name in ["shell.init", "shell.start", "shell.task-exit"] {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{names:?}");
    }
    let eofs = done.events("output");
    assert_eq!(eofs.iter().filter(|event| event["context"]["eof"] == true).count(), 8);
}

#[test]
fn two_shells_exchange_pmi_keys() {
    let script = r#"ask() { printf '%s\n' "$1" >&$PMI_FD; IFS= read -r line <&$PMI_FD; }
        ask 'cmd=init pmi_version=1 pmi_subversion=1'
        ask 'cmd=get_my_kvsname'; kvs=${line##*kvsname=}; kvs=${kvs%% *}
        ask "cmd=put kvsname=$kvs key=k$PMI_RANK value=v$PMI_RANK"
        ask "cmd=barrier_in"
        for i in 0 1 2 3; do ask "cmd=get kvsname=$kvs key=k$i"; echo "${line##*value=}"; done
        ask 'cmd=finalize'"#;
    let done = run_on_two(&["bash", "-c", script], json!({})).finish();
    assert_eq!(done.code, 0);
    for rank in 0..4 {
        assert_eq!(done.data("stdout", &rank.to_string()), "v0\nv1\nv2\nv3\n");
    }
}

#[test]
fn input_reaches_the_tasks_of_all_shells() {
    let run = run_on_two(&["cat"], json!({}));
    let leader = {
        let state = run.shared.wait("start", |state| {
            state.logs.get("exec.eventlog").is_some_and(|log| log.contains("shell.start"))
        });
        state.sockets[0].try_clone().unwrap()
    };
    let service = format!("{}-shell-{}", rustix::process::getuid().as_raw(), plain());
    for body in [
        json!({"stream": "stdin", "rank": "3", "data": "three\n"}),
        json!({"stream": "stdin", "rank": "all", "data": "all\n", "eof": true}),
    ] {
        let mut message = Message::request(format!("{service}.stdin")).with_json(&body);
        message.set_matchtag(1);
        message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
        (&leader).write_all(&encode(&message)).unwrap();
    }
    let done = run.finish();
    assert_eq!((done.code, done.data("stdout", "0").as_str()), (0, "all\n"));
    assert_eq!(done.data("stdout", "3"), "three\nall\n");
}
