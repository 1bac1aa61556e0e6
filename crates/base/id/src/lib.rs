//! The small words of Flux: ids, sets and lists of them, durations, ranges of counts.
//!
//! | Module | Words | Spec |
//! |---|---|---|
//! | [`idset`] | sets of ids, `0-3,7` | RFC 22 |
//! | [`hostlist`] | lists of hosts, `fluke[3,108,6-103]` | RFC 29 |
//! | [`fsd`] | durations, `1.5h` | RFC 23 |
//! | [`fluid`] | job ids, `ƒuZZybuNNy` | RFC 19 |
//! | [`range`] | ranges of counts, `2-8:2` | RFC 45 |
//!
//! Nothing here does I/O or knows the time, and no parser panics or expands without bound,
//! whatever it is given.

pub mod fluid;
pub mod fsd;
pub mod hostlist;
pub mod idset;
pub mod range;
pub mod size;

pub use fluid::{Generator, JobId, JobIdError, JobIdForm};
pub use fsd::{Fsd, FsdError};
pub use hostlist::{HostIndex, Hostlist, HostlistError};
pub use idset::{Idset, IdsetError};
pub use range::{CountRange, Operator, RangeError};
