//! Where job ids come from (RFC 19): rank 0 makes all of them, so that they rise in the order of
//! submission, and no rank can give one again that another life of it has given.
//!
//! An id is also a path in the KVS, `job.TTTT.TTTT.TTgg.ggss`, whose directories are written anew
//! with every change of a job. With the exact millisecond in each id, the second directory would
//! gain an entry in every quarter of a second in which a job comes, up to 65,536. So timestamps are
//! those of the last begin of a [`QUANTUM_MS`], and count up from there by one for every
//! [`IDS_PER_TIMESTAMP`] ids, never ahead of the clock: all four directories stay small, whatever
//! the rate of jobs and the age of the instance.

use flux_id::fluid::{JobId, SEQUENCE_BITS, TIMESTAMP_BITS};

/// Timestamps begin at multiples of this, in milliseconds.
pub const QUANTUM_MS: u64 = 1 << 16;

/// Ids of one timestamp, as long as the clock has another.
pub const IDS_PER_TIMESTAMP: u32 = 48;

/// A source of ids that never repeat.
#[derive(Debug)]
pub struct IdSource {
    /// Timestamp when the clock reads 0.
    start: u64,
    /// Timestamp of the next id, and its sequence number.
    timestamp: u64,
    sequence: u32,
}

impl IdSource {
    /// Begins above `newest`, the timestamp of the highest id ever given, with some distance: a
    /// former leader may have given ids to a follower that nobody has heard of since.
    #[must_use]
    pub fn above(newest: Option<u64>) -> Self {
        // Zero is no job.
        let start = newest.map_or(1, |newest| (newest / QUANTUM_MS + 1) * QUANTUM_MS);
        Self::new(start)
    }

    /// Begins at a timestamp.
    #[must_use]
    pub fn new(start: u64) -> Self {
        Self { start, timestamp: start, sequence: 0 }
    }

    /// The time, when the clock reads `elapsed` milliseconds since the start.
    #[must_use]
    pub fn timestamp(&self, elapsed: u64) -> u64 {
        self.start.saturating_add(elapsed)
    }

    /// The next id; `None` until the clock reads more. It may go back.
    pub fn next(&mut self, elapsed: u64) -> Option<u64> {
        let now = self.timestamp(elapsed).max(self.timestamp);
        let quantum = now / QUANTUM_MS * QUANTUM_MS;
        if self.timestamp < quantum {
            (self.timestamp, self.sequence) = (quantum, 0);
        }
        if self.sequence >= IDS_PER_TIMESTAMP && self.timestamp < now {
            (self.timestamp, self.sequence) = (self.timestamp + 1, 0);
        }
        if self.sequence >> SEQUENCE_BITS != 0 || self.timestamp >> TIMESTAMP_BITS != 0 {
            return None;
        }
        let JobId(id) = JobId::from_parts(self.timestamp, 0, self.sequence);
        self.sequence += 1;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Most entries of the directories of each level, for ids made at these times.
    fn largest(times: impl Iterator<Item = u64>) -> Vec<usize> {
        let mut ids = IdSource::above(None);
        let mut last = 0;
        let mut entries: Vec<BTreeMap<String, BTreeSet<String>>> = vec![BTreeMap::new(); 4];
        for time in times {
            let id = ids.next(time).unwrap();
            assert!(id > last && id >> 24 <= time + 1, "an id of the future");
            last = id;
            let key = JobId(id).kvs();
            let names: Vec<&str> = key.split('.').collect();
            for level in 1..=4 {
                let directory = entries[level - 1].entry(names[..level].join(".")).or_default();
                directory.insert(names[level].to_string());
            }
        }
        entries.iter().map(|level| level.values().map(BTreeSet::len).max().unwrap_or(0)).collect()
    }

    #[test]
    fn directories_stay_small_at_every_rate() {
        const DAY: u64 = 24 * 3600 * 1000;
        // One job each second for a day; one in ten; a thousand in each of 300.
        for entries in [
            largest((0..DAY).step_by(1000)),
            largest((0..DAY).step_by(10_000)),
            largest((0..300_000).flat_map(|ms| [ms])),
            largest((0..30_000).flat_map(|ms| [ms; 10])),
        ] {
            assert!(entries.iter().all(|most| *most <= 256), "{entries:?}");
            assert!(entries[3] <= 48, "{entries:?}");
        }
    }

    #[test]
    fn a_burst_gets_what_a_millisecond_has_and_then_waits() {
        let mut ids = IdSource::above(None);
        let got = std::iter::from_fn(|| ids.next(0)).count();
        assert_eq!(got, 1024);
        assert!(ids.next(1).is_some());
    }

    #[test]
    fn a_new_life_begins_above_the_last_one() {
        let mut ids = IdSource::above(Some(77));
        assert!(ids.next(0).unwrap() >> 24 > 77);
        let mut ids = IdSource::above(Some(QUANTUM_MS * 3));
        assert_eq!(ids.next(0).unwrap() >> 24, QUANTUM_MS * 4);
    }
}
