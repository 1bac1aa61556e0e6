//! `flux alloc`: start a new instance and work in it.

use clap::{Arg, ArgAction, ArgMatches, Command};
use flux_api::job::info::{EventlogWatch, EventlogWatch_};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_model::eventlog::Event;
use serde_json::{Map, json};

use super::{batch::instance_options, program::Program, run::submit_and_attach};
use crate::{
    dispatch::Invocation,
    failure::Failure,
    output,
    submission::{
        Context, Job, SubmitError, broker::Broker, options, resources::Unit, send::Sender, spec,
    },
};

/// The options of `flux alloc`.
pub(crate) fn command() -> Command {
    let command = Command::new("alloc").about("Start an interactive instance");
    options::slots(options::common(command)).arg(
        Arg::new("bg")
            .long("bg")
            .action(ArgAction::SetTrue)
            .help("Print the job id once the instance is ready, and leave it running"),
    )
}

/// Runs `flux alloc`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    if options::plugins_listed(&invocation.matches) {
        return Ok(0);
    }
    let job = Context::gather()
        .and_then(|context| job(&context, &invocation.matches))
        .map_err(|error| Failure::script("flux-alloc", error.to_string()))?;
    if invocation.matches.get_flag("dry-run") {
        output::line(&job.text());
        return Ok(0);
    }
    let client = Program::script("flux-alloc").open()?;
    if invocation.matches.get_flag("bg") {
        return background(&client, &job);
    }
    submit_and_attach(&client, "flux-alloc", &job, &invocation.matches)
}

/// Submits the instance and waits until it has told its address.
fn background(client: &Client, job: &Job) -> Result<i32, Failure> {
    let fail = |text: String| Failure::script("flux-alloc", text);
    let sender = Sender::new(client).map_err(|error| fail(error.message()))?;
    let id = sender.submit(job).map_err(|error| fail(error.message()))?;
    let request = EventlogWatch { id, path: "eventlog".into(), flags: 0 };
    let id = JobId(id);
    for entry in client.stream::<EventlogWatch_>(To::Any, &request) {
        let entry = entry.map_err(|error| fail(format!("{id}: {error}")))?;
        let Some(event) = entry.event.and_then(|line| Event::decode(&line).ok()) else { continue };
        match event.name.as_str() {
            "memo" if event.get("uri").is_some() => {
                output::line(&id.to_string());
                return Ok(0);
            }
            "exception" if event.get_i64("severity") == Some(0) => {
                let kind = event.get_str("type").unwrap_or_default();
                let note = event.get_str("note").unwrap_or_default();
                return Err(fail(format!("{id}: exception: type={kind} {note}")));
            }
            _ => {}
        }
    }
    Err(fail(format!("{id}: the instance ended before it was ready")))
}

fn job(context: &Context, matches: &ArgMatches) -> Result<Job, SubmitError> {
    let common = options::read(matches)?;
    let mut broker = Broker::read(matches)?;
    let words = options::words(matches);
    let mut shell = instance_options();
    if matches.get_flag("bg") {
        shell.insert("pty".into(), json!({"capture": 1}));
        if words.is_empty() {
            // Nobody sits at the terminal: the instance stays up without an initial program.
            broker.push("-Sbroker.rc2_none=1");
        }
    } else if context.terminal {
        shell.insert("pty".into(), json!({"interactive": 1}));
    }
    let mut files = Map::new();
    broker.add_files(&mut files);
    let extra = spec::Extra { shell, files, ..spec::Extra::default() };
    spec::build(context, &common, Unit::Slot, broker.command(words), extra)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn alloc(terminal: bool, words: &[&str]) -> Result<Value, String> {
        let words = ["--dry-run", "--env=-*", "--rlimit=-*"].iter().chain(words);
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        let context = Context { terminal, ..Context::fixed() };
        job(&context, &matches)
            .map(|job| job.jobspec.into_value())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_terminal_makes_it_interactive() {
        let spec = alloc(true, &["-n4", "bash", "-l"]).expect("valid");
        assert_eq!(spec["tasks"][0]["command"], json!(["flux", "broker", "bash", "-l"]));
        let options = &spec["attributes"]["system"]["shell"]["options"];
        assert_eq!(
            *options,
            json!({"per-resource": {"type": "node"}, "mpi": "none", "exit-timeout": "none",
                   "pty": {"interactive": 1}})
        );
        let spec = alloc(false, &["-N1"]).expect("valid");
        assert_eq!(spec["attributes"]["system"]["shell"]["options"].get("pty"), None);
    }

    #[test]
    fn in_the_background_it_stays_up() {
        let spec = alloc(true, &["--bg", "-n1"]).expect("valid");
        assert_eq!(spec["tasks"][0]["command"], json!(["flux", "broker", "-Sbroker.rc2_none=1"]));
        assert_eq!(alloc(true, &[]), Err("Number of slots to allocate must be specified".into()));
    }
}
