//! `cron`, on rank 0: commands that the instance owner has run at times of the calendar, at
//! intervals, and after events.
//!
//! Entries are kept in the KVS, so that a restart knows them; those from crontab files are read
//! again instead. [`entry`] is what an entry says and remembers, [`schedule`] when it runs next,
//! [`task`] one run, [`crontab`] the files.
//!
//! Must never: run a command twice at once for one entry, or know what day it is: the `calendar`
//! driver does.

pub mod crontab;
pub mod entry;
pub mod schedule;
pub mod service;
pub mod task;

#[cfg(test)]
mod tests;

pub use service::{CronService, Wait};
