//! A host with an echoing engine, driven over its real local socket.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_host::{ClientLimits, Driver, DriverHandle, GuestLimits, HostError, HostOptions};
use flux_proto::{Cred, Decoder, Errno, Message, MsgType, Rolemask, encode};
use flux_svc::Clock;
use flux_svc::engine::{Admission, ClientId, Engine, Input, Output};

/// What the tests see of the engine.
#[derive(Default)]
struct Seen {
    joined: Vec<(ClientId, Cred, i32)>,
    left: Vec<ClientId>,
    messages: u64,
    ticks: u64,
}

/// Answers every request with its own payload, and does what some topics ask for.
struct Echo {
    seen: Arc<Mutex<Seen>>,
    out: VecDeque<Output>,
    admission: Admission,
    deadline: Option<u64>,
    waiting: BTreeMap<u64, (ClientId, Message)>,
}

impl Echo {
    fn answer(&mut self, client: ClientId, request: &Message) {
        let mut response = Message::response_to(request);
        response.set_payload(request.payload.clone());
        self.out.push_back(Output::Client(client, response));
    }
}

impl Engine for Echo {
    fn start(&mut self, _: Clock) {
        self.out.push_back(Output::Listen);
    }

    fn input(&mut self, clock: Clock, input: Input) {
        let seen = Arc::clone(&self.seen);
        let mut seen = seen.lock().unwrap();
        match input {
            Input::ClientJoined { client, cred, pid } => seen.joined.push((client, cred, pid)),
            Input::ClientLeft(client) => seen.left.push(client),
            Input::Client(client, message) => {
                seen.messages += 1;
                match message.topic() {
                    "echo.exit" => {
                        self.answer(client, &message);
                        self.out.push_back(Output::Exit(message.raw()[0].into()));
                    }
                    "echo.panic" => panic!("a bug"),
                    "echo.kick" => {
                        self.answer(client, &message);
                        self.out.push_back(Output::CloseClient(client));
                    }
                    "echo.later" => {
                        self.deadline = Some(clock.mono_us + 5_000);
                        self.waiting.insert(seen.messages, (client, message));
                    }
                    "echo.driver" => {
                        let mut request = message;
                        request.set_matchtag(client.0 as u32);
                        self.out.push_back(Output::Driver("thread", request));
                    }
                    "echo.flood" => {
                        let event = Message::event("flood").with_raw(vec![7_u8; 1 << 20]);
                        for _ in 0..message.raw()[0] {
                            self.out.push_back(Output::Client(client, event.clone()));
                        }
                    }
                    _ => self.answer(client, &message),
                }
            }
            Input::Driver("thread", message) => {
                self.out.push_back(Output::Client(ClientId(message.matchtag().into()), message));
            }
            Input::Tick => {
                seen.ticks += 1;
                if self.deadline.is_some_and(|at| at <= clock.mono_us) {
                    self.deadline = None;
                    for (_, (client, message)) in std::mem::take(&mut self.waiting) {
                        self.answer(client, &message);
                    }
                }
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.deadline
    }

    fn admit(&self, _: u32) -> Admission {
        self.admission
    }
}

/// Answers from a thread of its own.
struct Thread;

impl Driver for Thread {
    fn name(&self) -> &'static str {
        "thread"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        let back = back.clone();
        std::thread::spawn(move || {
            let mut response = Message::response_to(&message);
            response.set_payload(message.payload.clone());
            back.post(response);
        });
    }
}

struct Broker {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<Result<i32, HostError>>>,
    _dir: tempfile::TempDir,
}

const OWNER: Cred = Cred::new(1000, Rolemask(5));

impl Broker {
    fn start(admission: Admission, limits: ClientLimits) -> Self {
        Self::start_for(admission, limits, GuestLimits::default())
    }

