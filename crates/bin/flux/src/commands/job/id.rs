//! `flux job id`: job ids in other forms.

use std::io::Read;

use clap::{ArgMatches, Command};
use flux_id::{JobId, JobIdForm};

use super::JOB;
use crate::{
    commands::program::{text, texts, value, words},
    failure::Failure,
    output,
};

/// Most bytes read from standard input.
const MAX_INPUT: u64 = 64 << 20;

pub(super) fn command() -> Command {
    Command::new("id")
        .about("Convert job ids between forms")
        .arg(
            value("to", 't', "FORM", "dec, kvs, hex, dothex, words, f58, f58plain or emoji")
                .default_value("dec"),
        )
        .arg(words("ids", "ID", "Job ids (default: those on standard input)"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let name = text(matches, "to").unwrap_or("dec");
    let form =
        JobIdForm::from_name(name).ok_or_else(|| JOB.fail(format!("unknown form: {name}")))?;
    let mut ids: Vec<String> = texts(matches, "ids").into_iter().map(str::to_owned).collect();
    if ids.is_empty() {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
        read.map_err(|error| JOB.fail(format!("stdin: {error}")))?;
        ids = text.lines().map(str::to_owned).filter(|l| !l.trim().is_empty()).collect();
    }
    for id in ids {
        output::line(&convert(&id, form)?);
    }
    Ok(0)
}

/// A job id in another form.
fn convert(text: &str, form: JobIdForm) -> Result<String, Failure> {
    let id = text.trim().parse::<JobId>();
    id.map(|id| id.format(form)).map_err(|_| JOB.fail(format!("{text}: malformed input")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_converted() {
        let to = |form| convert("ƒuZZybuNNy", form).expect("a job id");
        assert_eq!(to(JobIdForm::Dec), "6731191091817518");
        assert_eq!(to(JobIdForm::Kvs), "job.0017.e9fb.8df1.6c2e");
        assert_eq!(to(JobIdForm::Hex), "0x17e9fb8df16c2e");
        let failure = convert("xyz", JobIdForm::Dec).expect_err("no job id");
        assert_eq!(failure.lines(), ["flux-job: xyz: malformed input"]);
    }
}
