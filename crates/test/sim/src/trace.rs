//! What happened, as one number and, on demand, as lines of text.

use flux_proto::Message;
use std::collections::VecDeque;

/// Lines kept for a failing run.
const KEPT: usize = 200_000;

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    /// Events so far.
    pub steps: u64,
    lines: VecDeque<String>,
    /// Keep lines.
    pub verbose: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, steps: 0, lines: VecDeque::new(), verbose: false }
    }
}

impl Trace {
    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
        for byte in chunks.remainder() {
            self.number(u64::from(*byte));
        }
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Adds a message: everything that travels.
    pub fn message(&mut self, message: &Message) {
        self.number(u64::from(message.kind.bit()));
        self.number(u64::from(message.aux1) << 32 | u64::from(message.aux2));
        self.bytes(message.topic().as_bytes());
        for route in &message.routes {
            self.bytes(route.as_bytes());
        }
        if let Some(payload) = message.bytes() {
            self.bytes(payload);
        }
    }

    /// Adds a line, kept for people when asked for.
    pub fn line(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.verbose {
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>12.6} {}", now as f64 / 1e6, text()));
        }
    }

    /// The number of the run: equal for equal runs.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The newest lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
