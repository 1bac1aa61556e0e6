//! `sched` and `feasibility`: the scheduler (RFC 27).

use serde_json::Value;

use crate::body::{AnyObject, Empty};
use crate::resource::SchedStatus;

/// Alloc response type: R was allocated.
pub const ALLOC_SUCCESS: u32 = 0;
/// Alloc response type: annotations of a waiting request.
pub const ALLOC_ANNOTATE: u32 = 1;
/// Alloc response type: the request can never be met.
pub const ALLOC_DENY: u32 = 2;
/// Alloc response type: the request was withdrawn.
pub const ALLOC_CANCEL: u32 = 3;

bodies! {
    /// Body of `sched.alloc`. It has no matchtag: responses are matched by job id.
    pub struct AllocRequest {
        /// Job id.
        pub id: u64,
        /// Priority, 0..=4294967295.
        pub priority: u64,
        /// User.
        pub userid: u32,
        /// When it was submitted.
        pub t_submit: f64,
        /// Jobspec without environment.
        pub jobspec: Value,
    }

    /// A response to `sched.alloc`.
    pub struct AllocResponse {
        /// Job id.
        pub id: u64,
        /// One of the `ALLOC_` types.
        #[serde(rename = "type")]
        pub kind: u32,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub note: Option<String>,
        /// Merged into the job's annotations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub annotations: Option<Value>,
        /// What was allocated; committed to the KVS already, unless `store` says otherwise.
        #[serde(default, rename = "R", skip_serializing_if = "Option::is_none")]
        pub r: Option<Value>,
        /// R is not in the KVS: who asked stores it, with the `alloc` event. Of this implementation.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub store: bool,
    }

    /// Body of `sched.free`.
    pub struct FreeRequest {
        /// Job id.
        pub id: u64,
        /// What is given back.
        #[serde(rename = "R")]
        pub r: Value,
        /// Nothing is left of it.
        #[serde(rename = "final")]
        pub last: bool,
    }

    /// Body of `sched.cancel`.
    pub struct AllocCancel {
        /// Job id.
        pub id: u64,
    }

    /// Body of `sched.prioritize`.
    pub struct Prioritize {
        /// Pairs of job id and priority.
        pub jobs: Vec<(u64, u64)>,
    }

    /// Body of `sched.expiration`.
    pub struct JobExpiration {
        /// Job id.
        pub id: u64,
        /// Seconds since the epoch; 0 for none.
        pub expiration: f64,
    }

    /// Body of `feasibility.check`.
    pub struct FeasibilityRequest {
        /// Jobspec.
        pub jobspec: Value,
    }
}

api! {
    /// The scheduler: which job gets which resources, and when.
    pub enum Sched("sched", "feasibility") {
        /// Asks for resources.
        Alloc = "sched.alloc", owner, unary, AllocRequest => AllocResponse;
        /// Gives resources back; no response.
        Free = "sched.free", owner, silent, FreeRequest => Empty;
        /// Withdraws a request; the request itself is answered.
        Cancel = "sched.cancel", owner, silent, AllocCancel => Empty;
        /// Changes priorities; no response.
        Prioritize_ = "sched.prioritize", owner, silent, Prioritize => Empty;
        /// Changes the end of a running job, or refuses to.
        ExpirationSet = "sched.expiration", owner, unary, JobExpiration => Empty;
        /// Resources as the scheduler sees them.
        ResourceStatus = "sched.resource-status", owner, unary, AnyObject => SchedStatus;
        /// Whether a request could ever be met (EOVERFLOW when not).
        Feasibility = "feasibility.check", user, unary, FeasibilityRequest => Empty;
    }
}
