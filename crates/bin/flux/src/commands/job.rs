//! `flux job`: what can be done with a job, by subcommand.

use std::io::Read;

use clap::{Arg, Command};
use flux_id::{JobId, JobIdForm};

use crate::{dispatch::Invocation, failure::Failure, output};

/// Most bytes read from standard input.
const MAX_INPUT: u64 = 64 << 20;

/// The options of `flux job`.
pub(crate) fn command() -> Command {
    Command::new("job")
        .about("Low-level job operations")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("id")
                .about("Convert job ids between forms")
                .arg(
                    Arg::new("to")
                        .short('t')
                        .long("to")
                        .value_name("FORM")
                        .default_value("dec")
                        .help("dec, kvs, hex, dothex, words, f58, f58plain or emoji"),
                )
                .arg(Arg::new("ids").value_name("ID").num_args(0..)),
        )
}

/// Runs `flux job`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some(("id", matches)) = invocation.matches.subcommand() else {
        return Err(fail("missing subcommand".into()));
    };
    let name = matches.get_one::<String>("to").map_or("dec", String::as_str);
    let form = JobIdForm::from_name(name).ok_or_else(|| fail(format!("unknown form: {name}")))?;
    let mut ids: Vec<String> =
        matches.get_many::<String>("ids").unwrap_or_default().cloned().collect();
    if ids.is_empty() {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
        read.map_err(|error| fail(format!("stdin: {error}")))?;
        ids = text.lines().map(str::to_owned).filter(|l| !l.trim().is_empty()).collect();
    }
    for id in ids {
        output::line(&convert(&id, form)?);
    }
    Ok(0)
}

fn fail(text: String) -> Failure {
    Failure::binary("flux-job", text)
}

/// A job id in another form.
fn convert(text: &str, form: JobIdForm) -> Result<String, Failure> {
    let id = text.trim().parse::<JobId>();
    id.map(|id| id.format(form)).map_err(|_| fail(format!("{text}: malformed input")))
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
