//! From the options of the submission commands to jobs: the part `flux run`, `submit`,
//! `bulksubmit`, `batch` and `alloc` share. Nothing here talks to a broker.

pub(crate) mod archive;
pub(crate) mod attributes;
pub(crate) mod broker;
pub(crate) mod bulk;
pub(crate) mod cc;
pub(crate) mod context;
pub(crate) mod duration;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod options;
pub(crate) mod pattern;
pub(crate) mod resources;
pub(crate) mod rlimit;
pub(crate) mod script;
pub(crate) mod send;
pub(crate) mod shell;
pub(crate) mod signing;
pub(crate) mod spec;
pub(crate) mod when;

pub(crate) use context::Context;
pub(crate) use error::SubmitError;
pub(crate) use spec::Job;
