//! A job that is not over: its status by events, and what jobspec and R say.

use flux_api::job::manager::JournalResponse;
use flux_model::eventlog::Event;
use flux_model::job_event::{JobEventError, JobState, JobStatus};
use serde_json::Value;

use crate::spec::{self, Resources, Spec};
use crate::view::{ExceptionView, JobView, Json};

/// An active job.
#[derive(Debug)]
pub struct Active {
    /// Job id.
    pub id: u64,
    /// What its events say.
    pub status: JobStatus,
    /// What its jobspec says.
    pub spec: Spec,
    /// What its R says, once it has one.
    pub resources: Option<Resources>,
    /// JSON text of the jobspec without bulk, while counts still follow from it.
    jobspec: Option<Box<str>>,
}

impl Active {
    /// A job by its `submit` event.
    ///
    /// # Errors
    /// The event is no valid submit event.
    pub fn new(id: u64, submit: &Event) -> Result<Self, JobEventError> {
        let status = JobStatus::new(submit)?;
        Ok(Self { id, status, spec: Spec::default(), resources: None, jobspec: None })
    }

    /// Takes the documents that come with events.
    pub fn documents(&mut self, response: &mut JournalResponse) {
        if let Some(mut jobspec) = response.jobspec.take() {
            spec::strip(&mut jobspec);
            spec::update(&mut jobspec, &self.status.jobspec_updates);
            self.jobspec = Some(jobspec.to_string().into());
            self.spec = Spec::of(jobspec);
        }
        if let Some(r) = response.r.take() {
            // Tasks that the jobspec gives need no second look at it.
            let open = self.spec.ntasks.is_none().then(|| self.jobspec()).flatten();
            self.resources = Resources::of(&r, open);
        }
    }

    fn jobspec(&self) -> Option<Value> {
        serde_json::from_str(self.jobspec.as_deref()?).ok()
    }

    /// Applies the next event.
    ///
    /// # Errors
    /// The event lacks what RFC 21 requires; the job is unchanged then.
    pub fn apply(&mut self, event: &Event) -> Result<(), JobEventError> {
        self.status.apply(event)?;
        if event.name == "jobspec-update"
            && let Some(updates) = &event.context
            && let Some(mut jobspec) = self.jobspec()
        {
            spec::update(&mut jobspec, updates);
            self.jobspec = Some(jobspec.to_string().into());
            self.spec = Spec::of(jobspec);
        }
        Ok(())
    }

    /// The job as it is listed.
    #[must_use]
    pub fn view(&self) -> JobView<'_> {
        let (status, spec) = (&self.status, &self.spec);
        let resources = self.resources.as_ref();
        let result = status.result();
        JobView {
            id: self.id,
            userid: status.userid,
            urgency: status.urgency,
            priority: status.priority,
            t_submit: status.t_submit,
            t_depend: status.t_depend,
            t_priority: status.t_priority,
            t_sched: status.t_sched,
            t_run: status.t_run,
            t_cleanup: status.t_cleanup,
            t_inactive: status.t_inactive,
            state: status.state,
            name: spec.name.as_deref(),
            cwd: spec.cwd.as_deref(),
            queue: spec.queue.as_deref(),
            project: spec.project.as_deref(),
            bank: spec.bank.as_deref(),
            ntasks: resources.and_then(|r| r.ntasks).or(spec.ntasks),
            ncores: resources.map(|r| r.ncores).or(spec.ncores),
            duration: spec.duration,
            nnodes: resources.map(|r| r.nnodes).or(spec.nnodes),
            ranks: resources.map(|r| &*r.ranks),
            nodelist: resources.map(|r| &*r.nodelist),
            result,
            exception: status.exception.as_ref().map(|exception| ExceptionView {
                kind: &exception.kind,
                severity: exception.severity,
                note: &exception.note,
            }),
            // An update may come before the R that it updates.
            expiration: resources.and_then(|r| status.expiration.or(r.expiration)),
            annotations: (!status.annotations.is_empty())
                .then_some(Json::Object(&status.annotations)),
            waitstatus: status.finish_status,
            dependencies: (!status.dependencies.is_empty())
                .then_some(Json::Strings(&status.dependencies)),
            started: status.started,
            fatal: status.fatal_exception.is_some(),
        }
    }

    /// Whether it is listed: from DEPEND on.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.status.state != JobState::New
    }
}
