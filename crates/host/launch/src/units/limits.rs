//! The limits of a unit: from the cores of R, and from the configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flux_api::launch::LaunchUnit;
use flux_id::Idset;
use flux_model::unit_limit::{Amount, UnitLimit};
use flux_topo::{CpuSet, Topology};
use zbus::Variant;

use super::manager::Property;

/// What the manager can put into effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Controllers(BTreeSet<String>);

impl Controllers {
    /// Those that were given to a manager with this cgroup.
    pub(super) fn of(root: Option<&Path>, cgroup: &str) -> Self {
        let file = root.map(|root| inside(root, cgroup).join("cgroup.controllers"));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        Self(text.split_whitespace().map(str::to_string).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// What the administrator should know about what there is not.
    pub(super) fn warning(&self) -> Option<String> {
        let text = "exec.service = \"sdexec\": the systemd manager for job shells has no cgroup \
                    controller 'cpuset': the cores of a job are an affinity, which the job can undo";
        (!self.has("cpuset")).then(|| text.to_string())
    }
}

/// A cgroup below the mount point of the unified hierarchy.
pub(super) fn inside(root: &Path, cgroup: &str) -> PathBuf {
    root.join(cgroup.trim_start_matches('/'))
}

/// Where the unified hierarchy of cgroups is mounted.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    line.get(1).map(PathBuf::from)
}

/// Bits of cpus, as systemd takes them.
fn mask(cpus: &CpuSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cpu in cpus.iter() {
        let at = (cpu / 8) as usize;
        if bytes.len() <= at {
            bytes.resize(at + 1, 0);
        }
        if let Some(byte) = bytes.get_mut(at) {
            *byte |= 1 << (cpu % 8);
        }
    }
    bytes
}

/// The properties of these limits.
///
/// # Errors
/// A sentence: a limit that would have no effect here.
pub(super) fn properties(
    unit: &LaunchUnit,
    controllers: &Controllers,
    topology: &dyn Topology,
) -> Result<Vec<Property>, String> {
    let mut properties: Vec<Property> = Vec::new();
    let mut add = |name: &str, value| properties.push((name.to_string(), value));
    let cores: Idset = unit.cores.parse().map_err(|error| format!("cores of R: {error}"))?;
    if !cores.is_empty() {
        let host = topology.discover().map_err(|error| error.to_string())?;
        let there = host.cores();
        if let Some(missing) = cores.ids().find(|core| !there.contains(core)) {
            return Err(format!(
                "core {missing} of R is not on this node, which has {}: the job cannot be confined",
                there.len()
            ));
        }
        let cpus = mask(&host.cpus_of(cores.ids()));
        // Without the controller a process could undo it, but has to want that.
        let name = if controllers.has("cpuset") { "AllowedCPUs" } else { "CPUAffinity" };
        add(name, Variant::from(cpus));
    }
    for (name, value) in &unit.properties {
        let limit = UnitLimit::parse(name, value).map_err(|error| error.to_string())?;
        if !controllers.has(limit.controller) {
            return Err(format!(
                "exec.sdexec-properties.{name}: the systemd manager for job shells has no cgroup \
                 controller '{}' (it has: {})",
                limit.controller,
                controllers.0.iter().cloned().collect::<Vec<_>>().join(" ")
            ));
        }
        add(
            &limit.property,
            match limit.amount {
                Amount::Number(number) => Variant::from(number),
                Amount::Part(part) => Variant::from(part),
            },
        );
    }
    if !unit.properties.contains_key("TasksMax") && controllers.has("pids") {
        add("TasksMax", Variant::from(u64::MAX));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flux_topo::{HostTopology, TopoError};

    use super::*;

    /// Two cores of two cpus each, numbered as kernels like to.
    struct Two;

    impl Topology for Two {
        fn discover(&self) -> Result<HostTopology, TopoError> {
            Ok(HostTopology {
                hostname: "a".to_string(),
                core_cpus: vec![[0, 8].into_iter().collect(), [1, 9].into_iter().collect()],
                core_package: vec![0, 0],
                gpus: Vec::new(),
                numa: Vec::new(),
                memory: 0,
            })
        }
    }

    fn unit(cores: &str, properties: &[(&str, &str)]) -> LaunchUnit {
        let properties: BTreeMap<String, String> =
            properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        LaunchUnit { cores: cores.to_string(), properties }
    }

    fn all() -> Controllers {
        Controllers(["cpuset", "memory", "pids"].map(str::to_string).into())
    }

    #[test]
    fn cores_of_r_become_cpus_of_the_node() {
        let limits = properties(&unit("1", &[("MemoryMax", "1K")]), &all(), &Two).unwrap();
        let expected: Vec<Property> = vec![
            ("AllowedCPUs".to_string(), Variant::from(vec![0b10_u8, 0b10])),
            ("MemoryMax".to_string(), Variant::from(1024_u64)),
            ("TasksMax".to_string(), Variant::from(u64::MAX)),
        ];
        assert_eq!(limits, expected);
    }

    #[test]
    fn without_the_controller_cores_are_an_affinity() {
        let limits = properties(&unit("0", &[]), &Controllers::default(), &Two).unwrap();
        assert_eq!(limits, [("CPUAffinity".to_string(), Variant::from(vec![1_u8, 1]))]);
    }

    #[test]
    fn what_is_not_confined_is_warned_of() {
        assert_eq!(all().warning(), None);
        let text = Controllers::default().warning().unwrap();
        assert!(text.contains("'cpuset'") && text.contains("affinity"), "{text}");
    }

    #[test]
    fn what_has_no_effect_here_is_an_error() {
        let error = properties(&unit("2", &[]), &all(), &Two).unwrap_err();
        assert!(error.contains("core 2 of R is not on this node"), "{error}");
        let memory = unit("0", &[("MemoryMax", "1G")]);
        let error = properties(&memory, &Controllers::default(), &Two).unwrap_err();
        assert!(error.contains("MemoryMax") && error.contains("'memory'"), "{error}");
    }
}
