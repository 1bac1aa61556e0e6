//! Sockets that are watched for one thing only, and read without filling buffers with zeros first.
//!
//! A socket of the runtime is watched for room to write, too: each message that a peer takes from
//! a unix socket would wake the loop for nothing.
#![expect(
    unsafe_code,
    reason = "the runtime is told that a descriptor stays, a buffer how much was written"
)]

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a stream for one thing.
pub(crate) fn stream(
    socket: Rc<UnixStream>,
    interest: Interest,
) -> io::Result<AsyncFd<Rc<UnixStream>>> {
    // SAFETY: the socket keeps its descriptor, and the registration holds the socket.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Watches for connections.
pub(crate) fn listener(socket: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: the socket keeps its descriptor, and the registration holds the socket.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Reads once into the spare room of `buf`; how many bytes there were, 0 at the end.
///
/// # Errors
/// Those of the system.
pub(crate) fn append(fd: impl AsFd, buf: &mut BytesMut) -> io::Result<usize> {
    let (read, _) = rustix::io::read(fd, buf.spare_capacity_mut())?;
    let got = read.len();
    // SAFETY: so many bytes after the end were initialised by the kernel, within the capacity.
    unsafe { buf.set_len(buf.len() + got) };
    Ok(got)
}
