//! The resources of a job: node, task, core and GPU counts to the resource graph of RFC 25.

use flux_model::jobspec::{Builder, VERSION_1};
use serde_json::{Map, Value, json};

use super::SubmitError;

/// A number of nodes: fixed, or a range the scheduler may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nodes {
    min: u64,
    max: Option<u64>,
}

impl Nodes {
    /// Reads `N`, `N-M`, or `N+` (no upper bound).
    ///
    /// # Errors
    /// [`SubmitError::NodeCount`].
    pub(crate) fn parse(text: &str) -> Result<Nodes, SubmitError> {
        let number = |t: &str| t.parse().ok().filter(|n| *n >= 1);
        let nodes = if let Some(min) = text.strip_suffix('+') {
            number(min).map(|min| Nodes { min, max: Some(u64::MAX) })
        } else if let Some((min, max)) = text.split_once('-') {
            number(min)
                .zip(number(max))
                .filter(|(min, max)| min <= max)
                .map(|(min, max)| Nodes { min, max: Some(max) })
        } else {
            number(text).map(|min| Nodes { min, max: None })
        };
        nodes.ok_or(SubmitError::NodeCount)
    }

    /// The single number, if it is no range.
    fn fixed(self) -> Option<u64> {
        match self.max {
            None => Some(self.min),
            Some(max) => (max == self.min).then_some(max),
        }
    }

    fn count(self) -> Value {
        match (self.fixed(), self.max) {
            (Some(n), _) => Value::from(n),
            (None, Some(u64::MAX) | None) => {
                json!({"min": self.min, "operator": "+", "operand": 1})
            }
            (None, Some(max)) => {
                json!({"min": self.min, "max": max, "operator": "+", "operand": 1})
            }
        }
    }
}

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

impl Unit {
    fn label(self) -> &'static str {
        match self {
            Unit::Task => "task",
            Unit::Slot => "slot",
        }
    }
}

fn positive(value: Option<i64>, name: &'static str) -> Result<Option<u64>, SubmitError> {
    let positive =
        |v: i64| u64::try_from(v).ok().filter(|v| *v > 0).ok_or(SubmitError::Count(name));
    value.map(positive).transpose()
}

fn vertex(kind: &str, count: impl Into<Value>, with: Option<Value>) -> Map<String, Value> {
    let mut vertex = Map::new();
    vertex.insert("type".into(), kind.into());
    vertex.insert("count".into(), count.into());
    if let Some(with) = with {
        vertex.insert("with".into(), with);
    }
    vertex
}

fn slot(label: &str, count: u64, cores: u64, gpus: Option<u64>) -> Value {
    let mut with = vec![Value::Object(vertex("core", cores, None))];
    if let Some(gpus) = gpus {
        with.push(Value::Object(vertex("gpu", gpus, None)));
    }
    let mut slot = vertex("slot", count, Some(with.into()));
    slot.insert("label".into(), label.into());
    slot.into()
}

