//! What a host has: cores, their cpus, GPUs, memory.
//!
//! Cores count as hwloc counts them: logical indexes in the order of packages and what is inside
//! them, threads of one core together, only what this process may use. [`Sysfs`] reads the
//! running kernel, [`XmlFile`] an hwloc version 2 XML file; [`HostTopology::to_xml`] writes one.
//! This crate reports and decides nothing.
//!
//! Read [`HostTopology`] and [`Topology`] first.

mod cpuset;
mod sysfs;
mod xml_in;
mod xml_out;

pub use cpuset::{CPU_MAX, CpuSet, CpuSetError};
pub use sysfs::Sysfs;
pub use xml_in::{XmlFile, parse_xml};

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Why the topology of a host is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopoError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file says something that makes no sense.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The text is no hwloc XML.
    #[error("topology xml: {0}")]
    Xml(String),
    /// Nothing is left of the host within the allowed cpus.
    #[error("{host}: no core among the allowed cpus")]
    NoCores {
        /// The host.
        host: String,
    },
}

/// Something that knows the hardware of this host.
pub trait Topology {
    /// Finds out what the host has. May read files; takes milliseconds.
    ///
    /// # Errors
    /// [`TopoError`] when that is not known.
    fn discover(&self) -> Result<HostTopology, TopoError>;
}

/// Which cpus count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Allowed {
    /// Those this process may run on.
    #[default]
    Process,
    /// All of them (`resource.norestrict`, `FLUX_HWLOC_XMLFILE_NOT_THISSYSTEM`).
    All,
    /// Exactly these.
    Only(CpuSet),
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// The number the system gives it.
    pub id: u32,
    /// The allowed cpus that are near it; may be empty.
    pub cpus: CpuSet,
    /// Its memory in bytes.
    pub memory: u64,
}

/// One GPU: a PCI device that computes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gpu {
    /// PCI address such as `0000:c1:00.0`; empty when it is unknown.
    pub busid: String,
    /// PCI vendor and device number; zeros when unknown.
    pub pci_id: (u16, u16),
}

/// What a host has, restricted to the allowed cpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTopology {
    /// Name of the host.
    pub hostname: String,
    /// The cpus of each core, by its logical index.
    pub core_cpus: Vec<CpuSet>,
    /// For each core the number of its package, counted in logical order.
    pub core_package: Vec<u32>,
    /// GPUs by PCI address; the logical index is the position.
    pub gpus: Vec<Gpu>,
    /// NUMA nodes by number. There may be none.
    pub numa: Vec<NumaNode>,
    /// Memory of the host in bytes; 0 when unknown.
    pub memory: u64,
}

impl HostTopology {
    /// The logical indexes of the cores: 0 to their number.
    #[must_use]
    pub fn cores(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.core_cpus.len()).unwrap_or(u32::MAX)
    }

    /// The number of GPUs; their logical indexes count from 0.
    #[must_use]
    pub fn gpu_count(&self) -> u32 {
        u32::try_from(self.gpus.len()).unwrap_or(u32::MAX)
    }

    /// All cpus of all cores.
    #[must_use]
    pub fn cpus(&self) -> CpuSet {
        self.core_cpus.iter().fold(CpuSet::new(), |all, cpus| all.union(cpus))
    }

    /// The cpus of some cores, to bind a process to. Indexes that do not exist add nothing.
    #[must_use]
    pub fn cpus_of(&self, cores: impl IntoIterator<Item = u32>) -> CpuSet {
        cores
            .into_iter()
            .filter_map(|core| self.core_cpus.get(usize::try_from(core).ok()?))
            .fold(CpuSet::new(), |all, cpus| all.union(cpus))
    }

    /// The same host with only the cpus in `allowed`: cores without one are gone, and the rest
    /// is numbered anew, packages too.
    #[must_use]
    pub fn restrict(&self, allowed: &CpuSet) -> HostTopology {
        let mut rest = self.clone();
        let mut cores: Vec<(CpuSet, u32)> = self
            .core_cpus
            .iter()
            .zip(&self.core_package)
            .map(|(cpus, package)| (cpus.intersection(allowed), *package))
            .filter(|(cpus, _)| !cpus.is_empty())
            .collect();
        // Packages stay in the order of their lowest cpus, which may be others now.
        let mut lowest = BTreeMap::new();
        for (cpus, package) in &cores {
            let first = lowest.entry(*package).or_insert_with(|| cpus.first());
            *first = (*first).min(cpus.first());
        }
        let mut packages: Vec<(Option<u32>, u32)> =
            lowest.into_iter().map(|(package, first)| (first, package)).collect();
        packages.sort_unstable();
        let number: BTreeMap<u32, u32> =
            packages.iter().zip(0..).map(|((_, package), number)| (*package, number)).collect();
        for (_, package) in &mut cores {
            *package = number.get(package).copied().unwrap_or(u32::MAX);
        }
        cores.sort_by_key(|(_, package)| *package);
        (rest.core_cpus, rest.core_package) = cores.into_iter().unzip();
        for node in &mut rest.numa {
            node.cpus = node.cpus.intersection(allowed);
        }
        rest
    }

    /// Applies `allowed`, and insists on something being left.
    fn restricted(self, allowed: &Allowed) -> Result<HostTopology, TopoError> {
        let rest = match allowed {
            Allowed::All => self,
            Allowed::Process => self.restrict(&sysfs::process_cpus("/proc/self/status".as_ref())?),
            Allowed::Only(cpus) => self.restrict(cpus),
        };
        if rest.core_cpus.is_empty() {
            return Err(TopoError::NoCores { host: rest.hostname });
        }
        Ok(rest)
    }
}
