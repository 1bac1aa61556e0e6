//! A resource set from the configuration array `[[resource.config]]`.

use std::collections::BTreeMap;

use flux_id::{Hostlist, Idset};
use serde_json::{Map, Value};

use super::{MAX_RANKS, ResourceSet, ResourceSetError};

/// Why the array is no description of resources.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResourceConfigError {
    /// An entry of the array, or the array, has a fault; the text says which.
    #[error("error parsing [resource.config] array: {0}")]
    Entry(String),
    /// Hosts that have neither cores nor gpus.
    #[error("error parsing [resource.config] array: resource.config: {0} assigned no resources")]
    NoResources(String),
    /// The resources cannot be put together.
    #[error("resource.config: {0}")]
    Set(#[from] ResourceSetError),
}

/// What the entries give one host.
#[derive(Default)]
struct Host {
    cores: Idset,
    gpus: Idset,
    types: BTreeMap<String, Idset>,
}

impl ResourceSet {
    /// Reads an array of tables with the keys `hosts` (required), `cores`, `gpus`, `properties`,
    /// and `types`, a table of idsets. Hosts get ranks from 0 in the order in which they are first
    /// named; a later table replaces the cores, gpus and types that it names and adds its
    /// properties.
    ///
    /// # Errors
    /// The first fault of an entry, or hosts without resources.
    pub fn from_config(array: &Value) -> Result<Self, ResourceConfigError> {
        let fault = |text: String| ResourceConfigError::Entry(text);
        let entries = array.as_array().ok_or_else(|| fault("expected an array".into()))?;
        let mut ranks: BTreeMap<String, u32> = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        let mut hosts: Vec<Host> = Vec::new();
        let mut properties: BTreeMap<String, Idset> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let fault = |text: String| ResourceConfigError::Entry(format!("config[{at}]: {text}"));
            let entry = Entry::read(entry).map_err(fault)?;
            for name in entry.hosts.iter() {
                let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
                let rank = *ranks.entry(name.clone()).or_insert(next);
                if rank == next {
                    if names.len() >= MAX_RANKS {
                        return Err(fault(format!("more than {MAX_RANKS} hosts")));
                    }
                    names.push(name);
                    hosts.push(Host::default());
                }
                let host = &mut hosts[rank as usize];
                for (value, part) in
                    [(&entry.cores, &mut host.cores), (&entry.gpus, &mut host.gpus)]
                {
                    if let Some(value) = value {
                        part.clone_from(value);
                    }
                }
                for (kind, ids) in &entry.types {
                    host.types.insert(kind.clone(), ids.clone());
                }
                for property in &entry.properties {
                    properties.entry((*property).to_owned()).or_default().insert(rank);
                }
            }
        }
        if names.is_empty() {
            return Err(fault("no hosts configured".into()));
        }
        build(&names, &hosts, &properties)
    }
}

fn build(
    names: &[String],
    hosts: &[Host],
    properties: &BTreeMap<String, Idset>,
) -> Result<ResourceSet, ResourceConfigError> {
    // Few kinds of nodes are common, so group by what they have.
    let mut kinds: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for (rank, host) in (0u32..).zip(hosts) {
        let types: Vec<_> = host.types.iter().map(|(kind, ids)| (kind, ids.to_string())).collect();
        let kind = (host.cores.to_string(), host.gpus.to_string(), types);
        kinds.entry(kind).or_default().push(rank);
    }
    let list = |ranks: &[u32]| {
        Hostlist::from_hosts(ranks.iter().map(|rank| names[*rank as usize].as_str()))
            .map_err(|error| ResourceConfigError::Entry(error.to_string()))
    };
    let mut set = ResourceSet::new();
    for ranks in kinds.values() {
        let host = &hosts[ranks[0] as usize];
        let nodes = list(ranks)?;
        if host.cores.is_empty() && host.gpus.is_empty() {
            return Err(ResourceConfigError::NoResources(nodes.to_string()));
        }
        let ranks: Idset = ranks.iter().copied().collect();
        let mut alike = ResourceSet::encode(&ranks, &host.cores, &host.gpus, &nodes)?;
        for (kind, ids) in &host.types {
            let wrong = |text: String| ResourceConfigError::Entry(format!("types: {text}"));
            alike.set_type(kind, ids, &ranks).map_err(wrong)?;
        }
        set = set.union(&alike)?;
    }
    for (name, ranks) in properties {
        set.set_property(name, ranks)?;
    }
    Ok(set)
}

