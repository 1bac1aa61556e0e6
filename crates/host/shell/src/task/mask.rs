//! The signal mask of a task.

#![expect(unsafe_code, reason = "the mask can only be set between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Lets what `command` will start take every signal: the shell blocks those that it reads from a
/// descriptor, and a mask survives exec.
pub(super) fn clear(command: &mut Command) {
    // SAFETY: between fork and exec one system call is made; nothing is allocated and no lock is
    // taken.
    unsafe {
        command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?));
    }
}
