//! What is said to systemd over D-Bus: directly, by the manager's own socket, without a bus.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::socket::Private;
use serde::Serialize;
use tokio::net::UnixStream;
use zbus::conn::Builder;
use zbus::wire::OwnedVariant;
use zbus::{Connection, DynamicType, Message, MessageStream, OwnedObjectPath, Variant};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// No call of ours takes longer in a manager that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// `CLD_EXITED`, `CLD_DUMPED` of `ExecMainCode`; what else there is, is a signal.
const EXITED: i32 = 1;
const DUMPED: i32 = 3;

/// A connection to a manager.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    connection: Connection,
}

/// A property of a unit that is to be.
pub(super) type Property = (String, Variant<'static>);

/// How a unit is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitState {
    /// `active`, `activating`, `deactivating`, `failed`, `inactive`.
    pub(super) active: String,
    /// Why it is not active.
    pub(super) result: String,
    /// The shell, while it runs.
    pub(super) main: i32,
    /// The shell, also when it has ended.
    pub(super) first: i32,
    /// Wait status, once it has ended.
    pub(super) status: Option<i32>,
    /// Its cgroup, while there is one.
    pub(super) cgroup: String,
}

impl UnitState {
    /// Whether there is such a unit, or was until now.
    pub(super) fn is_known(&self) -> bool {
        self.status.is_some() || !matches!(self.active.as_str(), "" | "inactive")
    }
}

fn failed(error: zbus::Error) -> io::Error {
    match error {
        zbus::Error::InputOutput(error) => io::Error::new(error.kind(), error.to_string()),
        zbus::Error::MethodError(name, text, _) => {
            let kind = if name.as_str().ends_with(".UnitExists") {
                io::ErrorKind::AlreadyExists
            } else {
                io::ErrorKind::Other
            };
            io::Error::new(kind, text.unwrap_or_else(|| name.to_string()))
        }
        error => io::Error::other(error.to_string()),
    }
}

/// Where the managers are that may be used: that of the package, then that of the user.
pub(super) fn sockets() -> Vec<PathBuf> {
    let own = rustix::process::getuid().as_raw();
    [SYSTEM.to_string(), format!("/run/user/{own}")]
        .iter()
        .map(|dir| Path::new(dir).join("systemd/private"))
        .collect()
}

/// Runtime directory of the manager that `flux-jobs.service` runs.
const SYSTEM: &str = "/run/flux-jobs";

/// Whether `flux-jobs.service` may run.
pub(super) fn system_is_there() -> bool {
    Path::new(SYSTEM).join("systemd/private").exists()
}

/// Whether a socket is that of `flux-jobs.service`.
pub(super) fn is_system(socket: &Path) -> bool {
    socket.starts_with(SYSTEM)
}

