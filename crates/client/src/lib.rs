//! Typed calls to a broker over its local socket.
//!
//! A [`Client`] belongs to one thread and never starts another. Requests are gathered and go out
//! in one write when something is waited for; any number may be in flight, as [`Pending`] answers
//! and [`Stream`]s that are taken in any order.
//!
//! ```no_run
//! use flux_api::lifecycle::{AttrName, Get};
//! use flux_client::{Client, To};
//!
//! let client = Client::open(None)?;
//! let size = client.get_attr("size")?;
//! let one = client.send::<Get>(To::Rank(0), &AttrName { name: "rank".into() });
//! let two = client.send::<Get>(To::Rank(1), &AttrName { name: "rank".into() });
//! println!("{size} {} {}", two.wait()?.value, one.wait()?.value);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read first: [`Client`], then [`Stream`] and [`Client::wait`].

mod attr;
mod client;
mod connect;
mod inner;
mod pending;
mod stream;
mod uri;
mod wire;

pub use client::{Client, To};
pub use connect::OpenError;
pub use inner::Ready;
pub use pending::{Pending, RawPending};
pub use stream::Stream;
pub use uri::{DEFAULT_URI, Target, UriError, own_uri, parse, resolve};
