//! The environment of processes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;

/// Variables that say something of the broker's own process and are not passed on.
const REMOVED: [&str; 3] = ["FLUX_PROXY_REMOTE", "NOTIFY_SOCKET", "INVOCATION_ID"];

#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) env: RefCell<BTreeMap<String, String>>,
    pub(crate) local_uri: String,
    pub(crate) closed: Cell<bool>,
}

/// Changes a [`RexecDriver`](crate::RexecDriver) while it runs, from the loop's thread.
#[derive(Debug, Clone)]
pub struct RexecHandle(pub(crate) Rc<Base>);

impl RexecHandle {
    /// Sets a variable for processes that bring no environment. Names and values that no
    /// environment can hold are ignored.
    pub fn setenv(&self, name: &str, value: &str) {
        if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
            self.0.env.borrow_mut().insert(name.to_owned(), value.to_owned());
        }
    }

    /// Removes a variable for processes that bring no environment.
    pub fn unsetenv(&self, name: &str) {
        self.0.env.borrow_mut().remove(name);
    }

    /// From now on no process is started.
    pub fn shut_down(&self) {
        self.0.closed.set(true);
    }
}

impl Base {
    /// The environment of a process: what it brings or else the base, with the local URI, and
    /// with the `channels` (name and descriptor).
    pub(crate) fn of_process(
        &self,
        given: &BTreeMap<String, String>,
        channels: &[(String, i32)],
    ) -> Vec<CString> {
        let base = self.env.borrow();
        let env = if given.is_empty() { &*base } else { given };
        let mut strings = Vec::with_capacity(env.len() + channels.len() + 1);
        let mut push = |name: &str, value: &str| {
            // Neither holds a NUL: both were checked before.
            strings.extend(CString::new(format!("{name}={value}")));
        };
        for (name, value) in env {
            let replaced = name == "FLUX_URI" || channels.iter().any(|(other, _)| other == name);
            if !replaced && !REMOVED.contains(&name.as_str()) {
                push(name, value);
            }
        }
        push("FLUX_URI", &self.local_uri);
        for (name, fd) in channels {
            push(name, &fd.to_string());
        }
        strings
    }
}
