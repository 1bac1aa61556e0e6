//! The brokers of an instance, as far as shells see them: one socket per shell, one store.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_model::treeobj::Treeobj;
use flux_proto::{Cred, Decoder, Errno, Message, MsgType, Rolemask, encode};
use serde_json::{Value, json};

pub(crate) const ID: u64 = 4242;

/// A request of one shell to another.
struct Forwarded {
    from: usize,
    to: usize,
    tag: u32,
}

/// What a broker does with a request instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The connection is lost before the request took effect.
    CutBefore,
    /// The connection is lost after that.
    CutAfter,
    /// The request is answered with this error, having taken effect.
    FailAfter(Errno),
    /// The request is answered with this error.
    FailBefore(Errno),
}

#[derive(Default)]
pub(crate) struct State {
    /// What was appended to each key, by commit.
    pub(crate) pieces: BTreeMap<String, Vec<String>>,
    pub(crate) topics: Vec<String>,
    pub(crate) raised: Vec<Value>,
    /// The connection of each shell, if it has one.
    sockets: Vec<Option<UnixStream>>,
    /// Shells that have registered since they connected.
    registered: Vec<bool>,
    /// Brokers that were killed.
    down: Vec<bool>,
    /// How often each shell has connected.
    pub(crate) connections: Vec<usize>,
    forwarded: BTreeMap<u32, Forwarded>,
    next_tag: u32,
    barrier: BTreeMap<usize, Message>,
    /// Barriers that all shells have passed.
    barriers: u64,
    /// This shell hears of barriers that were passed when the test says so.
    pub(crate) slow: Option<usize>,
    late: Vec<Message>,
    /// Responses to requests that the test made.
    pub(crate) responses: Vec<Message>,
    /// What happens to the next requests with a topic that ends so.
    pub(crate) fates: Vec<(String, Fate)>,
    /// Commits wait until this is false.
    pub(crate) store_hangs: bool,
}

impl State {
    pub(crate) fn log(&self, key: &str) -> String {
        self.pieces.get(key).map(|pieces| pieces.concat()).unwrap_or_default()
    }
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
}

impl Shared {
    pub(crate) fn wait(&self, what: &str, f: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let until = Instant::now() + Duration::from_secs(60);
        let mut state = self.state.lock().unwrap();
        while !f(&state) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come: {:?} {:?}", state.pieces, state.topics);
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        state
    }

    pub(crate) fn wait_for_output(&self, text: &str) {
        drop(self.wait(text, |state| state.log("output").contains(text)));
    }
}

fn apply(state: &mut State, request: &Message) {
    if request.topic() != "kvs.commit" {
        return;
    }
    let body: Value = request.json().unwrap();
    assert_eq!(body["namespace"], format!("job-{ID}"));
    for op in body["ops"].as_array().unwrap() {
        assert_eq!(op["flags"], 32, "only appends");
        let Treeobj::Val(data) = Treeobj::from_value(&op["dirent"]).unwrap() else { panic!() };
        let log = state.pieces.entry(op["key"].as_str().unwrap().to_string()).or_default();
        log.push(String::from_utf8(data).unwrap());
    }
}

fn lookup(state: &State, request: &Message) -> Message {
    let body: Value = request.json().unwrap();
    let Some(pieces) = state.pieces.get(body["key"].as_str().unwrap()) else {
        return Message::error_to(request, Errno::ENOENT, None);
    };
    let val = if body["flags"] == 16 && pieces.len() > 1 {
        let refs: Vec<String> = (0..pieces.len()).map(|n| format!("sha1-{n:040x}")).collect();
        json!({"ver": 1, "type": "valref", "data": refs})
    } else {
        Treeobj::val(pieces.concat().into_bytes()).to_value()
    };
    Message::response_to(request).with_json(&json!({ "val": val }))
}

fn write(state: &State, to: usize, message: &Message) {
    if let Some(mut socket) = state.sockets[to].as_ref() {
        // A shell that has gone takes nothing.
        drop(socket.write_all(&encode(message)));
    }
}

