//! The hosts of an instance by rank, as `[bootstrap]` names them.
//!
//! What is needed while brokers run: who has which rank, and whether a new list can take the place
//! of the one that is in use. Endpoints and keys are a matter of the bootstrap.

use flux_id::{Hostlist, Idset};
use serde_json::{Map, Value};

/// Most hosts of an instance.
const MAX: usize = 1 << 20;

/// Hosts by rank.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Name of each rank's host.
    pub names: Vec<String>,
    /// The parent of each rank, where one is named.
    pub parents: Vec<Option<u32>>,
    /// Ranks whose hosts are gone for good (`removed = true`).
    pub removed: Idset,
    /// The public key of each rank, where one is named; those of hosts that are gone are left out.
    pub keys: Vec<Option<String>>,
}

/// Why a list of hosts cannot be used, or not now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// It is none.
    #[error("bootstrap.hosts: {0}")]
    Invalid(String),
    /// A rank would be another host.
    #[error(
        "bootstrap.hosts: rank {rank} is {old} and would become {new}: a rank keeps its host while \
         the instance runs; add hosts at the end, and mark those that are gone with removed = true"
    )]
    Moved {
        /// The rank.
        rank: u32,
        /// Its host.
        old: String,
        /// The host that the new list has there.
        new: String,
    },
}

/// What entries say of one host, the last of them first.
#[derive(Debug, Default)]
struct Said {
    parent: Option<String>,
    removed: bool,
    key: Option<String>,
}

fn invalid<T>(text: impl Into<String>) -> Result<T, RosterError> {
    Err(RosterError::Invalid(text.into()))
}

impl Roster {
    /// The hosts that a configuration names: in the order in which they are named first. Nothing
    /// when it names none.
    ///
    /// # Errors
    /// [`RosterError::Invalid`].
    pub fn of(config: &Map<String, Value>) -> Result<Option<Self>, RosterError> {
        let hosts = config.get("bootstrap").and_then(|table| table.get("hosts"));
        let Some(hosts) = hosts else { return Ok(None) };
        let Some(entries) = hosts.as_array() else { return invalid("not an array") };
        let mut names: Vec<String> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        let mut said: Vec<Said> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let Some(list) = entry.get("host").and_then(Value::as_str) else {
                return invalid(format!("entry {at} names no host"));
            };
            let text =
                |error: flux_id::HostlistError| RosterError::Invalid(format!("'{list}': {error}"));
            let list: Hostlist = list.parse().map_err(text)?;
            let parent = entry.get("parent").and_then(Value::as_str);
            let removed = entry.get("removed").and_then(Value::as_bool);
            let key = entry.get("key").and_then(Value::as_str);
            for name in list.expand(MAX).map_err(text)? {
                let place = *places.entry(name.clone()).or_insert_with(|| {
                    names.push(name);
                    said.push(Said::default());
                    names.len() - 1
                });
                if names.len() > MAX {
                    return invalid(format!("more than {MAX} hosts"));
                }
                if let Some(entry) = said.get_mut(place) {
                    entry.parent = parent.map(str::to_string).or(entry.parent.take());
                    entry.removed = removed.unwrap_or(entry.removed);
                    entry.key = key.map(str::to_string).or(entry.key.take());
                }
            }
        }
        if names.is_empty() {
            return Ok(None);
        }
        let rank = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let mut parents = Vec::with_capacity(names.len());
        let mut removed = Idset::new();
        let mut keys = Vec::with_capacity(names.len());
        for (place, said) in said.into_iter().enumerate() {
            if said.removed {
                removed.insert(rank(place));
            }
            keys.push(said.key.filter(|_| !said.removed));
            parents.push(match said.parent {
                None => None,
                Some(name) => match places.get(&name) {
                    Some(parent) => Some(rank(*parent)),
                    None => return invalid(format!("parent {name} is not among the hosts")),
                },
            });
        }
        if removed.contains(0) {
            return invalid("the leader cannot be removed");
        }
        Ok(Some(Self { names, parents, removed, keys }))
    }

    /// The keys, where brokers have keys of their own.
    pub fn listed_keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().flatten().map(String::as_str)
    }

    /// Number of ranks.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// Checks that this list can follow one that is in use: ranks keep their hosts. There may be
    /// more of them, and fewer at the end.
    ///
    /// # Errors
    /// [`RosterError::Moved`] with the first rank that would be another host.
    pub fn follows(&self, names: &[String]) -> Result<(), RosterError> {
        for (rank, (old, new)) in (0..).zip(names.iter().zip(&self.names)) {
            if old != new {
                return Err(RosterError::Moved { rank, old: old.clone(), new: new.clone() });
            }
        }
        Ok(())
    }

    /// Ranks of an instance of so many brokers that are not part of this one, or not any more.
    #[must_use]
    pub fn gone(&self, former: u32) -> Idset {
        let mut gone = self.removed.clone();
        if former > self.size() {
            gone.insert_range(self.size()..=former - 1);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn roster(hosts: Value) -> Result<Option<Roster>, RosterError> {
        Roster::of(json!({ "bootstrap": { "hosts": hosts } }).as_object().unwrap())
    }

    fn names(list: &str) -> Vec<String> {
        list.parse::<Hostlist>().unwrap().iter().collect()
    }

    #[test]
    fn ranks_are_places_of_first_mention() {
        let found = roster(json!([
            { "host": "a[0-2]" },
            { "host": "a[1-3]", "parent": "a0" },
            { "host": "a2", "removed": true },
        ]));
        let found = found.unwrap().unwrap();
        assert_eq!(found.names, names("a[0-3]"));
        assert_eq!(found.parents, [None, Some(0), Some(0), Some(0)]);
        assert_eq!(found.removed.to_string(), "2");
        assert_eq!(
            (found.gone(4).to_string(), found.gone(6).to_string()),
            ("2".into(), "2,4-5".into())
        );
        assert_eq!(roster(json!([])), Ok(None));
        assert_eq!(Roster::of(&Map::new()), Ok(None));
    }

    #[test]
    fn a_list_may_grow_and_shrink_at_its_end_only() {
        let next = |hosts: &str| roster(json!([{ "host": hosts }])).unwrap().unwrap();
        for hosts in ["a[0-3]", "a[0-5]", "a0", "a[0-3],b"] {
            assert_eq!(next(hosts).follows(&names("a[0-3]")), Ok(()), "{hosts}");
        }
        let error = next("a[0,2-3]").follows(&names("a[0-3]")).unwrap_err();
        assert!(error.to_string().contains("rank 1 is a1 and would become a2"), "{error}");
    }

    #[test]
    fn what_is_no_list_of_hosts_is_refused() {
        for bad in [
            json!(3),
            json!([3]),
            json!([{ "host": "a[" }]),
            json!([{ "host": "a", "parent": "b" }]),
            json!([{ "host": "a", "removed": true }]),
            json!([{ "host": "a[0-9999999]" }]),
        ] {
            assert!(roster(bad.clone()).is_err(), "{bad}");
        }
    }
}
