//! Builds the jobspec of command line tools; key order is part of the interface.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::count::Count;
use super::error::JobspecError;
use super::path::insert;
use super::resource::Vertex;
use super::{Jobspec, VERSION_1, VERSION_CANONICAL, version1};

/// Label of the one slot of built jobspecs.
const SLOT: &str = "task";

/// What tasks are called in messages.
const TASK_COUNT: &str = "task count";

/// Why options cannot be turned into a jobspec.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BuildError {
    /// No command.
    #[error("job command and arguments are missing")]
    NoCommand,
    /// No tasks; in the wording tools are known for.
    #[error("task count must be a integer >= 1")]
    NoTasks,
    /// No nodes; in the wording tools are known for.
    #[error("node count must be an integer >= 1 (if set)")]
    NoNodes,
    /// Another count of zero.
    #[error("{0} must be an integer >= 1")]
    NotPositive(&'static str),
    /// Fewer tasks or slots than nodes.
    #[error("node count {nodes} exceeds {what} {number}")]
    TooManyNodes {
        /// Least number of nodes.
        nodes: u64,
        /// `task count`, `slot count` or `core count`.
        what: &'static str,
        /// Its value.
        number: u64,
    },
    /// Cores do not divide evenly.
    #[error("core count {cores} is not divisible by node count {nodes}")]
    Uneven {
        /// Cores asked for.
        cores: u64,
        /// Nodes asked for.
        nodes: u64,
    },
    /// An option that needs a node count.
    #[error("{0} requires a node count")]
    NeedsNodes(&'static str),
    /// An option that needs one fixed node count.
    #[error("{0} requires a fixed node count")]
    NeedsFixedNodes(&'static str),
    /// Two options that exclude each other.
    #[error("tasks per node and tasks per core exclude each other")]
    TwoTaskCounts,
    /// A batch job without size.
    #[error("Number of slots to allocate must be specified")]
    NoSlots,
    /// An attribute or option text that cannot be used.
    #[error("{text}: {problem}")]
    Setting {
        /// The text as given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// The result is no valid jobspec.
    #[error(transparent)]
    Jobspec(#[from] JobspecError),
}

/// Resources by task (or by slot, for batch and alloc).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerTaskRequest {
    /// Tasks or slots; default: one, or one per node.
    pub tasks: Option<u64>,
    /// Cores for each; default 1.
    pub cores: Option<u64>,
    /// Gpus for each; default none.
    pub gpus: Option<u64>,
    /// Nodes; default: any.
    pub nodes: Option<Count>,
    /// Whole nodes only. Without `tasks`, nodes are always asked for as a whole.
    pub exclusive: bool,
}

/// Resources in all, tasks by resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerResourceRequest {
    /// Cores in all; default 1, or all of the nodes.
    pub cores: Option<u64>,
    /// Nodes; default: any.
    pub nodes: Option<Count>,
    /// Tasks for each node.
    pub tasks_per_node: Option<u64>,
    /// Tasks for each core; default 1.
    pub tasks_per_core: Option<u64>,
    /// Gpus of each node.
    pub gpus_per_node: Option<u64>,
    /// Whole nodes only.
    pub exclusive: bool,
}

/// What the new instance of a batch or alloc job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// A script (`flux batch`) with its name, text and arguments.
    Script {
        /// File name, for the job name.
        name: String,
        /// The whole text.
        text: String,
        /// Arguments of the script.
        args: Vec<String>,
    },
    /// An interactive allocation (`flux alloc`), with a command or none for a shell.
    Alloc {
        /// Initial program and arguments.
        command: Vec<String>,
    },
}

/// Collects the parts of a jobspec and writes them in the order tools of this family print them:
/// resources, tasks, attributes (duration, environment, cwd, shell, others as set), version.
#[derive(Debug, Clone)]
pub struct Builder {
    resources: Vec<Value>,
    canonical: bool,
    slot: String,
    command: Vec<String>,
    count: Value,
    duration: Option<f64>,
    environment: Option<Map<String, Value>>,
    cwd: Option<String>,
    options: Map<String, Value>,
    /// Further settings below `attributes`, applied in order.
    settings: Vec<(String, Value)>,
    files: Map<String, Value>,
}

impl Builder {
    /// Resources by task; one task per slot.
    ///
    /// # Errors
    /// Counts of zero, and more nodes than tasks.
    pub fn per_task(command: Vec<String>, request: &PerTaskRequest) -> Result<Self, BuildError> {
        if command.is_empty() {
            return Err(BuildError::NoCommand);
        }
        let (resources, total) = per_task_resources(request, TASK_COUNT)?;
        Ok(Self::new(command, vec![resources.to_value()], total))
    }

    /// Resources in all, with the number of tasks following from nodes or cores.
    ///
    /// # Errors
    /// Counts of zero and combinations that make no sense.
    pub fn per_resource(
        command: Vec<String>,
        request: &PerResourceRequest,
    ) -> Result<Self, BuildError> {
        if command.is_empty() {
            return Err(BuildError::NoCommand);
        }
        let (resources, tasks) = per_resource_resources(request)?;
        let mut builder = Self::new(command, vec![resources.to_value()], None);
        if let Some((kind, count)) = tasks {
            builder
                .options
                .insert("per-resource".to_owned(), json!({"type": kind, "count": count}));
        }
        Ok(builder)
    }

    /// A resource list of the caller's making, e.g. from a shape (RFC 46); tasks run one per slot
    /// in the first slot. The version is 1 if the list allows it.
    ///
    /// # Errors
    /// A list that is not valid by RFC 14 or has no slot.
    pub fn with_resources(command: Vec<String>, resources: Vec<Value>) -> Result<Self, BuildError> {
        if command.is_empty() {
            return Err(BuildError::NoCommand);
        }
        let vertices = Vertex::list_from_value(&Value::Array(resources.clone()))
            .map_err(|e| e.under("resources"))?;
        let Some(slot) = vertices.iter().find_map(first_slot) else {
            return Err(JobspecError::at("resources", "contains no slot").into());
        };
        let canonical = version1::resources(&vertices).is_err();
        let mut builder = Self::new(command, resources, None);
        builder.slot = slot.to_owned();
        builder.canonical = canonical;
        Ok(builder)
    }

    /// A batch or alloc job: a new instance with one broker on each node. `broker_options` are
    /// passed to the brokers.
    ///
    /// # Errors
    /// A request without size, counts of zero, more nodes than slots.
    pub fn batch(
        what: Batch,
        broker_options: &[String],
        request: &PerTaskRequest,
    ) -> Result<Self, BuildError> {
        if request.tasks.is_none() && request.nodes.is_none() {
            return Err(BuildError::NoSlots);
        }
        let (resources, _) = per_task_resources(request, "slot count")?;
        let mut command = vec!["flux".to_owned(), "broker".to_owned()];
        command.extend_from_slice(broker_options);
        let mut builder = Self::new(command, vec![resources.to_value()], None);
        let options = &mut builder.options;
        options.insert("per-resource".to_owned(), json!({"type": "node"}));
        options.insert("mpi".to_owned(), "none".into());
        options.insert("exit-timeout".to_owned(), "none".into());
        match what {
            Batch::Script { name, text, args } => {
                options.insert(
                    "output".to_owned(),
                    json!({"stdout": {"type": "file", "path": "flux-{{id}}.out"}}),
                );
                builder.command.push("{{tmpdir}}/script".to_owned());
                builder.command.extend(args);
                builder.add_file("script", 0o100_700, text.into(), Some("utf-8"));
                let base = name.rsplit('/').next().unwrap_or(&name).to_owned();
                builder.setting("system.job.name", base.into());
            }
            Batch::Alloc { command } => {
                options.insert("pty".to_owned(), json!({"interactive": 1}));
                builder.command.extend(command);
            }
        }
        Ok(builder)
    }

    fn new(command: Vec<String>, resources: Vec<Value>, total: Option<u64>) -> Self {
        Self {
            resources,
            canonical: false,
            slot: SLOT.to_owned(),
            command,
            count: match total {
                None => json!({"per_slot": 1}),
                Some(total) => json!({"total": total}),
            },
            duration: None,
            environment: None,
            cwd: None,
            options: Map::new(),
            settings: Vec::new(),
            files: Map::new(),
        }
    }

    /// Sets the time limit in seconds.
    pub fn duration(&mut self, seconds: f64) -> &mut Self {
        self.duration = Some(seconds);
        self
    }

    /// Sets the working directory.
    pub fn cwd(&mut self, path: impl Into<String>) -> &mut Self {
        self.cwd = Some(path.into());
        self
    }

    /// Sets the environment; `None` unsets a variable.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> &mut Self {
        let map = variables.into_iter().map(|(k, v)| (k, v.map_or(Value::Null, Value::String)));
        self.environment = Some(map.collect());
        self
    }

    /// Sets the queue.
    pub fn queue(&mut self, queue: impl Into<String>) -> &mut Self {
        self.setting("system.queue", Value::String(queue.into()))
    }

    /// Sets the accounting bank.
    pub fn bank(&mut self, bank: impl Into<String>) -> &mut Self {
        self.setting("system.bank", Value::String(bank.into()))
    }

    /// Sets the job name.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.setting("system.job.name", Value::String(name.into()))
    }

    /// Sets the constraint object (RFC 31).
    pub fn constraints(&mut self, constraints: Value) -> &mut Self {
        self.setting("system.constraints", constraints)
    }

    /// Adds a dependency (RFC 26).
    pub fn dependency(&mut self, scheme: &str, value: &str) -> &mut Self {
        const KEY: &str = "system.dependencies";
        let entry = json!({"scheme": scheme, "value": value});
        match self.settings.iter_mut().find(|(key, _)| key == KEY) {
            Some((_, Value::Array(list))) => list.push(entry),
            _ => self.settings.push((KEY.to_owned(), Value::Array(vec![entry]))),
        }
        self
    }

    /// Sets a shell option; dots in `name` nest.
    ///
    /// # Errors
    /// A name with empty components.
    pub fn shell_option(&mut self, name: &str, value: Value) -> Result<&mut Self, BuildError> {
        insert(&mut self.options, name, value)?;
        Ok(self)
    }

    /// Sets a shell option from `NAME[=VALUE]` as typed (`--setopt`): no value means 1, a value
    /// that is JSON is taken as such, any other is a string.
    ///
    /// # Errors
    /// A text without name.
    pub fn setopt(&mut self, text: &str) -> Result<&mut Self, BuildError> {
        let (name, value) = setting(text);
        insert(&mut self.options, name, value).map_err(|e| wrong(text, &e))?;
        Ok(self)
    }

    /// Sets an attribute from `NAME[=VALUE]` as typed (`--setattr`): names are below
    /// `attributes.system` unless they begin with `system.`, `user.` or `.` (which means
    /// `attributes` itself).
    ///
    /// # Errors
    /// A text without name.
    pub fn setattr(&mut self, text: &str) -> Result<&mut Self, BuildError> {
        let (name, value) = setting(text);
        self.attribute(name, value).map_err(|e| wrong(text, &e))
    }

    /// Sets an attribute, with names as for [`Builder::setattr`].
    ///
    /// # Errors
    /// A name with empty components.
    pub fn attribute(&mut self, name: &str, value: Value) -> Result<&mut Self, JobspecError> {
        let path = match name.strip_prefix('.') {
            Some(absolute) => absolute.to_owned(),
            None if name.starts_with("system.") || name.starts_with("user.") => name.to_owned(),
            None => format!("system.{name}"),
        };
        if path.split('.').any(str::is_empty) {
            return Err(JobspecError::at(name, "expected keys separated by single dots"));
        }
        Ok(self.setting(&path, value))
    }

    /// Adds a file for the job's temporary directory (RFC 37 object).
    pub fn add_file(
        &mut self,
        path: &str,
        mode: u32,
        data: Value,
        encoding: Option<&str>,
    ) -> &mut Self {
        let mut file = json!({"mode": mode, "data": data});
        if let (Some(encoding), Some(map)) = (encoding, file.as_object_mut()) {
            map.insert("encoding".to_owned(), encoding.into());
        }
        // The path may hold dots: it is one key.
        self.files.insert(path.to_owned(), file);
        self
    }

    fn setting(&mut self, path: &str, value: Value) -> &mut Self {
        self.settings.push((path.to_owned(), value));
        self
    }

    /// Makes the jobspec.
    ///
    /// # Errors
    /// A result that is not valid, e.g. because an attribute was set to a wrong type.
    pub fn build(&self) -> Result<Jobspec, BuildError> {
        let mut system = Map::new();
        // Without limit the number is an integer, as in the dry run of the reference.
        system.insert("duration".to_owned(), self.duration.map_or(json!(0), |d| json!(d)));
        if let Some(environment) = &self.environment {
            system.insert("environment".to_owned(), environment.clone().into());
        }
        if let Some(cwd) = &self.cwd {
            system.insert("cwd".to_owned(), cwd.as_str().into());
        }
        system.insert("shell".to_owned(), json!({"options": self.options}));
        if !self.files.is_empty() {
            system.insert("files".to_owned(), self.files.clone().into());
        }
        let mut attributes = Map::new();
        attributes.insert("system".to_owned(), system.into());
        for (path, value) in &self.settings {
            insert(&mut attributes, path, value.clone())?;
        }
        let version = if self.canonical { VERSION_CANONICAL } else { VERSION_1 };
        let jobspec = json!({
            "resources": self.resources,
            "tasks": [{"command": self.command, "slot": self.slot, "count": self.count}],
            "attributes": attributes,
            "version": version,
        });
        Ok(Jobspec::from_value(jobspec)?)
    }
}

