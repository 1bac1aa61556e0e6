//! Where a message goes (RFC 3): requests by nodeid and service, responses by their route stack.

use flux_api::{RpcError, catalogue};
use flux_proto::{Errno, Message, MsgType, NODEID_ANY, Rolemask};
use flux_svc::defaults;

use crate::ids::Peer;
use crate::node::{Node, Work};

/// What one broker does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To a service here.
    Here,
    /// To a service here, or up when there is none.
    HereOrUp,
    /// To the parent.
    Up,
    /// To a child.
    Down(u32),
    /// There is no such rank.
    Nowhere,
}

/// The text of EAGAIN of a broker that is not online.
const OFFLINE: &str = "Upstream Flux broker is offline. Try again later.";

/// Whether a request is served from the first moment on.
fn is_early(message: &Message) -> bool {
    const EARLY: [&str; 3] = ["attr.get", "log.dmesg", "log.append"];
    matches!(message.service(), "state-machine" | "overlay") || EARLY.contains(&message.topic())
}

impl Node {
    fn way(&self, message: &Message) -> Way {
        let here = self.cfg.rank;
        let nodeid = message.nodeid();
        if message.upstream() {
            return if nodeid == here { Way::Up } else { Way::HereOrUp };
        }
        if nodeid == NODEID_ANY {
            return Way::HereOrUp;
        }
        if nodeid == here {
            return Way::Here;
        }
        if nodeid >= self.cfg.size() {
            return Way::Nowhere;
        }
        match self.child_toward(nodeid) {
            Some(child) => Way::Down(child),
            None => Way::Up,
        }
    }

    /// Sends a request on its way: to a service here, or to another broker.
    pub(crate) fn route_request(&mut self, message: Message) {
        match self.way(&message) {
            Way::Here => match self.server(&message) {
                Some(peer) => self.serve_by(peer, message),
                None => self.no_service(&message),
            },
            Way::HereOrUp => match self.server(&message) {
                Some(peer) => self.serve_by(peer, message),
                None if self.cfg.rank == 0 => self.no_service(&message),
                None => self.request_up(message),
            },
            Way::Up if self.cfg.rank == 0 => self.refuse(&message, Errno::EHOSTUNREACH),
            Way::Up => self.request_up(message),
            Way::Down(child) => self.request_down(child, message),
            Way::Nowhere => self.refuse(&message, Errno::EHOSTUNREACH),
        }
    }

    fn server(&self, message: &Message) -> Option<Peer> {
        self.registry.get(message.service()).copied()
    }

    pub(crate) fn no_service(&mut self, message: &Message) {
        let text = format!("No service matching {} is registered", message.topic());
        self.refuse(message, RpcError::new(Errno::ENOSYS, text));
    }

    /// Whether a request that came from outside may pass now; if not it has been refused.
    ///
    /// Before the modules are up only those requests pass that a client or a child needs in order
    /// to wait for that moment.
    pub(crate) fn passes(&mut self, message: &Message) -> bool {
        if self.online || is_early(message) {
            return true;
        }
        self.refuse(message, RpcError::new(Errno::EAGAIN, OFFLINE));
        false
    }

    /// The same for a request of a child. One that runs already, while this broker starts, must not
    /// find some services here and others not.
    pub(crate) fn passes_from_child(&mut self, message: &Message) -> bool {
        if self.boot.is_up() || is_early(message) {
            return true;
        }
        self.refuse(message, RpcError::new(Errno::EAGAIN, OFFLINE));
        false
    }

    /// Gives a request to who serves it here.
    pub(crate) fn serve_by(&mut self, peer: Peer, mut message: Message) {
        match peer {
            Peer::Own => self.serve(message),
            Peer::Module(_) if message.method() == "rusage" => self.rusage(message),
            Peer::Module(seat) => {
                message.push_route(self.cfg.uuid.clone());
                if let Some(seat) = self.seats.get_mut(seat) {
                    seat.serving.request(&message, self.clock.mono_us);
                }
                self.work.push_back(Work::Deliver(seat, message));
            }
            Peer::Driver(at) => {
                if !driver_may_hear(&message) {
                    return self.refuse(&message, defaults::denied(Rolemask::OWNER));
                }
                message.push_route(self.cfg.uuid.clone());
                self.give_driver(at, message);
            }
            Peer::Client(client) => self.request_to_client(client, message),
            Peer::Connector | Peer::Child(_) | Peer::Parent => self.no_service(&message),
        }
    }

    /// Sends a response to the next hop of its route stack. Without one, or when that hop is
    /// gone, nobody waits for it.
    pub(crate) fn route_response(&mut self, mut message: Message) {
        debug_assert_eq!(message.kind, MsgType::Response);
        loop {
            let Some(peer) = message.last_route().and_then(|id| self.ids.get(id)) else {
                return;
            };
            match peer {
                // The parent finds its own id on top and takes it off.
                Peer::Parent => return self.response_up(message),
                Peer::Child(rank) => return self.response_down(rank, message),
                _ => {}
            }
            message.pop_route();
            match peer {
                Peer::Own | Peer::Connector => {}
                Peer::Module(seat) => return self.work.push_back(Work::Deliver(seat, message)),
                Peer::Driver(at) => return self.give_driver(at, message),
                Peer::Client(client) => return self.send_client(client, message),
                Peer::Child(_) | Peer::Parent => return,
            }
        }
    }
}

/// Drivers do what they are told: who may tell them is looked up here, before they hear of it.
/// What the catalogue does not name is the owner's, but for what every service has.
fn driver_may_hear(message: &Message) -> bool {
    if message.cred.is_owner() {
        return true;
    }
    match catalogue::method(message.topic()) {
        Some(method) => message.cred.rolemask.allows(method.role),
        None => matches!(message.method(), "ping" | "disconnect"),
    }
}
