//! The hardware of the host, looked at once per instance.
//!
//! The system tells of its cpus in many small files; reading them all would be a good part of a
//! short job, more so on large nodes. So the first shell leaves what it found in the broker's run
//! directory, as hwloc XML.

use std::fs;
use std::path::{Path, PathBuf};

use flux_topo::{CpuSet, HostTopology, Sysfs, TopoError, Topology, parse_xml};

/// Where it is kept: beside the broker's socket.
fn kept_at(uri: &str) -> Option<PathBuf> {
    let socket = uri.strip_prefix("local://")?;
    Some(Path::new(socket).parent()?.join("shell-topology.xml"))
}

/// The cpus that this process may use.
fn allowed() -> Option<CpuSet> {
    let cpus = rustix::thread::sched_getaffinity(None).ok()?;
    let cpu = |cpu: u32| cpus.is_set(cpu as usize).then_some(cpu);
    let most = u32::try_from(rustix::thread::CpuSet::MAX_CPU).ok()?;
    Some((0..most).filter_map(cpu).collect())
}

fn read(path: &Path) -> Option<HostTopology> {
    let found = parse_xml(&fs::read_to_string(path).ok()?).ok()?;
    // It is of another time when the cpus are others.
    (found.cpus() == allowed()?).then_some(found)
}

/// Leaves it for others. Whoever reads meanwhile sees nothing or all of it.
fn keep(path: &Path, found: &HostTopology) -> std::io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let kept = fs::write(&new, found.to_xml()).and_then(|()| fs::rename(&new, path));
    if kept.is_err() {
        // Nothing is left behind on a full disk.
        drop(fs::remove_file(&new));
    }
    kept
}

/// The hardware of this host, for the shell of a broker with this URI.
///
/// # Errors
/// When the system does not tell.
pub fn of_host(uri: &str) -> Result<HostTopology, TopoError> {
    let path = kept_at(uri);
    if let Some(found) = path.as_deref().and_then(read) {
        return Ok(found);
    }
    let found = Sysfs::default().discover()?;
    if let Some(path) = path {
        // Guests may not write there: they look each time.
        drop(keep(&path, &found));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let uri = format!("local://{}/local-0", dir.path().display());
        let first = of_host(&uri).unwrap();
        let kept = dir.path().join("shell-topology.xml");
        assert!(kept.exists());
        assert_eq!(of_host(&uri).unwrap().core_cpus, first.core_cpus);
        fs::write(&kept, "nonsense").unwrap();
        assert_eq!(of_host(&uri).unwrap().core_cpus, first.core_cpus);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
