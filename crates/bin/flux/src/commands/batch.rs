//! `flux batch`: submit a script that becomes the initial program of a new instance.

use clap::{Arg, ArgAction, ArgMatches, Command};
use flux_id::JobId;
use serde_json::{Map, json};

use super::program::Program;
use crate::{
    dispatch::{Invocation, complaint},
    failure::{Failure, Style},
    output,
    submission::{
        Context, Job, SubmitError, archive, broker::Broker, options, resources::Unit,
        script::Script, send::Sender, spec,
    },
};

/// Mode of the script in the job's temporary directory.
const SCRIPT_MODE: u32 = 0o700;

/// The options of `flux batch`.
pub(crate) fn command() -> Command {
    let command = Command::new("batch").about("Submit a batch script to run in its own instance");
    options::slots(options::common(command)).arg(
        Arg::new("wrap")
            .long("wrap")
            .action(ArgAction::SetTrue)
            .help("Wrap a command line in a script"),
    )
}

/// Runs `flux batch`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    if options::plugins_listed(&invocation.matches) {
        return Ok(0);
    }
    let fail = |error: SubmitError| Failure::script("flux-batch", error.to_string());
    let context = Context::gather().map_err(fail)?;
    let words = options::words(&invocation.matches);
    let script = if invocation.matches.get_flag("wrap") {
        Script::wrap(&words)
    } else {
        Script::open(&words, &mut std::io::stdin().lock())
    }
    .map_err(fail)?;
    let arguments = invocation.arguments.iter().map(|a| a.to_string_lossy().into_owned());
    let matches = with_directives(&script, arguments.collect()).map_err(fail)?;
    if matches.get_count("verbose") > 0 {
        let options = script.options().map_err(fail)?;
        let options = if options.is_empty() { "none".to_owned() } else { options.join(" ") };
        let name = &script.name;
        output::error_line(&format!("flux-batch: {name}: options of the script: {options}"));
    }
    let job = job(&context, &matches, script).map_err(fail)?;
    if matches.get_flag("dry-run") {
        output::line(&job.text());
        return Ok(0);
    }
    let client = Program::script("flux-batch").open()?;
    let id = Sender::new(&client)
        .and_then(|sender| sender.submit(&job))
        .map_err(|error| Failure::script("flux-batch", error.message()))?;
    if !matches.get_flag("quiet") {
        output::line(&JobId(id).to_string());
    }
    Ok(0)
}

/// Parses the options of the script and those of the command line, which win.
fn with_directives(script: &Script, arguments: Vec<String>) -> Result<ArgMatches, SubmitError> {
    let wrong = |error: clap::Error| {
        SubmitError::Directives(script.name.clone(), complaint(&error, Style::Script))
    };
    let mut words = script.options()?;
    // Parsed alone first, so that no directive can pass for the script or its arguments.
    let matches = command().no_binary_name(true).try_get_matches_from(&words).map_err(wrong)?;
    if let Some(word) = options::words(&matches).first() {
        let text = format!("directive '{word}' is no option");
        return Err(SubmitError::Directives(script.name.clone(), text));
    }
    words.extend(arguments);
    command().no_binary_name(true).try_get_matches_from(words).map_err(wrong)
}

fn job(context: &Context, matches: &ArgMatches, script: Script) -> Result<Job, SubmitError> {
    let mut common = options::read(matches)?;
    let broker = Broker::read(matches)?;
    common.streams.output.get_or_insert_with(|| "flux-{{id}}.out".to_owned());
    let mut files = Map::new();
    files.insert("script".into(), archive::entry(script.text.as_bytes(), SCRIPT_MODE));
    broker.add_files(&mut files);
    let mut rest = vec!["{{tmpdir}}/script".to_owned()];
    rest.extend(script.arguments);
    let extra =
        spec::Extra { name: Some(script.name), shell: instance_options(), files, env: None };
    spec::build(context, &common, Unit::Slot, broker.command(rest), extra)
}

/// Shell options of a job that is an instance: a broker per node, no MPI, no waiting for others.
pub(crate) fn instance_options() -> Map<String, serde_json::Value> {
    let mut options = Map::new();
    options.insert("per-resource".into(), json!({"type": "node"}));
    options.insert("mpi".into(), json!("none"));
    options.insert("exit-timeout".into(), json!("none"));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &str, words: &[&str]) -> String {
        let words: Vec<String> = ["--dry-run", "--env=-*", "--rlimit=-*"]
            .iter()
            .chain(words)
            .map(|w| (*w).into())
            .collect();
        let script = Script::open(&["-".into(), "arg".into()], &mut text.as_bytes());
        let made = script.and_then(|script| {
            let matches = with_directives(&script, words)?;
            job(&Context::fixed(), &matches, script)
        });
        match made {
            Ok(job) => job.text(),
            Err(error) => format!("flux-batch: ERROR: {error}"),
        }
    }

    #[test]
    fn the_jobspec_of_a_script_starts_brokers() {
        let text = batch(
            "#!/bin/sh\n#FLUX: -n4\n#FLUX: -t5m\n#FLUX: --output=x\ndate\n",
            &["-n2", "--conf=a.b=1", "--broker-opts=-v,-Sx=y", "--dump", "--output=out"],
        );
        assert_eq!(text, include_str!("golden/batch.json").trim_end());
    }

    #[test]
    fn slots_may_come_from_the_script_only() {
        assert!(batch("#!/bin/sh\n# flux: -N2\n", &[]).contains(r#""type":"node","count":2"#));
        assert_eq!(
            batch("#!/bin/sh\n", &[]),
            "flux-batch: ERROR: Number of slots to allocate must be specified"
        );
        assert!(batch("#!/bin/sh\n#flux: -n1 x\n", &[]).contains("is no option"));
        assert_eq!(
            batch("#!/bin/sh\n#flux: --nosuch\n", &[]),
            "flux-batch: ERROR: stdin: unrecognized arguments: --nosuch"
        );
        assert_eq!(
            batch("#!/bin/sh\n#flux: -n x\n", &[]),
            "flux-batch: ERROR: stdin: argument --nslots: invalid value: 'x'"
        );
    }
}
