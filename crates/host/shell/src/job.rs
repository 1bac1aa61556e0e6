//! What the shell asks the broker about its job.

use flux_api::broker::{ServiceAdd, ServiceRequest, Subscribe, SubscribeRequest};
use flux_api::job::info::{CURRENT, InfoLookup, JSON_DECODE, Lookup};
use flux_api::lifecycle::{AttrName, AttrValue, Get};
use flux_api::{RpcError, rpc};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::jobspec::Jobspec;
use flux_model::resource_set::ResourceSet;
use flux_model::sign;
use flux_proto::Errno;
use serde_json::{Map, Value};

/// A job as its shell sees it.
#[derive(Debug)]
pub struct Job {
    /// Job id.
    pub id: JobId,
    /// Jobspec with updates, without environment.
    pub jobspec: Jobspec,
    /// Resources with updates.
    pub r: ResourceSet,
    /// Environment from the signed request.
    pub env: Vec<(String, Option<String>)>,
    /// Where the enclosing instance is among instances, `/` at the top.
    pub parent_path: String,
    /// Name of the shell's service.
    pub service: String,
}

fn protocol(text: impl std::fmt::Display) -> RpcError {
    RpcError::new(Errno::EPROTO, text.to_string())
}

fn decoded(value: Option<Value>, key: &str) -> Result<Value, RpcError> {
    match value {
        Some(Value::String(text)) => {
            serde_json::from_str(&text).map_err(|error| protocol(format!("{key}: {error}")))
        }
        Some(value) => Ok(value),
        None => Err(protocol(format!("job-info.lookup: {key} is missing"))),
    }
}

fn environment(signed: Option<Value>) -> Result<Vec<(String, Option<String>)>, RpcError> {
    let Some(Value::String(signed)) = signed else {
        return Err(protocol("job-info.lookup: J is missing"));
    };
    let request = sign::unwrap(&signed).map_err(protocol)?;
    let payload: Value = serde_json::from_slice(&request.payload).map_err(protocol)?;
    let variables = payload.pointer("/attributes/system/environment").and_then(Value::as_object);
    Ok(variables
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().map(str::to_string)))
        .collect())
}

/// Registers the shell's service and asks for its events.
pub(crate) fn registration(id: JobId, service: &str) -> [flux_proto::Message; 2] {
    let events = SubscribeRequest { topic: format!("shell-{}.", id.dec()) };
    let service = ServiceRequest { service: service.to_string() };
    [rpc::request::<ServiceAdd>(&service), rpc::request::<Subscribe>(&events)]
}

/// Fetches the job, registers service and events: four requests, one round trip.
///
/// # Errors
/// What the broker answers, or answers that make no sense.
pub fn fetch(client: &Client, id: JobId, uid: u32) -> Result<Job, RpcError> {
    let service = format!("{uid}-shell-{}", id.f58plain());
    let keys = ["jobspec", "R", "J"].map(str::to_string).to_vec();
    let lookup = InfoLookup { id: id.0, keys, flags: JSON_DECODE | CURRENT };
    let lookup = client.send::<Lookup>(To::Any, &lookup);
    let path = client.send::<Get>(To::Any, &AttrName { name: "jobid-path".to_string() });
    let registered = registration(id, &service).map(|message| client.start(To::Any, message));
    let mut data: Map<String, Value> = lookup.wait()?;
    let parent_path = match path.wait() {
        Ok(AttrValue { value, .. }) => value,
        Err(error) if error.errno == Errno::ENOENT => "/".to_string(),
        Err(error) => return Err(error),
    };
    for mut pending in registered {
        drop(pending.next_until(None)?);
    }
    let jobspec =
        Jobspec::from_value(decoded(data.remove("jobspec"), "jobspec")?).map_err(protocol)?;
    let r = ResourceSet::from_value(&decoded(data.remove("R"), "R")?).map_err(protocol)?;
    let env = environment(data.remove("J"))?;
    Ok(Job { id, jobspec, r, env, parent_path, service })
}
