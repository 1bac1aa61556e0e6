//! The link to the parent: connect, greet, use, lose, and connect again.

use flux_api::overlay::{Drop_, Hello, Hello_, HelloResponse, Joined, Way_, WayNews};
use flux_api::rpc::request;
use flux_api::{Body, Empty, Rpc, RpcError, overlay};
use flux_id::fsd;
use flux_proto::{Cred, Errno, Message, MsgType, NODEID_ANY, Rolemask, RouteId, USERID_UNKNOWN};
use flux_svc::Level;
use flux_svc::engine::{LinkId, Output};

use crate::config::NodeConfig;
use crate::ids::Peer;
use crate::node::Node;
use crate::overlay::{Traffic, control};

/// First delay before a connection is tried again, and the longest, in microseconds.
const BACKOFF: u64 = 16_000;
const MAX_BACKOFF: u64 = 500_000;

/// How long the answer to a hello may take, in microseconds.
const GREET_MAX: u64 = 10_000_000;

/// A broker that starts waits at least so long for its configured parent, in microseconds: nodes
/// are not switched on in the order of the tree.
const FIRST_PATIENCE: u64 = 30_000_000;

/// Where the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uplink {
    /// Rank 0 has no parent.
    Root,
    /// Nobody has asked to join yet, or the parent has refused.
    Idle,
    /// The host connects.
    Connecting,
    /// The last try failed; the next one is at this time.
    Waiting(u64),
    /// Hello was sent.
    Greeting,
    /// In use.
    Joined(Joint),
    /// Was in use.
    Lost,
    /// Was in use, and cannot be again: why.
    Barred(RpcError),
    /// Left in order.
    Left,
}

/// Who the parent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joint {
    /// Its incarnation.
    pub(crate) uuid: String,
    /// Its identity on this link.
    link: RouteId,
}

/// The link to the parent.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) state: Uplink,
    pub(crate) traffic: Traffic,
    /// Who it is, or would be: the configured parent, or another ancestor.
    pub(crate) rank: u32,
    /// Who was lost.
    pub(crate) former: u32,
    /// Tries since it was lost.
    tries: u32,
    /// Since when a parent is looked for, monotonic microseconds.
    sought: u64,
    backoff: u64,
    /// This broker has said hello before.
    known: bool,
    /// When the answer to the hello must be there, monotonic microseconds.
    greet_by: u64,
    /// When it was lost, monotonic microseconds.
    lost_at: u64,
    /// When something was last sent, monotonic microseconds.
    pub(crate) sent: u64,
    /// The status that the parent knows of.
    pub(crate) reported: u32,
    /// Why connecting failed when that was last told, and when.
    told: Option<(String, u64)>,
}

/// The same reason for not connecting is told so often, in microseconds.
const TELL_AGAIN: u64 = 60_000_000;

impl Parent {
    pub(crate) fn new(cfg: &NodeConfig) -> Self {
        Self {
            state: if cfg.rank == 0 { Uplink::Root } else { Uplink::Idle },
            traffic: Traffic::default(),
            rank: cfg.topology.parent(cfg.rank).unwrap_or(0),
            former: 0,
            tries: 0,
            sought: 0,
            backoff: BACKOFF,
            known: false,
            greet_by: 0,
            lost_at: 0,
            sent: 0,
            reported: 0,
            told: None,
        }
    }

    /// Whether a reason for not connecting is news.
    fn is_news(&mut self, reason: &str, now: u64) -> bool {
        let known = |(told, at): &(String, u64)| told == reason && now < at + TELL_AGAIN;
        let news = !self.told.as_ref().is_some_and(known);
        if news {
            self.told = Some((reason.to_string(), now));
        }
        news
    }

    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.state, Uplink::Joined(_))
    }
}

impl Node {
    fn parent_name(&self) -> String {
        let rank = self.overlay.parent.rank;
        format!("{} (rank {rank})", self.cfg.host(rank))
    }

