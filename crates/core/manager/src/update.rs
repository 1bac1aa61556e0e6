//! Changes of the jobspec after submission: duration, queue and name.

use std::collections::BTreeMap;

use flux_api::job::manager::Update;
use flux_api::sched::{ExpirationSet, Feasibility, FeasibilityRequest, JobExpiration};
use flux_api::{Call, RpcError};
use flux_model::job_event::JobState;
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, Value, json};

use crate::commits::After;
use crate::dependency::SINGLETON;
use crate::exception::may_touch;
use crate::job::Job;
use crate::service::{JobManager, Wait};
use crate::submit::system;

const DURATION: &str = "attributes.system.duration";
pub(crate) const QUEUE: &str = "attributes.system.queue";
const CONSTRAINTS: &str = "attributes.system.constraints";
const NAME: &str = "attributes.system.job.name";

/// Updates that wait for the scheduler.
#[derive(Debug, Default)]
pub struct Updates {
    waiting: BTreeMap<u64, (Call<Update>, Plan)>,
    next: u64,
}

/// What an update will do.
#[derive(Debug, Clone)]
struct Plan {
    updates: Map<String, Value>,
    jobspec: Value,
    feasibility: bool,
    /// New end of a running job, in seconds since the epoch; 0 for none.
    expiration: Option<f64>,
    immutable: bool,
}

/// Sets a dotted path in a jobspec; missing objects on the way are made.
pub(crate) fn set_path(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    let mut place = value;
    for part in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(map) => map.entry(part).or_insert(Value::Null),
            Value::Array(list) => part
                .parse::<usize>()
                .ok()
                .and_then(|at| list.get_mut(at))
                .ok_or_else(|| format!("jobspec update of {path}: no entry '{part}'"))?,
            _ => return Err(format!("jobspec update of {path}: '{part}' has no place")),
        };
    }
    *place = new;
    Ok(())
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

/// The constraint object that a queue's required properties make.
fn constraints_of(requires: &[String]) -> Option<Value> {
    (!requires.is_empty()).then(|| json!({ "properties": requires }))
}

