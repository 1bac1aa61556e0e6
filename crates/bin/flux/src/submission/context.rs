//! What the command inherits from where it was started.

use std::{collections::BTreeMap, io::IsTerminal};

use super::{SubmitError, rlimit};

/// The surroundings of a submission, gathered once so that everything else is a function.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Environment variables in their order; those that are not UTF-8 cannot be expressed in a
    /// jobspec and are absent.
    pub(crate) environment: Vec<(String, String)>,
    /// Absolute working directory.
    pub(crate) cwd: String,
    /// Soft resource limits by name, -1 for none.
    pub(crate) limits: BTreeMap<&'static str, i64>,
    /// Time of the submission in the local time zone.
    pub(crate) now: jiff::Zoned,
    /// Standard input is a terminal.
    pub(crate) terminal: bool,
}

impl Context {
    /// Reads the surroundings of this process.
    ///
    /// # Errors
    /// The working directory is gone or has no UTF-8 name.
    pub(crate) fn gather() -> Result<Context, SubmitError> {
        let cwd = std::env::current_dir().map_err(|e| SubmitError::Cwd(e.to_string()))?;
        let cwd = cwd
            .into_os_string()
            .into_string()
            .map_err(|name| SubmitError::Cwd(format!("{}: not UTF-8", name.display())))?;
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Ok(Context {
            environment,
            cwd,
            limits: rlimit::current(),
            now: jiff::Zoned::now(),
            terminal: std::io::stdin().is_terminal(),
        })
    }

    /// The value of an environment variable.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Replaces a leading `~` by the home directory.
    pub(crate) fn expand_home(&self, path: &str) -> String {
        match (path.strip_prefix('~'), self.variable("HOME")) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                format!("{home}{rest}")
            }
            _ => path.to_owned(),
        }
    }
}

#[cfg(test)]
impl Context {
    /// Fixed surroundings for tests: 2026-11-21 00:00 UTC in `/home/me`.
    pub(crate) fn fixed() -> Context {
        Context {
            environment: [("PATH", "/bin"), ("HOME", "/home/me"), ("OMP_NUM_THREADS", "4")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            cwd: "/home/me".into(),
            limits: [
                ("core", 0),
                ("memlock", 65536),
                ("nofile", 1024),
                ("ofile", 1024),
                ("stack", -1),
            ]
            .into(),
            now: jiff::civil::date(2026, 11, 21).at(0, 0, 0, 0).in_tz("UTC").expect("UTC exists"),
            terminal: false,
        }
    }
}
