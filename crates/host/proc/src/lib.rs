//! Processes on a rank: the `rexec` driver (RFC 42).
//!
//! Everything runs on the loop's thread: a process is one task that reads its pipes and waits for
//! its pidfd, so that an idle process costs nothing and needs no thread. Processes are started
//! through `posix_spawn`, whose cost does not grow with the memory of the broker.
//!
//! Read first: [`RexecDriver`], [`Launcher`] (how a process is started).
//!
//! Must never: block the loop, or leave a descriptor open across an exec.

mod control;
pub mod descriptors;
mod driver;
mod environment;
mod input;
mod launch;
mod launching;
mod output;
mod process;
mod request;
mod spawn;
mod table;
mod watch;

pub use driver::{RexecDriver, RexecOptions};
pub use environment::RexecHandle;
pub use launch::{Direct, Launch, Launcher, Stdio};
pub use spawn::kill;