/// Handles a request of shell `from`; false cuts the connection.
fn answer(state: &mut State, job: &Value, from: usize, request: &Message) -> bool {
    let topic = request.topic().to_string();
    state.topics.push(topic.clone());
    // A fate may be for one attribute.
    let name =
        request.json::<Value>().ok().and_then(|body| body["name"].as_str().map(str::to_string));
    let full = name.map_or_else(|| topic.clone(), |name| format!("{topic} {name}"));
    let meant = |of: &str| topic.ends_with(of) || full.ends_with(of);
    if let Some(at) = state.fates.iter().position(|(of, _)| meant(of)) {
        let (_, fate) = state.fates.remove(at);
        match fate {
            Fate::CutBefore => return false,
            Fate::CutAfter | Fate::FailAfter(_) if topic == "kvs.commit" => apply(state, request),
            Fate::CutAfter | Fate::FailAfter(_) => pass_on(state, from, request),
            Fate::FailBefore(_) => {}
        }
        match fate {
            Fate::CutAfter | Fate::CutBefore => return false,
            Fate::FailAfter(errno) | Fate::FailBefore(errno) => {
                write(state, from, &Message::error_to(request, errno, None));
                return true;
            }
        }
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
        "kvs.lookup" => lookup(state, request),
        "job-manager.raise" => {
            state.raised.push(request.json().unwrap());
            ok
        }
        "job-exec.shell-barrier" => {
            let body: Value = request.json().unwrap();
            if body["passed"].as_u64().unwrap() < state.barriers {
                // The answer was lost: nobody else will enter it again.
                write(state, from, &ok);
                return true;
            }
            state.barrier.insert(from, request.clone());
            if state.barrier.len() == state.sockets.len() {
                state.barriers += 1;
                for (to, request) in std::mem::take(&mut state.barrier) {
                    let response = Message::response_to(&request);
                    match state.slow == Some(to) {
                        true => state.late.push(response),
                        false => write(state, to, &response),
                    }
                }
            }
            return true;
        }
        "service.add" => {
            state.registered[from] = true;
            ok
        }
        "event.subscribe" => ok,
        other if other.contains("-shell-") => {
            pass_on(state, from, request);
            return true;
        }
        other => panic!("unexpected request {other}"),
    };
    write(state, from, &response);
    true
}

/// A request of one shell to another.
fn pass_on(state: &mut State, from: usize, request: &Message) {
    let to = request.nodeid() as usize;
    if state.sockets[to].is_none() || !state.registered[to] {
        let errno = if state.down[to] { Errno::EHOSTUNREACH } else { Errno::ENOSYS };
        return write(state, from, &Message::error_to(request, errno, None));
    }
    state.next_tag += 1;
    let tag = 100_000 + state.next_tag;
    state.forwarded.insert(tag, Forwarded { from, to, tag: request.matchtag() });
    let mut message = request.clone();
    message.set_matchtag(tag);
    message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
    write(state, to, &message);
}

/// The connection of a shell is gone: what it was asked is answered for it.
fn lost(state: &mut State, from: usize) {
    state.sockets[from] = None;
    state.registered[from] = false;
    state.barrier.remove(&from);
    let open = std::mem::take(&mut state.forwarded);
    for (tag, forwarded) in open {
        if forwarded.to == from {
            let mut response = Message::error_to(&Message::request("x"), Errno::EHOSTUNREACH, None);
            response.set_matchtag(forwarded.tag);
            write(state, forwarded.from, &response);
        } else if forwarded.from != from {
            state.forwarded.insert(tag, forwarded);
        }
    }
}

fn connection(mut socket: UnixStream, from: usize, number: usize, shared: &Shared, job: &Value) {
    let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
    let mut buffer = [0; 65536];
    loop {
        let count = socket.read(&mut buffer).unwrap_or(0);
        let mut state = shared.state.lock().unwrap();
        if state.connections[from] != number {
            return;
        }
        let mut goes_on = count > 0;
        input.extend_from_slice(&buffer[..count]);
        while goes_on && let Ok(Some(mut message)) = decoder.next(&mut input) {
            if message.kind == MsgType::Response {
                match state.forwarded.remove(&message.matchtag()) {
                    Some(forwarded) => {
                        message.set_matchtag(forwarded.tag);
                        write(&state, forwarded.from, &message);
                    }
                    None => state.responses.push(message),
                }
            } else {
                while state.store_hangs && message.topic() == "kvs.commit" {
                    state = shared.changed.wait(state).unwrap();
                }
                goes_on = answer(&mut state, job, from, &message);
            }
            shared.changed.notify_all();
        }
        if !goes_on {
            drop(socket.shutdown(std::net::Shutdown::Both));
            lost(&mut state, from);
            shared.changed.notify_all();
            return;
        }
    }
}

