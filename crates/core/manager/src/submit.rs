//! New jobs from ingest.

use std::rc::Rc;

use flux_api::Call;
use flux_api::job::manager::{NewJob, Submit, SubmitErrors};
use flux_api::job::{FLAG_NOVALIDATE, FLAG_WAITABLE};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_model::job_event::{JobState, JobStatus};
use flux_model::treeobj::Treeobj;
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

impl JobManager {
    /// `job-manager.submit`: the answer comes when the first events of all jobs are durable.
    pub(crate) fn submit(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Submit>) {
        let mut errors = Vec::new();
        let mut ids = Vec::new();
        for new in call.request.jobs {
            let id = new.id;
            match self.admit(cx, new) {
                Ok(()) => ids.push(id),
                Err(text) => errors.push((id, text)),
            }
        }
        let errors = SubmitErrors { errors };
        if ids.is_empty() {
            return call.answer.ok(cx, &errors);
        }
        self.commits.after(After::Submitted(call.answer, ids, errors));
    }

    fn admit(&mut self, cx: &mut Cx<'_, Wait>, new: NewJob) -> Result<(), String> {
        if let Some(failure) = &self.commits.failure {
            return Err(format!("job submission is disabled: {failure}"));
        }
        let id = new.id;
        if id == 0 || self.jobs.contains_key(&id) || self.inactive.get(id).is_some() {
            return Err("job id is not new".to_string());
        }
        let queue = system(&new.jobspec, "queue").and_then(Value::as_str).map(Rc::<str>::from);
        self.queues.admit(queue.as_deref())?;
        if new.flags & FLAG_NOVALIDATE == 0 {
            self.settings.policy.check(&new.jobspec, queue.as_deref())?;
            let duration = system(&new.jobspec, "duration").and_then(Value::as_f64);
            self.check_lifetime(cx.wall(), duration.unwrap_or(0.0))?;
        }
        let wanted = self.parse_dependencies(cx, &new)?;
        let mut event = Event::new(new.t_submit, "submit");
        event.context = context(json!({
            "userid": new.userid, "urgency": new.urgency, "flags": new.flags, "version": 1,
        }));
        if !(new.t_submit.is_finite() && new.t_submit > 0.0) {
            return Err("t_submit must be greater than 0".to_string());
        }
        let status = JobStatus::new(&event).map_err(|error| error.to_string())?;
        let mut job = Job::new(id, status, new.jobspec.to_string().into());
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
        self.commits.put(format!("{dir}.jobspec"), Treeobj::val(job.jobspec.as_bytes()).to_value());
        self.dependencies.enter(&job);
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
