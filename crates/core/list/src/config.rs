//! The configuration: `[job-list]`, `[access]`, `[queues]`.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_proto::Errno;
use serde_json::{Map, Value};

/// Checks of jobs that one request may cost, if not configured.
pub const MAX_COMPARISONS: u64 = 1_000_000;

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Checks of jobs that one request may cost; 0 for any number.
    pub max_comparisons: u64,
    /// Guests see only their own jobs.
    pub private_mode: bool,
    /// Virtual queues with their parents.
    pub parents: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_comparisons: MAX_COMPARISONS, private_mode: false, parents: BTreeMap::new() }
    }
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

impl Settings {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// EINVAL names the key.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, RpcError> {
        let mut settings = Self::default();
        let key = |table: &str, key: &str| config.get(table).and_then(|table| table.get(key));
        if let Some(max) = key("job-list", "max_comparisons") {
            let max = max
                .as_i64()
                .ok_or_else(|| invalid("job-list.max_comparisons must be an integer"))?;
            settings.max_comparisons =
                u64::try_from(max).map_err(|_| invalid("job-list.max_comparisons must be >= 0"))?;
        }
        if let Some(private) = key("access", "private-mode") {
            settings.private_mode = private
                .as_bool()
                .ok_or_else(|| invalid("access.private-mode must be a boolean"))?;
        }
        let queues = config.get("queues").and_then(Value::as_object);
        for (name, queue) in queues.into_iter().flatten() {
            if let Some(parent) = queue.get("parent").and_then(Value::as_str) {
                settings.parents.insert(name.clone(), parent.to_string());
            }
        }
        Ok(settings)
    }
}
