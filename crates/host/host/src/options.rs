//! What a host is told, and why it may fail.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use flux_wire::{ConnectError, ConnectOptions, Endpoint, TlsClient, TlsServer, TrustedKeys};

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

/// Bounds on what guests, who are neither the owner nor root in its place, may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestLimits {
    /// Connections of one user.
    pub connections: usize,
    /// Connections of all guests: the others are for the owner.
    pub connections_of_all: usize,
    /// Bytes that all connections of a user hold together: not taken from us, or of messages that
    /// are not complete. With more, those of its connections that hold much are closed.
    pub held: usize,
    /// Longest message, in bytes.
    pub message: usize,
}

impl Default for GuestLimits {
    /// An eighth of the descriptors that this process may have for one user, at most 4096, and
    /// half of them for all; 256 MiB held; messages of 64 MiB.
    fn default() -> Self {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let files = limit.map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
        Self {
            connections: (files / 8).clamp(16, 4096),
            connections_of_all: (files / 2).max(32),
            held: 256 << 20,
            message: 64 << 20,
        }
    }
}

/// Where children connect.
#[derive(Debug)]
pub enum Bind {
    /// An endpoint that is bound when the host starts.
    Endpoint(Endpoint),
    /// A TCP socket that listens already, since its port had to be known before.
    Tcp(TcpListener),
    /// A unix socket that listens already, and its path.
    Unix(UnixListener, PathBuf),
}

/// Keys of this broker, and whom it trusts: for TCP links.
#[derive(Debug, Clone)]
pub struct LinkKeys {
    /// Whom both trust: may be replaced while they are in use.
    pub trusted: TrustedKeys,
    /// Towards the parent.
    pub client: TlsClient,
    /// Towards children.
    pub server: TlsServer,
}

/// What a host is told.
#[derive(Debug)]
pub struct HostOptions {
    /// Path of the local socket. An existing file is replaced; the socket is removed at the end.
    pub local_socket: PathBuf,
    /// Bounds per client.
    pub limits: ClientLimits,
    /// Bounds for guests.
    pub guests: GuestLimits,
    /// How long the end of the broker waits for clients to take what was sent to them.
    pub flush_time: Duration,
    /// Whether HUP, INT, QUIT, TERM, ALRM, USR1 and USR2 become inputs of the engine (else they
    /// keep their effect on the process).
    pub signals: bool,
    /// Where children connect.
    pub bind: Vec<Bind>,
    /// Where children connect that this broker may have later.
    pub bind_later: Option<Endpoint>,
    /// Where the parent is, by its rank; with `tbon.reparent` those above it, too.
    pub parents: BTreeMap<u32, Endpoint>,
    /// Keys for TCP links.
    pub keys: Option<LinkKeys>,
    /// How links are made.
    pub link: ConnectOptions,
    /// How many messages may wait to be sent on one link; with more it is closed.
    pub link_queue: usize,
}

impl HostOptions {
    /// Options with their defaults: 2 s to flush, signals taken, no links.
    pub fn new(local_socket: impl Into<PathBuf>) -> Self {
        Self {
            local_socket: local_socket.into(),
            limits: ClientLimits::default(),
            guests: GuestLimits::default(),
            flush_time: Duration::from_secs(2),
            signals: true,
            bind: Vec::new(),
            bind_later: None,
            parents: BTreeMap::new(),
            keys: None,
            link: ConnectOptions::default(),
            link_queue: 1 << 18,
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
    /// Children cannot connect.
    #[error("overlay: {0}")]
    Bind(#[from] ConnectError),
    /// Two drivers have one name.
    #[error("driver {0} is given twice")]
    DuplicateDriver(&'static str),
}
