//! Who sent a message: user id and roles (RFC 12).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The user id of a message whose sender has not been identified.
pub const USERID_UNKNOWN: u32 = 0xffff_ffff;

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rolemask(pub u32);

impl Rolemask {
    /// No role.
    pub const NONE: Rolemask = Rolemask(0);
    /// The owner of the instance.
    pub const OWNER: Rolemask = Rolemask(1);
    /// Another user who may use the instance.
    pub const USER: Rolemask = Rolemask(2);
    /// The sender is connected to the same broker. Lost when a message changes brokers.
    pub const LOCAL: Rolemask = Rolemask(4);
    /// An administrator.
    pub const ADMIN: Rolemask = Rolemask(8);
    /// Every role: as a requirement, anybody with a role.
    pub const ALL: Rolemask = Rolemask(0xffff_ffff);

    /// Whether all roles of `other` are in this set.
    #[must_use]
    pub const fn contains(self, other: Rolemask) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds the roles of `other`.
    pub const fn insert(&mut self, other: Rolemask) {
        self.0 |= other.0;
    }

    /// Takes the roles of `other` away.
    pub const fn remove(&mut self, other: Rolemask) {
        self.0 &= !other.0;
    }

    /// The roles that are in either set.
    #[must_use]
    pub const fn union(self, other: Rolemask) -> Rolemask {
        Rolemask(self.0 | other.0)
    }

    /// Whether the holder of these roles has one that is `required`.
    ///
    /// A handler that requires [`Rolemask::ALL`] accepts every holder of any role.
    #[must_use]
    pub const fn allows(self, required: Rolemask) -> bool {
        self.0 & required.0 != 0
    }
}

impl std::ops::BitOr for Rolemask {
    type Output = Rolemask;

    fn bitor(self, other: Rolemask) -> Rolemask {
        self.union(other)
    }
}

impl fmt::Debug for Rolemask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rolemask({:#x})", self.0)
    }
}

/// The identity that a message carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cred {
    /// Unix user id, or [`USERID_UNKNOWN`].
    pub userid: u32,
    /// The roles of that user.
    pub rolemask: Rolemask,
}

impl Cred {
    /// The identity of a message that no broker has seen yet.
    pub const UNKNOWN: Cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::NONE };

    /// An identity.
    #[must_use]
    pub const fn new(userid: u32, rolemask: Rolemask) -> Cred {
        Cred { userid, rolemask }
    }

    /// Whether the sender is the owner of the instance.
    #[must_use]
    pub const fn is_owner(self) -> bool {
        self.rolemask.contains(Rolemask::OWNER)
    }

    /// Whether this sender may act on something that belongs to `userid`: owners may on
    /// everything, others on what is theirs. An unknown user never may.
    #[must_use]
    pub const fn may_act_for(self, userid: u32) -> bool {
        self.is_owner()
            || (self.rolemask.contains(Rolemask::USER)
                && self.userid != USERID_UNKNOWN
                && self.userid == userid)
    }
}

impl Default for Cred {
    fn default() -> Self {
        Cred::UNKNOWN
    }
}
