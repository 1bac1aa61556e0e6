//! The message switch of one rank.

pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod driver;
pub(crate) mod event;
pub(crate) mod guest;
pub(crate) mod health;
pub(crate) mod lifecycle;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod registry;
pub(crate) mod route;
pub(crate) mod seat;
pub(crate) mod trace;
