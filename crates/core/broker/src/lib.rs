//! The broker itself: the message switch that joins clients, modules and drivers of one rank,
//! and the overlay that joins the ranks into a tree.
//!
//! Read first: [`Node`] (one broker, an engine that a host or the simulator drives), then
//! `switch/route.rs` (where a message goes), `overlay.rs` (state of the links) and [`Topology`].
//!
//! Must never: open a socket, read a clock, know what a module does with its messages.

mod access;
mod config;
mod ids;
mod node;
mod overlay;
mod switch;
mod topology;
mod track;

pub use access::{Access, AccessError};
pub use config::NodeConfig;
pub use node::{Loader, Node};
pub use topology::{Topology, TopologyError};

#[cfg(test)]
mod tests;
