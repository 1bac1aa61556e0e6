//! What `/proc` tells of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use flux_id::JobId;
use nix::time::{ClockId, clock_gettime};

/// Identity of this run of the kernel; empty when it cannot be told.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_string()
}

/// Seconds since 1970 by the wall clock.
pub(crate) fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Seconds since this node was booted.
fn uptime() -> f64 {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(up) => up.tv_sec() as f64 + up.tv_nsec() as f64 * 1e-9,
        Err(_) => f64::INFINITY,
    }
}

/// Whether this node was booted after something that happened at `since` by the wall clock of the
/// leader, and `age` seconds ago when that was sent. Clocks may differ, and a message may be late:
/// either tells.
pub(crate) fn was_booted(since: Option<f64>, age: Option<f64>) -> bool {
    let up = uptime();
    age.is_some_and(|age| up < age) || since.is_some_and(|since| wall() - up > since)
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_string).collect())
}

/// When a process was started, in clock ticks since the boot: with its id it names the process.
/// `None` when there is none, or only what is left of one that has ended.
pub(crate) fn born(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    if matches!(fields.first().map(String::as_str), Some("Z" | "X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Seconds since a process was started; it may have ended.
pub(crate) fn age(pid: i32) -> Option<f64> {
    let ticks: u64 = stat(pid)?.get(19)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let age = uptime() - ticks as f64 / per_second as f64;
    age.is_finite().then_some(age.max(0.0))
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Every process id.
fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Children of this process, including those that have ended and were not waited for.
pub(crate) fn children() -> io::Result<Vec<i32>> {
    let own = std::process::id();
    match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(text) => Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        // A kernel without that file: look at every process.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let own = i32::try_from(own).unwrap_or(0);
            Ok(all().into_iter().filter(|pid| parent(*pid) == Some(own)).collect())
        }
        Err(error) => Err(error),
    }
}

/// Every process that comes from one of `roots`, without these.
pub(crate) fn descendants(roots: &[i32]) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut todo) = (BTreeSet::new(), roots.to_vec());
    while let Some(pid) = todo.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if !roots.contains(child) && found.insert(*child) {
                todo.push(*child);
            }
        }
    }
    found.into_iter().collect()
}

/// The environment that a process was given.
fn environment(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

fn variable<'a>(environment: &'a [u8], name: &str) -> Option<&'a str> {
    let mut entries = environment.split(|&byte| byte == 0);
    let value = entries
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=".as_slice()))?;
    std::str::from_utf8(value).ok()
}

fn job_in(environment: &[u8]) -> Option<u64> {
    let text =
        variable(environment, "FLUX_JOB_ID").or_else(|| variable(environment, "FLUX_LAUNCH_ID"))?;
    text.parse().ok().map(|JobId(id)| id)
}

/// Which job of the broker behind `uri` the environment of a process names.
pub(crate) fn job_of(pid: i32, uri: Option<&str>) -> Option<u64> {
    enclosing_job_in(&environment(pid)?, uri)
}

/// The same; of a process that belongs to an instance which is a job of that broker, this job. The
/// ids of its own jobs mean others here.
fn enclosing_job_in(environment: &[u8], uri: Option<&str>) -> Option<u64> {
    let enclosing = variable(environment, "FLUX_ENCLOSING_ID");
    match enclosing.filter(|_| variable(environment, "FLUX_URI") != uri) {
        Some(text) => text.parse().ok().map(|JobId(id)| id),
        None => job_in(environment),
    }
}

/// What a `local://` URI means to a process: the socket in the file systems that it sees. `None`
/// where it sees none, or that cannot be told.
fn socket_of(pid: &str, uri: &str) -> Option<(u64, u64)> {
    let path = uri.strip_prefix("local://")?;
    let found = fs::metadata(format!("/proc/{pid}/root{path}")).ok()?;
    Some((found.dev(), found.ino()))
}

