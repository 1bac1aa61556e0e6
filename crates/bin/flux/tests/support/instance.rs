//! Real instances for tests: a script is their initial program, with `flux` on its path.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flux"))
}

/// `flux` with a tidy environment: on the path, outside of any instance, without colours, in UTC.
pub(crate) fn flux() -> Command {
    let directory = program().parent().expect("a program is in a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program());
    command
        .env("PATH", format!("{}:{path}", directory.display()))
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .env("NO_COLOR", "1")
        .env_remove("FLUX_URI")
        .env_remove("FLUX_KVS_NAMESPACE")
        .stdin(Stdio::null());
    command
}

/// Starts an instance of `size` brokers with a shell script as its initial program, and waits.
pub(crate) fn instance(size: u32, options: &[&str], script: &str) -> Output {
    let mut command = flux();
    command.args(["start", "-s", &size.to_string()]).args(options).args(["sh", "-c", script]);
    command.output().expect("flux starts")
}

/// Standard output of a script that must succeed.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\nstdout: {out}\nstderr: {err}", output.status);
    out
}

/// Standard error of a script.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The top of the project.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}
