//! The frame every core service shares: a plain state machine that is given messages and timers
//! and gives back messages and timers, nothing else.
//!
//! Read first: [`Service`] (what a service writes), [`Cx`] (what it may do), then [`Rig`] (how it
//! is tested). [`Runner`] turns a typed service into a [`Module`] that a broker can hold, and
//! [`engine`] says how a host or the simulator drives a broker.
//!
//! Must never: open a file or socket, read a clock, wait, or decide what a service decides.

pub mod cx;
pub mod defaults;
pub mod engine;
pub mod module;
pub mod reply;
pub mod rig;
pub mod runner;
pub mod service;
pub mod wait;

pub use cx::{Cx, Level, To};
pub use module::{Clock, Module, Out, Port, Way};
pub use reply::Reply;
pub use rig::Rig;
pub use runner::Runner;
pub use service::Service;
pub use wait::{Tag, TimerId};
