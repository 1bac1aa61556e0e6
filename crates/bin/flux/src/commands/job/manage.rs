//! `flux job urgency`, `memo`, `purge`, `last`, `stats`.

use clap::{ArgMatches, Command, value_parser};
use flux_api::{
    body::AnyObject,
    job::{
        list::JobStats,
        manager::{
            History, HistoryRequest, Memo, MemoRequest, Purge, PurgeId, PurgeId_, PurgeRequest,
            Urgency, UrgencyRequest,
        },
    },
};
use flux_client::{Client, To};
use flux_id::JobId;
use serde_json::{Map, Value, json};

use super::{JOB, about, id_of, ids_of};
use crate::{
    commands::program::{flag, text, texts, value, word, words},
    failure::Failure,
    output,
    submission::options,
};

pub(super) fn urgency_command() -> Command {
    Command::new("urgency")
        .about("Change the urgency of a job")
        .arg(flag("verbose", 'v', "Tell the old urgency"))
        .arg(word("id", "ID", "The job"))
        .arg(word("urgency", "N", "0 to 31, hold, default or expedite"))
}

pub(super) fn urgency(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    let wanted = text(matches, "urgency").unwrap_or_default();
    let urgency = match wanted.parse::<i64>() {
        // The instance says what is out of range.
        Ok(number) => number,
        Err(_) => options::urgency(wanted).map(i64::from).map_err(|_| {
            JOB.fail("invalid urgency: expected 0 to 31, hold, default or expedite")
        })?,
    };
    let request = UrgencyRequest { id: id.0, urgency };
    let answer = JOB.open()?.call::<Urgency>(To::Any, &request).map_err(|e| about(id, &e))?;
    if matches.get_flag("verbose") {
        let text = match answer.old_urgency {
            0 => "old urgency: 0 (job held)".to_owned(),
            31 => "old urgency: 31 (job expedited)".to_owned(),
            old => format!("old urgency: {old}"),
        };
        output::error_line(&text);
    }
    Ok(0)
}

pub(super) fn memo_command() -> Command {
    Command::new("memo")
        .about("Attach notes to a job, which users see as annotations")
        .arg(flag("volatile", None, "Forget them when the instance restarts"))
        .arg(word("id", "ID", "The job"))
        .arg(words("notes", "KEY=VAL", "Notes (dots nest; null deletes)").required(true))
}