    /// Whom to try next: the configured parent, and with time those above it, too.
    fn next_parent(&mut self) -> u32 {
        let home = self.cfg.topology.parent(self.cfg.rank).unwrap_or(0);
        let Some(after) = self.cfg.reparent else { return home };
        let after = (after * 1e6) as u64;
        let parent = &mut self.overlay.parent;
        let patience = if parent.known { after } else { after.max(FIRST_PATIENCE) };
        let waited = self.clock.mono_us.saturating_sub(parent.sought);
        let reach = waited.checked_div(patience).map_or(u64::MAX, |steps| steps.saturating_add(1));
        let tree = &self.cfg.topology;
        let mut ancestors = vec![home];
        while let Some(next) = ancestors.last().and_then(|rank| tree.parent(*rank))
            && (ancestors.len() as u64) < reach
        {
            ancestors.push(next);
        }
        let at = parent.tries as usize % ancestors.len();
        parent.tries = parent.tries.wrapping_add(1);
        ancestors.get(at).copied().unwrap_or(home)
    }

    fn call_parent(&mut self) {
        self.overlay.keys.remove(&LinkId::PARENT);
        let rank = self.next_parent();
        self.overlay.parent.rank = rank;
        self.overlay.parent.state = Uplink::Connecting;
        self.out.push_back(Output::ConnectParent(rank));
    }

    /// Sends to the parent, whatever the state of the link.
    pub(crate) fn send_up(&mut self, message: Message) {
        self.overlay.parent.sent = self.clock.mono_us;
        self.seen_at_parent(true, &message);
        self.out.push_back(Output::Link(LinkId::PARENT, message));
    }

    /// Begins to connect, unless that has happened already.
    pub(crate) fn connect_parent(&mut self) {
        let parent = &mut self.overlay.parent;
        if matches!(parent.state, Uplink::Idle | Uplink::Lost | Uplink::Left | Uplink::Barred(_)) {
            parent.backoff = BACKOFF;
            parent.tries = 0;
            parent.sought = self.clock.mono_us;
            self.call_parent();
        }
    }

    /// The time for another try has come, if it has.
    pub(crate) fn retry_parent(&mut self) {
        let now = self.clock.mono_us;
        if self.rejoin_deadline().is_some_and(|at| at <= now) {
            return self.give_up_rejoin();
        }
        match self.overlay.parent.state {
            Uplink::Waiting(at) if at <= now => self.call_parent(),
            Uplink::Greeting if self.overlay.parent.greet_by <= now => {
                self.out.push_back(Output::CloseLink(LinkId::PARENT));
                self.parent_down("no answer to hello");
            }
            _ => {}
        }
    }

    /// When the link wants to be looked at, monotonic microseconds.
    pub(crate) fn parent_deadline(&self) -> Option<u64> {
        let next = match self.overlay.parent.state {
            Uplink::Waiting(at) => Some(at),
            Uplink::Greeting => Some(self.overlay.parent.greet_by),
            _ => None,
        };
        [next, self.rejoin_deadline()].into_iter().flatten().min()
    }

    /// Tries to join again after a loss. The answer, if it is known already.
    pub(crate) fn rejoin(&mut self) -> Option<Result<Joined, RpcError>> {
        match &self.overlay.parent.state {
            Uplink::Root => return Some(Ok(Joined { uuid: String::new() })),
            Uplink::Joined(joint) => return Some(Ok(Joined { uuid: joint.uuid.clone() })),
            Uplink::Barred(error) => return Some(Err(error.clone())),
            Uplink::Lost if self.rejoin_limit() == Some(0) => {
                let text = format!("{} is lost", self.parent_name());
                return Some(Err(RpcError::new(Errno::EHOSTUNREACH, text)));
            }
            _ => {}
        }
        self.connect_parent();
        None
    }

    fn rejoin_deadline(&self) -> Option<u64> {
        if self.overlay.rejoins.is_empty() {
            return None;
        }
        self.rejoin_limit().map(|limit| self.overlay.parent.lost_at.saturating_add(limit))
    }