    fn start_for(admission: Admission, limits: ClientLimits, guests: GuestLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut options = HostOptions::new(&path);
        options.signals = false;
        options.limits = limits;
        options.guests = guests;
        let shared = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let engine = Echo {
                seen: shared,
                out: VecDeque::new(),
                admission,
                deadline: None,
                waiting: BTreeMap::new(),
            };
            flux_host::run(Box::new(engine), options, vec![Box::new(Thread)])
        });
        Self { path, seen, thread: Some(thread), _dir: dir }
    }

    fn echo() -> Self {
        Self::start(Ok(OWNER), ClientLimits::default())
    }

    fn connect(&self) -> Peer {
        let mut peer = Peer::dial(&self.path);
        assert_eq!(peer.byte(), 0);
        peer
    }

    fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !condition(&self.seen.lock().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn join(&mut self) -> i32 {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() && self.seen.lock().is_ok() {
            let mut peer = Peer::dial(&self.path);
            if peer.byte() == 0 {
                peer.ask("echo.exit", 1, &[0]);
                self.join();
            }
        }
    }
}

struct Peer {
    socket: UnixStream,
    decoder: Decoder,
    buf: BytesMut,
}

impl Peer {
    fn dial(path: &Path) -> Self {
        let start = Instant::now();
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(_) if start.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        };
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, decoder: Decoder::new(), buf: BytesMut::new() }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0xff];
        self.socket.read_exact(&mut byte).unwrap();
        byte[0]
    }

    fn send(&mut self, message: &Message) {
        self.socket.write_all(&encode(message)).unwrap();
    }

    fn ask(&mut self, topic: &str, tag: u32, payload: &[u8]) {
        let mut request = Message::request(topic).with_raw(payload.to_vec());
        request.set_matchtag(tag);
        self.send(&request);
    }

    /// The next message; nothing at the end of the stream.
    fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next(&mut self.buf).unwrap() {
                return Some(message);
            }
            let mut chunk = vec![0; 1 << 16];
            let got = match self.socket.read(&mut chunk) {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                got => got.unwrap(),
            };
            self.buf.extend_from_slice(&chunk[..got]);
        }
    }
}

#[test]
fn a_client_is_admitted_with_its_credentials_and_its_end_is_told() {
    let broker = Broker::echo();
    let peer = broker.connect();
    broker.until("join", |seen| seen.joined.len() == 1);
    let (id, cred, pid) = broker.seen.lock().unwrap().joined[0];
    assert_eq!((cred, pid), (OWNER, std::process::id() as i32));
    assert_eq!(std::fs::metadata(&broker.path).unwrap().permissions().mode() & 0o7777, 0o777);
    drop(peer);
    broker.until("leave", |seen| seen.left == [id]);
}

#[test]
fn a_refused_client_gets_the_errno_and_the_end() {
    let broker = Broker::start(Err(Errno::EPERM), ClientLimits::default());
    let mut peer = Peer::dial(&broker.path);
    assert_eq!(peer.byte(), 1);
    assert!(peer.receive().is_none());
    assert!(broker.seen.lock().unwrap().joined.is_empty());
}

#[test]
fn many_requests_in_flight_are_answered_in_order() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    for tag in 1..=64 {
        peer.ask("echo.ping", tag, format!("{{\"seq\":{tag}}}\0").as_bytes());
    }
    for tag in 1..=64 {
        let response = peer.receive().unwrap();
        assert_eq!((response.kind, response.matchtag()), (MsgType::Response, tag));
    }
}

#[test]
fn malformed_input_closes_only_the_connection_it_came_from() {
    let broker = Broker::echo();
    let mut good = broker.connect();
    let proto = |magic: u8, version: u8, kind: u8| {
        let mut body = vec![0x12, 0, 0xee, 0xff, 0, 0, 0, 21, 20, magic, version, kind, 0];
        body.extend([0; 16]);
        body
    };
    let bad: Vec<Vec<u8>> = vec![
        vec![0xff, 0xee, 0, 0x12, 0, 0, 0, 1, 0],
        vec![0x12, 0, 0xee, 0xff, 0, 0, 0, 0],
        vec![0x12, 0, 0xee, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x12, 0, 0xee, 0xff, 0, 0, 0, 2, 9, 9],
        proto(0x8f, 1, 1),
        proto(0x8e, 2, 1),
        proto(0x8e, 1, 3),
    ];
    for bytes in bad {
        let mut peer = broker.connect();
        peer.socket.write_all(&bytes).unwrap();
        assert!(peer.receive().is_none(), "{bytes:02x?}");
        good.ask("echo.ping", 9, b"x");
        assert_eq!(good.receive().unwrap().matchtag(), 9);
    }
}

