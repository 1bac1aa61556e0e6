//! The `flux` program: one binary, one subcommand per task.
//!
//! `flux NAME` runs a builtin command of [`commands::COMMANDS`], else an executable `flux-NAME`
//! found in `FLUX_EXEC_PATH`.

mod attach;
mod broker;
mod commands;
mod dispatch;
mod ending;
mod failure;
mod follow;
mod jobs;
mod keytree;
mod listing;
mod output;
mod release;
mod resources;
mod resume;
mod session;
mod submission;

use std::process::ExitCode;

/// Most of what a broker does for a job is to build and drop small messages: with the allocator of
/// glibc nearly a third of its time goes into that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let code = match dispatch::dispatch(std::env::args_os()) {
        Ok(code) => code,
        Err(failure) => {
            output::report(&failure);
            failure.code
        }
    };
    // A process exit status has eight bits; what does not fit is a failure all the same.
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
