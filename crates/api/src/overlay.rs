//! `overlay`: the tree that joins the brokers (spec of flux-core's overlay service, RFC 3).

use serde_json::Value;

use crate::body::Empty;

bodies! {
    /// What a child says of itself (`overlay.hello`).
    pub struct Hello {
        /// Its rank.
        pub rank: u32,
        /// major * 65536 + minor * 256 + patch.
        pub version: u32,
        /// The release of the program, in the same form.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub release: Option<u32>,
        /// Identity of this incarnation.
        pub uuid: String,
        /// Status of its subtree, a number.
        pub status: u32,
        /// Brokers of the instance, as it knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub size: Option<u32>,
        /// Its host name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hostname: Option<String>,
        /// Identity on this link, when it is not `uuid`: a broker that joins again takes a new
        /// one, so that answers to what it asked before do not meet what it asks now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub link: Option<String>,
        /// Instance that it has been part of; not there at its first hello.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub instance: Option<String>,
        /// Number of the newest event it has seen, when it comes back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub sequence: Option<u32>,
        /// Its services are up: it runs already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub up: bool,
        /// With `tbon.reparent`: once accepted it tells who is below it (`overlay.moved`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub tells: bool,
    }

    /// Ranks of a subtree as it is at present (`tbon.reparent`).
    #[derive(Default)]
    pub struct Members {
        /// The ranks, an idset.
        pub ranks: String,
        /// Those that are not below their configured parent: rank, and who has taken it in.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub adopted: Vec<(u32, u32)>,
    }

    /// A subtree has changed (`overlay.moved`).
    pub struct Moved {
        /// Brokers that are in it now.
        pub add: Members,
        /// Ranks that are not any more, an idset.
        pub remove: String,
    }

    /// Ranks that are elsewhere now (`overlay.drop`).
    pub struct Elsewhere {
        /// The ranks, an idset.
        pub ranks: String,
    }

    /// The way from a broker up to the leader, as it tells its children.
    pub struct WayNews {
        /// Requests get through.
        pub open: bool,
        /// Identity of the instance, kept with its state; empty as long as it is not known.
        pub instance: String,
        /// The instance outlives its leader's process: whoever loses its parent waits for it.
        pub durable: bool,
        /// Identity of the leader's incarnation; empty as long as it is not known.
        pub leader: String,
        /// Number of the newest event.
        pub sequence: u32,
    }

    /// What the parent answers.
    pub struct HelloResponse {
        /// Identity of the parent's incarnation.
        pub uuid: String,
        /// Identity on this link, when it is not `uuid`; see [`Hello::link`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub link: Option<String>,
        /// The way up from there. A parent that does not tell has an open one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub way: Option<WayNews>,
    }

    /// Body of `overlay.trace`.
    pub struct OverlayTraceRequest {
        /// Kinds of messages: request 1, response 2, event 4, control 8.
        pub typemask: u32,
        /// Pattern of topics, with `*` and `?`; empty for all.
        pub topic_glob: String,
        /// Rank of the peer; -1 for all.
        pub nodeid: i64,
        /// With payloads that are JSON objects.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub full: bool,
    }

    /// A message that passed (`module.trace`, `overlay.trace`).
    pub struct TraceLine {
        /// When, in seconds since the epoch.
        pub timestamp: f64,
        /// `tx`, from this broker, or `rx`.
        pub prefix: String,
        /// Rank of the peer; -1 for several, or none.
        pub rank: i64,
        /// Name of the module.
        pub name: Option<String>,
        /// Kind of the message.
        #[serde(rename = "type")]
        pub kind: u32,
        /// Topic, or what a control message says.
        pub topic: String,
        /// Length of the payload in bytes.
        pub payload_size: u64,
        /// The payload, if it was asked for and is an object.
        pub payload: Option<Value>,
        /// Error of a response, or 0.
        pub errnum: u32,
        /// The error in words.
        pub errstr: Option<String>,
    }

    /// A direct child as its parent sees it.
    pub struct ChildHealth {
        /// Rank of the child.
        pub rank: u32,
        /// `full`, `partial`, `degraded`, `lost` or `offline`.
        pub status: String,
        /// Seconds in that status.
        pub duration: f64,
        /// Why, when there is something to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
    }

    /// A broker and its direct children.
    pub struct Health {
        /// Rank of the broker.
        pub rank: u32,
        /// Status of its subtree.
        pub status: String,
        /// Seconds in that status.
        pub duration: f64,
        /// Direct children.
        pub children: Vec<ChildHealth>,
    }

    /// Body of requests that name a rank.
    pub struct RankRequest {
        /// The rank.
        pub rank: u32,
    }

    /// A subtree.
    pub struct Subtree {
        /// Rank of its root.
        pub rank: u32,
        /// Brokers in it, the root included.
        pub size: u32,
        /// Subtrees of its children.
        pub children: Vec<Subtree>,
    }

    /// A change of a direct child (`overlay.monitor`).
    pub struct ChildChange {
        /// Rank of the child.
        pub rank: u32,
        /// Its new status.
        pub status: String,
        /// Whether it is silent though connected.
        pub torpid: bool,
        /// With `tbon.reparent`: the ranks that are reached through it at present, an idset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub below: Option<String>,
    }

    /// Body of `overlay.disconnect-parent`.
    pub struct DisconnectReason {
        /// Why, for the log.
        pub reason: String,
    }

    /// The parent link is up (`overlay.join`).
    pub struct Joined {
        /// Identity of the parent's incarnation; empty at rank 0.
        pub uuid: String,
    }

    /// How new children are turned away (`overlay.spurn`).
    pub struct SpurnRequest {
        /// Those that are there are let go, too: they wait for this broker, or another in its
        /// place, to come back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub release: bool,
    }

    /// Counters of the overlay.
    pub struct OverlayStats {
        /// Configured children.
        #[serde(rename = "child-count")]
        pub child_count: u64,
        /// Children online.
        #[serde(rename = "child-connected")]
        pub child_connected: u64,
        /// 1 with a parent.
        #[serde(rename = "parent-count")]
        pub parent_count: u64,
        /// Requests outstanding at the parent.
        #[serde(rename = "parent-rpc")]
        pub parent_rpc: u64,
        /// Requests outstanding at children.
        #[serde(rename = "child-rpc")]
        pub child_rpc: u64,
    }
}

