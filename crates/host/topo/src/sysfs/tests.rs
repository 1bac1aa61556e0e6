use std::os::unix::fs::symlink;

use super::*;

/// Unpacks a fixture: `PATH = TEXT`, where `|` ends a line of the text, or `PATH -> TARGET`.
fn unpack(tree: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in tree.lines().filter(|line| !line.starts_with('#')) {
        let parent = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        if let Some((path, target)) = line.split_once(" -> ") {
            symlink(target, parent(path)).unwrap();
        } else {
            let (path, text) = line.split_once(" = ").unwrap();
            fs::write(parent(path), text.replace('|', "\n") + "\n").unwrap();
        }
    }
    root
}

fn two_packages() -> tempfile::TempDir {
    unpack(include_str!("../../fixtures/two-packages-smt.tree"))
}

fn texts(sets: &[CpuSet]) -> Vec<String> {
    sets.iter().map(CpuSet::to_string).collect()
}

#[test]
fn cores_are_numbered_by_package_and_threads_are_one_core() {
    let root = two_packages();
    let host = Sysfs::at(root.path()).hostname("node1").discover().unwrap();
    assert_eq!(host.hostname, "node1");
    assert_eq!(texts(&host.core_cpus), ["0,4", "2,6", "1,5", "3,7"]);
    assert_eq!(host.core_package, [0, 0, 1, 1]);
    assert_eq!(host.cores(), 0..4);
    assert_eq!(host.cpus_of([1, 2, 99]).to_string(), "1-2,5-6");
    assert_eq!(host.memory, 3 << 30);
    assert_eq!(host.numa.iter().map(|n| n.memory).collect::<Vec<_>>(), [1 << 30, 2 << 30]);
    assert_eq!(texts(&[host.numa[1].cpus.clone()]), ["1,3,5,7"]);
    assert_eq!(host.gpu_count(), 0);
}

#[test]
fn only_allowed_cpus_count_and_cores_are_numbered_anew() {
    let root = two_packages();
    let cpus = "2,5,7".parse().unwrap();
    let host = Sysfs::at(root.path()).allowed(Allowed::Only(cpus)).discover().unwrap();
    assert_eq!(texts(&host.core_cpus), ["2", "5", "7"]);
    assert_eq!(host.core_package, [0, 1, 1]);

    // The package with the lowest cpu that is left comes first, whoever restricts.
    let cpus: CpuSet = "1,6".parse().unwrap();
    let all = Sysfs::at(root.path()).allowed(Allowed::All).discover().unwrap();
    let host = Sysfs::at(root.path()).allowed(Allowed::Only(cpus.clone())).discover().unwrap();
    assert_eq!(texts(&host.core_cpus), ["1", "6"]);
    assert_eq!(all.restrict(&cpus), host);

    fs::write(root.path().join("proc/self/status"), "Name: x\nCpus_allowed_list:\t6\n").unwrap();
    let host = Sysfs::at(root.path()).discover().unwrap();
    assert_eq!(texts(&host.core_cpus), ["6"]);
    let all = Sysfs::at(root.path()).allowed(Allowed::All).discover().unwrap();
    assert_eq!(all.cores(), 0..4);
}

#[test]
fn no_allowed_core_is_an_error() {
    let root = two_packages();
    let sysfs = Sysfs::at(root.path()).hostname("n").allowed(Allowed::Only("64".parse().unwrap()));
    assert_eq!(sysfs.discover().unwrap_err().to_string(), "n: no core among the allowed cpus");
}

#[test]
fn cores_that_share_a_cache_are_neighbours() {
    let root = unpack(include_str!("../../fixtures/shared-caches.tree"));
    let host = Sysfs::at(root.path()).discover().unwrap();
    assert_eq!(texts(&host.core_cpus), ["0", "2", "1", "3"]);
    assert!(host.numa.is_empty());
}

#[test]
fn gpus_are_pci_devices_that_compute_each_once() {
    let root = unpack(include_str!("../../fixtures/gpus.tree"));
    let host = Sysfs::at(root.path()).discover().unwrap();
    let gpus: Vec<_> = host.gpus.iter().map(|g| (g.busid.as_str(), g.pci_id)).collect();
    assert_eq!(
        gpus,
        [
            ("0000:41:00.0", (0x10de, 0x2330)),
            ("0000:81:00.0", (0x10de, 0x20b0)),
            ("0000:c1:00.0", (0x1002, 0x740c)),
        ]
    );
}

#[test]
fn a_missing_or_broken_tree_is_an_error_with_its_path() {
    let empty = tempfile::tempdir().unwrap();
    let error = Sysfs::at(empty.path()).allowed(Allowed::All).discover().unwrap_err();
    assert!(error.to_string().contains("sys/devices/system/cpu"), "{error}");
    let root = two_packages();
    let path = root.path().join("sys/devices/system/cpu/cpu1/topology/core_cpus_list");
    fs::write(&path, "1-x").unwrap();
    let error = Sysfs::at(root.path()).discover().unwrap_err();
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn this_host_has_a_topology() {
    let host = Sysfs::default().discover().unwrap();
    assert!(!host.core_cpus.is_empty() && !host.hostname.is_empty());
    let parallel = std::thread::available_parallelism().unwrap().get();
    assert!(host.cpus().len() >= parallel);
}
