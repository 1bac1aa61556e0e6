//! The `attributes` of a jobspec: checks and typed access.

use serde_json::{Map, Value};

use super::error::JobspecError;
use super::task::string;
use super::{Jobspec, required};

/// One entry of `attributes.system.dependencies` (RFC 26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency<'a> {
    /// Names the kind, e.g. `afterok`.
    pub scheme: &'a str,
    /// What it depends on, in the form of the scheme.
    pub value: &'a str,
}

/// The shell option `per-resource`: so many tasks for each node or core of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerResource<'a> {
    /// `node` or `core`.
    pub kind: &'a str,
    /// Tasks for each; 1 if not given.
    pub count: u64,
}

/// Checks the value of `attributes`.
pub(super) fn check(value: &Value) -> Result<(), JobspecError> {
    // The schemas of RFC 14 and 25 allow null for "no attributes".
    if value.is_null() {
        return Ok(());
    }
    for (key, value) in object("", value)? {
        match key.as_str() {
            "user" => drop(object("user", value)?),
            "system" => check_system(object("system", value)?).map_err(|e| e.under("system"))?,
            _ => return Err(JobspecError::at(key, "unknown key, expected system or user")),
        }
    }
    Ok(())
}

fn check_system(system: &Map<String, Value>) -> Result<(), JobspecError> {
    for (key, value) in system {
        match key.as_str() {
            "duration" | "preemptible-after" => {
                value
                    .as_f64()
                    .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
                    .ok_or_else(|| {
                        JobspecError::expected(key, "a number of seconds >= 0", value)
                    })?;
            }
            "cwd" | "queue" | "bank" | "project" => drop(string(key, value)?),
            "environment" => {
                for (name, value) in object(key, value)? {
                    if !matches!(value, Value::String(_) | Value::Null) {
                        return Err(
                            JobspecError::expected(name, "a string or null", value).under(key)
                        );
                    }
                }
            }
            "job" => {
                for (name, value) in object(key, value)? {
                    string(name, value).map_err(|e| e.under(key))?;
                }
            }
            "dependencies" => check_dependencies(value).map_err(|e| e.under(key))?,
            "constraints" | "files" => drop(object(key, value)?),
            "shell" => {
                if let Some(options) = object(key, value)?.get("options") {
                    object("options", options).map_err(|e| e.under(key))?;
                }
            }
            // Other words are reserved, and at most worth a warning.
            _ => {}
        }
    }
    Ok(())
}

fn check_dependencies(value: &Value) -> Result<(), JobspecError> {
    let Value::Array(list) = value else {
        return Err(JobspecError::expected("", "a list", value));
    };
    for (at, entry) in list.iter().enumerate() {
        let part = || {
            let entry = object("", entry)?;
            for key in ["scheme", "value"] {
                string(key, required(entry, key)?)?;
            }
            Ok(())
        };
        part().map_err(|e: JobspecError| e.under(&format!("[{at}]")))?;
    }
    Ok(())
}

fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, JobspecError> {
    value.as_object().ok_or_else(|| JobspecError::expected(key, "an object", value))
}

impl Jobspec {
    /// `attributes.system`.
    pub fn system(&self) -> Option<&Map<String, Value>> {
        self.raw.get("attributes")?.get("system")?.as_object()
    }

    /// `attributes.user`.
    pub fn user(&self) -> Option<&Map<String, Value>> {
        self.raw.get("attributes")?.get("user")?.as_object()
    }

    /// Time limit in seconds; 0 when there is none or it is left to defaults.
    pub fn duration(&self) -> f64 {
        self.system().and_then(|s| s.get("duration")?.as_f64()).unwrap_or(0.0)
    }

    /// Seconds of run time after which the job may be preempted; `None` for never.
    pub fn preemptible_after(&self) -> Option<f64> {
        self.system()?.get("preemptible-after")?.as_f64()
    }

    /// Working directory of the tasks.
    pub fn cwd(&self) -> Option<&str> {
        self.system_text("cwd")
    }

    /// Queue the job asks for.
    pub fn queue(&self) -> Option<&str> {
        self.system_text("queue")
    }

    /// Accounting bank.
    pub fn bank(&self) -> Option<&str> {
        self.system_text("bank")
    }

    /// Accounting project.
    pub fn project(&self) -> Option<&str> {
        self.system_text("project")
    }

    /// Name of the job: `attributes.system.job.name`, else the last path component of the command.
    pub fn name(&self) -> &str {
        let given = self.system().and_then(|s| s.get("job")?.get("name")?.as_str());
        given.unwrap_or_else(|| {
            let command = self.command().first().map_or("", String::as_str);
            command.rsplit('/').next().unwrap_or(command)
        })
    }

    /// Environment changes in the order given: variable name, and value or `None` to unset it.
    pub fn environment(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.system()
            .and_then(|s| s.get("environment")?.as_object())
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The constraint object (RFC 31).
    pub fn constraints(&self) -> Option<&Value> {
        self.system()?.get("constraints")
    }

    /// The dependencies in the order given.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency<'_>> {
        self.system()
            .and_then(|s| s.get("dependencies")?.as_array())
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                Some(Dependency {
                    scheme: entry.get("scheme")?.as_str()?,
                    value: entry.get("value")?.as_str()?,
                })
            })
    }

    /// The files to unpack for the job (RFC 37 objects by path).
    pub fn files(&self) -> Option<&Map<String, Value>> {
        self.system()?.get("files")?.as_object()
    }

    /// `attributes.system.shell.options`.
    pub fn shell_options(&self) -> Option<&Map<String, Value>> {
        self.system()?.get("shell")?.get("options")?.as_object()
    }

    /// One shell option; dots in `name` nest, e.g. `output.stdout.type`.
    pub fn shell_option(&self, name: &str) -> Option<&Value> {
        let mut parts = name.split('.');
        let first = self.shell_options()?.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// The shell option `per-resource`, if it has a known form.
    pub fn per_resource(&self) -> Option<PerResource<'_>> {
        let option = self.shell_options()?.get("per-resource")?;
        let kind = option.get("type")?.as_str().filter(|kind| ["node", "core"].contains(kind))?;
        let count = match option.get("count") {
            None => 1,
            Some(count) => count.as_u64().filter(|count| *count > 0)?,
        };
        Some(PerResource { kind, count })
    }

    fn system_text(&self, key: &str) -> Option<&str> {
        self.system()?.get(key)?.as_str()
    }
}
