//! The JSON form of a resource set.

use std::sync::Arc;

use flux_id::{Hostlist, Idset};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::properties::check_name;
use super::run::{Children, Runs};
use super::types::{MAX_TYPES, check_type};
use super::{MAX_RANKS, ResourceSet, ResourceSetError, size};

impl ResourceSet {
    /// Reads R.
    ///
    /// # Errors
    /// Text that is not JSON, and the first fault against RFC 20.
    pub fn parse(json: &str) -> Result<Self, ResourceSetError> {
        let value =
            serde_json::from_str(json).map_err(|e| ResourceSetError::Json(e.to_string()))?;
        Self::from_value(&value)
    }

    /// Reads R that is already a JSON value.
    ///
    /// # Errors
    /// The first fault against RFC 20.
    pub fn from_value(value: &Value) -> Result<Self, ResourceSetError> {
        let top = object(Some(value), "R")?;
        if top.get("version").and_then(Value::as_u64) != Some(1) {
            return Err(ResourceSetError::at("version", "expected 1"));
        }
        let execution = object(top.get("execution"), "execution")?;
        let runs = runs(execution.get("R_lite"))?;
        let mut set = Self { runs, ..Self::default() };
        set.hosts = hosts(execution.get("nodelist"), set.runs.ranks())?;
        let starttime = time(execution, "starttime")?;
        set.set_times(starttime, time(execution, "expiration")?)?;
        set.nslots = match execution.get("nslots") {
            None => None,
            Some(n) => Some(n.as_u64().filter(|n| *n > 0).ok_or_else(|| {
                ResourceSetError::at("execution.nslots", "expected a positive integer")
            })?),
        };
        if let Some(properties) = execution.get("properties") {
            let all = set.ranks();
            for (name, ranks) in object(Some(properties), "execution.properties")? {
                check_name(name)?;
                let ranks = idset(Some(ranks), &format!("execution.properties.{name}"))?;
                if !ranks.difference(&all).is_empty() {
                    return Err(ResourceSetError::at(
                        format!("execution.properties.{name}"),
                        format!("ranks {} are not in R_lite", ranks.difference(&all)),
                    ));
                }
                if !ranks.is_empty() {
                    set.properties.insert(name.clone(), ranks);
                }
            }
        }
        if let Some(scheduling) = top.get("scheduling").filter(|value| !value.is_null()) {
            object(Some(scheduling), "scheduling")?;
            set.scheduling = Some(scheduling.clone());
        }
        Ok(set)
    }

    /// The JSON form, keys in the order of `flux R encode`.
    pub fn to_value(&self) -> Value {
        let lite: Vec<Value> = self
            .groups()
            .iter()
            .map(|(ranks, children)| {
                let map: Map<String, Value> = children
                    .types()
                    .map(|(kind, ids)| (kind.to_owned(), ids.to_string().into()))
                    .collect();
                json!({"rank": ranks.to_string(), "children": map})
            })
            .collect();
        let mut execution = Map::new();
        execution.insert("R_lite".to_owned(), lite.into());
        execution.insert("starttime".to_owned(), self.starttime.into());
        execution.insert("expiration".to_owned(), self.expiration.into());
        // An empty set has one empty string here.
        execution.insert("nodelist".to_owned(), json!([self.nodelist().to_string()]));
        if !self.properties.is_empty() {
            let map: Map<String, Value> = self
                .properties
                .iter()
                .map(|(name, ranks)| (name.clone(), ranks.to_string().into()))
                .collect();
            execution.insert("properties".to_owned(), map.into());
        }
        if let Some(nslots) = self.nslots {
            execution.insert("nslots".to_owned(), nslots.into());
        }
        let mut top = Map::new();
        top.insert("version".to_owned(), 1.into());
        top.insert("execution".to_owned(), execution.into());
        if let Some(scheduling) = &self.scheduling {
            top.insert("scheduling".to_owned(), scheduling.clone());
        }
        Value::Object(top)
    }
}