/// Every process whose environment names this job and the broker behind `uri`.
pub(crate) fn of_job(id: u64, uri: Option<&str>) -> Vec<i32> {
    let Some(own_socket) = uri.map(|uri| socket_of("self", uri)) else {
        return Vec::new();
    };
    // In a container that shows its processes here the same names mean another instance. A task
    // that has made itself other file systems, without such a socket, is still one of the job.
    let elsewhere = |pid: i32| {
        let theirs = uri.and_then(|uri| socket_of(&pid.to_string(), uri));
        theirs.is_some() && theirs != own_socket
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let theirs = |pid: &i32| {
        environment(*pid).is_some_and(|environment| {
            job_in(&environment) == Some(id)
                && variable(&environment, "FLUX_URI") == uri
                && !elsewhere(*pid)
                && born(*pid).is_some()
        })
    };
    all().into_iter().filter(|pid| *pid != own).filter(theirs).collect()
}

/// Whether a process has the same file systems as this one.
fn sees_our_files(pid: i32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    namespace(&pid.to_string()) == namespace("self")
}

/// Every job shell below the broker behind `uri`: this program, as started by a supervisor.
pub(crate) fn shells_of(uri: Option<&str>) -> Vec<i32> {
    let program = fs::read_link("/proc/self/exe").ok();
    if uri.is_none() || program.is_none() {
        return Vec::new();
    }
    let ours = |pid: &i32| {
        // In a container that shows its processes here the same names mean another instance.
        sees_our_files(*pid)
            && fs::read_link(format!("/proc/{pid}/exe")).ok() == program
            && environment(*pid).is_some_and(|environment| {
                variable(&environment, "FLUX_LAUNCH_ID").is_some()
                    // Tasks have this one too.
                    && variable(&environment, "FLUX_JOB_ID").is_none()
                    && variable(&environment, "FLUX_URI") == uri
            })
            && born(*pid).is_some()
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    all().into_iter().filter(|pid| *pid != own).filter(ours).collect()
}

/// Whether the kernel spares this process, and what it starts, when memory is short.
pub(crate) fn is_spared() -> bool {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse::<i32>().is_ok_and(|score| score < 0)
}

/// Lets a process that was just started be ended like any other when memory is short.
pub(crate) fn spare_no_more(pid: i32) {
    // One with other rights does so itself: the privileged launcher.
    drop(fs::write(format!("/proc/{pid}/oom_score_adj"), "0"));
}

/// The process group of a process.
pub(crate) fn group(pid: i32) -> Option<i32> {
    stat(pid)?.get(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_children_see_our_files() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        assert!(sees_our_files(i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!sees_our_files(i32::MAX));
    }

    #[test]
    fn a_process_is_known_by_the_time_of_its_start() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let first = born(pid);
        assert!(first.is_some() && first == born(pid));
        assert!(children().is_ok());
        assert!(descendants(&[i32::try_from(std::process::id()).unwrap()]).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(born(pid), None);
    }

    #[test]
    fn a_process_that_was_spared_is_so_no_more() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let file = format!("/proc/{}/oom_score_adj", child.id());
        // More than this one has everybody may set, and take back as far as it was.
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let own: i32 = own.trim().parse().unwrap();
        assert_eq!(is_spared(), own < 0);
        if own <= 0 {
            std::fs::write(&file, "300").unwrap();
            spare_no_more(i32::try_from(child.id()).unwrap());
            assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), "0");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_boot_is_told_by_either_clock() {
        let now = wall();
        assert!(!was_booted(None, None) && !was_booted(Some(now), Some(0.0)));
        assert!(was_booted(Some(1.0), None) && was_booted(Some(now), Some(1e12)));
    }

    #[test]
    fn the_boot_lies_in_the_past_and_has_a_name() {
        assert!(uptime() > 0.0 && uptime() < wall());
        let nested = b"FLUX_URI=local://b\0FLUX_JOB_ID=7\0FLUX_ENCLOSING_ID=9\0".as_slice();
        assert_eq!(enclosing_job_in(nested, Some("local://a")), Some(9));
        assert_eq!(enclosing_job_in(nested, Some("local://b")), Some(7));
        assert_eq!(enclosing_job_in(b"FLUX_JOB_ID=7\0", Some("local://a")), Some(7));
        let own = age(std::process::id().cast_signed());
        assert!(own.is_some_and(|age| age < uptime()), "{own:?}");
        assert_eq!(age(i32::MAX), None);
        assert_eq!(boot_id().len(), 36);
    }
}
