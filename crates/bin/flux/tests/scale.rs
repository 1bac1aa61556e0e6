//! What the main job is held to: many jobs, many brokers, other launchers.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::process::{Command, Stdio};

use instance::{flux, instance, stdout};

#[test]
fn sixty_four_brokers_start_run_a_command_on_each_and_a_job_on_all() {
    let output = instance(
        64,
        &[],
        "flux exec -r all true && flux run -N64 hostname | wc -l
         flux exec -r all flux getattr rank | sort -n | uniq | wc -l",
    );
    assert_eq!(stdout(&output), "64\n64\n");
}

#[test]
fn a_thousand_jobs_of_one_submission_are_waited_for_and_listed() {
    let output =
        flux().args(["start", "flux", "submit", "--cc=1-1000", "--wait", "true"]).output().unwrap();
    assert_eq!(stdout(&output).lines().count(), 1000);
    let output = flux()
        .args(["start", "sh", "-c"])
        .arg("flux submit --quiet --cc=1-1000 --wait true && flux jobs -a")
        .output()
        .unwrap();
    let listed = stdout(&output);
    assert_eq!(listed.lines().filter(|line| line.contains(" CD ")).count(), 1000, "{listed}");
}

#[test]
fn brokers_start_under_the_launcher_of_mpich() {
    let version = Command::new("mpiexec").arg("--version").stdin(Stdio::null()).output();
    if !version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("HYDRA")) {
        eprintln!("skipped: the mpiexec of MPICH is not installed");
        return;
    }
    let flux = flux();
    let output = Command::new("mpiexec")
        .args(["-n", "4"])
        .arg(instance::program())
        .args(["start", "sh", "-c"])
        .arg("flux getattr size; flux run -N4 echo hi; flux resource info | cut -d, -f1")
        .envs(flux.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env_remove("FLUX_URI")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "4\nhi\nhi\nhi\nhi\n4 Nodes\n");
}
