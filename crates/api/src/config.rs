//! The configuration: every key, what it may hold, and when a change takes effect.
//!
//! The files are TOML; what is read becomes one JSON object. [`check`] compares such an object
//! with the [catalogue](catalogue::KEYS) and names what does not fit by its path, so that who read
//! the file can add the line. The services read their tables themselves and check what a type
//! cannot say.

pub mod catalogue;

use std::collections::BTreeMap;

use flux_id::{fsd, size};
use serde_json::{Map, Value};

use self::catalogue::{KEYS, Key, Kind};

/// One step on the way to a value: a key of a table, or a place in an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key.
    Key(String),
    /// A place, from 0.
    Index(usize),
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// The configuration cannot be used.
    Error,
    /// It is used, and this part has no effect.
    Warning,
}

/// Something in a configuration that does not fit the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub path: Vec<Step>,
    /// How bad.
    pub grade: Grade,
    /// What, with the dotted path.
    pub text: String,
}

/// Tables whose readers refuse a key that they do not know.
const STRICT: [&str; 5] = ["access", "resource", "resource.config", "resource.verify", "sched"];

/// Depth at which checking ends: no key lies deeper.
const DEPTH_MAX: usize = 12;

/// A path as people write it: `queues.debug.requires[1]`.
#[must_use]
pub fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Everything in a configuration that does not fit the catalogue, in its order.
///
/// A value of a wrong type is an error. A key that nobody knows is a warning: it has no effect,
/// and may be meant for another version of the program, or be a table of the site's own. In a table
/// where a misspelt key would do harm it is an error.
#[must_use]
pub fn check(config: &Map<String, Value>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut path = Vec::new();
    table(config, "", &mut path, &mut findings);
    findings
}

/// `pattern` is the catalogue's name of the table, with `*` for names that the site chooses.
fn table(
    config: &Map<String, Value>,
    pattern: &str,
    path: &mut Vec<Step>,
    findings: &mut Vec<Finding>,
) {
    if path.len() >= DEPTH_MAX {
        return;
    }
    for (key, value) in config {
        path.push(Step::Key(key.clone()));
        match below(pattern, key) {
            Some(name) => entry(value, &name, path, findings),
            None => {
                let near = suggestion(pattern, key)
                    .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
                let what = if pattern.is_empty() && value.is_object() { "table" } else { "key" };
                let text = format!("{}: unknown {what}{near}", dotted(path));
                let grade = match STRICT.contains(&pattern) {
                    true => Grade::Error,
                    false => Grade::Warning,
                };
                findings.push(Finding { path: path.clone(), grade, text });
            }
        }
        path.pop();
    }
}

fn entry(value: &Value, name: &str, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
    match KEYS.iter().find(|key| key.name == name) {
        Some(key) => {
            if let Some(expected) = misfit(key.kind, value) {
                let text = format!("{}: expected {expected}, found {}", dotted(path), kind(value));
                findings.push(Finding { path: path.clone(), grade: Grade::Error, text });
            } else if key.inert {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                if text != key.default {
                    let text = format!("{}: has no effect here: {}", dotted(path), key.doc);
                    findings.push(Finding { path: path.clone(), grade: Grade::Warning, text });
                }
            } else if key.kind == Kind::Tables
                && let Value::Array(items) = value
            {
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Index(index));
                    match item {
                        Value::Object(map) => table(map, name, path, findings),
                        other => {
                            let found = kind(other);
                            let text = format!("{}: expected a table, found {found}", dotted(path));
                            let (path, grade) = (path.clone(), Grade::Error);
                            findings.push(Finding { path, grade, text });
                        }
                    }
                    path.pop();
                }
            } else if key.kind == Kind::Switches
                && let Value::Object(map) = value
            {
                table(map, name, path, findings);
            }
        }
        // A table: nothing but its keys is in the catalogue.
        None => match value {
            Value::Object(map) => table(map, name, path, findings),
            other => {
                let text = format!("{}: expected a table, found {}", dotted(path), kind(other));
                findings.push(Finding { path: path.clone(), grade: Grade::Error, text });
            }
        },
    }
}

