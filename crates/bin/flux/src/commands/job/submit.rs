//! `flux job submit`: submit a jobspec as it is.

use std::io::Read;

use clap::{ArgMatches, Command};
use flux_client::To;
use flux_id::JobId;

use super::JOB;
use crate::{
    commands::program::{text, value, word},
    failure::Failure,
    output, session,
    submission::{options, signing::Signing},
};

/// Largest jobspec.
const MAX_INPUT: u64 = 64 << 20;
/// Client flag: the input is signed already.
const PRE_SIGNED: u32 = 1;

pub(super) fn command() -> Command {
    Command::new("submit")
        .about("Submit a jobspec")
        .arg(value("urgency", 'u', "N", "0 to 31, hold, default or expedite"))
        .arg(value("flags", 'f', "FLAGS", "debug, waitable, novalidate, signed"))
        .arg(value("security-config", 'c', "GLOB", "Files with the configuration of signing"))
        .arg(value("sign-type", 's', "TYPE", "How to sign: munge or none"))
        .arg(word("file", "FILE", "The jobspec (default: standard input)").required(false))
}

/// The bits of flags by name.
fn flags(text: &str) -> Result<u32, String> {
    text.split(',').filter(|flag| !flag.is_empty()).try_fold(0, |bits, flag| {
        Ok(bits
            | match flag {
                "signed" => PRE_SIGNED,
                "debug" => 2,
                "waitable" => 4,
                "novalidate" => 8,
                other => return Err(format!("unknown flag: {other}")),
            })
    })
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let flags = flags(text(matches, "flags").unwrap_or_default()).map_err(|e| JOB.fail(e))?;
    let urgency = text(matches, "urgency").unwrap_or("default");
    let urgency = options::urgency(urgency).map_err(|error| JOB.fail(error.to_string()))?;
    let mut input = Vec::new();
    let path = text(matches, "file").unwrap_or("-");
    let read = match path {
        "-" => std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input),
        path => {
            std::fs::File::open(path).and_then(|file| file.take(MAX_INPUT).read_to_end(&mut input))
        }
    };
    read.map_err(|error| JOB.fail(format!("{path}: {error}")))?;
    let client = JOB.open()?;
    let j = if flags & PRE_SIGNED != 0 {
        let text = String::from_utf8(input).map_err(|_| JOB.fail(format!("{path}: not signed")))?;
        text.trim_end().to_owned()
    } else {
        let (kind, pattern) = (text(matches, "sign-type"), text(matches, "security-config"));
        let uid = session::uid();
        let signing = if kind.is_some() || pattern.is_some() {
            Signing::of_choice(uid, kind, pattern)
        } else {
            session::owner(&client).and_then(|owner| Signing::of_user(uid, owner))
        };
        let signed = signing.and_then(|mut signing| signing.sign(&input));
        signed.map_err(|error| JOB.fail(error.message()))?
    };
    let request = flux_api::job::ingest::SubmitRequest {
        j,
        urgency: urgency.into(),
        flags: flags & !PRE_SIGNED,
    };
    let answer = client
        .call::<flux_api::job::ingest::Submit>(To::Any, &request)
        .map_err(|error| JOB.fail(format!("submit: {error}")))?;
    output::line(&JobId(answer.id).to_string());
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words() {
        assert_eq!(flags("debug,signed"), Ok(3));
        assert_eq!(flags(""), Ok(0));
        assert_eq!(flags("x"), Err("unknown flag: x".into()));
    }
}
