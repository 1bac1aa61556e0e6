//! The backing store of rank 0: blobs and checkpoints in SQLite, used as a log.
//!
//! Rows are written in sequence; blobs are found through an index in memory, so a store costs no
//! random write. What waits goes into one transaction with one sync, and each request is answered
//! after it: an answer is a promise.
//!
//! Read first: [`log::BlobLog`] (the file), then [`driver::StoreDriver`] (the service).

pub mod driver;
mod identity;
pub mod index;
pub mod log;

pub use driver::StoreDriver;
pub use log::{BlobLog, Durability, StoreError};
