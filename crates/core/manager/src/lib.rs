//! `job-manager`, on rank 0: the life of every job, from the announcement by ingest to the last
//! event of its log (RFC 21).
//!
//! The eventlog is the truth. [`life`] records events and takes the action of each state; the fold
//! of events into a status is `flux_model::job_event`. [`commits`] gathers what must be stored and
//! holds back every answer until the commit that carries its effect is durable. The rest is one
//! file for each concern: [`alloc`] and [`start`] speak with the scheduler (RFC 27) and execution
//! (RFC 32), [`dependency`] is RFC 26, [`queue`] is RFC 33, [`perilog`] and [`housekeeping`] run what
//! the administrator wants run around jobs, [`journal`] tells everybody else.
//!
//! With an archive, finished jobs are not kept here: [`active_index`] says which jobs a restart has
//! to read, [`recall`] asks the archive for a finished job that somebody means.
//!
//! Must never: keep the log of a finished job in memory, look at all jobs for the sake of one, or
//! answer before the promise is kept.

pub mod access;
pub mod active_index;
pub mod alloc;
pub mod commits;
pub mod config;
pub mod dependency;
pub mod exception;
pub mod guests;
pub mod housekeeping;
pub mod inactive;
pub mod inquiry;
pub mod job;
pub mod journal;
pub mod kill;
pub mod life;
pub mod lifetime;
pub mod limits;
pub mod memo;
pub mod perilog;
mod pieces;
pub mod plugins;
pub mod priority;
pub mod procedure;
pub mod purge;
pub mod queue;
pub mod queue_admin;
pub mod recall;
pub mod restart;
pub mod service;
pub mod start;
pub mod submit;
pub mod update;
pub mod waiters;

#[cfg(test)]
mod tests;

pub use service::{JobManager, Wait};
