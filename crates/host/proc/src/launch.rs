//! How a process is started and its status collected.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flux_proto::Errno;
use rustix::fs::{Access, access};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, waitpid};

use crate::spawn::{self, Spawn};

/// Where programs are searched when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// Those of this process.
    Inherit,
    /// These: stdin, stdout, stderr.
    Given([OwnedFd; 3]),
}

/// What to start. Every descriptor in it is close-on-exec; the process gets copies.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments; at least one. A program without a slash is searched in the `PATH`
    /// of `env`.
    pub argv: Vec<CString>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<CString>,
    /// Working directory, by default that of this process.
    pub cwd: Option<CString>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Descriptors that keep their number.
    pub channels: Vec<OwnedFd>,
    /// The process leads a process group of its own.
    pub own_group: bool,
    /// Limits that it gets instead of those of this process, within the hard ones. They hold here
    /// for as long as the call takes: only for processes with one thread.
    pub limits: Vec<(Resource, Rlimit)>,
}

/// Starts processes, and knows how they ended.
///
/// [`Direct`] makes them children of this process. Processes that outlive it (of a supervisor or
/// a service manager) come from other launchers. Processes are launched on a thread of their own,
/// since that takes as long as the system needs, and collected on the loop's.
pub trait Launcher: Send + Sync {
    /// Starts a process; returns its id once it executes the program.
    ///
    /// # Errors
    /// The errno of what failed: the exec itself, the working directory, a limit.
    fn launch(&self, launch: &Launch) -> Result<i32, Errno>;

    /// The wait status of a process, if it has ended. Its id may be used again afterwards.
    ///
    /// # Errors
    /// When it is no process of this launcher, or was collected already.
    fn collect(&self, pid: i32) -> Result<Option<i32>, Errno>;
}

/// Processes as children of this one, by `posix_spawn`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Direct {
    /// As [`Launcher::launch`], with a program that was found already; the first of `argv` is only
    /// its name.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch_at(self, launch: &Launch, program: &CStr) -> Result<i32, Errno> {
        execute(launch, program)
    }
}

impl Launcher for Direct {
    fn launch(&self, launch: &Launch) -> Result<i32, Errno> {
        let name = launch.argv.first().ok_or(Errno::EINVAL)?;
        if name.as_bytes().contains(&b'/') {
            return execute(launch, name);
        }
        // As execvp does: go on after what is missing or forbidden, and tell of the latter.
        let mut verdict = Errno::ENOENT;
        for directory in search_path(&launch.env).split(|&byte| byte == b':') {
            let mut path = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
            let Ok(path) = CString::new(path) else { continue };
            if let Err(errno) = may_execute(&path, launch.cwd.as_deref()) {
                if errno == Errno::EACCES {
                    verdict = errno;
                }
                continue;
            }
            match execute(launch, &path) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) => verdict = Errno::EACCES,
                result => return result,
            }
        }
        Err(verdict)
    }

    fn collect(&self, pid: i32) -> Result<Option<i32>, Errno> {
        let pid = Pid::from_raw(pid).ok_or(Errno::ECHILD)?;
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(ended) => Ok(ended.map(|(_, status)| status.as_raw())),
            Err(error) => Err(errno(error)),
        }
    }
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error().unsigned_abs())
}

fn search_path(env: &[CString]) -> &[u8] {
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH)
}

/// Looks before a process is made in vain.
fn may_execute(path: &CStr, cwd: Option<&CStr>) -> Result<(), Errno> {
    let here = Path::new(OsStr::from_bytes(path.to_bytes()));
    let found = match cwd {
        Some(cwd) => {
            access(Path::new(OsStr::from_bytes(cwd.to_bytes())).join(here), Access::EXEC_OK)
        }
        None => access(here, Access::EXEC_OK),
    };
    found.map_err(errno)
}

fn execute(launch: &Launch, program: &CStr) -> Result<i32, Errno> {
    let mut fds = Vec::with_capacity(3 + launch.channels.len());
    if let Stdio::Given(streams) = &launch.stdio {
        fds.extend(streams.iter().map(AsRawFd::as_raw_fd).zip(0..));
    }
    fds.extend(launch.channels.iter().map(|fd| (fd.as_raw_fd(), fd.as_raw_fd())));
    let request = Spawn {
        program,
        argv: &launch.argv,
        env: &launch.env,
        cwd: launch.cwd.as_deref(),
        fds: &fds,
        own_group: launch.own_group,
        limits: &launch.limits,
    };
    match spawn::spawn(&request) {
        // A script without an interpreter line is the shell's, as with execvp.
        Err(Errno::ENOEXEC) => {
            let mut argv = vec![c"/bin/sh".to_owned(), program.to_owned()];
            argv.extend(launch.argv.iter().skip(1).cloned());
            spawn::spawn(&Spawn { program: c"/bin/sh", argv: &argv, ..request })
        }
        result => result,
    }
}
