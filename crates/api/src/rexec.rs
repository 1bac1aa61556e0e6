//! `rexec`: processes on a rank (RFC 42). A driver of the host serves it.

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty};

/// Request flag: send stdout.
pub const STDOUT: u32 = 1;
/// Request flag: send stderr.
pub const STDERR: u32 = 2;
/// Request flag: send auxiliary channels.
pub const CHANNEL: u32 = 4;
/// Request flag: grant credit for writing.
pub const WRITE_CREDIT: u32 = 8;
/// Request flag: keep the exit status of a background process until it is waited for.
pub const WAITABLE: u32 = 16;
/// Local flag: the process uses the broker's own stdin, stdout and stderr.
pub const STDIO_FALLTHROUGH: u32 = 1;
/// Local flag: the process stays in the broker's process group.
pub const NO_SETPGRP: u32 = 2;

bodies! {
    /// What to run.
    pub struct Command {
        /// Program and arguments.
        pub cmdline: Vec<String>,
        /// Environment; the broker's when empty.
        pub env: Map<String, Value>,
        /// Options.
        pub opts: Map<String, Value>,
        /// Auxiliary channels.
        pub channels: Vec<String>,
        /// Working directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cwd: Option<String>,
        /// A name for the process, unique on its rank.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub label: Option<String>,
    }

    /// Body of `rexec.exec`.
    pub struct ExecRequest {
        /// What to run.
        pub cmd: Command,
        /// Request flags.
        pub flags: u32,
        /// Local flags, for requests from this broker only.
        #[serde(default)]
        pub local_flags: u32,
    }

    /// Data of a stream.
    pub struct Io {
        /// `stdin`, `stdout`, `stderr` or a channel.
        pub stream: String,
        /// Rank, as text.
        pub rank: String,
        /// Data, base64 when `encoding` says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub data: Option<String>,
        /// `base64`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub encoding: Option<String>,
        /// The stream ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub eof: Option<bool>,
    }

    /// One response of `rexec.exec`: `type` is `started`, `stopped`, `output`, `finished`,
    /// `add-credit` or `attached`.
    pub struct ExecResponse {
        /// Kind.
        #[serde(rename = "type")]
        pub kind: String,
        /// Process id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub pid: Option<i32>,
        /// Output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub io: Option<Io>,
        /// Wait status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub status: Option<i32>,
        /// Credit in bytes by channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub channels: Option<Map<String, Value>>,
        /// Command of an attached process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cmd: Option<Value>,
    }

    /// Body of `rexec.write`.
    pub struct WriteRequest {
        /// Matchtag of the exec request, of the same client.
        pub matchtag: u32,
        /// Data.
        pub io: Io,
    }

    /// Body of `rexec.kill`.
    pub struct KillRequest {
        /// Process id; ignored with a label.
        #[serde(default)]
        pub pid: i32,
        /// Signal number.
        pub signum: i32,
        /// Label.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub label: Option<String>,
    }

    /// Body of `rexec.wait` and `rexec.attach`.
    pub struct WaitRequest {
        /// Process id; ignored with a label.
        #[serde(default)]
        pub pid: i32,
        /// Label.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub label: Option<String>,
        /// Request flags (attach).
        #[serde(default)]
        pub flags: u32,
    }

    /// Answer of `rexec.wait`.
    pub struct WaitResponse {
        /// Wait status.
        pub status: i32,
        /// The newest output, at most 8192 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub output: Option<Vec<Io>>,
    }

    /// One process.
    pub struct Process {
        /// Process id.
        pub pid: i32,
        /// Program.
        pub cmd: String,
        /// Label or empty.
        pub label: String,
        /// `R` or `Z`.
        pub state: String,
    }

    /// Answer of `rexec.list`.
    pub struct ProcessList {
        /// Rank.
        pub rank: u32,
        /// Processes.
        pub procs: Vec<Process>,
    }
}

api! {
    /// Processes on a rank.
    pub enum Rexec("rexec") {
        /// Runs a process: as a stream in the foreground, else in the background.
        Exec = "rexec.exec", owner, either, ExecRequest => ExecResponse;
        /// Writes to a stream of a foreground process.
        Write = "rexec.write", owner, silent, WriteRequest => Empty;
        /// Sends a signal to a process group.
        Kill = "rexec.kill", owner, unary, KillRequest => Empty;
        /// Lists processes.
        List = "rexec.list", owner, unary, AnyObject => ProcessList;
        /// Waits for a waitable background process.
        Wait = "rexec.wait", owner, unary, WaitRequest => WaitResponse;
        /// Follows a background process.
        Attach = "rexec.attach", owner, streaming, WaitRequest => ExecResponse;
    }
}
