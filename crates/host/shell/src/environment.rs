//! The environment of tasks: what the job brings, and what the shell adds.

use std::collections::BTreeMap;

use flux_id::{Idset, JobId};

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// What all tasks of one shell have in common.
#[derive(Debug, Clone)]
pub struct Common<'a> {
    /// Job id.
    pub id: JobId,
    /// Path of the enclosing instance among instances: `/`, `/fA`.
    pub parent_path: &'a str,
    /// URI of the local broker.
    pub uri: &'a str,
    /// Tasks of the job.
    pub ntasks: u32,
    /// Shells of the job.
    pub nnodes: u32,
    /// Directory of the job on this node.
    pub tmpdir: &'a str,
    /// Host of this shell.
    pub host: &'a str,
    /// GPUs to be visible; `None` when they are not controlled.
    pub gpus: Option<&'a Idset>,
    /// Settings for MPI libraries are wanted.
    pub mpi: bool,
}

/// The environment of the job with what the shell sets.
#[must_use]
pub fn common<'a>(
    job: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    common: &Common<'_>,
) -> Environment {
    let mut env = Environment::new();
    for (name, value) in job {
        match value {
            Some(value) => drop(env.insert(name.to_string(), value.to_string())),
            None => drop(env.remove(name)),
        }
    }
    let mut set = |name: &str, value: String| drop(env.insert(name.to_string(), value));
    let f58 = common.id.f58();
    set("FLUX_URI", common.uri.to_string());
    set("FLUX_KVS_NAMESPACE", format!("job-{}", common.id.dec()));
    set("FLUX_JOB_ID_PATH", format!("{}/{f58}", common.parent_path.trim_end_matches('/')));
    set("FLUX_JOB_ID", f58);
    set("FLUX_JOB_SIZE", common.ntasks.to_string());
    set("FLUX_JOB_NNODES", common.nnodes.to_string());
    set("FLUX_JOB_TMPDIR", common.tmpdir.to_string());
    set("FLUX_TERMINUS_SESSION", "0".to_string());
    if common.mpi {
        set("OMPI_MCA_btl_vader_backing_directory", common.tmpdir.to_string());
    }
    if let Some(gpus) = common.gpus {
        set("CUDA_VISIBLE_DEVICES", visible(gpus));
        if !env.contains_key("CUDA_DEVICE_ORDER") {
            env.insert("CUDA_DEVICE_ORDER".to_string(), "PCI_BUS_ID".to_string());
        }
    }
    env.remove("FLUX_PROXY_REMOTE");
    if let Some(hostname) = env.get_mut("HOSTNAME") {
        common.host.clone_into(hostname);
    }
    env
}

/// GPUs as CUDA reads them.
#[must_use]
pub fn visible(gpus: &Idset) -> String {
    if gpus.is_empty() {
        return "-1".to_string();
    }
    gpus.ids().map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

/// Adds what differs between tasks.
pub fn for_task(env: &mut Environment, rank: u32, index: u32) {
    env.insert("FLUX_TASK_RANK".to_string(), rank.to_string());
    env.insert("FLUX_TASK_LOCAL_ID".to_string(), index.to_string());
}

/// Adds what a PMI client looks for.
pub fn for_pmi(env: &mut Environment, fd: i32, rank: u32, size: u32) {
    env.insert("PMI_FD".to_string(), fd.to_string());
    env.insert("PMI_RANK".to_string(), rank.to_string());
    env.insert("PMI_SIZE".to_string(), size.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_brings_its_own_and_the_shell_adds() {
        let gpus = Idset::new();
        let job = [("A", Some("1")), ("B", Some("2")), ("B", None), ("HOSTNAME", Some("login"))];
        let given = Common {
            id: JobId(0x100_0000),
            parent_path: "/",
            uri: "local:///x",
            ntasks: 2,
            nnodes: 1,
            tmpdir: "/t",
            host: "h0",
            gpus: Some(&gpus),
            mpi: true,
        };
        let mut env = common(job, &given);
        for_task(&mut env, 1, 1);
        for_pmi(&mut env, 9, 1, 2);
        let f58 = JobId(0x100_0000).f58();
        assert_eq!(env["A"], "1");
        assert!(!env.contains_key("B"));
        assert_eq!(env["HOSTNAME"], "h0");
        assert_eq!(env["FLUX_JOB_ID_PATH"], format!("/{f58}"));
        assert_eq!(env["CUDA_VISIBLE_DEVICES"], "-1");
        assert_eq!(env["FLUX_TASK_LOCAL_ID"], "1");
        assert_eq!(env["PMI_FD"], "9");
        let nested = Common { parent_path: "/fA", ..given };
        assert_eq!(common([], &nested)["FLUX_JOB_ID_PATH"], format!("/fA/{f58}"));
    }
}
