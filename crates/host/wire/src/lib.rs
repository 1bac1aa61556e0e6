//! The links between brokers: what carries RFC 3 messages from one to the next.
//!
//! A link is a stream of messages, over TLS 1.3 with raw public keys (RFC 7250) on TCP, or in
//! the clear on a unix socket of the same user. It knows nothing of ranks, routes or services:
//! it says whose key the peer holds, and hands over messages in order. [`Link`] is sans-io, so
//! that tests and the simulator drive it byte by byte; [`Connection`] runs one over a socket.
//!
//! Read [`Link`] and [`Cert`] first.

mod cert;
mod connection;
mod endpoint;
mod key;
mod link;
mod listener;
mod socket;
mod tls;
mod z85;
mod zpl;

pub use cert::{Cert, CertError};
pub use connection::{CloseReason, Connection, Inbox, Peer, SpawnedLink};
pub use endpoint::{Endpoint, EndpointError};
pub use key::{KeyDigest, KeyError, KeyPair, PublicKey};
pub use link::{Link, LinkError, LinkLimits, QueueFull};
pub use listener::{ConnectError, ConnectOptions, Incoming, Listener, connect};
pub use socket::{Keepalive, TcpOptions};
pub use tls::{ALPN, TlsClient, TlsError, TlsServer, TrustedKeys};
