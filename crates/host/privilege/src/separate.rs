//! Input is read and decoded in a child that has given up its rights: whatever goes wrong there,
//! and whatever helper runs there, has only the rights of the caller.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use crate::environment::Environment;
use crate::error::ImpError;
use crate::identity::Caller;
use crate::input::{Input, InputError};
use crate::start::{Fork, fork, leave};

/// Names a command whose output is read instead of the standard input.
pub const HELPER_VARIABLE: &str = "FLUX_IMP_EXEC_HELPER";

/// The input of `exec`, read in a process with the rights of the caller only.
///
/// # Errors
/// There is none, or it is malformed.
pub fn read(caller: &Caller, inherited: &Environment) -> Result<Input, ImpError> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(|error| ImpError::prepare("pipe", error))?;
    match fork()? {
        Fork::Child => {
            drop(from);
            leave(match caller.settle().and_then(|()| decode(inherited, File::from(to))) {
                Ok(()) => 0,
                Err(error) => {
                    crate::tell(&error);
                    1
                }
            })
        }
        Fork::Parent(child) => {
            drop(to);
            let input = Input::receive(File::from(from));
            // It has closed the pipe; whether and how it ends does not matter.
            let _ = waitpid(child, None);
            Ok(input?)
        }
    }
}

fn decode(inherited: &Environment, to: File) -> Result<(), ImpError> {
    let input = match inherited.get(HELPER_VARIABLE) {
        None => Input::read(std::io::stdin().lock())?,
        Some(helper) => from_helper(helper, inherited)?,
    };
    input.send(to).map_err(|error| ImpError::start("input", error))
}

fn from_helper(helper: &str, env: &Environment) -> Result<Input, ImpError> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", helper])
        .env_clear()
        .envs(env.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| ImpError::start("helper", error))?;
    let input = match &mut child.stdout {
        Some(output) => Input::read(output.by_ref()),
        None => Err(InputError::Nothing),
    };
    let status = child.wait().map_err(|error| ImpError::start("helper", error))?;
    if !status.success() {
        return Err(ImpError::start("helper", format!("'{helper}': {status}")));
    }
    Ok(input?)
}
