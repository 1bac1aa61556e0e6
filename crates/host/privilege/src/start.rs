//! New processes.
#![expect(unsafe_code, reason = "fork and _exit have no safe form")]

use std::convert::Infallible;
use std::ffi::CString;

use nix::libc;
use nix::unistd::{ForkResult, Pid};

use crate::environment::Environment;
use crate::error::ImpError;

/// Which process goes on.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new one.
    Child,
    /// This one, with the id of the new one.
    Parent(Pid),
}

/// Makes a copy of this process.
///
/// # Errors
/// There are too many.
pub(crate) fn fork() -> Result<Fork, ImpError> {
    // SAFETY: the program has one thread, so that no lock can be held by another.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => Ok(Fork::Child),
        Ok(ForkResult::Parent { child }) => Ok(Fork::Parent(child)),
        Err(error) => Err(ImpError::start("fork", error)),
    }
}

/// Ends a forked process without running what the original has registered for its end.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// A program with its arguments and its whole environment.
#[derive(Debug, Clone)]
pub struct Program {
    /// Absolute path.
    pub path: String,
    /// Arguments, the first being the program's name.
    pub arguments: Vec<String>,
    /// Everything it gets.
    pub environment: Environment,
}

impl Program {
    /// Becomes the program.
    ///
    /// # Errors
    /// It cannot be executed.
    pub(crate) fn execute(&self) -> Result<Infallible, ImpError> {
        let wrong = |_| ImpError::start("exec", "argument has a NUL character");
        let path = CString::new(self.path.as_str()).map_err(wrong)?;
        let arguments: Vec<CString> = self
            .arguments
            .iter()
            .map(|word| CString::new(word.as_str()).map_err(wrong))
            .collect::<Result<_, _>>()?;
        nix::unistd::execve(&path, &arguments, &self.environment.to_c()).map_err(|error| {
            let text = format!("{}: {}", self.path, error.desc());
            ImpError::Start { what: "exec", text }
        })
    }

    /// In a forked child: gets ready, becomes the program, and if that fails tells why.
    pub(crate) fn replace(&self, ready: impl FnOnce() -> Result<(), ImpError>) -> ! {
        let error = match ready().and_then(|()| self.execute()) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        crate::tell(&error);
        leave(126)
    }
}
