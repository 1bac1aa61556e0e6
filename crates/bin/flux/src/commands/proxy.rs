//! `flux proxy`: run a command with another instance as the current one.
//!
//! A socket in a private directory takes connections, each of which is carried to the broker on a
//! connection of its own; so the broker sees every client as it is, and nothing is translated.

use std::fs::Permissions;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use clap::Command;
use flux_client::{Client, Target};

use super::{
    program::{Program, flag, rest, text, texts, word},
    relay::carry,
};
use crate::{dispatch::Invocation, failure::Failure};

const PROGRAM: Program = Program::binary("flux-proxy");

/// The options of `flux proxy`.
pub(crate) fn command() -> Command {
    Command::new("proxy")
        .about("Run a command with another instance as the current one")
        .arg(flag("force", 'f', "Connect to an instance of another version too"))
        .arg(flag("nohup", 'n', "Let the command go on when the connection is lost"))
        .arg(flag("reconnect", None, "Connect again when the connection is lost"))
        .arg(word("target", "URI|JOBID", "Instance"))
        .arg(rest("command", "COMMAND", "Command and arguments (default: a shell)"))
}

/// Runs `flux proxy`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let name = text(matches, "target").unwrap_or_default();
    let uri = super::uri::resolve(PROGRAM, name)?;
    let failed = |error: io::Error| PROGRAM.fail(error.to_string());
    let target = flux_client::parse(&uri).map_err(|error| PROGRAM.fail(error.to_string()))?;
    let client =
        Client::open(Some(&uri)).map_err(|error| PROGRAM.fail(format!("{uri}: {error}")))?;
    if let Some(text) = mismatch(client.get_attr("version").ok().as_deref()) {
        if !matches.get_flag("force") {
            return Err(PROGRAM.fail(format!("{text}: --force tries all the same")));
        }
        crate::output::error_line(&format!("flux-proxy: warning: {text}"));
    }
    let path = client.get_attr("local-uri").ok();
    let directory = private_directory().map_err(failed)?;
    let socket = directory.0.join("local");
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    let far = target.clone();
    std::thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let far = far.clone();
            std::thread::spawn(move || drop(join(near, &far)));
        }
    });
    let words = texts(matches, "command");
    let mut process = match words.split_first() {
        Some((program, arguments)) => {
            let mut process = Process::new(program);
            process.args(arguments);
            process
        }
        None => Process::new(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())),
    };
    process.env("FLUX_URI", format!("local://{}", socket.display()));
    process.env("FLUX_PROXY_REMOTE", path.as_deref().unwrap_or(&uri));
    // The namespace of the enclosing job is none of the other instance.
    process.env_remove("FLUX_KVS_NAMESPACE");
    let mut child = process.spawn().map_err(|error| {
        let program = process.get_program().to_string_lossy().into_owned();
        PROGRAM.fail(format!("{program}: {error}"))
    })?;
    let nohup = matches.get_flag("nohup") || matches.get_flag("reconnect");
    if !nohup {
        let pid = i32::try_from(child.id()).unwrap_or(0);
        watch(&target, pid);
    }
    // Signals of the terminal go to the child, which is in the same group.
    let _ = ignore_interrupts();
    let status = child.wait().map_err(failed)?;
    drop(directory);
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// What to say about an instance whose version is not that of the commands. A last number that
/// differs is no other version: it brings corrections only.
fn mismatch(theirs: Option<&str>) -> Option<String> {
    let (major, minor, _) = crate::broker::VERSION;
    let theirs = theirs?;
    let mut numbers = theirs.split(['.', '-']).map(|number| number.parse::<u32>().ok());
    let same = numbers.next() == Some(Some(major)) && numbers.next() == Some(Some(minor));
    (!same).then(|| format!("the instance has version {theirs}, and flux {major}.{minor}"))
}

/// Ends the child with SIGHUP when the instance goes away.
fn watch(target: &Target, pid: i32) {
    let Ok(mut stream) = dial(target) else { return };
    std::thread::spawn(move || {
        let mut byte = [0; 256];
        while stream.read(&mut byte).is_ok_and(|got| got > 0) {}
        if pid > 0 {
            crate::output::error_line("flux-proxy: Lost connection to Flux");
            let pid = nix::unistd::Pid::from_raw(pid);
            // The child may have ended just now.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP);
        }
    });
}

fn ignore_interrupts() -> nix::Result<()> {
    let mut mask = nix::sys::signal::SigSet::empty();
    mask.add(nix::sys::signal::Signal::SIGINT);
    mask.add(nix::sys::signal::Signal::SIGQUIT);
    mask.thread_block()
}

/// A directory that only this user may enter; removed in the end.
struct PrivateDirectory(PathBuf);

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn private_directory() -> io::Result<PrivateDirectory> {
    let base = std::env::temp_dir();
    let template = base.join("flux-proxy-XXXXXX");
    let path = nix::unistd::mkdtemp(&template).map_err(io::Error::from)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    Ok(PrivateDirectory(path))
}

/// A raw connection to the broker: even the byte of welcome is passed on.
fn dial(target: &Target) -> io::Result<UnixStream> {
    match target {
        Target::Local(path) => UnixStream::connect(path),
        Target::Ssh { host, port, path } => over_ssh(host, *port, path),
        _ => Err(io::Error::other("no such connection")),
    }
}

/// `flux relay` on another host, spoken with through its standard streams.
fn over_ssh(host: &str, port: Option<u16>, path: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let ssh = std::env::var_os("FLUX_SSH").unwrap_or_else(|| "ssh".into());
    let mut process = Process::new(ssh);
    if let Some(port) = port {
        process.arg("-p").arg(port.to_string());
    }
    process.arg(host);
    match std::env::var("FLUX_SSH_RCMD") {
        Ok(program) => process.arg(program),
        Err(_) => {
            let directory = Path::new(path).parent().unwrap_or(Path::new("/")).display();
            process.args(["env", &format!("PATH={directory}/bin:$PATH"), "flux"])
        }
    };
    process.arg("relay").arg(path);
    process.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
    process.stdout(Stdio::from(OwnedFd::from(theirs)));
    // It must not get the interrupts that are meant for the command.
    process.process_group(0);
    let mut child = process.spawn()?;
    std::thread::spawn(move || child.wait());
    Ok(ours)
}

/// Carries everything between a client and the broker, until either ends.
fn join(near: UnixStream, target: &Target) -> io::Result<()> {
    let far = dial(target)?;
    let (near_in, far_out) = (near.try_clone()?, far.try_clone()?);
    let up = std::thread::spawn(move || {
        drop(carry(&near_in, &far_out));
        drop(far_out.shutdown(Shutdown::Write));
    });
    drop(carry(&far, &near));
    drop(near.shutdown(Shutdown::Both));
    drop(far.shutdown(Shutdown::Both));
    drop(up.join());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_told() {
        let (major, minor, _) = crate::broker::VERSION;
        assert_eq!(mismatch(Some(&format!("{major}.{minor}.99-5-gabc"))), None);
        assert_eq!(mismatch(None), None);
        let text = mismatch(Some("999.1.2")).expect("another one");
        assert!(text.starts_with("the instance has version 999.1.2, and flux "), "{text}");
    }
}
