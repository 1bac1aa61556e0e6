//! Runs a broker: owns its sockets, clock and signals, and carries out what its engine decides.
//!
//! One thread, one loop. Whatever arrives (a client's messages, a driver's answer, a signal, a
//! deadline) is handed to the [`Engine`](flux_svc::engine::Engine) at once, its outputs are taken
//! at once, and everything for one client goes out in one write. There are no queues between the
//! socket and the engine, and no wakeups without a cause.
//!
//! Read first: [`run()`], [`HostOptions`], then [`Driver`] (how the host does things for services).
//!
//! Must never: decide what a service decides, or block the loop on something outside.

mod calendar;
mod client;
pub mod config;
pub mod console;
pub mod driver;
mod hub;
mod links;
mod local;
pub mod options;
mod quota;
mod resident;
mod run;
mod signal;
pub mod topo;
mod users;
mod watch;

pub use calendar::Calendar;
pub use console::Console;
pub use driver::{Driver, DriverHandle};
pub use options::{Bind, ClientLimits, GuestLimits, HostError, HostOptions, LinkKeys};
pub use run::{run, serve};
pub use topo::Topo;
pub use users::Users;
