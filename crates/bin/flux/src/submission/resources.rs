//! The resources of a job: node, task, core and GPU counts to the resource graph of RFC 25.

use flux_model::jobspec::{Batch, Builder, Count, PerResourceRequest, PerTaskRequest, Vertex};
use serde_json::Value;

use super::SubmitError;

/// Counts as the options give them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) nodes: Option<String>,
    pub(crate) exclusive: bool,
    /// Tasks of `run` and `submit`, slots of `batch` and `alloc`.
    pub(crate) slots: Option<i64>,
    pub(crate) cores_per_slot: Option<i64>,
    pub(crate) gpus_per_slot: Option<i64>,
    pub(crate) cores: Option<i64>,
    pub(crate) tasks_per_node: Option<i64>,
    pub(crate) tasks_per_core: Option<i64>,
    pub(crate) gpus_per_node: Option<i64>,
    /// A list of resources made by `--resources-shape` or `--resources-json`.
    pub(crate) list: Option<Value>,
}

/// What the counts come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// `resources` of the jobspec.
    pub(crate) resources: Value,
    /// Label of the slot that tasks run in.
    pub(crate) slot: String,
    /// `tasks[0].count`.
    pub(crate) tasks: Value,
    /// Shell option `per-resource`.
    pub(crate) per_resource: Option<Value>,
    /// `version` of the jobspec.
    pub(crate) version: u64,
}

/// Name of the slot, and what its number is called in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// `run`, `submit`, `bulksubmit`: tasks.
    Task,
    /// `batch`, `alloc`: slots of the new instance.
    Slot,
}

/// Label of the slots of a new instance.
const SLOT: &str = "slot";

fn positive(value: Option<i64>, name: &'static str) -> Result<Option<u64>, SubmitError> {
    let positive =
        |v: i64| u64::try_from(v).ok().filter(|v| *v > 0).ok_or(SubmitError::Count(name));
    value.map(positive).transpose()
}

/// As [`positive`]; zero is the same as not given.
fn some(value: Option<i64>, name: &'static str) -> Result<Option<u64>, SubmitError> {
    if value == Some(0) { Ok(None) } else { positive(value, name) }
}

impl Counts {
    fn per_resource(&self) -> bool {
        self.cores.is_some()
            || self.tasks_per_node.is_some()
            || self.tasks_per_core.is_some()
            || self.gpus_per_node.is_some()
    }

    fn per_slot(&self) -> bool {
        self.slots.is_some() || self.cores_per_slot.is_some() || self.gpus_per_slot.is_some()
    }

    /// Builds the resource request.
    ///
    /// # Errors
    /// Counts below one, or that do not go together.
    pub(crate) fn request(&self, unit: Unit) -> Result<Request, SubmitError> {
        if self.per_resource() && self.per_slot() {
            return Err(SubmitError::MixedResources);
        }
        if let Some(list) = &self.list {
            if self.nodes.is_some() || self.per_resource() || self.per_slot() {
                return Err(SubmitError::MixedShape);
            }
            let list = list.as_array().cloned().unwrap_or_default();
            return Request::of(&Builder::with_resources(nothing(), list)?, None);
        }
        if self.exclusive && self.nodes.is_none() {
            return Err(SubmitError::ExclusiveWithoutNodes);
        }
        let nodes = self.nodes.as_deref().map(nodes).transpose()?;
        if self.per_resource() {
            return Request::of(&self.by_resource(nodes)?, None);
        }
        match unit {
            Unit::Task => Request::of(&self.by_task(nodes)?, None),
            Unit::Slot => Request::of(&self.by_slot(nodes)?, Some(SLOT)),
        }
    }

    fn by_task(&self, nodes: Option<Count>) -> Result<Builder, SubmitError> {
        let request = PerTaskRequest {
            tasks: positive(self.slots, "").map_err(|_| SubmitError::TaskCount)?,
            cores: positive(self.cores_per_slot, "cores per task")?,
            gpus: some(self.gpus_per_slot, "gpus per task")?,
            nodes,
            exclusive: self.exclusive,
        };
        Ok(Builder::per_task(nothing(), &request)?)
    }

    fn by_slot(&self, nodes: Option<Count>) -> Result<Builder, SubmitError> {
        let request = PerTaskRequest {
            tasks: positive(self.slots, "number of slots")?,
            cores: positive(self.cores_per_slot, "cores per slot")?,
            gpus: some(self.gpus_per_slot, "gpus per slot")?,
            nodes,
            exclusive: self.exclusive,
        };
        Ok(Builder::batch(Batch::Alloc { command: Vec::new() }, &[], &request)?)
    }

    fn by_resource(&self, nodes: Option<Count>) -> Result<Builder, SubmitError> {
        let request = PerResourceRequest {
            cores: positive(self.cores, "number of cores")?,
            nodes,
            tasks_per_node: positive(self.tasks_per_node, "tasks per node")?,
            tasks_per_core: positive(self.tasks_per_core, "tasks per core")?,
            gpus_per_node: some(self.gpus_per_node, "gpus per node")?,
            exclusive: self.exclusive,
        };
        Ok(Builder::per_resource(nothing(), &request)?)
    }
}

/// A number of nodes, `N` or `N-M`.
fn nodes(text: &str) -> Result<Count, SubmitError> {
    let count = Count::parse(text).ok().filter(|count| count.is_simple() && count.min() > 0);
    count.ok_or(SubmitError::NodeCount)
}

