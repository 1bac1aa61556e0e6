//! How many files a process may open: our own as many as they are allowed, users' processes as many
//! as they would have had.
//!
//! Many programs are slow or wrong with a high soft limit, and expect it from nobody who did not ask
//! for it. So what is raised here is given back to what is started for a user.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most that any process here asks for.
pub const MOST: u64 = 1 << 20;

/// The soft limit before it was raised.
static GIVEN: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to `most`, or to the hard limit if that is less. One that
/// is higher stays.
pub fn raise(most: u64) {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(most, |maximum| maximum.min(most));
    let Some(soft) = limit.current.filter(|soft| *soft < most) else { return };
    if setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok() {
        GIVEN.get_or_init(|| soft);
    }
}

/// The soft limit with which this process was started, if that was raised.
#[must_use]
pub fn given() -> Option<u64> {
    GIVEN.get().copied()
}

/// Sets the soft limit with which this process was started. For a child before its exec: one system
/// call, and nothing is allocated.
///
/// # Errors
/// What the system says.
pub fn give_back() -> std::io::Result<()> {
    let Some(soft) = given() else { return Ok(()) };
    let limit = Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// The limits of a process that gets what this one was given.
#[must_use]
pub fn as_limits() -> Vec<(Resource, Rlimit)> {
    let limit = |soft| Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
    given().map(|soft| (Resource::Nofile, limit(soft))).into_iter().collect()
}

/// Runs `f`, which starts a process, with the soft limit with which this process was started. What
/// is open stays so. Only for processes with one thread: the limit is that of all.
pub fn as_given<T>(f: impl FnOnce() -> T) -> T {
    let raised = getrlimit(Resource::Nofile);
    // Within the hard limit neither call can be refused.
    drop(give_back());
    let result = f();
    if given().is_some() {
        let _ = setrlimit(Resource::Nofile, raised);
    }
    result
}
