//! After a restart: what was done for a job before, and going on from there.
//!
//! | what is found | what it means | what is done |
//! |---|---|---|
//! | a namespace, `complete` in its log | every shell has ended | the namespace is grafted |
//! | a namespace | shells may run | they are looked for on the ranks of R |
//! | no namespace, `complete` in the guest directory | all is recorded | the end is told again |
//! | neither | no shell was ever launched | the job is started, or released if it shall not |

use std::collections::BTreeMap;

use flux_api::kvs::{Getroot, Lookup, LookupRequest, NamespaceRequest, PRIMARY};
use flux_model::eventlog::Eventlog;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Value, json};

use crate::job::Step;
use crate::signals::Signal;
use crate::{ExecService, Wait};

/// Most events that are added for a return.
const FIRST: [&str; 3] = ["init", "starting", "recoverable"];

/// What an execution eventlog says.
#[derive(Debug, Default, PartialEq)]
struct Past {
    /// Names of the first events that are there.
    first: Vec<&'static str>,
    /// Wait status of `complete`.
    complete: Option<i32>,
    /// Barriers that the shells have passed for certain.
    barriers: u32,
    /// Bytes of output by rank: stdout, stderr.
    output: BTreeMap<u32, [u64; 2]>,
    /// When the shells were about to be started.
    began: Option<f64>,
    /// How long they had been there when the end began, in seconds.
    ended_after: Option<f64>,
    /// Signals that shells may not have heard.
    signals: Vec<Signal>,
}

impl Past {
    fn read(text: &str) -> Self {
        let mut past = Self::default();
        // What cannot be read was not written by us: it says nothing.
        let log = Eventlog::parse(text).unwrap_or_default();
        for event in log.events() {
            match event.name.as_str() {
                "complete" => {
                    let status = event.get_i64("status").and_then(|status| status.try_into().ok());
                    past.complete = status;
                }
                "shell.init" => past.barriers = past.barriers.max(1),
                "shell.start" => past.barriers = 2,
                "signal" => {
                    let context = event.context.clone().map(Value::Object);
                    past.signals.extend(context.as_ref().and_then(Signal::read));
                }
                "ending" => {
                    let ran = event.context.as_ref().and_then(|context| context.get("ran"));
                    past.ended_after = ran.and_then(Value::as_f64);
                }
                "log" => {
                    let rank = event.get_str("rank").and_then(|rank| rank.parse().ok());
                    let ours = event.get_str("component") == Some("job-shell");
                    if let (true, Some(rank), Some(data)) = (ours, rank, event.get_str("data")) {
                        let at = usize::from(event.get_str("stream") == Some("stderr"));
                        let known: &mut [u64; 2] = past.output.entry(rank).or_default();
                        known[at] += data.len() as u64;
                    }
                }
                name => {
                    if name == "starting" {
                        past.began = Some(event.timestamp);
                    }
                    past.first.extend(FIRST.iter().find(|first| **first == name));
                }
            }
        }
        past
    }
}

