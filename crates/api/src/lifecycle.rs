//! The life of a broker: `attr`, `log`, `config`, `groups`, `state-machine`, `shutdown`, `runat`,
//! `heartbeat`.

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty, Raw, Text};
use crate::kvs::CancelRequest;

bodies! {
    /// Body of `attr.get` and `attr.rm`.
    pub struct AttrName {
        /// Attribute.
        pub name: String,
    }

    /// Answer of `attr.get`.
    pub struct AttrValue {
        /// Value, always text.
        pub value: String,
        /// 1: immutable, a client may keep it.
        pub flags: u32,
    }

    /// Answer of `attr.list`.
    pub struct AttrNames {
        /// Attributes that are set.
        pub names: Vec<String>,
    }

    /// Body of `attr.set`.
    pub struct AttrSet {
        /// Attribute.
        pub name: String,
        /// New value.
        pub value: String,
        /// Set it though it is not meant to change.
        #[serde(default)]
        pub force: bool,
    }

    /// Body of `log.dmesg`.
    pub struct Dmesg {
        /// Go on with new lines.
        #[serde(default)]
        pub follow: bool,
        /// Leave old lines out.
        #[serde(default)]
        pub nobacklog: bool,
    }

    /// Body of `groups.join`, `groups.leave`, `groups.get`.
    pub struct GroupName {
        /// Group.
        pub name: String,
    }

    /// Members of a group.
    pub struct GroupMembers {
        /// Idset of ranks.
        pub members: String,
    }

    /// One change of a group.
    pub struct GroupChange {
        /// Idset of ranks.
        pub ranks: String,
        /// Join, else leave.
        pub set: bool,
    }

    /// Body of `groups.update`: changes by group.
    pub struct GroupUpdate {
        /// Changes, oldest first.
        pub update: std::collections::BTreeMap<String, Vec<GroupChange>>,
        /// Who tells: of ranks that are reached another way now it knows nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rank: Option<u32>,
    }

    /// Answer of `state-machine.get`.
    pub struct StateNow {
        /// Name of the state.
        pub state: String,
        /// Seconds in it.
        pub duration: f64,
    }

    /// Body of `state-machine.monitor`.
    pub struct MonitorRequest {
        /// End the stream after this state.
        #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
        pub last: Option<i32>,
    }

    /// One state of `state-machine.monitor`.
    pub struct StateNumber {
        /// Number of the state.
        pub state: i32,
    }

    /// Body of `state-machine.post`.
    pub struct PostEvent {
        /// Event of the broker state machine.
        pub event: String,
        /// It makes the exit code 1.
        #[serde(default)]
        pub error: bool,
    }

    /// Body of `state-machine.sd-notify`.
    pub struct SdNotify {
        /// Text for the service manager.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub status: Option<String>,
    }

    /// Body of `shutdown.start`.
    pub struct ShutdownRequest {
        /// Lines up to this severity are sent back; 3 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub loglevel: Option<i32>,
        /// Leave running jobs, for the next start. Refused where there can be none.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub keep_jobs: bool,
        /// End the broker that is asked, and nothing else: jobs run on, the brokers below it wait
        /// for its return. Any rank may be asked; implies `keep_jobs`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub alone: bool,
    }

    /// One line of `shutdown.start`.
    pub struct ShutdownLine {
        /// The log line, newline included.
        pub log: String,
    }

    /// Body of `runat.push`.
    pub struct RunatPush {
        /// Group: `cleanup`.
        pub name: String,
        /// Shell commands; the last runs first.
        pub commands: Vec<String>,
    }

    /// Node resource use and period of the heartbeat.
    pub struct HeartbeatStats {
        /// Seconds between pulses.
        pub period: f64,
        /// Seconds without a pulse after which a follower leaves its parent.
        pub timeout: f64,
        /// Pulses seen.
        pub count: u64,
        /// Missed pulses before a warning.
        pub warn_thresh: u32,
    }

    /// The broker received a signal (from the switch).
    pub struct SignalRequest {
        /// Signal number.
        pub signum: i32,
        /// Brokers wait for a parent that they lose: when this one stops, those below it need not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub alone: bool,
    }
}