/// One table.
struct Entry<'a> {
    hosts: Hostlist,
    cores: Option<Idset>,
    gpus: Option<Idset>,
    types: BTreeMap<String, Idset>,
    properties: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    fn read(value: &'a Value) -> Result<Self, String> {
        let table = value.as_object().ok_or("expected a table")?;
        for key in table.keys() {
            if !["hosts", "cores", "gpus", "properties", "types"].contains(&key.as_str()) {
                return Err(format!("unknown key '{key}'"));
            }
        }
        let hosts = text(table, "hosts")?.ok_or("no hosts configured")?;
        let list: Hostlist = hosts.parse().map_err(|_| format!("invalid hostlist '{hosts}'"))?;
        if list.is_empty() {
            return Err(format!("invalid hostlist '{hosts}'"));
        }
        Ok(Entry {
            hosts: list,
            cores: idset(table, "cores")?,
            gpus: idset(table, "gpus")?,
            types: types(table)?,
            properties: properties(table)?,
        })
    }
}

fn text<'a>(table: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key}: expected a string")),
    }
}

fn idset(table: &Map<String, Value>, key: &str) -> Result<Option<Idset>, String> {
    let text = text(table, key)?;
    text.map(|t| t.parse().map_err(|_| format!("invalid idset {key}='{t}'"))).transpose()
}

fn types(table: &Map<String, Value>) -> Result<BTreeMap<String, Idset>, String> {
    let Some(value) = table.get("types") else { return Ok(BTreeMap::new()) };
    let table = value.as_object().ok_or("types: expected a table of idsets")?;
    let one = |kind: &String| {
        let ids = idset(table, kind).map_err(|text| format!("types: {text}"))?.unwrap_or_default();
        super::types::check_type(kind).map_err(|problem| format!("types.{kind}: {problem}"))?;
        Ok((kind.clone(), ids))
    };
    table.keys().map(one).collect()
}

fn properties(table: &Map<String, Value>) -> Result<Vec<&str>, String> {
    let Some(value) = table.get("properties") else {
        return Ok(Vec::new());
    };
    let list = value.as_array().ok_or("properties: expected an array of strings")?;
    list.iter()
        .map(|value| {
            let name = value.as_str().ok_or("properties: expected an array of strings")?;
            match super::properties::check_name(name) {
                Ok(()) => Ok(name),
                Err(_) => Err(format!("invalid property \"{name}\"")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_entries_update_hosts() {
        let set = ResourceSet::from_config(&json!([
            {"hosts": "n[0-3]", "cores": "0-7"},
            {"hosts": "n[2-3]", "gpus": "0", "properties": ["gpu"]},
            {"hosts": "login", "cores": "0"},
            {"hosts": "n3", "cores": "0-1"},
        ]))
        .expect("valid");
        assert_eq!(
            set.summary(),
            "rank[0-1]/core[0-7] rank2/core[0-7],gpu0 rank3/core[0-1],gpu0 rank4/core0"
        );
        assert_eq!(set.nodelist().to_string(), "n[0-3],login");
        assert_eq!(set.properties()["gpu"].to_string(), "2-3");
    }

    #[test]
    fn types_are_given_and_taken_host_by_host() {
        let set = ResourceSet::from_config(&json!([
            {"hosts": "n[0-2]", "cores": "0", "types": {"ssd": "0-1", "memory": "0-63"}},
            {"hosts": "n2", "types": {"ssd": ""}},
        ]))
        .expect("valid");
        assert_eq!(set.summary(), "rank[0-1]/core0,memory[0-63],ssd[0-1] rank2/core0,memory[0-63]");
        assert_eq!(set.types(), BTreeMap::from([("memory", 192), ("ssd", 4)]));
    }

    #[test]
    fn faults_are_told_with_their_entry() {
        for (array, text) in [
            (json!([]), "error parsing [resource.config] array: no hosts configured"),
            (
                json!([{"hosts": "n["}]),
                "error parsing [resource.config] array: config[0]: invalid hostlist 'n['",
            ),
            (
                json!([{"hosts": "n0", "cores": "x"}]),
                "error parsing [resource.config] array: config[0]: invalid idset cores='x'",
            ),
            (
                json!([{"hosts": "n0", "cores": "0", "properties": ["a!"]}]),
                "error parsing [resource.config] array: config[0]: invalid property \"a!\"",
            ),
            (
                json!([{"hosts": "n0", "core": "0"}]),
                "error parsing [resource.config] array: config[0]: unknown key 'core'",
            ),
            (
                json!([{"hosts": "n0", "cores": "0", "types": {"ssd": "x"}}]),
                "error parsing [resource.config] array: config[0]: types: invalid idset ssd='x'",
            ),
            (
                json!([{"hosts": "n[0-1]"}, {"hosts": "n0", "cores": "0"}]),
                "error parsing [resource.config] array: resource.config: n1 assigned no resources",
            ),
        ] {
            let error = ResourceSet::from_config(&array).expect_err("a fault");
            assert_eq!(error.to_string(), text);
        }
    }
}
