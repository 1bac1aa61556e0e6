//! `flux doctor`: whether a node, and the cluster, is as a system instance needs it, and what to do
//! about what is not. For before the installation is configured, before the first start, and later.

mod cluster;
mod finding;
mod network;
mod node;
mod security;

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command};
use serde_json::{Map, Value};

use self::finding::Report;
use super::program::{flag, text, value};
use crate::{dispatch::Invocation, failure::Failure, output};

/// The options of `flux doctor`.
pub(crate) fn command() -> Command {
    Command::new("doctor")
        .about("Check this node and the cluster, and say what to do about each finding")
        .arg(value(
            "config-path",
            'c',
            "PATH",
            "Configuration of the instance (default: /etc/flux/system/conf.d)",
        ))
        .arg(value("user", 'u', "NAME", "The owner of the instance (default: flux)"))
        .arg(flag("local", 'l', "Do not ask the other nodes"))
        .arg(flag("quiet", 'q', "Show only what is wrong"))
}

/// What the checks look at.
pub(crate) struct Site {
    /// Directory or file of the configuration.
    config_path: PathBuf,
    /// What it says, when it can be read.
    config: Map<String, Value>,
    /// Name of the owner.
    user: String,
    /// The owner's account, when there is one.
    owner: Option<nix::unistd::User>,
    /// This node's name.
    host: String,
    /// Whether a broker of the system instance runs here.
    runs: bool,
}

impl Site {
    fn find(matches: &ArgMatches) -> Self {
        let config_path =
            PathBuf::from(text(matches, "config-path").unwrap_or("/etc/flux/system/conf.d"));
        let user = text(matches, "user").unwrap_or("flux").to_string();
        let owner = nix::unistd::User::from_name(&user).ok().flatten();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let runs = std::os::unix::net::UnixStream::connect("/run/flux/local").is_ok();
        Self { config_path, config: Map::new(), user, owner, host, runs }
    }

    /// A value of the configuration by its dotted key.
    fn get(&self, key: &str) -> Option<&Value> {
        let mut names = key.split('.');
        let first = self.config.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// Runs `flux doctor`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let mut site = Site::find(matches);
    let mut report = Report::new(matches.get_flag("quiet"));
    node::owner(&site, &mut report);
    configuration(&mut site, &mut report);
    let place = network::place(&site, &mut report);
    if let Some(place) = &place {
        network::names(place, &mut report);
        network::key(&site, place, &mut report);
        network::ports(&site, place, &mut report);
    }
    node::resources(&site, place.as_ref(), &mut report);
    security::munge(&site, &mut report);
    security::imp(&site, &mut report);
    node::disk(&site, place.as_ref(), &mut report);
    node::limits(&mut report);
    node::unit(&site, &mut report);
    node::job_units(&site, &mut report);
    if !matches.get_flag("local") {
        cluster::ask(&site, place.as_ref(), &mut report);
    }
    output::line(&report.summary());
    Ok(i32::from(report.has_failed()))
}

/// The files can be read, and nothing in them is unknown.
fn configuration(site: &mut Site, report: &mut Report) {
    const NAME: &str = "configuration";
    let path = site.config_path.clone();
    if !Path::new(&path).exists() {
        let text = format!("{} is not there", path.display());
        return report.fail(NAME, text, "install the package, and write the files of the guide");
    }
    match flux_host::config::read_configuration(&path) {
        Ok(found) => {
            for warning in &found.warnings {
                report.warn(NAME, warning.clone(), "correct the name, or remove the key");
            }
            if found.config.is_empty() {
                let text = format!("{} has no keys", path.display());
                report.fail(NAME, text, "write the files of the guide: bootstrap.toml first");
            } else if found.warnings.is_empty() {
                let tables: Vec<&str> = found.config.keys().map(String::as_str).collect();
                report.ok(NAME, format!("{}: {}", path.display(), tables.join(", ")));
            }
            site.config = found.config;
        }
        Err(error) => report.fail(NAME, error.to_string(), "correct this line"),
    }
}