api! {
    /// Attributes of a broker.
    pub enum Attr("attr") {
        /// Reads one.
        Get = "attr.get", any, unary, AttrName => AttrValue;
        /// Names of those that are set.
        List = "attr.list", any, unary, AnyObject => AttrNames;
        /// Sets one.
        Set = "attr.set", owner, unary, AttrSet => Empty;
        /// Unsets one.
        Rm = "attr.rm", owner, unary, AttrName => Empty;
    }
}

api! {
    /// The broker's log: a ring of lines, forwarded towards rank 0 by severity.
    pub enum Log("log") {
        /// Adds one RFC 5424 style line.
        Append = "log.append", owner, unary, Raw => Empty;
        /// Empties the ring.
        Clear = "log.clear", owner, unary, Empty => Empty;
        /// Reads the ring, oldest first.
        Dmesg_ = "log.dmesg", owner, streaming, Dmesg => Text;
        /// Ends a `log.dmesg` stream of the same client.
        Cancel = "log.cancel", owner, silent, CancelRequest => Empty;
        /// Approves a change of a log attribute.
        Setattr = "log.setattr", owner, unary, AttrSet => Empty;
    }
}

api! {
    /// The configuration: rank 0 holds it, the others follow.
    pub enum Config("config") {
        /// The whole object; as a stream, again after each change.
        ConfigGet = "config.get", user, either, AnyObject => Map<String, Value>;
        /// Replaces it.
        ConfigLoad = "config.load", owner, unary, Map<String, Value> => Empty;
        /// Reads the files again. `warnings` of the answer are sentences for who asked, if there are
        /// any: keys that nobody knows, and changes that wait for a restart.
        ConfigReload = "config.reload", owner, unary, AnyObject => AnyObject;
    }
}

api! {
    /// Named sets of ranks, reduced up the tree.
    pub enum Groups("groups") {
        /// Adds this rank.
        Join = "groups.join", owner, unary, GroupName => Empty;
        /// Removes this rank.
        Leave = "groups.leave", owner, unary, GroupName => Empty;
        /// Members; as a stream, again after each change. Rank 0 only.
        GroupGet = "groups.get", user, either, GroupName => GroupMembers;
        /// Between brokers: changes below.
        GroupUpdate_ = "groups.update", owner, silent, GroupUpdate => Empty;
    }
}

api! {
    /// States of the broker, shutdown, and the commands run on the way.
    pub enum StateMachine("state-machine", "shutdown", "runat") {
        /// The present state.
        StateGet = "state-machine.get", user, unary, AnyObject => StateNow;
        /// States as they are entered.
        Monitor = "state-machine.monitor", owner, either, MonitorRequest => StateNumber;
        /// Answers when RUN is reached.
        WaitRun = "state-machine.wait", user, unary, AnyObject => Empty;
        /// Feeds an event.
        Post = "state-machine.post", owner, silent, PostEvent => Empty;
        /// The process received a signal.
        Signal = "state-machine.signal", owner, silent, SignalRequest => Empty;
        /// Text for the service manager.
        SdNotify_ = "state-machine.sd-notify", owner, silent, SdNotify => Empty;
        /// Shuts the instance down; as a stream, sends log lines until GOODBYE.
        ShutdownStart = "shutdown.start", owner, either, ShutdownRequest => ShutdownLine;
        /// Adds commands to a group.
        RunatPush_ = "runat.push", owner, unary, RunatPush => Empty;
    }
}

api! {
    /// The pulse of the instance.
    pub enum Heartbeat("heartbeat") {
        /// Period and count.
        HeartbeatStats_ = "heartbeat.stats-get", owner, unary, AnyObject => HeartbeatStats;
    }
}