/// The catalogue's name for a key of a table, if it has one.
fn below(pattern: &str, key: &str) -> Option<String> {
    let join = |key: &str| {
        if pattern.is_empty() { key.to_string() } else { format!("{pattern}.{key}") }
    };
    let known = |name: &str| {
        KEYS.iter().any(|entry| {
            entry
                .name
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    [join(key), join("*")].into_iter().find(|name| known(name))
}

/// The known key of the same table that looks most like this one.
fn suggestion(pattern: &str, key: &str) -> Option<String> {
    let names = KEYS.iter().filter_map(|entry| {
        let rest = match pattern {
            "" => entry.name,
            _ => entry.name.strip_prefix(pattern)?.strip_prefix('.')?,
        };
        rest.split('.').next().filter(|name| *name != "*")
    });
    let near = names.map(|name| (distance(name, key), name)).min()?;
    (near.0 <= 1 + key.chars().count() / 4).then(|| near.1.to_string())
}

/// Letters to change, add or drop to make one word of another. Long words are never alike.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 64;
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len() > LONGEST || other.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// What a value should be, when it is something else.
fn misfit(expected: Kind, value: &Value) -> Option<&'static str> {
    let texts =
        |value: &Value| value.as_array().is_some_and(|items| items.iter().all(Value::is_string));
    let duration = |value: &Value| match value {
        Value::String(text) => {
            matches!(text.as_str(), "none" | "inf" | "infinity") || fsd::parse(text).is_ok()
        }
        other => other.as_f64().is_some_and(|seconds| seconds >= 0.0),
    };
    let fits = match expected {
        Kind::Flag => value.is_boolean(),
        Kind::Integer => value.is_i64() || value.is_u64(),
        Kind::Number => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::Duration => duration(value),
        Kind::Texts => texts(value),
        Kind::TextOrTexts => value.is_string() || texts(value),
        Kind::Size => value.is_u64() || value.as_str().and_then(size::parse).is_some(),
        Kind::Signal => value.is_string() || value.is_u64(),
        Kind::Tables => value.is_array(),
        Kind::Switches => value.is_boolean() || value.is_object(),
        Kind::Any => true,
    };
    (!fits).then(|| expected.phrase())
}

/// What a value is, for people.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let short: String = text.chars().take(40).collect();
            format!("\"{short}\"")
        }
        Value::Array(_) => "an array".to_string(),
        Value::Object(_) => "a table".to_string(),
    }
}

/// A sentence about the configuration, with the place of what it is about behind it, if that can be
/// told. `places` has `FILE:LINE` by dotted path. A sentence names a key by its whole path, or by
/// the end of it and its table in brackets.
#[must_use]
pub fn with_place(places: &BTreeMap<String, String>, text: &str) -> String {
    let weight = |key: &str| {
        if key.contains('.') && has_word(text, key) {
            return key.len();
        }
        let tables = key.match_indices(['.', '[']).map(|(at, _)| at).chain([key.len()]);
        let table = tables.rev().map(|end| key.get(..end).unwrap_or_default());
        let Some(table) = table.into_iter().find(|table| text.contains(&format!("[{table}]")))
        else {
            return 0;
        };
        // The longest end of the path that is there; at least its table is.
        let ends = key.match_indices('.').map(|(at, _)| at + 1).filter(|at| *at > 0);
        let ends = ends
            .filter_map(|at| key.get(at..))
            .filter(|end| key.len() > table.len() && has_word(text, end));
        match ends.map(str::len).max() {
            Some(end) => table.len() + end,
            None if key == table => table.len(),
            None => 0,
        }
    };
    let best = places.iter().map(|(key, place)| (weight(key), place)).max();
    match best.filter(|(weight, place)| *weight > 0 && !text.contains(place.as_str())) {
        Some((_, place)) => format!("{text} ({place})"),
        None => text.to_string(),
    }
}

