//! Links to the children: greet, use, lose.

use flux_api::overlay::{Goodbye, Hello, Hello_, HelloResponse, Moved_};
use flux_api::rpc::refusal;
use flux_api::{Body, Rpc, RpcError};
use flux_proto::{Cred, Errno, Message, MsgType, Rolemask, RouteId, USERID_UNKNOWN};
use flux_svc::Level;
use flux_svc::engine::{LinkId, Output};

use crate::ids::Peer;
use crate::node::Node;
use crate::overlay::status::Status;
use crate::overlay::{Visitor, control};

/// A version number as people write it.
fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version >> 16, (version >> 8) & 0xff, version & 0xff)
}

impl Node {
    fn child_name(&self, rank: u32) -> String {
        format!("{} (rank {rank})", self.cfg.host(rank))
    }

    pub(crate) fn child_link_up(&mut self, link: LinkId) {
        self.overlay.links.insert(link, Visitor::New);
    }

    pub(crate) fn child_link_down(&mut self, link: LinkId, _reason: &str) {
        self.overlay.keys.remove(&link);
        if let Some(Visitor::Child(rank)) = self.overlay.links.remove(&link) {
            self.child_failed(rank, "failed");
            self.child_gone(rank, Status::Lost, "lost connection");
        }
    }

    /// Logs that a child is lost, and whom it takes along.
    fn child_failed(&mut self, rank: u32, how: &str) {
        let mut text = format!("{} {how}", self.child_name(rank));
        let below = self.count_below(rank);
        if below > 0 {
            text += &format!(" and severed contact with {below} other nodes");
        }
        self.log("overlay", Level::Err, text);
    }

    pub(crate) fn take_child_link(&mut self, link: LinkId, message: Message) {
        match self.overlay.links.get(&link) {
            None => {}
            Some(Visitor::Child(rank)) => self.take_child(*rank, message),
            Some(Visitor::New)
                if message.kind == MsgType::Request && message.topic() == Hello_::TOPIC =>
            {
                self.hello(link, &message);
            }
            Some(Visitor::New | Visitor::Gone) => self.turn_away(link),
        }
    }

    pub(crate) fn turn_away(&mut self, link: LinkId) {
        self.overlay.links.remove(&link);
        self.out.push_back(Output::Link(link, Message::control(control::DISCONNECT, 0)));
        self.out.push_back(Output::CloseLink(link));
    }

