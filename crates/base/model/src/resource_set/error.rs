//! What can be wrong with a resource set.

use thiserror::Error;

/// Why a resource set cannot be read, made or changed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ResourceSetError {
    /// The text is not JSON.
    #[error("R: invalid JSON: {0}")]
    Json(String),
    /// One key is missing or has a wrong value.
    #[error("{path}: {problem}")]
    Invalid {
        /// Where, e.g. `execution.R_lite[0].rank`.
        path: String,
        /// What was expected.
        problem: String,
    },
    /// Numbers of ranks and host names differ.
    #[error("nodelist: {hosts} hosts for {ranks} ranks")]
    HostCount {
        /// Number of ranks.
        ranks: usize,
        /// Number of hosts.
        hosts: usize,
    },
    /// More than [`super::MAX_RANKS`] ranks.
    #[error("R: {0} ranks are more than supported")]
    TooManyRanks(u64),
    /// Ranks that control nothing.
    #[error("ranks {0}: neither cores nor gpus")]
    NoChildren(String),
    /// One rank is on different hosts.
    #[error("rank {rank}: on host '{ours}' in one set and '{theirs}' in the other")]
    HostConflict {
        /// The rank.
        rank: u32,
        /// Host in the first set.
        ours: String,
        /// Host in the second set.
        theirs: String,
    },
    /// Resources that are in both sets that are joined.
    #[error("{0}: in both resource sets")]
    Overlap(String),
    /// Resources that are not in the set they are to be taken from.
    #[error("{0}: not in the resource set")]
    NotInSet(String),
    /// A rank that is given twice.
    #[error("rank {0}: given twice")]
    Twice(u32),
    /// A host name that is not in a list of hosts.
    #[error("host '{0}': not in the host list")]
    UnknownHost(String),
    /// Host names that are not in the set.
    #[error("invalid hosts: {0}")]
    NoSuchHosts(String),
    /// Ranks that are not in the set.
    #[error("ranks {0}: not in the resource set")]
    UnknownRanks(String),
    /// A property name RFC 20 does not allow.
    #[error("property '{0}': name is empty or contains one of ! & ' \" ^ ` | ( )")]
    Property(String),
    /// A time that is negative or not finite.
    #[error("starttime and expiration: expected seconds >= 0")]
    Time,
    /// An end that is not after the start.
    #[error("expiration: {expiration} is not after starttime {starttime}")]
    Expiration {
        /// Start in seconds since 1970.
        starttime: f64,
        /// End in seconds since 1970.
        expiration: f64,
    },
    /// A word that is no verify mode.
    #[error("verify mode '{0}': expected strict, allow-extra, allow-missing or ignore")]
    VerifyMode(String),
}

impl ResourceSetError {
    /// A problem at a path.
    pub(super) fn at(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into() }
    }
}
