//! How a broker is driven: by the host with real sockets and clocks, or by the simulator.
//!
//! The driver tells what happened ([`Input`]) and when, and carries out what comes back
//! ([`Output`]). An engine never blocks and does nothing between inputs.

use flux_proto::{Cred, Errno, Message};

use crate::cx::Level;
use crate::module::Clock;

/// A connection on the local socket, numbered by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A connection to another broker, numbered by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

impl LinkId {
    /// The link to the parent in the tree.
    pub const PARENT: Self = Self(0);
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client was accepted; `cred` is what the kernel says of its process.
    ClientJoined {
        /// Its number.
        client: ClientId,
        /// User id and role, decided from the peer credentials.
        cred: Cred,
        /// Process id of the peer, for statistics.
        pid: i32,
    },
    /// A message from a client.
    Client(ClientId, Message),
    /// A client's connection ended.
    ClientLeft(ClientId),
    /// A message from a driver of the host, by its service name.
    Driver(&'static str, Message),
    /// A link is up: the connection to the parent, or one accepted from a child (authenticated;
    /// not yet greeted).
    LinkUp(LinkId),
    /// The public key that the other end of a link has proven to have; told before `LinkUp`. A link
    /// within a host has none.
    LinkKey(LinkId, String),
    /// A message from the broker at the other end.
    Link(LinkId, Message),
    /// The connection ended or could not be made.
    LinkDown(LinkId, String),
    /// The broker process received a signal.
    Signal(i32),
    /// Time has passed.
    Tick,
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Send to a client.
    Client(ClientId, Message),
    /// Close a client's connection after what was sent before.
    CloseClient(ClientId),
    /// Send to a driver of the host.
    Driver(&'static str, Message),
    /// Send to a broker.
    Link(LinkId, Message),
    /// Close a link after what was sent before.
    CloseLink(LinkId),
    /// Connect to this rank as the parent, in place of any former link; answered by `LinkUp` or
    /// `LinkDown` of [`LinkId::PARENT`].
    ConnectParent(u32),
    /// Accept clients and children from now on.
    Listen,
    /// Accept children, where a broker that had none is to have some.
    Adopt,
    /// Take connections of these public keys only, from now on.
    Trust(Vec<String>),
    /// Accept no more children.
    StopListening,
    /// A line for stderr, already formatted.
    Stderr(Level, String),
    /// Text for the service manager (`STATUS=`, `READY=1`).
    Notify(String),
    /// The broker is done: end the process with this code.
    Exit(i32),
}

/// Says who may connect to the local socket: the role for a user id, or the errno to refuse with.
pub type Admission = Result<Cred, Errno>;

/// A broker as its driver sees it.
pub trait Engine {
    /// Starts; called once, before any input.
    fn start(&mut self, clock: Clock);
    /// Tells what happened.
    fn input(&mut self, clock: Clock, input: Input);
    /// The next thing to do, if any. The driver takes all of them after each input.
    fn poll(&mut self) -> Option<Output>;
    /// When a tick is wanted, in monotonic microseconds.
    fn next_deadline(&self) -> Option<u64>;
    /// Who may connect to the local socket.
    fn admit(&self, userid: u32) -> Admission;
    /// Which guests have the role ADMIN; the driver knows the names of users.
    fn administrators(&self) -> Administrators<'_> {
        Administrators::default()
    }
}

/// Guests with the role ADMIN, by name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Administrators<'a> {
    /// Login names.
    pub users: &'a [String],
    /// Groups whose listed members are meant.
    pub groups: &'a [String],
}

impl Administrators<'_> {
    /// Whether there are any: else no names need to be looked up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether a user is one; `members` tells the listed members of a group.
    pub fn include(&self, login: &str, mut members: impl FnMut(&str) -> Vec<String>) -> bool {
        self.users.iter().any(|user| user == login)
            || self.groups.iter().any(|group| members(group).iter().any(|member| member == login))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrators_are_named_themselves_or_by_a_group() {
        let (users, groups) = (["amy".to_string()], ["ops".to_string()]);
        let admins = Administrators { users: &users, groups: &groups };
        let members = |group: &str| match group {
            "ops" => vec!["bob".to_string()],
            _ => Vec::new(),
        };
        assert!(admins.include("amy", members) && admins.include("bob", members));
        assert!(!admins.include("eve", members));
        assert!(Administrators::default().is_empty() && !admins.is_empty());
    }
}
