//! `posix_spawn` and `kill`, the calls that the standard library does not offer as they are
//! needed here: all signals to their default, descriptors passed on by number, RT signals.
#![expect(unsafe_code, reason = "posix_spawn and kill have no safe form with what is needed")]

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use flux_proto::Errno;
use nix::libc;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What to execute and what it inherits.
pub(crate) struct Spawn<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: Option<&'a CStr>,
    /// Descriptors here and their numbers there; equal numbers are passed on as they are.
    pub(crate) fds: &'a [(RawFd, RawFd)],
    /// Lead a new process group.
    pub(crate) own_group: bool,
    /// Limits of the new process.
    pub(crate) limits: &'a [(Resource, Rlimit)],
}

fn check(code: i32) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno(code.unsigned_abs())) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> Result<Self, Errno> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole object when it returns 0; only then is it taken as such.
        unsafe {
            check(libc::posix_spawn_file_actions_init(raw.as_mut_ptr()))?;
            Ok(Self(raw.assume_init()))
        }
    }

    fn dup2(&mut self, from: RawFd, to: RawFd) -> Result<(), Errno> {
        // SAFETY: the object is initialised; numbers are only recorded.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }

    fn chdir(&mut self, path: &CStr) -> Result<(), Errno> {
        // SAFETY: the object is initialised; the C string is copied.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, path.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once. It cannot fail for such an object.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> Result<Self, Errno> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init writes the whole object when it returns 0; only then is it taken as such.
        unsafe {
            check(libc::posix_spawnattr_init(raw.as_mut_ptr()))?;
            Ok(Self(raw.assume_init()))
        }
    }

    /// Default dispositions, nothing blocked, and a process group of its own if wanted.
    fn fresh(&mut self, own_group: bool) -> Result<(), Errno> {
        let mut flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        if own_group {
            flags |= libc::POSIX_SPAWN_SETPGROUP;
        }
        let (mut all, mut none) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: fill and empty initialise the sets (they cannot fail for valid pointers), which
        // are copied into the initialised attribute object.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(&mut self.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setsigmask(&mut self.0, none.as_ptr()))?;
            check(libc::posix_spawnattr_setpgroup(&mut self.0, 0))?;
            check(libc::posix_spawnattr_setflags(&mut self.0, flags as libc::c_short))
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once. It cannot fail for such an object.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// Starts a process: returns its id once it executes the program, or why it does not.
pub(crate) fn spawn(request: &Spawn<'_>) -> Result<i32, Errno> {
    let mut actions = Actions::new()?;
    for &(from, to) in request.fds {
        actions.dup2(from, to)?;
    }
    if let Some(cwd) = request.cwd {
        actions.chdir(cwd)?;
    }
    let mut attributes = Attributes::new()?;
    attributes.fresh(request.own_group)?;
    let (argv, env) = (pointers(request.argv), pointers(request.env));
    // Not before: what is prepared above may have numbers beyond a lower limit.
    let before = request.limits.iter().map(|(resource, _)| (*resource, getrlimit(*resource)));
    let before: Vec<_> = before.collect();
    for (resource, limit) in request.limits {
        // Within the hard limit this cannot be refused.
        let _ = setrlimit(*resource, *limit);
    }
    let mut pid = 0;
    // SAFETY: both objects are initialised, both arrays end with a null pointer and point to C
    // strings that live until the call returns; posix_spawn does not write through them.
    let code = unsafe {
        libc::posix_spawn(
            &mut pid,
            request.program.as_ptr(),
            &actions.0,
            &attributes.0,
            argv.as_ptr(),
            env.as_ptr(),
        )
    };
    for (resource, limit) in before {
        let _ = setrlimit(resource, limit);
    }
    check(code).map(|()| pid)
}

/// Sends a signal, real-time ones included, to a process or to its group.
///
/// # Errors
/// ESRCH, EPERM or EINVAL.
pub fn kill(pid: i32, group: bool, signum: i32) -> Result<(), Errno> {
    // 0 and -1 would mean far more than one process or group.
    if pid <= 1 {
        return Err(Errno::ESRCH);
    }
    // SAFETY: takes numbers only.
    match unsafe { libc::kill(if group { -pid } else { pid }, signum) } {
        0 => Ok(()),
        _ => Err(Errno(nix::errno::Errno::last_raw().unsigned_abs())),
    }
}