#[test]
fn control_messages_and_requests_without_topic_are_ignored() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    peer.send(&Message::control(1, 1));
    let mut bare = Message::request("x");
    bare.set_topic(None);
    peer.send(&bare);
    peer.ask("echo.ping", 3, b"x");
    assert_eq!(peer.receive().unwrap().matchtag(), 3);
    assert_eq!(broker.seen.lock().unwrap().messages, 1);
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    let mut request = Message::request("echo.ping").with_raw(b"abc".to_vec());
    request.set_matchtag(5);
    for byte in encode(&request) {
        peer.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(peer.receive().unwrap().raw(), b"abc");
}

#[test]
fn large_messages_pass_whole() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    let payload: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = peer.socket.try_clone().unwrap();
    let request = encode(&Message::request("echo.ping").with_raw(payload.clone()));
    let sender = std::thread::spawn(move || writer.write_all(&request));
    assert_eq!(peer.receive().unwrap().raw(), payload);
    sender.join().unwrap().unwrap();
}

#[test]
fn a_slow_reader_is_read_from_no_more_and_holds_up_nobody() {
    let limits = ClientLimits { pause_reading: 1 << 20, disconnect: 1 << 30 };
    let broker = Broker::start(Ok(OWNER), limits);
    let mut slow = broker.connect();
    let mut writer = slow.socket.try_clone().unwrap();
    let requests: u32 = 400;
    let sender = std::thread::spawn(move || {
        for tag in 1..=requests {
            let mut request = Message::request("echo.ping").with_raw(vec![1_u8; 100_000]);
            request.set_matchtag(tag);
            writer.write_all(&encode(&request)).unwrap();
        }
    });
    // The sender blocks before it is through, since nobody reads the answers.
    broker.until("the first requests", |seen| seen.messages > 10);
    let mut other = broker.connect();
    for tag in 1..100 {
        other.ask("echo.ping", tag, b"x");
        assert_eq!(other.receive().unwrap().matchtag(), tag);
    }
    assert!(!sender.is_finished());
    for tag in 1..=requests {
        assert_eq!(slow.receive().unwrap().matchtag(), tag);
    }
    sender.join().unwrap();
}

#[test]
fn a_client_that_never_reads_is_disconnected_at_the_bound() {
    let limits = ClientLimits { pause_reading: 1 << 20, disconnect: 8 << 20 };
    let broker = Broker::start(Ok(OWNER), limits);
    let mut peer = broker.connect();
    peer.ask("echo.flood", 1, &[200]);
    broker.until("the disconnect", |seen| seen.left.len() == 1);
    let mut other = broker.connect();
    other.ask("echo.ping", 1, b"x");
    assert!(other.receive().is_some());
}

const GUEST: Cred = Cred::new(2000, Rolemask(6));

fn for_guests(guests: GuestLimits) -> Broker {
    Broker::start_for(Ok(GUEST), ClientLimits::default(), guests)
}

#[test]
fn a_guest_has_so_many_connections_and_no_more() {
    let guests = GuestLimits { connections: 3, ..GuestLimits::default() };
    let broker = for_guests(guests);
    let first = broker.connect();
    let _others = [broker.connect(), broker.connect()];
    assert_eq!(Peer::dial(&broker.path).byte(), 11);
    drop(first);
    broker.until("a place", |seen| seen.left.len() == 1);
    let mut next = broker.connect();
    next.ask("echo.ping", 1, b"x");
    assert!(next.receive().is_some());
    // The owner has no such limit.
    let broker = Broker::start_for(Ok(OWNER), ClientLimits::default(), guests);
    let _peers: Vec<Peer> = (0..20).map(|_| broker.connect()).collect();
}

