//! Job shells that outlive their broker: the `launch` driver, and what keeps the shells.
//!
//! ```text
//!   broker                       keeper: one process per node and job directory
//!   ┌────────┐  orders, events  ┌────────────┐  parent of   ┌───────┐
//!   │ driver │ ───────────────► │ supervisor │ ───────────► │ shell │ ─► tasks
//!   └────────┘   unix socket    └────────────┘              └───────┘
//!    may die                     journal on disk
//! ```
//!
//! One supervisor for all shells of a broker, rather than one for each: a shell costs a message
//! and two lines in a journal more than a child of the broker would, and no process of its own.
//! It is this program by another word, starts with the first
//! shell, and ends when there is neither a shell nor a broker. It is the parent of the shells, so
//! that it learns their exit status, and the reaper of what they leave behind, so that the end of
//! a job is told when its last process is gone. A broker that comes back connects, hears what
//! happened meanwhile, and goes on.
//!
//! What is on disk ([`journal`]): who was started, its process id with the time of its start (so
//! that a process id used again is never taken for it), and how it ended. A status that nobody
//! took within a second is synced. After a power cut, or the death of the supervisor, the journal
//! still says which shells there were: those are ended and reported as lost.
//!
//! Another [`Keeper`] stands beside the supervisor behind the same driver: [`Units`], shells as
//! transient units of systemd. Each request says which of them is to start its shell; what was
//! started by the other goes on ([`Choice`]).
//!
//! Read first: [`protocol`], [`LaunchDriver`], then [`supervisor`].
//!
//! Must never: start a shell that has a record, forget a status that was not taken, or block the
//! broker's loop.

mod choice;
mod driver;
pub mod journal;
mod keeper;
mod output;
mod proc;
pub mod protocol;
pub mod supervisor;
mod units;

pub use choice::Choice;
pub use driver::{LaunchDriver, LaunchOptions};
pub use keeper::{Channel, Keeper, Local, Supervised};
pub use units::Units;
