//! New jobs from ingest.

use std::rc::Rc;

use flux_api::job::manager::{NewJob, Submit, SubmitErrors};
use flux_api::job::{FLAG_NOVALIDATE, FLAG_WAITABLE};
use flux_api::{Call, RpcError};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_model::job_event::{JobState, JobStatus};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::Cx;
use serde_json::{Value, json};

use crate::commits::After;
use crate::dependency;
use crate::job::Job;
use crate::life::context;
use crate::service::{JobManager, Wait};

/// `attributes.system.<key>`.
pub(crate) fn system<'a>(jobspec: &'a Value, key: &str) -> Option<&'a Value> {
    jobspec.get("attributes")?.get("system")?.get(key)
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

impl JobManager {
    /// `job-manager.submit`: the answer comes when the first events of all jobs are durable.
    pub(crate) fn submit(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Submit>) {
        let mut errors = Vec::new();
        let mut errnums = Vec::new();
        let mut ids = Vec::new();
        for new in call.request.jobs {
            let id = new.id;
            match self.admit(cx, new) {
                Ok(()) => ids.push(id),
                Err(error) => {
                    errors.push((id, error.message()));
                    if error.errno != Errno::EINVAL {
                        errnums.push((id, error.errno.0));
                    }
                }
            }
        }
        let errors = SubmitErrors { errors, errnums };
        if ids.is_empty() {
            return call.answer.ok(cx, &errors);
        }
        self.commits.after(After::Submitted(call.answer, ids, errors));
    }

    fn admit(&mut self, cx: &mut Cx<'_, Wait>, new: NewJob) -> Result<(), RpcError> {
        if let Some(failure) = &self.commits.failure {
            return Err(invalid(format!("job submission is disabled: {failure}")));
        }
        let id = new.id;
        if id == 0 || self.jobs.contains_key(&id) || self.inactive.get(id).is_some() {
            return Err(invalid("job id is not new"));
        }
        let queue = system(&new.jobspec, "queue").and_then(Value::as_str).map(Rc::<str>::from);
        self.queues.admit(queue.as_deref()).map_err(invalid)?;
        self.may_submit(cx, new.userid, queue.as_deref())?;
        let jobspec: Rc<str> = new.jobspec.to_string().into();
        let size = (jobspec.len() + new.j.len()) as u64;
        if new.userid != cx.owner() {
            self.guests.admit(new.userid, size, &self.settings.guests)?;
        }
        if new.flags & FLAG_NOVALIDATE == 0 {
            self.settings.policy.check(&new.jobspec, queue.as_deref()).map_err(invalid)?;
            let duration = system(&new.jobspec, "duration").and_then(Value::as_f64);
            self.check_lifetime(cx.wall(), duration.unwrap_or(0.0)).map_err(invalid)?;
        }
        let wanted = self.parse_dependencies(cx, &new).map_err(invalid)?;
        let mut event = Event::new(new.t_submit, "submit");
        event.context = context(json!({
            "userid": new.userid, "urgency": new.urgency, "flags": new.flags, "version": 1,
        }));
        if !(new.t_submit.is_finite() && new.t_submit > 0.0) {
            return Err(invalid("t_submit must be greater than 0"));
        }
        let status = JobStatus::new(&event).map_err(|error| invalid(error.to_string()))?;
        let mut job = Job::new(id, status, jobspec);
        job.size = size;
        job.queue = queue.filter(|_| self.queues.is_named());
        job.name = dependency::given_name(&new.jobspec);
        let line = event.encode();
        job.log.push_str(&line);
        // A job is in the KVS whole or not at all: its documents go with its first events.
        self.commits.split();
        self.commits.append(id, &line);
        self.commits.index.add(id);
        let dir = JobId(id).kvs();
        self.commits.put_pieces(format!("{dir}.J"), &new.j);
        self.commits.put(format!("{dir}.jobspec"), Treeobj::val(job.jobspec.as_bytes()));
        self.dependencies.enter(&job);
        self.guests.enter(&job);
        if job.has_flag(FLAG_WAITABLE) {
            self.waiting.expect(id);
        }
        self.jobs.insert(id, job);
        self.history.insert(id, new.userid);
        self.max_jobid = self.max_jobid.max(id);
        if let Some(job) = self.jobs.get(&id) {
            self.journal.event(cx, job, "submit", &line);
        }
        let deprecated = wanted.iter().any(|one| one.is_deprecated());
        self.add_dependencies(cx, id, wanted);
        self.post(cx, id, "validate", Value::Null);
        if deprecated {
            let text = "dependency scheme 'after' is deprecated, use 'afterstart'";
            self.raise(cx, id, 3, "dependency", text, None);
        }
        Ok(())
    }

    /// Whether a job has reached its end.
    pub(crate) fn is_inactive(&self, id: u64) -> bool {
        self.finished(id).is_some()
            || self.jobs.get(&id).is_some_and(|job| job.state() == JobState::Inactive)
    }
}
