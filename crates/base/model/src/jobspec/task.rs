//! Task descriptors (RFC 14, section Tasks).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::JobspecError;
use super::required;
use super::resource::Vertex;

/// One entry of the `tasks` list.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Executable and arguments; not empty.
    pub command: Vec<String>,
    /// Label of the slot its tasks run in.
    pub slot: String,
    /// How many tasks to run.
    pub count: TaskCount,
    /// Hint for task placement.
    pub distribution: Option<String>,
    /// Extensions of this task, e.g. an `environment` of its own.
    pub attributes: Option<Map<String, Value>>,
}

/// Number of tasks of a task descriptor; numbers are positive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskCount {
    /// So many in each slot.
    PerSlot(u64),
    /// So many for each resource of a type in the slot.
    PerResource {
        /// The resource type.
        kind: String,
        /// Tasks for each.
        count: u64,
    },
    /// So many in all.
    Total(u64),
}

impl Task {
    /// Reads the `tasks` list.
    pub(super) fn list_from_value(value: &Value) -> Result<Vec<Self>, JobspecError> {
        let list = match value {
            Value::Array(list) if !list.is_empty() => list,
            _ => return Err(JobspecError::expected("", "a list of at least one task", value)),
        };
        list.iter()
            .enumerate()
            .map(|(at, task)| Self::from_value(task).map_err(|e| e.under(&format!("[{at}]"))))
            .collect()
    }

    fn from_value(value: &Value) -> Result<Self, JobspecError> {
        let Value::Object(map) = value else {
            return Err(JobspecError::expected("", "an object", value));
        };
        for key in map.keys() {
            if !["command", "slot", "count", "distribution", "attributes"].contains(&key.as_str()) {
                return Err(JobspecError::at(key, "unknown key of a task"));
            }
        }
        Ok(Self {
            command: command(required(map, "command")?)?,
            slot: string("slot", required(map, "slot")?)?,
            count: TaskCount::from_value(required(map, "count")?).map_err(|e| e.under("count"))?,
            distribution: map.get("distribution").map(|v| string("distribution", v)).transpose()?,
            attributes: match map.get("attributes") {
                None => None,
                Some(Value::Object(attributes)) => Some(attributes.clone()),
                Some(other) => {
                    return Err(JobspecError::expected("attributes", "an object", other));
                }
            },
        })
    }
}

impl TaskCount {
    fn from_value(value: &Value) -> Result<Self, JobspecError> {
        const KEYS: &str = "an object with exactly one of per_slot, per_resource and total";
        let Value::Object(map) = value else {
            return Err(JobspecError::expected("", KEYS, value));
        };
        let mut entries = map.iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else {
            return Err(JobspecError::at("", format!("expected {KEYS}, got {} keys", map.len())));
        };
        match key.as_str() {
            "per_slot" => Ok(Self::PerSlot(positive(key, value)?)),
            "total" => Ok(Self::Total(positive(key, value)?)),
            "per_resource" => {
                let Value::Object(map) = value else {
                    return Err(JobspecError::expected("per_resource", "an object", value));
                };
                let part = || {
                    Ok(Self::PerResource {
                        kind: string("type", required(map, "type")?)?,
                        count: positive("count", required(map, "count")?)?,
                    })
                };
                part().map_err(|e: JobspecError| e.under("per_resource"))
            }
            _ => Err(JobspecError::at("", format!("expected {KEYS}, got '{key}'"))),
        }
    }
}

/// Checks that labels are unique and that each task names the label of a slot, and per_resource a
/// type that slot contains.
pub(super) fn check_slots(tasks: &[Task], resources: &[Vertex]) -> Result<(), JobspecError> {
    let mut labels = BTreeMap::new();
    let mut open: Vec<&Vertex> = resources.iter().collect();
    while let Some(vertex) = open.pop() {
        if let Some(label) = &vertex.label
            && labels.insert(label.as_str(), vertex).is_some()
        {
            return Err(JobspecError::at(
                "resources",
                format!("label '{label}' is used more than once"),
            ));
        }
        open.extend(&vertex.with);
    }
    for (at, task) in tasks.iter().enumerate() {
        let slot = labels.get(task.slot.as_str()).filter(|vertex| vertex.is_slot());
        let Some(slot) = slot else {
            return Err(JobspecError::at(
                format!("tasks[{at}].slot"),
                format!("no slot has the label '{}'", task.slot),
            ));
        };
        if let TaskCount::PerResource { kind, .. } = &task.count
            && !slot.with.iter().any(|vertex| vertex.contains_kind(kind))
        {
            return Err(JobspecError::at(
                format!("tasks[{at}].count.per_resource.type"),
                format!("slot '{}' contains no resource of type '{kind}'", task.slot),
            ));
        }
    }
    Ok(())
}

fn command(value: &Value) -> Result<Vec<String>, JobspecError> {
    match value {
        // The schema of RFC 25 also allows a bare string.
        Value::String(word) => Ok(vec![word.clone()]),
        Value::Array(words) if !words.is_empty() => words
            .iter()
            .enumerate()
            .map(|(at, word)| string(&format!("command[{at}]"), word))
            .collect(),
        _ => Err(JobspecError::expected("command", "a list of at least one string", value)),
    }
}

/// A string value.
pub(super) fn string(key: &str, value: &Value) -> Result<String, JobspecError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(JobspecError::expected(key, "a string", value)),
    }
}

/// A positive integer value.
pub(super) fn positive(key: &str, value: &Value) -> Result<u64, JobspecError> {
    value
        .as_u64()
        .filter(|n| *n > 0)
        .ok_or_else(|| JobspecError::expected(key, "a positive integer", value))
}
