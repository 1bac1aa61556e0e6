//! What the site adds to a jobspec: defaults of `[policy]` and `[queues]`, and the constraints of
//! a queue.

use std::collections::BTreeMap;

use flux_id::fsd;
use flux_model::resource_set::queue_property;
use serde_json::{Map, Value, json};

/// One queue, as far as ingest needs it.
#[derive(Debug, Clone, Default)]
struct Queue {
    parent: Option<String>,
    requires: Option<Vec<Value>>,
    defaults: Map<String, Value>,
}

/// Defaults by queue.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    global: Map<String, Value>,
    queues: BTreeMap<String, Queue>,
}

fn system_defaults(table: &Value) -> Map<String, Value> {
    table
        .pointer("/policy/jobspec/defaults/system")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

impl Policy {
    /// Reads `[policy]` and `[queues]`.
    ///
    /// # Errors
    /// The sentence to show.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, String> {
        let global = system_defaults(&json!({ "policy": config.get("policy") }));
        let mut queues = BTreeMap::new();
        if let Some(table) = config.get("queues") {
            let table = table.as_object().ok_or("queues: must be a table")?;
            for (name, queue) in table {
                let parent = queue.get("parent").and_then(Value::as_str).map(ToString::to_string);
                let requires = queue.get("requires").and_then(Value::as_array).cloned();
                let hosts = queue.get("hosts").map(|_| vec![json!(queue_property(name))]);
                let requires = requires.or(hosts);
                let defaults = system_defaults(queue);
                queues.insert(name.clone(), Queue { parent, requires, defaults });
            }
        }
        for (name, queue) in &queues {
            if let Some(parent) = &queue.parent
                && !queues.contains_key(parent)
            {
                return Err(format!("queue '{name}': parent queue '{parent}' is not configured"));
            }
        }
        if let Some(duration) = global.get("duration") {
            seconds(duration)?;
        }
        let default = global.get("queue").and_then(Value::as_str);
        if let Some(name) = default
            && !queues.contains_key(name)
        {
            return Err(format!("default queue '{name}' must be in [queues]"));
        }
        Ok(Self { global, queues })
    }

    /// Applies defaults and queue constraints to a jobspec; anything malformed is left for the
    /// validator to name.
    ///
    /// # Errors
    /// The sentence to show: no queue, or one that does not exist.
    pub fn apply(&self, jobspec: &mut Value) -> Result<(), String> {
        if self.global.is_empty() && self.queues.is_empty() {
            return Ok(());
        }
        let Some(system) = jobspec.pointer_mut("/attributes/system").and_then(Value::as_object_mut)
        else {
            return Ok(());
        };
        let name = match system.get("queue").or_else(|| self.global.get("queue")) {
            Some(Value::String(name)) => Some(name.clone()),
            Some(_) | None => None,
        };
        let mut layers = Vec::new();
        let mut requires = None;
        match &name {
            None if !self.queues.is_empty() => return Err("no queue specified".to_string()),
            None => {}
            Some(name) => {
                let queue = self
                    .queues
                    .get(name)
                    .ok_or_else(|| format!("Invalid queue '{name}' specified"))?;
                layers.push(&queue.defaults);
                requires = queue.requires.as_ref();
                if let Some(parent) = queue.parent.as_ref().and_then(|name| self.queues.get(name)) {
                    layers.push(&parent.defaults);
                    requires = parent.requires.as_ref();
                }
            }
        }
        layers.push(&self.global);
        // The nearest layer that names an attribute wins.
        for layer in layers {
            for (key, value) in layer {
                default(system, key, value)?;
            }
        }
        if let Some(properties) = requires.filter(|properties| !properties.is_empty()) {
            constrain(system, properties);
        }
        Ok(())
    }
}

fn seconds(value: &Value) -> Result<f64, String> {
    match value {
        Value::String(text) => fsd::parse(text).map_err(|_| format!("'{text}' is not a duration")),
        other => other.as_f64().ok_or_else(|| format!("{other} is not a duration")),
    }
}

fn default(system: &mut Map<String, Value>, key: &str, value: &Value) -> Result<(), String> {
    if key == "duration" {
        let unset = system.get(key).is_none_or(|given| given.as_f64() == Some(0.0));
        if unset {
            system.insert(key.to_string(), json!(seconds(value)?));
        }
    } else if !system.contains_key(key) {
        system.insert(key.to_string(), value.clone());
    }
    Ok(())
}

/// Adds the properties of a queue to what the job asks for.
fn constrain(system: &mut Map<String, Value>, properties: &[Value]) {
    let wanted = json!({ "properties": properties });
    match system.get_mut("constraints") {
        None => {
            system.insert("constraints".to_string(), wanted);
        }
        Some(Value::Object(given)) if given.contains_key("properties") => {
            if let Some(list) = given.get_mut("properties").and_then(Value::as_array_mut) {
                for property in properties {
                    if !list.contains(property) {
                        list.push(property.clone());
                    }
                }
            }
        }
        Some(given) => *given = json!({ "and": [given.take(), wanted] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let config = json!({
            "policy": {"jobspec": {"defaults": {"system": {"duration": "1h", "queue": "batch"}}}},
            "queues": {
                "batch": {"requires": ["cpu"]},
                "wide": {"hosts": "all"}, "night": {"parent": "wide"},
                "debug": {"requires": ["cpu"], "policy": {"jobspec": {"defaults": {"system": {"duration": 60}}}}},
            },
        });
        Policy::from_config(config.as_object().unwrap()).unwrap()
    }

    #[test]
    fn the_nearest_default_wins_and_the_queue_constrains() {
        let mut jobspec = json!({"attributes": {"system": {"duration": 0}}});
        policy().apply(&mut jobspec).unwrap();
        assert_eq!(
            jobspec["attributes"]["system"],
            json!({"duration": 3600.0, "queue": "batch", "constraints": {"properties": ["cpu"]}})
        );
        let mut jobspec = json!({"attributes": {"system": {"queue": "debug", "constraints": {"hostlist": ["a"]}}}});
        policy().apply(&mut jobspec).unwrap();
        assert_eq!(jobspec["attributes"]["system"]["duration"], json!(60.0));
        assert_eq!(
            jobspec["attributes"]["system"]["constraints"],
            json!({"and": [{"hostlist": ["a"]}, {"properties": ["cpu"]}]})
        );
    }

    #[test]
    fn a_queue_that_names_hosts_asks_for_its_own_property() {
        for queue in ["wide", "night"] {
            let mut jobspec = json!({"attributes": {"system": {"queue": queue}}});
            policy().apply(&mut jobspec).unwrap();
            let constraints = &jobspec["attributes"]["system"]["constraints"];
            assert_eq!(*constraints, json!({"properties": ["+wide"]}));
        }
    }

    #[test]
    fn a_queue_that_does_not_exist_is_named() {
        let mut jobspec = json!({"attributes": {"system": {"queue": "x"}}});
        assert_eq!(policy().apply(&mut jobspec).unwrap_err(), "Invalid queue 'x' specified");
        let config = json!({"policy": {"jobspec": {"defaults": {"system": {"queue": "y"}}}}});
        let error = Policy::from_config(config.as_object().unwrap()).unwrap_err();
        assert_eq!(error, "default queue 'y' must be in [queues]");
    }
}
