//! `[fake-resources]`: an inventory of nodes that are not there, to try schedulers and tables with.
//! Jobs on them have to be mock jobs (`attributes.system.exec.test`).

use flux_id::{Hostlist, Idset};
use flux_model::resource_set::ResourceSet;
use flux_resource::ResourceSettings;
use serde_json::{Map, Value};

/// What the table makes of the resource service; `None` without it.
///
/// # Errors
/// A table without `nnodes`, or with numbers that make no nodes.
pub(super) fn resources(config: &Map<String, Value>) -> Result<Option<ResourceSettings>, String> {
    let Some(table) = config.get("fake-resources") else { return Ok(None) };
    let count = |key: &str, default: Option<u32>| match table.get(key).map(Value::as_u64) {
        None => default.ok_or_else(|| format!("[fake-resources] table requires the '{key}' key")),
        Some(found) => found
            .and_then(|count| u32::try_from(count).ok())
            .ok_or_else(|| format!("fake-resources.{key}: expected a number that is not negative")),
    };
    let nnodes = count("nnodes", None)?;
    let (cores, gpus) = (count("cores-per-node", Some(64))?, count("gpus-per-node", Some(0))?);
    let prefix = table.get("host-prefix").and_then(Value::as_str).unwrap_or("fake");
    let hosts: Vec<String> = (0..nnodes).map(|rank| format!("{prefix}{rank}")).collect();
    let wrong = |text: String| format!("fake-resources: {text}");
    let list = Hostlist::from_hosts(&hosts).map_err(|error| wrong(error.to_string()))?;
    let ids = Idset::first_n;
    let r = ResourceSet::encode(&ids(nnodes), &ids(cores), &ids(gpus), &list)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(Some(ResourceSettings {
        hosts,
        config_r: Some(r.to_value()),
        monitor_force_up: true,
        noverify: true,
        ..ResourceSettings::default()
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(table: Value) -> Result<Option<ResourceSettings>, String> {
        resources(json!({"fake-resources": table}).as_object().unwrap())
    }

    #[test]
    fn as_many_nodes_as_wanted() {
        assert!(resources(&Map::new()).unwrap().is_none());
        let found = read(json!({"nnodes": 3, "cores-per-node": 2, "gpus-per-node": 1})).unwrap();
        let found = found.unwrap();
        assert_eq!(found.hosts, ["fake0", "fake1", "fake2"]);
        let r = ResourceSet::from_value(&found.config_r.unwrap()).unwrap();
        assert_eq!(r.summary(), "rank[0-2]/core[0-1],gpu0");
        let error = |table| read(table).unwrap_err();
        assert_eq!(error(json!({})), "[fake-resources] table requires the 'nnodes' key");
        assert!(error(json!({"nnodes": -1})).starts_with("fake-resources.nnodes: expected"));
        assert!(error(json!({"nnodes": 1, "cores-per-node": 0})).contains("neither cores"));
    }
}
