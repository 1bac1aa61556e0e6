//! Puts a job together: the jobspec (RFC 25) and what goes beside it.

use flux_model::{constraint::query, jobspec::Jobspec};
use serde_json::{Map, Value, json};

use super::{
    Context, SubmitError, archive, attributes, environment,
    options::Common,
    resources::{Request, Unit},
    rlimit, shell, when,
};

/// A job, ready to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    /// The jobspec, valid by RFC 14.
    pub(crate) jobspec: Jobspec,
    /// Urgency, 0 to 31.
    pub(crate) urgency: u8,
    /// Bits of the `flags` of a submission.
    pub(crate) flags: u32,
}

impl Job {
    /// The jobspec as `--dry-run` prints it.
    pub(crate) fn text(&self) -> String {
        Value::Object(self.jobspec.as_object().clone()).to_string()
    }
}

/// What a kind of command adds to the common options.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extra {
    /// Name of the job when the user gives none.
    pub(crate) name: Option<String>,
    /// Shell options that the user's own may override.
    pub(crate) shell: Map<String, Value>,
    /// Files of the job.
    pub(crate) files: Map<String, Value>,
    /// Environment rule that comes after all others.
    pub(crate) env: Option<String>,
}

/// Builds the job that runs `command`.
///
/// # Errors
/// Whatever is wrong with the options.
pub(crate) fn build(
    context: &Context,
    options: &Common,
    unit: Unit,
    command: Vec<String>,
    extra: Extra,
) -> Result<Job, SubmitError> {
    if command.is_empty() {
        return Err(SubmitError::NoCommand);
    }
    let request = options.counts.request(unit)?;
    let system = system(context, options, &request, extra)?;
    let mut whole = Map::new();
    whole.insert("system".into(), Value::Object(system));
    for rule in &options.setattr {
        attributes::set_attribute(&mut whole, rule)?;
    }
    let jobspec = json!({
        "resources": request.resources,
        "tasks": [{"command": command, "slot": request.slot, "count": request.tasks}],
        "attributes": whole,
        "version": request.version,
    });
    let jobspec = Jobspec::from_value(jobspec)?;
    Ok(Job { jobspec, urgency: options.urgency, flags: options.flags })
}

/// `attributes.system`, in the order Flux writes it.
fn system(
    context: &Context,
    options: &Common,
    request: &Request,
    extra: Extra,
) -> Result<Map<String, Value>, SubmitError> {
    let mut rules = options.env.clone();
    rules.extend(extra.env);
    let environment = environment::build(context, &rules)?;

    let mut system = Map::new();
    system.insert("duration".into(), options.time_limit.map_or(json!(0), Value::from));
    system.insert("cwd".into(), options.cwd.as_ref().unwrap_or(&context.cwd).as_str().into());
    if !environment.variables.is_empty() {
        system.insert("environment".into(), environment.variables.into());
    }
    let shell = shell_options(context, options, request, extra.shell, environment.expand)?;
    system.insert("shell".into(), json!({"options": shell}));
    if let Some(name) = options.job_name.clone().or(extra.name) {
        system.insert("job".into(), json!({"name": name}));
    }
    for (key, value) in [("queue", &options.queue), ("bank", &options.bank)] {
        if let Some(value) = value {
            system.insert(key.into(), value.as_str().into());
        }
    }
    let dependencies = dependencies(context, options)?;
    if !dependencies.is_empty() {
        system.insert("dependencies".into(), dependencies.into());
    }
    if let Some(expression) = &options.requires {
        system.insert("constraints".into(), constraint(expression)?);
    }
    let mut files = extra.files;
    for argument in &options.add_file {
        archive::add(&mut files, argument)?;
    }
    if !files.is_empty() {
        system.insert("files".into(), files.into());
    }
    Ok(system)
}

fn shell_options(
    context: &Context,
    options: &Common,
    request: &Request,
    own: Map<String, Value>,
    expand: Map<String, Value>,
) -> Result<Map<String, Value>, SubmitError> {
    let mut made = Map::new();
    let limits = rlimit::build(context, &options.rlimit)?;
    if !limits.is_empty() {
        made.insert("rlimit".into(), limits.into());
    }
    if let Some(per_resource) = &request.per_resource {
        made.insert("per-resource".into(), per_resource.clone());
    }
    made.extend(own);
    if !expand.is_empty() {
        made.insert("env-expand".into(), expand.into());
    }
    shell::common(&mut made, options)?;
    Ok(made)
}

fn dependencies(context: &Context, options: &Common) -> Result<Vec<Value>, SubmitError> {
    let uris = options.dependency.iter();
    let mut list = uris.map(|uri| attributes::dependency(uri)).collect::<Result<Vec<_>, _>>()?;
    if let Some(text) = &options.begin_time {
        let epoch = when::epoch(text, &context.now, when::Toward::Future)?;
        // The value of a dependency is text; JSON writes a float as Flux does.
        list.push(json!({"scheme": "begin-time", "value": json!(epoch).to_string()}));
    }
    Ok(list)
}

/// The constraint of `--requires`: terms are properties unless they name another operator.
fn constraint(expression: &str) -> Result<Value, SubmitError> {
    query::parse(expression, &query::REQUIRES)
        .map_err(|error| SubmitError::option("requires", &format!("'{expression}'"), error))
}
