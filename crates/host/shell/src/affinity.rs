//! Which cpus and GPUs tasks may use.

use flux_id::Idset;
use flux_topo::{CpuSet, HostTopology};

/// Cpus of the tasks of one shell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// For each local task the cpus it is bound to; empty when tasks are not bound.
    pub tasks: Vec<CpuSet>,
    /// Nothing is bound, only told.
    pub dry_run: bool,
    /// What was chosen is told.
    pub verbose: bool,
}

/// An option that makes no sense; the tasks are not bound then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid option: {0}")]
pub struct AffinityError(pub String);

/// The option without its prefixes `verbose,` and `dry-run,`.
fn prefixes(option: &str) -> (&str, bool, bool) {
    let (mut rest, mut verbose, mut dry_run) = (option, false, false);
    loop {
        if let Some(after) = rest.strip_prefix("verbose,") {
            (rest, verbose) = (after, true);
        } else if let Some(after) = rest.strip_prefix("dry-run,") {
            (rest, dry_run) = (after, true);
        } else {
            return (rest, verbose, dry_run);
        }
    }
}

/// Whether the hardware must be known for this option.
#[must_use]
pub fn needs_topology(option: &str) -> bool {
    prefixes(option).0 != "off"
}

/// Whether binding to so many cores changes nothing, since there are no more cpus than that.
#[must_use]
pub fn is_everything(option: &str, cores: &Idset) -> bool {
    let allowed = rustix::thread::sched_getaffinity(None);
    option == "on" && allowed.is_ok_and(|cpus| u64::from(cpus.count()) <= cores.len())
}

/// Gives each of `ntasks` tasks its share of what the job has: each item in turn when there are
/// at least as many items as tasks, else one item for several tasks.
fn share<T: Clone>(items: &[T], ntasks: usize) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new(); ntasks];
    }
    if items.len() < ntasks {
        return (0..ntasks).map(|task| vec![items[task % items.len()].clone()]).collect();
    }
    let (each, more) = (items.len() / ntasks.max(1), items.len() % ntasks.max(1));
    let mut start = 0;
    (0..ntasks)
        .map(|task| {
            let end = start + each + usize::from(task < more);
            let part = items[start..end].to_vec();
            start = end;
            part
        })
        .collect()
}

/// Plans the cpus of `ntasks` tasks on a host where the job has `cores`.
///
/// # Errors
/// When the option makes no sense.
pub fn cpus(
    option: &str,
    topology: &HostTopology,
    cores: &Idset,
    ntasks: usize,
) -> Result<Plan, AffinityError> {
    let bad = || AffinityError(option.to_string());
    let (kind, verbose, dry_run) = prefixes(option);
    let tasks = match kind {
        "off" => Vec::new(),
        "on" => vec![topology.cpus_of(cores.ids()); ntasks],
        "per-task" => {
            let cores: Vec<u32> = cores.ids().collect();
            share(&cores, ntasks).into_iter().map(|part| topology.cpus_of(part)).collect()
        }
        _ => {
            let list = kind.strip_prefix("map:").ok_or_else(bad)?;
            let sets: Vec<CpuSet> = list
                .split(';')
                .map(|item| {
                    if item.starts_with("0x") {
                        CpuSet::parse_mask(item).map_err(|_| bad())
                    } else {
                        item.parse().map_err(|_| bad())
                    }
                })
                .collect::<Result<_, _>>()?;
            (0..ntasks).map(|task| sets[task % sets.len()].clone()).collect()
        }
    };
    Ok(Plan { tasks, dry_run, verbose })
}

/// GPUs of each task; `None` when they are not controlled.
///
/// # Errors
/// When the option makes no sense.
pub fn gpus(
    option: &str,
    gpus: &Idset,
    ntasks: usize,
) -> Result<Option<Vec<Idset>>, AffinityError> {
    let bad = || AffinityError(option.to_string());
    Ok(match option {
        "off" => None,
        "on" => Some(vec![gpus.clone(); ntasks]),
        "per-task" => {
            let ids: Vec<u32> = gpus.ids().collect();
            Some(share(&ids, ntasks).into_iter().map(|part| part.into_iter().collect()).collect())
        }
        _ => {
            let list = option.strip_prefix("map:").ok_or_else(bad)?;
            let sets: Vec<Idset> = list
                .split(';')
                .map(|item| item.parse().map_err(|_| bad()))
                .collect::<Result<_, _>>()?;
            Some((0..ntasks).map(|task| sets[task % sets.len()].clone()).collect())
        }
    })
}

/// Runs `f`, which starts a process, bound to `cpus`.
pub fn around<T>(cpus: Option<&CpuSet>, f: impl FnOnce() -> T) -> T {
    let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) else {
        return f();
    };
    let before = rustix::thread::sched_getaffinity(None);
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter().filter(|cpu| (*cpu as usize) < rustix::thread::CpuSet::MAX_CPU) {
        set.set(cpu as usize);
    }
    // Cpus that the system does not let this process use leave it as it is.
    let _ = rustix::thread::sched_setaffinity(None, &set);
    let result = f();
    if let Ok(before) = before {
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostTopology {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        HostTopology {
            hostname: "h".into(),
            core_cpus: vec![set("0,4"), set("1,5"), set("2,6"), set("3,7")],
            core_package: vec![0; 4],
            gpus: Vec::new(),
            numa: Vec::new(),
            memory: 0,
        }
    }

    fn plan(option: &str, cores: &str, ntasks: usize) -> Vec<String> {
        let plan = cpus(option, &host(), &cores.parse().unwrap(), ntasks).unwrap();
        plan.tasks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tasks_share_the_cores_of_the_job() {
        assert_eq!(plan("on", "1-2", 2), ["1-2,5-6", "1-2,5-6"]);
        assert_eq!(plan("per-task", "0-3", 2), ["0-1,4-5", "2-3,6-7"]);
        assert_eq!(plan("per-task", "0-2", 2), ["0-1,4-5", "2,6"]);
        assert_eq!(plan("per-task", "0-1", 3), ["0,4", "1,5", "0,4"]);
        assert_eq!(plan("verbose,map:0;1-2;0x8", "0", 4), ["0", "1-2", "3", "0"]);
        assert!(plan("off", "0", 1).is_empty());
        assert!(cpus("nope", &host(), &Idset::new(), 1).is_err());
        assert!(!needs_topology("off") && needs_topology("dry-run,on"));
    }

    #[test]
    fn gpus_are_shared_too() {
        let all: Idset = "0-3".parse().unwrap();
        let per = gpus("per-task", &all, 2).unwrap().unwrap();
        assert_eq!(per.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0-1", "2-3"]);
        assert_eq!(gpus("off", &all, 2).unwrap(), None);
        assert_eq!(gpus("map:1;0,2", &all, 2).unwrap().unwrap()[1].to_string(), "0,2");
    }
}
