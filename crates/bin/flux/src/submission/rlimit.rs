//! Resource limits passed to the job: rules of `--rlimit`.

use std::collections::BTreeMap;

use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value};

use super::{Context, SubmitError, pattern::Pattern};

/// Every limit by its name in a jobspec; `nofile` and `ofile` are the same one.
const LIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("ofile", Resource::Nofile),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Rules that apply before those of the user.
const DEFAULT_RULES: [&str; 3] = ["*", "-memlock", "-ofile"];

/// The soft limits of this process; -1 for none.
pub(crate) fn current() -> BTreeMap<&'static str, i64> {
    LIMITS
        .iter()
        .map(|(name, resource)| {
            let soft = getrlimit(*resource).current;
            (*name, soft.and_then(|v| i64::try_from(v).ok()).unwrap_or(-1))
        })
        .collect()
}

/// The shell option `rlimit`: what the rules leave.
///
/// # Errors
/// A rule that names no limit, or sets one to something that is no number.
pub(crate) fn build(
    context: &Context,
    rules: &[String],
) -> Result<Map<String, Value>, SubmitError> {
    let mut made: BTreeMap<&str, i64> = BTreeMap::new();
    for rule in DEFAULT_RULES.into_iter().chain(rules.iter().map(String::as_str)) {
        if let Some(pattern) = rule.strip_prefix('-') {
            let pattern = Pattern::parse("rlimit", &canonical(pattern))?;
            made.retain(|name, _| !pattern.matches(name));
        } else if let Some((name, value)) = rule.split_once('=') {
            let name = canonical(name);
            let known = LIMITS.iter().find(|(known, _)| *known == name);
            let (name, _) = known.ok_or(SubmitError::Rlimit(name))?;
            made.insert(name, limit(value).ok_or_else(|| SubmitError::RlimitValue(rule.into()))?);
        } else {
            let pattern = Pattern::parse("rlimit", &canonical(rule))?;
            let mut matched = LIMITS.iter().filter(|(name, _)| pattern.matches(name)).peekable();
            if matched.peek().is_none() {
                return Err(SubmitError::Rlimit(rule.to_owned()));
            }
            for (name, _) in matched {
                if let Some(value) = context.limits.get(name) {
                    made.insert(name, *value);
                }
            }
        }
    }
    Ok(made.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect())
}

/// Accepts `RLIMIT_CORE` for `core`. A regular expression stays as it is.
fn canonical(name: &str) -> String {
    if name.starts_with('/') {
        return name.to_owned();
    }
    let lower = name.to_lowercase();
    lower.strip_prefix("rlimit_").map_or(lower.clone(), str::to_owned)
}

fn limit(value: &str) -> Option<i64> {
    match value {
        "unlimited" | "infinity" | "inf" => Some(-1),
        number => number.parse().ok().filter(|n| *n >= -1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(rules: &[&str]) -> Result<Value, SubmitError> {
        let rules: Vec<String> = rules.iter().map(|r| (*r).to_owned()).collect();
        build(&Context::fixed(), &rules).map(Value::Object)
    }

    #[test]
    fn soft_limits_travel_except_memlock_and_ofile() {
        assert_eq!(limits(&[]), Ok(json!({"core": 0, "nofile": 1024, "stack": -1})));
        assert_eq!(limits(&["-*"]), Ok(json!({})));
        assert_eq!(limits(&["-*", "memlock"]), Ok(json!({"memlock": 65536})));
        assert_eq!(
            limits(&["-*", "core=16", "RLIMIT_CPU=inf"]),
            Ok(json!({"core": 16, "cpu": -1}))
        );
    }

    #[test]
    fn unknown_limits_are_named() {
        let error = limits(&["foo"]).expect_err("no such limit");
        assert_eq!(error.to_string(), "No corresponding rlimit matching \"foo\"");
        assert!(limits(&["foo=1"]).is_err());
        assert_eq!(limits(&["core=x"]), Err(SubmitError::RlimitValue("core=x".into())));
    }

    #[test]
    fn this_process_has_limits() {
        assert!(current().contains_key("nofile"));
    }
}
