//! `job-list`: which jobs there are (RFC 43).

use serde_json::Value;

use crate::body::{AnyObject, Empty};

bodies! {
    /// Body of `job-list.list`.
    pub struct ListRequest {
        /// 0: all.
        #[serde(default)]
        pub max_entries: u64,
        /// Attributes wanted, or `all`.
        pub attrs: Vec<String>,
        /// Which jobs (RFC 31 style).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub constraint: Option<Value>,
        /// Finished after this time.
        #[serde(default)]
        pub since: f64,
        /// Former key, used without a constraint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub userid: Option<i64>,
        /// Former key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub states: Option<u32>,
        /// Former key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub results: Option<u32>,
        /// Former key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Former key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub queue: Option<String>,
    }

    /// Body of `job-list.list-id`.
    pub struct ListId {
        /// Job id.
        pub id: u64,
        /// Attributes wanted.
        pub attrs: Vec<String>,
        /// Wait for this state or a later one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub state: Option<u32>,
    }

    /// One job.
    pub struct ListIdResponse {
        /// The attributes wanted that are known.
        pub job: Value,
    }

    /// Answer of `job-list.list-attrs`.
    pub struct ListAttrs {
        /// Names.
        pub attrs: Vec<String>,
    }
}

api! {
    /// Which jobs there are; rank 0.
    pub enum JobList("job-list") {
        /// Lists jobs: `{jobs}`, or as a stream one job per response.
        List = "job-list.list", user, either, ListRequest => AnyObject;
        /// One job; waits until it is known.
        ListId_ = "job-list.list-id", user, unary, ListId => ListIdResponse;
        /// Names of attributes.
        ListAttrs_ = "job-list.list-attrs", user, unary, AnyObject => ListAttrs;
        /// Counts by state and result; as a stream, after each change.
        JobStats = "job-list.job-stats", user, either, AnyObject => AnyObject;
        /// What the service holds; not for guests in private mode.
        StatsGet = "job-list.stats-get", user, unary, AnyObject => AnyObject;
        /// Test aid: stops following the journal.
        Pause = "job-list.job-state-pause", owner, unary, AnyObject => Empty;
        /// Follows it again.
        Unpause = "job-list.job-state-unpause", owner, unary, AnyObject => Empty;
    }
}
