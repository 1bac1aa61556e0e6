//! A cluster in one thread, with links that deliver at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use flux_api::RpcError;
use flux_proto::{Cred, Errno, Message, MsgType, NODEID_ANY, Rolemask, RouteId};
use flux_svc::engine::{ClientId, Engine, Input, LinkId, Output};
use flux_svc::{Clock, Level, Module, Out, Port, Way};
use serde_json::{Map, Value, json};

use crate::{Node, NodeConfig, Topology};

pub(crate) const OWNER: u32 = 1000;
pub(crate) const GUEST: u32 = 1001;

/// What the test modules of one broker have seen and are told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Requests that `probe.hold` keeps.
    pub(crate) held: Vec<Message>,
    /// Answers that `probe.release` sends.
    pub(crate) late: Vec<Message>,
    /// Disconnects that reached `probe`.
    pub(crate) disconnects: Vec<Message>,
    /// Responses that reached `probe`.
    pub(crate) responses: Vec<Message>,
    /// Events that reached `probe`.
    pub(crate) events: Vec<Message>,
    /// What `life` was answered.
    pub(crate) joined: Vec<Result<Value, RpcError>>,
    /// What `life` was answered when it wanted to join again.
    pub(crate) rejoined: Vec<Result<Value, RpcError>>,
    /// What `probe` was told of the way to the leader.
    pub(crate) ways: Vec<Way>,
    pub(crate) orphaned: bool,
    pub(crate) started: Vec<Result<(), RpcError>>,
    pub(crate) posts: Vec<Value>,
    pub(crate) signals: Vec<Value>,
    pub(crate) order: Vec<String>,
    /// What `probe` was started with.
    pub(crate) config: Map<String, Value>,
}

pub(crate) type Shared = Rc<RefCell<Notes>>;

/// Joins, starts the modules, waits to be orphaned; what a life cycle service does.
pub(crate) struct Life {
    pub(crate) notes: Shared,
    pub(crate) start_modules: bool,
}

fn own(topic: &str, tag: u32) -> Out {
    let mut message = Message::request(topic);
    message.set_matchtag(tag);
    Out::Send(message)
}

impl Module for Life {
    fn name(&self) -> &'static str {
        "state-machine"
    }
    fn services(&self) -> &'static [&'static str] {
        &["state-machine"]
    }
    fn start(&mut self, port: &mut Port, _config: &Map<String, Value>) {
        port.out.push_back(own("overlay.join", 1));
        port.out.push_back(own("overlay.orphaned", 2));
        port.out.push_back(Out::Ready);
    }
    fn deliver(&mut self, port: &mut Port, message: Message) {
        let mut notes = self.notes.borrow_mut();
        let error = RpcError::of(&message);
        match (message.kind, message.topic()) {
            (MsgType::Response, "overlay.join") => {
                let ok = error.is_none();
                notes.joined.push(error.map_or_else(|| Ok(message.json().unwrap()), Err));
                if ok && self.start_modules {
                    port.out.push_back(own("broker.start-modules", 3));
                }
            }
            (MsgType::Response, "overlay.rejoin") => {
                notes.rejoined.push(error.map_or_else(|| Ok(message.json().unwrap()), Err));
            }
            (MsgType::Response, "overlay.orphaned") => notes.orphaned = true,
            (MsgType::Response, "broker.start-modules") => {
                notes.started.push(error.map_or(Ok(()), Err));
            }
            (MsgType::Request, "state-machine.post") => notes.posts.push(message.json().unwrap()),
            (MsgType::Request, "state-machine.signal") => {
                notes.signals.push(message.json().unwrap());
            }
            // Tests make this module join again, start modules, and so on.
            (MsgType::Request, "state-machine.do") => {
                let body: Value = message.json().unwrap();
                let mut out = own(body["topic"].as_str().unwrap(), 9);
                if let (Out::Send(message), Some(body)) = (&mut out, body.get("body")) {
                    *message = message.clone().with_json(body);
                }
                port.out.push_back(out);
            }
            _ => {}
        }
    }
    fn tick(&mut self, _port: &mut Port) {}
    fn next_deadline(&self) -> Option<u64> {
        None
    }
    fn drain(&mut self, port: &mut Port) {
        port.out.push_back(Out::Drained);
    }
    fn waits(&self, _now: u64) -> Vec<String> {
        Vec::new()
    }
}

