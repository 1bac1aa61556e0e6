//! The contract of Ferroflux: every RPC, event, attribute, job event and configuration key,
//! declared once, one file per service.
//!
//! This crate is the book's table of contents: it says what can be asked, by whom, and what is
//! answered; it holds no behaviour. From each declaration come the exhaustive request enum a
//! service dispatches on, the permission check, the typed client call and the reference page.
//!
//! Read first: [`rpc`] (what a declaration is), then one service, for example [`content`].

pub mod body;
#[macro_use]
mod declare;
pub mod rpc;

pub mod archive;
pub mod broker;
pub mod catalogue;
pub mod config;
pub mod content;
pub mod cron;
pub mod driver;
pub mod job;
pub mod kvs;
pub mod launch;
pub mod lifecycle;
pub mod overlay;
pub mod resource;
pub mod rexec;
pub mod sched;

pub use body::{Body, Empty, JsonBody, Raw, Text};
pub use rpc::{Answer, Api, Call, Method, Outbox, Rpc, RpcError, Shape};
