//! Making connections, and taking them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Connection, Peer, limits, linger};
use crate::endpoint::Endpoint;
use crate::link::{Link, LinkError};
use crate::socket::{Socket, TcpOptions};
use crate::tls::{TlsClient, TlsServer};

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

/// Why there is no connection, or nothing to listen at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The system refuses.
    #[error("{endpoint}: {source}")]
    Io {
        /// Where.
        endpoint: Endpoint,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing came back in time.
    #[error("{endpoint}: no connection within {limit:?}")]
    Timeout {
        /// Where.
        endpoint: Endpoint,
        /// The time allowed.
        limit: Duration,
    },
    /// One side has refused the other, or they do not understand each other.
    #[error("{endpoint}: {source}")]
    Link {
        /// Where.
        endpoint: Endpoint,
        /// What went wrong.
        source: LinkError,
    },
    /// A process of another user at the other end of a unix socket.
    #[error("{endpoint}: peer is user {found}, expected user {expected}")]
    User {
        /// Where.
        endpoint: Endpoint,
        /// Who is there.
        found: u32,
        /// Who should be there.
        expected: u32,
    },
    /// TCP without a certificate.
    #[error("{endpoint}: tcp needs a certificate (bootstrap.curve_cert)")]
    NoCert {
        /// Where.
        endpoint: Endpoint,
    },
}

/// How connections are made and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Time for connecting and the handshake together (`tbon.connect_timeout`); none waits for
    /// as long as the system does.
    pub timeout: Option<Duration>,
    /// Options of TCP sockets.
    pub tcp: TcpOptions,
    /// The largest message body in bytes that is accepted.
    pub max_body: usize,
    /// IPv6 addresses are used, too: those that names and interfaces have, and the one of `*`.
    pub ipv6: bool,
}

impl Default for ConnectOptions {
    /// 30 s, 20 s for unacknowledged data, no keepalive, messages of any legal size, IPv6.
    fn default() -> ConnectOptions {
        let user_timeout = Some(Duration::from_secs(20));
        ConnectOptions {
            timeout: Some(Duration::from_secs(30)),
            tcp: TcpOptions { user_timeout, ..TcpOptions::default() },
            max_body: flux_proto::DEFAULT_MAX_BODY,
            ipv6: true,
        }
    }
}

impl ConnectOptions {
    fn uses(&self, address: &SocketAddr) -> bool {
        self.ipv6 || address.is_ipv4()
    }
}

async fn within<T>(
    endpoint: &Endpoint,
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(ConnectError::Timeout { endpoint: endpoint.clone(), limit })),
    }
}

/// Connects to `endpoint`. The connection is established when this returns: the peer's key is
/// trusted and the peer trusts ours, or, on a unix socket, the peer is the same user.
///
/// # Errors
/// [`ConnectError`]; for a key that is not trusted on either side its `Link`.
pub async fn connect(
    endpoint: &Endpoint,
    tls: Option<&TlsClient>,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let io = |source| ConnectError::Io { endpoint: endpoint.clone(), source };
    within(endpoint, options.timeout, async {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let no_cert = || ConnectError::NoCert { endpoint: endpoint.clone() };
                let tls = tls.ok_or_else(no_cert)?;
                let stream = connect_tcp(host, *port, options).await.map_err(io)?;
                let address = stream.peer_addr().map_err(io)?;
                let link = Link::tls_client(tls, limits(options.max_body))
                    .map_err(|source| ConnectError::Link { endpoint: endpoint.clone(), source })?;
                establish_tcp(Socket::Tcp(stream), link, address, endpoint).await
            }
            Endpoint::Ipc(path) => {
                let stream = UnixStream::connect(path).await.map_err(io)?;
                establish_unix(stream, endpoint, options.max_body).await
            }
        }
    })
    .await
}

