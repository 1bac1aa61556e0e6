//! The local socket: made, accepted from, removed.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use flux_proto::Errno;
use nix::libc;
use tokio::net::{UnixListener, UnixStream};

use crate::client;
use crate::hub::Hub;
use crate::options::HostError;

/// How long to accept nobody when the process has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

/// The socket of this broker; its file goes with it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Replaces what is at `path` by a socket that everybody may connect to: who may stay is
    /// decided from the credentials of the peer.
    pub(crate) fn bind(path: &Path) -> Result<Self, HostError> {
        let make = || -> io::Result<UnixListener> {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = StdListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
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
        match socket.listener.accept().await {
            Ok((stream, _)) => welcome(&hub, stream),
            Err(error) => {
                let exhausted = matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
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
    let Ok(peer) = stream.peer_cred() else {
        return;
    };
    let admission = hub.admit(peer.uid()).and_then(|cred| {
        let lease = if cred.is_owner() { None } else { Some(hub.quota.lease(peer.uid())?) };
        Ok((cred, lease))
    });
    let byte = match &admission {
        Ok(_) => 0,
        Err(errno) => u8::try_from(errno.0).unwrap_or(Errno::EPERM.0 as u8),
    };
    // A fresh socket has room for one byte; whoever is gone already need not be served.
    if let (Ok((cred, lease)), Ok(1)) = (admission, stream.try_write(&[byte])) {
        client::join(hub, stream, cred, lease, peer.pid().unwrap_or(0));
    }
}