/// Reads `R_lite`; entries may come in any order and share ranks.
fn runs(value: Option<&Value>) -> Result<Runs, ResourceSetError> {
    const PATH: &str = "execution.R_lite";
    let list = value
        .and_then(Value::as_array)
        .ok_or_else(|| ResourceSetError::at(PATH, "expected a list"))?;
    let mut pieces: Vec<(u32, u32, Arc<Children>)> = Vec::new();
    for (at, entry) in list.iter().enumerate() {
        let path = format!("{PATH}[{at}]");
        let entry = object(Some(entry), &path)?;
        let ranks = idset(entry.get("rank"), &format!("{path}.rank"))?;
        size(&ranks)?;
        let children = object(entry.get("children"), &format!("{path}.children"))?;
        let mut found = Children::default();
        for (kind, ids) in children {
            let path = format!("{path}.children.{kind}");
            let ids = idset(Some(ids), &path)?;
            match kind.as_str() {
                "core" => found.cores = ids,
                "gpu" => found.gpus = ids,
                _ if ids.is_empty() => {}
                _ => {
                    check_type(kind).map_err(|problem| ResourceSetError::at(path, problem))?;
                    found.others.insert(kind.clone(), ids);
                }
            }
        }
        if found.others.len() > MAX_TYPES {
            let problem = format!("more than {MAX_TYPES} types");
            return Err(ResourceSetError::at(format!("{path}.children"), problem));
        }
        let children = Arc::new(found);
        if ranks.is_empty() {
            return Err(ResourceSetError::at(format!("{path}.rank"), "expected at least one rank"));
        }
        if children.is_empty() {
            return Err(ResourceSetError::at(
                format!("{path}.children"),
                "expected at least one core or gpu",
            ));
        }
        pieces.extend(
            ranks.ranges().map(|range| (*range.start(), *range.end(), Arc::clone(&children))),
        );
    }
    pieces.sort_by_key(|(first, ..)| *first);
    let runs = join(pieces);
    if runs.ranks() > MAX_RANKS {
        return Err(ResourceSetError::TooManyRanks(runs.ranks() as u64));
    }
    Ok(runs)
}

/// Joins pieces, sorted by first rank, that may overlap.
fn join(pieces: Vec<(u32, u32, Arc<Children>)>) -> Runs {
    if pieces.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
        // Rare: halves keep the number of sweeps over each piece logarithmic.
        if pieces.len() > 1 {
            let mut left = pieces;
            let right = left.split_off(left.len() / 2);
            return join(left).sweep(&join(right), |a, b| match (a, b) {
                (Some(a), Some(b)) => Some(Arc::new(a.combine(b, Idset::union))),
                (one, None) | (None, one) => one.cloned(),
            });
        }
    }
    let mut runs = Runs::default();
    for (first, last, children) in pieces {
        runs.push(first, last, children);
    }
    runs
}

/// Reads `nodelist`, which must name `expected` hosts.
fn hosts(value: Option<&Value>, expected: usize) -> Result<Vec<Arc<str>>, ResourceSetError> {
    const PATH: &str = "execution.nodelist";
    let list = value
        .and_then(Value::as_array)
        .ok_or_else(|| ResourceSetError::at(PATH, "expected a list of host lists"))?;
    let mut hosts: Vec<Arc<str>> = Vec::with_capacity(expected);
    for (at, entry) in list.iter().enumerate() {
        let path = format!("{PATH}[{at}]");
        let text =
            entry.as_str().ok_or_else(|| ResourceSetError::at(&path, "expected a string"))?;
        let names: Hostlist = text
            .parse()
            .map_err(|e| ResourceSetError::at(&path, format!("invalid host list: {e}")))?;
        let total = hosts.len().saturating_add(names.len());
        if total > expected {
            return Err(ResourceSetError::HostCount { ranks: expected, hosts: total });
        }
        hosts.extend(names.iter().map(|host| Arc::from(host.as_str())));
    }
    if hosts.len() != expected {
        return Err(ResourceSetError::HostCount { ranks: expected, hosts: hosts.len() });
    }
    Ok(hosts)
}

fn idset(value: Option<&Value>, path: &str) -> Result<Idset, ResourceSetError> {
    let text = value
        .and_then(Value::as_str)
        .ok_or_else(|| ResourceSetError::at(path, "expected an idset string"))?;
    text.parse().map_err(|_| ResourceSetError::at(path, format!("'{}' is no idset", Short(text))))
}

fn time(execution: &Map<String, Value>, key: &str) -> Result<f64, ResourceSetError> {
    match execution.get(key) {
        None => Ok(0.0),
        Some(value) => value.as_f64().ok_or_else(|| {
            ResourceSetError::at(format!("execution.{key}"), "expected a number of seconds")
        }),
    }
}

fn object<'a>(
    value: Option<&'a Value>,
    path: &str,
) -> Result<&'a Map<String, Value>, ResourceSetError> {
    value.and_then(Value::as_object).ok_or_else(|| ResourceSetError::at(path, "expected an object"))
}

/// The first characters of a text, for messages.
struct Short<'a>(&'a str);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self.0.char_indices().nth(40).map(|(at, _)| at);
        match end {
            None => f.write_str(self.0),
            Some(end) => write!(f, "{}...", &self.0[..end]),
        }
    }
}

impl std::fmt::Display for ResourceSet {
    /// Writes compact JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_value().fmt(f)
    }
}

impl std::str::FromStr for ResourceSet {
    type Err = ResourceSetError;

    fn from_str(json: &str) -> Result<Self, ResourceSetError> {
        Self::parse(json)
    }
}

impl Serialize for ResourceSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResourceSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).map_err(serde::de::Error::custom)
    }
}