/// What is needed to start a broker for a shell, again and again.
#[derive(Clone)]
struct Place {
    shared: Arc<Shared>,
    job: Value,
    shell: usize,
}

fn serve(place: Place, path: &std::path::Path) {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_path_buf();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            // Removed when the broker is to be gone.
            if !path.exists() || socket.write_all(&[0]).is_err() {
                return;
            }
            let number = {
                let mut state = place.shared.state.lock().unwrap();
                state.sockets[place.shell] = Some(socket.try_clone().unwrap());
                state.registered[place.shell] = false;
                state.connections[place.shell] += 1;
                place.shared.changed.notify_all();
                state.connections[place.shell]
            };
            let place = place.clone();
            std::thread::spawn(move || {
                connection(socket, place.shell, number, &place.shared, &place.job);
            });
        }
    });
}

pub(crate) struct Run {
    pub(crate) children: Vec<Child>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: tempfile::TempDir,
    job: Value,
}

/// How the shells are started.
pub(crate) struct Setting {
    pub(crate) command: Vec<String>,
    pub(crate) ntasks: u32,
    pub(crate) nshells: usize,
    pub(crate) options: Value,
    pub(crate) fates: Vec<(String, Fate)>,
    /// How long shells go on without broker.
    pub(crate) patience: &'static str,
    pub(crate) expiration: f64,
    /// A shell that hears late of barriers.
    pub(crate) slow: Option<usize>,
}

impl Setting {
    pub(crate) fn new(command: &[&str]) -> Self {
        Self {
            command: command.iter().map(|word| (*word).to_string()).collect(),
            ntasks: 1,
            nshells: 1,
            options: json!({}),
            fates: Vec::new(),
            patience: "1m",
            expiration: 0.0,
            slow: None,
        }
    }

    pub(crate) fn fate(mut self, topic: &str, fate: Fate) -> Self {
        self.fates.push((topic.to_string(), fate));
        self
    }

    pub(crate) fn start(self) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let cores = (self.ntasks as usize).div_ceil(self.nshells) - 1;
        let (ranks, hosts) = match self.nshells {
            1 => ("0".to_string(), "host3".to_string()),
            n => (format!("0-{}", n - 1), format!("host[0-{}]", n - 1)),
        };
        let r = json!({"version": 1, "execution": {
            "R_lite": [{"rank": ranks, "children": {"core": format!("0-{cores}")}}],
            "nodelist": [hosts], "starttime": 0, "expiration": self.expiration}});
        let spec = |environment: Value| {
            json!({
                "version": 1,
                "resources": [{"type": "slot", "count": self.ntasks, "label": "task",
                    "with": [{"type": "core", "count": 1}]}],
                "tasks": [{"command": self.command, "slot": "task", "count": {"per_slot": 1}}],
                "attributes": {"system": {"duration": 0, "cwd": dir.path(),
                    "environment": environment, "shell": {"options": self.options}}},
            })
        };
        let env = json!({"PATH": "/bin:/usr/bin", "FROM_JOB": "yes"});
        let signed = flux_model::sign::wrap_none(spec(env).to_string().as_bytes(), 0);
        let job = json!({"id": ID, "jobspec": spec(json!({})), "R": r, "J": signed});
        let shared = Arc::new(Shared::default());
        {
            let mut state = shared.state.lock().unwrap();
            state.fates = self.fates;
            state.slow = self.slow;
            state.sockets = (0..self.nshells).map(|_| None).collect();
            state.registered = vec![false; self.nshells];
            state.down = vec![false; self.nshells];
            state.connections = vec![0; self.nshells];
        }
        let mut run = Run { children: Vec::new(), shared, dir, job };
        for shell in 0..self.nshells {
            run.broker(shell, "local");
            let child = run.spawn(shell, self.patience);
            run.children.push(child);
        }
        run
    }
}

/// One shell with `ntasks` tasks.
pub(crate) fn run(command: &[&str], ntasks: u32, options: Value) -> Run {
    Setting { ntasks, options, ..Setting::new(command) }.start()
}

/// Two shells with two tasks each.
pub(crate) fn run_on_two(command: &[&str], options: Value) -> Run {
    Setting { ntasks: 4, nshells: 2, options, ..Setting::new(command) }.start()
}

pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) pieces: BTreeMap<String, Vec<String>>,
    pub(crate) topics: Vec<String>,
    pub(crate) raised: Vec<Value>,
    pub(crate) dir: tempfile::TempDir,
}

