//! `[sign]` of `/etc/flux/security/conf.d/*.toml`.

use flux_model::sign::Mechanism;
use toml::{Table, Value};

use crate::trust::{Trust, TrustError};

/// Where a site keeps the configuration.
pub const DEFAULT_PATTERN: &str = "/etc/flux/security/conf.d/*.toml";

/// Names other files, for tests; not heeded by a program with privileges.
pub const PATTERN_VARIABLE: &str = "FLUX_SECURITY_CONFIG_PATTERN";

/// Two weeks, in seconds.
const MAX_TTL_DEFAULT: i64 = 1_209_600;

/// Why there is no configuration to sign or verify by.
#[derive(Debug, thiserror::Error)]
pub enum SignConfigError {
    /// A file is not trusted.
    #[error("{0}")]
    Trust(#[from] TrustError),
    /// A file is no TOML.
    #[error("{path}: {text}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        text: String,
    },
    /// No file has the table.
    #[error(
        "{0}: no [sign] table found: jobs of guests need one, e.g. max-ttl = 1209600, default-type = \"munge\", allowed-types = [\"munge\"]"
    )]
    Missing(String),
    /// A key is unknown or has the wrong type.
    #[error("{0}")]
    Key(String),
}

/// How requests are signed and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignConfig {
    /// Seconds after which a signature no longer counts.
    pub max_ttl: i64,
    /// What is signed with.
    pub default_type: Mechanism,
    /// What is accepted.
    pub allowed_types: Vec<Mechanism>,
    /// Where munged listens, if not at its usual place.
    pub munge_socket: Option<String>,
}

fn mechanism(key: &str, value: &Value) -> Result<Mechanism, SignConfigError> {
    match value.as_str() {
        Some("none") => Ok(Mechanism::None),
        Some("munge") => Ok(Mechanism::Munge),
        Some(other) => Err(SignConfigError::Key(format!(
            "sign.{key}: unknown type '{other}' (known: munge, none)"
        ))),
        None => Err(SignConfigError::Key(format!("sign.{key}: must be a string"))),
    }
}

impl SignConfig {
    /// Reads the files of a pattern. Of tables in several files, later keys win.
    ///
    /// # Errors
    /// A file is not trusted, is no TOML, or no file has the table.
    pub fn load(pattern: &str, trust: Trust) -> Result<Self, SignConfigError> {
        let mut sign: Option<Table> = None;
        for path in trust.files(pattern)? {
            let syntax =
                |text: String| SignConfigError::Syntax { path: path.display().to_string(), text };
            let text = trust.read(&path)?;
            let file: Table =
                text.parse().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
            match file.get("sign") {
                None => {}
                Some(Value::Table(table)) => {
                    let keys = sign.get_or_insert_with(Table::new);
                    keys.extend(table.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
                Some(_) => return Err(syntax("sign: must be a table".to_string())),
            }
        }
        let sign = sign.ok_or_else(|| SignConfigError::Missing(pattern.to_string()))?;
        Self::from_table(&sign)
    }

    /// Reads the files of the environment's choice, else of the site.
    ///
    /// # Errors
    /// As [`SignConfig::load`].
    pub fn of_user() -> Result<Self, SignConfigError> {
        let uid = rustix::process::geteuid().as_raw();
        match std::env::var(PATTERN_VARIABLE) {
            Ok(pattern) => Self::load(&pattern, Trust::and(uid)),
            Err(_) => Self::load(DEFAULT_PATTERN, Trust::ROOT),
        }
    }

    /// Reads the table.
    ///
    /// # Errors
    /// A key is unknown or has the wrong type; the default is not allowed.
    pub fn from_table(table: &Table) -> Result<Self, SignConfigError> {
        let wrong = |text: &str| SignConfigError::Key(text.to_string());
        let mut config = SignConfig {
            max_ttl: MAX_TTL_DEFAULT,
            default_type: Mechanism::Munge,
            allowed_types: Vec::new(),
            munge_socket: None,
        };
        for (key, value) in table {
            match key.as_str() {
                "max-ttl" => {
                    config.max_ttl =
                        value.as_integer().filter(|seconds| *seconds > 0).ok_or_else(|| {
                            wrong("sign.max-ttl: must be a number of seconds, 1 or more")
                        })?;
                }
                "default-type" => config.default_type = mechanism(key, value)?,
                "allowed-types" => {
                    let list = value
                        .as_array()
                        .ok_or_else(|| wrong("sign.allowed-types: must be an array of strings"))?;
                    config.allowed_types =
                        list.iter().map(|value| mechanism(key, value)).collect::<Result<_, _>>()?;
                }
                "munge" => {
                    let table =
                        value.as_table().ok_or_else(|| wrong("sign.munge: must be a table"))?;
                    for (key, value) in table {
                        match (key.as_str(), value.as_str()) {
                            ("socket-path", Some(path)) => {
                                config.munge_socket = Some(path.to_string());
                            }
                            ("socket-path", None) => {
                                return Err(wrong("sign.munge.socket-path: must be a string"));
                            }
                            _ => return Err(wrong(&format!("sign.munge.{key}: unknown key"))),
                        }
                    }
                }
                _ => return Err(wrong(&format!("sign.{key}: unknown key"))),
            }
        }
        if config.allowed_types.is_empty() {
            return Err(wrong("sign.allowed-types: must name at least one type"));
        }
        if !config.allowed_types.contains(&config.default_type) {
            let name = config.default_type.name();
            return Err(wrong(&format!("sign.default-type: '{name}' is not in allowed-types")));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SignConfig, String> {
        let table: Table = text.parse().unwrap();
        SignConfig::from_table(&table).map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_of_the_guide_is_read() {
        let config =
            read("max-ttl = 1209600\ndefault-type = \"munge\"\nallowed-types = [ \"munge\" ]");
        let config = config.unwrap();
        assert_eq!(config.max_ttl, 1_209_600);
        assert_eq!(config.allowed_types, [Mechanism::Munge]);
        let config =
            read("default-type='none'\nallowed-types=['none','munge']\nmunge.socket-path='/s'");
        assert_eq!(config.unwrap().munge_socket.as_deref(), Some("/s"));
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named() {
        for (text, wanted) in [
            ("max-ttl = '2w'", "sign.max-ttl"),
            ("max-ttl = 0", "sign.max-ttl"),
            ("default-type = 1", "sign.default-type"),
            ("default-type = 'gpg'", "unknown type 'gpg'"),
            ("allowed-types = 'munge'", "sign.allowed-types"),
            ("allowed-types = []", "sign.allowed-types"),
            ("allowed-types = ['none']", "'munge' is not in allowed-types"),
            ("allowed-types = ['munge']\nfoo = 1", "sign.foo: unknown key"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_missing_table_says_where_it_was_looked_for() {
        let error = SignConfig::load("/nonexistent/conf.d/*.toml", Trust::ROOT).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/conf.d/*.toml: no [sign] table"));
    }
}
