//! When a job that does not fit now will: by letting running jobs end one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_model::resource_set::Children;

use crate::demand::Demand;
use crate::eligible::Eligible;
use crate::pool::Pool;

/// When a demand will fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Forecast {
    /// At this time, seconds since the epoch, if running jobs use all of theirs.
    At(f64),
    /// When jobs end of which nobody knows when.
    Unknown,
    /// Not before nodes come up.
    NeedsNodes,
}

/// Says when a demand fits, given running jobs in the order of their ends (infinite for unknown)
/// with what they hold. A job that is over its end is taken to end now.
pub fn forecast<'a>(
    pool: &Pool,
    demand: &Demand,
    eligible: &Eligible,
    now: f64,
    running: impl IntoIterator<Item = (f64, &'a [(u32, Arc<Children>)])>,
) -> Forecast {
    let mut units = pool.capacity(demand, eligible);
    let mut freed: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (end, parts) in running {
        for (rank, part) in parts {
            let Some(free) = freed.get(rank).copied().or_else(|| pool.free_on(*rank)) else {
                continue;
            };
            let back = pool.returns(*rank, part);
            let after = (free.0.saturating_add(back.0), free.1.saturating_add(back.1));
            freed.insert(*rank, after);
            units = units
                .saturating_add(pool.fit(demand, eligible, *rank, Some(after)))
                .saturating_sub(pool.fit(demand, eligible, *rank, Some(free)));
        }
        if units >= demand.min {
            return if end.is_finite() { Forecast::At(end.max(now)) } else { Forecast::Unknown };
        }
    }
    if units >= demand.min { Forecast::At(now) } else { Forecast::NeedsNodes }
}
