//! Where the broker is: URIs and paths among enclosing instances.

use std::path::PathBuf;

use crate::client::Client;
use crate::connect::OpenError;

/// The system instance, which is used when nothing else is said.
pub const DEFAULT_URI: &str = "local:///run/flux/local";

/// Why a URI is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// A path has an element other than `.` and `..` (EINVAL).
    #[error("invalid URI path element '{0}'")]
    PathElement(String),
    /// The descriptor of `fd://` is no number (EINVAL).
    #[error("invalid descriptor '{0}'")]
    Descriptor(String),
    /// Nothing can connect to this scheme (ENOENT).
    #[error("unknown URI scheme '{0}'")]
    Scheme(String),
}

/// What a URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `local://PATH`: a unix socket.
    Local(PathBuf),
    /// `fd://N`: a descriptor that is connected already.
    Fd(i32),
    /// `ssh://[user@]host[:port]/PATH`: the socket of another host.
    Ssh {
        /// `[user@]host`.
        host: String,
        /// Port, where given.
        port: Option<u16>,
        /// Path of the socket there.
        path: String,
    },
    /// `/`: the top instance.
    Top,
    /// `.`, `..`, `../..`: so many instances up from the current one.
    Up(u32),
}

/// Reads a URI or a path among enclosing instances.
///
/// # Errors
/// When it is neither, or the scheme is unknown.
pub fn parse(text: &str) -> Result<Target, UriError> {
    let Some((scheme, path)) = text.split_once("://") else {
        if text.starts_with(['/', '.']) {
            return ancestor(text);
        }
        return Err(UriError::Scheme(text.to_string()));
    };
    let path = path.trim_end_matches([' ', '\t']);
    match scheme {
        "local" => Ok(Target::Local(PathBuf::from(path))),
        "fd" => match path.parse() {
            Ok(fd) if fd >= 0 => Ok(Target::Fd(fd)),
            _ => Err(UriError::Descriptor(path.to_string())),
        },
        "ssh" => ssh(path),
        _ => Err(UriError::Scheme(scheme.to_string())),
    }
}

fn ancestor(text: &str) -> Result<Target, UriError> {
    if text.bytes().all(|byte| byte == b'/') {
        return Ok(Target::Top);
    }
    let mut up = 0_u32;
    for element in text.split('/') {
        match element {
            "" | "." => {}
            ".." => up = up.saturating_add(1),
            other => return Err(UriError::PathElement(other.to_string())),
        }
    }
    Ok(if text.starts_with('/') { Target::Top } else { Target::Up(up) })
}

fn ssh(text: &str) -> Result<Target, UriError> {
    let bad = || UriError::Scheme(format!("ssh://{text}"));
    let (authority, path) = text.split_once('/').ok_or_else(bad)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| bad())?)),
        None => (authority, None),
    };
    // A host that begins with a dash would be an option of the ssh program.
    if host.is_empty() || host.starts_with('-') {
        return Err(bad());
    }
    Ok(Target::Ssh { host: host.to_string(), port, path: format!("/{path}") })
}

/// The URI of the current instance: `FLUX_URI`, else the system instance.
#[must_use]
pub fn own_uri() -> String {
    match std::env::var("FLUX_URI") {
        Ok(uri) if !uri.is_empty() => uri,
        _ => DEFAULT_URI.to_string(),
    }
}

/// Turns a path among enclosing instances into the URI it stands for; other URIs, and nothing
/// (the current instance), are returned as they are. Climbing asks every instance on the way.
///
/// # Errors
/// When the text is no URI, or an instance on the way cannot be asked.
pub fn resolve(uri: Option<&str>) -> Result<String, OpenError> {
    let Some(text) = uri else {
        return Ok(own_uri());
    };
    let target = parse(text)?;
    let mut left = match target {
        Target::Top => u32::MAX,
        Target::Up(levels) => levels,
        _ => return Ok(text.to_string()),
    };
    let mut at = own_uri();
    while left > 0 {
        let client = Client::open(Some(&at))?;
        let attr = |name: &str| client.get_attr(name).map_err(OpenError::Attribute);
        let level: u32 = attr("instance-level")?.parse().unwrap_or(0);
        if level == 0 {
            break;
        }
        left = left.min(level) - 1;
        at = attr("parent-uri")?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_their_target() {
        assert_eq!(parse("local:///run/x \t"), Ok(Target::Local("/run/x".into())));
        assert_eq!(parse("fd://7"), Ok(Target::Fd(7)));
        assert_eq!(parse("fd://x"), Err(UriError::Descriptor("x".into())));
        assert_eq!(parse("foo://x"), Err(UriError::Scheme("foo".into())));
        assert_eq!(parse("foo"), Err(UriError::Scheme("foo".into())));
        let target = Target::Ssh { host: "u@h".into(), port: Some(22), path: "/a/b".into() };
        assert_eq!(parse("ssh://u@h:22/a/b"), Ok(target));
        assert!(parse("ssh://-oProxyCommand=x/a").is_err());
        assert!(parse("ssh://h").is_err());
    }

    #[test]
    fn paths_climb() {
        assert_eq!(parse("/"), Ok(Target::Top));
        assert_eq!(parse("."), Ok(Target::Up(0)));
        assert_eq!(parse(".."), Ok(Target::Up(1)));
        assert_eq!(parse("../.././.."), Ok(Target::Up(3)));
        assert_eq!(parse("../x"), Err(UriError::PathElement("x".into())));
        assert_eq!(parse("/x"), Err(UriError::PathElement("x".into())));
    }
}
