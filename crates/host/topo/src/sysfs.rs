//! The running kernel, as it shows itself below `/sys` and `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Allowed, CpuSet, Gpu, HostTopology, NumaNode, TopoError, Topology};

const VENDOR_NVIDIA: u16 = 0x10de;
const VENDOR_AMD: u16 = 0x1002;

/// Reads the topology from the kernel's files.
#[derive(Debug, Clone)]
pub struct Sysfs {
    sys: PathBuf,
    proc: PathBuf,
    hostname: Option<String>,
    allowed: Allowed,
}

impl Default for Sysfs {
    /// This host, and the cpus this process may use.
    fn default() -> Sysfs {
        Sysfs {
            sys: "/sys".into(),
            proc: "/proc".into(),
            hostname: None,
            allowed: Allowed::Process,
        }
    }
}

impl Sysfs {
    /// Reads `sys` and `proc` below `root` instead. The cpus of the process are then taken from
    /// `proc/self/status` there.
    #[must_use]
    pub fn at(root: &Path) -> Sysfs {
        Sysfs { sys: root.join("sys"), proc: root.join("proc"), ..Sysfs::default() }
    }

    /// Counts the cpus in `allowed`.
    #[must_use]
    pub fn allowed(self, allowed: Allowed) -> Sysfs {
        Sysfs { allowed, ..self }
    }

    /// Gives the host another name than the system does.
    #[must_use]
    pub fn hostname(self, name: &str) -> Sysfs {
        Sysfs { hostname: Some(name.to_owned()), ..self }
    }

    fn node_dir(&self) -> PathBuf {
        self.sys.join("devices/system/node")
    }

    /// NUMA nodes with all their cpus.
    fn numa(&self) -> Result<Vec<NumaNode>, TopoError> {
        let dir = self.node_dir();
        let mut nodes = Vec::new();
        for (id, path) in numbered(&dir, "node")? {
            let cpus = read_set(&path.join("cpulist"))?.unwrap_or_default();
            let memory = read(&path.join("meminfo"))?
                .and_then(|text| kib_of(&text, "MemTotal:"))
                .unwrap_or(0);
            nodes.push(NumaNode { id, cpus, memory });
        }
        Ok(nodes)
    }

    fn memory(&self) -> Result<u64, TopoError> {
        let text = read(&self.proc.join("meminfo"))?;
        Ok(text.and_then(|text| kib_of(&text, "MemTotal:")).unwrap_or(0))
    }

    /// PCI devices that compute. Counted only when a compute driver has them: NVIDIA's own, or
    /// amdgpu with a node of the kernel fusion driver that has compute units.
    fn gpus(&self) -> Result<Vec<Gpu>, TopoError> {
        let mut found = BTreeMap::new();
        let nvidia = self.proc.join("driver/nvidia/gpus");
        for (name, _) in entries(&nvidia)? {
            let busid = name.to_ascii_lowercase();
            let device = self.sys.join("bus/pci/devices").join(&busid);
            let pci_id = (VENDOR_NVIDIA, hex_file(&device.join("device"))?.unwrap_or(0));
            found.insert(busid, pci_id);
        }
        let computing = self.amd_render_minors()?;
        for (minor, node) in numbered(&self.sys.join("class/drm"), "renderD")? {
            let device = node.join("device");
            let Some(vendor) = hex_file(&device.join("vendor"))? else { continue };
            let counts = match vendor {
                VENDOR_NVIDIA => link_name(&device.join("driver")).as_deref() == Some("nvidia"),
                VENDOR_AMD => computing.contains(&minor),
                _ => false,
            };
            if counts && let Some(busid) = link_name(&device) {
                found.insert(busid, (vendor, hex_file(&device.join("device"))?.unwrap_or(0)));
            }
        }
        Ok(found.into_iter().map(|(busid, pci_id)| Gpu { busid, pci_id }).collect())
    }

