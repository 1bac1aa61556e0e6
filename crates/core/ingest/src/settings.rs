//! `[ingest]`, as far as it says something that is not there, and the size of batches.

use serde_json::{Map, Value};

use crate::BATCH_MAX;

/// A step of ingest, and what is built into it.
const STEPS: [(&str, [&str; 2], &str); 2] = [
    (
        "frobnicator",
        ["defaults", "constraints"],
        "what [policy] and [queues] say is always applied",
    ),
    ("validator", ["jobspec", "schema"], "every jobspec is validated"),
];

/// Refuses what would have no effect: steps that cannot be turned off, and plugins and arguments that
/// there are none of.
pub(crate) fn refuse(config: &Map<String, Value>) -> Result<(), String> {
    let Some(ingest) = config.get("ingest") else { return Ok(()) };
    for (step, built_in, always) in STEPS {
        let Some(table) = ingest.get(step) else { continue };
        if table.get("disable") == Some(&Value::Bool(true)) {
            return Err(format!("ingest.{step}.disable: not possible: {always}"));
        }
        let plugins = table.get("plugins").and_then(Value::as_array).into_iter().flatten();
        for plugin in plugins.filter_map(Value::as_str) {
            if !built_in.contains(&plugin) {
                let known = built_in.join(" and ");
                return Err(format!("ingest.{step}.plugins: {plugin} is not there, only {known}"));
            }
        }
        // Those of the validator are read with the versions that it takes.
        let args = table.get("args").and_then(Value::as_array);
        if step == "frobnicator" && args.is_some_and(|args| !args.is_empty()) {
            return Err(format!("ingest.{step}.args: no plugin takes arguments"));
        }
        if table.get("require-instance").is_some() {
            return Err(format!("ingest.{step}.require-instance: there is no such validator"));
        }
    }
    Ok(())
}

/// Most jobs that are handed over at once (`ingest.batch-count`).
pub(crate) fn batch(config: &Map<String, Value>) -> Result<usize, String> {
    let given = config.get("ingest").and_then(|ingest| ingest.get("batch-count"));
    match given.map(|value| value.as_u64().and_then(|count| usize::try_from(count).ok())) {
        None | Some(Some(0)) => Ok(BATCH_MAX),
        Some(Some(count)) => Ok(count.min(BATCH_MAX)),
        Some(None) => Err("ingest.batch-count: must be a number of jobs".to_string()),
    }
}