/// Splits `NAME[=VALUE]`.
fn setting(text: &str) -> (&str, Value) {
    match text.split_once('=') {
        None => (text, json!(1)),
        Some((name, value)) => (name, serde_json::from_str(value).unwrap_or_else(|_| value.into())),
    }
}

fn wrong(text: &str, error: &JobspecError) -> BuildError {
    BuildError::Setting { text: text.to_owned(), problem: error.to_string() }
}

fn first_slot(vertex: &Vertex) -> Option<&str> {
    if vertex.is_slot() {
        return vertex.label.as_deref();
    }
    vertex.with.iter().find_map(first_slot)
}

fn positive(name: &'static str, number: Option<u64>) -> Result<Option<u64>, BuildError> {
    match number {
        Some(0) if name == TASK_COUNT => Err(BuildError::NoTasks),
        Some(0) => Err(BuildError::NotPositive(name)),
        _ => Ok(number),
    }
}

fn check_nodes(nodes: Option<&Count>) -> Result<(), BuildError> {
    if nodes == Some(&Count::Fixed(0)) { Err(BuildError::NoNodes) } else { Ok(()) }
}

/// A slot of cores and perhaps gpus.
fn slot(count: u64, cores: u64, gpus: u64) -> Vertex {
    let mut slot = Vertex::new("slot", Count::Fixed(count));
    slot.with.push(Vertex::new("core", Count::Fixed(cores)));
    if gpus > 0 {
        slot.with.push(Vertex::new("gpu", Count::Fixed(gpus)));
    }
    slot.label = Some(SLOT.to_owned());
    slot
}

