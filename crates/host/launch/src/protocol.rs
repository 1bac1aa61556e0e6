//! What driver and keeper say to each other. Over a socket: one JSON object to a line.

use std::collections::BTreeMap;

use flux_api::launch::LaunchStart;
use serde::{Deserialize, Serialize};

/// Version of this protocol and of the journal. A keeper of another version is let go on with its
/// shells; it refuses new ones.
pub const VERSION: u32 = 1;

/// Longest line in bytes.
pub const LINE_MAX: usize = 4 << 20;

/// Driver to keeper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first order: a broker is there. It is answered by what is on record, then
    /// [`Event::Ready`].
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Seconds that shells may live without a broker; `None`: for ever.
        grace: Option<f64>,
        /// Environment of shells.
        env: BTreeMap<String, String>,
    },
    /// Start a shell. One that is on record is left alone.
    Start(Box<LaunchStart>),
    /// Send a signal.
    Kill {
        /// Comes back in [`Event::Killed`].
        seq: u64,
        /// Job id.
        id: u64,
        /// Signal number.
        signum: i32,
        /// To every process that comes from the shell.
        all: bool,
    },
    /// Remove records of shells that have ended.
    Forget(Vec<u64>),
    /// The broker ends and will not come back: nor shall the shells go on.
    Bye,
}

/// Keeper to driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Everything on record has been told.
    Ready {
        /// [`VERSION`] of the keeper.
        version: u32,
    },
    /// A shell runs.
    Started {
        /// Job id.
        id: u64,
        /// Process id.
        pid: i32,
    },
    /// A shell could not be started. There is no record of it.
    Failed {
        /// Job id.
        id: u64,
        /// Errno.
        errno: u32,
        /// What failed.
        text: String,
    },
    /// A shell has written something on its own stdout or stderr.
    Output {
        /// Job id.
        id: u64,
        /// 1 or 2.
        fd: u8,
        /// Bytes of this stream up to the end of `data`.
        offset: u64,
        /// Text.
        data: String,
    },
    /// A shell and everything that came from it has ended.
    Finished {
        /// Job id.
        id: u64,
        /// Wait status of the shell.
        status: i32,
        /// Processes that could not be killed.
        left: u32,
    },
    /// A shell that was started has ended, nobody knows how.
    Lost {
        /// Job id.
        id: u64,
        /// Why.
        note: String,
    },
    /// Something that the administrator should know.
    Warning {
        /// One sentence.
        text: String,
    },
    /// The answer to [`Order::Kill`].
    Killed {
        /// Of the order.
        seq: u64,
        /// 0 or an errno.
        errno: u32,
    },
}

/// One line.
#[must_use]
pub fn line(value: &impl Serialize) -> Vec<u8> {
    // Neither orders nor events hold anything that JSON cannot express.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Bytes on their way into lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Up to here there is no newline.
    searched: usize,
    /// Up to here everything was taken.
    taken: usize,
}

impl Lines {
    /// More bytes; false when a line becomes too long.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() <= LINE_MAX || self.bytes.contains(&b'\n')
    }

    /// The next whole line, without its newline.
    pub fn take(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let (from, to) = (self.taken, self.searched + at);
                self.searched = to + 1;
                self.taken = to + 1;
                self.bytes.get(from..to)
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_cut() {
        let orders = [
            Order::Hello { version: 1, grace: Some(0.5), env: BTreeMap::new() },
            Order::Kill { seq: 1, id: 2, signum: 9, all: true },
            Order::Forget(vec![1, 2]),
            Order::Bye,
        ];
        let bytes: Vec<u8> = orders.iter().flat_map(line).collect();
        for size in 1..bytes.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                assert!(lines.push(piece));
                while let Some(line) = lines.take() {
                    seen.push(serde_json::from_slice::<Order>(line).unwrap());
                }
            }
            assert_eq!(seen, orders);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; LINE_MAX]));
        assert!(!lines.push(b"x"));
    }
}
