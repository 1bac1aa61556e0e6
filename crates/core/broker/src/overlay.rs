//! The overlay: links to the parent and the children, apart from the services that use them.
//!
//! All that is known of a link is in [`Parent`] and [`Child`]; losing one ends the requests that
//! were on their way over it, once, and touches no service. So a broker can lose its parent and
//! join again (`overlay.join`) while its modules run on.

pub(crate) mod below;
pub(crate) mod child;
pub(crate) mod growth;
pub(crate) mod identity;
pub(crate) mod parent;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod watch;
pub(crate) mod way;

use std::collections::BTreeMap;

use flux_api::overlay::{Health_, Join, Leave, Monitor, Orphaned, Rejoin};
use flux_api::rpc::Answer;
use flux_proto::{Message, RouteId};
use flux_svc::engine::LinkId;

use crate::config::NodeConfig;
use crate::track::{Tracker, farewell};

use self::below::Below;
use self::parent::Parent;
use self::status::Status;
use self::way::WayUp;

/// Control messages between neighbours (RFC 3); the number is their type.
pub(crate) mod control {
    /// Child to parent: still here.
    pub(crate) const HEARTBEAT: u32 = 0;
    /// Child to parent: status of the subtree.
    pub(crate) const STATUS: u32 = 1;
    /// Parent to child: you are not my child (any more).
    pub(crate) const DISCONNECT: u32 = 2;
}

/// What is on its way over one link.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Requests sent over it: each ends with EHOSTUNREACH when the link is lost.
    pub(crate) sent: Tracker,
    /// Streams asked for by the other side: who serves them is told when the link is lost.
    pub(crate) streams: Tracker,
}

impl Traffic {
    /// A request came over the link.
    pub(crate) fn received(&mut self, message: &Message, now: u64) {
        if message.is_streaming() || message.no_response() {
            self.streams.request(message, now);
        }
    }

    /// The link is lost: the requests to fail, and the notifications to send.
    pub(crate) fn end(&mut self) -> (Vec<Message>, Vec<Message>) {
        let farewells = self.streams.take().map(|message| {
            let service = message.topic().rsplit_once('.').map_or("", |(service, _)| service);
            farewell(&message, service)
        });
        (self.sent.take().collect(), farewells.collect())
    }
}

/// A configured child, or one that was taken in.
#[derive(Debug, Default)]
pub(crate) struct Child {
    pub(crate) link: Option<LinkId>,
    /// Its identity on the link while it is online.
    pub(crate) uuid: Option<RouteId>,
    /// This broker's identity on the link: its uuid the first time, another one each time that
    /// the child comes back or is taken in, so that answers from before do not meet requests from
    /// now.
    pub(crate) face: Option<RouteId>,
    pub(crate) status: Status,
    /// Since when it has that status, monotonic microseconds.
    pub(crate) since: u64,
    /// Why it is not online, for health reports; empty when there is nothing to say.
    pub(crate) error: String,
    /// When it was last heard of, monotonic microseconds.
    pub(crate) heard: u64,
    pub(crate) torpid: bool,
    /// It is configured to be somewhere below, and has lost the parent it had there.
    pub(crate) adopted: bool,
    pub(crate) traffic: Traffic,
}

/// An accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// Not yet greeted.
    New,
    /// This child.
    Child(u32),
    /// It has said goodbye.
    Gone,
}

/// State of all links of one broker.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) status: Status,
    pub(crate) since: u64,
    pub(crate) children: BTreeMap<u32, Child>,
    /// Children by status.
    pub(crate) count: [u32; 6],
    pub(crate) links: BTreeMap<LinkId, Visitor>,
    /// The key of the other end of each link that has one.
    pub(crate) keys: BTreeMap<LinkId, String>,
    /// The tree as it is, where that may differ from the configured one.
    pub(crate) below: Option<Below>,
    pub(crate) parent: Parent,
    pub(crate) way: WayUp,
    /// New children are turned away.
    pub(crate) spurn: bool,
    /// New children are to come again later.
    pub(crate) releasing: bool,
    pub(crate) torpid_min: u64,
    pub(crate) torpid_max: u64,
    /// `tbon.rejoin-timeout` in seconds, if it is set.
    pub(crate) rejoin_timeout: Option<f64>,
    /// When idle links were last looked at.
    pub(crate) checked: u64,
    pub(crate) health: Vec<Answer<Health_>>,
    pub(crate) monitors: Vec<Answer<Monitor>>,
    pub(crate) joins: Vec<Answer<Join>>,
    pub(crate) rejoins: Vec<Answer<Rejoin>>,
    pub(crate) orphans: Vec<Answer<Orphaned>>,
    pub(crate) leaves: Vec<Answer<Leave>>,
}

impl Overlay {
    pub(crate) fn new(cfg: &NodeConfig) -> Self {
        let all = cfg.topology.children(cfg.rank).iter().copied();
        let ranks: Vec<u32> = all.filter(|rank| !cfg.removed.contains(*rank)).collect();
        let mut count = [0; 6];
        count[Status::Offline as usize] = u32::try_from(ranks.len()).unwrap_or(u32::MAX);
        Self {
            status: if ranks.is_empty() { Status::Full } else { Status::Partial },
            since: 0,
            children: ranks.iter().map(|rank| (*rank, Child::default())).collect(),
            count,
            links: BTreeMap::new(),
            keys: BTreeMap::new(),
            below: cfg.reparent.map(|_| Below::default()),
            parent: Parent::new(cfg),
            way: WayUp::new(cfg),
            spurn: false,
            releasing: false,
            torpid_min: 0,
            torpid_max: 0,
            rejoin_timeout: None,
            checked: 0,
            health: Vec::new(),
            monitors: Vec::new(),
            joins: Vec::new(),
            rejoins: Vec::new(),
            orphans: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// Time begins.
    pub(crate) fn begin(&mut self, now: u64) {
        self.since = now;
        self.checked = now;
        for child in self.children.values_mut() {
            child.since = now;
        }
    }

    /// Requests outstanding at neighbours.
    pub(crate) fn tracked(&self) -> usize {
        self.parent.traffic.sent.len() + self.tracked_below()
    }

    pub(crate) fn tracked_below(&self) -> usize {
        self.children.values().map(|child| child.traffic.sent.len()).sum()
    }

    pub(crate) fn forget_answers(&mut self) {
        self.health.drain(..).for_each(Answer::forget);
        self.monitors.drain(..).for_each(Answer::forget);
        self.joins.drain(..).for_each(Answer::forget);
        self.rejoins.drain(..).for_each(Answer::forget);
        self.orphans.drain(..).for_each(Answer::forget);
        self.leaves.drain(..).for_each(Answer::forget);
    }
}
