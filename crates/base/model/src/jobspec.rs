//! The job specification: what a job runs, on which resources (RFC 14, version 1: RFC 25).
//!
//! [`Jobspec`] keeps the JSON it was read from, so that writing it back keeps every key and the
//! order of keys, and beside it a checked, typed view of resources and tasks.

mod attributes;
mod build;
mod count;
mod error;
mod path;
mod request;
mod resource;
mod task;
mod version1;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use attributes::{Dependency, PerResource};
pub use build::{Batch, BuildError, Builder, PerResourceRequest, PerTaskRequest};
pub use count::Count;
pub use error::JobspecError;
pub use request::{Layout, Request, units};
pub use resource::{MAX_DEPTH, Vertex};
pub use task::{Task, TaskCount};

/// Version number of RFC 25 jobspec.
pub const VERSION_1: u64 = 1;

/// Version number RFC 14 uses in its examples, for what version 1 cannot express.
pub const VERSION_CANONICAL: u64 = 999;

/// A valid job specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Jobspec {
    raw: Map<String, Value>,
    version: u64,
    resources: Vec<Vertex>,
    tasks: Vec<Task>,
}

impl Jobspec {
    /// Reads and checks a jobspec in JSON.
    ///
    /// # Errors
    /// Text that is not JSON, and the first fault against RFC 14; for version 1 also against
    /// RFC 25.
    pub fn parse(json: &str) -> Result<Self, JobspecError> {
        let value = serde_json::from_str(json).map_err(|e| JobspecError::Json(e.to_string()))?;
        Self::from_value(value)
    }

    /// Checks a jobspec that is already a JSON value.
    ///
    /// # Errors
    /// The first fault, as for [`Jobspec::parse`].
    pub fn from_value(value: Value) -> Result<Self, JobspecError> {
        let Value::Object(raw) = value else {
            return Err(JobspecError::expected("jobspec", "an object", &value));
        };
        for key in raw.keys() {
            if !["version", "resources", "tasks", "attributes"].contains(&key.as_str()) {
                return Err(JobspecError::at(key, "unknown key of a jobspec"));
            }
        }
        let version = task::positive("version", required(&raw, "version")?)?;
        let resources = Vertex::list_from_value(required(&raw, "resources")?)
            .map_err(|e| e.under("resources"))?;
        let tasks =
            Task::list_from_value(required(&raw, "tasks")?).map_err(|e| e.under("tasks"))?;
        task::check_slots(&tasks, &resources)?;
        attributes::check(required(&raw, "attributes")?).map_err(|e| e.under("attributes"))?;
        let jobspec = Self { raw, version, resources, tasks };
        if version == VERSION_1 {
            version1::check(&jobspec)?;
        }
        Ok(jobspec)
    }

    /// Refuses every version but `required`.
    ///
    /// # Errors
    /// When the version differs.
    pub fn require_version(&self, required: u64) -> Result<(), JobspecError> {
        if self.version == required {
            return Ok(());
        }
        Err(JobspecError::Version { found: self.version, required })
    }

    /// The version number.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The requested resource graph.
    pub fn resources(&self) -> &[Vertex] {
        &self.resources
    }

    /// The tasks to run; at least one.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Command and arguments of the first task; not empty.
    pub fn command(&self) -> &[String] {
        self.tasks.first().map_or(&[], |task| &task.command)
    }

    /// What is asked of the scheduler: nodes, slots, cores and gpus.
    ///
    /// # Errors
    /// Counts that cannot be combined.
    pub fn request(&self) -> Result<Request, JobspecError> {
        Request::of(&self.resources)
    }

    /// Number of tasks, as far as it follows from the jobspec alone: `None` when it depends on the
    /// number of nodes, cores or slots the scheduler will choose.
    pub fn ntasks(&self) -> Option<u64> {
        let fixed = |(min, max): (u64, Option<u64>)| (max == Some(min)).then_some(min);
        let request = self.request().ok()?;
        match (self.per_resource(), &self.tasks.first()?.count) {
            (Some(per), _) if per.kind == "node" => {
                Some(fixed(request.total_nodes()?)?.saturating_mul(per.count))
            }
            // An exclusive job gets all cores of its nodes, however few it asked for.
            (Some(_), _) if request.exclusive => None,
            (Some(per), _) => Some(fixed(request.total_cores())?.saturating_mul(per.count)),
            (None, TaskCount::Total(total)) => Some(*total),
            (None, TaskCount::PerSlot(n)) => Some(fixed(request.total_slots())?.saturating_mul(*n)),
            (None, TaskCount::PerResource { kind, count }) => {
                let total = match kind.as_str() {
                    "node" => request.total_nodes()?,
                    "core" => request.total_cores(),
                    "gpu" => request.total_gpus(),
                    _ => return None,
                };
                Some(fixed(total)?.saturating_mul(*count))
            }
        }
    }

    /// Number of tasks once resources are allocated: `nslots` slots on `nnodes` nodes with
    /// `ncores` cores and `ngpus` gpus in all.
    pub fn ntasks_on(&self, nslots: u64, nnodes: u64, ncores: u64, ngpus: u64) -> u64 {
        let of = |kind: &str, count: u64| {
            let number = match kind {
                "node" => nnodes,
                "core" => ncores,
                "gpu" => ngpus,
                _ => nslots,
            };
            number.saturating_mul(count)
        };
        match (self.per_resource(), self.tasks.first().map(|task| &task.count)) {
            (Some(per), _) => of(per.kind, per.count),
            (None, Some(TaskCount::Total(total))) => *total,
            (None, Some(TaskCount::PerSlot(n))) => nslots.saturating_mul(*n),
            (None, Some(TaskCount::PerResource { kind, count })) => of(kind, *count),
            (None, None) => 0,
        }
    }

    /// The whole jobspec as JSON object, keys in the order they were read or built.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The jobspec as JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.raw)
    }
}

impl std::fmt::Display for Jobspec {
    /// Writes compact JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(&self.raw).map_err(|_| std::fmt::Error)?)
    }
}

impl std::str::FromStr for Jobspec {
    type Err = JobspecError;

    fn from_str(json: &str) -> Result<Self, JobspecError> {
        Self::parse(json)
    }
}

impl Serialize for Jobspec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Jobspec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The value of a key that must exist.
fn required<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a Value, JobspecError> {
    map.get(key).ok_or_else(|| JobspecError::at(key, "missing"))
}
