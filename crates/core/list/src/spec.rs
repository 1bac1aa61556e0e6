//! What listing needs to know of a jobspec (RFC 14, RFC 25) and of an R (RFC 20).

use flux_model::eventlog::Context;
use flux_model::jobspec::Jobspec;
use flux_model::resource_set::ResourceSet;
use serde_json::{Map, Value};

/// Attributes that a jobspec gives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spec {
    /// `attributes.system.job.name`, else the last path component of the command.
    pub name: Option<Box<str>>,
    /// Working directory.
    pub cwd: Option<Box<str>>,
    /// Queue.
    pub queue: Option<Box<str>>,
    /// Project.
    pub project: Option<Box<str>>,
    /// Bank.
    pub bank: Option<Box<str>>,
    /// Time limit in seconds.
    pub duration: Option<f64>,
    /// Tasks, as far as they follow from the jobspec.
    pub ntasks: Option<u64>,
    /// Nodes, when a fixed number was asked for.
    pub nnodes: Option<u64>,
    /// Cores, when a fixed number was asked for and nodes are shared.
    pub ncores: Option<u64>,
}

/// Attributes that an R gives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    /// Idset.
    pub ranks: Box<str>,
    /// Hostlist.
    pub nodelist: Box<str>,
    /// Number of nodes.
    pub nnodes: u64,
    /// Number of cores.
    pub ncores: u64,
    /// Number of tasks on them, when the jobspec is known and leaves it open.
    pub ntasks: Option<u64>,
    /// When they expire, if R says so.
    pub expiration: Option<f64>,
}

/// Takes out of a jobspec what no attribute needs and what may be large.
pub fn strip(jobspec: &mut Value) {
    let Some(system) = jobspec.pointer_mut("/attributes/system").and_then(Value::as_object_mut)
    else {
        return;
    };
    for key in ["environment", "files"] {
        system.shift_remove(key);
    }
}

/// Applies a `jobspec-update` event: values by dotted path.
pub fn update(jobspec: &mut Value, updates: &Context) {
    for (path, value) in updates {
        let pointer = format!("/{}", path.replace('.', "/"));
        if let Some(place) = jobspec.pointer_mut(&pointer) {
            *place = value.clone();
            continue;
        }
        // Missing objects on the way are made.
        let mut at = &mut *jobspec;
        for name in path.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            let Some(map) = at.as_object_mut() else { return };
            at = map.entry(name.to_string()).or_insert(Value::Null);
        }
        *at = value.clone();
    }
}

/// The minimum, if it is also the maximum.
fn fixed((min, max): (u64, Option<u64>)) -> Option<u64> {
    (max == Some(min)).then_some(min)
}

impl Spec {
    /// Reads a jobspec. One that is not valid (a job may be submitted without validation) still
    /// gives what can be read of it.
    #[must_use]
    pub fn of(jobspec: Value) -> Self {
        let system = |path: &str| jobspec.pointer(&format!("/attributes/system/{path}"));
        let text = |path: &str| system(path).and_then(Value::as_str).map(Box::from);
        let command = || {
            let command = jobspec.pointer("/tasks/0/command/0")?.as_str()?;
            Some(command.rsplit('/').next().unwrap_or(command).into())
        };
        let mut spec = Self {
            name: text("job/name").or_else(command),
            cwd: text("cwd"),
            queue: text("queue"),
            project: text("project"),
            bank: text("bank"),
            duration: system("duration").and_then(Value::as_f64),
            ..Self::default()
        };
        let Ok(valid) = Jobspec::from_value(jobspec) else { return spec };
        spec.ntasks = valid.ntasks();
        if let Ok(request) = valid.request() {
            spec.nnodes = request.total_nodes().and_then(fixed);
            // An exclusive job gets all cores of its nodes, however few it asked for.
            let cores = fixed(request.total_cores()).filter(|cores| *cores > 0);
            spec.ncores = cores.filter(|_| !request.exclusive);
        }
        spec
    }
}

impl Resources {
    /// Reads an R; the tasks on it follow from the jobspec where that leaves them open.
    #[must_use]
    pub fn of(r: &Value, jobspec: Option<Value>) -> Option<Self> {
        let set = ResourceSet::from_value(r).ok()?;
        let (nnodes, ncores) = (set.nnodes() as u64, set.ncores());
        let tasks = |jobspec: Value| {
            let jobspec = Jobspec::from_value(jobspec).ok()?;
            let slots = match set.nslots {
                Some(slots) => slots,
                None => jobspec.request().ok()?.total_slots().0,
            };
            let fixed = jobspec.ntasks();
            Some(fixed.unwrap_or_else(|| jobspec.ntasks_on(slots, nnodes, ncores, set.ngpus())))
        };
        Some(Self {
            ranks: set.ranks().to_string().into(),
            nodelist: set.nodelist().to_string().into(),
            nnodes,
            ncores,
            ntasks: jobspec.and_then(tasks),
            expiration: r.pointer("/execution/expiration").and_then(Value::as_f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_is_given_or_the_last_part_of_the_command() {
        let mut jobspec = json!({"tasks": [{"command": ["/usr/bin/app", "x"]}]});
        assert_eq!(Spec::of(jobspec.clone()).name.as_deref(), Some("app"));
        jobspec["attributes"] = json!({"system": {"job": {"name": "given"}}});
        assert_eq!(Spec::of(jobspec).name.as_deref(), Some("given"));
        assert_eq!(Spec::of(json!([])), Spec::default());
    }

    #[test]
    fn updates_make_objects_on_the_way() {
        let mut jobspec = json!({"attributes": {"system": {"duration": 1.0}}});
        let updates = json!({"attributes.system.duration": 9.0, "attributes.system.job.name": "n"});
        update(&mut jobspec, updates.as_object().unwrap());
        let spec = Spec::of(jobspec);
        assert_eq!((spec.duration, spec.name.as_deref()), (Some(9.0), Some("n")));
    }
}
