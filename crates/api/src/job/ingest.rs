//! `job-ingest`: where jobs enter (RFC 25, RFC 39).

use crate::body::{AnyObject, Empty};

bodies! {
    /// Body of `job-ingest.submit`.
    pub struct SubmitRequest {
        /// The signed jobspec (RFC 39).
        #[serde(rename = "J")]
        pub j: String,
        /// 0..=31.
        pub urgency: i64,
        /// Submit flags.
        pub flags: u32,
    }

    /// The new job. It is on disk.
    pub struct SubmitResponse {
        /// Job id.
        pub id: u64,
    }

    /// Body of `job-ingest.ids`.
    pub struct IdsRequest {
        /// Ids wanted.
        pub count: u64,
    }

    /// New job ids.
    pub struct IdsResponse {
        /// Rising; perhaps fewer than wanted, even none: ask again in a millisecond.
        pub ids: Vec<u64>,
    }

    /// How far the clock of job ids is.
    pub struct IngestInfo {
        /// Timestamp bits of the id generator, in ms.
        pub timestamp: u64,
    }
}

api! {
    /// Job submission on every rank.
    pub enum Ingest("job-ingest") {
        /// Submits a job; answered when it is on disk.
        Submit = "job-ingest.submit", user, unary, SubmitRequest => SubmitResponse;
        /// Between brokers: the id generator's time.
        Getinfo = "job-ingest.getinfo", owner, unary, AnyObject => IngestInfo;
        /// Between brokers: new job ids; rank 0.
        Ids = "job-ingest.ids", owner, unary, IdsRequest => IdsResponse;
        /// No more submissions on this rank.
        Shutdown = "job-ingest.shutdown", owner, silent, Empty => Empty;
    }
}
