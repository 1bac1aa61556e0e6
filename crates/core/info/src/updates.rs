//! Update events applied to R and jobspec.

use flux_model::eventlog::Event;
use serde_json::{Map, Value};

/// Name of the event that updates a key.
#[must_use]
pub fn event_for(key: &str) -> &'static str {
    if key == "R" { "resource-update" } else { "jobspec-update" }
}

/// Applies one event to the object of `key`; true when it changed.
pub fn apply(key: &str, object: &mut Value, event: &Event) -> bool {
    if event.name != event_for(key) {
        return false;
    }
    let Some(context) = &event.context else { return false };
    if key == "R" {
        let Some(expiration) = context.get("expiration") else { return false };
        if let Some(execution) = object.get_mut("execution").and_then(Value::as_object_mut) {
            execution.insert("expiration".to_string(), expiration.clone());
            return true;
        }
        return false;
    }
    for (path, value) in context {
        set(object, path, value.clone());
    }
    true
}

/// Sets a dotted path, making objects on the way.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(map) = at.as_object_mut() else { return };
        let entry = map.entry(name.to_string()).or_insert(Value::Null);
        if names.peek().is_none() {
            *entry = value;
            return;
        }
        at = entry;
    }
}

/// Applies every update in an eventlog.
pub fn apply_all(key: &str, object: &mut Value, eventlog: &str) {
    for line in eventlog.lines() {
        if let Ok(event) = Event::decode(line) {
            apply(key, object, &event);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_set_paths_and_the_expiration() {
        let mut jobspec = json!({"attributes": {"system": {"duration": 1}}});
        let log = concat!(
            "{\"timestamp\":1.0,\"name\":\"jobspec-update\",\"context\":{\"attributes.system.duration\":5,\"attributes.system.job.name\":\"x\"}}\n",
            "{\"timestamp\":1.0,\"name\":\"resource-update\",\"context\":{\"expiration\":9.0}}\n",
        );
        apply_all("jobspec", &mut jobspec, log);
        assert_eq!(
            jobspec,
            json!({"attributes": {"system": {"duration": 5, "job": {"name": "x"}}}})
        );
        let mut r = json!({"execution": {"expiration": 0.0}});
        apply_all("R", &mut r, log);
        assert_eq!(r["execution"]["expiration"], json!(9.0));
    }
}
