//! The flag byte of a message.

use std::fmt;

/// The flags of a message (RFC 3). All eight bits are assigned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The message has a topic.
    pub const TOPIC: Flags = Flags(0x01);
    /// The message has a payload.
    pub const PAYLOAD: Flags = Flags(0x02);
    /// Request: the sender wants no response. Excludes [`Flags::STREAMING`].
    pub const NORESPONSE: Flags = Flags(0x04);
    /// The message has a route stack, which may be empty.
    pub const ROUTE: Flags = Flags(0x08);
    /// Request: the nodeid names the sender's rank, which must not handle the request itself.
    pub const UPSTREAM: Flags = Flags(0x10);
    /// Event: for the instance owner and the publishing user only.
    pub const PRIVATE: Flags = Flags(0x20);
    /// Request: several responses are expected. Response: it belongs to a stream.
    pub const STREAMING: Flags = Flags(0x40);
    /// Free for the protocol of the service.
    pub const USER1: Flags = Flags(0x80);

    const NAMES: [&'static str; 8] =
        ["topic", "payload", "noresponse", "route", "upstream", "private", "streaming", "user1"];

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other`.
    pub const fn insert(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Clears the bits of `other`.
    pub const fn remove(&mut self, other: Flags) {
        self.0 &= !other.0;
    }

    /// Sets or clears the bits of `other`.
    pub const fn set(&mut self, other: Flags, on: bool) {
        if on {
            self.insert(other);
        } else {
            self.remove(other);
        }
    }

    /// The bits that are in either.
    #[must_use]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// The bits that are in both.
    #[must_use]
    pub const fn intersection(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }

    /// The names of the bits that are set, lowest bit first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 >> bit & 1 == 1)
            .map(|(_, n)| *n)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        self.union(other)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flags(")?;
        for (i, name) in self.names().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        f.write_str(")")
    }
}
