//! Objects of the subprocess server protocol (RFC 42), served as `rexec`.

use std::collections::BTreeMap;
use std::ops::BitOr;

use serde::{Deserialize, Serialize};

pub use crate::stdio::IoData;

/// Most bytes of output kept for `wait`: the newest.
pub const WAIT_OUTPUT_MAX: usize = 8192;
/// Input that a client may send to a channel before its first credit, in bytes.
pub const DEFAULT_BUFFER: usize = 4096;

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// `cmdline` has no element, or the first is empty.
    #[error("command string is empty")]
    EmptyCommand,
    /// `label` is present and empty.
    #[error("command label is empty")]
    EmptyLabel,
    /// Something that is handed to the operating system holds a NUL character.
    #[error("command {0} holds a nul character")]
    Nul(&'static str),
    /// An environment variable or channel has an impossible name.
    #[error("command has an invalid variable name '{0}'")]
    VariableName(String),
}

/// A command: what to run and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command {
    /// Command and arguments; at least one.
    pub cmdline: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Options; all values are strings.
    pub opts: BTreeMap<String, String>,
    /// Names of auxiliary channels. Each is a socket pair; the process finds its end in the variable
    /// of the same name.
    pub channels: Vec<String>,
    /// Working directory, by default that of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// A name for the process, unique in its server; not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Message channels. (Flux sends the key as `msgchan`; RFC 42 calls it `msgchans`.)
    #[serde(default, alias = "msgchan", skip_serializing_if = "Vec::is_empty")]
    pub msgchans: Vec<MessageChannel>,
}

/// A point-to-point channel for messages between the process and a URI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageChannel {
    /// Variable in which the process finds a URI to connect to.
    pub name: String,
    /// URI on the server side.
    pub uri: String,
}

impl Command {
    /// A command with these arguments and nothing else.
    pub fn new<S: Into<String>>(cmdline: impl IntoIterator<Item = S>) -> Self {
        let cmdline = cmdline.into_iter().map(Into::into).collect();
        Command { cmdline, ..Command::default() }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn validate(&self) -> Result<(), CommandError> {
        if self.cmdline.first().is_none_or(String::is_empty) {
            return Err(CommandError::EmptyCommand);
        }
        if self.label.as_deref() == Some("") {
            return Err(CommandError::EmptyLabel);
        }
        if self.cmdline.iter().any(|arg| arg.contains('\0')) {
            return Err(CommandError::Nul("argument"));
        }
        if self.cwd.as_ref().is_some_and(|cwd| cwd.contains('\0')) {
            return Err(CommandError::Nul("working directory"));
        }
        if self.env.values().any(|value| value.contains('\0')) {
            return Err(CommandError::Nul("environment"));
        }
        let channels = self.msgchans.iter().map(|channel| &channel.name).chain(&self.channels);
        for name in self.env.keys().chain(channels) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(CommandError::VariableName(name.chars().take(80).collect()));
            }
        }
        Ok(())
    }
}

/// Flags of an `exec` or `attach` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecFlags(pub u32);

impl ExecFlags {
    /// Forward standard output.
    pub const STDOUT: ExecFlags = ExecFlags(1);
    /// Forward standard error.
    pub const STDERR: ExecFlags = ExecFlags(2);
    /// Forward auxiliary channels.
    pub const CHANNEL: ExecFlags = ExecFlags(4);
    /// Report free input buffer space.
    pub const WRITE_CREDIT: ExecFlags = ExecFlags(8);
    /// The process can be waited for.
    pub const WAITABLE: ExecFlags = ExecFlags(16);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: ExecFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a bit is set that the protocol does not define.
    pub fn has_unknown(self) -> bool {
        self.0 & !31 != 0
    }
}

impl BitOr for ExecFlags {
    type Output = ExecFlags;

    fn bitor(self, other: ExecFlags) -> ExecFlags {
        ExecFlags(self.0 | other.0)
    }
}

/// Local flags of an `exec` request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalFlags(pub u32);

impl LocalFlags {
    /// The process inherits the standard streams of the server.
    pub const STDIO_FALLTHROUGH: LocalFlags = LocalFlags(1);
    /// The process stays in the server's process group.
    pub const NO_SETPGRP: LocalFlags = LocalFlags(2);
    /// Use fork and exec rather than posix_spawn.
    pub const FORK_EXEC: LocalFlags = LocalFlags(4);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: LocalFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a bit is set that the protocol does not define.
    pub fn has_unknown(self) -> bool {
        self.0 & !7 != 0
    }
}

impl BitOr for LocalFlags {
    type Output = LocalFlags;

    fn bitor(self, other: LocalFlags) -> LocalFlags {
        LocalFlags(self.0 | other.0)
    }
}

