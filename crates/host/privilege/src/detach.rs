//! What a started process must not share with the caller: its terminal, its keys, its place in the
//! order in which the kernel ends processes when memory is short.
#![expect(unsafe_code, reason = "keyctl has no safe form")]

use std::fs;
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use crate::error::ImpError;

/// Where a process says how willingly it is ended when memory is short.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// In the process that is to become the program, while it has all rights.
///
/// # Errors
/// Something would be shared.
pub(crate) fn from_caller() -> Result<(), ImpError> {
    // A terminal of the caller could be typed into by who has it as controlling terminal.
    nix::unistd::setsid().map_err(|error| ImpError::start("setsid", error))?;
    own_keys()?;
    expendable();
    Ok(())
}

/// Leaves the session keyring of the caller for a new one: who is in it may read its keys.
fn own_keys() -> Result<(), ImpError> {
    // SAFETY: the operation takes a name or null, for a keyring without one, and touches no memory.
    let done = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    };
    match Errno::result(done) {
        // A kernel, or a container, without keys.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(ImpError::start("session keyring", error)),
    }
}

/// The instance may be one that is spared when memory is short; what runs in it is not.
fn expendable() {
    let spared = fs::read_to_string(OOM_SCORE)
        .is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|score| score < 0));
    if spared {
        // Whoever asks for more to be ended is let. Without `/proc` there is nothing to write to.
        drop(fs::write(OOM_SCORE, "0"));
    }
}
