//! How long a round trip through the host takes; run by hand:
//! `cargo test -p flux-host --release --test latency -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that prints")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_host::HostOptions;
use flux_proto::{Cred, Decoder, Message, Rolemask, encode};
use flux_svc::Clock;
use flux_svc::engine::{Admission, Engine, Input, Output};

struct Echo(std::collections::VecDeque<Output>);

impl Engine for Echo {
    fn start(&mut self, _: Clock) {
        self.0.push_back(Output::Listen);
    }

    fn input(&mut self, _: Clock, input: Input) {
        if let Input::Client(client, message) = input {
            if message.topic() == "exit" {
                self.0.push_back(Output::Exit(0));
            }
            let mut response = Message::response_to(&message);
            response.set_payload(message.payload);
            self.0.push_back(Output::Client(client, response));
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.0.pop_front()
    }

    fn next_deadline(&self) -> Option<u64> {
        None
    }

    fn admit(&self, _: u32) -> Admission {
        Ok(Cred::new(0, Rolemask(5)))
    }
}

fn rounds(socket: &mut UnixStream, bytes: &[u8], in_flight: usize, rounds: usize) -> Duration {
    let mut buf = BytesMut::new();
    let mut decoder = Decoder::new();
    let mut chunk = vec![0; 1 << 20];
    let batch = bytes.repeat(in_flight);
    let start = Instant::now();
    for _ in 0..rounds {
        let mut writer = socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            if batch.len() > 100_000 {
                scope.spawn(|| writer.write_all(&batch).unwrap());
            } else {
                writer.write_all(&batch).unwrap();
            }
            let mut got = 0;
            while got < in_flight {
                let n = socket.read(&mut chunk).unwrap();
                buf.extend_from_slice(&chunk[..n]);
                while decoder.next(&mut buf).unwrap().is_some() {
                    got += 1;
                }
            }
        });
    }
    start.elapsed()
}

#[test]
#[ignore = "a measurement"]
fn round_trips() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local");
    let options = HostOptions::new(&path);
    let host = std::thread::spawn(move || {
        flux_host::run(Box::new(Echo(Default::default())), options, vec![])
    });
    while !path.exists() {
        std::thread::yield_now();
    }
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.read_exact(&mut [0]).unwrap();
    let ping = encode(&Message::request("ping").with_raw(b"{\"seq\":1}\0".to_vec()));
    let one = rounds(&mut socket, &ping, 1, 20_000) / 20_000;
    let many = rounds(&mut socket, &ping, 64, 5_000) / (64 * 5_000);
    let large = encode(&Message::request("ping").with_raw(vec![1; 1 << 20]));
    let big = rounds(&mut socket, &large, 1, 200) / 200;
    println!("ping {one:?}; with 64 in flight {many:?} each; 1 MiB {big:?}");
    socket.write_all(&encode(&Message::request("exit"))).unwrap();
    host.join().unwrap().unwrap();
}
