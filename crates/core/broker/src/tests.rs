//! Brokers wired together.

mod boot;
mod cluster;
mod event;
mod growth;
mod guest;
mod link;
mod loss;
mod module;
mod rejoin;
mod reparent;
mod route;
mod service;
mod storm;