/// A service for tests: `echo` answers at once, `hold` never, `fail` ends the module, ….
pub(crate) struct Probe {
    pub(crate) notes: Shared,
    pub(crate) name: &'static str,
    pub(crate) services: &'static [&'static str],
    /// Fails at start with this reason.
    pub(crate) broken: bool,
}

impl Module for Probe {
    fn name(&self) -> &'static str {
        self.name
    }
    fn services(&self) -> &'static [&'static str] {
        self.services
    }
    fn start(&mut self, port: &mut Port, config: &Map<String, Value>) {
        self.notes.borrow_mut().order.push(format!("start {}", self.name));
        self.notes.borrow_mut().config = config.clone();
        port.out.push_back(if self.broken { Out::Failed("broken".into()) } else { Out::Ready });
    }
    fn way(&mut self, _port: &mut Port, way: Way) {
        self.notes.borrow_mut().ways.push(way);
    }
    fn deliver(&mut self, port: &mut Port, message: Message) {
        let mut notes = self.notes.borrow_mut();
        match message.kind {
            MsgType::Response => notes.responses.push(message),
            MsgType::Event => notes.events.push(message),
            _ => match message.method() {
                "echo" => {
                    let body: Value = message.json().unwrap_or(Value::Null);
                    let body = json!({ "rank": port.rank, "body": body,
                        "userid": message.cred.userid, "rolemask": message.cred.rolemask.0 });
                    port.out.push_back(Out::Send(Message::response_to(&message).with_json(&body)));
                }
                "release" => port.out.extend(notes.late.drain(..).map(Out::Send)),
                "hold" => notes.held.push(message),
                "stream" => {
                    let item = Message::response_to(&message).with_json(&json!({ "item": 1 }));
                    port.out.push_back(Out::Send(item));
                    notes.held.push(message);
                }
                "disconnect" => notes.disconnects.push(message),
                "log" => port.out.push_back(Out::Log(Level::Err, "said so".into())),
                "fail" => port.out.push_back(Out::Failed("no reason".into())),
                "subscribe" => port.out.push_back(Out::Subscribe("test".into())),
                "publish" => port.out.push_back(Out::Send(Message::event("test.module"))),
                "ask" => {
                    let body: Value = message.json().unwrap();
                    let mut ask = Message::request(body["topic"].as_str().unwrap());
                    ask.set_matchtag(77);
                    ask.set_nodeid(body["rank"].as_u64().unwrap() as u32);
                    port.out.push_back(Out::Send(ask));
                }
                _ => {
                    let text = format!("Unknown service method '{}'", message.topic());
                    let refusal = Message::error_to(&message, Errno::ENOSYS, Some(&text));
                    port.out.push_back(Out::Send(refusal));
                }
            },
        }
    }
    fn tick(&mut self, _port: &mut Port) {}
    fn next_deadline(&self) -> Option<u64> {
        None
    }
    fn drain(&mut self, port: &mut Port) {
        self.notes.borrow_mut().order.push(format!("drain {}", self.name));
        port.out.push_back(Out::Drained);
    }
    fn waits(&self, _now: u64) -> Vec<String> {
        vec![format!("{} waits", self.name)]
    }
}

/// A client of one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub(crate) rank: u32,
    pub(crate) id: ClientId,
}

/// How brokers of a test are made.
pub(crate) type Maker = Box<dyn Fn(NodeConfig, &Shared) -> Node>;

pub(crate) fn standard(cfg: NodeConfig, notes: &Shared) -> Node {
    let life = Life { notes: notes.clone(), start_modules: true };
    let probe = Probe { notes: notes.clone(), name: "probe", services: &["probe"], broken: false };
    Node::new(cfg, vec![Box::new(life)], vec![Box::new(probe)])
}