/// Nodes that hold slots.
fn nodes(count: &Count, exclusive: bool, slot: Vertex) -> Vertex {
    let mut node = Vertex::new("node", count.clone());
    node.exclusive = exclusive.then_some(true);
    node.with.push(slot);
    node
}

/// The resource graph by tasks, and the total number of tasks if it is not one per slot.
fn per_task_resources(
    request: &PerTaskRequest,
    what: &'static str,
) -> Result<(Vertex, Option<u64>), BuildError> {
    let tasks = positive(what, request.tasks)?;
    let cores = positive("cores", request.cores)?.unwrap_or(1);
    let gpus = request.gpus.unwrap_or(0);
    check_nodes(request.nodes.as_ref())?;
    let Some(count) = &request.nodes else {
        let mut slot = slot(tasks.unwrap_or(1), cores, gpus);
        slot.exclusive = request.exclusive.then_some(true);
        return Ok((slot, None));
    };
    let Some(tasks) = tasks else {
        return Ok((nodes(count, true, slot(1, cores, gpus)), None));
    };
    let least = count.min();
    if least > tasks {
        return Err(BuildError::TooManyNodes { nodes: least, what, number: tasks });
    }
    // Uneven counts get enough slots on each node; the total then says how many are used.
    let per_node = tasks.div_ceil(least.max(1));
    let even = count.max() == Some(least) && per_node.saturating_mul(least) == tasks;
    let graph = nodes(count, request.exclusive, slot(per_node, cores, gpus));
    Ok((graph, (!even).then_some(tasks)))
}

