//! Shells without an exec.
//!
//! To load and link the program again costs a millisecond of cpu per shell, which is most of what
//! a short job costs. A shell of the owner that is this very program is a copy of the supervisor
//! instead, which goes on as the shell: it has memory of the same user, and no thread but one.
//!
//! What others see of it is what an exec would show: its words and, of its environment, the
//! variables that say whose it is stand where `/proc` shows them.
#![expect(unsafe_code, reason = "fork, and the memory that /proc/PID/environ shows")]

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::libc;
use nix::sys::signal::SigSet;

/// What this program can be without another exec.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    /// The words for `main`, if a command line means this.
    pub words: fn(&[String]) -> Option<Vec<String>>,
    /// Runs until its exit code.
    pub main: fn(&[String]) -> i32,
}

/// Makes copies of this process.
pub(super) struct Fork {
    inside: Inside,
    /// Device and inode of the program that runs.
    program: (u64, u64),
    /// Where `/proc` takes the words of this process from: begin and end.
    words: (usize, usize),
    /// The same for its environment.
    variables: (usize, usize),
}

/// How to become a shell.
pub(super) struct Plan {
    /// For its main function.
    words: Vec<String>,
    /// The environment that others see.
    shown: Vec<u8>,
}

/// What a shell gets.
pub(super) struct Child<'a> {
    pub(super) cmdline: &'a [String],
    pub(super) env: &'a [CString],
    pub(super) cwd: &'a CStr,
    pub(super) stdio: &'a [OwnedFd; 3],
}

fn identity(path: &str) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl Fork {
    /// `None` where `/proc` does not tell enough.
    pub(super) fn new(inside: Inside) -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        // Fields 48 to 51, where the one after the name is the third.
        let mut fields = rest.split_whitespace().skip(45);
        let mut next = || fields.next()?.parse::<usize>().ok().filter(|at| *at > 0);
        let (words, variables) = ((next()?, next()?), (next()?, next()?));
        let program = identity("/proc/self/exe")?;
        Some(Self { inside, program, words, variables })
    }

    /// What a shell that this process can become needs, if it can. A program that was replaced
    /// meanwhile is another one.
    pub(super) fn plan(&self, cmdline: &[String], env: &[CString]) -> Option<Plan> {
        let words = (self.inside.words)(cmdline)?;
        let program = cmdline.first().filter(|program| program.contains('/'))?;
        let room = self.variables.1.saturating_sub(self.variables.0);
        let shown = shown(env, room)?;
        (identity(program)? == self.program).then_some(Plan { words, shown })
    }

    /// Starts a shell; its process id.
    pub(super) fn start(&self, plan: &Plan, child: &Child<'_>) -> Result<i32, libc::c_int> {
        let mut pointers: Vec<*mut libc::c_char> =
            child.env.iter().map(|text| text.as_ptr().cast_mut()).collect();
        pointers.push(ptr::null_mut());
        // SAFETY: this process has one thread, so that its copy is whole: no lock is held by a
        // thread that is not there.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN)),
            0 => {
                // SAFETY: `pointers` ends with null and points to C strings; both live as long as
                // the process, since this frame is never left. Nobody else has changed the
                // environment, and with one thread nobody reads it.
                unsafe { environ = pointers.as_mut_ptr() };
                self.show(child.cmdline, &plan.shown);
                let code = match prepare(child) {
                    Ok(()) => catch_unwind(AssertUnwindSafe(|| (self.inside.main)(&plan.words))),
                    Err(_) => Ok(libc::EXIT_FAILURE),
                };
                drop(io::stdout().flush());
                // What is in the frames above is the supervisor's, and not to be dropped. Nor is
                // memory to be given back piece by piece, as the handlers of an exit would do.
                // SAFETY: takes a number, and does not return.
                unsafe { libc::_exit(code.unwrap_or(101)) }
            }
            pid => {
                // The child does the same; who is first does not matter.
                // SAFETY: takes numbers only.
                unsafe { libc::setpgid(pid, pid) };
                Ok(pid)
            }
        }
    }

    /// Puts words and variables where `/proc` looks for them.
    fn show(&self, cmdline: &[String], variables: &[u8]) {
        let mut words = Vec::new();
        for word in cmdline {
            words.extend_from_slice(word.as_bytes());
            words.push(0);
        }
        overwrite(self.words, &words);
        overwrite(self.variables, variables);
        if let Some(name) = cmdline.first().and_then(|program| program.rsplit('/').next())
            && let Ok(name) = CString::new(name)
        {
            // Only a name: cut to fifteen bytes, and nothing depends on it.
            let _ = nix::sys::prctl::set_name(&name);
        }
    }
}

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// As much of an environment as fits. `None` when not even the variables do that tell whose a
/// process is: a supervisor that follows a killed one finds shells by them.
fn shown(env: &[CString], room: usize) -> Option<Vec<u8>> {
    let telling = |entry: &&CString| {
        [b"FLUX_LAUNCH_ID=".as_slice(), b"FLUX_URI="]
            .iter()
            .any(|name| entry.as_bytes().starts_with(name))
    };
    let mut bytes = Vec::with_capacity(room);
    for entry in env.iter().filter(telling) {
        bytes.extend_from_slice(entry.as_bytes_with_nul());
    }
    if bytes.len() > room {
        return None;
    }
    for entry in env.iter().filter(|entry| !telling(entry)).map(|entry| entry.as_bytes_with_nul()) {
        if bytes.len() + entry.len() <= room {
            bytes.extend_from_slice(entry);
        }
    }
    Some(bytes)
}