/// The same, whose modules start when it is told so.
pub(crate) fn without_modules(cfg: NodeConfig, notes: &Shared) -> Node {
    let life = Life { notes: notes.clone(), start_modules: false };
    let probe = Probe { notes: notes.clone(), name: "probe", services: &["probe"], broken: false };
    Node::new(cfg, vec![Box::new(life)], vec![Box::new(probe)])
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) notes: Vec<Shared>,
    uri: String,
    topology: Topology,
    maker: Maker,
    clock: Clock,
    wires: BTreeMap<(u32, LinkId), (u32, LinkId)>,
    next: u64,
    incarnation: u64,
    /// Ranks that do not read their links.
    frozen: Vec<u32>,
    queue: VecDeque<(u32, Input)>,
    inboxes: BTreeMap<Caller, VecDeque<Message>>,
    pub(crate) driven: Vec<(u32, &'static str, Message)>,
    pub(crate) stderr: Vec<(u32, String)>,
    pub(crate) exits: Vec<(u32, i32)>,
    /// Ranks that listen since they got children.
    pub(crate) listening: Vec<u32>,
    /// What ranks were told to trust.
    pub(crate) trusted: Vec<(u32, Vec<String>)>,
    /// Keys of ranks that have one.
    pub(crate) keys: BTreeMap<u32, String>,
    tags: u32,
}

impl Cluster {
    pub(crate) fn new(uri: &str, size: u32) -> Self {
        Self::with(uri, size, Box::new(standard))
    }