/// The text of a value that was looked up.
fn text_of(reply: &Reply) -> Result<Option<String>, flux_api::RpcError> {
    match reply.decode::<Lookup>() {
        Ok(found) => {
            let value = Treeobj::from_value(&found.val);
            Ok(value.ok().and_then(|value| match value {
                Treeobj::Val(bytes) => String::from_utf8(bytes.to_vec()).ok(),
                _ => None,
            }))
        }
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn look_up(cx: &mut Cx<'_, Wait>, namespace: &str, key: String, wait: Wait) {
    let request = LookupRequest {
        key,
        flags: 0,
        namespace: Some(namespace.to_string()),
        rootdir: None,
        rootseq: None,
        userid: None,
    };
    cx.call::<Lookup>(To::Rank(0), &request, wait);
}

impl ExecService {
    /// Looks for what was done for the job before.
    pub(crate) fn recall(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        look_up(cx, &job.namespace(), "exec.eventlog".to_string(), Wait::Recall(id));
    }

    /// The log in the namespace, if that is there.
    pub(crate) fn recalled(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let text = match text_of(reply) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) if error.errno == Errno::ENOTSUP => {
                let key = format!("{}.guest.exec.eventlog", job.id.kvs());
                return look_up(cx, PRIMARY, key, Wait::RecallGuest(id));
            }
            Err(error) => return self.cannot_recall(cx, id, &error),
        };
        let past = Past::read(&text);
        job.barriers = past.barriers;
        // Those of after the restart are newer.
        job.signals.splice(0..0, past.signals.iter().cloned());
        job.began = past.began.unwrap_or(job.began);
        job.ended_after = past.ended_after;
        if let Some(status) = past.complete {
            job.step = Step::Ending;
            job.status = status;
            let request = NamespaceRequest { namespace: job.namespace(), flags: 0 };
            cx.call::<Getroot>(To::Rank(0), &request, Wait::Last(id));
            return self.respond(cx, id, "finish", json!({ "status": status }));
        }
        let launched =
            past.barriers > 0 || job.resume.as_ref().is_some_and(|resume| resume.started);
        for (rank, shell) in &mut job.shells {
            shell.launched = launched;
            shell.asked = true;
            shell.known = past.output.get(rank).copied().unwrap_or_default();
        }
        let missing = FIRST.iter().filter(|name| !past.first.contains(name));
        let mut events: Vec<(&str, Value)> = missing.map(|name| (*name, Value::Null)).collect();
        events.push(("reattach", Value::Null));
        self.begin_shells(cx, id, &events);
    }

    /// There is no namespace: the log in the guest directory, if that is there.
    pub(crate) fn recalled_guest(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let text = match text_of(reply) {
            Ok(text) => text,
            // The link to a namespace that is gone.
            Err(error) if error.errno == Errno::ENOTSUP => None,
            Err(error) => return self.cannot_recall(cx, id, &error),
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(status) = text.and_then(|text| Past::read(&text).complete) {
            self.respond(cx, id, "finish", json!({ "status": status }));
            return self.release(cx, id);
        }
        let started = job.resume.as_ref().is_some_and(|resume| resume.started);
        if job.is_mock() {
            return self.resume_mock(cx, id);
        }
        if !started && job.is_over() {
            return self.release(cx, id);
        }
        for shell in job.shells.values_mut() {
            (shell.launched, shell.asked) = (started, started);
        }
        self.make_namespace(cx, id);
    }

    /// The store does not answer as it should: asked again, since the job may run.
    fn cannot_recall(&mut self, cx: &mut Cx<'_, Wait>, id: u64, error: &flux_api::RpcError) {
        let text = format!("job {}: looking for its past: {error}", flux_id::JobId(id).f58());
        cx.log(Level::Err, text);
        cx.timer(1_000_000, Wait::RecallAgain(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_how_far_the_job_was() {
        let log = "{\"timestamp\":1.0,\"name\":\"init\"}\n\
            {\"timestamp\":2.0,\"name\":\"starting\"}\n\
            {\"timestamp\":3.0,\"name\":\"log\",\"context\":{\"component\":\"job-shell\",\"stream\":\"stderr\",\"rank\":\"3\",\"data\":\"abc\"}}\n\
            {\"timestamp\":4.0,\"name\":\"shell.init\",\"context\":{}}\n";
        let past = Past::read(log);
        assert_eq!(past.first, ["init", "starting"]);
        assert_eq!((past.complete, past.barriers, past.began), (None, 1, Some(2.0)));
        assert_eq!(past.output[&3], [0, 3]);
        let ended = "{\"timestamp\":5.0,\"name\":\"complete\",\"context\":{\"status\":256}}\n";
        assert_eq!(Past::read(ended).complete, Some(256));
        assert_eq!(Past::read("garbage"), Past::default());
    }
}
