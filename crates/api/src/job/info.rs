//! `job-info`: a job's data for its owner (RFC 41).

use serde_json::{Map, Value};

use crate::body::Empty;
use crate::kvs::CancelRequest;

/// Lookup flag: R and jobspec as objects.
pub const JSON_DECODE: u32 = 1;
/// Lookup flag: with updates applied.
pub const CURRENT: u32 = 2;
/// Watch flag: wait for the key.
pub const WATCH_WAITCREATE: u32 = 1;
/// Watch flag: an empty response after the present content.
pub const WATCH_INITIAL_SENTINEL: u32 = 2;

bodies! {
    /// Body of `job-info.lookup`.
    pub struct InfoLookup {
        /// Job id.
        pub id: u64,
        /// Keys under the job's directory.
        pub keys: Vec<String>,
        /// Lookup flags.
        #[serde(default)]
        pub flags: u32,
    }

    /// Body of `job-info.eventlog-watch`.
    pub struct EventlogWatch {
        /// Job id.
        pub id: u64,
        /// `eventlog`, or a path below `guest.`.
        pub path: String,
        /// Watch flags.
        #[serde(default)]
        pub flags: u32,
    }

    /// One event; absent for the sentinel.
    pub struct EventlogEntry {
        /// One JSON line, newline included.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub event: Option<String>,
    }

    /// Body of `job-info.update-watch` and `job-info.update-lookup`.
    pub struct UpdateWatch {
        /// Job id.
        pub id: u64,
        /// `R` or `jobspec`.
        pub key: String,
        /// 0.
        #[serde(default)]
        pub flags: u32,
    }
}

api! {
    /// A job's data for its owner; every rank.
    pub enum Info("job-info") {
        /// Reads keys.
        Lookup = "job-info.lookup", user, unary, InfoLookup => Map<String, Value>;
        /// Follows an eventlog.
        EventlogWatch_ = "job-info.eventlog-watch", user, streaming, EventlogWatch => EventlogEntry;
        /// Ends such a stream.
        EventlogCancel = "job-info.eventlog-watch-cancel", user, silent, CancelRequest => Empty;
        /// Follows R or jobspec through updates.
        UpdateWatch_ = "job-info.update-watch", user, streaming, UpdateWatch => Map<String, Value>;
        /// Ends such a stream.
        UpdateCancel = "job-info.update-watch-cancel", user, silent, CancelRequest => Empty;
        /// R with updates applied.
        UpdateLookup = "job-info.update-lookup", user, unary, UpdateWatch => Map<String, Value>;
    }
}
