//! `sched` and `feasibility`: which job gets which resources, and when (RFC 27, RFC 28, RFC 31).
//!
//! Placement is pure and apart from the protocol: a [`Pool`] says which cores and gpus are free,
//! a [`Demand`] what a job asks for, and [`Pool::place`] decides. [`forecast`] says when a job that
//! does not fit now would. [`SchedService`] speaks the protocol: no job hears of its resources
//! before they are durable in the KVS, and all that is decided while one commit is on its way
//! shares the next.
//!
//! Read first: [`Pool`], then [`SchedService`]. Must never: look at finished jobs, or at every
//! node to place one job.

mod annotate;
pub mod config;
pub mod demand;
pub mod eligible;
pub mod forecast;
mod grants;
pub mod graph;
mod hello;
mod index;
mod pass;
pub mod pool;
mod queue;
mod service;
pub mod special;

pub use config::{Policy, SchedSettings};
pub use demand::{Demand, DemandError};
pub use eligible::Eligible;
pub use pool::{Placement, Pool};
pub use service::{SchedService, Wait};

#[cfg(test)]
mod tests;
