//! The policies that are built in, by the names that other tools know them by. They are part of
//! this service; no others can be loaded.

use flux_api::job::manager::{Jobtap, JobtapQuery_, JobtapResponse};
use flux_api::{Call, RpcError};
use flux_proto::Errno;
use flux_svc::Cx;
use serde_json::{Map, Value};

use crate::service::{JobManager, Wait};

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

/// The plugin that runs prolog and epilog; it is built in too, but must be asked for.
pub const PERILOG: &str = "perilog.so";

impl JobManager {
    fn plugins(&self) -> Vec<String> {
        let built_in = BUILT_IN.iter().map(ToString::to_string);
        built_in.chain(self.settings.plugins.iter().cloned()).collect()
    }

    /// `job-manager.jobtap`.
    pub(crate) fn jobtap(&self, cx: &mut Cx<'_, Wait>, call: Call<Jobtap>) {
        let request = &call.request;
        let there = self.plugins();
        let problem = match (&request.load, &request.remove) {
            (Some(name), _) if there.contains(name) => {
                Some(RpcError::new(Errno::EEXIST, format!("{name} already loaded")))
            }
            (Some(name), _) if name == PERILOG => {
                let text = "perilog.so is loaded by the configuration only: add it to \
                            job-manager.plugins, or use [prolog] and [epilog], and reload";
                Some(RpcError::new(Errno::EINVAL, text))
            }
            (Some(name), _) => {
                Some(RpcError::new(Errno::ENOENT, format!("{name}: No such plugin found")))
            }
            (None, Some(name)) if there.contains(name) => {
                let text = format!("{name} cannot be removed while the instance runs");
                Some(RpcError::new(Errno::EINVAL, text))
            }
            (None, Some(_)) => {
                Some(RpcError::new(Errno::ENOENT, "Failed to find plugin to remove"))
            }
            (None, None) => None,
        };
        match problem {
            Some(error) => call.answer.err(cx, error),
            None => call.answer.ok(cx, &JobtapResponse { plugins: there }),
        }
    }

    /// `job-manager.jobtap-query`.
    pub(crate) fn jobtap_query(&self, cx: &mut Cx<'_, Wait>, call: Call<JobtapQuery_>) {
        let name = &call.request.name;
        let perilog = &self.settings.perilog;
        let native = name == PERILOG && (perilog.prolog.is_some() || perilog.epilog.is_some());
        if !native && !self.plugins().contains(name) {
            let text = format!("{name}: plugin not found");
            return call.answer.err(cx, RpcError::new(Errno::ENOENT, text));
        }
        let mut answer = Map::new();
        answer.insert("name".into(), name.as_str().into());
        answer.insert("path".into(), "builtin".into());
        if name == PERILOG
            && let Value::Object(more) = self.perilog_query()
        {
            answer.extend(more);
        }
        call.answer.ok(cx, &answer);
    }
}
