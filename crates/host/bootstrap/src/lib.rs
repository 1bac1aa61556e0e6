//! How a broker finds its rank, its peers and its keys, and how several are started on one host.
//!
//! | Method | Rank and size from | Endpoints and keys from |
//! |---|---|---|
//! | [`config`] | place of the host in `[bootstrap] hosts` | the configuration, one key file |
//! | [`pmi`] | the launcher (PMI-1) | business cards exchanged through it, fresh keys |
//! | [`Boot::single`] | nothing: one broker | nothing |
//!
//! [`instance`] is the launcher of `flux start -s N`: processes, PMI server, `start.*` service.
//! The shape of the tree is the broker's to decide: it is asked through [`TreeOf`].

pub mod boot;
pub mod card;
pub mod config;
pub mod instance;
pub mod interface;
pub mod pmi;

pub use boot::{Boot, BootError, Place, Tree, TreeOf};
pub use config::{ConfigBootstrap, ConfigError};
pub use instance::{ExitMode, InstanceError, StartMode, TestInstance, test_instance};
pub use pmi::{PmiEnv, PmiOptions};
