//! A guest who wishes no good: sends random messages to the broker until the time is over.
//!
//!     hostile SOCKET SECONDS SEED [JOBID | SIGNED-REQUEST ...]
//!
//! Exits with 0 when the broker is still there, else with 3; the last messages are on stdout then.
//! At the end it says how many messages were sent, how many answers came, and how often it connected.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use flux_hostile::{Arsenal, Dice};
use flux_proto::codec::Decoder;
use flux_proto::{Errno, MsgType, encode};

/// Messages that are told when the broker is gone.
const REMEMBERED: usize = 40;

/// Connections at a time.
const CONNECTIONS: usize = 12;

#[derive(Default)]
struct Guest {
    streams: Vec<(UnixStream, Decoder, BytesMut)>,
    sent: u64,
    /// How many answers had each error number; 0: none.
    answers: BTreeMap<u32, u64>,
    connected: u64,
    refused: u64,
    last: VecDeque<String>,
}

fn connect(path: &str) -> std::io::Result<Option<UnixStream>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte[0] != 0 {
        return Ok(None);
    }
    stream.set_nonblocking(true)?;
    Ok(Some(stream))
}

impl Guest {
    fn remember(&mut self, text: String) {
        self.last.push_back(text);
        if self.last.len() > REMEMBERED {
            self.last.pop_front();
        }
    }

    /// Sends bytes, or a part of them; false when the connection is of no more use.
    fn send(&mut self, at: usize, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for _ in 0..200 {
            let Some((stream, ..)) = self.streams.get_mut(at) else { return false };
            match stream.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
            if rest.is_empty() {
                return true;
            }
            // Answers are in the way.
            if !self.read(at) {
                return false;
            }
        }
        // Not read any more: a message was begun that cannot be finished.
        false
    }

    fn read(&mut self, at: usize) -> bool {
        let Some((stream, decoder, bytes)) = self.streams.get_mut(at) else { return false };
        let mut buffer = [0; 65_536];
        for _ in 0..16 {
            match stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            while let Ok(Some(message)) = decoder.next(bytes) {
                if message.kind == MsgType::Response {
                    *self.answers.entry(message.errnum().0).or_default() += 1;
                }
            }
        }
        true
    }

    fn step(&mut self, path: &str, dice: &mut Dice, arsenal: &Arsenal) -> std::io::Result<()> {
        while self.streams.len() < CONNECTIONS {
            match connect(path)? {
                Some(stream) => {
                    self.connected += 1;
                    self.streams.push((stream, Decoder::new(), BytesMut::new()));
                }
                None => {
                    self.refused += 1;
                    std::thread::sleep(Duration::from_millis(20));
                    return Ok(());
                }
            }
        }
        let at = dice.below(self.streams.len());
        let mut keep = true;
        for _ in 0..=dice.below(20) {
            let message = arsenal.message(dice);
            let mut bytes = encode(&message).to_vec();
            self.remember(format!("{message:?}").chars().take(1500).collect());
            match dice.below(400) {
                0 => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
                1 => bytes.truncate(dice.below(bytes.len() + 1)),
                _ => {}
            }
            keep = keep && self.send(at, &bytes);
            self.sent += 1;
        }
        // Some read nothing for long.
        if dice.below(CONNECTIONS) > at {
            keep = keep && self.read(at);
        }
        if !keep || dice.once_in(150) {
            self.streams.swap_remove(at);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, seconds, seed, jobs @ ..] = words.as_slice() else { return ExitCode::from(2) };
    let (Ok(seconds), Ok(seed)) = (seconds.parse(), seed.parse()) else {
        return ExitCode::from(2);
    };
    let mut arsenal = Arsenal::default();
    for word in jobs {
        match word.parse() {
            Ok(id) => arsenal.jobs.push(id),
            Err(_) => arsenal.signed.push(word.clone()),
        }
    }
    let mut dice = Dice::new(seed);
    let mut guest = Guest::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut out = std::io::stdout();
    while Instant::now() < end {
        if let Err(error) = guest.step(path, &mut dice, &arsenal) {
            // It may be busy, but not gone.
            drop(writeln!(out, "the broker is gone: {error}, the last messages were:"));
            for text in &guest.last {
                drop(writeln!(out, "{text}"));
            }
            return ExitCode::from(3);
        }
    }
    let Guest { sent, answers, connected, refused, .. } = guest;
    let told: Vec<String> =
        answers.iter().map(|(number, count)| format!("{}={count}", Errno(*number))).collect();
    drop(writeln!(
        out,
        "{sent} messages, {} answers, {connected} connections, {refused} refused; by error: {}",
        answers.values().sum::<u64>(),
        told.join(" ")
    ));
    ExitCode::SUCCESS
}
