//! What can be set: the policy, and how many requests are taken at once.

use flux_api::RpcError;
use flux_proto::Errno;
use serde_json::{Map, Value};

/// Who may run before whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Strictly by priority, then age: the first that does not fit stops all others.
    Fifo,
    /// As fifo, but a job may pass one that waits if it shares no node with it, or ends before
    /// the time that was reserved for it (EASY backfill).
    #[default]
    Easy,
}

impl Policy {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Easy => "easy",
        }
    }
}

/// Settings of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedSettings {
    /// Who may run before whom.
    pub policy: Policy,
    /// Requests taken at once; `None` for all.
    pub queue_depth: Option<u32>,
}

impl SchedSettings {
    /// Reads the table `[sched]` of the configuration: `policy` (`fifo` or `easy`) and
    /// `queue-depth` (a positive integer or `unlimited`). What it does not set stays.
    ///
    /// # Errors
    /// EINVAL names the key.
    pub fn configured(mut self, config: &Map<String, Value>) -> Result<Self, RpcError> {
        let Some(table) = config.get("sched") else { return Ok(self) };
        let Some(table) = table.as_object() else {
            return Err(invalid("[sched] must be a table".to_string()));
        };
        for (key, value) in table {
            match key.as_str() {
                "policy" => {
                    self.policy = match value.as_str() {
                        Some("fifo") => Policy::Fifo,
                        Some("easy") => Policy::Easy,
                        _ => {
                            let text = format!("sched.policy={value}: expected 'fifo' or 'easy'");
                            return Err(invalid(text));
                        }
                    }
                }
                "queue-depth" => self.queue_depth = depth(value)?,
                _ => return Err(invalid(format!("sched.{key}: unknown key"))),
            }
        }
        Ok(self)
    }
}

fn depth(value: &Value) -> Result<Option<u32>, RpcError> {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    if shown == "unlimited" {
        return Ok(None);
    }
    match shown.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
        Some(depth) => Ok(Some(depth)),
        None => Err(invalid(format!(
            "queue-depth='{shown}' is invalid: expected a positive integer or 'unlimited'"
        ))),
    }
}

fn invalid(text: String) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}
