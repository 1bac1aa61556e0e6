//! `[exec]`: how jobs are started and ended.

use std::collections::BTreeMap;

use flux_id::fsd;
use flux_model::signal;
use flux_model::unit_limit::UnitLimit;
use serde_json::{Map, Value};

/// Settings of the service.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Program and first arguments of the job shell; the job id follows.
    pub shell: Vec<String>,
    /// Program that starts shells of other users; without one they have no jobs here.
    pub imp: Option<String>,
    /// Command that prints the input of [`Settings::imp`]; the job id follows.
    pub helper: String,
    /// Seconds between kill signals.
    pub kill_timeout: f64,
    /// First signal to a job that shall end.
    pub term_signal: i32,
    /// Signal that follows, again and again.
    pub kill_signal: i32,
    /// Signals to shells before the ranks are given up and drained.
    pub max_kill_count: u32,
    /// Seconds before that, whatever the count is.
    pub max_kill_timeout: Option<f64>,
    /// Percent of its duration that a job may lose between its allocation and its start; one that
    /// loses more gets all of its duration from its start on.
    pub max_start_delay_percent: u32,
    /// Seconds that shells may take to reach the first barrier; `None`: for ever.
    pub barrier_timeout: Option<f64>,
    /// Seconds that shells may outlive the leader; `None`: for ever.
    pub shell_exit_timeout: Option<f64>,
    /// Shells run in systemd units of their own, with these properties.
    pub units: bool,
    /// `[exec.sdexec-properties]`.
    pub unit_properties: BTreeMap<String, String>,
    /// Seconds that a node with shells may be away before that ends the job; `None`: for ever.
    pub lost_node_grace: Option<f64>,
}

impl Settings {
    /// Defaults with this job shell.
    #[must_use]
    pub fn new(shell: Vec<String>) -> Self {
        Self {
            shell,
            imp: None,
            helper: "flux imp_exec_helper".to_string(),
            kill_timeout: 5.0,
            term_signal: 15,
            kill_signal: 9,
            max_kill_count: 8,
            max_kill_timeout: None,
            max_start_delay_percent: 25,
            barrier_timeout: Some(1800.0),
            shell_exit_timeout: Some(30.0),
            units: false,
            unit_properties: BTreeMap::new(),
            lost_node_grace: Some(0.0),
        }
    }

    /// The same for an instance whose brokers come back: their nodes are given a minute.
    #[must_use]
    pub fn with_return(mut self) -> Self {
        self.lost_node_grace = Some(60.0);
        self
    }

    /// Takes `[exec]` over defaults.
    ///
    /// # Errors
    /// The sentence to show: an unknown key, or a value of the wrong type.
    pub fn with_config(&self, config: &Map<String, Value>) -> Result<Self, String> {
        let mut next = self.clone();
        let table = match config.get("exec") {
            None => return Ok(next),
            Some(Value::Object(table)) => table,
            Some(_) => return Err("exec: must be a table".to_string()),
        };
        for (key, value) in table {
            match key.as_str() {
                "job-shell" => {
                    let path = value.as_str().ok_or("exec.job-shell: must be a path")?;
                    next.shell = vec![path.to_string()];
                }
                "kill-timeout" => {
                    next.kill_timeout = duration(key, value)?
                        .filter(|seconds| *seconds > 0.0)
                        .ok_or("exec.kill-timeout: must be greater than 0")?;
                }
                "term-signal" => next.term_signal = signal_of(key, value)?,
                "kill-signal" => next.kill_signal = signal_of(key, value)?,
                "max-kill-count" => {
                    next.max_kill_count = value
                        .as_u64()
                        .and_then(|count| u32::try_from(count).ok())
                        .ok_or("exec.max-kill-count: must be a number")?;
                }
                "max-kill-timeout" => next.max_kill_timeout = duration(key, value)?,
                "max-start-delay-percent" => {
                    next.max_start_delay_percent = value
                        .as_u64()
                        .and_then(|percent| u32::try_from(percent).ok())
                        .filter(|percent| *percent <= 100)
                        .ok_or("exec.max-start-delay-percent: must be a number from 0 to 100")?;
                }
                "barrier-timeout" => next.barrier_timeout = duration(key, value)?,
                "shell-exit-timeout" => next.shell_exit_timeout = duration(key, value)?,
                "lost-node-grace" => next.lost_node_grace = duration(key, value)?,
                // The state machine of the leader reads it.
                "on-shutdown" => {}
                "method" if value.as_str() == Some("bulk-exec") => {}
                "service-override" if value == &Value::Bool(false) => {}
                "service" => {
                    next.units = match value.as_str() {
                        Some("rexec") => false,
                        Some("sdexec") => true,
                        _ => {
                            let text = "exec.service: must be \"rexec\" or \"sdexec\"";
                            return Err(text.to_string());
                        }
                    }
                }
                "sdexec-properties" => next.unit_properties = unit_properties(value)?,
                "imp" => {
                    let path = value.as_str().filter(|path| path.starts_with('/'));
                    let path = path.ok_or("exec.imp: must be an absolute path")?;
                    next.imp = Some(path.to_string());
                }
                _ => return Err(format!("exec.{key}: not supported")),
            }
        }
        Ok(next)
    }
}

