//! Processes of tasks.

mod mask;
mod terminal;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flux_proc::{Direct, Launch};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};

use crate::environment::{self, Environment};
use crate::rlimit::Limits;
pub use terminal::set_size;

/// Where a task's stdin comes from.
#[derive(Debug)]
pub enum Stdin {
    /// The shell writes it.
    Pipe,
    /// A file.
    File(File),
}

/// What is to be started.
#[derive(Debug)]
pub struct Start<'a> {
    /// Task rank.
    pub rank: u32,
    /// Tasks of the job.
    pub size: u32,
    /// Program and arguments.
    pub argv: &'a [String],
    /// Its whole environment.
    pub env: Environment,
    /// A process group of its own.
    pub own_group: bool,
    /// Simple PMI is served.
    pub pmi: bool,
    /// stdin, stdout and stderr are a pseudo terminal.
    pub terminal: bool,
    /// stdin, where it is no terminal.
    pub stdin: Stdin,
    /// Its limits.
    pub limits: &'a Limits,
}

/// A process with the shell's ends of its streams. All of them are non-blocking.
#[derive(Debug)]
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Readable at its end.
    pub exit: OwnedFd,
    /// Its stdin.
    pub stdin: Option<OwnedFd>,
    /// Its stdout.
    pub stdout: Option<OwnedFd>,
    /// Its stderr.
    pub stderr: Option<OwnedFd>,
    /// Its PMI requests.
    pub pmi: Option<UnixStream>,
    /// The controlling side of its terminal.
    pub terminal: Option<OwnedFd>,
    own_group: bool,
}

/// The exit code of a shell whose task cannot be started.
#[must_use]
pub fn start_failure_code(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::PermissionDenied => 126,
        io::ErrorKind::NotFound => 127,
        _ => 1,
    }
}

/// Finds a program on the path of the task, not of the shell.
fn find(program: &str, path: Option<&str>) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    if program.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut error = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
    for dir in path.unwrap_or("/bin:/usr/bin").split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(program);
        match candidate.metadata() {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(found) if found.is_file() => {
                error = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
            }
            _ => {}
        }
    }
    Err(error)
}

/// A pipe that nothing inherits by accident: where it is read, where it is written.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn nonblocking(fd: impl Into<OwnedFd>) -> io::Result<OwnedFd> {
    let fd = fd.into();
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

impl Process {
    /// Starts a task.
    ///
    /// # Errors
    /// What the system says; see [`start_failure_code`].
    pub fn start(start: Start<'_>) -> io::Result<Self> {
        let Some((program, args)) = start.argv.split_first() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let path = find(program, start.env.get("PATH").map(String::as_str))?;
        let mut env = start.env;
        let mut pmi = None;
        if start.pmi {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            environment::for_pmi(&mut env, theirs.as_raw_fd(), start.rank, start.size);
            pmi = Some((ours, theirs));
        }
        if start.terminal {
            return Self::on_terminal(&path, program, args, &env, pmi, start.limits);
        }
        let (stdin, ours_in) = match start.stdin {
            Stdin::Pipe => pipe().map(|(read, write)| (read, Some(write)))?,
            Stdin::File(file) => (OwnedFd::from(file), None),
        };
        let ((stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?);
        let (ours_pmi, theirs_pmi) = pmi.unzip();
        let word = |word: &str| CString::new(word).map_err(io::Error::from);
        let launch = Launch {
            argv: start.argv.iter().map(|text| word(text)).collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| word(&format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            cwd: None,
            stdio: flux_proc::Stdio::Given([stdin, theirs_out, theirs_err]),
            channels: theirs_pmi.map(OwnedFd::from).into_iter().collect(),
            own_group: start.own_group,
            limits: start.limits.wanted(),
        };
        let path = CString::new(path.into_os_string().into_vec())?;
        let pid = Direct
            .launch_at(&launch, &path)
            .map_err(|errno| io::Error::from_raw_os_error(errno.0.cast_signed()))?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            pid,
            exit: pidfd_open(pid, PidfdFlags::empty())?,
            stdin: ours_in.map(nonblocking).transpose()?,
            stdout: Some(nonblocking(stdout)?),
            stderr: Some(nonblocking(stderr)?),
            pmi: ours_pmi,
            terminal: None,
            own_group: start.own_group,
        })
    }

    /// A task whose streams are a terminal. It needs calls between fork and exec.
    fn on_terminal(
        path: &Path,
        program: &str,
        args: &[String],
        env: &Environment,
        pmi: Option<(UnixStream, UnixStream)>,
        limits: &Limits,
    ) -> io::Result<Self> {
        let mut command = Command::new(path);
        command.arg0(program).args(args).env_clear().envs(env);
        if let Some((_, theirs)) = &pmi {
            // Only the task inherits it: it is closed here before another one is started.
            rustix::io::fcntl_setfd(theirs, rustix::io::FdFlags::empty())?;
        }
        let terminal = nonblocking(terminal::attach(&mut command)?)?;
        mask::clear(&mut command);
        let child = limits.around(|| command.spawn())?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            pid,
            exit: pidfd_open(pid, PidfdFlags::empty())?,
            stdin: None,
            stdout: None,
            stderr: None,
            pmi: pmi.map(|(ours, _)| ours),
            terminal: Some(terminal),
            own_group: true,
        })
    }

    /// The wait status, once the process has ended.
    ///
    /// # Errors
    /// When it was waited for before.
    pub fn reap(&self) -> io::Result<Option<i32>> {
        Ok(waitpid(Some(self.pid), WaitOptions::NOHANG)?.map(|(_, status)| status.as_raw()))
    }

    /// Sends a signal to the process group of the task. One that has ended is ignored.
    pub fn kill(&self, signum: i32) {
        let Some(signal) = Signal::from_named_raw(signum) else {
            return self.kill_unnamed(signum);
        };
        // Only ESRCH is possible: gone already.
        let _ = if self.own_group {
            rustix::process::kill_process_group(self.pid, signal)
        } else {
            rustix::process::kill_process(self.pid, signal)
        };
    }

    /// Real time signals have no name.
    fn kill_unnamed(&self, signum: i32) {
        let text = format!("-{signum}");
        let pid = self.pid.as_raw_nonzero().get();
        let target = if self.own_group { format!("-{pid}") } else { pid.to_string() };
        // Rare enough for a process.
        if let Ok(mut child) = Command::new("kill").args([&text, "--", &target]).spawn() {
            drop(child.wait());
        }
    }
}

/// Reads what is there, up to 64 KiB. `None`: nothing now. Empty: the end.
pub fn read(fd: impl AsFd) -> Option<Vec<u8>> {
    use rustix::io::Errno;
    // Most reads find little or the end: a large buffer costs more than they do.
    let mut first = [0; 4 << 10];
    let count = match rustix::io::read(&fd, &mut first) {
        Ok(count) => count,
        Err(Errno::AGAIN | Errno::INTR) => return None,
        // A terminal whose last user has gone gives EIO.
        Err(_) => 0,
    };
    let mut data = first[..count].to_vec();
    if count == first.len() {
        data.reserve_exact((64 << 10) - count);
        // The end, if it comes now, or a failure comes again.
        let _ = rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut data));
    }
    Some(data)
}
