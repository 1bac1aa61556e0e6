//! `flux run`: submit one job and attach to it.

use clap::{Arg, ArgMatches, Command};
use flux_client::Client;
use flux_id::JobId;

use super::program::Program;
use crate::{
    attach::{self, machine::View},
    dispatch::Invocation,
    failure::Failure,
    output,
    submission::{
        Context, Job, SubmitError,
        options::{self, one},
        resources::Unit,
        send::Sender,
        shell::is_ranks,
        spec,
    },
};

/// The options of `flux run`.
pub(crate) fn command() -> Command {
    let command = Command::new("run").about("Run a job and attach to it");
    options::tasks(options::common(command)).arg(
        Arg::new("wait-event")
            .long("wait-event")
            .value_name("NAME")
            .help("Leave after this event (default: finish)"),
    )
}

/// Runs `flux run`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    if options::plugins_listed(&invocation.matches) {
        return Ok(0);
    }
    let job = Context::gather()
        .and_then(|context| job(&context, &invocation.matches))
        .map_err(|error| Failure::script("flux-run", error.to_string()))?;
    if invocation.matches.get_flag("dry-run") {
        output::line(&job.text());
        return Ok(0);
    }
    let client = Program::script("flux-run").open()?;
    submit_and_attach(&client, "flux-run", &job, &invocation.matches)
}

/// Submits a job and follows it to its end; its exit status is the result.
///
/// # Errors
/// The job is refused, or the connection is lost.
pub(crate) fn submit_and_attach(
    client: &Client,
    program: &'static str,
    job: &Job,
    matches: &ArgMatches,
) -> Result<i32, Failure> {
    let id = Sender::new(client)
        .and_then(|sender| sender.submit(job))
        .map(JobId)
        .map_err(|error| Failure::script(program, error.message()))?;
    if matches.get_count("verbose") > 0 {
        output::error_line(&format!("jobid: {id}"));
    }
    let verbose = matches.get_count("verbose");
    let until = matches.try_get_one::<String>("wait-event").ok().flatten().cloned();
    let options = attach::Options {
        view: View {
            events: verbose > 1,
            exec: verbose > 2,
            label: matches.get_flag("label-io"),
            quiet: matches.get_flag("quiet"),
            until: until.unwrap_or_else(|| "finish".into()),
            tail: None,
        },
        stdin_ranks: one(matches, "input").filter(|i| is_ranks(i)).unwrap_or_else(|| "all".into()),
        only_input: true,
        ..attach::Options::default()
    };
    attach::attach(client, id, &options)
}

fn job(context: &Context, matches: &ArgMatches) -> Result<Job, SubmitError> {
    let words = options::words(matches);
    if words.is_empty() {
        return Err(SubmitError::NoCommand);
    }
    let common = options::read(matches)?;
    spec::build(context, &common, Unit::Task, words, spec::Extra::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> String {
        let command = command().no_binary_name(true);
        let words = ["--dry-run", "--env=-*", "--rlimit=-*"].iter().chain(words);
        let matches = command.try_get_matches_from(words).expect("a valid command line");
        match job(&Context::fixed(), &matches) {
            Ok(job) => job.text(),
            Err(error) => Failure::script("flux-run", error.to_string()).lines().concat(),
        }
    }

    #[test]
    fn the_plain_jobspec_is_byte_for_byte_that_of_flux() {
        assert_eq!(
            run(&["-n1", "true"]),
            concat!(
                r#"{"resources":[{"type":"slot","count":1,"with":[{"type":"core","count":1}],"#,
                r#""label":"task"}],"tasks":[{"command":["true"],"slot":"task","#,
                r#""count":{"per_slot":1}}],"attributes":{"system":{"duration":0,"#,
                r#""cwd":"/home/me","shell":{"options":{}}}},"version":1}"#
            )
        );
    }

    #[test]
    fn every_option_has_its_place() {
        let text = run(&[
            "-N2",
            "-n4",
            "-c2",
            "-g1",
            "-qbatch",
            "-Bmine",
            "-t30s",
            "--job-name=me",
            "-ompi=none",
            "-oa.b=[1]",
            "-overbose",
            "-Suser.k=v",
            "--dependency=afterok:f1",
            "--begin-time=+1h",
            "--requires=-rack1",
            "--output=o-{{id}}",
            "--error=e",
            "-l",
            "-u",
            "--input=in",
            "--cwd=/w",
            "--signal=USR2@10s",
            "--taskmap=cyclic:2",
            "--add-file=n=x\ny",
            "app",
            "-n9",
        ]);
        assert_eq!(text, include_str!("golden/run-all-options.json").trim_end());
    }

    #[test]
    fn what_is_made_is_a_valid_jobspec() {
        for words in [&["true"][..], &["-N2-4", "x"], &["-N4", "-n5", "x"], &["--cores=4", "x"]] {
            let jobspec = flux_model::jobspec::Jobspec::parse(&run(words)).expect("RFC 14");
            jobspec.require_version(1).expect("RFC 25");
        }
        for golden in
            [include_str!("golden/run-all-options.json"), include_str!("golden/batch.json")]
        {
            flux_model::jobspec::Jobspec::parse(golden).expect("RFC 14");
        }
        assert!(run(&["--resources-shape=slot=2/core=4", "x"]).contains(r#""slot":"default""#));
        let shape = run(&["--resources-shape=slot/node=2/socket=2", "x"]);
        let jobspec = flux_model::jobspec::Jobspec::parse(&shape).expect("RFC 14");
        assert!(jobspec.require_version(1).is_err(), "version 1 has no sockets");
        assert!(run(&["-Sduration=x", "x"]).starts_with("flux-run: ERROR: jobspec: "));
    }

    #[test]
    fn mistakes_are_told_as_flux_tells_them() {
        for (words, text) in [
            (&["-n1"][..], "job command and arguments are missing"),
            (
                &["-n1", "--cores=1", "true"],
                "Per-resource options can't be used with per-task options. (See --help for details)",
            ),
            (&["-N0", "true"], "node count must be an integer >= 1 (if set)"),
            (&["-n0", "true"], "task count must be a integer >= 1"),
            (&["-tfoo", "true"], "invalid Flux standard duration"),
            (&["--requires=(", "true"], "--requires='(': Unclosed parenthesis in position 0"),
            (&["--env=^/nope", "true"], "--env: [Errno 2] No such file or directory: '/nope'"),
            (&["--signal=FOO", "true"], "--signal=FOO: signal 'FOO' is invalid"),
            (&["--flags=foo", "true"], "--flags: Unknown flag foo"),
            (&["--rlimit=foo", "true"], "No corresponding rlimit matching \"foo\""),
            (&["--begin-time=foo", "true"], "Invalid datetime: \"foo\""),
        ] {
            assert_eq!(run(words), format!("flux-run: ERROR: {text}"));
        }
    }
}
