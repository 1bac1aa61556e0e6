//! `flux config`: the configuration of the instance.

use std::io::Read;

use clap::{Arg, ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::broker::{BuiltinKeys, ConfBuiltin};
use flux_api::lifecycle::{ConfigGet, ConfigLoad, ConfigReload};
use flux_client::To;
use serde_json::{Map, Value};

use super::program::{Program, flag, text, value, word};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-config");

/// Largest configuration file read.
const MAX_FILE: u64 = 64 << 20;

/// The options of `flux config`.
pub(crate) fn command() -> Command {
    Command::new("config")
        .about("Show and change the configuration")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("get")
                .about("Show the configuration, or one value of it")
                .arg(value("config-path", 'c', "PATH", "Read this file or directory instead"))
                .arg(value(
                    "type",
                    't',
                    "TYPE",
                    "string, integer, real, boolean, object, array, fsd, fsd-integer, fsd-real or any",
                ))
                .arg(flag("quiet", 'q', "Only check; print nothing"))
                .arg(value("default", 'd', "VALUE", "Shown when it is not set"))
                .arg(Arg::new("key").value_name("KEY").help("A dotted name")),
        )
        .subcommand(Command::new("reload").about("Read the configuration files again"))
        .subcommand(
            Command::new("load")
                .about("Replace the configuration; without PATH by standard input")
                .arg(Arg::new("path").value_name("PATH").help("File or directory")),
        )
        .subcommand(
            Command::new("builtin")
                .about("Show an installed path")
                .arg(word("name", "NAME", "Such as shell_path")),
        )
}

/// Runs `flux config`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((what, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    match what {
        "get" => get(matches)?,
        "load" => {
            let config = match text(matches, "path") {
                Some(path) => read(path)?,
                None => stdin()?,
            };
            let client = PROGRAM.open()?;
            let done = client.call::<ConfigLoad>(To::Rank(0), &config);
            done.map_err(|error| PROGRAM.about("load", &error))?;
        }
        "reload" => {
            let client = PROGRAM.open()?;
            let done = client.call::<ConfigReload>(To::Rank(0), &AnyObject::default());
            let said = done.map_err(|error| PROGRAM.about("reload", &error))?;
            let warnings = said.0.get("warnings").and_then(Value::as_array);
            warnings.into_iter().flatten().filter_map(Value::as_str).for_each(warn);
        }
        _ => {
            let name = text(matches, "name").unwrap_or_default().to_owned();
            let client = PROGRAM.open()?;
            let request = BuiltinKeys { keys: vec![name.clone()] };
            let found = client.call::<ConfBuiltin>(To::Any, &request);
            let found = found.map_err(|error| PROGRAM.fail(error.message()))?;
            let value = found.values.get(&name).and_then(Value::as_str).unwrap_or_default();
            output::line(value);
        }
    }
    Ok(0)
}

fn warn(text: &str) {
    output::error_line(&format!("flux-config: warning: {text}"));
}

/// The configuration of a file or a directory of `*.toml` files.
fn read(path: &str) -> Result<Map<String, Value>, Failure> {
    let found = flux_host::config::read_configuration(std::path::Path::new(path));
    let found = found.map_err(|error| PROGRAM.fail(error.to_string()))?;
    found.warnings.iter().for_each(|text| warn(text));
    Ok(found.config)
}

/// JSON or TOML from standard input.
fn stdin() -> Result<Map<String, Value>, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_FILE).read_to_string(&mut text);
    read.map_err(|error| PROGRAM.fail(format!("stdin: {error}")))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text)
            .map_err(|error| PROGRAM.fail(format!("stdin: {error}")));
    }
    toml::from_str(&text).map_err(|error| PROGRAM.fail(format!("stdin: {error}")))
}

fn get(matches: &ArgMatches) -> Result<(), Failure> {
    let config = match text(matches, "config-path") {
        Some(path) => read(path)?,
        None => {
            let client = PROGRAM.open()?;
            let config = client.call::<ConfigGet>(To::Any, &AnyObject::default());
            config.map_err(|error| PROGRAM.about("Error fetching config object", &error))?
        }
    };
    let config = Value::Object(config);
    let quiet = matches.get_flag("quiet");
    let key = text(matches, "key");
    let found = match key {
        None => Some(&config),
        Some(key) => key.split('.').try_fold(&config, |value, name| value.get(name)),
    };
    let shown = match (found, text(matches, "default")) {
        (None, Some(default)) => default.to_owned(),
        (None, None) => {
            return Err(PROGRAM.fail(format!("{} is not set", key.unwrap_or_default())));
        }
        (Some(value), _) => typed(value, text(matches, "type").unwrap_or("any"))
            .map_err(|text| PROGRAM.fail(format!("{} {text}", key.unwrap_or("config"))))?,
    };
    if !quiet {
        output::line(&shown);
    }
    Ok(())
}

/// A value as text; it must be of the type.
fn typed(value: &Value, kind: &str) -> Result<String, String> {
    let fsd = || {
        let text = value.as_str().ok_or("value is not a string")?;
        flux_id::fsd::parse(text).map_err(|_| "value is not a valid Flux Standard Duration")
    };
    let fits = match kind {
        "any" => true,
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "real" => value.is_f64(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "fsd" => {
            fsd()?;
            true
        }
        "fsd-integer" => return Ok(format!("{}", fsd()?.trunc())),
        "fsd-real" => return Ok(format!("{:.6}", fsd()?)),
        _ => return Err(format!("unknown type: {kind}")),
    };
    if !fits {
        return Err(format!("does not have the requested type: {kind}"));
    }
    Ok(match value {
        Value::String(text) if kind != "any" => text.clone(),
        _ => value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_by_type() {
        assert_eq!(typed(&json!({"a": "b"}), "any"), Ok(r#"{"a":"b"}"#.into()));
        assert_eq!(typed(&json!("1.5h"), "any"), Ok("\"1.5h\"".into()));
        assert_eq!(typed(&json!("1.5h"), "string"), Ok("1.5h".into()));
        assert_eq!(typed(&json!("1.5h"), "fsd-integer"), Ok("5400".into()));
        assert!(typed(&json!(1), "string").is_err());
        assert!(typed(&json!("x"), "fsd").is_err());
    }
}