impl Manager {
    /// Connects to the first manager that is there; with its socket.
    pub(super) async fn connect(sockets: &[PathBuf]) -> io::Result<(Self, PathBuf)> {
        let mut told = Vec::new();
        for socket in sockets {
            let stream = match UnixStream::connect(socket).await {
                Ok(stream) => stream,
                Err(error) => {
                    told.push(format!("{}: {error}", socket.display()));
                    continue;
                }
            };
            let builder = Builder::socket(Private(stream)).p2p().method_timeout(PATIENCE);
            let connection = builder.build().await.map_err(failed)?;
            return Ok((Self { connection }, socket.clone()));
        }
        let told = told.join("; ");
        let text = format!(
            "exec.service is \"sdexec\", but no systemd manager for job shells is there \
             ({told}): systemctl enable --now flux-jobs"
        );
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Every message from now on.
    pub(super) fn messages(&self) -> MessageStream {
        MessageStream::from(&self.connection)
    }

    async fn call<B: Serialize + DynamicType>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> io::Result<Message> {
        let reply = self.connection.call_method(Some(NAME), path, Some(interface), method, body);
        reply.await.map_err(failed)
    }

    async fn all(&self, path: &str, interface: &str) -> io::Result<BTreeMap<String, OwnedVariant>> {
        let reply = self.call(path, PROPERTIES, "GetAll", &(interface,)).await?;
        reply.body().deserialize().map_err(failed)
    }

    /// Asks for signals; a manager without a bus sends them anyway.
    pub(super) async fn subscribe(&self) {
        drop(self.call(PATH, MANAGER, "Subscribe", &()).await);
    }

    /// The manager's own cgroup.
    pub(super) async fn cgroup(&self) -> io::Result<String> {
        let body = (MANAGER, "ControlGroup");
        let reply = self.call(PATH, PROPERTIES, "Get", &body).await?;
        let value: OwnedVariant = reply.body().deserialize().map_err(failed)?;
        String::try_from(value).map_err(failed)
    }

    /// Starts a unit that is described here; the job of that, whose end is told by a signal.
    pub(super) async fn start(
        &self,
        name: &str,
        properties: &[Property],
    ) -> io::Result<OwnedObjectPath> {
        let none: [(&str, Vec<Property>); 0] = [];
        let body = (name, "fail", properties, none.as_slice());
        let reply = self.call(PATH, MANAGER, "StartTransientUnit", &body).await?;
        reply.body().deserialize().map_err(failed)
    }

    /// Sends a signal to the shell, or to every process of the unit.
    pub(super) async fn kill(&self, name: &str, all: bool, signum: i32) -> io::Result<()> {
        let whom = if all { "all" } else { "main" };
        self.call(PATH, MANAGER, "KillUnit", &(name, whom, signum)).await.map(drop)
    }

    /// Lets a unit go that has ended.
    pub(super) async fn forget(&self, name: &str) {
        // One of both applies, whether it ended well or not.
        drop(self.call(PATH, MANAGER, "StopUnit", &(name, "replace")).await);
        drop(self.call(PATH, MANAGER, "ResetFailedUnit", &(name,)).await);
    }

    /// The units whose names begin so.
    pub(super) async fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        type Listed = (
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        );
        let states: [&str; 0] = [];
        let patterns = [format!("{prefix}-*.service")];
        let body = (states.as_slice(), patterns.as_slice());
        let reply = self.call(PATH, MANAGER, "ListUnitsByPatterns", &body).await?;
        let listed: Vec<Listed> = reply.body().deserialize().map_err(failed)?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// How a unit is. One that is not there is `inactive`.
    pub(super) async fn state(&self, path: &str) -> io::Result<UnitState> {
        let mut unit = self.all(path, "org.freedesktop.systemd1.Unit").await?;
        let mut service = self.all(path, "org.freedesktop.systemd1.Service").await?;
        let text = |from: &mut BTreeMap<String, OwnedVariant>, name: &str| {
            from.remove(name).and_then(|value| String::try_from(value).ok()).unwrap_or_default()
        };
        let pid = |from: &mut BTreeMap<String, OwnedVariant>, name: &str| {
            let value = from.remove(name).and_then(|value| u32::try_from(value).ok());
            value.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0)
        };
        let number = |from: &mut BTreeMap<String, OwnedVariant>, name: &str| {
            from.remove(name).and_then(|value| i32::try_from(value).ok()).unwrap_or(0)
        };
        let code = number(&mut service, "ExecMainCode");
        let status = number(&mut service, "ExecMainStatus");
        Ok(UnitState {
            active: text(&mut unit, "ActiveState"),
            result: text(&mut service, "Result"),
            main: pid(&mut service, "MainPID"),
            first: pid(&mut service, "ExecMainPID"),
            status: wait_status(code, status),
            cgroup: text(&mut service, "ControlGroup"),
        })
    }
}

/// The status of `wait(2)` for what systemd tells; `None` while the process runs.
fn wait_status(code: i32, status: i32) -> Option<i32> {
    match code {
        0 => None,
        EXITED => Some((status & 0xff) << 8),
        DUMPED => Some(status & 0x7f | 0x80),
        _ => Some(status & 0x7f),
    }
}

/// The object of a unit: its name with everything but letters and digits escaped.
pub(super) fn object(name: &str) -> String {
    let mut path = format!("{PATH}/unit/");
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || byte.is_ascii_digit() && at > 0 {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_systemd_does() {
        let path = "/org/freedesktop/systemd1/unit/shell_2d0_2df7_2eservice";
        assert_eq!(object("shell-0-f7.service"), path);
    }

    #[test]
    fn statuses_are_those_of_wait() {
        let statuses = [(0, 0), (1, 3), (2, 9), (3, 11)].map(|(code, n)| wait_status(code, n));
        assert_eq!(statuses, [None, Some(3 << 8), Some(9), Some(0x8b)]);
    }

    #[test]
    fn a_manager_that_is_not_there_is_said_with_what_to_do() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let none = [PathBuf::from("/nowhere/systemd/private")];
        let error = runtime.block_on(Manager::connect(&none)).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("flux-jobs"), "{error}");
    }
}
