//! The two kinds of sockets behind one face, and their options.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

/// TCP keepalive. What is not set stays as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at least 1.
    pub idle: Option<Duration>,
    /// Time between probes; whole seconds, at least 1.
    pub interval: Option<Duration>,
    /// Unanswered probes after which the connection is lost.
    pub count: Option<u32>,
}

/// Options of TCP sockets. What is not set stays as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// How long sent data may stay unacknowledged before the connection is lost
    /// (`tbon.tcp_user_timeout`).
    pub user_timeout: Option<Duration>,
    /// Whether and how idle connections are probed.
    pub keepalive: Option<Keepalive>,
}

impl TcpOptions {
    pub(crate) fn apply(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // Messages are gathered here; the kernel need not wait for more.
        sockopt::set_tcp_nodelay(socket, true)?;
        if let Some(timeout) = self.user_timeout {
            let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, ms)?;
        }
        if let Some(keepalive) = self.keepalive {
            sockopt::set_socket_keepalive(socket, true)?;
            if let Some(idle) = keepalive.idle {
                sockopt::set_tcp_keepidle(socket, idle)?;
            }
            if let Some(interval) = keepalive.interval {
                sockopt::set_tcp_keepintvl(socket, interval)?;
            }
            if let Some(count) = keepalive.count {
                sockopt::set_tcp_keepcnt(socket, count)?;
            }
        }
        Ok(())
    }
}

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Socket::Tcp(socket) => socket.ready(interest).await,
            Socket::Unix(socket) => socket.ready(interest).await,
        }
    }

    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_read(buf),
            Socket::Unix(socket) => socket.try_read(buf),
        }
    }

    pub(crate) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write(buf),
            Socket::Unix(socket) => socket.try_write(buf),
        }
    }

    /// Tells the peer that nothing more will be sent.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let fd = match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        };
        Ok(rustix::net::shutdown(fd, rustix::net::Shutdown::Write)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_socket_and_defaults_leave_it_alone() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        TcpOptions::default().apply(stream.as_fd()).unwrap();
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(!sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 0);
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), idle);

        let seconds = |n| Some(Duration::from_secs(n));
        let keepalive = Keepalive { idle: seconds(30), interval: seconds(10), count: Some(12) };
        let options = TcpOptions { user_timeout: seconds(20), keepalive: Some(keepalive) };
        options.apply(stream.as_fd()).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 20_000);
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(30));
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), Duration::from_secs(10));
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), 12);
    }
}
