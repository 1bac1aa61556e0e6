//! Which tasks run where: the jobspec's tasks spread over the nodes of R.

use flux_id::Idset;
use flux_model::jobspec::{Jobspec, TaskCount};
use flux_model::resource_set::ResourceSet;
use flux_model::taskmap::{MAX_TASKS, Taskmap, TaskmapError};
use serde_json::Value;

/// Why the tasks have no place.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// R names no node, or not this one.
    #[error("broker rank {0} is not part of the job's resources")]
    NoSuchRank(u32),
    /// R is empty.
    #[error("the job has no resources")]
    Empty,
    /// More tasks than anybody starts.
    #[error("{0} tasks are too many")]
    TooMany(u64),
    /// The task map cannot be made.
    #[error("failed to map tasks with scheme={scheme}: {reason}")]
    Map {
        /// Scheme.
        scheme: String,
        /// What is wrong.
        reason: String,
    },
}

/// What one shell is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Rank of its broker.
    pub broker_rank: u32,
    /// Name of the host.
    pub host: String,
    /// Cores of the job there.
    pub cores: Idset,
    /// GPUs of the job there.
    pub gpus: Idset,
    /// Tasks to run there.
    pub tasks: Idset,
}

/// Places of all tasks.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Tasks of the job.
    pub ntasks: u32,
    /// Shells in rank order.
    pub nodes: Vec<Node>,
    /// The task map.
    pub map: Taskmap,
}

/// Tasks of each node, by what its resources hold.
fn counts(jobspec: &Jobspec, r: &ResourceSet) -> Result<Vec<u32>, LayoutError> {
    let nnodes = r.nnodes() as u64;
    let request = jobspec.request().ok();
    let per_slot = request.as_ref().map_or(1, |request| request.cores_per_slot.max(1));
    let gpus_per_slot = request.as_ref().map_or(0, |request| request.gpus_per_slot);
    // Slots that the resources of each node make up.
    let mut slots: Vec<u64> = r
        .iter()
        .map(|(_, _, children)| {
            let by_core = children.cores.len() / per_slot;
            match gpus_per_slot {
                0 => by_core,
                gpus => by_core.min(children.gpus.len() / gpus),
            }
            .max(1)
        })
        .collect();
    let exact = r.nslots.or_else(|| {
        let (min, max) = request.as_ref()?.total_slots();
        (max == Some(min)).then_some(min)
    });
    let have: u64 = slots.iter().sum();
    if let Some(wanted) = exact
        && wanted != have
        && wanted > 0
    {
        slots = spread(&slots, wanted);
    }
    let nslots: u64 = slots.iter().sum();
    let total = jobspec.ntasks_on(nslots, nnodes, r.ncores(), r.ngpus());
    if total > MAX_TASKS || total == 0 {
        return Err(LayoutError::TooMany(total));
    }
    let per = jobspec.per_resource().map(|per| (per.kind.to_string(), per.count));
    let per = per.or_else(|| match &jobspec.tasks().first()?.count {
        TaskCount::PerResource { kind, count } => Some((kind.clone(), *count)),
        _ => None,
    });
    let each: Vec<u64> = match per {
        Some((kind, count)) => r
            .iter()
            .zip(&slots)
            .map(|((_, _, children), slots)| {
                count
                    * match kind.as_str() {
                        "node" => 1,
                        "core" => children.cores.len(),
                        "gpu" => children.gpus.len(),
                        _ => *slots,
                    }
            })
            .collect(),
        None => spread(&slots, total),
    };
    Ok(each.into_iter().map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect())
}