fn node(nodes: Nodes, exclusive: bool, slot: Value) -> Value {
    let mut node = vertex("node", nodes.count(), None);
    if exclusive {
        node.insert("exclusive".into(), true.into());
    }
    node.insert("with".into(), json!([slot]));
    node.into()
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
            return given(list);
        }
        let nodes = self.nodes.as_deref().map(Nodes::parse).transpose()?;
        if self.per_resource() { self.by_resource(nodes, unit) } else { self.by_slot(nodes, unit) }
    }

    fn by_slot(&self, nodes: Option<Nodes>, unit: Unit) -> Result<Request, SubmitError> {
        let (slots, cores, gpus) = match unit {
            Unit::Task => (
                positive(self.slots, "").map_err(|_| SubmitError::TaskCount)?,
                positive(self.cores_per_slot, "cores per task")?,
                positive_or_zero(self.gpus_per_slot, "gpus per task")?,
            ),
            Unit::Slot => (
                positive(self.slots, "number of slots")?,
                positive(self.cores_per_slot, "cores per slot")?,
                positive_or_zero(self.gpus_per_slot, "gpus per slot")?,
            ),
        };
        let cores = cores.unwrap_or(1);
        let label = unit.label();
        let per_slot = json!({"per_slot": 1});
        let (resource, tasks) = match (nodes, slots) {
            (None, _) if self.exclusive => return Err(SubmitError::ExclusiveWithoutNodes),
            (None, None) if unit == Unit::Slot => return Err(SubmitError::NoSlots),
            (None, slots) => (slot(label, slots.unwrap_or(1), cores, gpus), per_slot),
            // Nodes alone: the nodes as a whole, a task or slot on each.
            (Some(nodes), None) => (node(nodes, true, slot(label, 1, cores, gpus)), per_slot),
            (Some(nodes), Some(slots)) => {
                if nodes.min > slots {
                    return Err(SubmitError::MoreNodesThan(label));
                }
                let each = slots.div_ceil(nodes.min);
                let even = nodes.fixed().is_some_and(|n| slots.is_multiple_of(n));
                let tasks =
                    if even || unit == Unit::Slot { per_slot } else { json!({"total": slots}) };
                (node(nodes, self.exclusive, slot(label, each, cores, gpus)), tasks)
            }
        };
        Ok(Request {
            resources: json!([resource]),
            slot: label.to_owned(),
            tasks,
            per_resource: None,
            version: VERSION_1,
        })
    }

    fn by_resource(&self, nodes: Option<Nodes>, unit: Unit) -> Result<Request, SubmitError> {
        let cores = positive(self.cores, "number of cores")?;
        let gpus = positive_or_zero(self.gpus_per_node, "gpus per node")?;
        let label = unit.label();
        let per_resource = match (
            positive(self.tasks_per_node, "tasks per node")?,
            positive(self.tasks_per_core, "tasks per core")?,
        ) {
            (Some(_), Some(_)) => return Err(SubmitError::BothPerResource),
            (Some(n), None) => Some(json!({"type": "node", "count": n})),
            (None, Some(n)) => Some(json!({"type": "core", "count": n})),
            (None, None) => None,
        };
        let resource = match (nodes, cores) {
            (None, _) if gpus.is_some() => return Err(SubmitError::GpusWithoutNodes),
            (None, _) if self.exclusive => return Err(SubmitError::ExclusiveWithoutNodes),
            (None, None) => {
                let option =
                    if self.tasks_per_node.is_some() { "tasks-per-node" } else { "tasks-per-core" };
                return Err(SubmitError::PerResourceAlone(option));
            }
            (None, Some(cores)) => slot(label, cores, 1, None),
            (Some(nodes), None) => node(nodes, true, slot(label, 1, 1, gpus)),
            (Some(nodes), Some(cores)) => {
                let count = nodes.fixed().unwrap_or(nodes.min);
                if !cores.is_multiple_of(count) {
                    return Err(SubmitError::UnevenCores);
                }
                node(nodes, self.exclusive, slot(label, 1, cores / count, gpus))
            }
        };
        // Cores spread over nodes: the slot is the part of a node, yet a task is wanted per core.
        let default =
            (nodes.is_some() && cores.is_some()).then(|| json!({"type": "core", "count": 1}));
        Ok(Request {
            resources: json!([resource]),
            slot: label.to_owned(),
            tasks: json!({"per_slot": 1}),
            per_resource: per_resource.or(default),
            version: VERSION_1,
        })
    }
}

fn positive_or_zero(value: Option<i64>, name: &'static str) -> Result<Option<u64>, SubmitError> {
    if value == Some(0) { Ok(None) } else { positive(value, name) }
}

/// A request from a ready list of resources: tasks run in its first slot, and the version is the
/// lowest that allows the list.
fn given(resources: &Value) -> Result<Request, SubmitError> {
    let list = resources.as_array().cloned().unwrap_or_default();
    // The command is not part of the request; the builder asks for one.
    let jobspec = Builder::with_resources(vec!["true".into()], list)?.build()?;
    let slot = jobspec.tasks().first().map_or("task", |task| task.slot.as_str());
    Ok(Request {
        resources: resources.clone(),
        slot: slot.to_owned(),
        tasks: json!({"per_slot": 1}),
        per_resource: None,
        version: jobspec.version(),
    })
}

#[cfg(test)]
mod tests {
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
            "node count must not be greater than task count"
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
        assert_eq!(request(uneven), Err(SubmitError::UnevenCores));
        let alone = Counts { tasks_per_node: Some(1), ..Counts::default() };
        assert_eq!(request(alone), Err(SubmitError::PerResourceAlone("tasks-per-node")));
    }
}
