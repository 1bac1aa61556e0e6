//! Merging annotations (RFC 27).

use serde_json::Value;

use crate::eventlog::Context;

// JSON from outside nests at most 128 deep; this bounds documents built in memory too.
const MAX_DEPTH: usize = 128;

/// Merges `patch` into `annotations`: objects key by key, other values replace, null removes.
pub fn merge_annotations(annotations: &mut Context, patch: &Context) {
    merge(annotations, patch, 0);
}

fn merge(into: &mut Context, patch: &Context, depth: usize) {
    for (key, value) in patch {
        match value {
            // Removal keeps the order of the other keys.
            Value::Null => drop(into.shift_remove(key)),
            Value::Object(patch) if depth < MAX_DEPTH => {
                let slot =
                    into.entry(key.as_str()).or_insert_with(|| Value::Object(Context::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Context::new());
                }
                let emptied = slot.as_object_mut().is_some_and(|object| {
                    merge(object, patch, depth + 1);
                    object.is_empty()
                });
                if emptied {
                    into.shift_remove(key);
                }
            }
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(mut into: Value, patch: Value) -> Value {
        merge_annotations(into.as_object_mut().unwrap(), patch.as_object().unwrap());
        into
    }

    #[test]
    fn objects_merge_and_null_removes() {
        assert_eq!(
            merged(json!({"sched": {"a": 1, "b": 2}}), json!({"sched": {"a": null, "c": 3}})),
            json!({"sched": {"b": 2, "c": 3}})
        );
        assert_eq!(merged(json!({"sched": {"a": 1}}), json!({"sched": null})), json!({}));
        assert_eq!(merged(json!({"sched": {"a": 1}}), json!({"sched": {"a": null}})), json!({}));
        assert_eq!(
            merged(json!({"user": 1}), json!({"user": {"a": [1]}})),
            json!({"user": {"a": [1]}})
        );
        assert_eq!(merged(json!({}), json!({"user": {"a": {"b": null}}})), json!({}));
    }
}
