//! `flux admin`: what concerns the node rather than the instance; so far the scripts that run around
//! jobs. `flux-run-prolog`, `flux-run-epilog` and `flux-run-housekeeping`, the programs that the
//! privileged launcher may start, run them.

use std::path::Path;

use clap::{ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::lifecycle::ConfigGet;
use flux_client::{Client, To};
use serde_json::Value;

use super::program::{Program, counted, flag, text, value, word};
use super::system_scripts::{self, STAGES};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-admin");

/// The options of `flux admin`.
pub(crate) fn command() -> Command {
    Command::new("admin")
        .about("Look after a node: the scripts that run around jobs")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("system-scripts")
                .about("Show what runs before and after jobs, or run the scripts of one stage here")
                .arg(word("stage", "STAGE", "prolog, epilog or housekeeping").required(false))
                .arg(flag("run", 'r', "Run the scripts, as the launcher does"))
                .args(runner()),
        )
}

fn runner() -> [clap::Arg; 3] {
    [
        flag("exit-on-first-error", None, "Stop at the first script that fails"),
        value("config-path", 'c', "PATH", "Configuration (default: /etc/flux/system/conf.d)"),
        counted("verbose", 'v', "Say what is run"),
    ]
}

/// `flux-run-prolog`.
pub(crate) fn prolog_command() -> Command {
    hidden("run-prolog")
}

/// `flux-run-epilog`.
pub(crate) fn epilog_command() -> Command {
    hidden("run-epilog")
}

/// `flux-run-housekeeping`.
pub(crate) fn housekeeping_command() -> Command {
    hidden("run-housekeeping")
}

fn hidden(name: &'static str) -> Command {
    Command::new(name).about("Run the scripts of this stage, here").args(runner()).hide(true)
}

/// Runs the scripts of the prolog.
pub(crate) fn prolog(invocation: &Invocation) -> Result<i32, Failure> {
    run_stage("prolog", &invocation.matches)
}

/// Runs the scripts of the epilog.
pub(crate) fn epilog(invocation: &Invocation) -> Result<i32, Failure> {
    run_stage("epilog", &invocation.matches)
}

/// Runs the scripts of housekeeping.
pub(crate) fn housekeeping(invocation: &Invocation) -> Result<i32, Failure> {
    run_stage("housekeeping", &invocation.matches)
}

/// Runs `flux admin`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((_, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let stage = text(matches, "stage");
    if let Some(stage) = stage.filter(|stage| !STAGES.contains(stage)) {
        return Err(PROGRAM.fail(format!("{stage}: there are {}", STAGES.join(", "))));
    }
    if matches.get_flag("run") {
        let stage = stage.ok_or_else(|| PROGRAM.fail("--run needs a stage"))?;
        return run_stage(stage, matches);
    }
    let config = configuration(matches)?;
    for name in STAGES.into_iter().filter(|name| stage.is_none_or(|stage| stage == *name)) {
        output::line(&format!("{name}: {}", describe(&config, name)));
        let note = if table(&config, name).is_some() { "" } else { " (not run)" };
        for script in system_scripts::of_stage(name).map_err(|error| PROGRAM.fail(error))? {
            output::line(&format!("  {}{note}", script.display()));
        }
    }
    Ok(0)
}

fn files(matches: &ArgMatches) -> &Path {
    Path::new(text(matches, "config-path").unwrap_or("/etc/flux/system/conf.d"))
}

/// Of the instance, else of the files.
fn configuration(matches: &ArgMatches) -> Result<Value, Failure> {
    if text(matches, "config-path").is_none()
        && let Ok(client) = Client::open(None)
        && let Ok(config) = client.call::<ConfigGet>(To::Any, &AnyObject::default())
    {
        return Ok(Value::Object(config));
    }
    let found = flux_host::config::read_configuration(files(matches));
    let found = found.map_err(|error| PROGRAM.fail(error.to_string()))?;
    Ok(Value::Object(found.config))
}

/// Which table turns a stage on: the native one comes first.
fn table<'a>(config: &'a Value, stage: &str) -> Option<(&'a Value, bool)> {
    let native = config.get(stage).filter(|table| table.is_object());
    let plugins = config["job-manager"]["plugins"].as_array();
    let loaded = stage == "housekeeping"
        || plugins.is_some_and(|list| list.iter().any(|entry| entry["load"] == "perilog.so"));
    let old = config["job-manager"].get(stage).filter(|table| table.is_object() && loaded);
    native.map(|table| (table, true)).or(old.map(|table| (table, false)))
}

/// In one sentence what happens.
fn describe(config: &Value, stage: &str) -> String {
    let Some((table, native)) = table(config, stage) else {
        return "off".to_owned();
    };
    let per_rank = table["per-rank"].as_bool().unwrap_or(native || stage == "housekeeping");
    let place = if per_rank { "on every node of a job" } else { "on the leader" };
    let words: Vec<&str> =
        table["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let what = match (words.is_empty(), table["command"].as_str(), config["exec"]["imp"].as_str()) {
        (_, Some(line), _) => line.to_owned(),
        (false, ..) => words.join(" "),
        (true, _, Some(imp)) => format!("{imp} run {stage}"),
        (true, ..) => "nothing: exec.imp is not set".to_owned(),
    };
    format!("{place}: {what}; with flux-run-{stage} on this node")
}

/// Runs the scripts of a stage.
fn run_stage(stage: &str, matches: &ArgMatches) -> Result<i32, Failure> {
    let fail = |text: String| Failure::binary(&format!("flux-run-{stage}"), text);
    let scripts = system_scripts::of_stage(stage).map_err(fail)?;
    let mut stop = matches.get_flag("exit-on-first-error");
    if !stop && let Ok(found) = flux_host::config::read_configuration(files(matches)) {
        let config = Value::Object(found.config);
        stop = table(&config, stage)
            .is_some_and(|(table, _)| table["exit-on-first-error"].as_bool() == Some(true));
    }
    let verbose = matches.get_count("verbose") > 0;
    system_scripts::run(&format!("flux-run-{stage}"), &scripts, stop, verbose).map_err(fail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_is_described_as_it_is_configured() {
        let mut config = json!({"exec": {"imp": "/imp"}, "job-manager": {
            "prolog": {"command": ["a", "b"]}, "housekeeping": {}}});
        assert_eq!(describe(&config, "prolog"), "off");
        config["job-manager"]["plugins"] = json!([{"load": "perilog.so"}]);
        let text = "on the leader: a b; with flux-run-prolog on this node";
        assert_eq!(describe(&config, "prolog"), text);
        config["prolog"] = json!({});
        let text = "on every node of a job: /imp run prolog; with flux-run-prolog on this node";
        assert_eq!(describe(&config, "prolog"), text);
        let text = "on every node of a job: /imp run housekeeping; with flux-run-housekeeping on \
                    this node";
        assert_eq!(describe(&config, "housekeeping"), text);
    }
}
