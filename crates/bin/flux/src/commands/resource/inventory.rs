//! The ranks of the instance by state, and which of them are asked for.

use clap::ArgMatches;
use flux_api::body::AnyObject;
use flux_api::lifecycle::ConfigGet;
use flux_client::{Client, To};
use flux_id::{Hostlist, Idset};
use flux_model::resource_set::{ResourceSet, queue_property};
use serde_json::Value;

use super::PROGRAM;
use crate::{commands::program::text, failure::Failure};

/// Reads R.
pub(super) fn resource_set(value: &Value) -> Result<ResourceSet, Failure> {
    ResourceSet::from_value(value).map_err(|error| PROGRAM.fail(format!("R: {error}")))
}

/// The configured queues and what each requires.
#[derive(Debug, Default, Clone)]
pub(crate) struct Queues(Vec<(String, Vec<String>)>);

impl Queues {
    /// Reads the configuration object.
    pub(crate) fn of(config: &Value) -> Queues {
        let queues = config["queues"].as_object().into_iter().flatten();
        let requires = |name: &str, queue: &Value| -> Vec<String> {
            // A virtual queue has the nodes of its parent.
            let parent = queue["parent"].as_str().unwrap_or(name);
            let queue = if parent == name { queue } else { &config["queues"][parent] };
            if queue["hosts"].is_string() {
                return vec![queue_property(parent)];
            }
            let list = queue["requires"].as_array().into_iter().flatten();
            list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        Queues(queues.map(|(name, queue)| (name.clone(), requires(name, queue))).collect())
    }

    /// Asks the instance.
    pub(super) fn ask(client: &Client) -> Result<Queues, Failure> {
        let config = client.call::<ConfigGet>(To::Any, &AnyObject::default());
        Ok(Queues::of(&Value::Object(config.map_err(|error| PROGRAM.error(&error))?)))
    }

    /// Queues that a node with these properties belongs to.
    pub(super) fn with(&self, properties: &[&str]) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(_, requires)| requires.iter().all(|name| properties.contains(&&**name)))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether a property is the name of a queue.
    pub(super) fn is_queue(&self, name: &str) -> bool {
        let name = name.strip_prefix('+').unwrap_or(name);
        self.0.iter().any(|(queue, _)| queue == name)
    }

    /// Ranks of these queues.
    pub(crate) fn ranks(&self, names: &str, all: &ResourceSet) -> Result<Idset, Failure> {
        let mut ranks = Idset::new();
        for name in names.split(',') {
            let Some((_, requires)) = self.0.iter().find(|(queue, _)| queue == name) else {
                return Err(PROGRAM.fail(format!("queue {name} does not exist")));
            };
            if requires.is_empty() {
                ranks.insert_all(&all.ranks());
            } else {
                ranks.insert_all(&all.ranks_with(requires.iter().map(String::as_str)));
            }
        }
        Ok(ranks)
    }
}

/// The ranks that `--include` and `--queue` leave.
pub(super) fn included(
    matches: &ArgMatches,
    all: &ResourceSet,
    queues: impl FnOnce() -> Result<Queues, Failure>,
) -> Result<Idset, Failure> {
    let mut ranks = all.ranks();
    if let Some(targets) = text(matches, "include") {
        ranks = ranks.intersection(&targeted(targets, all)?);
    }
    if let Some(names) = matches.try_get_one::<String>("queue").ok().flatten() {
        ranks = ranks.intersection(&queues()?.ranks(names, all)?);
    }
    Ok(ranks)
}

/// Ranks, or hosts by name.
pub(super) fn targeted(targets: &str, all: &ResourceSet) -> Result<Idset, Failure> {
    if let Ok(ranks) = targets.parse::<Idset>() {
        return Ok(ranks);
    }
    let bad = || PROGRAM.fail(format!("--include: invalid targets: {targets}"));
    let hosts: Hostlist = targets.parse().map_err(|_| bad())?;
    all.ranks_of(&hosts).map_err(|_| bad())
}

/// Hosts of ranks, as compact text.
pub(super) fn hosts(all: &ResourceSet, ranks: &Idset) -> String {
    all.hosts_of(ranks).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_in_the_queues_whose_needs_they_meet() {
        let queues = Queues::of(&json!({"queues": {
            "batch": {"requires": ["batch"]}, "debug": {"requires": ["debug"]}, "all": {}}}));
        assert_eq!(queues.with(&["batch", "x"]), ["batch", "all"]);
        assert_eq!(queues.with(&[]), ["all"]);
        assert!(queues.is_queue("debug") && !queues.is_queue("x"));
    }
}