impl Run {
    fn path(&self, shell: usize, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}-{shell}"))
    }

    /// Starts the broker of a shell.
    pub(crate) fn broker(&self, shell: usize, name: &str) {
        self.shared.state.lock().unwrap().down[shell] = false;
        let place = Place { shared: Arc::clone(&self.shared), job: self.job.clone(), shell };
        serve(place, &self.path(shell, name));
    }

    /// Writes the file that says where the broker of a shell is.
    pub(crate) fn announce(&self, shell: usize, name: &str) {
        let uri = format!("local://{}", self.path(shell, name).display());
        std::fs::write(self.path(shell, "uri"), uri).unwrap();
    }

    /// Kills the broker of a shell.
    pub(crate) fn kill_broker(&self, shell: usize, name: &str) {
        let path = self.path(shell, name);
        std::fs::rename(&path, path.with_extension("gone")).unwrap();
        // Wakes it, so that it sees that it is gone.
        drop(UnixStream::connect(path.with_extension("gone")));
        let mut state = self.shared.state.lock().unwrap();
        if let Some(socket) = &state.sockets[shell] {
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
        state.connections[shell] += 1;
        state.down[shell] = true;
        lost(&mut state, shell);
        self.shared.changed.notify_all();
    }

    // The shell wants signals for itself, and the test harness has other threads.
    fn spawn(&self, shell: usize, patience: &str) -> Child {
        Command::new("env")
            .arg("--block-signal=TERM")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "shell_process", "--nocapture"])
            .env("FLUX_TEST_SHELL", "1")
            .env("FLUX_URI", format!("local://{}", self.path(shell, "local").display()))
            .env("FLUX_SHELL_BROKER_TIMEOUT", patience)
            .env("FLUX_SHELL_URI_FILE", self.path(shell, "uri"))
            .env("FROM_SHELL", "no")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn finish(mut self) -> Done {
        let codes =
            self.children.iter_mut().map(|child| child.wait().unwrap().code().unwrap_or(255));
        let code = codes.max().unwrap();
        let state = self.shared.state.lock().unwrap();
        Done {
            code,
            pieces: state.pieces.clone(),
            topics: state.topics.clone(),
            raised: state.raised.clone(),
            dir: self.dir,
        }
    }

    /// Sends a message to all shells; it is the instance owner's unless it says whose.
    pub(crate) fn send(&self, message: &Message) {
        let mut message = message.clone();
        if message.cred == Cred::UNKNOWN {
            message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
        }
        let state = self.shared.state.lock().unwrap();
        for to in 0..state.sockets.len() {
            write(&state, to, &message);
        }
    }

    /// Tells the slow shell of the barriers that were passed, and from now on at once.
    pub(crate) fn hurry(&self) {
        let mut state = self.shared.state.lock().unwrap();
        if let Some(shell) = state.slow.take() {
            for response in std::mem::take(&mut state.late) {
                write(&state, shell, &response);
            }
        }
    }

    /// Sends a request to the leader.
    pub(crate) fn request(&self, method: &str, body: &Value, tag: u32) {
        self.request_to(0, method, body, tag);
    }

    /// Sends a request to a shell.
    pub(crate) fn request_to(&self, shell: usize, method: &str, body: &Value, tag: u32) {
        let mut message = Message::request(format!("{}.{method}", service())).with_json(body);
        message.set_matchtag(tag);
        message.cred = Cred { userid: 0, rolemask: Rolemask::OWNER };
        write(&self.shared.state.lock().unwrap(), shell, &message);
    }
}

pub(crate) fn service() -> String {
    format!("{}-shell-{}", rustix::process::getuid().as_raw(), flux_id::JobId(ID).f58plain())
}

impl Done {
    pub(crate) fn events(&self, log: &str) -> Vec<Value> {
        let text = self.pieces.get(log).map(|pieces| pieces.concat()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn names(&self, log: &str) -> Vec<String> {
        let name = |event: &Value| event["name"].as_str().unwrap().to_string();
        self.events(log).iter().map(name).collect()
    }

    pub(crate) fn data(&self, stream: &str, rank: &str) -> String {
        self.events("output")
            .iter()
            .filter(|event| event["name"] == "data")
            .map(|event| &event["context"])
            .filter(|context| context["stream"] == stream && context["rank"] == rank)
            .filter_map(|context| context["data"].as_str())
            .collect()
    }
}
