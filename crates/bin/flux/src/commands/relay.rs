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
    carry(&socket, io::stdout().lock()).map_err(failed)?;
    Ok(0)
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