/// Reads `KEY=VAL` words: dots nest, a value that is no JSON is text.
fn notes(words: &[&str]) -> Result<Map<String, Value>, String> {
    let mut memo = Map::new();
    for word in words {
        let (key, value) =
            word.split_once('=').ok_or_else(|| format!("{word}: expected KEY=VAL"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        let mut patch = value;
        for part in key.rsplit('.') {
            if part.is_empty() {
                return Err(format!("{word}: empty key"));
            }
            patch = json!({part: patch});
        }
        let Value::Object(patch) = patch else { continue };
        nest(&mut memo, patch);
    }
    Ok(memo)
}

/// As annotations merge, but null is kept: it is a wish to delete.
fn nest(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => nest(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

pub(super) fn memo(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    let memo = notes(&texts(matches, "notes")).map_err(|text| JOB.fail(text))?;
    let request = MemoRequest { id: id.0, memo, volatile: matches.get_flag("volatile") };
    JOB.open()?.call::<Memo>(To::Any, &request).map_err(|error| about(id, &error))?;
    Ok(0)
}

pub(super) fn purge_command() -> Command {
    Command::new("purge")
        .about("Forget finished jobs")
        .arg(value("age-limit", None, "FSD", "Those that ended longer ago than this"))
        .arg(
            value("num-limit", None, "N", "All but so many, oldest first")
                .value_parser(value_parser!(i64)),
        )
        .arg(
            value("batch", None, "N", "Jobs per request")
                .default_value("50")
                .value_parser(value_parser!(i64)),
        )
        .arg(flag("force", 'f', "Do it; else only count"))
        .arg(words("ids", "ID", "These jobs"))
}

/// How many finished jobs there are.
fn inactive(client: &Client) -> Result<u64, Failure> {
    let stats = client
        .rpc("job-manager.stats-get", To::Any, Some(&json!({})))
        .map_err(|error| JOB.error(&error))?;
    Ok(stats["inactive_jobs"].as_u64().unwrap_or(0))
}

pub(super) fn purge(matches: &ArgMatches) -> Result<i32, Failure> {
    let force = matches.get_flag("force");
    let ids = ids_of(&texts(matches, "ids"))?;
    let age_limit = match text(matches, "age-limit") {
        Some(text) => {
            flux_id::fsd::parse(text).map_err(|_| JOB.fail(format!("{text}: no duration")))?
        }
        None => -1.0,
    };
    let client = JOB.open()?;
    let total = inactive(&client)?;
    let mut count = 0;
    if ids.is_empty() {
        let request = PurgeRequest {
            age_limit,
            num_limit: matches.get_one::<i64>("num-limit").copied().unwrap_or(-1),
            batch: matches.get_one::<i64>("batch").copied().unwrap_or(50),
            force,
        };
        loop {
            let answer = client.call::<Purge>(To::Any, &request).map_err(|e| JOB.error(&e))?;
            count += answer.count;
            if !force || answer.count == 0 {
                break;
            }
        }
    } else {
        for id in ids {
            let request = PurgeId { id: id.0, force: i64::from(force) };
            count += client.call::<PurgeId_>(To::Any, &request).map_err(|e| about(id, &e))?.count;
        }
    }
    if force {
        let left = inactive(&client)?;
        output::line(&format!("purged {count} inactive jobs, {left} remaining"));
    } else {
        output::line(&format!("use --force to purge {count} of {total} inactive jobs"));
    }
    Ok(0)
}

pub(super) fn last_command() -> Command {
    Command::new("last")
        .about("Print your last job, or a slice of your jobs, newest first")
        .arg(word("slice", "SLICE", "N jobs, or a slice as in Python").required(false))
}

/// A bare number asks for so many jobs.
fn slice(word: Option<&str>) -> String {
    match word {
        None => "[:1]".to_owned(),
        Some(text) if text.parse::<u64>().is_ok() => format!("[:{text}]"),
        Some(text) if text.starts_with('[') => text.to_owned(),
        Some(text) => format!("[{text}]"),
    }
}

pub(super) fn last(matches: &ArgMatches) -> Result<i32, Failure> {
    let request = HistoryRequest { slice: slice(text(matches, "slice")) };
    let answer = JOB.open()?.call::<History>(To::Any, &request).map_err(|e| JOB.error(&e))?;
    if answer.jobs.is_empty() {
        return Err(JOB.fail("job history is empty"));
    }
    for id in answer.jobs {
        output::line(&JobId(id).to_string());
    }
    Ok(0)
}

pub(super) fn stats_command() -> Command {
    Command::new("stats").about("Print counts of jobs by state and result as JSON")
}

pub(super) fn stats(_matches: &ArgMatches) -> Result<i32, Failure> {
    let answer = JOB
        .open()?
        .call::<JobStats>(To::Any, &AnyObject::default())
        .map_err(|error| JOB.error(&error))?;
    output::line(&Value::Object(answer.0).to_string());
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_nest_by_dots() {
        assert_eq!(
            notes(&["a.b=1", "a.c=x", "d=null"]),
            Ok(json!({"a": {"b": 1, "c": "x"}, "d": null}).as_object().expect("object").clone())
        );
        assert!(notes(&["a"]).is_err() && notes(&["a..b=1"]).is_err());
    }

    #[test]
    fn a_number_is_a_count() {
        assert_eq!(slice(None), "[:1]");
        assert_eq!(slice(Some("4")), "[:4]");
        assert_eq!(slice(Some("-1")), "[-1]");
        assert_eq!(slice(Some("[1:2]")), "[1:2]");
    }
}
