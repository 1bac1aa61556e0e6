//! Who asks, and about which job: what the job commands begin with.

use flux_api::RpcError;
use flux_api::job::info::{CURRENT, InfoLookup, Lookup};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::resource_set::ResourceSet;
use flux_proto::Errno;
use serde_json::Value;

use crate::failure::Failure;

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// The user id of this process.
pub(crate) fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The owner of the instance.
///
/// # Errors
/// The broker cannot be asked.
pub(crate) fn owner(client: &Client) -> Result<u32, RpcError> {
    let text = client.get_attr("security.owner")?;
    text.parse().map_err(|_| {
        let text = format!("attribute security.owner is '{text}', not a user id");
        RpcError::new(Errno::EPROTO, text)
    })
}

/// The value of a key of a job, as text.
///
/// # Errors
/// ENOENT: there is no such job or key.
pub(crate) fn lookup(
    client: &Client,
    id: JobId,
    key: &str,
    flags: u32,
) -> Result<String, RpcError> {
    let request = InfoLookup { id: id.0, keys: vec![key.to_owned()], flags };
    let mut answer = client.call::<Lookup>(To::Any, &request)?;
    Ok(match answer.remove(key) {
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
        None => return Err(RpcError::new(Errno::ENOENT, format!("{key}: key not found"))),
    })
}

/// What a job has, as of now.
///
/// # Errors
/// ENOENT: there is no such job, or it has nothing yet.
pub(crate) fn resources(client: &Client, id: JobId) -> Result<ResourceSet, RpcError> {
    let text = lookup(client, id, "R", CURRENT)?;
    ResourceSet::parse(&text).map_err(|error| RpcError::new(Errno::EPROTO, format!("R: {error}")))
}

/// Reads a job id of a binary command: `flux-job: xyz: malformed input` when it is none. Of a path
/// of ids (`/ƒA/ƒB`) the last one counts.
///
/// # Errors
/// The text is no job id.
pub(crate) fn job_id(program: &str, text: &str) -> Result<JobId, Failure> {
    parse_id(text).ok_or_else(|| Failure::binary(program, format!("{text}: malformed input")))
}

/// Reads a job id in any form.
pub(crate) fn parse_id(text: &str) -> Option<JobId> {
    let text = text.trim();
    let last = if text.starts_with('/') { text.rsplit('/').next().unwrap_or(text) } else { text };
    last.parse().ok()
}

/// A user id, or `all`, or a user name; -1 stands for all users.
pub(crate) fn user(text: &str) -> Option<i64> {
    if text == "all" {
        return Some(-1);
    }
    if let Ok(uid) = text.parse::<u32>() {
        return Some(i64::from(uid));
    }
    let user = nix::unistd::User::from_name(text).ok()??;
    Some(i64::from(user.uid.as_raw()))
}

/// The name of a user, or the number when there is none.
pub(crate) fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// `[Errno N] text`, as script commands show an error they do not interpret.
pub(crate) fn raw_error(error: &RpcError) -> String {
    format!("[Errno {}] {}", error.errno.0, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_every_form_and_as_paths() {
        let id = JobId(6_731_191_091_817_518);
        assert_eq!(parse_id("ƒuZZybuNNy"), Some(id));
        assert_eq!(parse_id(" 6731191091817518\n"), Some(id));
        assert_eq!(parse_id("/f1/ƒuZZybuNNy"), Some(id));
        assert_eq!(parse_id("xyz!"), None);
        assert_eq!(
            job_id("flux-job", "xyz!").map_err(|failure| failure.lines()),
            Err(vec!["flux-job: xyz!: malformed input".to_owned()])
        );
    }

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(user("all"), Some(-1));
        assert_eq!(user("12"), Some(12));
        assert_eq!(user("no such user"), None);
        assert_eq!(user_name(4_000_000_123), "4000000123");
    }
}
