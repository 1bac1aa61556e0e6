//! `resource`: what the instance has, and what of it may be used (RFC 28, RFC 44).
//!
//! Rank 0 keeps the inventory, who is drained, excluded, online or torpid, and tells the scheduler
//! through `resource.acquire`. What people did (drain, undrain) and what the inventory is are
//! events of `resource.eventlog` in the KVS: they count, and are answered, when they are durable.
//! Every other rank reports its hardware up the tree and compares it with what the inventory
//! expects of it.
//!
//! Read first: [`ResourceService`], then `drain`. Must never: decide where a job runs.

mod acquire;
mod config;
mod define;
mod drain;
mod growth;
mod inventory;
mod journal;
mod monitor;
mod parts;
mod reload;
mod service;
mod settings;
mod topology;
mod writer;

pub use service::{ResourceService, Wait};
pub use settings::ResourceSettings;

#[cfg(test)]
mod tests;
