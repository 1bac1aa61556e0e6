//! `resource`: the inventory of the instance and what of it may be used (RFC 28, RFC 44).

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty, Text};
use crate::kvs::CancelRequest;

bodies! {
    /// One response of `resource.acquire`; the first has `resources` and `up`.
    pub struct AcquireResponse {
        /// Every resource that may be scheduled: R.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub resources: Option<Value>,
        /// Idset of ranks that came up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub up: Option<String>,
        /// Idset of ranks that went down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub down: Option<String>,
        /// Idset of ranks of `resources` that are excluded now, whenever it changes: they are down,
        /// and nothing may be thought feasible for their sake.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exclude: Option<String>,
        /// Cores and gpus of ranks that are up which may not be given away, whenever that changes:
        /// all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hold: Option<Vec<HeldPart>>,
        /// Idset of ranks that are gone for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub shrink: Option<String>,
        /// New expiration of the instance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub expiration: Option<f64>,
    }

    /// Cores and gpus of some ranks, the same of each.
    pub struct HeldPart {
        /// Idset of ranks.
        pub ranks: String,
        /// Idset of logical ids.
        pub cores: String,
        /// Idset of logical ids.
        pub gpus: String,
    }

    /// Drained cores and gpus of some ranks, the same of each.
    pub struct DrainedPart {
        /// Idset of ranks.
        pub ranks: String,
        /// Idset of logical ids.
        pub cores: String,
        /// Idset of logical ids.
        pub gpus: String,
        /// When, seconds since the epoch.
        pub timestamp: f64,
        /// Why; may be empty.
        pub reason: String,
    }

    /// One drained set of ranks.
    pub struct DrainInfo {
        /// When, seconds since the epoch.
        pub timestamp: f64,
        /// Why; may be empty.
        pub reason: String,
    }

    /// Answer of `resource.status`.
    pub struct ResourceStatus {
        /// Every resource, without `scheduling`.
        #[serde(rename = "R")]
        pub r: Value,
        /// By idset of ranks.
        pub drain: Map<String, Value>,
        /// Idset of ranks.
        pub online: String,
        /// Idset of ranks.
        pub offline: String,
        /// Idset of ranks.
        pub exclude: String,
        /// Idset of ranks.
        pub torpid: String,
        /// Drained cores and gpus of nodes that are else in service.
        #[serde(default, rename = "drain-parts", skip_serializing_if = "Vec::is_empty")]
        pub drain_parts: Vec<DrainedPart>,
    }

    /// Three views of the resources: `resource.sched-status`, `sched.resource-status`.
    pub struct SchedStatus {
        /// Every schedulable resource: R.
        pub all: Value,
        /// Those that are down: R.
        pub down: Value,
        /// Those that are allocated: R.
        pub allocated: Value,
    }

    /// Body of `resource.drain` and `resource.undrain`.
    pub struct DrainRequest {
        /// Idset of ranks or hostlist; with `:core[0-3],gpu0` behind it (or `/`) only these.
        pub targets: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// `update`, `overwrite` or `force-overwrite`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub mode: Option<String>,
    }

    /// Body of `resource.reload`.
    pub struct ReloadRequest {
        /// Path, fully qualified.
        pub path: String,
        /// It is a directory of hwloc XML files, not R.
        pub xml: bool,
        /// Take it though it holds more ranks than the instance.
        pub force: bool,
    }

    /// Answer of `resource.get`.
    pub struct ResourceGet {
        /// The inventory.
        #[serde(rename = "R")]
        pub r: Value,
        /// How it was found.
        pub method: String,
        /// How each rank compares it with its hardware, as rank 0 is configured: `false` for not at
        /// all, or a table like `resource.verify`. Where it is absent the rank's own configuration
        /// says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub verify: Option<Value>,
    }

    /// Body of `resource.topo-reduce`: what a subtree found.
    pub struct TopoReduce {
        /// Brokers in it.
        pub count: u32,
        /// Their resources.
        pub resource: Value,
    }

    /// Body of `resource.expiration-update`.
    pub struct Expiration {
        /// Seconds since the epoch; 0 for none.
        pub expiration: f64,
    }

    /// One response of `resource.journal`.
    pub struct ResourceJournal {
        /// Events (RFC 44).
        pub events: Vec<Value>,
        /// The inventory, with `resource-define`.
        #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
        pub r: Option<Value>,
    }

    /// Body of `resource.monitor-waitup`.
    pub struct WaitUp {
        /// Number of ranks that shall be up.
        pub up: u32,
    }

    /// Body of `resource.monitor-force-down`.
    pub struct ForceDown {
        /// Idset of ranks.
        pub ranks: String,
    }
}

api! {
    /// The inventory: rank 0 rules, the others tell what they find.
    pub enum Resource("resource") {
        /// The scheduler's view, then each change.
        Acquire = "resource.acquire", owner, streaming, Empty => AcquireResponse;
        /// Ends it.
        AcquireCancel = "resource.acquire-cancel", owner, silent, CancelRequest => Empty;
        /// Ranks that leave from now on are down for the scheduler, not gone for good: the instance
        /// stops.
        AcquireMute = "resource.acquire-mute", owner, unary, Empty => Empty;
        /// Ranks by state.
        Status = "resource.status", user, unary, AnyObject => ResourceStatus;
        /// Resources by state.
        SchedStatus_ = "resource.sched-status", user, unary, AnyObject => SchedStatus;
        /// Keeps ranks from new work.
        Drain = "resource.drain", owner, unary, DrainRequest => Empty;
        /// Gives them work again.
        Undrain = "resource.undrain", owner, unary, DrainRequest => Empty;
        /// Replaces the inventory.
        Reload = "resource.reload", owner, unary, ReloadRequest => Empty;
        /// The inventory.
        Get = "resource.get", owner, unary, AnyObject => ResourceGet;
        /// Topology of this rank as hwloc XML.
        TopoGet = "resource.topo-get", user, unary, AnyObject => Text;
        /// Between brokers: what a subtree found.
        TopoReduce_ = "resource.topo-reduce", owner, silent, TopoReduce => Empty;
        /// A new end of the instance.
        ExpirationUpdate = "resource.expiration-update", owner, unary, Expiration => Empty;
        /// The resource eventlog as it grows.
        Journal = "resource.journal", owner, streaming, AnyObject => ResourceJournal;
        /// Ends it.
        JournalCancel = "resource.journal-cancel", owner, silent, CancelRequest => Empty;
        /// Answers when so many ranks are up.
        MonitorWaitup = "resource.monitor-waitup", owner, unary, WaitUp => Empty;
        /// Test aid: marks ranks offline.
        MonitorForceDown = "resource.monitor-force-down", owner, unary, ForceDown => Empty;
    }
}
