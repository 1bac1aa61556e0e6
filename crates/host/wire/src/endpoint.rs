//! Where a broker can be reached: `tcp://HOST:PORT` or `ipc:///PATH`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The length in bytes of the longest path of a unix socket, without the final zero.
const IPC_PATH_MAX: usize = 107;

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No `://`.
    #[error("{0} has no URI scheme")]
    NoScheme(String),
    /// A scheme that is not known.
    #[error("{0} URI scheme must be tcp or ipc")]
    Scheme(String),
    /// Port `*`, which says nothing to those who want to connect.
    #[error("{0} contains 0MQ port wildcard")]
    PortWildcard(String),
    /// `tcp://` without address.
    #[error("{0} has an empty address")]
    EmptyAddress(String),
    /// `tcp://` without port, or with one that is not 1 to 65535.
    #[error("{0} has no valid port (tcp://address:port)")]
    Port(String),
    /// `ipc://` without path.
    #[error("{0} has an empty path")]
    EmptyPath(String),
    /// `ipc://` with a path that no unix socket can have.
    #[error("{0} path exceeds {IPC_PATH_MAX} bytes")]
    PathLength(String),
}

/// A place to listen at or to connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// TCP, secured by TLS.
    Tcp {
        /// Host name, address without brackets, or, to listen at, `*` or a network interface.
        host: String,
        /// Port; 0 to listen at means any that is free.
        port: u16,
    },
    /// A unix socket, secured by peer credentials.
    Ipc(PathBuf),
}

impl Endpoint {
    /// An endpoint to connect to, or to listen at a port that is known beforehand.
    ///
    /// # Errors
    /// [`EndpointError`] for anything else.
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let all = || text.to_owned();
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| EndpointError::NoScheme(all()))?;
        match scheme {
            "tcp" => parse_tcp(text, rest),
            "ipc" if rest.is_empty() => Err(EndpointError::EmptyPath(all())),
            "ipc" if rest.len() > IPC_PATH_MAX => Err(EndpointError::PathLength(all())),
            "ipc" => Ok(Endpoint::Ipc(PathBuf::from(rest))),
            _ => Err(EndpointError::Scheme(all())),
        }
    }

    /// The endpoint to listen at any free port of `host`.
    #[must_use]
    pub fn any_port(host: &str) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port: 0 }
    }

    /// The endpoint of a unix socket.
    ///
    /// # Errors
    /// When no unix socket can have that path.
    pub fn ipc(path: &Path) -> Result<Endpoint, EndpointError> {
        let endpoint = Endpoint::Ipc(path.to_owned());
        match path.as_os_str().len() {
            0 => Err(EndpointError::EmptyPath(endpoint.to_string())),
            1..=IPC_PATH_MAX => Ok(endpoint),
            _ => Err(EndpointError::PathLength(endpoint.to_string())),
        }
    }
}

fn parse_tcp(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    let all = || text.to_owned();
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    if port == "*" {
        return Err(EndpointError::PortWildcard(all()));
    }
    if host.is_empty() {
        return Err(EndpointError::EmptyAddress(all()));
    }
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(|| EndpointError::Port(all()))?,
        // An IPv6 address without brackets would swallow the port.
        None if host.contains(':') => return Err(EndpointError::Port(all())),
        None => host,
    };
    if bare.is_empty() {
        return Err(EndpointError::EmptyAddress(all()));
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port > 0 => Ok(Endpoint::Tcp { host: bare.to_owned(), port }),
        _ => Err(EndpointError::Port(all())),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Endpoint::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Endpoint::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_keep_their_text() {
        for text in [
            "tcp://node1:8050",
            "tcp://[fe80::1%eth0]:1",
            "tcp://*:65535",
            "ipc:///run/flux/tbon-0",
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_name_the_text() {
        for (text, error) in [
            ("node1", "node1 has no URI scheme"),
            ("", " has no URI scheme"),
            ("udp://x:1", "udp://x:1 URI scheme must be tcp or ipc"),
            ("tcp://node1:*", "tcp://node1:* contains 0MQ port wildcard"),
            ("tcp://:8050", "tcp://:8050 has an empty address"),
            ("tcp://", "tcp:// has an empty address"),
            ("tcp://[]:1", "tcp://[]:1 has an empty address"),
            ("tcp://a", "tcp://a has no valid port (tcp://address:port)"),
            ("tcp://a:0", "tcp://a:0 has no valid port (tcp://address:port)"),
            ("tcp://a:+1", "tcp://a:+1 has no valid port (tcp://address:port)"),
            ("tcp://fe80::1:80", "tcp://fe80::1:80 has no valid port (tcp://address:port)"),
            ("ipc://", "ipc:// has an empty path"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap_err().to_string(), error);
        }
        let long = format!("ipc:///{}", "x".repeat(107));
        assert_eq!(Endpoint::parse(&long), Err(EndpointError::PathLength(long)));
    }

    proptest! {
        #[test]
        fn any_text_is_an_endpoint_or_not(text in "(tcp|ipc)?(://)?[\\PC:\\[\\]*]*") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }
}
