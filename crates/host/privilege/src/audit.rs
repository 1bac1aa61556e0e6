//! A line in the system's log for everything that is done or refused.

use std::os::unix::net::UnixDatagram;

use flux_sign::VerifyError;
use sha2::{Digest, Sha256};

use crate::error::ImpError;
use crate::identity::Caller;

/// `authpriv.info` and `authpriv.warning`.
const INFO: u8 = 10 * 8 + 6;
const WARNING: u8 = 10 * 8 + 4;

/// Longest line.
const LINE_MAX: usize = 900;

fn log(priority: u8, text: &str) {
    // Where nothing listens there is no log; the message goes to stderr also if it is a refusal.
    let Ok(socket) = UnixDatagram::unbound() else { return };
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    // One line, whatever came in from outside.
    let text: String =
        text.chars().map(|c| if c.is_control() { '?' } else { c }).take(LINE_MAX).collect();
    let line = format!("<{priority}>flux-imp[{}]: {text}", std::process::id());
    drop(socket.send_to(line.as_bytes(), "/dev/log"));
}

/// A digest by which uses of the same request can be told.
fn digest(j: &str) -> String {
    Sha256::digest(j.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A job shell is about to start.
pub(crate) fn exec(caller: &Caller, user: &str, id: &str, shell: &str, j: &str) {
    let (by, digest) = (caller.name(), digest(j));
    log(INFO, &format!("exec: user={user} job={id} by={by} shell={shell} request={digest}"));
}

/// A program is about to start as root.
pub(crate) fn run(caller: &Caller, name: &str, path: &str) {
    log(INFO, &format!("run: {name} path={path} by={}", caller.name()));
}

/// Something was refused.
pub(crate) fn refusal(caller: &Caller, words: &[String], error: &ImpError) {
    let by = caller.name();
    let note = match error {
        ImpError::Signature(VerifyError::Digest | VerifyError::Signer { .. }) => " (forged?)",
        _ => "",
    };
    log(WARNING, &format!("refused: '{}' by={by}: {error}{note}", words.join(" ")));
}

/// A process of a job gets a signal.
pub(crate) fn signalled(caller: &Caller, pid: i32, signum: i32) {
    log(INFO, &format!("kill: pid={pid} signal={signum} by={}", caller.name()));
}