api! {
    /// The tree of brokers.
    pub enum Overlay("overlay") {
        /// Status of this broker and its direct children; as a stream, again after each change.
        Health_ = "overlay.health", user, either, Empty => Health;
        /// The tree below this broker, or below one of its direct children.
        Topology = "overlay.topology", user, unary, RankRequest => Subtree;
        /// Children as they come and go.
        Monitor = "overlay.monitor", owner, streaming, Empty => ChildChange;
        /// Declares a direct child dead.
        DisconnectSubtree = "overlay.disconnect-subtree", owner, unary, RankRequest => Empty;
        /// Leaves the parent as if it were lost.
        DisconnectParent = "overlay.disconnect-parent", owner, silent, DisconnectReason => Empty;
        /// Connects to the parent; answered when it has accepted this broker (at once at rank 0),
        /// or with why it did not. A refused connection is tried again until it succeeds.
        Join = "overlay.join", owner, unary, Empty => Joined;
        /// Connects again to a parent that was lost, for as long as `tbon.rejoin-timeout` says.
        /// EHOSTUNREACH in an instance that does not outlive its brokers, ESHUTDOWN when the parent
        /// goes down in order, ETIMEDOUT when it did not come back in time, ESTALE when this broker
        /// cannot go on as it is: it has to start again.
        Rejoin = "overlay.rejoin", owner, unary, Empty => Joined;
        /// Answers when the parent link is lost (never at rank 0).
        Orphaned = "overlay.orphaned", owner, unary, Empty => Empty;
        /// Says goodbye to the parent: this broker leaves in order. Answered when it has heard.
        Leave = "overlay.leave", owner, unary, Empty => Empty;
        /// From this on new children are turned away.
        Spurn = "overlay.spurn", owner, unary, SpurnRequest => Empty;
        /// Counters.
        Stats = "overlay.stats-get", user, unary, Empty => OverlayStats;
        /// Shows messages over the links of this broker as they pass.
        OverlayTrace = "overlay.trace", owner, streaming, OverlayTraceRequest => TraceLine;
        /// Between brokers: a child introduces itself.
        Hello_ = "overlay.hello", owner, unary, Hello => HelloResponse;
        /// Between brokers: a parent tells of its way to the leader.
        Way_ = "overlay.way", owner, silent, WayNews => Empty;
        /// Between brokers: a child tells of brokers that came to its subtree, or left it.
        Moved_ = "overlay.moved", owner, silent, Moved => Empty;
        /// Between brokers: a parent tells that ranks of this subtree are elsewhere now.
        Drop_ = "overlay.drop", owner, silent, Elsewhere => Empty;
        /// Between brokers: a child leaves in order.
        Goodbye = "overlay.goodbye", owner, unary, Empty => Empty;
    }
}
