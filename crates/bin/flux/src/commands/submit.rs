//! `flux submit`: submit jobs and print their ids.

use clap::{ArgMatches, Command};

use crate::{
    dispatch::Invocation,
    failure::Failure,
    output,
    submission::{
        Context, Job, SubmitError,
        cc::{self, Copies},
        options::{self, one},
        resources::Unit,
        spec,
    },
};

/// The options of `flux submit`.
pub(crate) fn command() -> Command {
    let command = Command::new("submit").about("Submit a job");
    options::copies(options::tasks(options::common(command)))
}

/// Runs `flux submit`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let jobs = Context::gather()
        .and_then(|context| jobs(&context, &invocation.matches))
        .map_err(|error| Failure::script("flux-submit", error.to_string()))?;
    for job in jobs {
        output::line(&job.text());
    }
    Ok(0)
}

/// The jobs of one command line: one, or one for each id of `--cc`.
///
/// # Errors
/// Whatever is wrong with the options.
pub(crate) fn jobs(context: &Context, matches: &ArgMatches) -> Result<Vec<Job>, SubmitError> {
    let words = options::words(matches);
    if words.is_empty() {
        return Err(SubmitError::NoCommand);
    }
    let copies = Copies::read(one(matches, "cc").as_deref(), one(matches, "bcc").as_deref())?;
    let common = options::read(matches)?;
    let Some(copies) = copies else {
        let extra = spec::Extra::default();
        return Ok(vec![spec::build(context, &common, Unit::Task, words, extra)?]);
    };
    copies
        .ids()
        .iter()
        .map(|id| {
            let put = |text: &mut String| *text = cc::substitute(text, *id);
            let mut words = words.clone();
            words.iter_mut().for_each(put);
            let mut common = common.clone();
            common.each_text(put);
            let env = copies.tell.then(|| format!("FLUX_JOB_CC={id}"));
            let extra = spec::Extra { env, ..spec::Extra::default() };
            spec::build(context, &common, Unit::Task, words, extra)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn submit(words: &[&str]) -> Vec<Value> {
        let words = ["--dry-run", "--env=-*", "--rlimit=-*"].iter().chain(words);
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        let jobs = jobs(&Context::fixed(), &matches).expect("valid");
        jobs.into_iter().map(|job| job.jobspec.into_value()).collect()
    }

    #[test]
    fn copies_know_their_id() {
        let jobs = submit(&["--cc=1-2", "--output=o.{cc}", "echo", "{cc}", "{{id}}"]);
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[1]["tasks"][0]["command"], json!(["echo", "2", "{{id}}"]));
        let system = &jobs[1]["attributes"]["system"];
        assert_eq!(system["environment"], json!({"FLUX_JOB_CC": "2"}));
        assert_eq!(system["shell"]["options"]["output"]["stdout"]["path"], "o.2");
        let jobs = submit(&["--bcc=7", "echo", "{cc}"]);
        assert_eq!(jobs[0]["tasks"][0]["command"], json!(["echo", "7"]));
        assert_eq!(jobs[0]["attributes"]["system"].get("environment"), None);
    }
}
