//! Connecting: the socket, the retries, the authentication byte.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flux_api::RpcError;
use flux_proto::Errno;

use crate::uri::{Target, UriError};

/// Longest path of a socket, exclusive: the system's `sun_path` with its NUL.
const PATH_MAX: usize = 108;
const RETRIES: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(16);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Why a broker cannot be reached. The text begins with `flux_open: ` and ends with the standard
/// text of the errno; [`OpenError::detail`] says more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URI is not one.
    #[error("flux_open: {}", .0.errno().text())]
    Uri(#[from] UriError),
    /// No broker listens there.
    #[error("flux_open: {}", Errno::ENOENT.text())]
    NotFound {
        /// Path of the socket.
        path: String,
    },
    /// The system refuses, or the connection ended before the broker said anything.
    #[error("flux_open: {}", .0.text())]
    Refused(Errno),
    /// An instance on the way could not tell its parent.
    #[error("flux_open: {0}")]
    Attribute(RpcError),
}

impl UriError {
    /// EINVAL, or ENOENT for an unknown scheme.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            UriError::Scheme(_) => Errno::ENOENT,
            UriError::PathElement(_) | UriError::Descriptor(_) => Errno::EINVAL,
        }
    }
}

impl OpenError {
    /// The error number.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            OpenError::Uri(error) => error.errno(),
            OpenError::NotFound { .. } => Errno::ENOENT,
            OpenError::Refused(errno) => *errno,
            OpenError::Attribute(error) => error.errno,
        }
    }

    /// What exactly failed, such as `broker socket PATH was not found`.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            OpenError::Uri(error) => error.to_string(),
            OpenError::NotFound { path } => format!("broker socket {path} was not found"),
            OpenError::Refused(errno) => errno.text().to_string(),
            OpenError::Attribute(error) => error.message(),
        }
    }
}

/// The errno of an I/O error, EIO where it has none.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().and_then(|number| u32::try_from(number).ok()).map_or(Errno::EIO, Errno)
}

fn refused(error: &io::Error) -> OpenError {
    OpenError::Refused(errno_of(error))
}

/// A connected stream on which the broker has said welcome, in blocking mode.
pub(crate) fn connect(target: &Target) -> Result<UnixStream, OpenError> {
    let stream = match target {
        Target::Local(path) => return dial(path),
        Target::Fd(fd) => inherit(*fd)?,
        Target::Ssh { host, port, path } => relay(host, *port, path).map_err(|e| refused(&e))?,
        Target::Top | Target::Up(_) => return Err(OpenError::Refused(Errno::EINVAL)),
    };
    welcome(stream)
}

/// The same with one attempt that takes no longer than `time`.
pub(crate) fn connect_once(target: &Target, time: Duration) -> Result<UnixStream, OpenError> {
    let Target::Local(path) = target else { return connect(target) };
    if path.as_os_str().len() >= PATH_MAX {
        return Err(OpenError::Refused(Errno::EINVAL));
    }
    let connected = (|| -> io::Result<UnixStream> {
        use rustix::net;
        // Without waiting: the queue of a broker that was stopped may be full.
        let flags = net::SocketFlags::NONBLOCK | net::SocketFlags::CLOEXEC;
        let socket =
            net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
        net::connect(&socket, &net::SocketAddrUnix::new(path.as_path())?)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(time.max(Duration::from_millis(1))))?;
        Ok(stream)
    })();
    match connected {
        Ok(stream) => {
            let stream = welcome(stream)?;
            stream.set_read_timeout(None).map_err(|error| refused(&error))?;
            Ok(stream)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NotFound { path: path.display().to_string() })
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Reads the byte that says whether this user may come in.
fn welcome(mut stream: UnixStream) -> Result<UnixStream, OpenError> {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(OpenError::Refused(Errno::ECONNRESET)),
            Ok(_) if byte == [0] => return Ok(stream),
            Ok(_) => return Err(OpenError::Refused(Errno(u32::from(byte[0])))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused(&error)),
        }
    }
}

/// Connects to a socket; a broker that is being started is given a moment.
fn dial(path: &Path) -> Result<UnixStream, OpenError> {
    if path.as_os_str().len() >= PATH_MAX {
        return Err(OpenError::Refused(Errno::EINVAL));
    }
    let mut retries = std::env::var("FLUX_LOCAL_CONNECTOR_RETRY_COUNT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(RETRIES);
    let mut delay = RETRY_FIRST;
    loop {
        let error = match UnixStream::connect(path).map(welcome) {
            // One that died before it could say a word may be started again.
            Ok(Err(error @ OpenError::Refused(Errno::ECONNRESET))) => error,
            Ok(result) => return result,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                OpenError::NotFound { path: path.display().to_string() }
            }
            Err(error) => refused(&error),
        };
        if retries == 0 {
            return Err(error);
        }
        retries -= 1;
        std::thread::sleep(delay);
        delay = (delay * 2).min(RETRY_LONGEST);
    }
}

/// A duplicate of a descriptor that the environment says is connected.
fn inherit(fd: i32) -> Result<UnixStream, OpenError> {
    #[allow(unsafe_code, reason = "a descriptor number from outside can be had in no other way")]
    // SAFETY: only borrowed for the call, which fails on a number that is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let copy: OwnedFd = borrowed.try_clone_to_owned().map_err(|error| refused(&error))?;
    Ok(UnixStream::from(copy))
}

/// Starts a relay on another host and speaks with it through its standard streams.
fn relay(host: &str, port: Option<u16>, path: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let ssh = std::env::var_os("FLUX_SSH").unwrap_or_else(|| "ssh".into());
    let mut command = Command::new(ssh);
    if let Some(port) = port {
        command.arg("-p").arg(port.to_string());
    }
    command.arg(host);
    match std::env::var("FLUX_SSH_RCMD") {
        Ok(program) => command.arg(program),
        Err(_) => {
            let directory = Path::new(path).parent().unwrap_or(Path::new("/")).display();
            command.args(["env", &format!("PATH={directory}/bin:$PATH"), "flux"])
        }
    };
    command.arg("relay").arg(path);
    command.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
    command.stdout(Stdio::from(OwnedFd::from(theirs)));
    // The child ends when the stream does; it is reaped with this process.
    drop(command.spawn()?);
    Ok(ours)
}
