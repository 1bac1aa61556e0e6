//! `flux perilog-run`: a prolog or epilog for those who configured it as the guide shows: first the
//! scripts of a directory, here, then a command on every node of the job.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{ArgMatches, Command};

use super::program::{Program, counted, flag, text, value};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::script("flux-perilog-run");
/// Where the directories of scripts are.
const SYSTEM: &str = "/etc/flux/system";

/// The options of `flux perilog-run`.
pub(crate) fn command() -> Command {
    let stage = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(value("exec-per-rank", 'e', "CMD[,ARGS...]", "Run this on every rank of the job"))
            .arg(value(
                "exec-directory",
                'd',
                "DIR",
                "Run the scripts of this directory here (default: /etc/flux/system/NAME.d)",
            ))
            .arg(flag("exit-on-first-error", None, "Stop at the first script that fails"))
            .arg(counted("verbose", 'v', "Say what is run"))
    };
    Command::new("perilog-run")
        .about("Run the prolog or epilog of a job (for job-manager.prolog and .epilog)")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(stage("prolog", "Run a prolog"))
        .subcommand(stage("epilog", "Run an epilog"))
}

/// Runs `flux perilog-run`; the exit status is the highest of all that ran.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((stage, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let job = std::env::var("FLUX_JOB_ID")
        .map_err(|_| PROGRAM.fail("FLUX_JOB_ID is not set: this runs for a job"))?;
    let verbose = matches.get_count("verbose") > 0;
    let mut worst = 0;
    for script in scripts(&directory(stage, matches), matches)? {
        if verbose {
            output::error_line(&format!("flux-perilog-run: running {}", script.display()));
        }
        let code = status(&mut Process::new(&script), &script.display().to_string())?;
        worst = worst.max(code);
        if code != 0 && matches.get_flag("exit-on-first-error") {
            return Ok(worst);
        }
    }
    if let Some(command) = text(matches, "exec-per-rank") {
        let program = std::env::current_exe()
            .map_err(|error| PROGRAM.fail(format!("where is this program: {error}")))?;
        let mut process = Process::new(program);
        process.args(["exec", "--noinput", "--label-io", "--jobid", &job, "env"]);
        for name in ["FLUX_JOB_ID", "FLUX_JOB_USERID", "FLUX_JOB_RANKS"] {
            if let Ok(value) = std::env::var(name) {
                process.arg(format!("{name}={value}"));
            }
        }
        process.args(command.split(','));
        worst = worst.max(status(&mut process, command)?);
    }
    Ok(worst)
}

fn directory(stage: &str, matches: &ArgMatches) -> PathBuf {
    text(matches, "exec-directory")
        .map_or_else(|| Path::new(SYSTEM).join(format!("{stage}.d")), PathBuf::from)
}

/// The executables of a directory, by name. One that is asked for must be there.
fn scripts(directory: &Path, matches: &ArgMatches) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && text(matches, "exec-directory").is_none() =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(PROGRAM.fail(format!("{}: {error}", directory.display()))),
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::metadata(path)
                .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Runs it to its end; the exit code, or 128 and the signal.
fn status(process: &mut Process, name: &str) -> Result<i32, Failure> {
    use std::os::unix::process::ExitStatusExt;
    let status = process.status().map_err(|error| PROGRAM.fail(format!("{name}: {error}")))?;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}