impl JobManager {
    /// `job-manager.update`.
    pub(crate) fn update(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Update>) {
        match self.plan(cx, call.answer.cred(), &call.request.updates, call.request.id) {
            Ok(plan) => self.go_on(cx, call, plan),
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn plan(
        &self,
        cx: &Cx<'_, Wait>,
        cred: Cred,
        updates: &Map<String, Value>,
        id: u64,
    ) -> Result<Plan, RpcError> {
        let denied = |text: &str| Err(RpcError::new(Errno::EPERM, text));
        let userid = self.owner_of(id)?;
        if !may_touch(cred, userid) {
            return denied("guests may only update their own jobs");
        }
        let Some(job) = self.jobs.get(&id).filter(|_| !self.is_inactive(id)) else {
            return Err(invalid("job is inactive"));
        };
        let owner = cred.rolemask.contains(Rolemask::OWNER);
        if job.status.immutable && !owner {
            return denied("job is immutable due to previous instance owner update");
        }
        let known = |key: &str| {
            ["attributes", "resources", "tasks"]
                .iter()
                .any(|top| key == *top || key.starts_with(&format!("{top}.")))
        };
        if updates.is_empty() || !updates.keys().all(|key| known(key)) {
            return Err(invalid("one or more jobspec updates are invalid"));
        }
        self.commits.check()?;
        self.has_room(id, cred)?;
        let jobspec: Value = serde_json::from_str(&job.jobspec)
            .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?;
        let mut plan = Plan {
            updates: updates.clone(),
            jobspec,
            feasibility: false,
            expiration: None,
            immutable: false,
        };
        for (key, value) in updates {
            match key.as_str() {
                DURATION => self.plan_duration(cx, owner, id, value, &mut plan)?,
                QUEUE => {
                    self.plan_queue(id, value, &mut plan)?;
                    if !owner {
                        self.may_submit(cx, cred.userid, value.as_str())?;
                    }
                }
                NAME => self.check_name(id, value)?,
                other => return Err(invalid(format!("update of {other} not supported"))),
            }
        }
        for (key, value) in plan.updates.clone() {
            set_path(&mut plan.jobspec, &key, value).map_err(invalid)?;
        }
        let queue = system(&plan.jobspec, "queue").and_then(Value::as_str);
        let duration = system(&plan.jobspec, "duration").and_then(Value::as_f64).unwrap_or(0.0);
        let checked = self.settings.policy.check(&plan.jobspec, queue).and_then(|()| {
            // The end of a running job is the scheduler's to judge.
            if plan.expiration.is_some() {
                Ok(())
            } else {
                self.check_lifetime(cx.wall(), duration)
            }
        });
        if let Err(text) = checked {
            // The owner may exceed limits; the job's user then cannot change it further.
            if !owner {
                return Err(invalid(text));
            }
            plan.immutable = userid != cred.userid && !job.status.immutable;
        }
        Ok(plan)
    }

    fn plan_duration(
        &self,
        cx: &Cx<'_, Wait>,
        owner: bool,
        id: u64,
        value: &Value,
        plan: &mut Plan,
    ) -> Result<(), RpcError> {
        let Some(duration) = value.as_f64().filter(|duration| duration.is_finite()) else {
            return Err(invalid("duration must be a number"));
        };
        if duration < 0.0 {
            return Err(invalid("duration must not be negative"));
        }
        let Some(job) = self.jobs.get(&id) else { return Ok(()) };
        if job.state() != JobState::Run {
            return Ok(());
        }
        if !owner {
            let text = "duration update of running job requires instance owner privileges";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        let r: Value = job
            .r
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or(Value::Null);
        let starttime = r.get("execution").and_then(|e| e.get("starttime")?.as_f64());
        let starttime = starttime.filter(|t| *t > 0.0).or(job.status.t_run).unwrap_or(cx.wall());
        let expiration = if duration > 0.0 { starttime + duration } else { 0.0 };
        if duration > 0.0 && expiration <= cx.wall() {
            return Err(invalid("requested duration places job expiration in the past"));
        }
        plan.expiration = Some(expiration);
        Ok(())
    }

    fn check_name(&self, id: u64, value: &Value) -> Result<(), RpcError> {
        if value.as_str().is_none_or(str::is_empty) {
            return Err(invalid("job name must be a string that is not empty"));
        }
        let singleton = |job: &Job| job.status.dependencies.iter().any(|one| one == SINGLETON);
        if self.jobs.get(&id).is_some_and(singleton) {
            return Err(invalid("job waits for others of its name: it cannot be changed"));
        }
        Ok(())
    }

    fn plan_queue(&self, id: u64, value: &Value, plan: &mut Plan) -> Result<(), RpcError> {
        let Some(job) = self.jobs.get(&id) else { return Ok(()) };
        let Some(new) = value.as_str() else { return Err(invalid("queue must be a string")) };
        if matches!(job.state(), JobState::Run | JobState::Cleanup) {
            return Err(invalid("update of queue for running job not supported"));
        }
        match self.queues.is_enabled(new) {
            None => return Err(invalid(format!("'{new}' is not a valid queue"))),
            Some(false) => return Err(invalid(format!("queue {new} is currently disabled"))),
            Some(true) => {}
        }
        if job.queue.as_deref() == Some(new) {
            return Err(invalid(format!("job queue is already set to {new}")));
        }
        let requires = |queue: &str| {
            let parent = self.settings.queues.get(queue).cloned().flatten();
            let queue = parent.as_deref().unwrap_or(queue);
            self.settings.requires.get(queue).and_then(|list| constraints_of(list))
        };
        let expected = job.queue.as_deref().and_then(requires);
        if system(&plan.jobspec, "constraints") != expected.as_ref() {
            let text = format!(
                "job appears to have non-queue constraints, unable to update queue to {new}"
            );
            return Err(invalid(text));
        }
        let constraints = requires(new);
        if constraints != expected {
            let value = constraints.unwrap_or_else(|| Value::Object(Map::new()));
            plan.updates.insert(CONSTRAINTS.to_string(), value);
        }
        plan.feasibility = true;
        Ok(())
    }

    /// The next step of an update: ask whoever must agree, then do it.
    fn go_on(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Update>, mut plan: Plan) {
        let id = call.request.id;
        let ticket = self.updates.next;
        if plan.feasibility {
            plan.feasibility = false;
            let request = FeasibilityRequest { jobspec: plan.jobspec.clone() };
            cx.call::<Feasibility>(To::Any, &request, Wait::Feasibility(ticket));
        } else if let Some(expiration) = plan.expiration {
            let request = JobExpiration { id, expiration };
            cx.call::<ExpirationSet>(To::Any, &request, Wait::Expiration(ticket));
        } else {
            return self.apply_update(cx, call, &plan);
        }
        self.updates.next += 1;
        self.updates.waiting.insert(ticket, (call, plan));
    }

    /// The feasibility service or the scheduler has answered.
    pub(crate) fn update_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: &Wait, reply: &Reply) {
        let (Wait::Feasibility(ticket) | Wait::Expiration(ticket)) = wait else { return };
        let Some((call, plan)) = self.updates.waiting.remove(ticket) else { return };
        let refusal = reply.error().filter(|error| error.errno != Errno::ENOSYS);
        match (wait, refusal) {
            (Wait::Feasibility(_), None) => self.go_on(cx, call, plan),
            (_, None) => self.apply_update(cx, call, &plan),
            (Wait::Feasibility(_), Some(error)) => call.answer.err(cx, error.clone()),
            (_, Some(error)) => {
                cx.log(Level::Debug, format!("sched.expiration: {error}"));
                let text = "scheduler refused expiration update";
                call.answer.err(cx, RpcError::new(error.errno, text));
            }
        }
    }

    fn apply_update(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Update>, plan: &Plan) {
        let id = call.request.id;
        let running = plan.expiration.is_some();
        let name = plan.updates.get(NAME).and_then(Value::as_str);
        let renamed = name.is_some() && plan.updates.len() == 1;
        let usable = self.jobs.get(&id).is_some_and(|job| match job.state() {
            JobState::Depend | JobState::Priority | JobState::Sched => !running,
            JobState::Run => running || renamed,
            _ => false,
        });
        if !usable {
            return call.answer.err(cx, invalid("job state changed during the update"));
        }
        if let Err(error) = self.commits.check() {
            return call.answer.err(cx, error);
        }
        if plan.immutable {
            self.post(cx, id, "set-flags", json!({ "flags": ["immutable"] }));
        }
        // The scheduler must not go on with what it was asked for before.
        self.withdraw_alloc(cx, id);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.jobspec = plan.jobspec.to_string().into();
            job.queue = system(&plan.jobspec, "queue")
                .and_then(Value::as_str)
                .filter(|_| self.queues.is_named())
                .map(Into::into);
        }
        self.post(cx, id, "jobspec-update", Value::Object(plan.updates.clone()));
        if let Some(name) = name {
            self.rename(id, name);
        }
        if let Some(expiration) = plan.expiration {
            self.expire_at(cx, id, expiration);
        }
        self.commits.after(After::Update(call.answer));
    }

    /// Moves the end of a running job.
    pub(crate) fn expire_at(&mut self, cx: &mut Cx<'_, Wait>, id: u64, expiration: f64) {
        self.post(cx, id, "resource-update", json!({ "expiration": expiration }));
        if let Some(job) = self.jobs.get_mut(&id)
            && let Some(mut r) =
                job.r.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok())
        {
            if let Some(execution) = r.get_mut("execution").and_then(Value::as_object_mut) {
                execution.insert("expiration".into(), expiration.into());
            }
            job.r = Some(r.to_string().into());
        }
        if let Some(service) = self.exec.service() {
            let topic = format!("{service}.expiration");
            let body = JobExpiration { id, expiration };
            let message = Message::request(topic).with_json(&body);
            cx.request(To::Any, message, Wait::ExecExpiration(id));
        }
    }

    /// The service goes down.
    pub(crate) fn updates_end(&mut self, cx: &mut Cx<'_, Wait>) {
        for (call, _) in std::mem::take(&mut self.updates.waiting).into_values() {
            call.answer.err(cx, RpcError::new(Errno::ENOSYS, "job-manager is unloading"));
        }
    }
}
