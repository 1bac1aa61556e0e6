//! What a host is told, and why it may fail.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Bounds on what one client of the local socket may hold in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Nothing more is read from a client while more than this waits to be sent to it: a client
    /// that asks without reading the answers is slowed down. Reading goes on at half of it.
    pub pause_reading: usize,
    /// A client is disconnected when more than this waits already and yet another message is to
    /// be sent to it: it subscribed to or serves something, and does not read.
    pub disconnect: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { pause_reading: 64 << 20, disconnect: 512 << 20 }
    }
}

/// What a host is told.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Path of the local socket. An existing file is replaced; the socket is removed at the end.
    pub local_socket: PathBuf,
    /// Bounds per client.
    pub limits: ClientLimits,
    /// How long the end of the broker waits for clients to take what was sent to them.
    pub flush_time: Duration,
    /// Whether HUP, INT, QUIT, TERM, ALRM, USR1 and USR2 become inputs of the engine (else they
    /// keep their effect on the process).
    pub signals: bool,
}

impl HostOptions {
    /// Options with their defaults: 2 s to flush, signals taken.
    pub fn new(local_socket: impl Into<PathBuf>) -> Self {
        Self {
            local_socket: local_socket.into(),
            limits: ClientLimits::default(),
            flush_time: Duration::from_secs(2),
            signals: true,
        }
    }
}

/// Why a host cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The event loop cannot be set up.
    #[error("event loop: {0}")]
    Runtime(io::Error),
    /// The local socket cannot be made.
    #[error("local socket {}: {source}", path.display())]
    LocalSocket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A signal cannot be caught.
    #[error("signal {number}: {source}")]
    Signal {
        /// Its number.
        number: i32,
        /// What the system says.
        source: io::Error,
    },
    /// Two drivers have one name.
    #[error("driver {0} is given twice")]
    DuplicateDriver(&'static str),
}