    /// Checks a hello; the child's status, or why it is refused.
    fn check_hello(&self, message: &Message) -> Result<(Hello, Status), RpcError> {
        let hello = Hello::take(message).map_err(|_| RpcError::bare(Errno::EPROTO))?;
        let status = Status::from_number(hello.status)
            .filter(|status| status.is_online())
            .ok_or_else(|| RpcError::bare(Errno::EPROTO))?;
        if !message.cred.is_owner() {
            return Err(RpcError::bare(Errno::EPERM));
        }
        let configured = self.cfg.hostlist.get(hello.rank as usize);
        if let (Some(name), Some(configured)) = (&hello.hostname, configured)
            && name != configured
        {
            let text = format!("rank {} is {name} where {configured} is expected", hello.rank);
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        if self.cfg.removed.contains(hello.rank) {
            let text = format!("rank {} is removed from this instance", hello.rank);
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        // One that runs already may have been started before the instance grew.
        if let Some(size) = hello.size.filter(|size| *size != self.cfg.size() && !hello.up) {
            let text = format!(
                "rank {} was started for an instance of {size} brokers, and this one has {}: \
                 mismatched config?",
                hello.rank,
                self.cfg.size()
            );
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        if !self.overlay.children.contains_key(&hello.rank) && !self.may_adopt(hello.rank) {
            let text = format!(
                "rank {} is not a child of rank {}: mismatched config?",
                hello.rank, self.cfg.rank
            );
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        Ok((hello, status))
    }

    fn hello(&mut self, link: LinkId, message: &Message) {
        if self.overlay.releasing {
            // It shall try again, until this broker is back.
            self.overlay.links.remove(&link);
            return self.out.push_back(Output::CloseLink(link));
        }
        if self.overlay.spurn {
            return self.turn_away(link);
        }
        let result = self.check_hello(message).and_then(|(hello, status)| {
            if self.may_be(link, hello.rank) {
                return Ok((hello, status));
            }
            let text = format!("the key of rank {} is another one", hello.rank);
            Err(RpcError::new(Errno::EPERM, text))
        });
        let rank = Hello::take(message).map(|hello| hello.rank).ok();
        let result = result.and_then(|(hello, status)| {
            let own = &self.overlay.way.instance;
            if let Some(theirs) = &hello.instance
                && !own.is_empty()
                && theirs != own
            {
                let text = format!(
                    "rank {} belongs to instance {theirs}, and this is instance {own}",
                    hello.rank
                );
                return Err(RpcError::new(Errno::ESTALE, text));
            }
            self.supersede(hello.rank);
            let id = RouteId::from(hello.link.as_deref().unwrap_or(&hello.uuid));
            if id.as_bytes().is_empty() || self.ids.get(&id).is_some() {
                let text = format!("identity '{id}' of rank {} is in use", hello.rank);
                return Err(RpcError::new(Errno::EINVAL, text));
            }
            let own = self.cfg.version_number();
            let text = if hello.version >> 8 != own >> 8 {
                format!(
                    "client ({}) version mismatched with server ({})",
                    dotted(hello.version),
                    dotted(own)
                )
            } else if self.cfg.works_with(hello.release) {
                return Ok((hello, status));
            } else {
                let theirs = dotted(hello.release.unwrap_or_default());
                format!(
                    "{} has version {theirs} and its parent {} (rank {}) {}: brokers work together \
                     when their minor numbers differ by one at most: update step by step",
                    self.child_name(hello.rank),
                    self.cfg.host(self.cfg.rank),
                    self.cfg.rank,
                    dotted(self.cfg.release_number())
                )
            };
            if let Some(child) = self.overlay.children.get_mut(&hello.rank) {
                child.error.clone_from(&text);
            }
            Err(RpcError::new(Errno::EINVAL, text))
        });
        let (hello, status) = match result {
            Ok(accepted) => accepted,
            Err(error) => {
                let who = rank.map_or_else(|| "a broker".to_string(), |rank| self.child_name(rank));
                let text = format!("refused hello from {who}: {}", error.message());
                self.log("overlay", Level::Err, text);
                self.overlay.links.remove(&link);
                self.out.push_back(Output::Link(link, refusal(message, &error)));
                self.out.push_back(Output::CloseLink(link));
                return;
            }
        };
        let name = self.child_name(hello.rank);
        let mut text = format!("accepting connection from {name} status {}", status.name());
        if self.cfg.topology.parent(hello.rank) != Some(self.cfg.rank) {
            text += ", whose parent is lost";
        }
        if hello.up {
            text += ", which runs already";
        }
        self.log("overlay", Level::Debug, text);
        let uuid = RouteId::from(hello.link.as_deref().unwrap_or(&hello.uuid));
        self.adopt(hello.rank);
        if !hello.tells {
            self.child_brings_all(hello.rank);
        }
        self.ids.insert(uuid.clone(), Peer::Child(hello.rank));
        self.overlay.links.insert(link, Visitor::Child(hello.rank));
        if let Some(child) = self.overlay.children.get_mut(&hello.rank) {
            child.link = Some(link);
            child.uuid = Some(uuid);
            child.heard = self.clock.mono_us;
            child.torpid = false;
            child.error.clear();
        }
        let face = self.new_face(hello.rank);
        let uuid = self.cfg.uuid.to_str_lossy().into_owned();
        let mut response = Message::response_to(message);
        let way = Some(self.way_news());
        HelloResponse { uuid, link: face, way }.put(&mut response);
        self.out.push_back(Output::Link(link, response));
        self.child_status(hello.rank, status);
    }

    /// Gives this broker its identity on the link to a child; the text of one that is not its
    /// uuid.
    fn new_face(&mut self, rank: u32) -> Option<String> {
        let child = self.overlay.children.get_mut(&rank)?;
        match child.face.take() {
            // One that was taken in may have been here before, which nobody remembers.
            None if !child.adopted => {
                child.face = Some(self.cfg.uuid.clone());
                None
            }
            former => {
                if let Some(former) = former.filter(|former| *former != self.cfg.uuid) {
                    self.ids.remove(&former, Peer::Own);
                }
                let face = self.ids.make(Peer::Own);
                let text = face.to_str_lossy().into_owned();
                child.face = Some(face);
                Some(text)
            }
        }
    }

    /// A child says hello that is online already: what was before has ended without a word.
    fn supersede(&mut self, rank: u32) {
        let Some(link) = self.overlay.children.get(&rank).and_then(|child| child.link) else {
            return;
        };
        let name = self.child_name(rank);
        let text = format!("{name} reconnected after crash, dropping old connection state");
        self.log("overlay", Level::Err, text);
        self.overlay.links.remove(&link);
        self.out.push_back(Output::CloseLink(link));
        self.child_gone(rank, Status::Lost, "");
    }

    fn take_child(&mut self, rank: u32, mut message: Message) {
        self.seen_at_link(rank.into(), false, &message);
        let Some(child) = self.overlay.children.get_mut(&rank) else {
            return;
        };
        child.heard = self.clock.mono_us;
        message.cred.rolemask.remove(Rolemask::LOCAL);
        match message.kind {
            MsgType::Control => {
                let status = Status::from_number(message.control_status());
                if message.control_type() == control::STATUS
                    && let Some(status) = status.filter(|status| status.is_online())
                {
                    self.child_status(rank, status);
                }
            }
            MsgType::Request => {
                if message.routes.is_empty() && message.topic() == Goodbye::TOPIC {
                    return self.goodbye(rank, &message);
                }
                if message.routes.is_empty() && message.topic() == Moved_::TOPIC {
                    return self.child_moved(rank, &message);
                }
                if let Some(uuid) = child.uuid.clone() {
                    message.push_route(uuid);
                }
                child.traffic.received(&message, self.clock.mono_us);
                if self.passes_from_child(&message) {
                    self.route_request(message);
                }
            }
            MsgType::Response => {
                // The request was noted before it got this broker's name on the link.
                if message.last_route() == child.face.as_ref() {
                    message.pop_route();
                }
                child.traffic.sent.response(&message);
                self.route_response(message);
            }
            MsgType::Event => {
                self.publish(message);
            }
        }
    }

    /// A child leaves in order. Its link stays until it hangs up.
    fn goodbye(&mut self, rank: u32, message: &Message) {
        let Some(link) = self.overlay.children.get(&rank).and_then(|child| child.link) else {
            return;
        };
        let mut response = Message::response_to(message);
        response.cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::NONE };
        self.out.push_back(Output::Link(link, response));
        self.overlay.links.insert(link, Visitor::Gone);
        self.child_gone(rank, Status::Offline, "administrative shutdown");
    }

    /// Declares a child dead at somebody's request.
    pub(crate) fn disconnect_child(&mut self, rank: u32) -> Result<(), RpcError> {
        let Some(child) = self.overlay.children.get(&rank) else {
            let text = "requested rank is not this broker's direct child";
            return Err(RpcError::new(Errno::ENOENT, text));
        };
        if !child.status.is_online() {
            let text = format!("rank {rank} is already {}", child.status.name());
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        if let Some(link) = child.link {
            self.turn_away(link);
        }
        self.child_failed(rank, "disconnected by request");
        self.child_gone(rank, Status::Lost, "administrative disconnect");
        Ok(())
    }

    /// Lets every child go that is there: it waits for this broker to come back.
    pub(crate) fn release_children(&mut self) {
        let ranks: Vec<u32> = self.overlay.children.keys().copied().collect();
        for rank in ranks {
            if let Some(link) = self.overlay.children.get(&rank).and_then(|child| child.link) {
                self.overlay.links.remove(&link);
                self.out.push_back(Output::CloseLink(link));
                self.child_gone(rank, Status::Lost, "released");
            }
        }
    }

    /// A child is no longer online: every request on its way to it ends, and every stream that
    /// it asked for.
    pub(crate) fn child_gone(&mut self, rank: u32, status: Status, error: &str) {
        let Some(child) = self.overlay.children.get_mut(&rank) else {
            return;
        };
        child.link = None;
        child.torpid = false;
        child.error = error.to_string();
        let (requests, farewells) = child.traffic.end();
        if let Some(uuid) = child.uuid.take() {
            self.ids.remove(&uuid, Peer::Child(rank));
        }
        self.lose_below(rank);
        self.child_status(rank, status);
        self.forget_adopted(rank);
        for request in requests {
            self.refuse(&request, Errno::EHOSTUNREACH);
        }
        for message in farewells {
            self.route_request(message);
        }
    }

    fn send_down(&mut self, rank: u32, message: Message) -> bool {
        let link = self.overlay.children.get(&rank).and_then(|child| child.link);
        if let Some(link) = link {
            self.seen_at_link(rank.into(), true, &message);
            self.out.push_back(Output::Link(link, message));
        }
        link.is_some()
    }

    pub(crate) fn request_down(&mut self, rank: u32, mut message: Message) {
        match self.overlay.children.get_mut(&rank) {
            Some(child) if child.link.is_some() => {
                child.traffic.sent.request(&message, self.clock.mono_us);
                let face = child.face.clone().unwrap_or_else(|| self.cfg.uuid.clone());
                message.push_route(face);
                self.send_down(rank, message);
            }
            _ => self.refuse(&message, Errno::EHOSTUNREACH),
        }
    }

    /// A response to a request that came from a child, whose name is still on top.
    pub(crate) fn response_down(&mut self, rank: u32, mut message: Message) {
        if let Some(child) = self.overlay.children.get_mut(&rank) {
            child.traffic.streams.response(&message);
        }
        message.pop_route();
        self.send_down(rank, message);
    }

    pub(crate) fn event_down(&mut self, message: &Message) {
        if !self.overlay.children.is_empty() {
            self.seen_at_link(-1, true, message);
        }
        for link in self.overlay.children.values().filter_map(|child| child.link) {
            self.out.push_back(Output::Link(link, message.clone()));
        }
    }
}
