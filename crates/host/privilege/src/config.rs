//! `/etc/flux/imp/conf.d/*.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use flux_sign::trust::{Trust, TrustError};
use toml::{Table, Value};

use crate::environment::Environment;
use crate::identity::Caller;

/// Where a site keeps the configuration.
pub const DEFAULT_PATTERN: &str = "/etc/flux/imp/conf.d/*.toml";

/// Names other files, for tests; heeded only without privileges.
pub const PATTERN_VARIABLE: &str = "FLUX_IMP_CONFIG_PATTERN";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is not trusted.
    #[error("configuration {0}")]
    Trust(#[from] TrustError),
    /// A file has an error.
    #[error("configuration {path}: {text}")]
    File {
        /// The file.
        path: String,
        /// Where and why.
        text: String,
    },
    /// There is no file.
    #[error("no configuration: {0}: no such files")]
    Missing(String),
    /// There is no `[exec]`.
    #[error(
        "exec: not configured: add [exec] with allowed-users and allowed-shells to {DEFAULT_PATTERN}"
    )]
    NoExec,
}

/// `[exec]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// Login names of who may call `exec` and `kill`.
    pub allowed_users: Vec<String>,
    /// Absolute paths of the job shells.
    pub allowed_shells: Vec<String>,
    /// Whether `exec` works without privileges, for the caller only.
    pub allow_unprivileged: bool,
}

/// `[run.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunConfig {
    /// The program.
    pub path: PathBuf,
    /// Login names of who may run it.
    pub allowed_users: Vec<String>,
    /// Patterns of variables that it gets from the caller's environment.
    pub allowed_environment: Vec<String>,
}

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `[exec]`.
    pub exec: Option<ExecConfig>,
    /// `[run.*]`.
    pub run: BTreeMap<String, RunConfig>,
}

impl Config {
    /// Reads the site's configuration, or without privileges that of the environment's choice.
    ///
    /// # Errors
    /// Nothing can be used.
    pub fn load(caller: &Caller, env: &Environment) -> Result<Self, ConfigError> {
        if caller.is_privileged() {
            return Self::read(DEFAULT_PATTERN, Trust::ROOT);
        }
        match env.get(PATTERN_VARIABLE) {
            Some(pattern) => Self::read(pattern, Trust::and(caller.uid)),
            None => Self::read(DEFAULT_PATTERN, Trust::ROOT),
        }
    }

    /// Reads the files of a pattern.
    ///
    /// # Errors
    /// There is none, or one is not trusted or has an error.
    pub fn read(pattern: &str, trust: Trust) -> Result<Self, ConfigError> {
        let files = trust.files(pattern)?;
        if files.is_empty() {
            return Err(ConfigError::Missing(pattern.to_string()));
        }
        let mut config = Self::default();
        for path in files {
            let text = trust.read(&path)?;
            config.add(&text).map_err(|text| {
                let path = path.display().to_string();
                ConfigError::File { path, text }
            })?;
        }
        Ok(config)
    }

    /// Takes the tables of one file.
    ///
    /// # Errors
    /// Where the text is wrong: syntax, an unknown key, a wrong type.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let file: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        for (key, value) in &file {
            match key.as_str() {
                "exec" => exec(self.exec.get_or_insert_default(), table(key, value)?)?,
                "run" => {
                    for (name, value) in table(key, value)? {
                        let path = format!("run.{name}");
                        run(
                            self.run.entry(name.clone()).or_default(),
                            &path,
                            table(&path, value)?,
                        )?;
                    }
                }
                _ => return Err(format!("{key}: unknown table")),
            }
        }
        match self.run.iter().find(|(_, run)| !run.path.is_absolute()) {
            Some((name, _)) => Err(format!("run.{name}.path: must be an absolute path")),
            None => Ok(()),
        }
    }
}

fn table<'a>(key: &str, value: &'a Value) -> Result<&'a Table, String> {
    value.as_table().ok_or_else(|| format!("{key}: must be a table"))
}

fn words(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{key}: must be an array of strings");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().map(|word| word.as_str().map(str::to_string).ok_or_else(wrong)).collect()
}

fn flag(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{key}: must be true or false"))
}

fn exec(exec: &mut ExecConfig, table: &Table) -> Result<(), String> {
    for (key, value) in table {
        let path = format!("exec.{key}");
        match key.as_str() {
            "allowed-users" => exec.allowed_users = words(&path, value)?,
            "allowed-shells" => {
                exec.allowed_shells = words(&path, value)?;
                if let Some(shell) =
                    exec.allowed_shells.iter().find(|shell| !shell.starts_with('/'))
                {
                    return Err(format!("{path}: '{shell}' must be an absolute path"));
                }
            }
            "allow-unprivileged-exec" => exec.allow_unprivileged = flag(&path, value)?,
            "pam-support" => {
                if flag(&path, value)? {
                    return Err(format!("{path}: PAM is not supported by this release"));
                }
            }
            _ => return Err(format!("{path}: unknown key")),
        }
    }
    Ok(())
}

fn run(run: &mut RunConfig, prefix: &str, table: &Table) -> Result<(), String> {
    for (key, value) in table {
        let path = format!("{prefix}.{key}");
        match key.as_str() {
            "path" => {
                run.path =
                    value.as_str().ok_or_else(|| format!("{path}: must be a string"))?.into();
            }
            "allowed-users" => run.allowed_users = words(&path, value)?,
            "allowed-environment" => run.allowed_environment = words(&path, value)?,
            _ => return Err(format!("{path}: unknown key")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        config.add(text).map(|()| config)
    }

    #[test]
    fn the_tables_of_the_guide_are_read() {
        let config = read(
            r#"
            [exec]
            allowed-users = [ "flux" ]
            allowed-shells = [ "/usr/libexec/flux/flux-shell" ]
            [run.prolog]
            allowed-users = [ "flux" ]
            path = "/etc/flux/system/prolog"
            allowed-environment = [ "FLUX_*" ]
            "#,
        )
        .unwrap();
        let exec = config.exec.unwrap();
        assert_eq!(exec.allowed_users, ["flux"]);
        assert_eq!(exec.allowed_shells, ["/usr/libexec/flux/flux-shell"]);
        assert!(!exec.allow_unprivileged);
        assert_eq!(config.run["prolog"].path, PathBuf::from("/etc/flux/system/prolog"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("exec = 1", "exec: must be a table"),
            ("[exec]\nallowed-user = ['flux']", "exec.allowed-user: unknown key"),
            ("[exec]\nallowed-users = 'flux'", "exec.allowed-users: must be an array"),
            ("[exec]\nallowed-shells = ['flux-shell']", "must be an absolute path"),
            ("[exec]\npam-support = true", "PAM is not supported"),
            ("[run.x]\nallowed-users = []", "run.x.path: must be an absolute path"),
            ("[run.x]\npath = 'x'", "run.x.path: must be an absolute path"),
            ("[other]", "other: unknown table"),
            ("[exec", "TOML parse error at line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn no_files_are_no_configuration() {
        let error = Config::read("/nonexistent/*.toml", Trust::ROOT).unwrap_err();
        assert!(matches!(error, ConfigError::Missing(_)));
    }
}
