//! The configuration: `[policy]`, `[queues]`, `[job-manager]`, `[access]`.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_id::fsd;
use flux_model::resource_set::queue_property;
use flux_proto::Errno;
use serde_json::{Map, Value};

use crate::access::{Rule, Rules};
use crate::guests::Bounds;
use crate::housekeeping::Housekeeping;
use crate::limits::{Limits, Policy, SIZES};
use crate::perilog::Perilog;

mod procedures;

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Seconds after which finished jobs are purged.
    pub inactive_age_limit: Option<f64>,
    /// Number of finished jobs to keep.
    pub inactive_num_limit: Option<usize>,
    /// Stop every queue at start.
    pub stop_queues_on_restart: bool,
    /// Guests see their own jobs only.
    pub private_mode: bool,
    /// Queues with their parents.
    pub queues: BTreeMap<String, Option<String>>,
    /// Constraint properties that each queue requires.
    pub requires: BTreeMap<String, Vec<String>>,
    /// Limits.
    pub policy: Policy,
    /// What one guest may hold.
    pub guests: Bounds,
    /// Who may submit.
    pub access: Rules,
    /// Plugins that the configuration asks for.
    pub plugins: Vec<String>,
    /// Prolog and epilog.
    pub perilog: Perilog,
    /// Housekeeping.
    pub housekeeping: Option<Housekeeping>,
}

/// A table of the configuration and its name, for errors.
pub(crate) struct Table<'a> {
    pub(crate) name: String,
    pub(crate) keys: &'a Map<String, Value>,
}

impl<'a> Table<'a> {
    pub(crate) fn error(&self, text: impl std::fmt::Display) -> RpcError {
        let text = format!("error parsing [{}] config table: {text}", self.name);
        RpcError::new(Errno::EINVAL, text)
    }

    pub(crate) fn sub(&self, key: &str) -> Result<Option<Table<'a>>, RpcError> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Object(keys)) if self.name.is_empty() => {
                Ok(Some(Table { name: key.to_string(), keys }))
            }
            Some(Value::Object(keys)) => {
                Ok(Some(Table { name: format!("{}.{key}", self.name), keys }))
            }
            Some(_) => Err(self.error(format_args!("{key} must be a table"))),
        }
    }

    pub(crate) fn only(&self, allowed: &[&str]) -> Result<(), RpcError> {
        match self.keys.keys().find(|key| !allowed.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(self.error(format_args!("unknown key '{key}'"))),
        }
    }

    pub(crate) fn duration(&self, key: &str) -> Result<Option<f64>, RpcError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        let seconds = match value {
            Value::String(text) => fsd::parse(text).ok(),
            other => other.as_f64().filter(|seconds| *seconds >= 0.0),
        };
        seconds.map(Some).ok_or_else(|| self.error(format_args!("{key} is not a valid FSD")))
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, RpcError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.error(format_args!("{key} must be an integer")))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, RpcError> {
        match self.keys.get(key) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(format_args!("{key} must be true or false"))),
        }
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>, RpcError> {
        let Some(value) = self.keys.get(key) else { return Ok(Vec::new()) };
        let strings = value.as_array().and_then(|list| {
            list.iter().map(|item| item.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
        });
        strings.ok_or_else(|| self.error(format_args!("{key} must be an array of strings")))
    }
}

fn limits(policy: &Table<'_>) -> Result<Limits, RpcError> {
    policy.only(&["jobspec", "limits", "access", "scheduler"])?;
    let mut limits = Limits::default();
    let Some(table) = policy.sub("limits")? else { return Ok(limits) };
    table.only(&["job-size", "duration"])?;
    limits.duration = table.duration("duration")?;
    if let Some(size) = table.sub("job-size")? {
        size.only(&["min", "max"])?;
        for (key, into) in [("min", &mut limits.min), ("max", &mut limits.max)] {
            let Some(table) = size.sub(key)? else { continue };
            table.only(&SIZES)?;
            for (name, slot) in SIZES.iter().zip(into.iter_mut()) {
                *slot = table.integer(name)?;
                if slot.is_some_and(|limit| limit < -1) {
                    return Err(table.error(format_args!("{name} must be >= -1")));
                }
            }
        }
    }
    Ok(limits)
}

fn default_queue(policy: &Table<'_>) -> Result<Option<String>, RpcError> {
    let Some(jobspec) = policy.sub("jobspec")? else { return Ok(None) };
    let Some(defaults) = jobspec.sub("defaults")? else { return Ok(None) };
    let Some(system) = defaults.sub("system")? else { return Ok(None) };
    match system.keys.get("queue") {
        None => Ok(None),
        Some(Value::String(queue)) => Ok(Some(queue.clone())),
        Some(_) => Err(system.error("queue must be a string")),
    }
}

