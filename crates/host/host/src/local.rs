//! The local socket: made, accepted from, removed.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use flux_proto::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::net::{SocketFlags, accept_with};
use tokio::io::unix::AsyncFd;

use crate::client;
use crate::hub::Hub;
use crate::options::HostError;
use crate::watch;

/// How long to accept nobody when the process has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

/// The socket of this broker; its file goes with it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: AsyncFd<UnixListener>,
    path: PathBuf,
}

impl LocalSocket {
    /// Replaces what is at `path` by a socket that everybody may connect to: who may stay is
    /// decided from the credentials of the peer.
    pub(crate) fn bind(path: &Path) -> Result<Self, HostError> {
        let make = || -> io::Result<AsyncFd<UnixListener>> {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
            listener.set_nonblocking(true)?;
            watch::listener(listener)
        };
        let listener =
            make().map_err(|source| HostError::LocalSocket { path: path.to_path_buf(), source })?;
        Ok(Self { listener, path: path.to_path_buf() })
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Nobody is left to tell when this fails.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Accepts clients until aborted.
pub(crate) async fn accept_clients(hub: Rc<Hub>, socket: Rc<LocalSocket>) {
    loop {
        let Ok(mut ready) = socket.listener.readable().await else { return };
        match accept_with(&socket.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => welcome(&hub, UnixStream::from(stream)),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => {
                let exhausted = matches!(
                    error.raw_os_error(),
                    libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS
                );
                if exhausted {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

/// Sends the authentication byte and, if it is 0, begins to serve the client.
fn welcome(hub: &Rc<Hub>, stream: UnixStream) {
    let Ok(peer) = getsockopt(&stream, PeerCredentials) else { return };
    let admission = hub.admit(peer.uid()).and_then(|cred| {
        let lease = if cred.is_owner() { None } else { Some(hub.quota.lease(peer.uid())?) };
        Ok((cred, lease))
    });
    let byte = match &admission {
        Ok(_) => 0,
        Err(errno) => u8::try_from(errno.0).unwrap_or(Errno::EPERM.0 as u8),
    };
    // A fresh socket has room for one byte; whoever is gone already need not be served.
    if let (Ok((cred, lease)), Ok(1)) = (admission, (&stream).write(&[byte])) {
        client::join(hub, stream, cred, lease, peer.pid());
    }
}
