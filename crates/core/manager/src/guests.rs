//! What one user other than the owner may hold: active jobs, and the bytes of their requests, which
//! are in memory and on disk until the jobs end; and how many of its finished jobs are kept.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_id::size;
use flux_proto::Errno;

use crate::config::Table;
use crate::job::Job;

/// Active jobs of one guest, unless configured.
const JOBS_MAX: u64 = 100_000;
/// Bytes of their requests, unless configured.
const BYTES_MAX: u64 = 2 << 30;

/// What a guest may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Active jobs.
    pub jobs: u64,
    /// Bytes of the requests of active jobs.
    pub bytes: u64,
    /// Finished jobs that are kept; `None`: all.
    pub finished: Option<usize>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { jobs: JOBS_MAX, bytes: BYTES_MAX, finished: None }
    }
}

impl Bounds {
    /// Reads `[job-manager]`.
    ///
    /// # Errors
    /// EINVAL names the key.
    pub(crate) fn read(table: &Table<'_>) -> Result<Self, RpcError> {
        let mut bounds = Self::default();
        if let Some(jobs) = table.integer("guest-max-active-jobs")? {
            bounds.jobs = match u64::try_from(jobs) {
                Ok(jobs) => jobs,
                Err(_) if jobs == -1 => u64::MAX,
                Err(_) => return Err(table.error("guest-max-active-jobs must be >= -1")),
            };
        }
        if let Some(value) = table.keys.get("guest-max-active-bytes") {
            let bytes = value.as_str().map_or_else(|| value.as_u64(), size::parse);
            bounds.bytes =
                bytes.ok_or_else(|| table.error("guest-max-active-bytes must be a size"))?;
        }
        if let Some(number) = table.integer("guest-inactive-num-limit")? {
            bounds.finished = Some(
                usize::try_from(number)
                    .map_err(|_| table.error("guest-inactive-num-limit must be >= 0"))?,
            );
        }
        Ok(bounds)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    jobs: u64,
    bytes: u64,
}

/// What each user holds.
#[derive(Debug, Default)]
pub struct Guests {
    held: BTreeMap<u32, Held>,
}

impl Guests {
    /// Whether this user may have one more job, whose request has so many bytes.
    ///
    /// # Errors
    /// EDQUOT: which bound it would break.
    pub fn admit(&self, userid: u32, bytes: u64, bounds: &Bounds) -> Result<(), RpcError> {
        let held = self.held.get(&userid).copied().unwrap_or_default();
        let full = |text: String| Err(RpcError::new(Errno::EDQUOT, text));
        if held.jobs >= bounds.jobs {
            return full(format!(
                "you have {} active jobs, and {} are allowed (job-manager.guest-max-active-jobs)",
                held.jobs, bounds.jobs
            ));
        }
        if held.bytes.saturating_add(bytes) > bounds.bytes {
            return full(format!(
                "the requests of your active jobs have {} bytes, this one {bytes}, and {} are \
                 allowed (job-manager.guest-max-active-bytes)",
                held.bytes,
                size::format(bounds.bytes)
            ));
        }
        Ok(())
    }

    /// A job is active from now on.
    pub fn enter(&mut self, job: &Job) {
        let held = self.held.entry(job.status.userid).or_default();
        held.jobs += 1;
        held.bytes += job.size;
    }

    /// A job is not active any more.
    pub fn leave(&mut self, job: &Job) {
        let userid = job.status.userid;
        if let Some(held) = self.held.get_mut(&userid) {
            held.jobs = held.jobs.saturating_sub(1);
            held.bytes = held.bytes.saturating_sub(job.size);
            if held.jobs == 0 {
                self.held.remove(&userid);
            }
        }
    }
}