/// Characters that no property may contain.
const FORBIDDEN: &str = " \t!&'\"`|()";

impl Settings {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// EINVAL names the table and the fault.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, RpcError> {
        let root = Table { name: String::new(), keys: config };
        let mut settings = Self::default();
        if let Some(table) = root.sub("job-manager")? {
            settings.inactive_age_limit = table.duration("inactive-age-limit")?;
            settings.inactive_num_limit = match table.integer("inactive-num-limit")? {
                None => None,
                Some(number) => Some(usize::try_from(number).map_err(|_| {
                    RpcError::new(Errno::EINVAL, "job-manager.inactive-num-limit: must be >= 0")
                })?),
            };
            settings.guests = Bounds::read(&table)?;
            settings.stop_queues_on_restart = table.flag("stop-queues-on-restart")?;
        }
        procedures::read(&root, &mut settings)?;
        if let Some(table) = root.sub("access")? {
            settings.private_mode = table.flag("private-mode")?;
        }
        let mut default = None;
        if let Some(policy) = root.sub("policy")? {
            settings.policy.general = limits(&policy)?;
            settings.access.general = Rule::read(&policy)?;
            default = default_queue(&policy)?;
        }
        if let Some(queues) = root.sub("queues")? {
            settings.read_queues(&queues)?;
            if let Some(queue) = default.filter(|queue| !settings.queues.contains_key(queue)) {
                let text = format!("default queue '{queue}' must be in [queues]");
                return Err(RpcError::new(Errno::EINVAL, text));
            }
        }
        Ok(settings)
    }

    fn read_queues(&mut self, queues: &Table<'_>) -> Result<(), RpcError> {
        let mut own = BTreeMap::new();
        for name in queues.keys.keys() {
            let Some(queue) = queues.sub(name)? else { continue };
            queue.only(&["policy", "requires", "hosts", "parent"])?;
            let parent = match queue.keys.get("parent") {
                None => None,
                Some(Value::String(parent)) => Some(parent.clone()),
                Some(_) => return Err(queue.error("parent must be a string")),
            };
            let requires = queue.strings("requires")?;
            if let Some(bad) = requires.iter().find(|text| text.contains(|c| FORBIDDEN.contains(c)))
            {
                return Err(queue.error(format_args!("invalid property '{bad}'")));
            }
            if queue.keys.contains_key("hosts") && queue.keys.contains_key("requires") {
                return Err(queue.error("hosts and requires exclude each other"));
            }
            let mut own_limits = Limits::default();
            if let Some(policy) = queue.sub("policy")? {
                own_limits = limits(&policy)?;
                if let Some(rule) = Rule::read(&policy)? {
                    self.access.queues.insert(name.clone(), rule);
                }
                if default_queue(&policy)?.is_some() {
                    return Err(queue.error("a queue policy must not define a default queue"));
                }
                if parent.is_some() && policy.keys.contains_key("scheduler") {
                    return Err(queue.error("a virtual queue must not set policy.scheduler"));
                }
            }
            if parent.is_some() && ["requires", "hosts"].iter().any(|k| queue.keys.contains_key(*k))
            {
                return Err(queue.error("a virtual queue must not set requires or hosts"));
            }
            let property = queue.keys.contains_key("hosts").then(|| queue_property(name));
            self.requires.insert(name.clone(), requires.into_iter().chain(property).collect());
            own.insert(name.clone(), own_limits);
            self.queues.insert(name.clone(), parent);
        }
        for (name, parent) in &self.queues {
            let Some(parent) = parent else { continue };
            let problem = match self.queues.get(parent) {
                None => "is not configured",
                Some(Some(_)) => "is itself a virtual queue",
                Some(None) => continue,
            };
            let text = format!("queue '{name}': parent queue '{parent}' {problem}");
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        for (name, limits) in &own {
            let parent = self.queues.get(name).cloned().flatten();
            if let Some(rule) = parent.as_ref().and_then(|name| self.access.queues.get(name))
                && !self.access.queues.contains_key(name)
            {
                let rule = rule.clone();
                self.access.queues.insert(name.clone(), rule);
            }
            let parent = parent.and_then(|parent| own.get(&parent));
            self.policy.add(name, limits.clone(), parent);
        }
        Ok(())
    }
}
