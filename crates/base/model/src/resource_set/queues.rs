//! Queues that name their hosts (RFC 33): these hosts have the property `+QUEUE`, which the jobs of
//! the queue ask for.

use std::collections::BTreeMap;

use flux_id::Hostlist;
use serde_json::{Map, Value};

use super::ResourceSet;

/// The hosts of each queue that names any: a hostlist, or `all`.
pub type QueueHosts = BTreeMap<String, String>;

/// The property of the hosts of a queue.
#[must_use]
pub fn queue_property(queue: &str) -> String {
    format!("+{queue}")
}

/// Reads `queues.*.hosts`. What is no text is left to who checks types.
#[must_use]
pub fn queue_hosts(config: &Map<String, Value>) -> QueueHosts {
    let queues = config.get("queues").and_then(Value::as_object);
    let hosts = |(name, queue): (&String, &Value)| {
        Some((name.clone(), queue.get("hosts")?.as_str()?.to_string()))
    };
    queues.into_iter().flatten().filter_map(hosts).collect()
}

impl ResourceSet {
    /// Whether the queues name hosts that there are: in this set, or among `known`.
    ///
    /// # Errors
    /// The sentence to show.
    pub fn check_queues(&self, queues: &QueueHosts, known: &[String]) -> Result<(), String> {
        for (name, text) in queues.iter().filter(|(_, text)| *text != "all") {
            let wrong = |error: String| format!("queues.{name}.hosts: '{text}': {error}");
            let list: Hostlist = text.parse().map_err(|error| wrong(format!("{error}")))?;
            let unknown = list.iter().find(|host| !known.contains(host) && !self.has_host(host));
            if let Some(host) = unknown {
                return Err(wrong(format!("there is no host {host}")));
            }
            if list.is_empty() {
                return Err(wrong("it names no host".to_string()));
            }
        }
        Ok(())
    }

    fn has_host(&self, name: &str) -> bool {
        self.iter().any(|(_, host, _)| host == name)
    }

    /// The same set with the properties of queues that name hosts, and none of others.
    #[must_use]
    pub fn with_queues(self, queues: &QueueHosts) -> Self {
        let mut set = self.without_local_properties();
        for (name, text) in queues {
            let ranks = if text == "all" {
                set.ranks()
            } else {
                let named = text.parse::<Hostlist>().unwrap_or_default();
                let named: Vec<String> = named.iter().filter(|host| set.has_host(host)).collect();
                let named = Hostlist::from_hosts(&named).unwrap_or_default();
                set.ranks_of(&named).unwrap_or_default()
            };
            // The name of a queue that is no name of a property gives none.
            drop(set.set_property(&queue_property(name), &ranks));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use flux_id::Idset;
    use serde_json::json;

    use super::*;

    fn set() -> ResourceSet {
        let hosts: Hostlist = "n[0-3]".parse().unwrap();
        let cores = "0".parse().unwrap();
        ResourceSet::encode(&Idset::first_n(4), &cores, &Idset::new(), &hosts).unwrap()
    }

    fn queues(table: Value) -> QueueHosts {
        queue_hosts(json!({ "queues": table }).as_object().unwrap())
    }

    #[test]
    fn hosts_of_a_queue_have_its_property() {
        let named = queues(json!({"a": {"hosts": "n[0-1,7]"}, "b": {"hosts": "all"}, "c": {}}));
        let labelled = set().with_queues(&named);
        let ranks = |name: &str| labelled.properties().get(name).map(ToString::to_string);
        assert_eq!(ranks("+a").as_deref(), Some("0-1"));
        assert_eq!(ranks("+b").as_deref(), Some("0-3"));
        assert_eq!(ranks("+c"), None);
        // They go with the queue.
        let less = labelled.with_queues(&queues(json!({"b": {"hosts": "n3"}})));
        assert_eq!(less.properties().len(), 1);
        assert_eq!(less.properties()["+b"].to_string(), "3");
    }

    #[test]
    fn hosts_that_there_are_not_are_named() {
        let check = |hosts: &str| {
            set().check_queues(&queues(json!({"q": { "hosts": hosts }})), &["n7".to_string()])
        };
        for good in ["n0", "n[0-3]", "n7", "all"] {
            check(good).unwrap();
        }
        for (bad, why) in
            [("m1", "there is no host m1"), ("", "it names no host"), ("n[", "queues.q.hosts")]
        {
            let error = check(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
