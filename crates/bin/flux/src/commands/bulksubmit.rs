//! `flux bulksubmit`: submit a job for each input.

use std::{
    ffi::OsString,
    hash::{BuildHasher, RandomState},
    io::Read,
};

use clap::{Arg, ArgAction, Command};

use super::submit;
use crate::{
    dispatch::{Invocation, complaint},
    failure::{Failure, Style},
    output,
    submission::{
        Context, SubmitError,
        bulk::{self, Inputs},
        options::{self, one, strings},
    },
};

/// Options of this command that a single submission does not have: name, and whether a value
/// follows.
const OWN: [(&str, bool); 4] =
    [("--dry-run", false), ("--shuffle", false), ("--sep", true), ("--define", true)];

/// The options of `flux bulksubmit`.
pub(crate) fn command() -> Command {
    let command = Command::new("bulksubmit").about("Submit a job for each of many inputs");
    options::as_template(options::copies(options::tasks(options::common(command))))
        .arg(
            Arg::new("shuffle")
                .long("shuffle")
                .action(ArgAction::SetTrue)
                .help("Submit in random order"),
        )
        .arg(
            Arg::new("sep")
                .long("sep")
                .value_name("STRING")
                .help("Separator of input files (default: newline; none: blanks)"),
        )
        .arg(
            Arg::new("define")
                .long("define")
                .value_name("NAME=CODE")
                .action(ArgAction::Append)
                .help("Define a replacement function (refused: needs Python)"),
        )
}

/// Runs `flux bulksubmit`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    if options::plugins_listed(&invocation.matches) {
        return Ok(0);
    }
    let fail = |error: SubmitError| Failure::script("flux-bulksubmit", error.to_string());
    let context = Context::gather().map_err(fail)?;
    let lines = plan(&context, invocation).map_err(fail)?;
    if invocation.matches.get_flag("dry-run") {
        for (words, _) in lines {
            output::line(&format!("bulksubmit: submit {}", words.join(" ")));
        }
        return Ok(0);
    }
    let plans: Vec<submit::Plan> = lines.into_iter().map(|(_, plan)| plan).collect();
    if plans.is_empty() {
        return Ok(0);
    }
    submit::submit_all("flux-bulksubmit", &context, &plans, &invocation.matches)
}

/// The words and the jobs of one `flux submit` for each input; each is checked to be valid.
fn plan(
    context: &Context,
    invocation: &Invocation,
) -> Result<Vec<(Vec<String>, submit::Plan)>, SubmitError> {
    let Invocation { matches, arguments } = invocation;
    if let Some(definition) = strings(matches, "define").into_iter().next() {
        return Err(SubmitError::Define(definition));
    }
    let separator = one(matches, "sep");
    let mut read = |file: &str| {
        let text = if file == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|error| SubmitError::file("input", file, &error))?;
        Ok(bulk::split_text(&text, separator.as_deref()))
    };
    let words = options::words(matches);
    let (mut command, inputs) = bulk::split(&words, &mut read)?;
    let inputs = match inputs {
        Some(inputs) => inputs,
        None => Inputs::single(read("-")?),
    };
    let own = own_options(arguments, words.len());
    // Without any field the input becomes the last word, so that none is lost.
    if !own.iter().chain(&command).any(|word| bulk::has_field(word)) {
        command.push("{}".into());
    }
    let count = inputs.count()?;
    let order = if matches.get_flag("shuffle") {
        bulk::shuffled(count, RandomState::new().hash_one(count))
    } else {
        (0..count).collect()
    };
    let template: Vec<String> = own.into_iter().chain(command).collect();
    let mut submissions = Vec::with_capacity(count);
    for (seq, at) in order.into_iter().enumerate() {
        let values = inputs.of(at);
        let words = template
            .iter()
            .map(|word| bulk::substitute(word, &values, seq))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = check(context, &words)?;
        submissions.push((words, plan));
    }
    Ok(submissions)
}

/// Makes the jobs of one submission, to tell mistakes before anything is submitted.
fn check(context: &Context, words: &[String]) -> Result<submit::Plan, SubmitError> {
    let parser = submit::command().no_binary_name(true);
    let matches = parser
        .try_get_matches_from(words)
        .map_err(|error| SubmitError::Words(complaint(&error, Style::Script)))?;
    let plan = submit::Plan::read(&matches)?;
    plan.job(context, 0)?;
    Ok(plan)
}

/// The options as written, without those of this command. The last `trailing` words are the
/// command and its inputs.
fn own_options(arguments: &[OsString], trailing: usize) -> Vec<String> {
    let end = arguments.len().saturating_sub(trailing);
    let mut kept = Vec::new();
    let mut skip = false;
    for word in arguments[..end].iter().map(|w| w.to_string_lossy()) {
        let own = OWN.iter().find(|(name, _)| {
            word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        });
        if std::mem::take(&mut skip) || word == "--" {
            continue;
        }
        match own {
            Some((name, takes_value)) => skip = *takes_value && word == *name,
            None => kept.push(word.into_owned()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(words: &[&str]) -> Result<Vec<String>, String> {
        let arguments: Vec<OsString> =
            ["--dry-run"].iter().chain(words).map(OsString::from).collect();
        let command = command().no_binary_name(true);
        let matches = command.try_get_matches_from(&arguments).expect("a valid command line");
        plan(&Context::fixed(), &Invocation { matches, arguments })
            .map(|jobs| jobs.into_iter().map(|(words, _)| words.join(" ")).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_input_becomes_a_submission() {
        let jobs = bulk(&["-n1", "--sep", "none", "echo", "{}", ":::", "a", "b"]);
        assert_eq!(jobs, Ok(vec!["-n1 echo a".into(), "-n1 echo b".into()]));
        let jobs = bulk(&["--job-name={./%}", "cat", "{}", ":::", "/d/x.txt"]);
        assert_eq!(jobs, Ok(vec!["--job-name=x cat /d/x.txt".into()]));
        assert_eq!(bulk(&["echo", ":::", "a"]), Ok(vec!["echo a".into()]));
        assert_eq!(bulk(&["-n{}", "echo", ":::", "2"]), Ok(vec!["-n2 echo".into()]));
    }

    #[test]
    fn mistakes_are_found_before_anything_is_submitted() {
        assert_eq!(
            bulk(&["--queue={}", "-tx", "a", ":::", "a"]),
            Err("invalid Flux standard duration".into())
        );
        assert!(bulk(&["--define=p=x", "echo", ":::", "a"]).is_err_and(|e| e.contains("Python")));
        assert_eq!(bulk(&["echo", "{3}", ":::", "a"]), Err("unknown replacement {3}".into()));
        assert_eq!(
            bulk(&["-n{}", "echo", ":::", "x"]),
            Err("argument --ntasks: invalid value: 'x'".into())
        );
        assert_eq!(
            bulk(&["{}", "true", ":::", "--nosuch"]),
            Err("unrecognized arguments: --nosuch".into())
        );
    }

    #[test]
    fn shuffling_keeps_every_job() {
        let mut jobs = bulk(&["--shuffle", "{}", ":::", "a", "b", "c", "d"]).expect("valid");
        jobs.sort();
        assert_eq!(jobs, ["a", "b", "c", "d"]);
    }
}