/// Whether a dotted path stands in a text, and is no part of another one.
fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let behind = text.get(at + word.len()..).unwrap_or_default();
        let mut behind = behind.chars();
        let ends = match behind.next() {
            // The end of a sentence, or a longer path.
            Some('.') => !behind.next().is_some_and(inside),
            Some(c) => !inside(c) && c != '[',
            None => true,
        };
        ends && !before.is_some_and(|c| inside(c) || c == '.')
    })
}

/// The key of the catalogue that describes a dotted key of a configuration.
#[must_use]
pub fn describe(key: &str) -> Option<&'static Key> {
    let mut pattern = String::new();
    for part in key.split('.').take(DEPTH_MAX) {
        pattern = below(&pattern, part)?;
    }
    KEYS.iter().find(|entry| entry.name == pattern)
}

/// Keys that differ from the configuration with which a broker was started, and that only a restart
/// puts into effect, in order.
#[must_use]
pub fn pending(at_start: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    differing(at_start, now, "", 0, &mut found);
    found.sort_unstable();
    found
}

fn differing(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    above: &str,
    depth: usize,
    found: &mut Vec<String>,
) {
    let none = Map::new();
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(gone) {
        let (a, b) = (old.get(key), new.get(key));
        if a == b {
            continue;
        }
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match describe(&name) {
            Some(entry) if !entry.live && !entry.inert => found.push(name),
            Some(_) => {}
            None if depth < DEPTH_MAX => {
                let table = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
                let (a, b) = (table(a), table(b));
                if a.is_some() || b.is_some() {
                    let (a, b) = (a.as_ref().unwrap_or(&none), b.as_ref().unwrap_or(&none));
                    differing(a, b, &name, depth + 1, found);
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waits_for_a_restart_is_named() {
        let at_start = json!({"tbon": {"keepalive_idle": 30, "torpid_max": "30s"},
            "access": {"allow-guest-user": true}, "bootstrap": {"default_port": 8050}});
        let now = json!({"tbon": {"keepalive_idle": 5, "torpid_max": "3s"},
            "access": {"allow-guest-user": false}, "cron": {"directory": "/x"},
            "nosuch": {"a": {"b": 1}}, "systemd": {"enable": true},
            "queues": {"debug": {"requires": ["x"]}}});
        let found = |a: &Value, b: &Value| pending(a.as_object().unwrap(), b.as_object().unwrap());
        let keys = ["bootstrap.default_port", "cron.directory", "tbon.keepalive_idle"];
        assert_eq!(found(&at_start, &now), keys);
        assert!(found(&at_start, &at_start).is_empty());
    }

    fn texts(config: &Value) -> Vec<String> {
        let findings = check(config.as_object().unwrap());
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn what_the_guide_shows_fits() {
        let config = json!({
            "access": {"allow-guest-user": true, "allow-root-owner": true},
            "exec": {"imp": "/usr/libexec/flux/flux-imp"},
            "bootstrap": {"curve_cert": "/c", "default_port": 8050, "default_bind": "tcp://eth0:%p",
                "default_connect": "tcp://%h:%p", "hosts": [{"host": "test[1-16]"}]},
            "tbon": {"keepalive_count": 12, "keepalive_interval": 10, "keepalive_idle": 30},
            "resource": {"path": "/etc/flux/system/R", "exclude": "fluke[3,108]"},
            "archive": {"dbpath": "/d", "period": "1m", "busytimeout": "50s"},
            "job-manager": {"plugins": [{"load": "perilog.so"}],
                "prolog": {"command": ["flux", "perilog-run", "prolog"]}},
            "queues": {"debug": {"requires": ["debug"], "policy": {"limits": {"duration": "1h"}}}},
            "policy": {"jobspec": {"defaults": {"system": {"duration": "1h", "queue": "debug"}}}},
        });
        assert_eq!(texts(&config), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_type_is_an_error_and_an_unknown_key_a_warning_with_a_suggestion() {
        let config = json!({
            "tbon": {"keepalive_cout": 12, "keepalive_idle": "soon"},
            "resurce": {},
            "exec": 1,
            "resource": {"noverfy": true},
            "queues": {"q": {"requires": "x", "zzz": 1}},
            "bootstrap": {"hosts": [{"host": "a"}, {"hots": "b"}, 3]},
        });
        let strict = check(config.as_object().unwrap());
        let strict = strict.iter().find(|finding| finding.text.contains("noverfy"));
        assert_eq!(strict.map(|finding| finding.grade), Some(Grade::Error));
        let texts = texts(&config);
        let expected = [
            "tbon.keepalive_cout: unknown key (did you mean keepalive_count?)",
            "tbon.keepalive_idle: expected an integer, found \"soon\"",
            "resurce: unknown table (did you mean resource?)",
            "exec: expected a table, found 1",
            "queues.q.requires: expected an array of strings, found \"x\"",
            "queues.q.zzz: unknown key",
            "resource.noverfy: unknown key (did you mean noverify?)",
            "bootstrap.hosts[1].hots: unknown key (did you mean host?)",
            "bootstrap.hosts[2]: expected a table, found 3",
        ];
        for line in expected {
            assert!(texts.iter().any(|text| text == line), "{line} not in {texts:#?}");
        }
        assert_eq!(texts.len(), expected.len());
    }

    #[test]
    fn a_sentence_about_a_key_gets_its_place() {
        let keys = [
            "resource",
            "resource.config",
            "resource.config[0]",
            "resource.config[1]",
            "resource.config[1].hosts",
            "resource.exclude",
            "resource.verify",
            "resource.verify.core",
            "queues.a",
            "queues.a.requires",
            "sched.policy",
        ];
        let places = keys.iter().map(|key| ((*key).to_string(), format!("<{key}>"))).collect();
        for (text, key) in [
            ("sched.policy=\"x\": expected 'fifo'", "sched.policy"),
            ("resource.exclude '9': rank 9 is not there", "resource.exclude"),
            ("error parsing [resource] configuration: verify.core: 'x'", "resource.verify.core"),
            ("error parsing [resource] configuration: expected a table", "resource"),
            ("error parsing [resource.config] array: config[1]: no", "resource.config[1]"),
            ("error parsing [resource.config] array: nothing", "resource.config"),
            ("error parsing [queues.a] config table: requires: no", "queues.a.requires"),
            ("error parsing [queues.a] config table: other", "queues.a"),
        ] {
            assert_eq!(with_place(&places, text), format!("{text} (<{key}>)"));
            assert_eq!(with_place(&places, &with_place(&places, text)).matches('<').count(), 1);
        }
        for text in ["resource update failure", "sched.policymaker", "[queues] x", ""] {
            assert_eq!(with_place(&places, text), text);
        }
    }

    #[test]
    fn a_key_without_effect_is_told_where_it_would_have_one() {
        let config = json!({"tbon": {"zmqdebug": 1, "child_rcvhwm": 0},
            "kvs": {"checkpoint-period": "30m"}, "archive": {"period": "1m"}});
        assert_eq!(
            texts(&config),
            [
                "tbon.zmqdebug: has no effect here: there is no ZeroMQ here.",
                "kvs.checkpoint-period: has no effect here: every commit is durable."
            ]
        );
        // Nothing is accepted and left aside without a word.
        assert!(!KEYS.iter().any(|key| key.doc.to_lowercase().contains("compatib")));
    }

    #[test]
    fn a_key_is_described() {
        assert!(describe("access.allow-guest-user").is_some_and(|key| key.live));
        assert!(describe("queues.debug.requires").is_some());
        assert!(describe("nothing.here").is_none());
    }

    #[test]
    fn the_catalogue_is_in_order_and_names_each_key_once() {
        let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        for pair in names.windows(2) {
            assert!(pair[0] < pair[1], "{} before {}", pair[0], pair[1]);
        }
    }
}