/// Gives `total` out over places of these capacities: first each place in turn up to its capacity,
/// and what is left then evenly.
fn spread(capacity: &[u64], total: u64) -> Vec<u64> {
    let mut given = vec![0; capacity.len()];
    let mut left = total;
    let sum: u64 = capacity.iter().sum();
    if total >= sum {
        given.copy_from_slice(capacity);
        left -= sum;
    } else {
        // Fewer than fit: as even as the capacities allow.
        while left > 0 {
            let open: Vec<usize> =
                (0..capacity.len()).filter(|&i| given[i] < capacity[i]).collect();
            let share = (left / open.len().max(1) as u64).max(1);
            for i in open {
                let more = share.min(capacity[i] - given[i]).min(left);
                given[i] += more;
                left -= more;
            }
        }
    }
    let places = capacity.len().max(1) as u64;
    for (i, count) in (0..).zip(&mut given) {
        *count += left / places + u64::from(i < left % places);
    }
    given
}

impl Layout {
    /// Places the tasks. `read` gives the text of a host file.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(
        jobspec: &Jobspec,
        r: &ResourceSet,
        scheme: &str,
        value: &str,
        read: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, LayoutError> {
        if r.is_empty() {
            return Err(LayoutError::Empty);
        }
        let counts = counts(jobspec, r)?;
        let fail = |reason: String| LayoutError::Map { scheme: scheme.to_string(), reason };
        let wrong = |error: TaskmapError| fail(error.to_string());
        let map = match scheme {
            "block" if value.is_empty() => Taskmap::block(&counts).map_err(wrong)?,
            "block" => {
                return Err(fail(format!("block taskmap does not accept a value (got {value})")));
            }
            "cyclic" => {
                let stride = match value {
                    "" => 1,
                    text => {
                        let text = text.strip_prefix("stride=").unwrap_or(text);
                        text.parse().map_err(|_| fail(format!("invalid stride '{value}'")))?
                    }
                };
                Taskmap::cyclic(&counts, stride).map_err(wrong)?
            }
            "hostfile" => {
                let text = read(value).map_err(|error| fail(format!("{value}: {error}")))?;
                let mut hosts = Vec::new();
                for line in text.lines() {
                    let line = line.split('#').next().unwrap_or_default().trim();
                    let list: flux_id::Hostlist =
                        line.parse().map_err(|error| fail(format!("{value}: {error}")))?;
                    hosts.extend(list.iter());
                }
                let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
                let names: Vec<&str> = r.iter().map(|(_, host, _)| host).collect();
                Taskmap::hostfile(&hosts, &names, &counts).map_err(wrong)?
            }
            "manual" => {
                let json = serde_json::from_str::<Value>(value).ok();
                let map = match json {
                    Some(json) => Taskmap::from_value(&json),
                    None => value.parse(),
                };
                let map = map.map_err(wrong)?;
                map.check_counts(&counts).map_err(wrong)?;
                map
            }
            _ => return Err(fail("unknown scheme".to_string())),
        };
        let mut tasks = map.tasks_by_node();
        tasks.resize(r.nnodes(), Idset::new());
        let nodes = r
            .iter()
            .zip(tasks)
            .map(|((broker_rank, host, children), tasks)| Node {
                broker_rank,
                host: host.to_string(),
                cores: children.cores.clone(),
                gpus: children.gpus.clone(),
                tasks,
            })
            .collect();
        Ok(Layout { ntasks: map.ntasks(), nodes, map })
    }

