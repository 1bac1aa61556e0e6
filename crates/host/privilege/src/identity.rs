//! Users: who calls, and who a process becomes.

use std::ffi::CString;
use std::fmt;
use std::path::PathBuf;

use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgid, getresgid, getresuid, getuid, initgroups, setresgid,
    setresuid,
};

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::error::ImpError;

/// Who runs the program, and with what rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The real user id: who runs it.
    pub uid: u32,
    /// The real group id.
    pub gid: u32,
    /// The effective user id: 0 with the set-user-id bit.
    pub effective: u32,
}

impl Caller {
    /// The ids of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { uid: getuid().as_raw(), gid: getgid().as_raw(), effective: geteuid().as_raw() }
    }

    /// Whether the process has the rights of root.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.effective == 0
    }

    /// Login name, or the number of a user without one.
    #[must_use]
    pub fn name(&self) -> String {
        match User::from_uid(Uid::from_raw(self.uid)) {
            Ok(Some(user)) => user.name,
            _ => self.uid.to_string(),
        }
    }

    /// Whether the caller is one of the users of a list of login names.
    #[must_use]
    pub fn is_listed(&self, names: &[String]) -> bool {
        names.iter().any(
            |name| matches!(User::from_name(name), Ok(Some(user)) if user.uid.as_raw() == self.uid),
        )
    }

    /// Gives up all rights that the caller does not have, for good.
    ///
    /// # Errors
    /// The rights would remain.
    pub fn settle(&self) -> Result<(), ImpError> {
        set_ids(self.uid, self.gid)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_privileged() { "privileged" } else { "unprivileged" };
        let group = (self.gid, getegid());
        write!(
            f,
            "{kind} uid={} euid={} gid={} egid={}",
            self.uid, self.effective, group.0, group.1
        )
    }
}

/// A user that processes can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Login name.
    pub name: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl Account {
    /// Looks a user up.
    ///
    /// # Errors
    /// There is no such user.
    pub fn by_uid(uid: u32) -> Result<Self, ImpError> {
        match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => Ok(Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                name: user.name,
                home: user.dir,
                shell: user.shell,
            }),
            Ok(None) => Err(ImpError::Unknown(uid)),
            Err(error) => Err(ImpError::start("user database", error)),
        }
    }

    /// Becomes this user, with all groups, for good.
    ///
    /// # Errors
    /// A step fails, or rights would remain.
    pub fn become_it(&self) -> Result<(), ImpError> {
        let name = CString::new(self.name.as_str()).map_err(|_| ImpError::Unknown(self.uid))?;
        initgroups(&name, Gid::from_raw(self.gid))
            .map_err(|error| ImpError::start("initgroups", error))?;
        set_ids(self.uid, self.gid)
    }
}

/// Makes root the real user, too: nobody else can signal this process then.
pub(crate) fn become_root() -> Result<(), ImpError> {
    set_ids(0, 0)
}

/// Gives up every capability: after another user id there should be none left, but who calls may
/// have said otherwise (`capabilities(7)`, secure bits), or have left some to inherit.
fn no_capabilities() -> Result<(), ImpError> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| ImpError::start("capabilities", error))
}

/// Sets real, effective and saved ids, and makes sure that there is no way back.
fn set_ids(uid: u32, gid: u32) -> Result<(), ImpError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(group, group, group).map_err(|error| ImpError::start("setresgid", error))?;
    setresuid(user, user, user).map_err(|error| ImpError::start("setresuid", error))?;
    if uid != 0 {
        no_capabilities()?;
    }
    let users = getresuid().map_err(|error| ImpError::start("getresuid", error))?;
    let groups = getresgid().map_err(|error| ImpError::start("getresgid", error))?;
    let settled = (users.real, users.effective, users.saved) == (user, user, user)
        && (groups.real, groups.effective, groups.saved) == (group, group, group);
    let root = Uid::from_raw(0);
    if !settled || (uid != 0 && setresuid(root, root, root).is_ok()) {
        return Err(ImpError::start("setresuid", "privileges remain"));
    }
    Ok(())
}
