//! Named output formats: those of a command, and those its users configured.

use std::path::PathBuf;

use flux_format::{Format, FormatChoice, FormatError, NamedFormat, NamedFormats};
use serde_json::Value;

use crate::output;

/// What `-o` led to.
pub(crate) enum Choice {
    /// Use this format.
    Use(Format),
    /// What was asked for has been printed.
    Printed,
}

/// The formats of a command: built in, then configured in `flux-NAME.{json,toml,yaml}` below
/// `$XDG_CONFIG_DIRS/flux` (least important last) and `$XDG_CONFIG_HOME/flux`.
///
/// # Errors
/// A file that cannot be read, or that redefines a built-in format.
pub(crate) fn formats(
    command: &str,
    builtin: &[(&str, &str, &str)],
) -> Result<NamedFormats, String> {
    let mut formats = NamedFormats::builtin(builtin);
    for directory in config_directories(|name| std::env::var(name).ok()) {
        for extension in ["json", "toml", "yaml"] {
            let path = directory.join(format!("flux/flux-{command}.{extension}"));
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let wrong = |text: String| format!("{}: {text}", path.display());
            for (name, format) in configured(extension, &text).map_err(wrong)? {
                formats.add(&name, format).map_err(|error| wrong(error.to_string()))?;
            }
        }
    }
    Ok(formats)
}

/// Least important first.
fn config_directories(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let system = variable("XDG_CONFIG_DIRS").filter(|dirs| !dirs.is_empty());
    let system = system.unwrap_or_else(|| "/etc/xdg".into());
    let mut directories: Vec<PathBuf> =
        system.rsplit(':').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    let home = variable("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    directories
        .extend(home.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config"))));
    directories
}

/// The formats in a configuration file: `[formats.NAME]` with `format` and `description`.
fn configured(extension: &str, text: &str) -> Result<Vec<(String, NamedFormat)>, String> {
    let value: Value = match extension {
        "json" => serde_json::from_str(text).map_err(|error| error.to_string())?,
        "toml" => toml::from_str(text).map_err(|error| error.to_string())?,
        // JSON is YAML; more of YAML is not read.
        _ => serde_json::from_str(text)
            .map_err(|error| format!("only the JSON subset of YAML is read: {error}"))?,
    };
    let mut formats = Vec::new();
    for (name, entry) in value["formats"].as_object().into_iter().flatten() {
        let format = entry["format"].as_str();
        let format = format.ok_or_else(|| format!("formats.{name}: no format"))?.to_owned();
        let description = entry["description"].as_str().unwrap_or_default().to_owned();
        formats.push((name.clone(), NamedFormat { format, description }));
    }
    Ok(formats)
}

/// The format that is used where none is asked for: that of the environment, else the program's
/// own. `what` is as in `FLUX_JOBS_FORMAT_DEFAULT`.
pub(crate) fn default_format(what: &str, builtin: &str) -> String {
    let set = std::env::var(format!("FLUX_{what}_FORMAT_DEFAULT")).ok();
    set.filter(|format| !format.is_empty()).unwrap_or_else(|| builtin.to_owned())
}

/// Acts on the value of `-o`; `help` and `get-config=NAME` print something.
///
/// # Errors
/// An unknown name or a format that cannot be read.
pub(crate) fn choose(
    program: &str,
    formats: &NamedFormats,
    value: &str,
) -> Result<Choice, FormatError> {
    match formats.choose(value)? {
        FormatChoice::Use(text) => Format::parse(text).map(Choice::Use),
        FormatChoice::Config(name, format) => {
            let quoted = |text: &str| Value::from(text).to_string();
            output::line(&format!("[formats.{name}]"));
            output::line(&format!("description = {}", quoted(&format.description)));
            output::line(&format!("format = {}", quoted(&format.format)));
            Ok(Choice::Printed)
        }
        FormatChoice::Help => {
            output::line(&format!("\nConfigured {program} output formats:\n"));
            for (name, format) in formats.iter() {
                output::line(&format!("  {name:<16} {}", format.description));
            }
            Ok(Choice::Printed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_comes_after_the_system() {
        let dirs = config_directories(|name| match name {
            "XDG_CONFIG_DIRS" => Some("/a:/b".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        });
        assert_eq!(dirs, ["/b", "/a", "/home/me/.config"].map(PathBuf::from));
    }

    #[test]
    fn formats_are_read_from_files() {
        let toml = "[formats.mine]\nformat = \"{id}\"\ndescription = \"x\"\n";
        let formats = configured("toml", toml).expect("valid");
        assert_eq!((formats[0].0.as_str(), formats[0].1.format.as_str()), ("mine", "{id}"));
        assert!(configured("json", r#"{"formats": {"a": {}}}"#).is_err());
        assert!(configured("yaml", "formats:\n").is_err());
    }
}