    /// The render nodes behind which AMD's compute driver sees something that computes.
    fn amd_render_minors(&self) -> Result<BTreeSet<u32>, TopoError> {
        let mut minors = BTreeSet::new();
        for (_, node) in entries(&self.sys.join("class/kfd/kfd/topology/nodes"))? {
            let Some(text) = read(&node.join("properties"))? else { continue };
            let property = |name: &str| {
                let mut words = text.lines().map(|line| line.split_ascii_whitespace());
                let value = words.find_map(|mut w| (w.next() == Some(name)).then(|| w.next()));
                value.flatten().and_then(|v| v.parse::<u32>().ok()).unwrap_or(0)
            };
            if property("simd_count") > 0 {
                minors.insert(property("drm_render_minor"));
            }
        }
        Ok(minors)
    }

    /// The cores within `allowed` in logical order, and their packages.
    fn cores(
        &self,
        numa: &[NumaNode],
        allowed: Option<&CpuSet>,
    ) -> Result<(Vec<CpuSet>, Vec<u32>), TopoError> {
        let dir = self.sys.join("devices/system/cpu");
        let listed = numbered(&dir, "cpu")?;
        if listed.is_empty() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(TopoError::Io { path: dir.join("cpu0"), source });
        }
        let online = read_set(&dir.join("online"))?;
        let online = online.unwrap_or_else(|| listed.keys().copied().collect());
        let mut cores = BTreeSet::new();
        let mut packages = BTreeSet::new();
        // What contains cores: packages, dies, clusters, shared caches, NUMA nodes.
        let mut groups: BTreeSet<CpuSet> = numa.iter().map(|node| node.cpus.clone()).collect();
        for (cpu, path) in listed {
            if !online.contains(cpu) {
                continue;
            }
            let topology = path.join("topology");
            let either = |new: &str, old: &str| match read_set(&topology.join(new)) {
                Ok(None) => read_set(&topology.join(old)),
                other => other,
            };
            let alone = || CpuSet::from_iter([cpu]);
            cores.insert(either("core_cpus_list", "thread_siblings_list")?.unwrap_or_else(alone));
            let package = either("package_cpus_list", "core_siblings_list")?;
            packages.insert(package.unwrap_or_else(|| online.clone()));
            groups.extend(read_set(&topology.join("die_cpus_list"))?);
            groups.extend(read_set(&topology.join("cluster_cpus_list"))?);
            for (_, cache) in numbered(&path.join("cache"), "index")? {
                groups.extend(read_set(&cache.join("shared_cpu_list"))?);
            }
        }
        groups.extend(packages.iter().cloned());
        // First restrict, then order: siblings go by the lowest cpu that is left.
        let left = |sets: BTreeSet<CpuSet>| match allowed {
            None => sets,
            Some(allowed) => sets.iter().map(|set| set.intersection(allowed)).collect(),
        };
        Ok(logical_order(left(cores), &left(packages), &left(groups)))
    }
}

/// Sorts `cores` as hwloc does: walking down the tree of what contains what, where siblings are
/// ordered by their lowest cpu. Returns each core with the number of its package.
fn logical_order(
    cores: BTreeSet<CpuSet>,
    packages: &BTreeSet<CpuSet>,
    groups: &BTreeSet<CpuSet>,
) -> (Vec<CpuSet>, Vec<u32>) {
    // For each cpu the groups it is in, so that no core is compared with every group.
    let mut around: BTreeMap<u32, Vec<&CpuSet>> = BTreeMap::new();
    for group in groups.iter().filter(|g| g.len() > 1) {
        for cpu in group.iter() {
            around.entry(cpu).or_default().push(group);
        }
    }
    let mut keyed: Vec<(Vec<u32>, CpuSet)> = cores
        .into_iter()
        .filter_map(|core| {
            let first = core.first()?;
            let mut chain: Vec<&CpuSet> = around.get(&first).cloned().unwrap_or_default();
            chain.retain(|group| core.is_subset(group));
            chain.sort_by_key(|group| std::cmp::Reverse(group.len()));
            let mut key: Vec<u32> = chain.iter().filter_map(|group| group.first()).collect();
            key.push(first);
            Some((key, core))
        })
        .collect();
    keyed.sort();
    let mut seen: Vec<&CpuSet> = Vec::new();
    let mut numbers = Vec::with_capacity(keyed.len());
    let mut by_cpu: BTreeMap<u32, &CpuSet> = BTreeMap::new();
    for package in packages {
        by_cpu.extend(package.iter().map(|cpu| (cpu, package)));
    }
    for (_, core) in &keyed {
        let package = core.first().and_then(|cpu| by_cpu.get(&cpu).copied());
        let place = seen.iter().position(|known| Some(*known) == package);
        let place = place.unwrap_or_else(|| {
            seen.extend(package);
            seen.len().saturating_sub(1)
        });
        numbers.push(u32::try_from(place).unwrap_or(u32::MAX));
    }
    (keyed.into_iter().map(|(_, core)| core).collect(), numbers)
}