#[test]
fn a_guest_that_sends_too_much_at_once_is_disconnected() {
    let broker = for_guests(GuestLimits { message: 1 << 20, ..GuestLimits::default() });
    let mut peer = broker.connect();
    peer.ask("echo.ping", 1, &vec![0; 1 << 19]);
    assert_eq!(peer.receive().unwrap().raw().len(), 1 << 19);
    // A header is enough to see it.
    let long = encode(&Message::request("echo.ping").with_raw(vec![0; 2 << 20]));
    peer.socket.write_all(&long[..64]).unwrap();
    assert!(peer.receive().is_none());
    broker.until("the disconnect", |seen| seen.left.len() == 1);
}

#[test]
fn messages_that_never_end_and_answers_never_read_are_bounded_by_user() {
    let broker = for_guests(GuestLimits { held: 4 << 20, ..GuestLimits::default() });
    // Each connection holds less than the bound, together they exceed it.
    let begun = encode(&Message::request("echo.ping").with_raw(vec![0; 3 << 20]));
    let mut halves: Vec<Peer> = (0..3).map(|_| broker.connect()).collect();
    for half in &mut halves {
        drop(half.socket.write_all(&begun[..2 << 20]));
    }
    broker.until("a disconnect", |seen| !seen.left.is_empty());
    drop(halves);
    let mut peer = broker.connect();
    peer.ask("echo.flood", 1, &[200]);
    broker.until("another", |seen| seen.left.len() == 4);
    let mut other = broker.connect();
    other.ask("echo.ping", 1, b"x");
    assert!(other.receive().is_some());
}

#[test]
fn a_client_is_closed_after_what_was_sent_before() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    peer.ask("echo.flood", 1, &[3]);
    peer.ask("echo.kick", 2, b"bye");
    for _ in 0..3 {
        assert_eq!(peer.receive().unwrap().topic(), "flood");
    }
    assert_eq!(peer.receive().unwrap().raw(), b"bye");
    assert!(peer.receive().is_none());
    broker.until("leave", |seen| seen.left.len() == 1);
}

#[test]
fn a_driver_answers_from_a_thread() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    for _ in 0..50 {
        peer.ask("echo.driver", 1, b"work");
        assert_eq!(peer.receive().unwrap().raw(), b"work");
    }
}

#[test]
fn deadlines_tick_and_nothing_else_does() {
    let broker = Broker::echo();
    let mut peer = broker.connect();
    peer.ask("echo.later", 4, b"x");
    assert_eq!(peer.receive().unwrap().matchtag(), 4);
    peer.ask("echo.ping", 5, b"x");
    assert_eq!(peer.receive().unwrap().matchtag(), 5);
    assert_eq!(broker.seen.lock().unwrap().ticks, 1);
}

#[test]
fn exit_flushes_returns_the_code_and_removes_the_socket() {
    let mut broker = Broker::echo();
    let mut peer = broker.connect();
    peer.ask("echo.flood", 1, &[20]);
    peer.ask("echo.exit", 2, &[42]);
    for _ in 0..20 {
        assert_eq!(peer.receive().unwrap().topic(), "flood");
    }
    assert_eq!(peer.receive().unwrap().matchtag(), 2);
    assert!(peer.receive().is_none());
    assert_eq!(broker.join(), 42);
    assert!(!broker.path.exists());
}

#[test]
fn a_panic_of_the_engine_ends_the_broker() {
    let mut broker = Broker::echo();
    let mut peer = broker.connect();
    peer.ask("echo.panic", 1, b"x");
    assert!(peer.receive().is_none());
    assert!(broker.thread.take().unwrap().join().is_err());
    assert!(!broker.path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_bad_path_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none").join("local");
    let engine = Echo {
        seen: Arc::default(),
        out: VecDeque::new(),
        admission: Ok(OWNER),
        deadline: None,
        waiting: BTreeMap::new(),
    };
    let error = flux_host::run(Box::new(engine), HostOptions::new(&path), Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("local socket {}: ", path.display())));
}
