//! The life of a broker: its attributes, log, configuration, groups and heartbeat, and the state
//! machine that takes it from joining the tree to leaving it.
//!
//! Read first: [`state_machine`] (states, transitions and what each does).
//!
//! Must never: route messages or keep the tree (that is the broker crate's).

pub mod attributes;
pub mod configuration;
pub mod groups;
pub mod heartbeat;
pub mod log;
pub mod state_machine;

pub use attributes::{AttributeService, Attributes};
pub use configuration::ConfigService;
pub use groups::GroupsService;
pub use heartbeat::HeartbeatService;
pub use log::{LogService, LogSettings};
pub use state_machine::{Settings, StateMachineService};
