//! `kvs` and `kvs-watch`: the key-value store (RFC 11, RFC 16).
//!
//! Rank 0 makes the roots: transactions that arrive while a commit to the content store is in
//! flight are applied at once and go out together in the next one. A root is seen, announced and
//! answered only when it is durable. The other ranks serve lookups at the newest root they know
//! and send commits to rank 0.
//!
//! Read first: [`KvsService`] and [`WatchService`], then `apply` (transactions) and `walk` (lookups). Must never: show
//! a root that a crash could take back.

mod apply;
mod cache;
mod dir;
mod error;
mod service;
mod space;
mod table;
mod walk;
mod watch;

pub use error::KvsError;
pub use service::{KvsService, Wait};
pub use watch::{WatchService, WatchWait};
