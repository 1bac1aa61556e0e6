//! `flux perilog-run`: a prolog or epilog for those who configured it as the guide shows: first the
//! scripts of a directory, here, then a command on every node of the job.

use std::path::Path;
use std::process::Command as Process;

use clap::Command;

use super::program::{Program, counted, flag, text, value};
use super::system_scripts::{self, SYSTEM};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::script("flux-perilog-run");

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
    let chosen = text(matches, "exec-directory");
    let directory = chosen
        .map_or_else(|| Path::new(SYSTEM).join(format!("{stage}.d")), std::path::PathBuf::from);
    if verbose && chosen.is_some() && !directory.exists() {
        let text = format!("flux-perilog-run: {}: not there, nothing to run", directory.display());
        output::error_line(&text);
    }
    let scripts = system_scripts::of_directory(&directory);
    let scripts = scripts.map_err(|error| PROGRAM.fail(error))?;
    let stop = matches.get_flag("exit-on-first-error");
    let mut worst = system_scripts::run("flux-perilog-run", &scripts, stop, verbose)
        .map_err(|error| PROGRAM.fail(error))?;
    if worst != 0 && stop {
        return Ok(worst);
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
        let code = system_scripts::status(&mut process, command);
        worst = worst.max(code.map_err(|error| PROGRAM.fail(error))?);
    }
    Ok(worst)
}
