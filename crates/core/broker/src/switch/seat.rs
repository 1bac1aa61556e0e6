//! A module and what the broker keeps about it.

use flux_api::broker::{ModuleLoad_, ModuleRemove};
use flux_api::rpc::Answer;
use flux_proto::RouteId;
use flux_svc::{Module, Port};

use crate::track::{Disconnects, Tracker};

/// Where a module is in its life; the numbers are those of `module.list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Starting = 0,
    Running = 1,
    Finishing = 2,
    Exited = 3,
}

/// A module's place at the switch. Seats are never reused, so that their numbers stay names.
pub(crate) struct Seat {
    /// Empty once the module has exited.
    pub(crate) module: Option<Box<dyn Module>>,
    pub(crate) name: String,
    pub(crate) id: RouteId,
    pub(crate) port: Port,
    pub(crate) phase: Phase,
    pub(crate) builtin: bool,
    /// Monotonic time of its last message in microseconds.
    pub(crate) spoke: u64,
    pub(crate) disconnects: Disconnects,
    /// Requests that it was given and has not answered.
    pub(crate) serving: Tracker,
    pub(crate) loading: Option<Answer<ModuleLoad_>>,
    pub(crate) removing: Vec<Answer<ModuleRemove>>,
}

impl Seat {
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.module.as_ref().and_then(|module| module.next_deadline())
    }
}