/// Fills memory of the first stack frame, where the kernel put words and environment.
fn overwrite((begin, end): (usize, usize), bytes: &[u8]) {
    let room = end.saturating_sub(begin);
    let count = bytes.len().min(room.saturating_sub(1));
    let at = ptr::with_exposed_provenance_mut::<u8>(begin);
    // SAFETY: the kernel has said that this memory of the process, which is its stack and can be
    // written, holds its words and its environment. Those are not used any more: the words were
    // copied, and `environ` points elsewhere.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), at, count);
        ptr::write_bytes(at.add(count), 0, room - count);
    }
}

/// Streams, directory and signals; and nothing else of the supervisor's is open.
fn prepare(child: &Child<'_>) -> io::Result<()> {
    let done = |code: libc::c_int| match code {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: numbers and a C string; whoever owns descriptors that are closed is never dropped.
    unsafe {
        done(libc::setpgid(0, 0))?;
        for (fd, to) in child.stdio.iter().zip(0..) {
            done(libc::dup2(fd.as_raw_fd(), to))?;
        }
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) == -1 {
            close_each()?;
        }
        done(libc::chdir(child.cwd.as_ptr()))?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// For kernels without `close_range`.
fn close_each() -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: a number; one that is closed already does no harm.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_whose_a_process_is_comes_first_and_the_rest_as_it_fits() {
        let env = ["A=1", "LONG=aaaaaaaaaaaaaaaaaaaa", "FLUX_URI=local:///x", "B=2"]
            .map(|text| CString::new(text).unwrap());
        let text = |room| Some(String::from_utf8(shown(&env, room)?).unwrap().replace('\0', " "));
        let all = "FLUX_URI=local:///x A=1 LONG=aaaaaaaaaaaaaaaaaaaa B=2 ";
        assert_eq!(text(100).as_deref(), Some(all));
        assert_eq!(text(30).as_deref(), Some("FLUX_URI=local:///x A=1 B=2 "));
        assert_eq!(text(19), None);
    }

    #[test]
    fn only_the_same_program_is_become_without_an_exec() {
        let words = |cmdline: &[String]| Some(cmdline[1..].to_vec());
        let fork = Fork::new(Inside { words, main: |_| 0 }).unwrap();
        let plan = |cmdline: &[&str]| {
            let cmdline: Vec<String> = cmdline.iter().map(ToString::to_string).collect();
            Some(fork.plan(&cmdline, &[])?.words)
        };
        let own = std::env::current_exe().unwrap().display().to_string();
        assert_eq!(plan(&[&own, "12"]), Some(vec!["12".to_string()]));
        assert_eq!(plan(&["/bin/sh"]), None);
        assert_eq!(plan(&["flux"]), None);
        assert_eq!(plan(&["/nonexistent"]), None);
    }
}
