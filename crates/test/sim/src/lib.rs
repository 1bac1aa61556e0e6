//! Whole instances in one thread, the same from the same seed.
//!
//! Every broker is the real one, with the real services; the host is played: a virtual clock,
//! links that delay and break, a disk that forgets what was not synced or is full, processes that
//! only pretend, clients that follow a script. One seed picks the tree, the load and the faults.
//! Laws are checked at every step and, when all faults are over, at the end.
//!
//! Read first: [`World`] (time and machines), [`scenario`] (what a seed picks), [`oracle`] (the
//! laws), [`run`].

pub mod archive;
pub mod boot;
pub mod brokers;
pub mod clients;
pub mod disk;
pub mod links;
pub mod oracle;
mod processes;
pub mod rng;
pub mod run;
pub mod scenario;
mod shells;
pub mod trace;
pub mod world;

pub use clients::Caller;
pub use run::{Report, run_seed};
pub use scenario::Scenario;
pub use world::{Notice, Pace, World};

#[cfg(test)]
mod tests;
