//! What is wrong with a jobspec, and where.

use serde_json::Value;
use thiserror::Error;

/// Why a jobspec is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobspecError {
    /// The text is not JSON.
    #[error("jobspec: invalid JSON: {0}")]
    Json(String),
    /// One key is missing, unknown or has a wrong value.
    #[error("{path}: {problem}")]
    Invalid {
        /// Where, e.g. `resources[0].with[1].count`.
        path: String,
        /// What was expected.
        problem: String,
    },
    /// The version is not the one that is required here.
    #[error("version: expected {required}, got {found}")]
    Version {
        /// Version of the jobspec.
        found: u64,
        /// Version that is required.
        required: u64,
    },
}

impl JobspecError {
    /// A problem at a path.
    pub fn at(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into() }
    }

    /// A value of the wrong kind at a path.
    pub(crate) fn expected(path: impl Into<String>, expected: &str, found: &Value) -> Self {
        Self::at(path, format!("expected {expected}, got {}", describe(found)))
    }

    /// Puts `parent` before the path.
    pub(crate) fn under(self, parent: &str) -> Self {
        match self {
            Self::Invalid { path, problem } => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                Self::Invalid { path: format!("{parent}{dot}{path}"), problem }
            }
            other => other,
        }
    }
}

/// Names a value in a message, short whatever its size.
fn describe(value: &Value) -> String {
    const SHOWN: usize = 40;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) if s.chars().count() <= SHOWN => format!("'{s}'"),
        Value::String(_) => "a long string".to_owned(),
        Value::Array(list) if list.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