    /// The shell rank on a broker rank.
    ///
    /// # Errors
    /// When the broker is not one of the job's.
    pub fn shell_rank(&self, broker_rank: u32) -> Result<u32, LayoutError> {
        let at = self.nodes.binary_search_by_key(&broker_rank, |node| node.broker_rank);
        at.ok().and_then(|at| u32::try_from(at).ok()).ok_or(LayoutError::NoSuchRank(broker_rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn r(cores: &[&str]) -> ResourceSet {
        let lite: Vec<Value> = (0..)
            .zip(cores)
            .map(|(rank, cores): (u32, _)| json!({"rank": rank.to_string(), "children": {"core": cores}}))
            .collect();
        let hosts: Vec<String> = (0..cores.len()).map(|n| format!("h{n}")).collect();
        let value = json!({"version": 1, "execution": {
            "R_lite": lite, "nodelist": hosts, "starttime": 0, "expiration": 0}});
        ResourceSet::parse(&value.to_string()).unwrap()
    }

    fn spec(resources: Value, count: Value, options: Value) -> Jobspec {
        Jobspec::from_value(json!({
            "version": 1, "resources": resources,
            "tasks": [{"command": ["x"], "slot": "task", "count": count}],
            "attributes": {"system": {"duration": 0, "shell": {"options": options}}},
        }))
        .unwrap()
    }

    fn slots(n: u32) -> Value {
        json!([{"type": "slot", "count": n, "label": "task", "with": [{"type": "core", "count": 1}]}])
    }

    fn place(jobspec: &Jobspec, r: &ResourceSet, scheme: &str, value: &str) -> Vec<String> {
        let read = |_: &str| Ok("h1\nh0 # two\nh1\n".to_string());
        let layout = Layout::new(jobspec, r, scheme, value, read).unwrap();
        layout.nodes.iter().map(|node| node.tasks.to_string()).collect()
    }

    #[test]
    fn blocks_fill_one_node_after_the_other() {
        let jobspec = spec(slots(3), json!({"per_slot": 1}), json!({}));
        assert_eq!(place(&jobspec, &r(&["0-1", "0"]), "block", ""), ["0-1", "2"]);
        assert_eq!(place(&jobspec, &r(&["0-1", "0"]), "cyclic", ""), ["0,2", "1"]);
        assert_eq!(place(&jobspec, &r(&["0", "0-1"]), "hostfile", "f"), ["1", "0,2"]);
        assert_eq!(
            place(&jobspec, &r(&["0", "0-1"]), "manual", "[[1,1,2,1],[0,1,1,1]]"),
            ["2", "0-1"]
        );
    }

    #[test]
    fn a_surplus_core_gets_no_task() {
        // -N2 -n3: two slots on each node, one of them not used.
        let node = json!([{"type": "node", "count": 2, "with": [{"type": "slot", "count": 2,
            "label": "task", "with": [{"type": "core", "count": 1}]}]}]);
        let jobspec = spec(node, json!({"total": 3}), json!({}));
        assert_eq!(place(&jobspec, &r(&["0-1", "0-1"]), "block", ""), ["0-1", "2"]);
    }

    #[test]
    fn one_task_per_node_or_core() {
        let jobspec =
            spec(slots(4), json!({"per_slot": 1}), json!({"per-resource": {"type": "node"}}));
        assert_eq!(place(&jobspec, &r(&["0-1", "0-1"]), "block", ""), ["0", "1"]);
        let core = json!({"per-resource": {"type": "core", "count": 2}});
        let jobspec = spec(slots(3), json!({"per_slot": 1}), core);
        assert_eq!(place(&jobspec, &r(&["0-1", "0"]), "block", ""), ["0-3", "4-5"]);
    }

    #[test]
    fn exclusive_nodes_keep_the_number_of_slots_asked_for() {
        let jobspec = spec(slots(2), json!({"per_slot": 1}), json!({}));
        assert_eq!(place(&jobspec, &r(&["0-7", "0-7"]), "block", ""), ["0", "1"]);
    }

    #[test]
    fn wrong_schemes_are_told() {
        let jobspec = spec(slots(1), json!({"per_slot": 1}), json!({}));
        let map = |scheme: &str, value: &str| {
            let read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
            Layout::new(&jobspec, &r(&["0"]), scheme, value, read).unwrap_err().to_string()
        };
        assert!(map("block", "x").contains("block taskmap does not accept a value (got x)"));
        assert!(map("nope", "").starts_with("failed to map tasks with scheme=nope"));
        assert!(map("manual", "[[0,1,2,1]]").contains("assigns 2 tasks to node 0"));
        assert!(map("cyclic", "0").contains("stride"));
        assert!(map("hostfile", "f").contains("f: "));
    }
}