/// A response to `exec` or `attach`; the stream ends with ENODATA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ExecResponse {
    /// The process runs.
    Started {
        /// Its process id.
        pid: i64,
    },
    /// The client is attached to a process in the background.
    Attached {
        /// Its process id.
        pid: i64,
        /// The command it was started with.
        cmd: Box<Command>,
    },
    /// The process was stopped by a signal.
    Stopped,
    /// The process ended.
    Finished {
        /// wait(2) status.
        status: i32,
    },
    /// The process wrote something, or closed a stream.
    Output {
        /// Its process id; RFC 42 shows it but does not require it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i64>,
        /// What it wrote.
        io: IoData,
    },
    /// Input buffers have more space.
    AddCredit {
        /// Bytes by channel.
        channels: BTreeMap<String, u64>,
    },
}

/// The response to `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitResponse {
    /// wait(2) status.
    pub status: i32,
    /// Output that the server kept, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<IoData>,
}

/// An entry of the response to `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: i64,
    /// The command, for people.
    pub cmd: String,
    /// Its label, or nothing.
    pub label: String,
    /// `R` runs, `Z` ended and not yet waited for.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_request_of_the_rfc_example_is_read() {
        let text = r#"{"cwd":"/home/test","cmdline":["hostname"],
            "env":{"PATH":"/bin:/usr/bin:/home/test/bin"},"opts":{},"channels":[]}"#;
        let command: Command = serde_json::from_str(text).unwrap();
        command.validate().unwrap();
        assert_eq!(command.cwd.as_deref(), Some("/home/test"));
        assert_eq!(command.cmdline, ["hostname"]);
        assert_eq!(
            serde_json::to_string(&Command::new(["true"])).unwrap(),
            r#"{"cmdline":["true"],"env":{},"opts":{},"channels":[]}"#
        );
        let flags = ExecFlags(11);
        assert!(flags.contains(ExecFlags::STDOUT | ExecFlags::STDERR | ExecFlags::WRITE_CREDIT));
        assert!(!flags.contains(ExecFlags::CHANNEL) && !flags.has_unknown());
        assert!(LocalFlags(8).has_unknown());
    }

    #[test]
    fn the_responses_of_the_rfc_example_round_trip_to_the_byte() {
        for text in [
            r#"{"type":"add-credit","channels":{"stdin":4096}}"#,
            r#"{"type":"started","pid":1848495}"#,
            r#"{"type":"output","pid":1848495,"io":{"stream":"stdout","rank":"0","data":"system76-pc\n"}}"#,
            r#"{"type":"output","pid":1848495,"io":{"stream":"stderr","rank":"0","eof":true}}"#,
            r#"{"type":"finished","status":0}"#,
            r#"{"type":"stopped"}"#,
            r#"{"type":"attached","pid":7,"cmd":{"cmdline":["a"],"env":{},"opts":{},"channels":[],"label":"x"}}"#,
        ] {
            let response: ExecResponse = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&response).unwrap(), text);
        }
    }

    #[test]
    fn bad_commands_are_refused() {
        for text in [
            r#"{}"#,
            r#"{"cmdline":["a"],"env":{},"opts":{}}"#,
            r#"{"cmdline":"a","env":{},"opts":{},"channels":[]}"#,
            r#"{"cmdline":["a"],"env":{"A":1},"opts":{},"channels":[]}"#,
        ] {
            assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
        }
        assert_eq!(Command::default().validate(), Err(CommandError::EmptyCommand));
        let mut command = Command::new(["a"]);
        command.label = Some(String::new());
        assert_eq!(command.validate(), Err(CommandError::EmptyLabel));
        command.label = None;
        command.channels.push("A=B".to_owned());
        assert_eq!(command.validate(), Err(CommandError::VariableName("A=B".to_owned())));
        command.channels.clear();
        command.cmdline.push("\0".to_owned());
        assert_eq!(command.validate(), Err(CommandError::Nul("argument")));
    }

    #[test]
    fn both_names_of_message_channels_are_read() {
        for key in ["msgchan", "msgchans"] {
            let text = format!(
                r#"{{"cmdline":["a"],"env":{{}},"opts":{{}},"channels":[],"{key}":[{{"name":"N","uri":"u"}}]}}"#
            );
            assert_eq!(serde_json::from_str::<Command>(&text).unwrap().msgchans.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn output_round_trips(data: Vec<u8>, pid: i64, status: i32) {
            let io = IoData::new("stdout", "0", data);
            let wait = WaitResponse { status, output: vec![io.clone()] };
            let json = serde_json::to_string(&wait).unwrap();
            prop_assert_eq!(serde_json::from_str::<WaitResponse>(&json).unwrap(), wait);
            let output = ExecResponse::Output { pid: Some(pid), io };
            let json = serde_json::to_string(&output).unwrap();
            prop_assert_eq!(serde_json::from_str::<ExecResponse>(&json).unwrap(), output);
        }
    }
}
