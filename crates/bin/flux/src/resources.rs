//! Resources as the scheduler sees them, by state.

use std::borrow::Cow;

use flux_api::RpcError;
use flux_api::body::AnyObject;
use flux_api::resource::{SchedStatus, SchedStatus_};
use flux_client::{Client, To};
use flux_id::Idset;
use flux_model::resource_set::ResourceSet;
use flux_proto::Errno;

/// All resources, and which of them are not to be had. What is down may be allocated, too: a
/// drained node whose jobs go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resources {
    /// Every schedulable resource.
    pub(crate) all: ResourceSet,
    /// What gets no more jobs.
    pub(crate) down: ResourceSet,
    /// What jobs have.
    pub(crate) allocated: ResourceSet,
}

impl Resources {
    /// The states that [`Resources::state`] knows.
    pub(crate) const STATES: [&str; 5] = ["up", "down", "allocated", "free", "all"];

    /// Asks an instance.
    ///
    /// # Errors
    /// Why it does not tell; EPROTO: an R that is none.
    pub(crate) fn ask(client: &Client) -> Result<Self, RpcError> {
        Self::of(&client.call::<SchedStatus_>(To::Rank(0), &AnyObject::default())?)
    }

    /// Reads the answer of an instance.
    ///
    /// # Errors
    /// EPROTO: an R that is none.
    pub(crate) fn of(status: &SchedStatus) -> Result<Self, RpcError> {
        let set = |r| {
            ResourceSet::from_value(r)
                .map_err(|error| RpcError::new(Errno::EPROTO, format!("R: {error}")))
        };
        Ok(Self {
            all: set(&status.all)?,
            down: set(&status.down)?,
            allocated: set(&status.allocated)?,
        })
    }

    /// Those of some ranks.
    pub(crate) fn of_ranks(&self, ranks: &Idset) -> Self {
        Self {
            all: self.all.copy_ranks(ranks),
            down: self.down.copy_ranks(ranks),
            allocated: self.allocated.copy_ranks(ranks),
        }
    }

    /// What is in a state.
    pub(crate) fn state(&self, name: &str) -> Option<Cow<'_, ResourceSet>> {
        Some(match name {
            "all" => Cow::Borrowed(&self.all),
            "down" => Cow::Borrowed(&self.down),
            "allocated" => Cow::Borrowed(&self.allocated),
            "up" => Cow::Owned(self.all.diff(&self.down)),
            "free" => Cow::Owned(self.all.diff(&self.allocated).diff(&self.down)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_down_and_allocated_is_not_missing_twice() {
        let r = |ranks: &str| {
            json!({"version": 1, "execution": {
                "R_lite": [{"rank": ranks, "children": {"core": "0-3"}}],
                "nodelist": [format!("n[{ranks}]")]}})
        };
        let status = SchedStatus { all: r("0-1"), down: r("1"), allocated: r("1") };
        let found = Resources::of(&status).unwrap();
        let cores = Resources::STATES.map(|state| found.state(state).unwrap().ncores());
        assert_eq!(cores, [4, 4, 4, 4, 8]);
        let first = found.of_ranks(&Idset::first_n(1));
        let cores = Resources::STATES.map(|state| first.state(state).unwrap().ncores());
        assert_eq!(cores, [4, 0, 0, 4, 4]);
        assert!(found.state("nosuch").is_none());
        let status = SchedStatus { all: json!(5), ..status };
        assert!(Resources::of(&status).is_err());
    }
}
