//! Which versions of jobspec are taken: `ingest.validator.args`, in the words of the validator that
//! other releases ran for it.

use flux_api::RpcError;
use flux_model::jobspec::{Jobspec, JobspecError};
use flux_proto::Errno;
use serde_json::{Map, Value};

/// The option of the validator.
const OPTION: &str = "--require-version";

/// What `--require-version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    /// This one.
    Only(u64),
    /// Any: other than version 1 (RFC 25) may ask for resources of any type (RFC 14).
    Any,
}

impl Default for Versions {
    fn default() -> Self {
        Self::Only(1)
    }
}

impl Versions {
    /// Reads `ingest.validator.args`; there is no other option than `--require-version`.
    ///
    /// # Errors
    /// EINVAL: another option, or the version is none.
    pub(crate) fn from_config(config: &Map<String, Value>) -> Result<Self, RpcError> {
        let args = config.get("ingest").and_then(|ingest| ingest.get("validator")?.get("args"));
        let mut words =
            args.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let mut found = Self::default();
        while let Some(word) = words.next() {
            let rest = word.strip_prefix(OPTION);
            let text = match rest.and_then(|rest| rest.strip_prefix('=')) {
                Some(text) => text,
                None if rest == Some("") => words.next().unwrap_or_default(),
                None => {
                    let text = format!("ingest.validator.args: '{word}' is no option");
                    return Err(RpcError::new(Errno::EINVAL, text));
                }
            };
            found = match (text, text.parse()) {
                ("any", _) => Self::Any,
                (_, Ok(version)) if version > 0 => Self::Only(version),
                _ => {
                    let text = format!("ingest.validator.args: {OPTION}: '{text}' is no version");
                    return Err(RpcError::new(Errno::EINVAL, text));
                }
            };
        }
        Ok(found)
    }

    /// Refuses what is not taken.
    ///
    /// # Errors
    /// Names both versions.
    pub(crate) fn check(self, jobspec: Jobspec) -> Result<Jobspec, JobspecError> {
        if let Self::Only(version) = self {
            jobspec.require_version(version)?;
        }
        match jobspec.tasks() {
            [_] => Ok(jobspec),
            tasks => {
                let text = format!("{} of them, and one can be run", tasks.len());
                Err(JobspecError::at("tasks", text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_of_the_validator_say_which_versions_are_taken() {
        let read = |args: Value| {
            let config = json!({"ingest": {"validator": {"args": args}}});
            Versions::from_config(config.as_object().unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(Versions::from_config(&Map::new()), Ok(Versions::Only(1)));
        assert_eq!(read(json!(["--require-version=any"])), Ok(Versions::Any));
        assert_eq!(read(json!(["--require-version", "9999"])), Ok(Versions::Only(9999)));
        assert!(read(json!(["--other=any"])).unwrap_err().contains("'--other=any' is no option"));
        let task = json!({"command": ["true"], "slot": "task", "count": {"per_slot": 1}});
        let several = Jobspec::from_value(json!({"version": 999, "tasks": [task, task],
            "resources": [{"type": "slot", "count": 1, "label": "task",
                "with": [{"type": "core", "count": 1}]}],
            "attributes": {"system": {"duration": 0}}}));
        let error = Versions::Any.check(several.unwrap()).unwrap_err().to_string();
        assert_eq!(error, "tasks: 2 of them, and one can be run");
        let error = read(json!(["--require-version"])).unwrap_err();
        assert!(error.contains("--require-version: '' is no version"), "{error}");
    }
}
