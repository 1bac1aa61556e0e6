//! `flux broker`: run one broker of an instance.

use clap::Command;

use crate::{
    broker::{self, options},
    dispatch::Invocation,
    failure::Failure,
};

/// The options of `flux broker`.
pub(crate) fn command() -> Command {
    options::arguments(Command::new("broker").about("Run one broker of an instance"))
}

/// Runs `flux broker`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let fail = |text: String| Failure::binary("flux-broker", text);
    let options = options::BrokerOptions::read(&invocation.matches).map_err(fail)?;
    broker::run(options).map_err(fail)
}
