//! The backing store of rank 0: blobs and checkpoints in SQLite, used as a log.
//!
//! Rows are written in sequence; blobs are found through an index in memory, so a store costs no
//! random write. What waits goes into one transaction with one sync, and each request is answered
//! after it: an answer is a promise.
//!
//! Read first: [`log::BlobLog`] (the file), then [`driver::StoreDriver`] (the service).

mod collect;
mod copy;
pub mod driver;
pub mod error;
pub mod format;
mod identity;
pub mod index;
pub mod log;
mod marks;
mod serve;

pub use driver::StoreDriver;
pub use error::StoreError;
pub use log::{BlobLog, Durability};
