//! The policies that are built in, by the names that other tools know them by. They are part of
//! this service; no others can be loaded.

use flux_api::job::manager::{Jobtap, JobtapResponse};
use flux_api::{Call, RpcError};
use flux_proto::Errno;
use flux_svc::Cx;

use crate::service::Wait;

/// Built-in policies; the dot keeps them out of short listings.
pub const BUILT_IN: [&str; 11] = [
    ".priority-default",
    ".limit-job-size",
    ".limit-duration",
    ".dependency-after",
    ".dependency-singleton",
    ".begin-time",
    ".validate-duration",
    ".update-duration",
    ".history",
    ".post-event",
    ".update-queue",
];

/// `job-manager.jobtap`.
pub(crate) fn jobtap(cx: &mut Cx<'_, Wait>, call: Call<Jobtap>) {
    let request = &call.request;
    let problem = if let Some(name) = &request.load {
        if BUILT_IN.contains(&name.as_str()) {
            Some(RpcError::new(Errno::EEXIST, format!("{name} already loaded")))
        } else {
            Some(RpcError::new(Errno::ENOENT, format!("{name}: No such plugin found")))
        }
    } else if let Some(name) = &request.remove {
        if BUILT_IN.contains(&name.as_str()) {
            let text = format!("{name} is built in and cannot be removed");
            Some(RpcError::new(Errno::EINVAL, text))
        } else {
            Some(RpcError::new(Errno::ENOENT, "Failed to find plugin to remove"))
        }
    } else {
        None
    };
    match problem {
        Some(error) => call.answer.err(cx, error),
        None => {
            let plugins = BUILT_IN.iter().map(ToString::to_string).collect();
            call.answer.ok(cx, &JobtapResponse { plugins });
        }
    }
}
