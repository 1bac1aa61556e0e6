//! Two hosts joined by a link.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flux_host::{Bind, HostError, HostOptions, LinkKeys};
use flux_proto::{Cred, Message, Rolemask};
use flux_svc::Clock;
use flux_svc::engine::{Admission, Engine, Input, LinkId, Output};
use flux_wire::{Endpoint, KeyPair, TlsClient, TlsServer, TrustedKeys};

/// What a parent and a child have seen, in words.
type Story = Arc<Mutex<Vec<String>>>;

const COUNT: u32 = 500;

/// A parent sends everything back and ends when told; a child sends and counts.
struct Peer {
    child: bool,
    story: Story,
    got: u32,
    out: VecDeque<Output>,
    retry: Option<u64>,
}

impl Engine for Peer {
    fn start(&mut self, _: Clock) {
        self.out.push_back(Output::Listen);
        if self.child {
            self.out.push_back(Output::ConnectParent(0));
        }
    }

    fn input(&mut self, clock: Clock, input: Input) {
        let mut story = self.story.lock().unwrap();
        match input {
            Input::LinkUp(id) => {
                assert_eq!(id == LinkId::PARENT, self.child);
                story.push("up".into());
                if self.child {
                    for n in 0..COUNT {
                        let body = vec![n as u8; 1000 + n as usize];
                        let message = Message::event("n").with_raw(body);
                        self.out.push_back(Output::Link(id, message));
                    }
                }
            }
            Input::Link(id, message) if self.child => {
                assert_eq!(id, LinkId::PARENT);
                assert_eq!(message.raw().len(), 1000 + self.got as usize);
                self.got += 1;
                if self.got == COUNT {
                    story.push("all".into());
                    self.out.push_back(Output::Link(id, Message::event("bye")));
                    self.out.push_back(Output::Exit(0));
                }
            }
            Input::Link(id, message) if message.topic() == "n" => {
                self.out.push_back(Output::Link(id, message));
            }
            Input::Link(_, message) => story.push(message.topic().to_string()),
            Input::LinkDown(_, reason) => {
                story.push(format!("down: {reason}"));
                if self.child {
                    self.retry = Some(clock.mono_us + 10_000);
                } else {
                    self.out.push_back(Output::Exit(0));
                }
            }
            Input::Tick if self.retry.take_if(|at| *at <= clock.mono_us).is_some() => {
                self.out.push_back(Output::ConnectParent(0));
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.retry
    }

    fn admit(&self, _: u32) -> Admission {
        Ok(Cred::new(0, Rolemask(5)))
    }
}

/// What a peer tells, and its end.
type Running = (Story, JoinHandle<Result<i32, HostError>>);

fn start(
    child: bool,
    options: impl FnOnce(&mut HostOptions) + Send + 'static,
    dir: &tempfile::TempDir,
) -> Running {
    let story = Story::default();
    let told = Arc::clone(&story);
    let path = dir.path().join(if child { "child" } else { "parent" });
    let thread = std::thread::spawn(move || {
        let engine = Peer { child, story: told, got: 0, out: VecDeque::new(), retry: None };
        let mut given = HostOptions::new(path);
        given.signals = false;
        options(&mut given);
        flux_host::run(Box::new(engine), given, Vec::new())
    });
    (story, thread)
}

fn start_parent(
    listener: std::net::TcpListener,
    keys: Option<LinkKeys>,
    dir: &tempfile::TempDir,
) -> Running {
    let listens = move |options: &mut HostOptions| {
        options.bind = vec![Bind::Tcp(listener)];
        options.keys = keys;
    };
    start(false, listens, dir)
}

fn start_child(parent: Endpoint, keys: Option<LinkKeys>, dir: &tempfile::TempDir) -> Running {
    let connects = move |options: &mut HostOptions| {
        options.parents.insert(0, parent);
        options.keys = keys;
    };
    start(true, connects, dir)
}

fn until(story: &Story, line: &str) {
    let start = Instant::now();
    while !story.lock().unwrap().iter().any(|seen| seen.starts_with(line)) {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {line}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_child_that_is_early_connects_later_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::ipc(&dir.path().join("tbon-0")).unwrap();
    let parent_endpoint = endpoint.clone();
    let (child_story, child) =
        start(true, move |options| drop(options.parents.insert(0, parent_endpoint)), &dir);
    until(&child_story, "down: ");
    let (parent_story, parent) =
        start(false, move |options| options.bind = vec![Bind::Endpoint(endpoint)], &dir);
    assert_eq!(child.join().unwrap().unwrap(), 0);
    assert_eq!(parent.join().unwrap().unwrap(), 0);
    assert_eq!(child_story.lock().unwrap().last().unwrap(), "all");
    assert_eq!(*parent_story.lock().unwrap(), ["up", "bye", "down: closed by the peer"]);
    assert!(!dir.path().join("tbon-0").exists());
}

fn keys(own: &KeyPair, trusted: &TrustedKeys) -> Option<LinkKeys> {
    let client = TlsClient::new(own, trusted).unwrap();
    let server = TlsServer::new(own, trusted).unwrap();
    Some(LinkKeys { trusted: trusted.clone(), client, server })
}

#[test]
fn brokers_with_trusted_keys_meet_over_tcp_and_a_stranger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, stranger] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let trusted = TrustedKeys::new([one.public(), two.public()]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
    let parent_keys = keys(&one, &trusted);
    let (parent_story, parent) = start_parent(listener, parent_keys, &dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wrong = keys(&stranger, &trusted).unwrap();
    let link = flux_wire::ConnectOptions::default();
    let refused = runtime.block_on(flux_wire::connect(&endpoint, Some(&wrong.client), &link));
    assert!(refused.is_err());
    let child_keys = keys(&two, &trusted);
    let (child_story, child) = start_child(endpoint, child_keys, &dir);
    assert_eq!(child.join().unwrap().unwrap(), 0);
    assert_eq!(parent.join().unwrap().unwrap(), 0);
    assert_eq!(*child_story.lock().unwrap(), ["up", "all"]);
    assert_eq!(*parent_story.lock().unwrap(), ["up", "bye", "down: closed by the peer"]);
}

/// Passes connections on, and keeps what went by; a byte may be changed on the way.
fn tap(to: u16, change: Option<usize>) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        for inner in listener.incoming() {
            let Ok(inner) = inner else { return };
            let Ok(outer) = std::net::TcpStream::connect(("127.0.0.1", to)) else { return };
            for (mut from, mut into) in [
                (inner.try_clone().unwrap(), outer.try_clone().unwrap()),
                (outer.try_clone().unwrap(), inner.try_clone().unwrap()),
            ] {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let (mut buffer, mut passed) = ([0; 4096], 0);
                    while let Ok(got) = from.read(&mut buffer) {
                        if got == 0 {
                            break;
                        }
                        kept.lock().unwrap().extend_from_slice(&buffer[..got]);
                        if let Some(at) = change.filter(|at| (passed..passed + got).contains(at)) {
                            buffer[at - passed] ^= 1;
                        }
                        passed += got;
                        if into.write_all(&buffer[..got]).is_err() {
                            break;
                        }
                    }
                    drop(into.shutdown(std::net::Shutdown::Write));
                });
            }
        }
    });
    (port, heard)
}