    fn give_up_rejoin(&mut self) {
        let silent = self.clock.mono_us.saturating_sub(self.overlay.parent.lost_at) as f64 / 1e6;
        let text = format!("{} did not come back for {}", self.parent_name(), fsd::format(silent));
        self.overlay.parent.state = Uplink::Lost;
        self.out.push_back(Output::CloseLink(LinkId::PARENT));
        for answer in std::mem::take(&mut self.overlay.rejoins) {
            self.reply(answer, Err(RpcError::new(Errno::ETIMEDOUT, text.clone())));
        }
    }

    pub(crate) fn parent_up(&mut self) {
        if !matches!(self.overlay.parent.state, Uplink::Connecting | Uplink::Waiting(_)) {
            return;
        }
        if !self.may_be(LinkId::PARENT, self.overlay.parent.rank) {
            self.out.push_back(Output::CloseLink(LinkId::PARENT));
            return self.parent_down("it has not the key that is listed for its host");
        }
        self.overlay.parent.state = Uplink::Greeting;
        self.overlay.parent.greet_by = self.clock.mono_us + GREET_MAX;
        let status = self.overlay.status as u32;
        self.overlay.parent.reported = status;
        let again = std::mem::replace(&mut self.overlay.parent.known, true);
        let link = again.then(|| self.ids.fresh().to_str_lossy().into_owned());
        let hello = Hello {
            link,
            rank: self.cfg.rank,
            version: self.cfg.version_number(),
            release: Some(self.cfg.release_number()),
            uuid: self.cfg.uuid.to_str_lossy().into_owned(),
            status,
            size: Some(self.cfg.size()),
            hostname: self.cfg.hostlist.get(self.cfg.rank as usize).cloned(),
            instance: Some(self.overlay.way.instance.clone()).filter(|text| !text.is_empty()),
            sequence: again.then_some(self.events.sequence),
            up: self.boot.is_up(),
            tells: self.overlay.below.is_some(),
        };
        let cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::OWNER };
        self.send_up(request::<Hello_>(&hello).with_cred(cred));
    }

    /// The connection failed or ended.
    pub(crate) fn parent_down(&mut self, reason: &str) {
        let now = self.clock.mono_us;
        let name = self.parent_name();
        let parent = &mut self.overlay.parent;
        match parent.state {
            Uplink::Connecting | Uplink::Greeting => {
                // Not all children of a lost parent at the same moment.
                let jitter = self.ids.random() % (parent.backoff / 2);
                parent.state = Uplink::Waiting(now + parent.backoff - jitter);
                parent.backoff = (parent.backoff * 2).min(MAX_BACKOFF);
                let news = parent.is_news(reason, now);
                let level = if news { Level::Warning } else { Level::Debug };
                self.log("overlay", level, format!("{name}: {reason}; trying again"));
            }
            Uplink::Joined(_) => {
                self.log("overlay", Level::Err, format!("{name} failed: {reason}"));
                self.parent_lost(Uplink::Lost);
            }
            _ => {}
        }
    }

    pub(crate) fn take_parent(&mut self, mut message: Message) {
        let greeting = match self.overlay.parent.state {
            Uplink::Greeting => true,
            Uplink::Joined(_) => false,
            _ => return,
        };
        self.seen_at_parent(false, &message);
        if message.kind == MsgType::Control {
            if message.control_type() == control::DISCONNECT {
                self.disconnected(greeting);
            }
            return;
        }
        if greeting {
            if message.kind == MsgType::Response && message.topic() == Hello_::TOPIC {
                return self.greeted(&message);
            }
            let (kind, topic) = (message.kind.name(), message.topic());
            let text = format!(
                "DROP upstream {kind} topic {topic} : message received before hello handshake \
                 completed"
            );
            return self.log("overlay", Level::Err, text);
        }
        message.cred.rolemask.remove(Rolemask::LOCAL);
        match message.kind {
            // With a route it is a request of somebody, which only looks like the parent's word.
            MsgType::Request if message.routes.is_empty() && message.topic() == Way_::TOPIC => {
                self.way_message(&message);
            }
            MsgType::Request if message.routes.is_empty() && message.topic() == Drop_::TOPIC => {
                self.dropped(&message);
            }
            MsgType::Request if self.is_astray(&message) => {
                self.refuse(&message, Errno::EHOSTUNREACH);
            }
            MsgType::Request => {
                self.overlay.parent.traffic.received(&message, self.clock.mono_us);
                if self.passes(&message) {
                    self.route_request(message);
                }
            }
            MsgType::Response => {
                if message.routes.is_empty() && message.topic() == overlay::Goodbye::TOPIC {
                    return self.left();
                }
                self.overlay.parent.traffic.sent.response(&message);
                self.route_response(message);
            }
            MsgType::Event => self.event_from_parent(message),
            MsgType::Control => {}
        }
    }

    /// Whether the parent believes a rank to be below, and it is not, any more: sent up it would
    /// come again.
    fn is_astray(&self, message: &Message) -> bool {
        let target = message.nodeid();
        self.overlay.below.is_some()
            && !message.upstream()
            && target != NODEID_ANY
            && target != self.cfg.rank
            && self.child_toward(target).is_none()
    }

    /// The parent has answered the hello.
    fn greeted(&mut self, response: &Message) {
        let result = match RpcError::of(response) {
            Some(error) => Err(error),
            None => {
                HelloResponse::take(response).map_err(|text| RpcError::new(Errno::EPROTO, text))
            }
        };
        match result {
            Ok(hello) => {
                let link = RouteId::from(hello.link.as_deref().unwrap_or(&hello.uuid));
                self.ids.insert(link.clone(), Peer::Parent);
                let joint = Joint { uuid: hello.uuid.clone(), link };
                self.overlay.parent.state = Uplink::Joined(joint);
                self.overlay.parent.backoff = BACKOFF;
                self.events.fresh = true;
                // First of all: so the parent knows that this end is alive, and no hello that was
                // said long ago and read just now makes it take brokers from their places.
                if let Some(members) = self.members() {
                    self.tell_moved(members, String::new());
                }
                self.report_status();
                if self.is_visitor() {
                    let name = self.parent_name();
                    let home = self.cfg.topology.parent(self.cfg.rank).unwrap_or(0);
                    let home = self.cfg.host(home);
                    let text = format!("{home} is lost: {name} is the parent from now on");
                    self.log("overlay", Level::Warning, text);
                }
                for answer in std::mem::take(&mut self.overlay.joins) {
                    self.reply(answer, Ok(Joined { uuid: hello.uuid.clone() }));
                }
                for answer in std::mem::take(&mut self.overlay.rejoins) {
                    self.reply(answer, Ok(Joined { uuid: hello.uuid.clone() }));
                }
                self.way_heard(hello.way.unwrap_or(WayNews {
                    open: true,
                    instance: String::new(),
                    durable: false,
                    leader: String::new(),
                    sequence: 0,
                }));
            }
            Err(error) if self.is_visitor() && error.errno == Errno::EINVAL => {
                // It does not take in those who are not its own.
                self.out.push_back(Output::CloseLink(LinkId::PARENT));
                self.parent_down(&format!("overlay.hello: {}", error.message()));
            }
            Err(error) => self.refused(&error, Errno::ESTALE),
        }
    }

    /// The one it has turned to is not its configured parent.
    fn is_visitor(&self) -> bool {
        self.cfg.topology.parent(self.cfg.rank) != Some(self.overlay.parent.rank)
    }

    /// The parent does not take this broker; whoever wants to join again hears `again`.
    fn refused(&mut self, error: &RpcError, again: Errno) {
        self.overlay.parent.state = Uplink::Idle;
        self.out.push_back(Output::CloseLink(LinkId::PARENT));
        self.log("overlay", Level::Err, format!("overlay.hello: {}", error.message()));
        for answer in std::mem::take(&mut self.overlay.joins) {
            self.reply(answer, Err(error.clone()));
        }
        for answer in std::mem::take(&mut self.overlay.rejoins) {
            self.reply(answer, Err(RpcError::new(again, error.message())));
        }
    }

    /// The parent has sent a disconnect.
    fn disconnected(&mut self, greeting: bool) {
        let name = self.parent_name();
        let text = format!("{name} sent disconnect control message");
        self.log("overlay", Level::Crit, &text);
        if greeting {
            let error = RpcError::new(Errno::EHOSTUNREACH, text);
            return self.refused(&error, Errno::ESHUTDOWN);
        }
        self.out.push_back(Output::CloseLink(LinkId::PARENT));
        self.parent_lost(Uplink::Barred(RpcError::new(Errno::ESTALE, text)));
    }

    /// Leaves the parent as if it were lost.
    pub(crate) fn disconnect_parent(&mut self, reason: &str) {
        if self.overlay.parent.is_joined() {
            self.log("overlay", Level::Crit, format!("disconnecting: {reason}"));
            self.out.push_back(Output::CloseLink(LinkId::PARENT));
            self.parent_lost(Uplink::Lost);
        }
    }

    /// Every request on its way up ends, and every stream that came down.
    pub(crate) fn parent_lost(&mut self, state: Uplink) {
        self.overlay.parent.lost_at = self.clock.mono_us;
        self.overlay.parent.former = self.overlay.parent.rank;
        self.end_uplink(state);
        self.way_lost();
        self.way_cut();
        for answer in std::mem::take(&mut self.overlay.orphans) {
            self.reply(answer, Ok(Empty));
        }
    }

    fn end_uplink(&mut self, state: Uplink) {
        let former = std::mem::replace(&mut self.overlay.parent.state, state);
        if let Uplink::Joined(joint) = former {
            self.ids.remove(&joint.link, Peer::Parent);
        }
        let (requests, farewells) = self.overlay.parent.traffic.end();
        for request in requests {
            self.refuse(&request, RpcError::new(Errno::EHOSTUNREACH, "overlay disconnect"));
        }
        for message in farewells {
            self.route_request(message);
        }
        for answer in std::mem::take(&mut self.overlay.leaves) {
            self.reply(answer, Ok(Empty));
        }
    }

    /// Says goodbye; answered by [`Node::left`].
    pub(crate) fn say_goodbye(&mut self) {
        let cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::OWNER };
        self.send_up(Message::request(overlay::Goodbye::TOPIC).with_cred(cred));
    }

    fn left(&mut self) {
        if !self.overlay.leaves.is_empty() {
            self.end_uplink(Uplink::Left);
        }
    }

    /// Tells the parent the status of this subtree when it knows another.
    pub(crate) fn report_status(&mut self) {
        let status = self.overlay.status as u32;
        if self.overlay.parent.is_joined() && self.overlay.parent.reported != status {
            self.overlay.parent.reported = status;
            self.send_up(Message::control(control::STATUS, status));
        }
    }

    pub(crate) fn request_up(&mut self, message: Message) {
        if !self.overlay.parent.is_joined() {
            let text = format!("{} cannot be reached at present", self.parent_name());
            return self.refuse(&message, RpcError::new(Errno::EHOSTUNREACH, text));
        }
        self.overlay.parent.traffic.sent.request(&message, self.clock.mono_us);
        self.send_up(message);
    }

    /// A response to a request that came from the parent.
    pub(crate) fn response_up(&mut self, message: Message) {
        self.overlay.parent.traffic.streams.response(&message);
        self.send_up(message);
    }

    pub(crate) fn event_up(&mut self, message: Message) {
        if self.overlay.parent.is_joined() {
            self.send_up(message);
        } else {
            let text = format!("event {} is lost: no parent", message.topic());
            self.log("overlay", Level::Err, text);
        }
    }
}