impl Topology for Sysfs {
    fn discover(&self) -> Result<HostTopology, TopoError> {
        let allowed = match &self.allowed {
            Allowed::Process => Some(process_cpus(&self.proc.join("self/status"))?),
            Allowed::Only(cpus) => Some(cpus.clone()),
            Allowed::All => None,
        };
        let numa = self.numa()?;
        let (core_cpus, core_package) = self.cores(&numa, allowed.as_ref())?;
        let hostname = match &self.hostname {
            Some(name) => name.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let gpus = self.gpus()?;
        let memory = self.memory()?;
        let host = HostTopology { hostname, core_cpus, core_package, gpus, numa, memory };
        host.restricted(&allowed.map_or(Allowed::All, Allowed::Only))
    }
}

/// The cpus a process may run on, as its status file says. Unlike the system call this has no
/// fixed size.
pub(crate) fn process_cpus(status: &Path) -> Result<CpuSet, TopoError> {
    let text = fs::read_to_string(status)
        .map_err(|source| TopoError::Io { path: status.to_owned(), source })?;
    let content = |what: String| TopoError::Content { path: status.to_owned(), what };
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.ok_or_else(|| content("no Cpus_allowed_list".to_owned()))?;
    list.parse().map_err(|e: crate::CpuSetError| content(e.to_string()))
}

/// The text of a file; nothing when there is no such file, or when it belongs to a device that
/// is just going away.
fn read(path: &Path) -> Result<Option<String>, TopoError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(source) => Err(TopoError::Io { path: path.to_owned(), source }),
    }
}

fn read_set(path: &Path) -> Result<Option<CpuSet>, TopoError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let set = text.parse().map_err(|e: crate::CpuSetError| TopoError::Content {
        path: path.to_owned(),
        what: e.to_string(),
    })?;
    Ok(Some(set))
}

/// A file with one number like `0x10de`.
fn hex_file(path: &Path) -> Result<Option<u16>, TopoError> {
    let text = read(path)?;
    Ok(text.and_then(|text| u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()))
}

/// The number of bytes on the line of `text` with the word `name`, which gives it in kB.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace());
    let mut words = lines.find_map(|mut words| words.any(|w| w == name).then_some(words))?;
    words.next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a symbolic link points to, without the way there.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Names and paths of what is in a directory; nothing when there is none.
fn entries(dir: &Path) -> Result<BTreeMap<String, PathBuf>, TopoError> {
    let failed = |source| TopoError::Io { path: dir.to_owned(), source };
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(failed)?,
    };
    listed
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

/// The entries of a directory that are called `prefix` and a number, by number.
fn numbered(dir: &Path, prefix: &str) -> Result<BTreeMap<u32, PathBuf>, TopoError> {
    let number = |name: &str| {
        let digits = name.strip_prefix(prefix)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    Ok(entries(dir)?.into_iter().filter_map(|(name, p)| Some((number(&name)?, p))).collect())
}

#[cfg(test)]
mod tests;