#[test]
fn nothing_is_in_clear_on_the_wire_and_a_changed_byte_ends_the_link() {
    let secret = b"n\0";
    for change in [None, Some(60_000)] {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let trusted = TrustedKeys::new([one.public(), two.public()]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = tap(listener.local_addr().unwrap().port(), change);
        let (parent_keys, child_keys) = (keys(&one, &trusted), keys(&two, &trusted));
        let (parent_story, parent) = start_parent(listener, parent_keys, &dir);
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        let (child_story, child) = start_child(endpoint, child_keys, &dir);
        if change.is_some() {
            until(&parent_story, "down: ");
            assert!(!parent_story.lock().unwrap().contains(&"bye".to_string()));
            assert!(!child_story.lock().unwrap().contains(&"all".to_string()));
            assert_eq!(parent.join().unwrap().unwrap(), 0);
            // The child tries again, and ends with this test.
            continue;
        }
        assert_eq!(child.join().unwrap().unwrap(), 0);
        assert_eq!(parent.join().unwrap().unwrap(), 0);
        assert_eq!(*child_story.lock().unwrap(), ["up", "all"]);
        let heard = heard.lock().unwrap();
        assert!(heard.len() > 2 * 500 * 1000, "{}", heard.len());
        // Bodies are runs of one byte; what follows a topic is known.
        let shows = |part: &[u8]| heard.windows(part.len()).any(|seen| seen == part);
        assert!(!shows(&[7; 16]) && !shows(&[200; 16]));
        assert!(!shows(&[&secret[..], &[7; 4]].concat()));
        let message = flux_proto::encode(&Message::event("bye"));
        assert!(!shows(&message) && !shows(&message[8..]));
    }
}

/// What somebody without a key sends: nothing, rubbish, the beginning of a handshake, one that never
/// ends, other protocols.
fn rubbish(at: usize) -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..at % 500).map(|i| (i * 7 + at) as u8));
    match at % 8 {
        0 => Vec::new(),
        1 => vec![0; 4096],
        2 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        3 => flux_proto::encode(&Message::request("overlay.hello").with_raw(vec![7; 900])).to_vec(),
        // Records of the largest length, of no length, of a type that there is not.
        4 => vec![0x16, 3, 3, 0xff, 0xff, 1, 0xff, 0xff, 0xff],
        5 => [0x16, 3, 3, 0, 0].repeat(400),
        6 => [&hello[..], &[0x80; 3000]].concat(),
        _ => hello,
    }
}

#[test]
fn a_broker_gets_in_though_somebody_on_its_host_begins_many_handshakes_and_ends_none() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let trusted = TrustedKeys::new([one.public(), two.public()]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let parent_keys = keys(&one, &trusted);
    let (parent_story, parent) = start_parent(listener, parent_keys, &dir);
    let connect = |at: usize| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        // It may have been closed already.
        drop(stream.write_all(&rubbish(at)));
        stream
    };
    // More than may wait: those that say nothing, and those that say a byte now and then.
    let mut held: Vec<_> = (0..300).map(|at| connect(at * 8)).collect();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let attack = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut slow: VecDeque<std::net::TcpStream> = VecDeque::new();
            let mut begun = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let Ok(mut stream) = std::net::TcpStream::connect(address) else { continue };
                begun += 1;
                drop(stream.write_all(&rubbish(begun)));
                slow.push_back(stream);
                if slow.len() > 200 {
                    drop(slow.pop_front());
                }
                for stream in slow.iter_mut().rev().take(3) {
                    drop(stream.write_all(&[3]));
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            begun
        })
    };
    // The oldest have made room; nobody waits for their time to be over.
    held[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(held[0].read(&mut [0; 64]).unwrap_or(0), 0, "the oldest is told to go");
    let child_keys = keys(&two, &trusted);
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port: address.port() };
    let (child_story, child) = start_child(endpoint, child_keys, &dir);
    assert_eq!(child.join().unwrap().unwrap(), 0);
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(attack.join().unwrap() > 0);
    assert_eq!(parent.join().unwrap().unwrap(), 0);
    assert_eq!(child_story.lock().unwrap().last().unwrap(), "all");
    assert_eq!(*parent_story.lock().unwrap(), ["up", "bye", "down: closed by the peer"]);
}
