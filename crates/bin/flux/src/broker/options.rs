//! The command line of a broker, shared by `flux broker` and `flux start`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use flux_api::config::Grade;
use flux_host::config;
use flux_lifecycle::Attributes;
use serde_json::{Map, Value};

use crate::output;

/// What a broker is told.
#[derive(Debug, Clone)]
pub(crate) struct BrokerOptions {
    /// Attributes, set over their defaults.
    pub(crate) attributes: Attributes,
    /// Directory or file of the configuration.
    pub(crate) config_path: Option<PathBuf>,
    /// The configuration: files, then updates.
    pub(crate) config: Map<String, Value>,
    /// `FILE:LINE` of each key of the files.
    pub(crate) places: BTreeMap<String, String>,
    /// The initial program, empty for an interactive shell.
    pub(crate) program: Vec<String>,
}

/// Adds the options that go to a broker.
pub(crate) fn arguments(command: Command) -> Command {
    command
        .arg(
            Arg::new("setattr")
                .short('S')
                .long("setattr")
                .value_name("ATTR=VAL")
                .action(ArgAction::Append)
                .help("Set a broker attribute"),
        )
        .arg(
            Arg::new("config-path")
                .short('c')
                .long("config-path")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Read the configuration from this directory or file"),
        )
        .arg(
            Arg::new("conf")
                .long("conf")
                .value_name("KEY=VAL|FILE|TOML")
                .action(ArgAction::Append)
                .help("Change the configuration after the files are read"),
        )
        .arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .action(ArgAction::Count)
                .help("Print more of the log to standard error"),
        )
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .num_args(0..)
                .trailing_var_arg(true)
                .help("The initial program; without it, an interactive shell"),
        )
}

/// One `--conf` value: `key.path=value`, a file, or TOML text.
fn conf(text: &str) -> Result<Map<String, Value>, String> {
    let path = std::path::Path::new(text);
    if !text.contains('=') && path.exists() {
        return config::read_config(path).map_err(|error| error.to_string());
    }
    if !text.contains('\n')
        && let Some((key, value)) = text.split_once('=')
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    {
        // A value that is no TOML value is text.
        let parsed = config::parse_toml(path, &format!("x = {value}\n"))
            .ok()
            .and_then(|table| table.get("x").cloned())
            .unwrap_or_else(|| Value::String(value.to_string()));
        let mut names = key.rsplit('.');
        let mut table = Map::new();
        table.insert(names.next().unwrap_or(key).to_string(), parsed);
        for name in names {
            let mut outer = Map::new();
            outer.insert(name.to_string(), Value::Object(table));
            table = outer;
        }
        return Ok(table);
    }
    config::parse_toml(std::path::Path::new("--conf"), text).map_err(|error| error.to_string())
}

impl BrokerOptions {
    /// Reads the options and the configuration files.
    ///
    /// # Errors
    /// The sentence to show.
    pub(crate) fn read(matches: &ArgMatches) -> Result<Self, String> {
        let mut attributes = Attributes::new();
        for setting in matches.get_many::<String>("setattr").into_iter().flatten() {
            let (name, value) = setting.split_once('=').unwrap_or((setting, "1"));
            attributes.set_option(name, value)?;
        }
        if matches.get_count("verbose") > 0 {
            attributes
                .set("log-stderr-level", if matches.get_count("verbose") > 1 { "7" } else { "6" });
        }
        let config_path = matches.get_one::<PathBuf>("config-path").cloned();
        let mut places = BTreeMap::new();
        let mut config = match &config_path {
            Some(path) => {
                let found = config::read_configuration(path).map_err(|error| error.to_string())?;
                for warning in &found.warnings {
                    output::error_line(&format!("flux-broker: warning: {warning}"));
                }
                places = found.places;
                found.config
            }
            None => Map::new(),
        };
        for update in matches.get_many::<String>("conf").into_iter().flatten() {
            config::merge(&mut config, conf(update)?);
        }
        let mut findings = flux_api::config::check(&config).into_iter();
        if let Some(wrong) = findings.find(|finding| finding.grade == Grade::Error) {
            return Err(format!("Config error: {}", wrong.text));
        }
        if let Some(path) = &config_path {
            attributes.set("config.path", path.display().to_string());
        }
        let program =
            matches.get_many::<String>("command").into_iter().flatten().cloned().collect();
        Ok(Self { attributes, config_path, config, places, program })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_key_and_toml_text_are_told_apart() {
        assert_eq!(Value::Object(conf("a.b=1").unwrap()), json!({"a": {"b": 1}}));
        assert_eq!(Value::Object(conf("a.b=batch").unwrap()), json!({"a": {"b": "batch"}}));
        assert_eq!(Value::Object(conf("[a]\nb = [1]\n").unwrap()), json!({"a": {"b": [1]}}));
        assert!(conf("[a").is_err());
    }
}