    pub(crate) fn with(uri: &str, size: u32, maker: Maker) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            notes: Vec::new(),
            uri: uri.to_string(),
            topology: Topology::parse(uri, size, &[]).unwrap(),
            maker,
            clock: Clock { mono_us: 1_000_000, wall: 1_700_000_000.0 },
            wires: BTreeMap::new(),
            next: 1,
            incarnation: 0,
            frozen: Vec::new(),
            queue: VecDeque::new(),
            inboxes: BTreeMap::new(),
            driven: Vec::new(),
            stderr: Vec::new(),
            exits: Vec::new(),
            listening: Vec::new(),
            trusted: Vec::new(),
            keys: BTreeMap::new(),
            tags: 0,
        };
        for rank in 0..size {
            cluster.nodes.push(None);
            cluster.notes.push(Shared::default());
            cluster.launch(rank);
        }
        cluster.run();
        cluster
    }

    pub(crate) fn config(&self, rank: u32) -> NodeConfig {
        let uuid = format!("{rank:08x}-0000-4000-8000-{:012x}", self.incarnation);
        let mut cfg = NodeConfig::new(rank, self.topology.clone(), RouteId::from(uuid), OWNER);
        let hosts: Vec<String> =
            (0..self.topology.size()).map(|rank| format!("node{rank}")).collect();
        cfg.hostlist = Arc::from(hosts);
        cfg.own_key = self.keys.get(&rank).cloned();
        cfg.seed = self.incarnation * 1000 + u64::from(rank);
        cfg
    }

    /// Brokers that are started from now on know of so many.
    pub(crate) fn grow(&mut self, size: u32) {
        self.topology = Topology::parse(&self.uri, size, &[]).unwrap();
        while self.nodes.len() < size as usize {
            self.nodes.push(None);
            self.notes.push(Shared::default());
        }
    }

    /// The same, where there are less than before.
    pub(crate) fn shrink(&mut self, size: u32) {
        self.topology = Topology::parse(&self.uri, size, &[]).unwrap();
    }

    /// Starts a broker, in place of a former one if there was one.
    pub(crate) fn start(&mut self, rank: u32) {
        self.launch(rank);
        self.run();
    }

    /// Starts a broker that is made another way.
    pub(crate) fn remake(&mut self, rank: u32, maker: Maker) {
        self.maker = maker;
        self.start(rank);
    }

    fn launch(&mut self, rank: u32) {
        self.incarnation += 1;
        self.notes[rank as usize] = Shared::default();
        let cfg = self.config(rank);
        let mut node = (self.maker)(cfg, &self.notes[rank as usize]);
        node.start(self.clock);
        self.nodes[rank as usize] = Some(node);
        self.collect(rank);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, rank: u32) {
        self.nodes[rank as usize] = None;
        self.inboxes.retain(|caller, _| caller.rank != rank);
        let ends: Vec<_> = self.wires.keys().filter(|(at, _)| *at == rank).copied().collect();
        for end in ends {
            self.cut(end);
        }
        self.run();
    }

    fn cut(&mut self, end: (u32, LinkId)) {
        if let Some(other) = self.wires.remove(&end) {
            self.wires.remove(&other);
            self.queue.push_back((other.0, Input::LinkDown(other.1, "reset by peer".into())));
        }
    }

    /// Breaks the link of a rank to its parent; both live.
    pub(crate) fn break_uplink(&mut self, rank: u32) {
        let end = (rank, LinkId::PARENT);
        self.queue.push_back((rank, Input::LinkDown(LinkId::PARENT, "reset".into())));
        self.cut(end);
        self.run();
    }

    /// The same, and the parent does not hear of it.
    pub(crate) fn break_uplink_unseen(&mut self, rank: u32) {
        if let Some(other) = self.wires.remove(&(rank, LinkId::PARENT)) {
            self.wires.remove(&other);
        }
        self.queue.push_back((rank, Input::LinkDown(LinkId::PARENT, "reset".into())));
        self.run();
    }

    pub(crate) fn freeze(&mut self, rank: u32) {
        self.frozen.push(rank);
    }

    pub(crate) fn thaw(&mut self, rank: u32) {
        self.frozen.retain(|frozen| *frozen != rank);
        self.input(rank, Input::Tick);
    }

    pub(crate) fn input(&mut self, rank: u32, input: Input) {
        self.queue.push_back((rank, input));
        self.run();
    }

    fn run(&mut self) {
        let mut kept = VecDeque::new();
        while let Some((rank, input)) = self.queue.pop_front() {
            if self.frozen.contains(&rank) {
                kept.push_back((rank, input));
                continue;
            }
            if let Some(node) = self.nodes[rank as usize].as_mut() {
                node.input(self.clock, input);
                self.collect(rank);
            }
        }
        self.queue = kept;
    }

    fn collect(&mut self, rank: u32) {
        while let Some(output) = self.nodes[rank as usize].as_mut().and_then(Engine::poll) {
            self.output(rank, output);
        }
    }

    fn output(&mut self, rank: u32, output: Output) {
        match output {
            Output::Client(id, message) => {
                self.inboxes.entry(Caller { rank, id }).or_default().push_back(message);
            }
            Output::Link(link, message) => {
                if let Some((at, end)) = self.wires.get(&(rank, link)) {
                    // As bytes, so that nothing travels that bytes cannot carry.
                    let bytes = flux_proto::codec::encode_body(&message);
                    let message = flux_proto::decode_body(bytes).unwrap();
                    self.queue.push_back((*at, Input::Link(*end, message)));
                }
            }
            Output::CloseLink(link) => self.cut((rank, link)),
            Output::Trust(keys) => self.trusted.push((rank, keys)),
            Output::Adopt => self.listening.push(rank),
            Output::ConnectParent(parent) => {
                if self.nodes.get(parent as usize).is_some_and(Option::is_some) {
                    let link = LinkId(self.next);
                    self.next += 1;
                    self.wires.insert((rank, LinkId::PARENT), (parent, link));
                    self.wires.insert((parent, link), (rank, LinkId::PARENT));
                    if let Some(key) = self.keys.get(&rank) {
                        self.queue.push_back((parent, Input::LinkKey(link, key.clone())));
                    }
                    if let Some(key) = self.keys.get(&parent) {
                        let told = Input::LinkKey(LinkId::PARENT, key.clone());
                        self.queue.push_back((rank, told));
                    }
                    self.queue.push_back((parent, Input::LinkUp(link)));
                    self.queue.push_back((rank, Input::LinkUp(LinkId::PARENT)));
                } else {
                    let reason = "connection refused".to_string();
                    self.queue.push_back((rank, Input::LinkDown(LinkId::PARENT, reason)));
                }
            }
            Output::Driver(name, message) => self.driven.push((rank, name, message)),
            Output::Stderr(_, line) => self.stderr.push((rank, line)),
            Output::Exit(code) => self.exits.push((rank, code)),
            Output::CloseClient(_) | Output::Listen | Output::StopListening | Output::Notify(_) => {
            }
        }
    }

    /// Lets time pass, in steps of the brokers' own deadlines.
    pub(crate) fn advance(&mut self, us: u64) {
        let end = self.clock.mono_us + us;
        loop {
            let awake = |(rank, node): (usize, &Option<Node>)| match node {
                Some(node) if !self.frozen.contains(&(rank as u32)) => node.next_deadline(),
                _ => None,
            };
            let next = self.nodes.iter().enumerate().filter_map(awake).min();
            let at = next.filter(|at| *at <= end).unwrap_or(end).max(self.clock.mono_us);
            self.clock.wall += (at - self.clock.mono_us) as f64 / 1e6;
            self.clock.mono_us = at;
            for rank in 0..self.nodes.len() {
                self.queue.push_back((rank as u32, Input::Tick));
            }
            self.run();
            if next.is_none_or(|next| next > end) {
                return;
            }
        }
    }

    pub(crate) fn client(&mut self, rank: u32, userid: u32) -> Caller {
        let role = if userid == OWNER { Rolemask::OWNER } else { Rolemask::USER };
        let cred = Cred { userid, rolemask: role | Rolemask::LOCAL };
        let id = ClientId(self.next);
        self.next += 1;
        self.input(rank, Input::ClientJoined { client: id, cred, pid: 1 });
        Caller { rank, id }
    }

    pub(crate) fn leave(&mut self, caller: Caller) {
        self.input(caller.rank, Input::ClientLeft(caller.id));
    }

    pub(crate) fn send(&mut self, caller: Caller, message: Message) {
        self.input(caller.rank, Input::Client(caller.id, message));
    }

    /// Sends a request; its tag.
    pub(crate) fn ask(&mut self, caller: Caller, topic: &str, nodeid: u32, body: Value) -> u32 {
        self.ask_with(caller, topic, nodeid, body, |message| message)
    }

    pub(crate) fn stream(&mut self, caller: Caller, topic: &str, nodeid: u32, body: Value) -> u32 {
        self.ask_with(caller, topic, nodeid, body, Message::with_streaming)
    }

    pub(crate) fn ask_with(
        &mut self,
        caller: Caller,
        topic: &str,
        nodeid: u32,
        body: Value,
        f: impl FnOnce(Message) -> Message,
    ) -> u32 {
        self.tags += 1;
        let mut message = Message::request(topic).with_nodeid(nodeid);
        message.set_matchtag(self.tags);
        if !body.is_null() {
            message = message.with_json(&body);
        }
        self.send(caller, f(message));
        self.tags
    }

    /// Everything a client has received and not looked at.
    pub(crate) fn received(&mut self, caller: Caller) -> Vec<Message> {
        self.inboxes.remove(&caller).unwrap_or_default().into()
    }

    /// The responses to one request.
    pub(crate) fn answers(&mut self, caller: Caller, tag: u32) -> Vec<Result<Value, RpcError>> {
        let inbox = self.inboxes.entry(caller).or_default();
        let (mine, rest) = std::mem::take(inbox)
            .into_iter()
            .partition(|m: &Message| m.kind == MsgType::Response && m.matchtag() == tag);
        *inbox = rest;
        let mine: VecDeque<Message> = mine;
        mine.into_iter()
            .map(|message| match RpcError::of(&message) {
                Some(error) => Err(error),
                None => Ok(message.json().unwrap_or(Value::Null)),
            })
            .collect()
    }

    /// A request and its one response.
    pub(crate) fn call(
        &mut self,
        caller: Caller,
        topic: &str,
        nodeid: u32,
        body: Value,
    ) -> Result<Value, RpcError> {
        let tag = self.ask(caller, topic, nodeid, body);
        let mut answers = self.answers(caller, tag);
        assert_eq!(answers.len(), 1, "responses to {topic}");
        answers.remove(0)
    }

    pub(crate) fn any(&mut self, caller: Caller, topic: &str) -> Result<Value, RpcError> {
        self.call(caller, topic, NODEID_ANY, json!({}))
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.mono_us
    }

    pub(crate) fn logged(&self, rank: u32, text: &str) -> bool {
        self.stderr.iter().any(|(at, line)| *at == rank && line.contains(text))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        // Brokers that are cut off in the middle owe answers; others may not forget any.
        drop(flux_api::rpc::leaked_answers());
    }
}