/// A command for the builder: it asks for one, and the request does not depend on it.
fn nothing() -> Vec<String> {
    vec!["true".to_owned()]
}

impl Request {
    /// Takes the request out of what the builder makes, with another label for the slot if given.
    fn of(builder: &Builder, label: Option<&str>) -> Result<Request, SubmitError> {
        let jobspec = builder.build()?;
        let mut resources = jobspec.resources().to_vec();
        let mut slot = jobspec.tasks().first().map_or("task", |task| task.slot.as_str());
        if let Some(label) = label {
            resources.iter_mut().for_each(|vertex| relabel(vertex, label));
            slot = label;
        }
        // A list of the user's making is kept as it is.
        let resources = match label {
            Some(_) => resources.iter().map(Vertex::to_value).collect(),
            None => jobspec.as_object().get("resources").cloned().unwrap_or_default(),
        };
        let tasks = jobspec.as_object().get("tasks").and_then(|tasks| tasks.get(0)?.get("count"));
        // Instances have this option anyhow, see `instance_options`.
        let per_resource = jobspec.shell_option("per-resource").filter(|_| label.is_none());
        Ok(Request {
            resources,
            slot: slot.to_owned(),
            tasks: tasks.cloned().unwrap_or_default(),
            per_resource: per_resource.cloned(),
            version: jobspec.version(),
        })
    }
}

/// Renames the slots of a graph; the builder bounds its depth.
fn relabel(vertex: &mut Vertex, label: &str) {
    if vertex.is_slot() {
        vertex.label = Some(label.to_owned());
    }
    vertex.with.iter_mut().for_each(|inner| relabel(inner, label));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counts(nodes: Option<&str>, slots: Option<i64>) -> Counts {
        Counts { nodes: nodes.map(str::to_owned), slots, ..Counts::default() }
    }

    fn text(counts: &Counts, unit: Unit) -> String {
        match counts.request(unit) {
            Ok(r) => format!("{} {}", r.resources, r.tasks),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn tasks_become_slots_of_cores() {
        let core = r#"{"type":"core","count":1}"#;
        let slot =
            |n: u64| format!(r#"{{"type":"slot","count":{n},"with":[{core}],"label":"task"}}"#);
        let per_slot = r#"{"per_slot":1}"#;
        assert_eq!(text(&counts(None, None), Unit::Task), format!("[{}] {per_slot}", slot(1)));
        assert_eq!(text(&counts(None, Some(4)), Unit::Task), format!("[{}] {per_slot}", slot(4)));
        assert_eq!(
            text(&counts(Some("1"), None), Unit::Task),
            format!(
                r#"[{{"type":"node","count":1,"exclusive":true,"with":[{}]}}] {per_slot}"#,
                slot(1)
            )
        );
        assert_eq!(
            text(&counts(Some("2"), Some(4)), Unit::Task),
            format!(r#"[{{"type":"node","count":2,"with":[{}]}}] {per_slot}"#, slot(2))
        );
        assert_eq!(
            text(&counts(Some("4"), Some(5)), Unit::Task),
            format!(r#"[{{"type":"node","count":4,"with":[{}]}}] {{"total":5}}"#, slot(2))
        );
        assert_eq!(
            text(&counts(Some("2-4"), None), Unit::Task),
            format!(
                r#"[{{"type":"node","count":{{"min":2,"max":4,"operator":"+","operand":1}},"exclusive":true,"with":[{}]}}] {per_slot}"#,
                slot(1)
            )
        );
    }

    #[test]
    fn counts_that_make_no_sense_are_refused() {
        let node = "node count must be an integer >= 1 (if set)";
        for nodes in ["0", "-1", "x", "4-2", "1-0", "+"] {
            assert_eq!(text(&counts(Some(nodes), None), Unit::Task), node);
        }
        assert_eq!(text(&counts(None, Some(0)), Unit::Task), "task count must be a integer >= 1");
        assert_eq!(
            text(&counts(Some("4"), Some(2)), Unit::Task),
            "node count 4 exceeds task count 2"
        );
        assert_eq!(
            text(&counts(None, None), Unit::Slot),
            "Number of slots to allocate must be specified"
        );
        let mixed = Counts { slots: Some(1), cores: Some(1), ..Counts::default() };
        assert_eq!(mixed.request(Unit::Task), Err(SubmitError::MixedResources));
        let alone = Counts { exclusive: true, ..Counts::default() };
        assert_eq!(alone.request(Unit::Task), Err(SubmitError::ExclusiveWithoutNodes));
    }

    #[test]
    fn per_resource_options_shape_the_slot() {
        let request = |c: Counts| c.request(Unit::Task);
        let made = request(Counts {
            nodes: Some("2".into()),
            cores: Some(8),
            gpus_per_node: Some(1),
            tasks_per_node: Some(3),
            ..Counts::default()
        })
        .expect("valid");
        assert_eq!(made.per_resource, Some(json!({"type": "node", "count": 3})));
        assert_eq!(
            made.resources,
            json!([{"type": "node", "count": 2, "with": [{"type": "slot", "count": 1, "with": [
                {"type": "core", "count": 4}, {"type": "gpu", "count": 1}], "label": "task"}]}])
        );
        let made = request(Counts { cores: Some(8), ..Counts::default() }).expect("valid");
        assert_eq!(made.per_resource, None);
        let uneven = Counts { nodes: Some("3".into()), cores: Some(8), ..Counts::default() };
        assert!(request(uneven).is_err());
    }
}
