//! What rank 0 keeps on disk: blobs and checkpoints in SQLite, used as a log, and finished jobs.
//!
//! Rows are written in sequence; blobs are found through an index in memory, so a store costs no
//! random write. What waits goes into one transaction with one sync, and each request is answered
//! after it: an answer is a promise.
//!
//! Read first: [`log::BlobLog`] (the file), then [`driver::StoreDriver`] (the service);
//! [`archive::JobArchive`] and [`archive_driver::ArchiveDriver`] are the same for finished jobs.

pub mod archive;
pub mod archive_driver;
mod collect;
mod copy;
pub mod driver;
pub mod error;
pub mod format;
pub mod fsck;
mod hold;
mod identity;
pub mod index;
pub mod log;
mod marks;
mod pack;
mod promise;
mod salvage;
mod serve;
mod wal;

pub use archive::BUSY;
pub use archive_driver::ArchiveDriver;
pub use driver::StoreDriver;
pub use error::StoreError;
pub use log::{BlobLog, Durability};
