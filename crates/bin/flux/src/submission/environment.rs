//! The environment of a job: rules of `--env`, `--env-remove` and `--env-file`.
//!
//! The job starts with a copy of the submitter's environment; each rule then changes it, in the
//! order of the command line.

use serde_json::{Map, Value};

use super::{Context, SubmitError, pattern::Pattern};

/// Rule files may name rule files, so deep.
const MAX_DEPTH: usize = 16;

/// What the rules made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Environment {
    /// `attributes.system.environment`.
    pub(crate) variables: Map<String, Value>,
    /// Shell option `env-expand`: values with mustache tags, expanded where the job runs.
    pub(crate) expand: Map<String, Value>,
}

/// Applies rules to a copy of the environment.
///
/// # Errors
/// A rule file that cannot be read, an unknown `$VARIABLE`, a bad pattern.
pub(crate) fn build(context: &Context, rules: &[String]) -> Result<Environment, SubmitError> {
    let mut made = Environment::default();
    for (name, value) in &context.environment {
        made.variables.insert(name.clone(), Value::from(value.as_str()));
    }
    for rule in rules {
        apply(context, &mut made, rule, 0)?;
    }
    Ok(made)
}

fn apply(
    context: &Context,
    made: &mut Environment,
    rule: &str,
    depth: usize,
) -> Result<(), SubmitError> {
    if let Some(pattern) = rule.strip_prefix('-') {
        let pattern = Pattern::parse("env", pattern)?;
        made.variables.retain(|name, _| !pattern.matches(name));
        made.expand.retain(|name, _| !pattern.matches(name));
        return Ok(());
    }
    if let Some(file) = rule.strip_prefix('^') {
        return apply_file(context, made, file, depth);
    }
    if !rule.starts_with('/')
        && let Some((name, value)) = rule.split_once('=')
    {
        if value.contains("{{") {
            made.variables.shift_remove(name);
            made.expand.insert(name.to_owned(), Value::from(value));
        } else {
            let value = substitute(context, made, value)?;
            made.variables.insert(name.to_owned(), Value::from(value));
        }
        return Ok(());
    }
    let pattern = Pattern::parse("env", rule)?;
    for (name, value) in &context.environment {
        if pattern.matches(name) && !made.variables.contains_key(name) {
            made.variables.insert(name.clone(), Value::from(value.as_str()));
        }
    }
    Ok(())
}

fn apply_file(
    context: &Context,
    made: &mut Environment,
    file: &str,
    depth: usize,
) -> Result<(), SubmitError> {
    if depth >= MAX_DEPTH {
        return Err(SubmitError::RuleDepth(file.to_owned()));
    }
    let path = context.expand_home(file);
    let text =
        std::fs::read_to_string(&path).map_err(|error| SubmitError::file("env", &path, &error))?;
    for line in text.lines().map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            apply(context, made, line, depth + 1)?;
        }
    }
    Ok(())
}

/// Replaces `$NAME` and `${NAME}` by the value set so far, else the submitter's; `$$` is `$`.
fn substitute(context: &Context, made: &Environment, value: &str) -> Result<String, SubmitError> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = rest.strip_prefix('{');
        let body = braced.unwrap_or(rest);
        let starts = body.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let end = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, after) = body.split_at(end);
        let closed = if braced.is_some() { after.strip_prefix('}') } else { Some(after) };
        let (true, Some(after)) = (starts, closed) else {
            return Err(SubmitError::Placeholder(value.to_owned()));
        };
        let found = made.variables.get(name).and_then(Value::as_str);
        let found = found.or_else(|| context.variable(name));
        out.push_str(found.ok_or_else(|| SubmitError::Unset(name.to_owned()))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(rules: &[&str]) -> Result<Value, SubmitError> {
        let rules: Vec<String> = rules.iter().map(|r| (*r).to_owned()).collect();
        build(&Context::fixed(), &rules).map(|made| Value::Object(made.variables))
    }

    #[test]
    fn everything_is_copied_unless_removed() {
        let all = json!({"PATH": "/bin", "HOME": "/home/me", "OMP_NUM_THREADS": "4"});
        assert_eq!(env(&[]), Ok(all));
        assert_eq!(env(&["-*"]), Ok(json!({})));
        assert_eq!(env(&["-*", "PATH"]), Ok(json!({"PATH": "/bin"})));
        assert_eq!(env(&["-/^[HP]/"]), Ok(json!({"OMP_NUM_THREADS": "4"})));
        assert_eq!(env(&["-*", "/^OMP.*/"]), Ok(json!({"OMP_NUM_THREADS": "4"})));
        assert_eq!(env(&["-*", "NOSUCH"]), Ok(json!({})));
    }

    #[test]
    fn values_are_substituted_from_the_new_then_the_old_environment() {
        assert_eq!(env(&["-*", "PATH=/x:$PATH"]), Ok(json!({"PATH": "/x:/bin"})));
        assert_eq!(env(&["-*", "A=1", "B=${A}2$$"]), Ok(json!({"A": "1", "B": "12$"})));
        assert_eq!(env(&["A=$NOSUCH"]), Err(SubmitError::Unset("NOSUCH".into())));
        assert!(matches!(env(&["A=${B:-x}"]), Err(SubmitError::Placeholder(_))));
        assert_eq!(env(&["-*", "A=x=y"]), Ok(json!({"A": "x=y"})));
    }

    #[test]
    fn rule_files_hold_a_rule_per_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("rules");
        std::fs::write(&file, "# comment\n-*\n\nA=b c\n").expect("a file");
        let rule = format!("^{}", file.display());
        assert_eq!(env(&[&rule]), Ok(json!({"A": "b c"})));
        std::fs::write(&file, format!("{rule}\n")).expect("a file");
        assert!(matches!(env(&[&rule]), Err(SubmitError::RuleDepth(_))));
        let error = env(&["^/nope"]).expect_err("no such file");
        assert_eq!(error.to_string(), "--env: [Errno 2] No such file or directory: '/nope'");
    }

    #[test]
    fn mustache_values_are_left_to_the_shell() {
        let made = build(&Context::fixed(), &["-*".into(), "D={{tmpdir}}/x".into()]).expect("ok");
        assert!(made.variables.is_empty());
        assert_eq!(Value::Object(made.expand), json!({"D": "{{tmpdir}}/x"}));
    }
}
