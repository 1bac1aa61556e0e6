//! Job services: `job-ingest`, `job-manager`, `job-exec`, `job-info`, `job-list`.

pub mod exec;
pub mod info;
pub mod ingest;
pub mod list;
pub mod manager;

/// Submit flag: post debug events.
pub const FLAG_DEBUG: u32 = 2;
/// Submit flag: `job-manager.wait` will be called.
pub const FLAG_WAITABLE: u32 = 4;
/// Submit flag: skip validation (owner only).
pub const FLAG_NOVALIDATE: u32 = 8;
/// Any waitable job, in `job-manager.wait`.
pub const JOBID_ANY: u64 = u64::MAX;
/// Lowest urgency: held.
pub const URGENCY_HOLD: u32 = 0;
/// Urgency when none is given, and the highest for guests.
pub const URGENCY_DEFAULT: u32 = 16;
/// Highest urgency: before all others.
pub const URGENCY_EXPEDITE: u32 = 31;
/// Highest priority.
pub const PRIORITY_MAX: u64 = 4_294_967_295;

/// Reads a job id that may be given as -1 for [`JOBID_ANY`].
pub(crate) fn any_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    use serde::Deserialize;
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Unsigned(u64),
        Signed(i64),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Unsigned(id) => id,
        Id::Signed(id) => id.cast_unsigned(),
    })
}
