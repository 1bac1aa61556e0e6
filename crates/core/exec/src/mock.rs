//! Mock execution: `attributes.system.exec.test` runs no process, for tests and benchmarks.

use flux_api::kvs::{Commit, CommitRequest, PRIMARY};
use flux_id::fsd;
use flux_svc::{Cx, To};
use serde_json::{Value, json};

use crate::job::{Job, Stage, Step};
use crate::{ExecService, Wait, append};

impl ExecService {
    /// Begins a mock job; false when the job is real.
    pub(crate) fn begin_mock(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let Some(test) = job.jobspec.pointer("/attributes/system/exec/test") else { return false };
        let seconds = match test.get("run_duration") {
            Some(Value::String(text)) => fsd::parse(text).ok(),
            Some(value) => value.as_f64(),
            None => job.jobspec.pointer("/attributes/system/duration").and_then(Value::as_f64),
        };
        let mock_exception = test.get("mock_exception").and_then(Value::as_str).map(str::to_string);
        let wait_status = test
            .get("wait_status")
            .and_then(Value::as_i64)
            .and_then(|status| i32::try_from(status).ok())
            .unwrap_or(0);
        job.status = wait_status;
        if mock_exception.as_deref() == Some("init") {
            self.exception(cx, id, 0, "exec", "mock initialization exception generated");
            self.release(cx, id);
            return true;
        }
        for shell in job.shells.values_mut() {
            shell.stage = Stage::Running(0);
        }
        job.launching = 0;
        job.step = Step::Running;
        let kind = if job.reattach { "reattached" } else { "start" };
        let expiration = job.r.expiration;
        // One that ran before a restart has less to go.
        let gone = job.resume.as_ref().filter(|resume| resume.started);
        let gone = gone.map_or(0.0, |resume| (cx.wall() - resume.since).max(0.0));
        self.respond(cx, id, kind, json!({}));
        self.set_expiration(cx, id, expiration);
        if mock_exception.as_deref() == Some("run") {
            self.exception(cx, id, 0, "exec", "mock run exception generated");
        }
        let seconds = (seconds.unwrap_or(0.0) - gone).max(0.0);
        if seconds > 0.0 {
            cx.timer((seconds * 1e6) as u64, Wait::Mock(id));
        } else {
            self.mock_ended(cx, id, 0);
        }
        true
    }

    /// Goes on with a mock job whose end is not on record.
    pub(crate) fn resume_mock(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.resume.as_ref().is_some_and(|resume| !resume.started && resume.ended.is_some()) {
            return self.release(cx, id);
        }
        self.begin_mock(cx, id);
    }

    /// Ends a mock job early; false when the job is real.
    pub(crate) fn end_mock(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        if !self.jobs.get(&id).is_some_and(Job::is_mock) {
            return false;
        }
        self.mock_ended(cx, id, 15);
        true
    }

    pub(crate) fn mock_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64, signal: i32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.step > Step::Running {
            return;
        }
        job.step = Step::Ending;
        if signal != 0 {
            job.status = (128 + signal) << 8;
        }
        let status = job.finish_status();
        // One commit for the whole log: there is no shell that would write to a namespace.
        let events = [
            ("init", Value::Null),
            ("starting", Value::Null),
            ("complete", json!({ "status": status })),
            ("done", Value::Null),
        ];
        let key = format!("{}.guest.exec.eventlog", job.id.kvs());
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            ops: vec![append(cx, &key, &events)],
        };
        cx.hand::<Commit>(To::Rank(0), request, Wait::Graft(id));
        self.respond(cx, id, "finish", json!({ "status": status }));
    }
}
