//! `flux version`: the versions of the components.

use clap::Command;
use flux_client::Client;

use crate::{dispatch::Invocation, failure::Failure, output};

/// The options of `flux version`.
pub(crate) fn command() -> Command {
    Command::new("version").about("Show the versions of the components")
}

/// Runs `flux version`.
pub(crate) fn run(_: &Invocation) -> Result<i32, Failure> {
    // Without a URI there may still be a system instance, but nobody waits for it to start.
    let inside = std::env::var("FLUX_URI").ok().filter(|uri| !uri.is_empty());
    let broker = inside.as_deref().and_then(|uri| Client::open(Some(uri)).ok());
    let broker = broker.and_then(|client| client.get_attr("version").ok());
    output::raw(&lines(broker.as_deref(), inside.as_deref()));
    Ok(0)
}

fn lines(broker: Option<&str>, uri: Option<&str>) -> String {
    let version = crate::release::RELEASE;
    let mut text = format!("commands:    \t\t{version}\nlibflux-core:\t\t{version}\n");
    if let Some(broker) = broker {
        text.push_str(&format!("broker:  \t\t{broker}\n"));
    }
    if let Some(uri) = uri {
        text.push_str(&format!("FLUX_URI:\t\t{uri}\n"));
    }
    text.push_str(&format!("build-options:\t\t{}\n", std::env::consts::ARCH));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_come_first() {
        let text = lines(Some("0.1"), Some("local:///x"));
        assert!(text.starts_with("commands:    \t\t"));
        assert!(text.contains("broker:  \t\t0.1\nFLUX_URI:\t\tlocal:///x\n"));
        assert!(!lines(None, None).contains("broker"));
    }
}
