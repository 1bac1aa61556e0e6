//! `flux uri`: the URI of an instance.

use clap::Command;
use flux_client::{Client, To};
use flux_id::JobId;
use serde_json::{Value, json};

use super::program::{Program, flag, text, word};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::script("flux-uri");

/// Longest chain of instances that is followed.
const MAX_DEPTH: usize = 64;

/// The options of `flux uri`.
pub(crate) fn command() -> Command {
    Command::new("uri")
        .about("Find the URI of an instance")
        .arg(flag("remote", None, "A URI for other hosts (default)").overrides_with("local"))
        .arg(flag("local", None, "A URI for this host"))
        .arg(flag("wait", None, "Wait until the job has its URI"))
        .arg(word("target", "TARGET", "Job id, /ID/ID, jobid:ID, pid:N, slurm:ID or a URI"))
}

/// Runs `flux uri`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let target = text(matches, "target").unwrap_or_default();
    let uri = find(PROGRAM, target, matches.get_flag("wait"))?;
    let local = matches.get_flag("local") || always_local();
    output::line(&if local { local_form(&uri) } else { remote_form(&uri) });
    Ok(0)
}

/// The URI that a target of another command names, in the form that is best from here.
pub(crate) fn resolve(program: Program, target: &str) -> Result<String, Failure> {
    if let Some(rest) = target.strip_prefix("local://")
        && !rest.is_empty()
    {
        return Ok(target.to_owned());
    }
    let unresolved = || program.fail(format!("Unable to resolve {target} to a URI"));
    find(PROGRAM, target, false).map(nearest).map_err(|_| unresolved())
}

/// Whether URIs are for this host in any case.
fn always_local() -> bool {
    std::env::var_os("FLUX_URI_RESOLVE_LOCAL").is_some_and(|value| !value.is_empty())
}

/// A URI in the form that is best from here: no ssh to this host.
fn nearest(uri: String) -> String {
    if always_local() || on_this_host(&uri) { local_form(&uri) } else { uri }
}

fn find(program: Program, target: &str, wait: bool) -> Result<String, Failure> {
    if let Some((scheme, rest)) = target.split_once("://") {
        return match scheme {
            "local" | "ssh" | "fd" => Ok(target.to_owned()),
            _ => Err(program.fail(format!("unknown URI scheme '{scheme}' ({rest})"))),
        };
    }
    match target.split_once(':') {
        Some(("pid", pid)) => of_process(program, pid),
        Some(("slurm" | "lsf", _)) => Err(program.fail(format!(
            "{target}: instances of other resource managers are found by process id: use pid:N on their first node"
        ))),
        Some(("jobid", id)) => of_job(program, id, wait),
        _ if matches!(target.as_bytes().first(), Some(b'.')) || target == "/" => {
            flux_client::resolve(Some(target)).map_err(|error| program.fail(error.detail()))
        }
        _ => of_job(program, target, wait),
    }
}

/// The URI of a job, or of a job within a job: `ƒA/ƒB`; from the top with a leading `/`.
fn of_job(program: Program, path: &str, wait: bool) -> Result<String, Failure> {
    let mut uri = None;
    if path.starts_with('/') {
        let top = flux_client::resolve(Some("/"));
        uri = Some(top.map_err(|error| program.fail(error.detail()))?);
    }
    let ids: Vec<&str> = path.split('/').filter(|id| !id.is_empty()).collect();
    if ids.is_empty() || ids.len() > MAX_DEPTH {
        return Err(program.fail(format!("{path} is not a valid Flux jobid")));
    }
    for text in ids {
        let id: JobId =
            text.parse().map_err(|_| program.fail(format!("{text} is not a valid Flux jobid")))?;
        let client = Client::open(uri.map(nearest).as_deref()).map_err(|error| {
            program.fail(format!("Unable to connect to Flux: {}", error.detail()))
        })?;
        uri = Some(step(program, &client, id, text, wait)?);
    }
    uri.ok_or_else(|| program.fail(format!("{path} is not a valid Flux jobid")))
}

/// The URI that a job has noted.
fn step(
    program: Program,
    client: &Client,
    id: JobId,
    name: &str,
    wait: bool,
) -> Result<String, Failure> {
    let body = json!({ "id": id.0, "attrs": ["annotations", "state"] });
    let missing = || program.fail(format!("jobid {name} not found"));
    let found = client.rpc("job-list.list-id", To::Any, Some(&body)).map_err(|_| missing())?;
    let job = &found["job"];
    if let Some(uri) = job["annotations"]["user"]["uri"].as_str() {
        return Ok(uri.to_owned());
    }
    if !wait {
        return Err(program.fail(format!("URI not found for job {name}")));
    }
    // The note is an event of the job, and so is its end.
    let watch = flux_api::job::info::EventlogWatch { id: id.0, path: "eventlog".into(), flags: 0 };
    let events = client.stream::<flux_api::job::info::EventlogWatch_>(To::Any, &watch);
    let mut noted = None;
    for event in events {
        let event = event.map_err(|error| program.fail(error.message()))?;
        let line = event.event.unwrap_or_default();
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        if value["name"] == "memo" {
            noted = value["context"]["uri"].as_str().map(str::to_owned);
        }
        if noted.is_some() || value["name"] == "clean" {
            break;
        }
    }
    noted.ok_or_else(|| program.fail(format!("URI not found for job {name}")))
}

/// The instance that a process belongs to, or is a broker of.
fn of_process(program: Program, pid: &str) -> Result<String, Failure> {
    let pid: u32 = pid.parse().map_err(|_| program.fail(format!("{pid} is not a process id")))?;
    let environment = std::fs::read(format!("/proc/{pid}/environ"))
        .map_err(|error| program.fail(format!("pid {pid}: {error}")))?;
    let found = environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .find_map(|entry| entry.strip_prefix("FLUX_URI="));
    found
        .map(str::to_owned)
        .ok_or_else(|| program.fail(format!("PID {pid} doesn't seem to be a Flux instance")))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether an `ssh://` URI is about this host.
fn on_this_host(uri: &str) -> bool {
    match flux_client::parse(uri) {
        Ok(flux_client::Target::Ssh { host, .. }) => {
            host.rsplit('@').next() == Some(hostname().as_str())
        }
        _ => true,
    }
}

fn local_form(uri: &str) -> String {
    match flux_client::parse(uri) {
        Ok(flux_client::Target::Ssh { path, .. }) => format!("local://{path}"),
        _ => uri.to_owned(),
    }
}

fn remote_form(uri: &str) -> String {
    match uri.strip_prefix("local://") {
        Some(path) => format!("ssh://{}{path}", hostname()),
        None => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_for_here_and_for_elsewhere() {
        assert_eq!(local_form("ssh://h/run/local-0"), "local:///run/local-0");
        assert_eq!(remote_form("local:///run/x"), format!("ssh://{}/run/x", hostname()));
        assert_eq!(remote_form("ssh://h/run/x"), "ssh://h/run/x");
        assert!(on_this_host(&format!("ssh://{}/x", hostname())));
        assert!(!on_this_host("ssh://no.such.host.here/x"));
    }

    #[test]
    fn processes_and_words_that_are_none() {
        let text = |target: &str| find(PROGRAM, target, false).unwrap_err().lines().concat();
        assert_eq!(text("foo:bar"), "flux-uri: ERROR: foo:bar is not a valid Flux jobid");
        assert_eq!(text("pid:x"), "flux-uri: ERROR: x is not a process id");
        assert!(text("slurm:1").contains("pid:N"));
    }
}
