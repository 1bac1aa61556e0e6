//! Limits of resources that came with the caller.
//!
//! A caller may lower its own limits before it starts the IMP: little time, or files of one byte.
//! What runs with the rights of root must not stop halfway by that, so the limits are lifted for it;
//! the processes of a user get them back.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::error::ImpError;

/// Those by which a process is stopped, or its writing cut off.
const LIFTED: [(Resource, &str); 4] = [
    (Resource::RLIMIT_CPU, "cpu time"),
    (Resource::RLIMIT_FSIZE, "file size"),
    (Resource::RLIMIT_AS, "address space"),
    (Resource::RLIMIT_DATA, "data"),
];

/// What a program of root has at least: bytes of stack, and files.
const FLOORS: [(Resource, &str, u64); 2] =
    [(Resource::RLIMIT_STACK, "stack", 8 << 20), (Resource::RLIMIT_NOFILE, "open files", 1024)];

/// The limits of the caller, as they were: soft and hard.
#[derive(Debug)]
pub(crate) struct Limits {
    core: (u64, u64),
    lifted: Vec<(Resource, &'static str, (u64, u64))>,
}

/// Raises a limit to at least this; whether that could be done.
fn raise(resource: Resource, floor: u64) -> bool {
    let Ok((soft, hard)) = getrlimit(resource) else { return false };
    if soft >= floor {
        return true;
    }
    // In a container root may lack the right to raise a hard limit.
    setrlimit(resource, soft.max(floor), hard.max(floor)).is_ok()
}

impl Limits {
    /// Looks at the limits, and changes none.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn of_process() -> Result<Self, ImpError> {
        let look = |resource, what: &'static str| {
            getrlimit(resource).map_err(|error| ImpError::prepare(what, error))
        };
        let lifted = LIFTED
            .into_iter()
            .map(|(resource, what)| look(resource, what).map(|limit| (resource, what, limit)));
        Ok(Self {
            core: look(Resource::RLIMIT_CORE, "core limit")?,
            lifted: lifted.collect::<Result<_, _>>()?,
        })
    }

    /// For a process with the rights of root: no core dumps, and nothing that stops it.
    ///
    /// # Errors
    /// There could be core dumps.
    pub(crate) fn lift(&self) -> Result<(), ImpError> {
        // The hard limit stays: to raise it again takes a capability that root may lack.
        setrlimit(Resource::RLIMIT_CORE, 0, self.core.1)
            .map_err(|error| ImpError::prepare("core limit", error))?;
        for (resource, ..) in &self.lifted {
            // Where it cannot be done, the caller can stop this process, but not what it watches.
            let _ = raise(*resource, RLIM_INFINITY);
        }
        Ok(())
    }

    /// For a process of a user: everything as the caller had it.
    ///
    /// # Errors
    /// A limit would be another.
    pub(crate) fn restore(&self) -> Result<(), ImpError> {
        let set = |resource, what, (soft, hard)| {
            setrlimit(resource, soft, hard).map_err(|error| ImpError::start(what, error))
        };
        set(Resource::RLIMIT_CORE, "core limit", self.core)?;
        self.lifted.iter().try_for_each(|(resource, what, limit)| set(*resource, what, *limit))
    }

    /// Whether a program of root would have enough of everything, now that limits are lifted.
    ///
    /// # Errors
    /// The caller has lowered a limit that cannot be raised again.
    pub(crate) fn check(&self) -> Result<(), ImpError> {
        let lifted =
            self.lifted.iter().map(|(resource, what, _)| (*resource, *what, RLIM_INFINITY));
        match lifted.chain(FLOORS).find(|(resource, _, floor)| !raise(*resource, *floor)) {
            Some((_, what, _)) => Err(ImpError::Limit(what)),
            None => Ok(()),
        }
    }

    /// For a program of root: core dumps as the caller had them.
    ///
    /// # Errors
    /// The limit would be another.
    pub(crate) fn allow_core(&self) -> Result<(), ImpError> {
        let (soft, hard) = self.core;
        setrlimit(Resource::RLIMIT_CORE, soft, hard)
            .map_err(|error| ImpError::start("core limit", error))
    }
}
