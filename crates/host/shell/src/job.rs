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
use flux_sign::{SignConfig, Signer};
use serde_json::{Map, Value};

/// A job as its shell sees it.
#[derive(Debug)]
pub struct Job {
    /// Job id.
    pub id: JobId,
    /// Jobspec with updates, without environment; for the job of a guest the one that was signed.
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

/// What the user has signed. In an instance of somebody else the signature is verified: nothing
/// that the instance says about the job counts against it.
fn signed(text: Option<Value>, uid: u32, guest: bool) -> Result<Value, RpcError> {
    let Some(Value::String(text)) = text else {
        return Err(protocol("job-info.lookup: J is missing"));
    };
    let denied = |text: String| RpcError::new(Errno::EPERM, format!("J: {text}"));
    let request = if guest {
        let config = SignConfig::of_user().map_err(|error| denied(error.to_string()))?;
        let request = Signer::new(config).verify(&text, flux_sign::now(), uid);
        request.map_err(|error| denied(error.to_string()))?
    } else {
        sign::unwrap(&text).map_err(protocol)?
    };
    if guest && request.userid != uid {
        return Err(denied(format!("signed by userid {}, not {uid}", request.userid)));
    }
    serde_json::from_slice(&request.payload).map_err(protocol)
}

/// The environment of a signed jobspec.
fn environment(payload: &Value) -> Vec<(String, Option<String>)> {
    let variables = payload.pointer("/attributes/system/environment").and_then(Value::as_object);
    variables
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().map(str::to_string)))
        .collect()
}

/// Registers the shell's service and asks for its events.
pub(crate) fn registration(id: JobId, service: &str) -> [flux_proto::Message; 2] {
    let events = SubscribeRequest { topic: format!("shell-{}.", id.dec()) };
    let service = ServiceRequest { service: service.to_string() };
    [rpc::request::<ServiceAdd>(&service), rpc::request::<Subscribe>(&events)]
}

/// Fetches the job, registers service and events: four requests, one round trip. `guest` when the
/// instance is somebody else's.
///
/// # Errors
/// What the broker answers, or answers that make no sense.
pub fn fetch(client: &Client, id: JobId, uid: u32, guest: bool) -> Result<Job, RpcError> {
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
    let request = signed(data.remove("J"), uid, guest)?;
    let env = environment(&request);
    let jobspec = if guest { request } else { decoded(data.remove("jobspec"), "jobspec")? };
    let jobspec = Jobspec::from_value(jobspec).map_err(protocol)?;
    let r = ResourceSet::from_value(&decoded(data.remove("R"), "R")?).map_err(protocol)?;
    Ok(Job { id, jobspec, r, env, parent_path, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_an_instance_of_somebody_else_nothing_counts_that_is_not_verified() {
        let j = || Some(Value::String(sign::wrap_none(b"{}", 7)));
        assert_eq!(signed(j(), 7, false).unwrap(), serde_json::json!({}));
        // Whatever the configuration of this machine, nobody else has signed for user 8.
        assert_eq!(signed(j(), 8, true).unwrap_err().errno, Errno::EPERM);
        assert_eq!(signed(None, 7, false).unwrap_err().errno, Errno::EPROTO);
    }

    #[test]
    fn the_environment_is_that_of_the_signed_request() {
        let request = serde_json::json!({"attributes": {"system": {"environment": {"A": "b"}}}});
        assert_eq!(environment(&request), [("A".to_string(), Some("b".to_string()))]);
        assert!(environment(&Value::Null).is_empty());
    }
}
