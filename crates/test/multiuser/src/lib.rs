//! A small world of several users, in which the privileged parts are attacked.
//!
//! [`World::enter`] gives the test a mount namespace of its own with other `/etc`, `/run`, `/home`
//! and `/usr/libexec`: there are the users flux, alice, bob and mallory, a munged of their own, and
//! a setuid `flux-imp`. Nothing outside is changed and nothing is left.
//!
//! It needs root, MUNGE, and the programs built: the tests are marked as ignored and `.ci/run` runs
//! them where that is so:
//!
//! ```text
//! cargo build -p flux -p flux-imp && cargo nextest run -p flux-multiuser --run-ignored only
//! ```

pub mod imp;
pub mod instance;
pub mod user;
pub mod world;

pub use instance::Instance;
pub use user::{ALICE, BOB, FLUX, MALLORY, ROOT, User};
pub use world::World;

use std::time::{Duration, Instant};

/// Waits until something holds.
///
/// # Panics
/// When it does not within a minute.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}