/// The resource graph by totals, and the value of the shell option per-resource.
fn per_resource_resources(
    request: &PerResourceRequest,
) -> Result<(Vertex, Option<(&'static str, u64)>), BuildError> {
    let cores = positive("number of cores", request.cores)?;
    let gpus = request.gpus_per_node.unwrap_or(0);
    check_nodes(request.nodes.as_ref())?;
    let tasks = match (
        positive("tasks per node", request.tasks_per_node)?,
        positive("tasks per core", request.tasks_per_core)?,
    ) {
        (Some(_), Some(_)) => return Err(BuildError::TwoTaskCounts),
        (Some(n), None) => Some(("node", n)),
        (None, Some(n)) => Some(("core", n)),
        (None, None) => None,
    };
    let Some(count) = &request.nodes else {
        if gpus > 0 {
            return Err(BuildError::NeedsNodes("gpus per node"));
        }
        let mut slot = slot(cores.unwrap_or(1), 1, 0);
        slot.exclusive = request.exclusive.then_some(true);
        return Ok((slot, tasks));
    };
    let Some(cores) = cores else {
        return Ok((nodes(count, true, slot(1, 1, gpus)), tasks));
    };
    let Count::Fixed(number) = *count else {
        return Err(BuildError::NeedsFixedNodes("a number of cores"));
    };
    if number > cores {
        return Err(BuildError::TooManyNodes { nodes: number, what: "core count", number: cores });
    }
    if !cores.is_multiple_of(number) {
        return Err(BuildError::Uneven { cores, nodes: number });
    }
    let per_node = cores / number;
    if tasks.is_none() && gpus == 0 {
        // One task per core needs no shell option when each core is a slot.
        return Ok((nodes(count, request.exclusive, slot(per_node, 1, 0)), None));
    }
    let graph = nodes(count, request.exclusive, slot(1, per_node, gpus));
    Ok((graph, tasks.or(Some(("core", 1)))))
}
