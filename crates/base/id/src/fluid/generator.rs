//! Making ids: pure, the caller brings the clock.

use super::{GENERATOR_BITS, JobId, SEQUENCE_BITS, TIMESTAMP_BITS};

/// Why there is no generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeneratorError {
    /// The generator id has more than 14 bits.
    #[error("generator id {0} is out of range")]
    Id(u32),
}

/// Why there is no id now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// All 1024 ids of this millisecond are given; more can be had when the clock given to
    /// [`Generator::next`] reads this many milliseconds.
    #[error("ids of this millisecond are used up until {0} ms")]
    Until(u64),
    /// The 40 bits of the timestamp are used up: this generator is at its end.
    #[error("timestamps of this generator are used up")]
    Never,
}

/// A source of ids that never repeat, for one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator {
    id: u32,
    /// Timestamp at which the clock read 0.
    start: u64,
    /// Timestamp of the last id.
    last: u64,
    /// Sequence number of the next id of that timestamp.
    sequence: u32,
}

impl Generator {
    /// The largest generator id.
    pub const MAX_ID: u32 = (1 << GENERATOR_BITS) - 1;

    /// The largest rank that makes ids by default; ranks above forward to their parent.
    pub const MAX_RANK: u32 = (1 << GENERATOR_BITS) - 16 - 1;

    /// A generator for the rank `id` whose first timestamp is `start` milliseconds: on rank 0 the
    /// timestamp of the largest known job id plus 1, elsewhere what the parent says.
    pub fn new(id: u32, start: u64) -> Result<Self, GeneratorError> {
        if id > Self::MAX_ID {
            return Err(GeneratorError::Id(id));
        }
        Ok(Self { id, start, last: start, sequence: 0 })
    }

    /// The timestamp, in milliseconds, when the clock reads `elapsed` milliseconds since the
    /// generator was made: what a child is told to start from.
    pub fn timestamp(&self, elapsed: u64) -> u64 {
        self.start.saturating_add(elapsed).max(self.last)
    }

    /// The next id. `elapsed` is a monotonic clock: milliseconds since the generator was made. A
    /// clock that goes back is held at the last timestamp.
    pub fn next(&mut self, elapsed: u64) -> Result<JobId, Wait> {
        let now = self.timestamp(elapsed);
        if now >> TIMESTAMP_BITS != 0 {
            return Err(Wait::Never);
        }
        if now > self.last {
            self.last = now;
            self.sequence = 0;
        }
        if self.sequence >> SEQUENCE_BITS != 0 {
            // `last` is never below `start`.
            return Err(Wait::Until(self.last - self.start + 1));
        }
        let id = JobId::from_parts(now, self.id, self.sequence);
        self.sequence += 1;
        Ok(id)
    }
}
