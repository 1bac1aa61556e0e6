//! What an `exec` request asks, and whether it may.

use flux_api::{RpcError, rexec};
use flux_model::subprocess::{Command, CommandError, ExecFlags, LocalFlags};
use flux_proto::{Errno, Message, Rolemask};
use serde::Deserialize;
use serde_json::Value;

/// A request that can be carried out.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) cmd: Command,
    pub(crate) flags: ExecFlags,
    pub(crate) local: LocalFlags,
    pub(crate) background: bool,
}

#[derive(Deserialize)]
struct Body {
    cmd: Value,
    flags: u32,
    #[serde(default)]
    local_flags: u32,
}

fn proto(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EPROTO, text)
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

/// Refuses a request in signed form: nothing here can check a signature.
pub(crate) fn refuse_signed(message: &Message) -> Result<(), RpcError> {
    #[derive(Deserialize)]
    struct Signed {
        signature: Option<Value>,
    }
    match message.json::<Signed>() {
        Ok(Signed { signature: Some(Value::String(_)) }) => {
            Err(RpcError::new(Errno::EPERM, "signed requests are not supported by this service"))
        }
        Ok(Signed { signature: Some(_) }) => Err(proto("request signature is not a string")),
        _ => Ok(()),
    }
}

impl Order {
    pub(crate) fn read(message: &Message) -> Result<Self, RpcError> {
        let body: Body =
            message.json().map_err(|error| proto(format!("failed to unpack request: {error}")))?;
        let cmd =
            Command::deserialize(body.cmd).map_err(|_| proto("error parsing command string"))?;
        cmd.validate().map_err(|error: CommandError| proto(error.to_string()))?;
        let (flags, local) = (ExecFlags(body.flags), LocalFlags(body.local_flags));
        let background = !message.is_streaming();
        if !cmd.msgchans.is_empty() {
            return Err(invalid("message channels are not supported by this service"));
        }
        if background {
            if flags.contains(ExecFlags::WRITE_CREDIT) {
                return Err(invalid("write-credit flag is not allowed in background mode"));
            }
            if local.contains(LocalFlags::STDIO_FALLTHROUGH) {
                return Err(invalid("stdio-fallthrough flag is not allowed in background mode"));
            }
            if !cmd.channels.is_empty() {
                return Err(invalid("auxiliary channels are not allowed in background mode"));
            }
        } else if flags.contains(ExecFlags::WAITABLE) {
            return Err(invalid("waitable flag only supported in background mode"));
        }
        let foreign = !message.cred.rolemask.contains(Rolemask::LOCAL);
        if foreign && local.0 & (rexec::STDIO_FALLTHROUGH | rexec::NO_SETPGRP) != 0 {
            return Err(RpcError::new(Errno::EPERM, "local flags are for local requests only"));
        }
        Ok(Self { cmd, flags, local, background })
    }
}
