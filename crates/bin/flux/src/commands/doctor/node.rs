//! The owner, hardware against R, disk, limits, systemd.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use flux_topo::Topology;
use serde_json::Value;

use super::Site;
use super::finding::Report;
use super::network::{Place, names_host};

/// Bytes that a state directory should have free.
const ROOM: u64 = 1 << 30;
/// Descriptors that a broker of a large instance needs.
const FILES: u64 = 8192;

/// The owner of the instance exists.
pub(crate) fn owner(site: &Site, report: &mut Report) {
    const NAME: &str = "owner";
    let Some(owner) = &site.owner else {
        let advice = format!(
            "useradd --system --uid N --user-group --home-dir /var/lib/flux {}, with the same N on \
             all nodes",
            site.user
        );
        return report.fail(NAME, format!("there is no user {}", site.user), &advice);
    };
    if !owner.dir.is_dir() {
        let text = format!("the home of {}, {}, is not there", site.user, owner.dir.display());
        return report.fail(NAME, text, "make it, or install the package");
    }
    if owner.uid.is_root() {
        return report.fail(NAME, "the owner is root", "use an account of its own");
    }
    report.ok(NAME, format!("{} has uid {}, home {}", site.user, owner.uid, owner.dir.display()));
}

/// R names this node, and what it says of it is there.
pub(crate) fn resources(site: &Site, place: Option<&Place>, report: &mut Report) {
    const NAME: &str = "resources";
    let Some(path) = site.text("resource.path") else {
        if site.get("resource.config").is_none() && place.is_some() {
            let text = "no R is configured: each node is taken as it is found when it comes";
            report.warn(NAME, text, "make R with flux R encode, and set resource.path");
        }
        return;
    };
    let make = "make it: flux R encode --hosts=HOSTS --cores=IDS >R";
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return report.fail(NAME, format!("{path}: {error}"), make),
    };
    let r: Value = match serde_json::from_str(&text) {
        Ok(r) => r,
        Err(error) => return report.fail(NAME, format!("{path}: {error}"), make),
    };
    if let Err(error) = flux_model::resource_set::ResourceSet::from_value(&r) {
        return report.fail(NAME, format!("{path}: {error}"), make);
    }
    let Some(said) = names_host(&r, &site.host) else {
        return report.ok(NAME, format!("{path} does not name {}: it gets no jobs", site.host));
    };
    let Ok(found) = flux_topo::Sysfs::default().discover() else {
        return report.warn(NAME, "the hardware cannot be read", "is /sys mounted?");
    };
    let cores: flux_id::Idset = found.cores().collect();
    let missing = said.cores.difference(&cores);
    if !missing.is_empty() {
        let text = format!("{path} gives {} core {missing}, which it does not have", site.host);
        return report.fail(NAME, text, "correct --cores of flux R encode: jobs would share cores");
    }
    if said.gpus.len() > u64::from(found.gpu_count()) {
        let text =
            format!("{path} gives it {} gpus, it has {}", said.gpus.len(), found.gpu_count());
        return report.fail(NAME, text, "correct --gpus of flux R encode");
    }
    report.ok(NAME, format!("cores {} of {cores} are in R", said.cores));
}

/// The state directory is the owner's, and has room.
pub(crate) fn disk(site: &Site, place: Option<&Place>, report: &mut Report) {
    const NAME: &str = "disk";
    let path = Path::new("/var/lib/flux");
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            let advice = format!("install -d -m 700 -o {} {}", site.user, path.display());
            return report.fail(NAME, format!("{}: {error}", path.display()), &advice);
        }
    };
    if let Some(owner) = &site.owner
        && found.uid() != owner.uid.as_raw()
    {
        let advice = format!("chown -R {}: {}", site.user, path.display());
        return report.fail(NAME, format!("{} is not the owner's", path.display()), &advice);
    }
    if found.mode() & 0o077 != 0 {
        let text = format!("{} has mode {:o}", path.display(), found.mode() & 0o777);
        return report.fail(NAME, text, "chmod 700 it: it holds what users submit");
    }
    let Ok(disk) = nix::sys::statvfs::statvfs(path) else { return };
    let free = disk.fragment_size() * disk.blocks_available();
    let shown = format!("{}: {} MiB free", path.display(), free >> 20);
    // Only the leader keeps the store there.
    if free < ROOM && place.is_none_or(|place| place.rank == 0) {
        let advice = "give it room, or purge old jobs (job-manager.inactive-age-limit)";
        return report.warn(NAME, shown, advice);
    }
    report.ok(NAME, shown);
}

fn systemctl(words: &[&str]) -> Option<String> {
    let done = Command::new("systemctl").args(words).output().ok()?;
    Some(String::from_utf8_lossy(&done.stdout).trim().to_string())
}

/// The broker may open enough files.
pub(crate) fn limits(report: &mut Report) {
    const NAME: &str = "limits";
    let Some(text) = systemctl(&["show", "flux", "--property=LimitNOFILE", "--value"]) else {
        return;
    };
    match text.parse::<u64>() {
        Ok(files) if files < FILES => {
            let advice = "set LimitNOFILE of flux.service (systemctl edit flux)";
            report.warn(NAME, format!("flux.service may open {files} files"), advice);
        }
        Ok(files) => report.ok(NAME, format!("flux.service may open {files} files")),
        // infinity, or no unit: the next check tells.
        Err(_) => {}
    }
}

/// systemd knows the unit, and will start it.
pub(crate) fn unit(site: &Site, report: &mut Report) {
    const NAME: &str = "systemd";
    if !Path::new("/run/systemd/system").exists() {
        let text = "systemd does not run here: nothing starts the broker again";
        return report.warn(NAME, text, "start /usr/libexec/flux/flux-broker by other means");
    }
    let enabled = systemctl(&["is-enabled", "flux"]).unwrap_or_default();
    let active = systemctl(&["is-active", "flux"]).unwrap_or_default();
    match (enabled.as_str(), active.as_str()) {
        ("", _) | ("not-found", _) => {
            report.fail(NAME, "there is no flux.service", "install the package");
        }
        (_, "failed") => {
            report.fail(NAME, "flux.service has failed", "look at: journalctl -u flux -n 20");
        }
        ("enabled", "active") => report.ok(NAME, "flux.service is enabled and active"),
        (_, "active") => {
            report.warn(NAME, "flux.service is not enabled", "systemctl enable flux");
        }
        _ if site.runs => report.ok(NAME, "a broker runs"),
        (_, state) => {
            report.warn(NAME, format!("flux.service is {state}"), "systemctl enable --now flux");
        }
    }
}

/// Where job shells are to be units, there is a manager for them.
pub(crate) fn job_units(site: &Site, report: &mut Report) {
    const NAME: &str = "job units";
    if site.text("exec.service") != Some("sdexec") {
        return;
    }
    let state = systemctl(&["is-active", "flux-jobs"]).unwrap_or_default();
    if state != "active" {
        let text = format!("exec.service is \"sdexec\", and flux-jobs.service is {state}");
        return report.fail(NAME, text, "systemctl enable --now flux-jobs");
    }
    let group = systemctl(&["show", "flux-jobs", "--property=ControlGroup", "--value"]);
    let file = format!("/sys/fs/cgroup{}/cgroup.controllers", group.unwrap_or_default());
    let controllers = std::fs::read_to_string(file).unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "cpuset") {
        return report.ok(NAME, "flux-jobs.service confines jobs to their cores");
    }
    let text = "there is no cgroup controller cpuset: the cores of a job are an affinity only";
    report.warn(NAME, text, "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)");
}
