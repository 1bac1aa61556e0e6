//! A client against a broker of a few lines.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bytes::BytesMut;
use flux_api::body::AnyObject;
use flux_api::driver::{ConfigFiles, ReadConfig};
use flux_api::lifecycle::{AttrName, Dmesg, Dmesg_, Get};
use flux_api::{Empty, Text};
use flux_client::{Client, OpenError, To};
use flux_proto::{Decoder, Errno, Message, MsgType, encode};
use serde_json::{Value, json};

/// What the test is told of: every message that arrived.
struct Fake {
    uri: String,
    path: PathBuf,
    arrived: mpsc::Receiver<Message>,
    _dir: tempfile::TempDir,
}

fn respond(socket: &mut UnixStream, message: &Message) {
    socket.write_all(&encode(message)).unwrap();
}

/// Answers one request; false ends the connection.
fn handle(socket: &mut UnixStream, request: &Message, held: &mut Vec<Message>) -> bool {
    let ok = Message::response_to(request);
    match request.topic() {
        "attr.get" => {
            let name: Value = request.json().unwrap();
            let response = match name["name"].as_str().unwrap() {
                "rank" => ok.with_json(&json!({"value": "3", "flags": 1})),
                "mutable" => ok.with_json(&json!({"value": "x", "flags": 0})),
                _ => Message::error_to(request, Errno::ENOENT, None),
            };
            respond(socket, &response);
        }
        "console.read-config" => {
            let config = json!({"config": {"tag": request.matchtag(), "node": request.nodeid()}});
            respond(socket, &ok.with_json(&config));
        }
        "log.dmesg" => {
            for line in ["one", "two"] {
                respond(socket, &ok.clone().with_text(line));
            }
            let follow = request.json::<Value>().unwrap()["follow"] == json!(true);
            if follow {
                held.push(request.clone());
            } else {
                respond(socket, &Message::error_to(request, Errno::ENODATA, None));
            }
        }
        "log.cancel" => {
            let tag = request.json::<Value>().unwrap()["matchtag"].as_u64().unwrap();
            held.retain(|held| {
                let hit = u64::from(held.matchtag()) == tag;
                if hit {
                    respond(socket, &Message::error_to(held, Errno::ENODATA, None));
                }
                !hit
            });
        }
        "hold.it" => held.push(request.clone()),
        "release.all" => {
            for held in held.drain(..) {
                respond(socket, &Message::response_to(&held));
            }
            respond(socket, &ok);
        }
        "event.subscribe" => {
            respond(socket, &ok);
            respond(socket, &Message::event("a.b").with_json(&json!({"n": 1})));
        }
        "bad.answer" => respond(socket, &ok.with_text("no object")),
        "end.now" => return false,
        _ => respond(socket, &Message::error_to(request, Errno::EINVAL, Some("no such thing"))),
    }
    true
}

impl Fake {
    fn start(byte: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local");
        let listener = UnixListener::bind(&path).unwrap();
        let (tell, arrived) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    socket.write_all(&[byte]).unwrap();
                    let (mut decoder, mut buf) = (Decoder::new(), BytesMut::new());
                    let mut held = Vec::new();
                    let mut chunk = vec![0; 65536];
                    loop {
                        match socket.read(&mut chunk) {
                            Ok(0) | Err(_) => return,
                            Ok(got) => buf.extend_from_slice(&chunk[..got]),
                        }
                        while let Some(message) = decoder.next(&mut buf).unwrap() {
                            drop(tell.send(message.clone()));
                            if message.kind == MsgType::Request
                                && !handle(&mut socket, &message, &mut held)
                            {
                                return;
                            }
                        }
                    }
                });
            }
        });
        let uri = format!("local://{}", path.display());
        Self { uri, path, arrived, _dir: dir }
    }

    fn client() -> (Self, Client) {
        let fake = Self::start(0);
        let client = Client::open(Some(&fake.uri)).unwrap();
        (fake, client)
    }
}

fn read(client: &Client, to: To) -> flux_client::Pending<ReadConfig> {
    client.send::<ReadConfig>(to, &Empty)
}

#[test]
fn immutable_attributes_are_asked_for_once() {
    let (fake, client) = Fake::client();
    assert_eq!(client.rank(), Ok(3));
    assert_eq!(client.rank(), Ok(3));
    assert_eq!(client.get_attr("mutable").unwrap(), "x");
    assert_eq!(client.get_attr("mutable").unwrap(), "x");
    assert_eq!(client.get_attr("none").unwrap_err().errno, Errno::ENOENT);
    assert_eq!(fake.arrived.try_iter().count(), 4);
}

