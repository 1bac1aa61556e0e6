//! Free-form parts of a jobspec: `--setattr`, `--setopt`, `--dependency`.

use serde_json::{Map, Value, json};

use super::SubmitError;

/// Sets `path` (dots nest) in an object; a value on the way that is no object is replaced.
///
/// # Errors
/// A path with an empty part.
pub(crate) fn set(
    object: &mut Map<String, Value>,
    path: &str,
    value: Value,
) -> Result<(), SubmitError> {
    if path.split('.').any(str::is_empty) {
        return Err(SubmitError::Key(path.to_owned()));
    }
    let mut at = object;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            return Ok(());
        }
        let slot = at.entry(part).or_insert_with(|| json!({}));
        if !slot.is_object() {
            *slot = json!({});
        }
        let Value::Object(next) = slot else {
            return Err(SubmitError::Key(path.to_owned()));
        };
        at = next;
    }
    Ok(())
}

/// Reads `KEY[=VALUE]`: the value is JSON if it can be, else text, and 1 when absent.
pub(crate) fn key_value(text: &str) -> (&str, Value) {
    match text.split_once('=') {
        Some((key, value)) => (key, json_or_text(value)),
        None => (text, Value::from(1)),
    }
}

/// A value that is JSON if it can be, else text.
pub(crate) fn json_or_text(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))
}

/// Applies one `--setattr` to the object `attributes` of a jobspec.
///
/// A key that begins with neither `system.`, `user.` nor `.` is one of `system`; `^KEY=FILE` takes
/// the value from a file of JSON.
///
/// # Errors
/// An empty key, or a file that is missing or not JSON.
pub(crate) fn set_attribute(
    attributes: &mut Map<String, Value>,
    rule: &str,
) -> Result<(), SubmitError> {
    let (key, value) = match rule.strip_prefix('^') {
        None => key_value(rule),
        Some(rest) => {
            let (key, file) = rest.split_once('=').ok_or(SubmitError::NoName("setattr=^KEY"))?;
            let text = std::fs::read_to_string(file)
                .map_err(|error| SubmitError::file("setattr", file, &error))?;
            let value = serde_json::from_str(&text)
                .map_err(|error| SubmitError::option("setattr", rule, error))?;
            (key, value)
        }
    };
    if let Some(rest) = key.strip_prefix('.') {
        return set(attributes, rest, value);
    }
    if key.starts_with("system.") || key.starts_with("user.") {
        return set(attributes, key, value);
    }
    set(attributes, &format!("system.{key}"), value)
}

/// Reads a dependency `SCHEME:VALUE[?KEY=VAL[&KEY=VAL..]]` (RFC 26).
///
/// # Errors
/// [`SubmitError::Dependency`].
pub(crate) fn dependency(uri: &str) -> Result<Value, SubmitError> {
    let wrong = || SubmitError::Dependency(uri.to_owned());
    let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
    let (value, query) = rest.split_once('?').unwrap_or((rest, ""));
    // What it waits for is the name of the job.
    if scheme.is_empty() || (value.is_empty() && scheme != "singleton") {
        return Err(wrong());
    }
    let mut object = Map::new();
    object.insert("scheme".into(), Value::from(scheme));
    object.insert("value".into(), Value::from(value));
    for pair in query.split(['&', ';']).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        if key.is_empty() || key == "scheme" || key == "value" {
            return Err(wrong());
        }
        object.insert(key.to_owned(), json_or_text(value));
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(rule: &str) -> Value {
        let mut attributes = Map::new();
        set_attribute(&mut attributes, rule).expect("a valid rule");
        Value::Object(attributes)
    }

    #[test]
    fn attributes_nest_by_dots_and_default_to_system() {
        assert_eq!(attribute("foo.bar=1"), json!({"system": {"foo": {"bar": 1}}}));
        assert_eq!(attribute("user.x=[1,2]"), json!({"user": {"x": [1, 2]}}));
        assert_eq!(attribute(".other.x=text"), json!({"other": {"x": "text"}}));
        assert_eq!(attribute("flag"), json!({"system": {"flag": 1}}));
        assert_eq!(attribute("system.x="), json!({"system": {"x": ""}}));
        assert!(set_attribute(&mut Map::new(), "a..b=1").is_err());
    }

    #[test]
    fn attributes_come_from_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.json");
        std::fs::write(&file, "{\"k\": [true]}").expect("a file");
        let value = attribute(&format!("^user.data={}", file.display()));
        assert_eq!(value, json!({"user": {"data": {"k": [true]}}}));
        assert!(set_attribute(&mut Map::new(), "^a=/nope").is_err());
    }

    #[test]
    fn dependencies_follow_rfc_26() {
        assert_eq!(
            dependency("afterany:ƒ2oLkTLb"),
            Ok(json!({"scheme": "afterany", "value": "ƒ2oLkTLb"}))
        );
        assert_eq!(
            dependency("string:foo?type=out&scope=user"),
            Ok(json!({"scheme": "string", "value": "foo", "type": "out", "scope": "user"}))
        );
        for singleton in ["singleton", "singleton:"] {
            assert_eq!(dependency(singleton), Ok(json!({"scheme": "singleton", "value": ""})));
        }
        for wrong in ["foo", ":x", "a:", "a:b?c", "a:b?scheme=x"] {
            assert!(dependency(wrong).is_err(), "{wrong}");
        }
    }
}
