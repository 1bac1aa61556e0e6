//! The PMI-1 wire protocol (RFC 13), both sides, without I/O.
//!
//! A launcher feeds the lines of its tasks to a [`Server`] and acts on what it returns; a
//! program that is being launched drives a [`Client`], or a [`Session`] over any stream.

pub mod client;
pub mod line;
pub mod server;
pub mod session;

pub use client::{Client, ClientError, Maxes, Reply, Request};
pub use line::{Line, LineBuffer, LineError, MAX_LINE};
pub use server::{Action, LOCAL_PREFIX, Server, ServerConfig};
pub use session::{Session, SessionError};

/// Longest name of a key value space in bytes, as the server announces it.
pub const KVSNAME_MAX: usize = 64;
/// Longest key in bytes, as the server announces it.
pub const KEYLEN_MAX: usize = 64;
/// Longest value in bytes, as the server announces it.
pub const VALLEN_MAX: usize = 1024;

/// Result codes of the `rc` key. Clients only tell 0 from the rest.
pub mod rc {
    /// Done.
    pub const SUCCESS: i32 = 0;
    /// Failed for no better known reason.
    pub const FAIL: i32 = -1;
    /// A limit on the number of keys is reached.
    pub const NOMEM: i32 = 2;
    /// No such key, or no valid one.
    pub const INVALID_KEY: i32 = 4;
    /// Key beyond the announced length.
    pub const INVALID_KEY_LENGTH: i32 = 5;
    /// Value beyond the announced length.
    pub const INVALID_VAL_LENGTH: i32 = 7;
    /// No such key value space.
    pub const INVALID_KVS: i32 = 14;
}