#[test]
fn answers_are_taken_in_any_order_and_tags_are_the_lowest_free() {
    let (_fake, client) = Fake::client();
    let pending: Vec<_> = (0..64).map(|rank| read(&client, To::Rank(rank))).collect();
    for (rank, pending) in pending.into_iter().enumerate().rev() {
        let tag = rank + 1;
        assert_eq!(pending.matchtag() as usize, tag);
        let ConfigFiles { config, .. } = pending.wait().unwrap();
        assert_eq!(Value::Object(config), json!({"tag": tag, "node": rank}));
    }
    assert_eq!(read(&client, To::Any).matchtag(), 1);
}

#[test]
fn a_dropped_request_keeps_its_tag_until_its_answer() {
    let (_fake, client) = Fake::client();
    drop(client.start(To::Any, Message::request("hold.it")));
    let second = read(&client, To::Any);
    assert_eq!(second.matchtag(), 2);
    second.wait().unwrap();
    assert_eq!(client.rpc("release.all", To::Any, None), Ok(Value::Null));
    assert_eq!(read(&client, To::Any).matchtag(), 1);
}

#[test]
fn upstream_requests_name_the_own_rank() {
    let (_fake, client) = Fake::client();
    let ConfigFiles { config, .. } = client.call::<ReadConfig>(To::Upstream, &Empty).unwrap();
    assert_eq!(config["node"], 3);
}

#[test]
fn errors_carry_their_text() {
    let (_fake, client) = Fake::client();
    let error = client.rpc("x.y", To::Any, Some(&json!({}))).unwrap_err();
    assert_eq!((error.errno, error.message().as_str()), (Errno::EINVAL, "no such thing"));
    let error = client.rpc("bad.answer", To::Any, None).unwrap_err();
    assert_eq!(error.errno, Errno::EPROTO);
}

#[test]
fn a_stream_is_an_iterator_that_ends() {
    let (_fake, client) = Fake::client();
    let all = client.stream::<Dmesg_>(To::Any, &Dmesg { follow: false, nobacklog: false });
    let lines: Vec<String> = all.map(|line| line.unwrap().0).collect();
    assert_eq!(lines, ["one", "two"]);
}

#[test]
fn a_stream_can_be_cancelled_and_a_dropped_one_is() {
    let (fake, client) = Fake::client();
    let mut stream = client.stream::<Dmesg_>(To::Any, &Dmesg { follow: true, nobacklog: false });
    assert_eq!(stream.next(), Some(Ok(Text("one".into()))));
    assert_eq!(stream.next(), Some(Ok(Text("two".into()))));
    let error = stream.next_within(Duration::from_millis(5)).unwrap_err();
    assert_eq!(error.errno, Errno::ETIMEDOUT);
    assert!(!stream.is_ended());
    stream.cancel();
    assert_eq!(stream.next(), None);
    let second = client.stream::<Dmesg_>(To::Rank(2), &Dmesg { follow: true, nobacklog: false });
    client.flush().unwrap();
    drop(second);
    let mut cancels = fake.arrived.iter().filter(|message| message.topic() == "log.cancel");
    assert_eq!(cancels.next().unwrap().nodeid(), flux_proto::NODEID_ANY);
    let cancel = cancels.next().unwrap();
    assert_eq!((cancel.nodeid(), cancel.no_response()), (2, true));
    // The end of the cancelled stream frees its tag.
    while read(&client, To::Any).matchtag() != 1 {
        client.rpc("release.all", To::Any, None).unwrap();
    }
}

#[test]
fn events_come_after_the_answer_to_subscribe() {
    let (_fake, client) = Fake::client();
    client.subscribe("a.").unwrap();
    let event = client.next_event(Some(Duration::from_secs(10))).unwrap();
    assert_eq!((event.topic(), event.json::<Value>().unwrap()), ("a.b", json!({"n": 1})));
    let late = client.next_event(Some(Duration::from_millis(1))).unwrap_err();
    assert_eq!(late.errno, Errno::ETIMEDOUT);
}