async fn connect_tcp(host: &str, port: u16, options: &ConnectOptions) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "host has no address");
    for address in lookup_host((host, port)).await?.filter(|found| options.uses(found)) {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        options.tcp.apply(socket.as_fd())?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn establish_tcp(
    socket: Socket,
    link: Link,
    address: SocketAddr,
    endpoint: &Endpoint,
) -> Result<Connection, ConnectError> {
    let (link, socket) = shake_hands(link, socket, endpoint).await?;
    let no_key = || ConnectError::Link { endpoint: endpoint.clone(), source: LinkError::NoKey };
    let key = link.peer_key().ok_or_else(no_key)?;
    let peer = Peer::Key { key, digest: key.digest(), address };
    Ok(Connection::new(socket, link, peer, endpoint.clone()))
}

async fn establish_unix(
    stream: UnixStream,
    endpoint: &Endpoint,
    max_body: usize,
) -> Result<Connection, ConnectError> {
    let cred = stream
        .peer_cred()
        .map_err(|source| ConnectError::Io { endpoint: endpoint.clone(), source })?;
    let (found, expected) = (cred.uid(), rustix::process::geteuid().as_raw());
    if found != expected {
        return Err(ConnectError::User { endpoint: endpoint.clone(), found, expected });
    }
    let pid = cred.pid().and_then(rustix::process::Pid::from_raw);
    let link = Link::plain(limits(max_body));
    let (link, socket) = shake_hands(link, Socket::Unix(stream), endpoint).await?;
    Ok(Connection::new(socket, link, Peer::Local { uid: found, pid }, endpoint.clone()))
}

/// Drives `link` until both sides have accepted each other. A refusal is sent to the peer, too.
async fn shake_hands(
    mut link: Link,
    socket: Socket,
    endpoint: &Endpoint,
) -> Result<(Link, Socket), ConnectError> {
    match exchange(&mut link, &socket).await {
        Ok(()) => Ok((link, socket)),
        Err(Failure::Link(source)) => {
            // Whether the peer hears the reason changes nothing here.
            let _heard = linger(&socket, &mut link).await;
            Err(ConnectError::Link { endpoint: endpoint.clone(), source })
        }
        Err(Failure::Io(source)) => Err(ConnectError::Io { endpoint: endpoint.clone(), source }),
    }
}

enum Failure {
    Link(LinkError),
    Io(io::Error),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Failure {
        Failure::Link(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

async fn exchange(link: &mut Link, socket: &Socket) -> Result<(), Failure> {
    let mut buf = vec![0; 4096];
    // The peer waits for our last words, even when we have its own.
    while !link.is_established() || !link.output().is_empty() {
        let interest = match link.output().is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let ready = socket.ready(interest).await?;
        if ready.is_readable() {
            match socket.try_read(&mut buf) {
                Ok(0) => {
                    link.end_of_input()?;
                    return Err(LinkError::Handshake.into());
                }
                Ok(count) => link.receive(&buf[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        if ready.is_writable() && !link.output().is_empty() {
            match socket.try_write(link.output()) {
                Ok(count) => link.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The alert that explains this may be there to read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    let count = socket.try_read(&mut buf).map_err(|_| error)?;
                    link.receive(&buf[..count])?;
                    link.end_of_input()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Acceptor {
    Tcp(TcpListener, TlsServer),
    Unix(UnixListener, PathBuf),
}

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    acceptor: Acceptor,
    endpoint: Endpoint,
    options: ConnectOptions,
}

impl Listener {
    /// Listens at `endpoint`: for TCP a host name, an address, `*` or the name of a network
    /// interface, and port 0 for any. A missing directory of a unix socket is made with mode
    /// 0700, a socket left there by an earlier process is replaced, and the mode is 0600.
    ///
    /// # Errors
    /// [`ConnectError`] `Io`, or `NoCert` for TCP without `tls`.
    pub async fn bind(
        endpoint: &Endpoint,
        tls: Option<&TlsServer>,
        options: &ConnectOptions,
    ) -> Result<Listener, ConnectError> {
        let io = |source| ConnectError::Io { endpoint: endpoint.clone(), source };
        let (acceptor, endpoint) = match endpoint {
            Endpoint::Tcp { host, port } => {
                let no_cert = || ConnectError::NoCert { endpoint: endpoint.clone() };
                let tls = tls.ok_or_else(no_cert)?.clone();
                let listener = bind_tcp(host, *port, options).await.map_err(io)?;
                let local = listener.local_addr().map_err(io)?;
                let endpoint = Endpoint::Tcp { host: address_text(local), port: local.port() };
                (Acceptor::Tcp(listener, tls), endpoint)
            }
            Endpoint::Ipc(path) => {
                let listener = bind_unix(path).map_err(io)?;
                (Acceptor::Unix(listener, path.clone()), endpoint.clone())
            }
        };
        Ok(Listener { acceptor, endpoint, options: *options })
    }

    /// Listens with a socket that was bound before, by this process or the one that started it.
    ///
    /// # Errors
    /// [`ConnectError`] `Io` when the socket cannot be used.
    pub fn from_tcp(
        listener: std::net::TcpListener,
        tls: &TlsServer,
        options: &ConnectOptions,
    ) -> Result<Listener, ConnectError> {
        let unknown = Endpoint::any_port("?");
        let io = |source| ConnectError::Io { endpoint: unknown.clone(), source };
        listener.set_nonblocking(true).map_err(io)?;
        let listener = TcpListener::from_std(listener).map_err(io)?;
        let local = listener.local_addr().map_err(io)?;
        let endpoint = Endpoint::Tcp { host: address_text(local), port: local.port() };
        Ok(Listener { acceptor: Acceptor::Tcp(listener, tls.clone()), endpoint, options: *options })
    }

    /// Listens with a unix socket that was bound at `path` before; the file goes with it.
    ///
    /// # Errors
    /// [`ConnectError`] `Io` when the socket cannot be used.
    pub fn from_unix(
        listener: std::os::unix::net::UnixListener,
        path: &Path,
        options: &ConnectOptions,
    ) -> Result<Listener, ConnectError> {
        let endpoint = Endpoint::Ipc(path.to_owned());
        let io = |source| ConnectError::Io { endpoint: endpoint.clone(), source };
        listener.set_nonblocking(true).map_err(io)?;
        let listener = UnixListener::from_std(listener).map_err(io)?;
        let acceptor = Acceptor::Unix(listener, path.to_owned());
        Ok(Listener { acceptor, endpoint, options: *options })
    }

    /// Where this listens, with the address and port that were chosen.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next connection, whose handshake is still to come: let [`Incoming::establish`] run on
    /// a task of its own, so that a silent peer holds up nobody. Cancel safe.
    ///
    /// # Errors
    /// When the system gives none, as with too many open files; try again after a pause.
    pub async fn accept(&self) -> Result<Incoming, ConnectError> {
        let io = |source| ConnectError::Io { endpoint: self.endpoint.clone(), source };
        let socket = match &self.acceptor {
            Acceptor::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await.map_err(io)?;
                Arrived::Tcp(stream, address, tls.clone())
            }
            Acceptor::Unix(listener, _) => Arrived::Unix(listener.accept().await.map_err(io)?.0),
        };
        let endpoint = self.endpoint.clone();
        Ok(Incoming { socket, endpoint, options: self.options, since: Instant::now() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Acceptor::Unix(_, path) = &self.acceptor {
            // Somebody may have removed it with its directory.
            let _gone = std::fs::remove_file(path);
        }
    }
}

#[derive(Debug)]
enum Arrived {
    Tcp(TcpStream, SocketAddr, TlsServer),
    Unix(UnixStream),
}

/// A connection that has come in and is still to prove who it is.
#[derive(Debug)]
pub struct Incoming {
    socket: Arrived,
    endpoint: Endpoint,
    options: ConnectOptions,
    since: Instant,
}

impl Incoming {
    /// Where it comes from, as text for a log.
    #[must_use]
    pub fn origin(&self) -> String {
        match &self.socket {
            Arrived::Tcp(_, address, _) => address.to_string(),
            Arrived::Unix(_) => self.endpoint.to_string(),
        }
    }

    /// Finishes the handshake.
    ///
    /// # Errors
    /// [`ConnectError`] says who refused whom, and why.
    pub async fn establish(self) -> Result<Connection, ConnectError> {
        let Incoming { socket, endpoint, options, since } = self;
        let work = async {
            match socket {
                Arrived::Tcp(stream, address, tls) => {
                    options.tcp.apply(stream.as_fd()).map_err(|source| ConnectError::Io {
                        endpoint: endpoint.clone(),
                        source,
                    })?;
                    let link =
                        Link::tls_server(&tls, limits(options.max_body)).map_err(|source| {
                            ConnectError::Link { endpoint: endpoint.clone(), source }
                        })?;
                    establish_tcp(Socket::Tcp(stream), link, address, &endpoint).await
                }
                Arrived::Unix(stream) => establish_unix(stream, &endpoint, options.max_body).await,
            }
        };
        match options.timeout {
            None => work.await,
            Some(limit) => timeout_at(since + limit, work).await.unwrap_or_else(|_| {
                Err(ConnectError::Timeout { endpoint: endpoint.clone(), limit })
            }),
        }
    }
}

fn address_text(address: SocketAddr) -> String {
    address.ip().to_string()
}

async fn bind_tcp(host: &str, port: u16, options: &ConnectOptions) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host, address or interface");
    let found = bind_addresses(host, port).await?;
    for address in found.into_iter().filter(|address| options.uses(address)) {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What `host` means to a listener, best first.
async fn bind_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "*" {
        // The first one takes connections of both kinds.
        return Ok(vec![
            SocketAddr::from(([0u16; 8], port)),
            SocketAddr::from(([0, 0, 0, 0], port)),
        ]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let on_interface = interface_addresses(host, port)?;
    if !on_interface.is_empty() {
        return Ok(on_interface);
    }
    Ok(lookup_host((host, port)).await?.collect())
}

/// The addresses of the network interface `name`, IPv4 first.
fn interface_addresses(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()?.filter(|i| i.interface_name == name) {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.push(SocketAddr::from((v4.ip(), port)));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let v6 = std::net::SocketAddrV6::new(v6.ip(), port, 0, v6.scope_id());
            found.push(SocketAddr::V6(v6));
        }
    }
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent()
        && !dir.as_os_str().is_empty()
        && !dir.exists()
    {
        std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let text = "file exists and is not a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => {
            let text = "socket of another user is in the way";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects before this takes effect is asked for its credentials all the same.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}
