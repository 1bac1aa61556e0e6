//! Identities on the route stack of a message.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The identity of one hop: by convention a UUID as 36 characters of lower case text, but any
/// bytes that a peer sends are kept. Clones are cheap.
///
/// An empty id cannot be encoded, because it is what ends the stack; the encoder skips it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(Arc<[u8]>);

impl RouteId {
    /// An id of any bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> RouteId {
        RouteId(Arc::from(bytes))
    }

    /// The bytes as they are on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id as text; bytes that are not UTF-8 become replacement characters.
    #[must_use]
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The first 8 characters, for display.
    #[must_use]
    pub fn short(&self) -> String {
        // A character has at most 4 bytes: no need to look at more of a long id.
        let head = &self.0[..self.0.len().min(32)];
        String::from_utf8_lossy(head).chars().take(8).collect()
    }
}

impl From<&str> for RouteId {
    fn from(text: &str) -> Self {
        RouteId::from_bytes(text.as_bytes())
    }
}

impl From<String> for RouteId {
    fn from(text: String) -> Self {
        RouteId::from_bytes(text.as_bytes())
    }
}

impl From<&[u8]> for RouteId {
    fn from(bytes: &[u8]) -> Self {
        RouteId::from_bytes(bytes)
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_str_lossy())
    }
}

impl fmt::Debug for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouteId({})", self.to_str_lossy().escape_debug())
    }
}