#[test]
fn wait_tells_messages_descriptors_and_time_apart() {
    let (_fake, client) = Fake::client();
    let (near, mut far) = UnixStream::pair().unwrap();
    let extra = [near.as_fd()];
    let ready = client.wait(&extra, Some(Duration::from_millis(1))).unwrap();
    assert!(ready.timed_out && !ready.messages && ready.extra == [false]);
    far.write_all(b"x").unwrap();
    let ready = client.wait(&extra, None).unwrap();
    assert!(!ready.timed_out && !ready.messages && ready.extra == [true]);
    let mut stream = client.stream::<Dmesg_>(To::Any, &Dmesg { follow: true, nobacklog: false });
    while !client.wait(&extra, None).unwrap().messages {}
    let mut lines = 0;
    while lines < 2 {
        lines += usize::from(stream.try_next().is_some());
    }
    (&near).read_exact(&mut [0]).unwrap();
    let ready = client.wait(&extra, Some(Duration::from_millis(1))).unwrap();
    assert!(ready.timed_out);
}

#[test]
fn whoever_waits_for_one_answer_sleeps_while_others_have_messages() {
    let (_fake, client) = Fake::client();
    client.subscribe("a.").unwrap();
    let hold = Message::request("hold.it");
    let mut pending = client.start(To::Any, hold);
    // The event of the subscription is there, and nobody takes it.
    while !client.wait(&[], None).unwrap().messages {}
    let (near, mut far) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        tell.send(()).unwrap();
        far.write_all(b"x").unwrap();
        far
    });
    assert!(pending.next_or(&[near.as_fd()]).is_none());
    assert!(told.try_recv().is_ok(), "it came back before the descriptor could be read");
    let release = client.start(To::Any, Message::request("release.all"));
    assert!(pending.next_or(&[]).unwrap().is_ok());
    drop(release);
}

#[test]
fn a_lost_connection_fails_everything_in_flight() {
    let (_fake, client) = Fake::client();
    let held = client.start(To::Any, Message::request("hold.it"));
    let error = client.rpc("end.now", To::Any, None).unwrap_err();
    assert_eq!(error.errno, Errno::ECONNRESET);
    assert_eq!(error.message(), "connection to the broker was lost");
    let mut held = held;
    assert_eq!(held.next_until(None).unwrap_err().errno, Errno::ECONNRESET);
    let late = client.call::<Get>(To::Any, &AttrName { name: "rank".into() });
    assert_eq!(late.unwrap_err().errno, Errno::ECONNRESET);
    assert_eq!(client.next_event(None).unwrap_err().errno, Errno::ECONNRESET);
    assert_eq!(client.wait(&[], None).unwrap_err().errno, Errno::ECONNRESET);
}

#[test]
fn a_large_request_and_its_answers_pass_while_both_sides_write() {
    let (_fake, client) = Fake::client();
    let mut object = AnyObject::default();
    object.0.insert("pad".into(), Value::String("x".repeat(3_000_000)));
    let pending: Vec<_> = (0..8)
        .map(|_| {
            let mut request = Message::request("x.y");
            flux_api::Body::put(&object, &mut request);
            client.start(To::Any, request)
        })
        .collect();
    for mut pending in pending {
        assert_eq!(pending.next_until(None).unwrap_err().errno, Errno::EINVAL);
    }
}

#[test]
fn a_refusal_and_a_missing_broker_are_told_apart() {
    let fake = Fake::start(1);
    let error = Client::open(Some(&fake.uri)).unwrap_err();
    assert_eq!(error.errno(), Errno::EPERM);
    assert_eq!(error.to_string(), "flux_open: Operation not permitted");
    let gone = format!("local://{}.gone", fake.path.display());
    let error = Client::open(Some(&gone)).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { .. }));
    assert_eq!(error.to_string(), "flux_open: No such file or directory");
    assert_eq!(error.detail(), format!("broker socket {}.gone was not found", fake.path.display()));
    let error = Client::open(Some(&format!("local:///{}", "x".repeat(107)))).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL);
    assert_eq!(Client::open(Some("nothing://x")).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn a_broker_that_dies_at_the_door_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local");
    let listener = UnixListener::bind(&path).unwrap();
    let broker = std::thread::spawn(move || {
        // Killed before it could say a word, and started again.
        drop(listener.accept().unwrap());
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(&[0]).unwrap();
        socket
    });
    let client = Client::open(Some(&format!("local://{}", path.display())));
    assert!(client.is_ok(), "{client:?}");
    drop(broker.join().unwrap());
}
