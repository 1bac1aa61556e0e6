//! `flux relay`: joins standard input and output with the socket of a broker, for `ssh://` URIs.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use clap::Command;

use super::program::{Program, text, word};
use crate::{dispatch::Invocation, failure::Failure};

const PROGRAM: Program = Program::binary("flux-relay");

/// Most bytes carried at once.
const PIECE: usize = 64 * 1024;

/// The options of `flux relay`.
pub(crate) fn command() -> Command {
    Command::new("relay")
        .about("Join standard input and output with the socket of a broker")
        .hide(true)
        .arg(word("path", "PATH", "Socket"))
}

/// Runs `flux relay`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let path = text(&invocation.matches, "path").unwrap_or_default();
    let path = path.strip_prefix("local://").unwrap_or(path);
    let failed = |error: io::Error| PROGRAM.fail(format!("{path}: {error}"));
    let socket = UnixStream::connect(path).map_err(failed)?;
    let far = socket.try_clone().map_err(failed)?;
    // The broker's end ends the relay; the end of the input is passed on, and the thread goes with
    // the process.
    std::thread::spawn(move || {
        drop(carry(io::stdin().lock(), &far));
        drop(far.shutdown(Shutdown::Write));
    });
    ended(carry(&socket, io::stdout().lock())).map_err(failed)?;
    Ok(0)
}

/// The end of a relay. A side that has left is no error: what it does not read, it does not want.
fn ended(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]
                .contains(&error.kind()) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Carries bytes until the end of `from`.
pub(crate) fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(got) => {
                to.write_all(&piece[..got])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_first_does_not_matter() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset] {
            assert!(ended(Err(kind.into())).is_ok(), "{kind}");
        }
        assert!(ended(Ok(())).is_ok());
        assert!(ended(Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
