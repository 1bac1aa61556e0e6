//! When a job that does not fit now will: by letting running jobs end one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_model::resource_set::Children;

use crate::demand::{Demand, Types};
use crate::eligible::Eligible;
use crate::pool::{Pool, counts};

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

impl Forecast {
    /// Whether no time is known.
    pub(crate) fn is_endless(self) -> bool {
        !matches!(self, Self::At(_))
    }
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
    let typed = !demand.types.is_empty();
    let mut freed_types: BTreeMap<u32, Types> = BTreeMap::new();
    for (end, parts) in running {
        for (rank, part) in parts {
            let Some(free) = freed.get(rank).copied().or_else(|| pool.free_on(*rank)) else {
                continue;
            };
            let back = pool.returns(*rank, part);
            let after = (free.0.saturating_add(back.0), free.1.saturating_add(back.1));
            freed.insert(*rank, after);
            let before = typed
                .then(|| freed_types.get(rank).cloned().unwrap_or_else(|| pool.types_on(*rank)));
            let types = before.clone().map(|mut types| {
                for (kind, count) in counts(part) {
                    let sum = types.entry(kind).or_insert(0);
                    *sum = sum.saturating_add(count);
                }
                types
            });
            units = units
                .saturating_add(pool.fit(demand, eligible, *rank, Some(after), types.as_ref()))
                .saturating_sub(pool.fit(demand, eligible, *rank, Some(free), before.as_ref()));
            freed_types.extend(types.map(|types| (*rank, types)));
        }
        if units >= demand.min {
            return if end.is_finite() { Forecast::At(end.max(now)) } else { Forecast::Unknown };
        }
    }
    if units >= demand.min { Forecast::At(now) } else { Forecast::NeedsNodes }
}
