//! Shared libraries that are loaded when they are needed.
#![expect(unsafe_code, reason = "dlopen and dlsym have no safe form")]

use std::ffi::{CStr, c_void};

use nix::libc;

/// A loaded library. It is never unloaded: its functions may be called as long as the program runs.
#[derive(Debug)]
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Loads a library by its file name, from where the system keeps libraries.
    pub(crate) fn open(name: &CStr) -> Option<Self> {
        // SAFETY: the name ends with NUL; libmunge has no constructor that needs anything of us.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!handle.is_null()).then_some(Self(handle))
    }

    /// The address of a function.
    pub(crate) fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is of a library that stays loaded, the name ends with NUL.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}
