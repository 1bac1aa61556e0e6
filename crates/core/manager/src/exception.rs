//! Exceptions: raising them, and telling everybody.

use flux_api::job::manager::{Raise, RaiseAll};
use flux_api::{Call, RpcError};
use flux_model::job_event::{JobException, JobState, SEVERITY_MAX, StateMask};
use flux_proto::{Cred, Errno, Rolemask};
use flux_svc::Cx;
use serde_json::{Map, Value};

use crate::commits::After;
use crate::service::{JobManager, Wait};

/// Topic of the private event for every exception.
pub const EVENT: &str = "job-exception";

fn exception(severity: u8, kind: &str, note: &str, userid: Option<u32>) -> JobException {
    JobException {
        timestamp: 0.0,
        kind: kind.to_string(),
        severity,
        note: note.to_string(),
        userid,
        wait_status: None,
    }
}

/// The answer when an exception ends a job but nobody can promise that a restart will know.
fn not_stored(error: &RpcError) -> RpcError {
    RpcError::new(error.errno, format!("the exception is raised, but {error}"))
}

/// Checks what a user wants to raise.
fn check(severity: i64, kind: &str) -> Result<u8, RpcError> {
    let bad = |text: &str| RpcError::new(Errno::EPROTO, text);
    let severity = u8::try_from(severity)
        .ok()
        .filter(|n| *n <= SEVERITY_MAX)
        .ok_or_else(|| bad("invalid exception severity"))?;
    if kind.is_empty() || kind.contains(|c: char| c.is_whitespace() || c == '=') {
        return Err(bad("invalid exception type"));
    }
    Ok(severity)
}

impl JobManager {
    /// Raises an exception of this service or of execution.
    pub(crate) fn raise(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        severity: u8,
        kind: &str,
        note: &str,
        userid: Option<u32>,
    ) {
        self.raise_exception(cx, id, &exception(severity, kind, note, userid));
    }

    fn raise_exception(&mut self, cx: &mut Cx<'_, Wait>, id: u64, raised: &JobException) {
        if self.jobs.get(&id).is_none_or(|job| job.state() == JobState::Inactive) {
            return;
        }
        let mut data = Map::new();
        data.insert("type".into(), raised.kind.as_str().into());
        data.insert("severity".into(), raised.severity.into());
        if let Some(userid) = raised.userid {
            data.insert("userid".into(), userid.into());
        }
        data.insert("note".into(), raised.note.as_str().into());
        if let Some(status) = raised.wait_status {
            data.insert("wait_status".into(), status.into());
        }
        self.post(cx, id, "exception", Value::Object(data));
        self.publish_exception(cx, id, raised);
        if raised.severity == 0 {
            self.perilog_exception(cx, id);
        }
    }

    /// Publishes the event that execution listens to.
    pub(crate) fn publish_exception(&self, cx: &mut Cx<'_, Wait>, id: u64, raised: &JobException) {
        let mut body = Map::new();
        body.insert("id".into(), id.into());
        body.insert("type".into(), raised.kind.as_str().into());
        body.insert("severity".into(), raised.severity.into());
        if let Some(status) = raised.wait_status {
            body.insert("wait_status".into(), status.into());
        }
        cx.publish(EVENT, &body, true);
    }

    /// `job-manager.raise`.
    pub(crate) fn raise_request(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Raise>) {
        match self.try_raise(cx, &call) {
            Ok(()) => self.commits.after(After::Raise(call.answer)),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn try_raise(&mut self, cx: &mut Cx<'_, Wait>, call: &Call<Raise>) -> Result<(), RpcError> {
        let request = &call.request;
        let severity = check(request.severity, &request.kind)?;
        let cred = call.answer.cred();
        let userid = self.owner_of(request.id)?;
        if !may_touch(cred, userid) {
            let text = "guests can only raise exceptions on their own jobs";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if self.is_inactive(request.id) {
            return Err(RpcError::new(Errno::ENOENT, "job is inactive"));
        }
        let stored = self.commits.check();
        let ends = severity == 0 && self.may_end(request.id);
        if !ends {
            stored.clone()?;
            self.has_room(request.id, cred)?;
        }
        let raised = JobException {
            wait_status: request.wait_status,
            ..exception(
                severity,
                &request.kind,
                request.note.as_deref().unwrap_or_default(),
                Some(cred.userid),
            )
        };
        self.raise_exception(cx, request.id, &raised);
        stored.map_err(|error| not_stored(&error))
    }

    /// Whether an exception can still end the job. Such a one is raised even when nothing can be
    /// stored, since it may be the job that fills the disk; it can happen only once for each job.
    fn may_end(&self, id: u64) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.status.fatal_exception.is_none())
    }

    /// The user of a job, active or not.
    pub(crate) fn owner_of(&self, id: u64) -> Result<u32, RpcError> {
        self.jobs
            .get(&id)
            .map(|job| job.status.userid)
            .or_else(|| self.finished(id).map(|record| record.userid))
            .ok_or_else(|| RpcError::new(Errno::ENOENT, "unknown job id"))
    }

    /// `job-manager.raiseall`.
    pub(crate) fn raise_all(&mut self, cx: &mut Cx<'_, Wait>, call: Call<RaiseAll>) {
        match self.try_raise_all(cx, &call) {
            Ok(count) => self.commits.after(After::RaiseAll(call.answer, count, 0)),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn try_raise_all(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        call: &Call<RaiseAll>,
    ) -> Result<u64, RpcError> {
        let request = &call.request;
        let severity = check(request.severity, &request.kind)?;
        let cred = call.answer.cred();
        let user = wanted_user(request.userid)?;
        if !cred.rolemask.contains(Rolemask::OWNER) && user != Some(cred.userid) {
            let text = "guests can only raise exceptions on their own jobs";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        let states = StateMask(request.states);
        let ids: Vec<u64> = self
            .jobs
            .values()
            .filter(|job| user.is_none_or(|user| user == job.status.userid))
            .filter(|job| job.state() != JobState::Inactive && states.contains(job.state()))
            .map(|job| job.id)
            .collect();
        if !request.dry_run {
            let stored = self.commits.check();
            let note = request.note.as_deref().unwrap_or_default();
            for id in &ids {
                let room = stored.is_ok() && self.has_room(*id, cred).is_ok();
                if room || (severity == 0 && self.may_end(*id)) {
                    self.raise(cx, *id, severity, &request.kind, note, Some(cred.userid));
                }
            }
            stored.map_err(|error| not_stored(&error))?;
        }
        Ok(ids.len() as u64)
    }
}

/// Whether somebody may act on a job of `userid`.
pub(crate) fn may_touch(cred: Cred, userid: u32) -> bool {
    cred.rolemask.contains(Rolemask::OWNER) || cred.userid == userid
}

/// The user a request names; `None` for all.
pub(crate) fn wanted_user(userid: i64) -> Result<Option<u32>, RpcError> {
    match userid {
        -1 | 0xffff_ffff => Ok(None),
        other => u32::try_from(other)
            .map(Some)
            .map_err(|_| RpcError::new(Errno::EINVAL, format!("invalid userid {other}"))),
    }
}
