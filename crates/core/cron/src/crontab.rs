//! Lines of crontab(5) as entries.

use flux_api::cron::CronCreate;
use serde_json::{Map, Value};

/// Names of the five fields, in their order.
const FIELDS: [&str; 5] = ["minute", "hour", "mday", "month", "weekday"];

/// What a short form stands for.
fn short(word: &str) -> Option<&'static str> {
    Some(match word {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => return None,
    })
}

/// The entry of one line; `None` for an empty line or a comment.
///
/// # Errors
/// The sentence to show for a line without all fields.
pub fn parse_line(line: &str) -> Result<Option<CronCreate>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut rest = line;
    let mut word = || {
        let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = tail.trim_start();
        word
    };
    let first = word();
    let mut times: Vec<&str> = match short(first) {
        Some(long) => long.split(' ').collect(),
        None if first.starts_with('@') => return Err(format!("unknown time '{first}'")),
        None => vec![first],
    };
    while times.len() < FIELDS.len() {
        times.push(word());
    }
    if rest.is_empty() {
        return Err(format!("'{line}' is not `minute hour day month weekday command`"));
    }
    let mut args = Map::new();
    args.insert("second".into(), "0".into());
    for (name, time) in FIELDS.iter().zip(times) {
        args.insert((*name).into(), Value::from(time));
    }
    Ok(Some(CronCreate {
        kind: "datetime".into(),
        name: String::new(),
        command: rest.to_string(),
        args,
        environ: None,
        cwd: None,
        repeat: 0,
        rank: 0,
        history: None,
        stop_on_failure: 0,
        timeout: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_crontab_says() {
        let entry = parse_line("30 2-4 * jan,6 mon-fri  flux account update 'a  b'").unwrap();
        let entry = entry.unwrap();
        assert_eq!(entry.command, "flux account update 'a  b'");
        let field = |name: &str| entry.args[name].as_str().unwrap().to_string();
        let fields = ["second", "minute", "hour", "mday", "month", "weekday"].map(field);
        assert_eq!(fields, ["0", "30", "2-4", "*", "jan,6", "mon-fri"]);
        assert_eq!(parse_line("@daily true").unwrap().unwrap().args["hour"], "0");
        assert!(parse_line("  # x").unwrap().is_none() && parse_line("").unwrap().is_none());
        assert!(parse_line("1 2 3 4 5").is_err() && parse_line("@never x").is_err());
    }
}
