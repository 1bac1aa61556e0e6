//! `launch`: the job shells of a node. A driver of the host serves it.
//!
//! A shell started here is no child of the broker: it outlives it. What was started is on record
//! by job id, with the exit status once the shell has ended, until `launch.forget` says that the status
//! is on stable storage elsewhere. So after the death of a broker its successor finds every shell
//! again, and no shell is ever started twice on a node.
//!
//! | the record says | [`Start_`] | [`Attach_`] |
//! |---|---|---|
//! | nothing | starts the shell: `started`, `output`…, `finished` | ENOENT |
//! | the shell runs | as `attach` | `started`, `output`…, `finished` |
//! | the shell has ended | as `attach` | `started`, `output`…, `finished` |
//! | it ran, its status is unknown (power cut) | as `attach` | `started`, `lost` |
//!
//! Every stream ends with ENODATA, or with EHOSTUNREACH when the broker is lost; the shell runs on
//! then. Several may follow one shell. `finished` is said after the last process that the shell
//! has left behind is gone too.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::body::Empty;

/// Most bytes that are kept of each stream of a shell; what comes after is dropped.
pub const OUTPUT_MAX: usize = 64 << 10;

bodies! {
    /// Body of `launch.start`.
    pub struct LaunchStart {
        /// Job id: names the shell on this node.
        pub id: u64,
        /// User of the job.
        pub userid: u32,
        /// Program and arguments. For the job of another user: the IMP in front of the shell.
        pub cmdline: Vec<String>,
        /// Variables on top of the broker's environment.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        pub env: Map<String, Value>,
        /// Working directory; `/` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cwd: Option<String>,
        /// What the shell finds on its stdin, at most 64 KiB; `/dev/null` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub input: Option<String>,
        /// Program and first arguments that send a signal to a process of another user; signal
        /// number and process id follow. Empty: the signal is sent directly.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub signaller: Vec<String>,
        /// A systemd unit of its own, with limits (`exec.service = "sdexec"`); absent: the
        /// supervisor is its parent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub unit: Option<LaunchUnit>,
        /// When the shell may have been asked for before: the time of that (seconds since 1970).
        /// A node that was booted later has lost its records, and answers `lost`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub since: Option<f64>,
        /// The same as seconds that have passed, which the node holds against its uptime, since its
        /// clock may be another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub age: Option<f64>,
        /// Bytes of stdout that are known already, should it run.
        #[serde(default)]
        pub stdout: u64,
        /// Bytes of stderr that are known already, should it run.
        #[serde(default)]
        pub stderr: u64,
    }

    /// The limits of a unit.
    pub struct LaunchUnit {
        /// Idset of the logical cores of the job on this node; empty: all.
        pub cores: String,
        /// Properties by name, as configured (see `flux_model::unit_limit`).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub properties: BTreeMap<String, String>,
    }

    /// Body of `launch.attach`: output from these positions on.
    pub struct LaunchAttach {
        /// Job id.
        pub id: u64,
        /// Bytes of stdout that are known already.
        #[serde(default)]
        pub stdout: u64,
        /// Bytes of stderr that are known already.
        #[serde(default)]
        pub stderr: u64,
    }

    /// One response of `launch.start` and `launch.attach`: `type` is `started`, `output`,
    /// `finished` or `lost`.
    pub struct LaunchEvent {
        /// Kind.
        #[serde(rename = "type")]
        pub kind: String,
        /// `started`: process id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub pid: Option<i32>,
        /// `started`: seconds since the shell was started, by a clock of the node that nobody sets;
        /// absent when that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub age: Option<f64>,
        /// `output`: `stdout` or `stderr`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub stream: Option<String>,
        /// `output`: text; bytes that are no UTF-8 are replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub data: Option<String>,
        /// `output`: bytes of this stream up to the end of `data`, for `launch.attach`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub offset: Option<u64>,
        /// `finished`: wait status of the shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub status: Option<i32>,
        /// `finished`: processes of the job that could not be killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub left: Option<u32>,
        /// `lost`: why nothing is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub note: Option<String>,
    }

    /// Body of `launch.kill`.
    pub struct LaunchKill {
        /// Job id.
        pub id: u64,
        /// Signal number.
        pub signum: i32,
        /// To every process that comes from the shell, else to the shell's process group.
        #[serde(default)]
        pub all: bool,
    }

    /// One record.
    pub struct LaunchRecord {
        /// Job id.
        pub id: u64,
        /// Process id of the shell; 0 when it is not known.
        pub pid: i32,
        /// `running`, `exited` or `lost`.
        pub state: String,
        /// Wait status, when exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub status: Option<i32>,
    }

    /// Answer of `launch.list`.
    pub struct LaunchList {
        /// Rank.
        pub rank: u32,
        /// Records by job id.
        pub jobs: Vec<LaunchRecord>,
    }

    /// Body of `launch.forget`.
    pub struct LaunchForget {
        /// Job ids.
        pub ids: Vec<u64>,
    }
}

impl LaunchEvent {
    /// One of this kind that says nothing else.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_string(),
            pid: None,
            age: None,
            stream: None,
            data: None,
            offset: None,
            status: None,
            left: None,
            note: None,
        }
    }
}

api! {
    /// Job shells of a node, which outlive its broker.
    pub enum Launch("launch") {
        /// Starts the shell of a job, unless there is a record of it, and follows it.
        Start_ = "launch.start", owner, streaming, LaunchStart => LaunchEvent;
        /// Follows the shell of a job that was started before, to its end.
        Attach_ = "launch.attach", owner, streaming, LaunchAttach => LaunchEvent;
        /// Sends a signal to a shell.
        Kill_ = "launch.kill", owner, unary, LaunchKill => Empty;
        /// Lists the records of this node.
        List_ = "launch.list", owner, unary, Empty => LaunchList;
        /// Removes the records of shells that have ended; others stay.
        Forget_ = "launch.forget", owner, unary, LaunchForget => Empty;
    }
}