fn unit_properties(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let table = value.as_object().ok_or("exec.sdexec-properties: must be a table")?;
    let mut properties = BTreeMap::new();
    for (name, value) in table {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(format!("exec.sdexec-properties.{name}: must be a string")),
        };
        UnitLimit::parse(name, &text).map_err(|error| format!("exec.sdexec-properties.{error}"))?;
        properties.insert(name.clone(), text);
    }
    Ok(properties)
}

fn duration(key: &str, value: &Value) -> Result<Option<f64>, String> {
    match value {
        Value::String(text) if matches!(text.as_str(), "none" | "inf" | "infinity") => Ok(None),
        Value::String(text) => fsd::parse(text)
            .map(Some)
            .map_err(|_| format!("exec.{key}: '{text}' is not a duration")),
        other => other
            .as_f64()
            .filter(|seconds| *seconds >= 0.0)
            .map(Some)
            .ok_or_else(|| format!("exec.{key}: must be a duration")),
    }
}

fn signal_of(key: &str, value: &Value) -> Result<i32, String> {
    let number = match value {
        Value::String(text) => signal::number(text),
        _ => value.as_i64().and_then(|number| signal::number(&number.to_string())),
    };
    number.ok_or_else(|| format!("exec.{key}: must be a signal"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_read_and_unknown_ones_named() {
        let base = Settings::new(vec!["flux".into(), "shell".into()]);
        let config = json!({"exec": {"kill-timeout": "1s", "term-signal": "SIGINT", "barrier-timeout": "none"}});
        let next = base.with_config(config.as_object().unwrap()).unwrap();
        assert_eq!((next.kill_timeout, next.term_signal, next.barrier_timeout), (1.0, 2, None));
        for (given, signum) in [(json!("winch"), Some(28)), (json!(64), Some(64)), (json!(0), None)]
        {
            assert_eq!(signal_of("term-signal", &given).ok(), signum, "{given}");
        }
        let config = json!({"exec": {"imp": "flux-imp"}});
        assert!(base.with_config(config.as_object().unwrap()).unwrap_err().contains("absolute"));
        let config = json!({"exec": {"imp": "/usr/libexec/flux/flux-imp"}});
        let imp = base.with_config(config.as_object().unwrap()).unwrap().imp;
        assert_eq!(imp.as_deref(), Some("/usr/libexec/flux/flux-imp"));
        let config = json!({"exec": {"service": "sdexec",
            "sdexec-properties": {"MemoryMax": "90%", "TasksMax": 100}}});
        let next = base.with_config(config.as_object().unwrap()).unwrap();
        assert!(next.units && next.unit_properties["TasksMax"] == "100");
        let config = json!({"exec": {"sdexec-properties": {"DevicePolicy": "closed"}}});
        let error = base.with_config(config.as_object().unwrap()).unwrap_err();
        assert!(error.starts_with("exec.sdexec-properties.DevicePolicy: not supported"), "{error}");
        let config = json!({"exec": {"x": 1}});
        assert_eq!(
            base.with_config(config.as_object().unwrap()).unwrap_err(),
            "exec.x: not supported"
        );
    }
}
